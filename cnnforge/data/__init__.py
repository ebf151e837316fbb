"""Datasets: references, splits, class names, and the decoding of images.

Nothing here imports Keras or a framework behind it; what a dataset returns is NumPy.
"""

from cnnforge.data.arrays import dataset_from_arrays as dataset_from_arrays
from cnnforge.data.arrays import unlabelled_from_arrays as unlabelled_from_arrays
from cnnforge.data.augmentation import Augment as Augment
from cnnforge.data.augmentation import AugmentedSamples as AugmentedSamples
from cnnforge.data.augmentation import Draws as Draws
from cnnforge.data.dataset import ArraySamples as ArraySamples
from cnnforge.data.dataset import DataOptions as DataOptions
from cnnforge.data.dataset import Dataset as Dataset
from cnnforge.data.dataset import EpochSamples as EpochSamples
from cnnforge.data.dataset import Samples as Samples
from cnnforge.data.dataset import SkippedFile as SkippedFile
from cnnforge.data.dataset import samples_of_epoch as samples_of_epoch
from cnnforge.data.digests import Split as Split
from cnnforge.data.digests import duplicates_note as duplicates_note
from cnnforge.data.digests import fingerprint as fingerprint
from cnnforge.data.files import ImageFiles as ImageFiles
from cnnforge.data.files import check_files as check_files
from cnnforge.data.folder import Found as Found
from cnnforge.data.folder import find_classes as find_classes
from cnnforge.data.folder import find_images as find_images
from cnnforge.data.folder import find_splits as find_splits
from cnnforge.data.images import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from cnnforge.data.images import CheckedImage as CheckedImage
from cnnforge.data.images import ImageInfo as ImageInfo
from cnnforge.data.images import UnreadableImage as UnreadableImage
from cnnforge.data.images import check_image as check_image
from cnnforge.data.images import describe_image as describe_image
from cnnforge.data.images import fit as fit
from cnnforge.data.images import printable as printable
from cnnforge.data.images import read_image as read_image
from cnnforge.data.references import open_dataset as open_dataset
from cnnforge.data.references import parse as parse
from cnnforge.data.split import lonely_classes_note as lonely_classes_note
from cnnforge.data.split import stratified_split as stratified_split
from cnnforge.data.transforms import compose as compose
from cnnforge.data.transforms import transform_points as transform_points
from cnnforge.data.transforms import translations as translations

"""Open datasets, decode images, split samples into training and validation, and augment images.

Images and labels are NumPy arrays. This package imports neither Keras nor the framework behind it.
"""

from cnnforge.data.arrays import dataset_from_arrays, unlabelled_from_arrays
from cnnforge.data.augmentation.draws import Draws
from cnnforge.data.augmentation.kinds import Augment, Augmentation, Composing, Mixing
from cnnforge.data.augmentation.samples import AugmentedSamples, TargetFunctions
from cnnforge.data.boxes.annotations import AnnotatedPicture, Box, DetectionSource
from cnnforge.data.boxes.dataset import dataset_from_box_arrays, dataset_from_boxes
from cnnforge.data.boxes.samples import DetectionArrays, DetectionFiles, Objects
from cnnforge.data.cache import CachedSamples, cached
from cnnforge.data.dataset import (
    ArraySamples,
    BoxFinding,
    DataOptions,
    Dataset,
    EncodedSamples,
    EpochSamples,
    Inspection,
    Samples,
    SkippedFile,
    samples_of_epoch,
)
from cnnforge.data.digests import Split, duplicates_note, fingerprint
from cnnforge.data.duplicates import SomeSamples, drop_duplicates, equal_items
from cnnforge.data.files import ImageFiles, check_files
from cnnforge.data.findings import (
    class_name_notes,
    count_note,
    left_out_notes,
    loose_form,
    other_files,
    quoted,
    skipped_summary,
)
from cnnforge.data.folder import (
    ImageListing,
    Role,
    find_classes,
    find_images,
    find_run_folders,
    find_splits,
    only_subfolder,
    split_role,
    subfolders,
)
from cnnforge.data.formats import IMAGE_SUFFIXES
from cnnforge.data.images import (
    CheckedImage,
    ImageInfo,
    UnreadableImage,
    check_image,
    describe_image,
    fit,
    read_image,
)
from cnnforge.data.picture_dataset import (
    Picture,
    PictureFile,
    check_pictures,
    dataset_from_files,
    file_ids,
)
from cnnforge.data.placement import Placement, Placing, letterbox
from cnnforge.data.references import open_dataset, parse
from cnnforge.data.sizes import choose_size
from cnnforge.data.split import Parts, choose_parts, singleton_classes_note, stratified_split
from cnnforge.data.stored import (
    ImageSource,
    PicturePart,
    PictureParts,
    StoredImage,
    reader_of,
    source_path,
    stored_content,
)
from cnnforge.data.summary import DataSummary, count_causes, summarize
from cnnforge.data.transforms import compose, transform_points, translations
from cnnforge.utils.names import normal_name, printable

__all__ = [
    "IMAGE_SUFFIXES",
    "AnnotatedPicture",
    "ArraySamples",
    "Augment",
    "Augmentation",
    "AugmentedSamples",
    "Box",
    "BoxFinding",
    "CachedSamples",
    "CheckedImage",
    "Composing",
    "DataOptions",
    "DataSummary",
    "Dataset",
    "DetectionArrays",
    "DetectionFiles",
    "DetectionSource",
    "Draws",
    "EncodedSamples",
    "EpochSamples",
    "ImageFiles",
    "ImageInfo",
    "ImageListing",
    "ImageSource",
    "Inspection",
    "Mixing",
    "Objects",
    "Parts",
    "Picture",
    "PictureFile",
    "PicturePart",
    "PictureParts",
    "Placement",
    "Placing",
    "Role",
    "Samples",
    "SkippedFile",
    "SomeSamples",
    "Split",
    "StoredImage",
    "TargetFunctions",
    "UnreadableImage",
    "cached",
    "check_files",
    "check_image",
    "check_pictures",
    "choose_parts",
    "choose_size",
    "class_name_notes",
    "compose",
    "count_causes",
    "count_note",
    "dataset_from_arrays",
    "dataset_from_box_arrays",
    "dataset_from_boxes",
    "dataset_from_files",
    "describe_image",
    "drop_duplicates",
    "duplicates_note",
    "equal_items",
    "file_ids",
    "find_classes",
    "find_images",
    "find_run_folders",
    "find_splits",
    "fingerprint",
    "fit",
    "left_out_notes",
    "letterbox",
    "loose_form",
    "normal_name",
    "only_subfolder",
    "open_dataset",
    "other_files",
    "parse",
    "printable",
    "quoted",
    "read_image",
    "reader_of",
    "samples_of_epoch",
    "singleton_classes_note",
    "skipped_summary",
    "source_path",
    "split_role",
    "stored_content",
    "stratified_split",
    "subfolders",
    "summarize",
    "transform_points",
    "translations",
    "unlabelled_from_arrays",
]

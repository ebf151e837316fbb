"""The detection task: boxes of objects, focal loss and GIoU, COCO's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from cnnforge.data import Dataset, Placing, Samples, normal_name
from cnnforge.errors import DataError, RunError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.detection import rows as tables
from cnnforge.tasks.detection.checks import check_samples, matched_labels
from cnnforge.tasks.detection.decoding import decode
from cnnforge.tasks.detection.export_form import BoxExportForm
from cnnforge.tasks.detection.losses import level_losses, total
from cnnforge.tasks.detection.metrics import (
    BOX_LOSS,
    CONFIDENCE,
    HEAT_LOSS,
    MAP,
    MAP50,
    DetectionEvaluation,
    DetectionEvaluator,
    to_original,
)
from cnnforge.tasks.detection.objects import composed, moved, objects_of
from cnnforge.tasks.detection.output import DetectionOutput
from cnnforge.tasks.detection.page import detection_sections
from cnnforge.tasks.detection.rows import DetectedObject, Detections
from cnnforge.tasks.detection.targets import Level, levels_of, target_maps
from cnnforge.tasks.metric import LOSS, Evaluation
from cnnforge.tasks.reports import TaskSections
from cnnforge.tasks.rows import Row, Source
from cnnforge.tasks.task import Task
from cnnforge.utils.structured_text import MALFORMED, read_json
from cnnforge.utils.structures import flatten

if TYPE_CHECKING:
    # A prediction with a plan imports this module, and does not need Keras.
    import keras

SETTINGS = "detection.json"
"""The file in a run with the classes, the image size and the thresholds."""

BOXES = "boxes.keras"
"""The file in a run with a model that computes boxes from pixels."""

OVERLAP = 0.5
MAX_DETECTIONS = 100


class Detection(Task):
    """Detection of objects of C classes: their boxes, classes and confidences.

    The samples have the attributes `boxes`, a list of (k, 4) float64 arrays `x1 y1 x2 y2` in pixels
    of the original images; `labels`, a list of (k,) int32 arrays of indices into the classes of the
    dataset; `crowd`, a list of (k,) bool arrays; and `sizes`, (N, 2) int64, height and width of the
    original images. Images are letterboxed.

    The model returns one map (n, h, w, C + 4), or a list of maps by increasing stride. A cell has C
    logits, and the logarithms of the distances to the left, top, right and bottom of the box, in
    cells. `cnnforge.tasks.detection.targets` has the design.

    The targets of images are their objects as padded arrays, so that augmentations can move them;
    `read` makes maps of them.

    Args:
        classes: The C class names, at least one, all different.
        image_size: Height and width of the model's images.
        confidence: Min confidence of a predicted object; `None` if none was chosen yet.
        overlap: Min overlap (IoU) with which a box of the same class is removed.
        max_detections: Max number of predicted objects per image.
    """

    metrics = (LOSS, HEAT_LOSS, BOX_LOSS, MAP50, MAP)
    monitor = MAP.name
    columns = ("objects",)
    placing: ClassVar[Placing] = "letterbox"

    def __init__(
        self,
        classes: Sequence[str],
        image_size: tuple[int, int],
        *,
        confidence: float | None = None,
        overlap: float = OVERLAP,
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        self.classes = tuple(classes)
        self.box_output = DetectionOutput(self.classes)
        self.image_size = image_size
        self.confidence, self.overlap = confidence, overlap
        self.max_detections = max_detections
        # `check_model` replaces them.
        self._levels: tuple[Level, ...] = ()

    @classmethod
    def for_dataset(cls, dataset: Dataset, options: Mapping[str, Any]) -> Self:
        """Make the task for training on a dataset.

        Raises:
            DataError: A class name occurs twice, the samples have no valid boxes, or the training
                or the validation images have no objects.
        """
        classes = dataset.classes
        if not classes or len(set(classes)) < len(classes):
            raise DataError(
                f"dataset {dataset.name!r} has the classes {classes}: at least one, and different "
                "ones are needed"
            )
        parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        for part, samples in parts.items():
            if samples is not None and len(samples):
                objects = check_samples(samples, f"{part} of {dataset.name}", len(classes))
                if not objects and part != "test":
                    raise DataError(
                        f"no image in {part} of {dataset.name} has an object: use other data, or "
                        "another split with --split-seed"
                    )
        height, width, _ = dataset.image_shape
        return cls(classes, (height, width))

    @classmethod
    def for_run(cls, run: RunDirectory) -> Self:
        """Read the classes and the thresholds of a run.

        Raises:
            RunError: The file cannot be read, or is damaged.
        """
        path = run.path / SETTINGS
        try:
            stored = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        try:
            height, width = map(int, stored["image_size"])
            confidence = stored["confidence"]
            return cls(
                [normal_name(str(name)) for name in stored["classes"]],
                (height, width),
                confidence=None if confidence is None else float(confidence),
                overlap=float(stored["overlap"]),
                max_detections=int(stored["max_detections"]),
            )
        except MALFORMED as error:
            raise RunError(
                f"{path} is damaged: expected classes, image_size, confidence, overlap and "
                "max_detections"
            ) from error

    @classmethod
    def example(cls) -> Self:
        """Make a task with three classes."""
        return cls([f"class {number}" for number in range(3)], (64, 64))

    def write(self, run: RunDirectory) -> None:
        """Write `detection.json`: the classes, the image size and the thresholds."""
        run.write_json(
            SETTINGS,
            {
                "classes": list(self.classes),
                "image_size": list(self.image_size),
                "confidence": self.confidence,
                "overlap": self.overlap,
                "max_detections": self.max_detections,
            },
        )

    @property
    def output_size(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def check_model(self, model: keras.Model) -> None:
        """Check that a model returns maps, and keep their strides and the size of its images.

        Raises:
            ValueError: The structure or a shape is wrong.
        """
        _, height, width, _ = model.input_shape
        shapes = (
            model.output_shape if isinstance(model.output_shape, list) else [model.output_shape]
        )
        channels = len(self.classes) + 4
        if not all(isinstance(shape, tuple) and shape[-1] == channels for shape in shapes):
            raise ValueError(
                f"outputs of shape {model.output_shape}, but there are {len(self.classes)} "
                f"classes: expected a map (None, h, w, {channels}), or a list of them"
            )
        self._levels = levels_of(shapes, (height, width))
        self.image_size = height, width

    def check_outputs(self, outputs: Any) -> None:
        """Check that outputs are finite.

        Raises:
            ValueError: A value is not finite.
        """
        if not all(np.isfinite(each).all() for each in flatten(outputs)):
            raise ValueError("outputs that are not finite")

    # Methods for training.

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the objects in images, see `cnnforge.tasks.detection.objects`.

        The second axis differs between calls; `read` makes maps of a fixed shape.
        """
        return objects_of(samples, indices, self.image_size)

    def transformed(
        self, targets: Mapping[str, np.ndarray], transforms: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Move boxes with their images, and clip them.

        An object is dropped if less than a quarter of it is visible, or if a side of its box
        becomes shorter than one pixel.
        """
        return moved(targets, transforms, self.image_size)

    def composed(
        self, parts: Sequence[Mapping[str, np.ndarray]], regions: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Put the objects in the parts of images together. They are dropped as by `transformed`."""
        return composed(parts, regions)

    def read(
        self, samples: Samples, indices: np.ndarray
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Read images, and the target map of each stride, (n, h, w, C + 5) float32."""
        images, objects = super().read(samples, indices)
        return images, target_maps(objects, self._known_levels, len(self.classes))

    @property
    def _known_levels(self) -> tuple[Level, ...]:
        if not self._levels:
            raise RuntimeError("call check_model() first: it tells the strides of the maps")
        return self._levels

    def losses(self, targets: Mapping[str, Any], outputs: Any) -> Any:
        """Return the focal loss plus the weighted GIoU loss of each image, (n,) float32."""
        heat, boxes = self._losses(targets, outputs)
        return heat + boxes

    def sums(self, targets: Mapping[str, Any], outputs: Any) -> Mapping[str, Any]:
        """Return the sums of the two parts of the loss over a batch."""
        from keras import ops

        heat, boxes = self._losses(targets, outputs)
        return {HEAT_LOSS.name: ops.sum(heat), BOX_LOSS.name: ops.sum(boxes)}

    def _losses(self, targets: Mapping[str, Any], outputs: Any) -> tuple[Any, Any]:
        from keras import ops

        pairs = zip(self._known_levels, flatten(outputs), strict=True)
        return total(
            ops,
            [
                level_losses(ops, targets[level.name], output, len(self.classes))
                for level, output in pairs
            ],
        )

    # Methods for evaluation.

    def evaluator(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray
    ) -> DetectionEvaluator:
        """Make an evaluator for samples with boxes.

        The classes of the dataset are matched with those of the model by name.

        Raises:
            UsageError: No sample has an object, or one has an object of a class that the model was
                not trained on.
        """
        labels = matched_labels(dataset, samples, indices, self.classes)
        return DetectionEvaluator(
            dataset,
            samples,
            indices,
            classes=self.classes,
            labels=labels,
            image_size=self.image_size,
            overlap=self.overlap,
            confidence=self.confidence,
        )

    def calibrate(self, evaluation: Evaluation) -> bool:
        """Choose the confidence with the highest F1 on the validation images."""
        self.confidence = cast("DetectionEvaluation", evaluation).threshold
        return True

    def report(self, run: RunDirectory, evaluation: Evaluation) -> None:
        """Write tables and figures of the detections."""
        from cnnforge.tasks.detection.report import write_report

        write_report(run, cast("DetectionEvaluation", evaluation))

    def sections(self, run: RunDirectory, thumbnails: Mapping[int, str]) -> TaskSections:
        """Make the sections about objects: pictures, COCO's numbers, classes, curves, errors."""
        return detection_sections(run)

    def export(self, run: RunDirectory, model: keras.Model) -> None:
        """Write `boxes.keras`, which computes boxes from pixels with the thresholds of the run."""
        with run.writing(BOXES) as path:
            self.export_form.model(model).save(path)

    @property
    def export_form(self) -> BoxExportForm:
        """The model with the decoding of its maps to boxes, with the thresholds of the run."""
        return BoxExportForm(self.classes, self.image_size, self.prediction_options)

    def table(self, evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
        """Return the headings and rows of a table with the numbers of every class."""
        from cnnforge.tasks.detection.report import class_table

        return class_table(cast("DetectionEvaluation", evaluation))

    # Methods for prediction.

    @property
    def prediction_options(self) -> Mapping[str, int | float]:
        """The min confidence, the min overlap, and the max number of objects."""
        return {
            "confidence": CONFIDENCE if self.confidence is None else self.confidence,
            "overlap": self.overlap,
            "max_detections": self.max_detections,
        }

    def truth(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray
    ) -> Sequence[tuple[DetectedObject, ...]] | None:
        """Return the true objects; `None` if the dataset has no boxes."""
        if not dataset.labelled or not hasattr(samples, "boxes"):
            return None
        part: Any = samples
        return [
            tuple(
                DetectedObject(dataset.classes[label], 1.0, tuple(map(float, box)))  # pyright: ignore
                for label, box in zip(part.labels[index], part.boxes[index], strict=True)
            )
            for index in indices
        ]

    def rows(
        self,
        outputs: Any,
        sources: Sequence[Source],
        truth: Sequence[Any] | None,
        options: Mapping[str, Any],
    ) -> Sequence[Detections]:
        """Return the objects in each image, with boxes in pixels of the original image."""
        found = decode(
            flatten(outputs),
            self.image_size,
            confidence=options["confidence"],
            overlap=options["overlap"],
            max_detections=options["max_detections"],
        )
        rows = []
        for number, (source, each) in enumerate(zip(sources, found, strict=True)):
            own = to_original(each, source.size, self.image_size)
            objects = tuple(
                DetectedObject(self.classes[label], float(score), tuple(map(float, box)))  # pyright: ignore
                for box, label, score in zip(*own, strict=True)
            )
            true = None if truth is None else truth[number]
            rows.append(Detections(source.name, source.size, objects, true))
        return rows

    def unread_row(self, name: str, reason: str) -> Detections:
        """Return the row of an image that could not be read."""
        return Detections(name, error=reason)

    def csv_table(self, rows: Sequence[Row]) -> str:
        """Convert rows to CSV, with a line for each object and for each image without objects."""
        return "".join(self.csv_parts(rows))

    def csv_parts(self, rows: Sequence[Row]) -> Iterator[str]:
        """Convert rows to CSV in parts: the text of all is that of `csv_table`."""
        return tables.csv_table_parts(cast("Sequence[Detections]", rows))

    def summary(self, rows: Sequence[Row]) -> str:
        """Return a text with the number of objects in all images."""
        return tables.summary(cast("Sequence[Detections]", rows))

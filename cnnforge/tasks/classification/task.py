"""The classification task: labels, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from cnnforge.data import Dataset, Samples, normal_name
from cnnforge.errors import DataError, RunError, UsageError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    MACRO_F1,
    ClassEvaluation,
    ClassEvaluator,
)
from cnnforge.tasks.classification.page import PredictedRow, class_sections, notable_rows
from cnnforge.tasks.classification.report import (
    COLUMNS,
    Prediction,
    class_table,
    rank,
    submission,
)
from cnnforge.tasks.confusion import write_confusion_matrix
from cnnforge.tasks.export_form import ClassExportForm
from cnnforge.tasks.metric import LOSS, Evaluation
from cnnforge.tasks.reports import TaskSections
from cnnforge.tasks.rows import Row, Source
from cnnforge.tasks.task import Task
from cnnforge.utils.structured_text import read_json

if TYPE_CHECKING:
    # A prediction with a plan imports this module, and does not need Keras.
    import keras

CLASSES = "classes.json"

# Max number of classes that a message names.
_MAX_NAMED = 5


class Classification(Task):
    """Classification of images into C classes.

    The samples have an attribute `labels`, (N,) int32: indices into the classes of the dataset. The
    model returns (N, C) probabilities. The loss is the cross-entropy in nats. Label smoothing and
    class weights change only the training loss, not the validation loss.

    The target of an image is its label, (n,) int32 named `label`. If an augmentation mixes images,
    it is the share of each class, (n, C) float32 named `shares`, and the loss of a mixed image is
    the mean of the losses of its classes, weighted by their shares. A mixed image counts as
    correctly classified if the model predicts the class with the largest share.

    Args:
        classes: The C class names, at least two, all different.
        label_smoothing: Label smoothing factor, from 0 to below 1 (C. Szegedy et al., "Rethinking
            the Inception architecture for computer vision", 2016, section 7).
        class_weights: (C,) float32. The loss of a sample is multiplied by the weight of its class.
            `None`: all weights are 1.
    """

    options = ("label_smoothing", "class_weights")
    metrics = (LOSS, ACCURACY, BALANCED_ACCURACY, MACRO_F1)
    monitor = ACCURACY.name
    columns = COLUMNS

    def __init__(
        self,
        classes: Sequence[str],
        *,
        label_smoothing: float = 0.0,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self._smoothing, self._weights = label_smoothing, class_weights

    @classmethod
    def for_dataset(cls, dataset: Dataset, options: Mapping[str, Any]) -> Self:
        """Make the task for training on a dataset.

        Raises:
            DataError: The dataset has fewer than two classes, a class name occurs twice, or a label
                is not an index into the classes.
        """
        classes = dataset.classes
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise DataError(
                f"dataset {dataset.name!r} has the classes {classes}: at least two different ones "
                "are needed"
            )
        parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        for split, samples in parts.items():
            if samples is None:
                continue
            labels = _labels(samples)
            if labels.shape != (len(samples),):
                raise DataError(
                    f"{split} of dataset {dataset.name!r} has {len(samples)} samples and labels "
                    f"of the shape {labels.shape}: expected one label for each sample"
                )
            if labels.min() < 0 or labels.max() >= len(classes):
                raise DataError(
                    f"{split} of dataset {dataset.name!r} has labels {labels.min()}.."
                    f"{labels.max()}: expected 0..{len(classes) - 1}"
                )
        weights = None
        if options.get("class_weights") == "balanced":
            weights = balanced_weights(_labels(dataset.train), len(classes))
        smoothing = float(options.get("label_smoothing", 0.0))
        return cls(classes, label_smoothing=smoothing, class_weights=weights)

    @classmethod
    def for_run(cls, run: RunDirectory) -> Self:
        """Read the classes of a run.

        Raises:
            RunError: The file cannot be read, or is not a list of names.
        """
        path = run.path / CLASSES
        try:
            classes = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise RunError(f"{path} is damaged: it is not a list of class names")
        # A run of cnnforge 0.1 may have names in another form.
        return cls(list(map(normal_name, classes)))

    @classmethod
    def example(cls) -> Self:
        """Make a task with ten classes."""
        return cls([f"class {number}" for number in range(10)])

    def write(self, run: RunDirectory) -> None:
        """Write `classes.json`, the list of the class names."""
        run.write_json(CLASSES, list(self.classes))

    @property
    def output_size(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def check_model(self, model: keras.Model) -> None:
        """Check that a model returns one number per class.

        Raises:
            ValueError: The output shape is not (None, C).
        """
        if model.output_shape != (None, len(self.classes)):
            raise ValueError(
                f"outputs of shape {model.output_shape}, but there are {len(self.classes)} class "
                f"names: expected (None, {len(self.classes)})"
            )

    def check_outputs(self, outputs: Any) -> None:
        """Check that outputs are probabilities.

        Raises:
            ValueError: A value is negative or not finite, or the values of an image do not add up
                to 1.
        """
        if not np.isfinite(outputs).all() or (outputs < 0).any():
            raise ValueError("the outputs are not probabilities: end the model in a softmax")
        if np.abs(outputs.sum(-1) - 1).max() > 1e-3:
            raise ValueError(
                f"the outputs of an image add up to {outputs.sum(-1)[0]:.4g}, expected 1: end the "
                "model in a softmax over the classes"
            )

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the labels of samples: (n,) int32."""
        return {"label": _labels(samples)[indices]}

    def mixed(
        self,
        targets: Mapping[str, np.ndarray],
        partners: Mapping[str, np.ndarray],
        weights: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        """Return the shares of the classes in mixed images: (n, C) float32 named `shares`."""
        own, other = self._shares(targets), self._shares(partners)
        weights = weights[:, np.newaxis]
        return {"shares": weights * own + (1 - weights) * other}

    def _shares(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        if "shares" in targets:
            return targets["shares"]
        return np.eye(len(self.classes), dtype=np.float32)[targets["label"]]

    def losses(self, targets: Mapping[str, Any], outputs: Any) -> Any:
        """Return the cross-entropy of each sample, (n,) float32.

        Label smoothing and class weights are applied.
        """
        import keras

        ops, weights = keras.ops, self._weights
        if "shares" in targets:
            shares = targets["shares"]
            if weights is not None:
                shares = shares * ops.convert_to_tensor(weights)
            # The sum is 1 without class weights. With them, it is the weight of the image.
            total = ops.sum(shares, axis=-1, keepdims=True)
            smoothed = (1 - self._smoothing) * shares
            smoothed += self._smoothing / len(self.classes) * total
            return keras.losses.categorical_crossentropy(smoothed, outputs)
        labels = targets["label"]
        if self._smoothing:
            losses = keras.losses.categorical_crossentropy(
                ops.one_hot(labels, len(self.classes)), outputs, label_smoothing=self._smoothing
            )
        else:
            losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        if weights is None:
            return losses
        return losses * ops.take(ops.convert_to_tensor(weights), labels)

    def sums(self, targets: Mapping[str, Any], outputs: Any) -> Mapping[str, Any]:
        """Return the number of samples in a batch that are classified correctly."""
        from keras import ops

        labels = ops.argmax(targets["shares"], axis=-1) if "shares" in targets else targets["label"]
        right = ops.equal(ops.argmax(outputs, axis=-1), ops.cast(labels, "int32"))
        return {"correct": ops.sum(ops.cast(right, "int32"))}

    def evaluator(self, dataset: Dataset, samples: Samples, indices: np.ndarray) -> ClassEvaluator:
        """Make an evaluator for labelled samples.

        The classes of the dataset are matched with those of the model by name, since their order
        may differ.

        Raises:
            UsageError: A sample belongs to a class that the model was not trained on.
        """
        labels = _labels(samples)[indices]
        if dataset.classes != self.classes:
            known = {name: index for index, name in enumerate(self.classes)}
            for number in np.unique(labels):
                if dataset.classes[number] not in known:
                    more = len(self.classes) - _MAX_NAMED
                    raise UsageError(
                        f"{dataset.name} has the class {dataset.classes[number]!r}, which the "
                        f"model does not know; it knows {', '.join(self.classes[:_MAX_NAMED])}"
                        f"{f' and {more} more' if more > 0 else ''}; 'cnnforge predict' needs no "
                        "labels"
                    )
            labels = np.array([known.get(name, -1) for name in dataset.classes], np.int32)[labels]
        return ClassEvaluator(labels, self.classes)

    def report(self, run: RunDirectory, evaluation: Evaluation) -> None:
        """Write the confusion matrix as a table and as a figure."""
        found = cast("ClassEvaluation", evaluation)
        title = f"validation accuracy {found.accuracy:.1%}"
        write_confusion_matrix(run, found.classes, found.confusion, title)

    def notable(self, rows: Sequence[Row]) -> Sequence[int]:
        """Choose wrong and unsure predictions, and some of each cell of the confusion matrix."""
        return notable_rows(
            [
                PredictedRow.of(index, row)
                for index, row in enumerate(cast("Sequence[Prediction]", rows))
                if row.true_label is not None and row.top
            ]
        )

    def sections(self, run: RunDirectory, thumbnails: Mapping[int, str]) -> TaskSections:
        """Make the sections about classes: confusion matrix, classes, pictures, calibration."""
        return class_sections(run, thumbnails)

    def table(self, evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
        """Return the headings and rows of a table with precision, recall and F1 of every class."""
        return class_table(cast("ClassEvaluation", evaluation))

    def confusion(self, evaluation: Evaluation) -> tuple[Sequence[str], np.ndarray]:
        """Return the class names and the confusion matrix."""
        found = cast("ClassEvaluation", evaluation)
        return found.classes, found.confusion

    def truth(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray
    ) -> Sequence[str] | None:
        """Return the names of the true classes; `None` if the dataset has no labels."""
        if not dataset.labelled:
            return None
        return [dataset.classes[label] for label in _labels(samples)[indices]]

    @property
    def prediction_options(self) -> Mapping[str, int | float]:
        """`top_k`, the max number of classes per row."""
        return {"top_k": 3}

    def rows(
        self,
        outputs: Any,
        sources: Sequence[Source],
        truth: Sequence[Any] | None,
        options: Mapping[str, Any],
    ) -> Sequence[Prediction]:
        """Return the most probable classes of each sample, with their probabilities."""
        ranked = rank(outputs, self.classes, options["top_k"])
        labels = [None] * len(sources) if truth is None else truth
        return [
            Prediction(source.name, top, label)
            for source, top, label in zip(sources, ranked, labels, strict=True)
        ]

    def unread_row(self, name: str, reason: str) -> Prediction:
        """Return the row of an image that could not be read."""
        return Prediction(name, error=reason)

    def summary(self, rows: Sequence[Row]) -> str:
        """Return a text with the number of labelled samples that are classified correctly."""
        known = [row for row in cast("Sequence[Prediction]", rows) if row.true_label is not None]
        if not known:
            return ""
        right = sum(row.label == row.true_label for row in known)
        return f"{right} of {len(known)} correct"

    @property
    def export_form(self) -> ClassExportForm:
        """The model with its probabilities."""
        return ClassExportForm(self.classes)

    def submission(self, rows: Sequence[Row], ids: Sequence[str], id_name: str) -> str:
        """Convert rows to a submission file of a competition: the id and the class of each row."""
        return submission(cast("Sequence[Prediction]", rows), ids, id_name)


def balanced_weights(labels: np.ndarray, count: int) -> np.ndarray:
    """Return class weights that give every class the same share of the loss.

    Args:
        labels: (N,) int, labels of the training samples.
        count: Number of classes C.

    Returns:
        (C,) float32: N / (K * number of samples of the class), if K classes have samples; 0 for a
        class without samples. The mean weight of all samples is 1.
    """
    counts = np.bincount(labels, minlength=count)
    present = np.count_nonzero(counts)
    weights = np.divide(len(labels), present * counts, out=np.zeros(count), where=counts > 0)
    return weights.astype(np.float32)


def _labels(samples: Samples) -> np.ndarray:
    labels = getattr(samples, "labels", None)
    if labels is None:
        raise DataError(
            f"samples of the type {type(samples).__name__} have no labels: a dataset for "
            "classification needs labels, (N,) int32"
        )
    return np.asarray(labels, np.int32)

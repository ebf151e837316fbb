"""The task of a classification: labels, cross-entropy, accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import keras
import numpy as np

from cnnforge.data import Dataset, Samples
from cnnforge.errors import DataError, RunError, UsageError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    MACRO_F1,
    ClassEvaluation,
    ClassEvaluator,
)
from cnnforge.tasks.classification.report import (
    Prediction,
    class_table,
    rank,
    submission,
    write_confusion_matrix,
)
from cnnforge.tasks.metric import LOSS, Evaluation
from cnnforge.tasks.rows import Row
from cnnforge.tasks.task import Task

CLASSES = "classes.json"


class Classification(Task):
    """Tells the class of an image.

    The samples have `labels`, (N,) int32, indices into the classes of their dataset; the model
    gives (N, C) probabilities. The loss is the cross-entropy, in nats. What is measured on the
    validation samples is the plain cross-entropy: without smoothing, without weights.

    Args:
        classes: The C names, at least two, all different.
        label_smoothing: Share of the probability that a target gives to all classes alike, 0 to
            1, 1 excluded (C. Szegedy et al., "Rethinking the Inception architecture for computer
            vision", 2016, section 7).
        class_weights: (C,) float32, factors of the losses of the samples of each class; `None`:
            all are 1.
    """

    options = ("label_smoothing", "class_weights")
    metrics = (LOSS, ACCURACY, BALANCED_ACCURACY, MACRO_F1)
    monitor = ACCURACY.name
    columns = ("label", "probability")

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
        """Make the task of training on a dataset.

        Raises:
            DataError: There are fewer than two classes, a class name is there twice, or a label is
                not an index into the classes.
        """
        classes = dataset.classes
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise DataError(
                f"dataset {dataset.name!r} has the classes {classes}: at least two different ones "
                "are needed"
            )
        for split, samples in (("train", dataset.train), ("validation", dataset.validation)):
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
            RunError: They cannot be read, or are not a list of names.
        """
        path = run.path / CLASSES
        try:
            classes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise RunError(f"{path} is damaged: it is no list of class names")
        return cls(classes)

    @classmethod
    def example(cls) -> Self:
        """Make a classification into ten classes."""
        return cls([f"class {number}" for number in range(10)])

    def write(self, run: RunDirectory) -> None:
        """Write `classes.json`: the names by index."""
        run.write_json(CLASSES, list(self.classes))

    @property
    def output_size(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def check_model(self, model: keras.Model) -> None:
        """Check that a model gives a number for each class.

        Raises:
            ValueError: It does not.
        """
        if model.output_shape != (None, len(self.classes)):
            raise ValueError(
                f"outputs of shape {model.output_shape}, but there are {len(self.classes)} class "
                f"names: expected (None, {len(self.classes)})"
            )

    def check_outputs(self, outputs: Any) -> None:
        """Check that outputs are probabilities.

        Raises:
            ValueError: They are not.
        """
        if not np.isfinite(outputs).all() or (outputs < 0).any():
            raise ValueError("the outputs are no probabilities: end the model in a softmax")
        if np.abs(outputs.sum(-1) - 1).max() > 1e-3:
            raise ValueError(
                f"the outputs of an image add up to {outputs.sum(-1)[0]:.4g}, expected 1: end the "
                "model in a softmax over the classes"
            )

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the labels of samples: (n,) int32."""
        return {"label": _labels(samples)[indices]}

    def losses(self, targets: Mapping[str, Any], outputs: Any) -> Any:
        """Return the cross-entropy of each sample, smoothed and weighted: (n,) float32."""
        labels = targets["label"]
        if self._smoothing:
            losses = keras.losses.categorical_crossentropy(
                keras.ops.one_hot(labels, len(self.classes)),
                outputs,
                label_smoothing=self._smoothing,
            )
        else:
            losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        if self._weights is None:
            return losses
        return losses * keras.ops.take(keras.ops.convert_to_tensor(self._weights), labels)

    def sums(self, targets: Mapping[str, Any], outputs: Any) -> Mapping[str, Any]:
        """Count the samples that are classified correctly."""
        right = keras.ops.equal(
            keras.ops.argmax(outputs, axis=-1), keras.ops.cast(targets["label"], "int32")
        )
        return {"correct": keras.ops.sum(keras.ops.cast(right, "int32"))}

    def evaluator(self, dataset: Dataset, samples: Samples, indices: np.ndarray) -> ClassEvaluator:
        """Begin to evaluate a model on labelled samples.

        Classes go by their names: those of the dataset may have another order.

        Raises:
            UsageError: A sample belongs to a class that the model does not know.
        """
        labels = _labels(samples)[indices]
        if dataset.classes != self.classes:
            known = {name: index for index, name in enumerate(self.classes)}
            for number in np.unique(labels):
                if dataset.classes[number] not in known:
                    raise UsageError(
                        f"{dataset.name} has the class {dataset.classes[number]!r}, which the "
                        f"model does not know; it knows {', '.join(self.classes)}"
                    )
            labels = np.array([known.get(name, -1) for name in dataset.classes], np.int32)[labels]
        return ClassEvaluator(labels, self.classes)

    def report(self, run: RunDirectory, evaluation: Evaluation) -> None:
        """Write the confusion matrix as a table and as a figure."""
        write_confusion_matrix(run, cast("ClassEvaluation", evaluation))

    def table(self, evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
        """Return precision, recall and F1 of every class."""
        return class_table(cast("ClassEvaluation", evaluation))

    def truth(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray
    ) -> Sequence[str] | None:
        """Return the names of the true classes, as the dataset calls them."""
        if not dataset.labelled:
            return None
        return [dataset.classes[label] for label in _labels(samples)[indices]]

    def rows(
        self, outputs: Any, names: Sequence[str], truth: Sequence[Any] | None, top_k: int
    ) -> Sequence[Prediction]:
        """Name the most probable classes of each sample, with their probabilities."""
        ranked = rank(outputs, self.classes, top_k)
        labels = [None] * len(names) if truth is None else truth
        return [Prediction(*row) for row in zip(names, ranked, labels, strict=True)]

    def unread_row(self, name: str, reason: str) -> Prediction:
        """Return the row of an image that could not be read."""
        return Prediction(name, error=reason)

    def summary(self, rows: Sequence[Row]) -> str:
        """Say how many samples are classified as their label says."""
        known = [row for row in cast("Sequence[Prediction]", rows) if row.true_label is not None]
        if not known:
            return ""
        right = sum(row.label == row.true_label for row in known)
        return f"{right} of {len(known)} are classified as their label says"

    def submission(self, rows: Sequence[Row]) -> str:
        """Write rows in the form that Kaggle's digit recognizer takes."""
        return submission(cast("Sequence[Prediction]", rows))


def balanced_weights(labels: np.ndarray, count: int) -> np.ndarray:
    """Return weights with which every class adds as much to the loss as another.

    Args:
        labels: (N,) int, those of the training samples.
        count: Number of classes C.

    Returns:
        (C,) float32: N / (K * samples of the class), K being the number of classes that occur;
        their mean over the samples is 1. The weight of a class that does not occur is 0.
    """
    counts = np.bincount(labels, minlength=count)
    present = np.count_nonzero(counts)
    weights = np.divide(len(labels), present * counts, out=np.zeros(count), where=counts > 0)
    return weights.astype(np.float32)


def _labels(samples: Samples) -> np.ndarray:
    labels = getattr(samples, "labels", None)
    if labels is None:
        raise DataError(
            f"samples of the type {type(samples).__name__} have no labels: a dataset for a "
            "classification needs them, (N,) int32"
        )
    return np.asarray(labels, np.int32)

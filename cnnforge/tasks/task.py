"""The base class of tasks. A task defines what a model learns, for instance classification.

All tasks use the same data loading, backends, training loop and commands. A task defines the rest:
targets, losses, metrics, evaluation, and the rows of a prediction table. Classification is built
in; plugins can declare other tasks with the hook `cnnforge_tasks`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from cnnforge.data import AugmentedSamples, Dataset, Placing, Samples
from cnnforge.errors import UnknownNameError, UsageError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.box_output import BoxOutput
from cnnforge.tasks.evaluators import Evaluator, MeanEvaluator
from cnnforge.tasks.export_form import ExportForm
from cnnforge.tasks.metric import LOSS, Evaluation, Metric
from cnnforge.tasks.reports import Reports
from cnnforge.tasks.rows import Row, Source, ValueRow, csv_parts, csv_table

if TYPE_CHECKING:
    # Keras is imported only for type checks. Every command imports the manifest module of every
    # plugin, and a manifest may import this module, so importing Keras here would slow down every
    # command.
    import keras


class Task(Reports):
    """Base class of tasks. A task defines targets, losses, metrics, evaluation and predictions.

    Attributes:
        options: Options of `cnnforge train` that this task accepts, for instance
            `("label_smoothing",)`; class attribute.
        placing: The way in which an image of another size fills the model's image; class attribute.
        metrics: The metrics in the order of their table columns; `LOSS` must be one of them.
        monitor: Name of the metric that selects the best epoch by default. If two epochs have the
            same value, the one with the lower validation loss is better.
        columns: Columns that a prediction table always has.
        box_output: Writes and merges the rows if they have boxes, and is otherwise `None`.
    """

    options: ClassVar[tuple[str, ...]] = ()
    placing: ClassVar[Placing] = "stretch"
    metrics: tuple[Metric, ...] = (LOSS,)
    monitor: str = LOSS.name
    columns: tuple[str, ...] = ()
    box_output: BoxOutput | None = None

    # Methods that make a task.

    @classmethod
    def for_dataset(cls, dataset: Dataset, options: Mapping[str, Any]) -> Self:
        """Make the task for training on a dataset.

        Args:
            dataset: The dataset.
            options: Task options that the user gave, by name.

        Raises:
            DataError: The samples have no targets for this task.
        """
        return cls()

    @classmethod
    def for_run(cls, run: RunDirectory) -> Self:
        """Make the task for predicting with the model of a run. Read the files that `write` wrote.

        Raises:
            RunError: A file is missing or damaged.
        """
        return cls()

    @classmethod
    def example(cls) -> Self:
        """Make a small task. `cnnforge plugins check` uses it to check the models of a plugin."""
        return cls()

    def write(self, run: RunDirectory) -> None:
        """Write the files that `for_run` reads. This is called before the first epoch."""

    # Methods about the model.

    @property
    def output_size(self) -> int:
        """Number of outputs, for instance the number of classes.

        It is the second argument of the function `build` of a model plugin.
        """
        raise NotImplementedError

    def check_model(self, model: keras.Model) -> None:
        """Check that the outputs of a model have the structure and shape that the task needs.

        Raises:
            ValueError: The structure or a shape is wrong. The message names the received and the
                expected shape.
        """

    def check_outputs(self, outputs: Any) -> None:
        """Check the output values of a model. `cnnforge plugins check` calls this method.

        Args:
            outputs: (n, ...) arrays in the structure of the model's outputs.

        Raises:
            ValueError: The values are not valid for this task, for instance not probabilities.
        """

    # Methods for training.

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the training targets of some samples.

        Args:
            samples: Samples of the dataset.
            indices: (n,) int64, indices into `samples`.

        Returns:
            Arrays (n, ...) by name. All axes but the first, and the dtypes, are the same in every
            call.
        """
        raise NotImplementedError

    def transformed(
        self, targets: Mapping[str, np.ndarray], transforms: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Transform targets in the same way as an augmentation transformed the images.

        Args:
            targets: Arrays (n, ...) by name, from `targets`.
            transforms: (n, 2, 3) float32. Each affine map gives the position of a point in the
                augmented image from its position in the stored image; `cnnforge.data.transforms`
                defines the coordinates.

        Returns:
            The targets of the augmented images; by default unchanged.
        """
        return targets

    def mixed(
        self,
        targets: Mapping[str, np.ndarray],
        partners: Mapping[str, np.ndarray],
        weights: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        """Mix targets as an augmentation mixed the images, for instance `mixup`.

        A task that does not override this method cannot be trained with such an augmentation.

        Args:
            targets: Arrays (n, ...) by name, from `targets`, `transformed` or `mixed`.
            partners: The targets of the partner of each image, of the same kind.
            weights: (n,) float32, the share of the own image from 0 to 1. The partner has the rest.

        Returns:
            The targets of the mixed images, arrays (n, ...) by name. The names may differ from
            those of the arguments. They are the same in all batches of a run.
        """
        raise NotImplementedError

    def composed(
        self, parts: Sequence[Mapping[str, np.ndarray]], regions: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Compose targets as an augmentation composed the images, for instance `mosaic`.

        A task that does not override this method cannot be trained with such an augmentation.

        Args:
            parts: The targets of each part of the n images, from `transformed`. The first part is
                the image itself.
            regions: (n, parts, 4) float32, the rectangle in which each part is visible: left, top,
                right and bottom in pixels.

        Returns:
            The targets of the composed images, arrays (n, ...) by name.
        """
        raise NotImplementedError

    def read(
        self, samples: Samples, indices: np.ndarray
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Read images and targets for training.

        Args:
            samples: Samples of one epoch. If they are `AugmentedSamples`, their augmentations are
                applied to the images and to the targets.
            indices: (n,) int64, indices into `samples`.

        Returns:
            The images, (n, H, W, C) uint8, and the targets, arrays (n, ...) by name.
        """
        if isinstance(samples, AugmentedSamples):
            return samples.read(indices, self)
        return samples.fetch(indices), self.targets(samples, indices)

    def losses(self, targets: Mapping[str, Any], outputs: Any) -> Any:
        """Compute the loss of every sample of a batch with differentiable `keras.ops`.

        Args:
            targets: Tensors (n, ...) by name.
            outputs: Tensors (n, ...) in the structure of the model's outputs.

        Returns:
            (n,) float32. A step minimizes their mean plus the regularization losses of the model.
        """
        raise NotImplementedError

    def sums(self, targets: Mapping[str, Any], outputs: Any) -> Mapping[str, Any]:
        """Compute the sums over a batch that the training metrics need, with `keras.ops`.

        Args:
            targets: Tensors (n, ...) by name.
            outputs: Tensors (n, ...) in the structure of the model's outputs.

        Returns:
            The sum over the batch, a scalar, for each name that is the `sum` of a metric. Leave out
            the loss: the training step adds its sum.
        """
        return {}

    # Methods for evaluation.

    def measure(self, targets: Mapping[str, np.ndarray], outputs: Any) -> Mapping[str, np.ndarray]:
        """Compute the metrics of each sample with NumPy; the default `evaluator` averages them.

        Args:
            targets: Arrays (n, ...) by name.
            outputs: Arrays (n, ...) in the structure of the model's outputs.

        Returns:
            (n,) float64 for each metric, by name.
        """
        raise NotImplementedError

    def evaluator(self, dataset: Dataset, samples: Samples, indices: np.ndarray) -> Evaluator:
        """Make an evaluator for samples of a dataset.

        The dataset need not be the one on which the model was trained.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset.
            indices: (N,) int64, indices into `samples`. The caller adds the outputs in this order.

        Raises:
            UsageError: The model cannot predict the targets of these samples, for instance because
                a class did not exist in training.
        """
        return MeanEvaluator(self, samples, indices)

    def calibrate(self, evaluation: Evaluation) -> bool:
        """Choose values for predictions at the end of training, such as a min confidence.

        Args:
            evaluation: Result of an evaluator of this task.

        Returns:
            Whether the task has changed. Then it is written to the run again.
        """
        return False

    # Methods for prediction.

    def truth(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray
    ) -> Sequence[Any] | None:
        """Return the ground truth of some samples, for the rows of a prediction table.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset.
            indices: (n,) int64, indices into `samples`.

        Returns:
            n values; `None` if the samples have no ground truth.
        """
        return None

    @property
    def prediction_options(self) -> Mapping[str, int | float]:
        """The default of each option of `rows`: a number from 1, or a fraction from 0 to 1."""
        return {}

    def rows(
        self,
        outputs: Any,
        sources: Sequence[Source],
        truth: Sequence[Any] | None,
        options: Mapping[str, Any],
    ) -> Sequence[Row]:
        """Convert the outputs of a model to rows of a prediction table.

        Args:
            outputs: (n, ...) arrays in the structure of the model's outputs.
            sources: Name and size of each of the n images.
            truth: Result of `truth`.
            options: Value of each of `prediction_options`, by name.

        Returns:
            n rows.
        """
        raise NotImplementedError

    def unread_row(self, name: str, reason: str) -> Row:
        """Return the row of an image that could not be read.

        Args:
            name: Source of the image, for instance a path.
            reason: The reason, one line.
        """
        return ValueRow(name, error=reason)

    def csv_table(self, rows: Sequence[Row]) -> str:
        """Convert rows to CSV: `file`, the columns of the task, `error` if a row has an error."""
        return csv_table(rows, self.columns)

    def csv_parts(self, rows: Sequence[Row]) -> Iterator[str]:
        """Yield the text of `csv_table` in parts, so that many rows need little memory."""
        if type(self).csv_table is not Task.csv_table:
            yield self.csv_table(rows)
        else:
            yield from csv_parts(rows, self.columns)

    def summary(self, rows: Sequence[Row]) -> str:
        """Return a summary of all rows, in one line, that is shown to the user; empty for none."""
        return ""

    def submission(self, rows: Sequence[Row], ids: Sequence[str], id_name: str) -> str:
        """Convert rows to the text of a submission file for a competition.

        Args:
            rows: N rows.
            ids: N ids of the images of the rows.
            id_name: Name of the ids, which is the heading of their column.

        Raises:
            UsageError: The task does not have such a format.
        """
        raise UsageError(
            "--submission is for classifications, and the model of this run has another task: "
            "write its table with --output FILE"
        )

    @property
    def export_form(self) -> ExportForm:
        """The model as `cnnforge export` writes it; by default unchanged."""
        return ExportForm()

    # Methods that subclasses need not define: their results follow from the attributes.

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of the sums over training samples that metrics need, including that of the loss."""
        return tuple(metric.sum for metric in self.metrics if metric.sum is not None)

    def training_metrics(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """Return the training metrics by name.

        Args:
            sums: Sums over the training samples, by the names of `sum_names`.
            count: Number of samples.
        """
        return {
            metric.name: sums[metric.sum] / count
            for metric in self.metrics
            if metric.sum is not None
        }

    def monitored(self, name: str | None = None) -> Metric:
        """Return the metric that selects the best epoch.

        Args:
            name: Name of the metric; `None`: the default of the task.

        Raises:
            UnknownNameError: The task does not have this metric.
        """
        known = {metric.name: metric for metric in self.metrics}
        wanted = self.monitor if name is None else name
        if wanted in known:
            return known[wanted]
        close = difflib.get_close_matches(wanted, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise UnknownNameError(f"there is no metric named {wanted!r} to monitor; {hint}")

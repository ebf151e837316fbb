"""Predict with several workers: the options of `cnnforge predict` about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cnnforge.cli.workers.options import check_workers, started

if TYPE_CHECKING:
    from cnnforge.cli._trained import Trained
    from cnnforge.conversion import Kernels
    from cnnforge.prediction import FileInputs
    from cnnforge.prediction.inputs import Inputs
    from cnnforge.prediction.part_inputs import PartInputs
    from cnnforge.tasks import Row

    Predicted = Callable[[Inputs, int | None], Iterator[Row]]


@dataclass(frozen=True)
class Spread:
    """The workers that the user wants.

    Attributes:
        workers: Number of workers.
        address: Address of their cluster.
        seconds: Max time until they are ready.
    """

    workers: int
    address: str
    seconds: float

    @classmethod
    def of(
        cls, workers: int | None, address: str | None, startup_timeout: str | None
    ) -> Spread | None:
        """Return the workers that the options name; `None` for none.

        Args:
            workers: The value of `--workers`.
            address: The value of `--address`.
            startup_timeout: The value of `--startup-timeout`.

        Raises:
            UsageError: An option is not valid.
            CnnforgeError: Ray is not installed.
        """
        found = check_workers(workers, address, startup_timeout)
        return None if workers is None else cls(workers, *found)

    def check(self, *, tile: bool, show: bool, draw: Path | None) -> None:
        """Check the other options of the command.

        Args:
            tile: The value of `--tile`.
            show: The value of `--show`.
            draw: The value of `--draw`.

        Raises:
            UsageError: An option needs the images in this process.
        """
        from cnnforge.errors import UsageError

        for option, given in (("--tile", tile), ("--show", show), ("--draw", draw is not None)):
            if given:
                raise UsageError(
                    f"{option} needs the images in one process: leave out {option}, or --workers"
                )

    @contextmanager
    def predicting(
        self,
        trained: Trained,
        run: Path,
        options: Mapping[str, Any],
        kernels: str,
        plugin: Sequence[str] | None,
        trust_model: bool,
    ) -> Iterator[Predicted]:
        """Start the workers for the time of a prediction.

        Args:
            trained: The opened run.
            run: Its directory.
            options: The prediction options.
            kernels: The value of `--kernels`.
            plugin: The values of `--plugin`.
            trust_model: The value of `--trust-model`.

        Yields:
            A function from inputs and the max number of rows to the rows.

        Raises:
            CnnforgeError: The workers could not be started.
        """
        from cnnforge.distributed.predict_worker import PredictionJob
        from cnnforge.distributed.ray_predict import predict_on
        from cnnforge.prediction.opening import plugin_names
        from cnnforge.runs import RunDirectory
        from cnnforge.tasks import prediction_options

        predictor = trained.predictor
        used = RunDirectory(run).read_config()[0].get("plugin", ())
        job = PredictionJob(
            run=str(run.resolve()),
            image_shape=predictor.image_shape,
            placing=predictor.task.placing,
            values=prediction_options(predictor.task, options),
            kernels=cast("Kernels", kernels),
            # Another machine has not remembered which plugins the user has named.
            plugins=plugin_names(run, used, plugin or ()),
            trust_model=trust_model,
        )
        with started(self.workers, self.address, self.seconds) as cluster, ExitStack() as stack:

            def predicted(part: Inputs, limit: int | None) -> Iterator[Row]:
                inputs = cast("FileInputs | PartInputs", part)
                rows = predict_on(cluster, job, inputs, self.workers, limit)
                stack.callback(rows.close)
                return rows

            yield predicted

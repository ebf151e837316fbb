"""Load the trained model of a run into a Python program."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from cnnforge.configuration import TrainingOptions, check_types
from cnnforge.errors import UsageError
from cnnforge.model_files.trust import trusting_models
from cnnforge.plugin_host.discovery import discover
from cnnforge.prediction.arguments import GivenImages
from cnnforge.prediction.opening import changes_of, open_predictor, plugin_names
from cnnforge.prediction.predictor import Predictor
from cnnforge.prediction.tiles import predict_in_parts
from cnnforge.runs import CONFIG, RunDirectory, requirements
from cnnforge.runs.finding import find_run
from cnnforge.tasks import Row, Source, prediction_options
from cnnforge.utils.structures import map_structure

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels


class Predictions(Sequence[Any]):
    """The predictions for several images, in their order.

    An item is the prediction for one image: for a classification a
    `cnnforge.tasks.classification.Prediction`, with the attributes `label`, `probability` and
    `top`, and for a detector `cnnforge.tasks.detection.Detections`, with the attribute `objects`.

    Attributes:
        outputs: The outputs of the model, (N, ...) arrays in its output structure: for a
            classification the probabilities, (N, C) float32, in the order of `Model.classes`. It is
            `None` if the images were predicted in parts.
    """

    def __init__(self, rows: Sequence[Row], outputs: Any) -> None:
        self._rows = rows
        self.outputs = outputs

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> Predictions: ...

    def __getitem__(self, index: int | slice) -> Any:
        """Return the prediction for one image, or the predictions for some."""
        if isinstance(index, slice):
            outputs = self.outputs
            if outputs is not None:
                outputs = map_structure(lambda array: array[index], outputs)
            return Predictions(self._rows[index], outputs)
        return self._rows[index]

    def __repr__(self) -> str:
        return f"<Predictions for {len(self)} images>"


class Model:
    """The trained model of a run, ready to predict. Several threads may use it at the same time.

    Attributes:
        image_shape: (H, W, C) of the model's images.
        classes: The C names of the classes, in the order of the outputs; `None` if the task of the
            model has no classes.
        run: The run directory.
    """

    def __init__(
        self, predictor: Predictor, run: Path, reopen: Callable[[], Model] | None = None
    ) -> None:
        """Take an opened model.

        Args:
            predictor: The model of the run.
            run: The run directory.
            reopen: Function that opens the run again; a copy of the model is made by it.
        """
        self._reopen = reopen or partial(load, run)
        self._predictor = predictor
        self.image_shape = predictor.image_shape
        self.classes: tuple[str, ...] | None = getattr(predictor.task, "classes", None)
        self.run = run

    def predict(self, images: Any, *, tile: bool = False, **options: Any) -> Any:
        """Predict one image, or several.

        Args:
            images: One image or a sequence. One image is the path of a file, or an array (H, W) or
                (H, W, C) with 1, 3 or 4 channels. A sequence is a batch, (N, H, W, C) or (N, H, W),
                or a list of paths and arrays. Arrays have pixel values from 0 to 255, uint8 or
                float. An array with three axes is one image if the last axis has 1, 3 or 4 entries.
                Images of another size or with other channels are converted as those of files are.
            tile: Whether a detector also searches overlapping parts of images that are larger than
                the model's images, for small objects.
            options: Prediction options of the task. For a classification, `top_k` is the max number
                of classes in `Prediction.top`, by default 3. For a detector, `confidence` is the
                min confidence of an object, `overlap` the IoU at which a box is removed, and
                `max_detections` the max number of objects in an image.

        Returns:
            For one image its prediction: for a classification, a
            `cnnforge.tasks.classification.Prediction`, and for a detector
            `cnnforge.tasks.detection.Detections`. For a sequence `Predictions`.

        Raises:
            DataError: A file is not an image, or is damaged.
            UsageError: An argument is not an image or a sequence of images, or an option is not
                valid.
        """
        task = self._predictor.task
        values = prediction_options(task, options)
        given = GivenImages.of(images)
        names, rows, parts = iter(given.names()), [], []
        if tile:
            originals = given.originals(self.image_shape[2])
            for name, image in zip(names, originals, strict=True):
                rows.append(predict_in_parts(self._predictor, image, name, values))
            return rows[0] if given.single else Predictions(rows, None)
        for batch, sizes in given.batches(self.image_shape, task.placing):
            parts.append(self._predictor.predict_images(batch))
            sources = list(map(Source, islice(names, len(sizes)), sizes))
            rows += task.rows(parts[-1], sources, None, values)
        return rows[0] if given.single else Predictions(rows, _joined(parts))

    def outputs(self, images: Any) -> Any:
        """Compute the outputs of the model.

        Args:
            images: See `predict`.

        Returns:
            Arrays in the structure of the model's outputs: (N, ...) for a sequence of N images,
            without the first axis for one image. For a classification they are the probabilities,
            (N, C) or (C,) float32.

        Raises:
            DataError: A file is not an image, or is damaged.
            UsageError: An argument is not an image or a sequence of images.
        """
        given = GivenImages.of(images)
        placing = self._predictor.task.placing
        joined = _joined(
            [
                self._predictor.predict_images(batch)
                for batch, _ in given.batches(self.image_shape, placing)
            ]
        )
        return map_structure(lambda array: array[0], joined) if given.single else joined

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the run again instead of copying the memory of the kernels."""
        return self._reopen, ()

    def __repr__(self) -> str:
        return f"<Model of {self.run}: images {'x'.join(map(str, self.image_shape))}>"


def load(
    run: str | os.PathLike[str],
    *,
    kernels: Kernels = "auto",
    plugins: Sequence[str] = (),
    trust_model: bool = False,
) -> Model:
    """Load the trained model of a run; see `cnnforge.load`, which calls this function."""
    predictor, directory = load_predictor(
        run, kernels=kernels, plugins=plugins, trust_model=trust_model
    )
    reopen = partial(
        load,
        directory.resolve(),
        kernels=kernels,
        plugins=tuple(plugins),
        trust_model=trust_model,
    )
    return Model(predictor, directory, reopen)


def load_predictor(
    run: str | os.PathLike[str],
    *,
    kernels: Kernels = "auto",
    plugins: Sequence[str] = (),
    trust_model: bool = False,
) -> tuple[Predictor, Path]:
    """Load the predictor of a run; see `cnnforge.load`.

    Returns:
        The predictor, and the run directory.
    """
    if isinstance(plugins, str):
        raise UsageError(f"plugins must be a list of files and modules: plugins=[{plugins!r}]")
    directory = RunDirectory.open(find_run(Path(run)))
    stored, _ = directory.read_config()
    options = TrainingOptions(**check_types(stored, str(directory.path / CONFIG)))
    # Called only because it raises an error if `kernels` is invalid.
    _ = TrainingOptions(kernels=kernels)
    with trusting_models(trust_model):
        loaded = discover(plugin_names(directory.path, options.plugin, plugins))
        others = requirements.check(directory, loaded.records, model_only=True)
        predictor = open_predictor(directory, loaded, kernels=kernels, changed=changes_of(others))
    return predictor, directory.path


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return map_structure(lambda *arrays: np.concatenate(arrays), *parts)

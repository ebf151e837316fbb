"""Record what each layer computes in each step of a training.

Only the digests of the values are kept, and a sample of each: all values of a large model do not
fit into the memory. Outputs and gradients are computed a second time, layer by layer, before the
step itself.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.backends import ChunkResult
from cnnforge.training import phases
from cnnforge.utils.watched_layers import describe_layer, float_arrays, watched

# Max number of values of an array that are kept.
_SAMPLE = 4096


class Recorder:
    """Records the steps of a training.

    Args:
        folder: Folder for the samples; it exists.
        trial: Number of the training, which is a part of the names of the files.

    Attributes:
        steps: A list for each step. Each item describes an array: its kind (`"inputs"`,
            `"outputs"`, `"gradient"` or `"variable"`), its name, and the SHA-256 of its values.
    """

    def __init__(self, folder: Path, trial: int) -> None:
        self.steps: list[list[tuple[str, str, str]]] = []
        self._folder, self._trial = folder, trial
        self._samples: list[np.ndarray] = []

    def add(self, kind: str, name: str, values: Any) -> None:
        """Record the arrays of a structure as one array.

        Args:
            kind: See `steps`.
            name: See `steps`.
            values: Tensors or arrays in lists and dictionaries.
        """
        digest = hashlib.sha256()
        parts = []
        for array in float_arrays(values) if kind == "outputs" else keras.tree.flatten(values):
            digest.update(np.ascontiguousarray(array).tobytes())
            parts.append(np.ravel(array).astype(np.float64))
        flat = np.concatenate(parts) if parts else np.empty(0)
        self.steps[-1].append((kind, name, digest.hexdigest()))
        self._samples.append(flat[:: max(1, -(-flat.size // _SAMPLE))])

    def begin(self) -> None:
        """Begin a step."""
        self.steps.append([])
        self._samples = []

    def end(self) -> None:
        """Write the samples of the step."""
        named = {f"{number}": sample for number, sample in enumerate(self._samples)}
        path = sample_file(self._folder, self._trial, len(self.steps) - 1)
        np.savez(path, **named)  # pyright: ignore[reportArgumentType]


def sample_file(folder: Path, trial: int, step: int) -> Path:
    """Return the path of the file with the samples of a step; both numbers count from 0."""
    return folder / f"{trial}-{step}.npz"


@contextlib.contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    """Return a context in which the steps of a training are recorded.

    The trainings in it must take one step per call of the trainer.

    Args:
        recorder: The recorder.
    """
    kind = phases.Trainer

    class Recording(kind):
        """Records each step."""

        def train(
            self,
            images: np.ndarray,
            targets: Mapping[str, np.ndarray],
            sums: Mapping[str, float],
            count: int | None = None,
        ) -> ChunkResult:
            recorder.begin()
            before = self.arrays()
            # The step itself must be taken even if the layers cannot be watched.
            with contextlib.suppress(Exception):
                self._record(images, targets)
            self.restore(before)
            result = super().train(images, targets, sums, count)
            for variable, array in zip(self.variables(), self.arrays(), strict=True):
                recorder.add("variable", variable.path, array)
            recorder.end()
            return result

        def _record(self, images: np.ndarray, targets: Mapping[str, np.ndarray]) -> None:
            recorder.add("inputs", "", [images, *targets.values()])
            before = self.arrays()

            def look(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
                recorder.add("outputs", describe_layer(layer), outputs)

            with watched(self._model, look):
                self.forward(images, training=True)
            self.restore(before)
            gradients = self.gradients(images, targets)
            variables = self._model.trainable_variables
            # Backpropagation computes the gradients of the last layer first.
            for variable, gradient in reversed(list(zip(variables, gradients, strict=True))):
                if gradient is not None:
                    recorder.add("gradient", variable.path, gradient)

    phases.Trainer = Recording
    try:
        yield
    finally:
        phases.Trainer = kind

"""The report about an exported model: how its outputs differ from those of Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from cnnforge.errors import CnnforgeError
from cnnforge.tasks import ExportForm

MAX_FLIPS = 0.01
"""Max share of images for which a float32 file may give another answer. Rounding can change an
answer only if two of them are almost equal."""


class Flip(NamedTuple):
    """An image for which the exported model gives another answer.

    Attributes:
        image: Name of the image.
        before: Answer of the model of the run.
        after: Answer of the exported model.
    """

    image: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """The outputs of an exported model, compared with others for N images.

    Attributes:
        images: N.
        what: Description of the images, such as `"the validation part of mnist5k"`.
        differences: Max absolute difference of each output, by name.
        equal: Number of images with the same answer; `None` if the outputs are numbers only.
        flips: The other images.
    """

    images: int
    what: str
    differences: Mapping[str, float]
    equal: int | None
    flips: Sequence[Flip]


@dataclass(frozen=True)
class Quantization:
    """The cost of 8-bit integers.

    Attributes:
        calibration_images: Number of validation images from which the ranges were taken.
        metric: Name of the metric.
        before: Its value for the model of the run.
        after: Its value for the exported model.
    """

    calibration_images: int
    metric: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The facts about an exported model.

    Attributes:
        format: Name of the format.
        run: Path of the run.
        output: Path of the file or folder.
        bytes: Its size.
        versions: Versions of cnnforge, of Keras, and of the packages of the format.
        image_shape: (H, W, C) of the images. The model takes (N, H, W, C) float32 pixels 0..255.
        outputs: Shape of each output for one image, by name.
        classes: The class names in the order of the outputs; `None` if the task has none.
        settings: Prediction options of the task that are part of the file.
        reference: Comparison with the reference predictions of the run; `None` if it has none.
        validation: Comparison with Keras on validation images; `None` if they cannot be read.
        note: Reason why there is no comparison on validation images; else empty.
        seconds_to_write: Seconds to write the file.
        seconds_to_predict: Seconds in the exported runtime, for all images that were compared.
        quantization: The cost of 8-bit integers; `None` for a float32 file.
    """

    format: str
    run: str
    output: str
    bytes: int
    versions: Mapping[str, str]
    image_shape: Sequence[int]
    outputs: Mapping[str, Sequence[int]]
    classes: Sequence[str] | None
    settings: Mapping[str, float]
    reference: Comparison | None
    validation: Comparison | None
    note: str
    seconds_to_write: float
    seconds_to_predict: float
    quantization: Quantization | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        values = asdict(self)
        for part in (self.reference, self.validation):
            if part is not None:
                name = "reference" if part is self.reference else "validation"
                values[name]["flips"] = [flip._asdict() for flip in part.flips]
        return values


def compare(
    form: ExportForm,
    expected: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    names: Sequence[str],
    what: str,
) -> Comparison:
    """Compare the outputs of an exported model with others.

    Args:
        form: Form of the exported model.
        expected: (N, ...) array of each output, by name.
        outputs: The same of the exported model.
        names: N names of the images.
        what: Description of the images.

    Raises:
        CnnforgeError: An output is missing, or has another shape.
    """
    try:
        differences = form.differences(expected, outputs)
    except ValueError as error:
        raise CnnforgeError(
            f"the exported model has other outputs: {error}; nothing was written, choose another "
            "--format"
        ) from error
    before, after = form.answers(expected), form.answers(outputs)
    if before is None or after is None:
        return Comparison(len(names), what, differences, None, ())
    flips = [
        Flip(name, old, new)
        for name, old, new in zip(names, before, after, strict=True)
        if old != new
    ]
    return Comparison(len(names), what, differences, len(names) - len(flips), flips)


def check_comparison(
    comparison: Comparison, expected: Mapping[str, np.ndarray], allowed: float
) -> None:
    """Check that a float32 file computes what Keras computes, but for rounding.

    Args:
        comparison: Comparison of the file with Keras.
        expected: (N, ...) array of each output of Keras, by name.
        allowed: Max difference, divided by the max output if that is above 1.

    Raises:
        CnnforgeError: It does not.
    """
    reason = ""
    for name, difference in comparison.differences.items():
        finite = np.abs(expected[name][np.isfinite(expected[name])])
        limit = allowed * max(1.0, float(finite.max(initial=0)))
        if not difference <= limit:
            reason = f"{name} differ by {difference:.2g} ({limit:.2g} is allowed)"
    flips = len(comparison.flips)
    if not reason and flips > MAX_FLIPS * comparison.images and flips > 1:
        first = comparison.flips[0]
        reason = (
            f"{flips} answers are others, the first for {first.image}: {first.after} instead of "
            f"{first.before}"
        )
    if reason:
        raise CnnforgeError(
            f"the exported model does not compute what the run computes, compared on "
            f"{comparison.what}: {reason}; nothing was written, choose another --format"
        )

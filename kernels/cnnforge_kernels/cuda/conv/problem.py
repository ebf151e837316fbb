"""A 2D convolution on a device: shapes and options, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

from cnnforge_kernels.cuda.runtime.plans import Pair, Shape, check_images
from cnnforge_kernels.geometry import output_size, padding_before


@dataclass(frozen=True)
class Convolution:
    """A convolution of given shapes.

    Attributes:
        inputs: (N, H, W, C).
        weights: (KH, KW, C / groups, F).
        strides: of rows and columns; so is ``dilation_rate``.
        same: SAME padding, else VALID.
        groups: blocks of channels that do not mix.
        aligned: all arrays start at multiples of 16 bytes.
    """

    inputs: Shape
    weights: Shape
    strides: Pair = (1, 1)
    same: bool = False
    dilation_rate: Pair = (1, 1)
    groups: int = 1
    aligned: bool = True

    @property
    def outputs(self) -> Shape:
        """(N, OH, OW, F)."""
        sizes = (
            output_size(
                self.inputs[1 + a],
                self.weights[a],
                self.strides[a],
                self.dilation_rate[a],
                self.same,
            )
            for a in (0, 1)
        )
        return (self.inputs[0], *sizes, self.weights[3])

    @property
    def padding(self) -> Pair:
        """Padding at the top and left."""
        top, left = (
            padding_before(
                self.inputs[1 + a],
                self.weights[a],
                self.strides[a],
                self.dilation_rate[a],
                self.same,
            )
            for a in (0, 1)
        )
        return top, left

    @property
    def constants(self) -> dict:
        """What kernels are compiled for."""
        return {
            "window": tuple(self.weights[:2]),
            "strides": self.strides,
            "dilation": self.dilation_rate,
            "aligned": self.aligned,
        }

    @property
    def whole_vectors(self) -> bool:
        """16 bytes can be copied at a time: aligned, C and F multiples of 4."""
        return self.aligned and self.weights[2] % 4 == 0 and self.weights[3] % 4 == 0

    @property
    def group(self) -> dict:
        """What kernels with groups are compiled for, too."""
        return {
            "channels": self.weights[2],
            "filters": self.weights[3] // self.groups,
            "groups": self.groups,
        }

    @property
    def is_depthwise(self) -> bool:
        """Each group has one channel."""
        return self.groups > 1 and self.weights[2] == 1

    @property
    def depthwise(self) -> dict:
        """What depthwise kernels are compiled for, too."""
        return {"channels": self.groups, "multiplier": self.weights[3] // self.groups}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height, width, rows, columns, top, left: arguments of most kernels."""
        return (*self.inputs[1:3], *self.outputs[1:3], *self.padding)

    def check(self) -> None:
        """Raise ``ValueError`` where an image is too large or has no channels."""
        if not self.weights[2]:
            raise ValueError(f"`weights` have no channels. Received: weights {self.weights}")
        check_images(inputs=self.inputs, outputs=self.outputs, weights=(1, *self.weights))

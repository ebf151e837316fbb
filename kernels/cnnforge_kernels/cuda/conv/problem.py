"""Shapes and options of a 2D convolution on a device, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from cnnforge_kernels.cuda.runtime.plans import Pair, Shape, check_images
from cnnforge_kernels.geometry import output_size, padding_before


@dataclass(frozen=True)
class Convolution:
    """Shapes and options of one 2D convolution.

    Attributes:
        inputs: Shape of the inputs, (N, H, W, C).
        weights: Shape of the weights, (KH, KW, C / groups, F).
        strides: Strides along rows and columns.
        same: Whether the padding is SAME; otherwise it is VALID.
        dilation_rate: Dilation rates along rows and columns.
        groups: Number of groups of channels that do not mix.
        aligned: Whether all arrays start at multiples of 16 bytes.
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
        """Shape of the outputs, (N, OH, OW, F)."""
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
        """Top and left padding."""
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
        """Keyword arguments of the constants that all kernels are compiled for."""
        return {
            "window": tuple(self.weights[:2]),
            "strides": self.strides,
            "dilation": self.dilation_rate,
            "aligned": self.aligned,
        }

    @property
    def whole_vectors(self) -> bool:
        """Whether 16-byte copies are possible: the arrays are aligned, and 4 divides C and F."""
        return self.aligned and self.weights[2] % 4 == 0 and self.weights[3] % 4 == 0

    @property
    def group(self) -> dict:
        """Channels per group, filters per group and number of groups, as keyword arguments."""
        return {
            "channels": self.weights[2],
            "filters": self.weights[3] // self.groups,
            "groups": self.groups,
        }

    @property
    def is_depthwise(self) -> bool:
        """Whether each group has one channel."""
        return self.groups > 1 and self.weights[2] == 1

    @property
    def depthwise(self) -> dict:
        """Channels and filters per channel of a depthwise convolution, as keyword arguments."""
        return {"channels": self.groups, "multiplier": self.weights[3] // self.groups}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Six numbers that most kernels take.

        They are the height and width of the inputs, the rows and columns of the outputs, and the
        top and left padding.
        """
        return (*self.inputs[1:3], *self.outputs[1:3], *self.padding)

    def check(self) -> None:
        """Raise ``ValueError`` if an image is too large or the weights have no channels."""
        if not self.weights[2]:
            raise ValueError(f"`weights` have no channels. Received: weights {self.weights}")
        check_images(inputs=self.inputs, outputs=self.outputs, weights=(1, *self.weights))

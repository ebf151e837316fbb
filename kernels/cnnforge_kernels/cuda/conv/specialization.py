"""Constants that the kernels of convolutions are compiled for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConvSpecialization:
    """Constants of the float32 convolution kernels, except those of ``depthwise.py``.

    Attributes:
        window: Rows and columns of taps.
        channels: Number of input channels per group.
        filters: Number of filters per group.
        groups: Number of groups of channels that do not mix.
        strides: Strides along rows and columns.
        dilation: Dilation rates along rows and columns.
        relu: Whether a ReLU follows the convolution, in the forward pass and in gradients.
        aligned: Whether all arrays start at multiples of 16 bytes.
    """

    window: tuple[int, int]
    channels: int
    filters: int
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    relu: bool = False
    aligned: bool = True

    @property
    def vector(self) -> int:
        """Number of channels that a thread loads at a time."""
        return 4 if self.aligned and self.channels % 4 == 0 else 1

    def named(self, op: str, *others: str) -> str:
        """Return a kernel name such as ``"conv2d_direct 5x5x1x8"``.

        The name contains ``others`` and a word for each constant that differs from its default.
        """
        words = [op, f"{self.window[0]}x{self.window[1]}x{self.channels}x{self.filters}"]
        if self.groups > 1:
            words.append(f"groups {self.groups}")
        if self.strides != (1, 1):
            words.append(f"strides {self.strides[0]}x{self.strides[1]}")
        if self.dilation != (1, 1):
            words.append(f"dilation {self.dilation[0]}x{self.dilation[1]}")
        words += others
        words += ["relu" * self.relu, "unaligned" * (not self.aligned)]
        return " ".join(word for word in words if word)


def threads_of(threads: int, usual: int) -> str:
    """Return a part of a kernel name, such as ``"threads 64"``; empty for the usual number."""
    return f"threads {threads}" if threads != usual else ""


def size_of(name: str, pair: tuple[int, int] | None) -> str:
    """Return a part of a kernel name, such as ``"pool 2x2"``; empty for ``None``."""
    return f"{name} {pair[0]}x{pair[1]}" if pair else ""

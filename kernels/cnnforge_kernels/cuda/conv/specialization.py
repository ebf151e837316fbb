"""What kernels of convolutions are compiled for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The constants that all of them have.

    Attributes:
        window: rows and columns of taps; so are ``strides`` and ``dilation``.
        channels: of the inputs, in one group; so are ``filters`` of the outputs.
        groups: blocks of channels that do not mix.
        relu: a ReLU stands behind the convolution; in gradients, too.
        aligned: all arrays start at multiples of 16 bytes.
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
        """Channels that are loaded at a time."""
        return 4 if self.aligned and self.channels % 4 == 0 else 1

    def named(self, kind: str, *others: str) -> str:
        """``"conv2d_direct 5x5x1x8"`` and what differs from the plain case."""
        words = [kind, f"{self.window[0]}x{self.window[1]}x{self.channels}x{self.filters}"]
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
    """``"threads 64"``, or nothing where there are as many as usual."""
    return f"threads {threads}" if threads != usual else ""


def size_of(name: str, pair: tuple[int, int] | None) -> str:
    """``"pool 2x2"``, or nothing for ``None``."""
    return f"{name} {pair[0]}x{pair[1]}" if pair else ""

"""Define the shapes of the benchmarks. Tests of the kernels use these shapes with fewer images."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ConvolutionCase:
    """A convolution with SAME padding of N images of H x W x C, with F filters of K x K pixels."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    window: int
    filters: int
    stride: int = 1
    first_layer: bool = False  # If true, the gradient of the inputs is not needed.

    def with_batch(self, batch: int) -> ConvolutionCase:
        return replace(self, batch=batch)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels

    @property
    def weights_shape(self) -> tuple[int, int, int, int]:
        return self.window, self.window, self.channels, self.filters

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        rows, columns = -(-self.height // self.stride), -(-self.width // self.stride)
        return self.batch, rows, columns, self.filters

    @property
    def flops(self) -> int:
        """Number of multiplications and additions of the forward pass."""
        batch, rows, columns, filters = self.output_shape
        return 2 * batch * rows * columns * filters * self.window**2 * self.channels


CONVOLUTIONS = (
    ConvolutionCase("seed1", 250, 28, 28, 1, 5, 8, first_layer=True),
    ConvolutionCase("seed2", 250, 14, 14, 8, 3, 16),
    ConvolutionCase("seed7", 250, 28, 28, 1, 7, 8, first_layer=True),
    ConvolutionCase("cifar", 64, 32, 32, 3, 3, 32, first_layer=True),
    ConvolutionCase("mid", 32, 32, 32, 16, 3, 32),
    ConvolutionCase("r64", 16, 32, 32, 64, 3, 64),
    ConvolutionCase("r128", 16, 16, 16, 128, 3, 128),
    ConvolutionCase("stem", 4, 112, 112, 3, 7, 64, stride=2, first_layer=True),
    ConvolutionCase("point", 16, 32, 32, 64, 1, 128),
)


@dataclass(frozen=True)
class DepthwiseCase:
    """A depthwise convolution with SAME padding and one filter of K x K pixels per channel."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    window: int

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels


@dataclass(frozen=True)
class PoolCase:
    """A pooling layer with windows of K x K pixels that do not overlap."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    window: int = 2

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels


@dataclass(frozen=True)
class DropoutCase:
    """A dropout layer. ``input_shape`` includes the batch and may have any number of axes."""

    name: str
    input_shape: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class NormalizationCase:
    """A batch normalization of N images of H x W x C."""

    name: str
    batch: int
    height: int
    width: int
    channels: int

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels


DEPTHWISE = (DepthwiseCase("depth", 16, 32, 32, 64, 3),)

# The pooling layers after the convolutions with the names seed1, seed2, cifar and stem above.
POOLS = (
    PoolCase("pool_seed1", 250, 28, 28, 8),
    PoolCase("pool_seed2", 250, 14, 14, 16),
    PoolCase("pool_cifar", 64, 32, 32, 32),
    PoolCase("pool_stem", 4, 56, 56, 64),
)

# Two dropout layers of one network: one follows pool_seed1, and one precedes the last layer.
DROPOUTS = (
    DropoutCase("drop1", (250, 14, 14, 8), 0.25),
    DropoutCase("drop3", (250, 256), 0.5),
)

# The shapes of the three stages of resnet20.
NORMALIZATIONS = (
    NormalizationCase("norm1", 64, 32, 32, 16),
    NormalizationCase("norm2", 64, 16, 16, 32),
    NormalizationCase("norm3", 64, 8, 8, 64),
)

"""Make small programs for tests: random weights, and steps in a chain."""

import numpy as np

from cnnforge_kernels.plan import Program, Step


class Chain:
    """Steps one after another, from random weights."""

    def __init__(self, shape=(9, 8, 3), seed=0):
        self.random = np.random.default_rng(seed)
        self.steps = [Step("input", (), "image", {"shape": list(shape)})]
        self.last = "image"

    def values(self, *shape, low=-1.0):
        return self.random.uniform(low, 1, shape).astype(np.float32)

    @property
    def channels(self):
        return Program(tuple(self.steps), self.last).shapes[self.last][-1]

    def add(self, kind, *others, arrays=None, **options):
        """Append a step that reads the last value, and then ``others``."""
        name = f"v{len(self.steps)}"
        inputs = (self.last, *others)
        self.steps.append(Step(kind, inputs, name, options, arrays or {}))
        self.last = name
        return self

    def convolution(self, filters=5, window=(3, 3), *, groups=1, **options):
        shape = (*window, self.channels // groups, filters)
        arrays = {"weights": self.values(*shape), "bias": self.values(filters)}
        return self.add("convolution", arrays=arrays, groups=groups, **options)

    def depthwise(self, window=(3, 3), multiplier=1, **options):
        channels = self.channels
        weights = self.values(*window, channels, multiplier)
        arrays = {"weights": weights, "bias": self.values(channels * multiplier)}
        return self.add("depthwise", arrays=arrays, **options)

    def dense(self, units=6, **options):
        arrays = {"weights": self.values(self.channels, units), "bias": self.values(units)}
        return self.add("dense", arrays=arrays, **options)

    def affine(self, *, offset=True, **options):
        scale = self.values(self.channels, low=0.5)
        moved = self.values(self.channels) * np.float32(offset)
        return self.add("affine", arrays={"scale": scale, "offset": moved}, **options)

    def activation(self, name, **parameters):
        return self.add("activation", activation={"name": name, **parameters})

    def program(self, outputs=None):
        return Program(tuple(self.steps), self.last if outputs is None else outputs)


def images(program, count=3, dtype=np.float32, seed=1):
    """Random images: float32 from -1 to 1, or uint8."""
    random = np.random.default_rng(seed)
    shape = (count, *program.image_shape)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return random.uniform(-1, 1, shape).astype(np.float32)

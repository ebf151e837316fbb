"""Compare results of our kernels with the float64 oracle, a slow reference on the CPU.

The shape is the one that is timed. The kernels compute the whole batch, but the oracle computes
only a few images. For outputs and gradients of the inputs, only these images are compared. The
gradients of weights and bias are sums over all images, so this check sets the upstream gradient of
the other images to zero. The contributions of the other images are checked in measure.py, which
compares the whole result with that of PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Protocol

import numpy as np

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from gpu.problem import POOL, Call, calls, given, prepare, results, values, written
from gpu.rows import Row

# Maximum number of operations of the oracle for one row, about a second on one core. A row with
# more operations per image compares fewer images.
_MAX_FLOPS = 1.5e9
_MAX_IMAGES = 4
# Maximum share of outputs whose argmax may differ from the oracle's. If two values are nearly
# equal, rounding decides which one is the maximum.
_MAX_OTHER_ARGMAX = 1e-3


class Device(Protocol):
    """A GPU (``TorchDevice``), or its replacement without a GPU (``DryRunDevice``)."""

    def put(self, array: np.ndarray) -> Any:
        """Copy an array to the device."""

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array full of NaN, or of 254 for uint8. No kernel writes these values."""

    def poison(self, array: Any) -> None:
        """Fill an array with NaN, or with 254 for uint8, as ``poisoned`` does."""

    def get(self, array: Any, images: list[int] | None = None) -> np.ndarray:
        """Copy an array, or the images with the given indices, to host memory."""

    def same(self, one: Any, other: Any) -> bool:
        """Whether two arrays have the same bits."""

    def copy(self, array: Any) -> Any:
        """Copy an array on the device."""

    def run(self, calls: list[Call]) -> None:
        """Run calls of our kernels, one after the other."""


class WrongResultError(Exception):
    """A kernel computes a wrong result, so the row must not be timed."""


def upload(device: Device, row: Row, host: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the arrays of a row on a device, by name.

    The arrays that the row reads have the values in ``host``. The arrays for results are made by
    ``device.poisoned``, so elements that a kernel does not write are found.
    """
    arrays: dict[str, Any] = {name: device.put(host[name]) for name in given(row)}
    for name, shape in written(row).items():
        arrays[name] = device.poisoned(shape, "uint8" if name == "argmax" else "float32")
    return arrays


def chosen_images(row: Row) -> list[int]:
    """Return the indices of the images to compare: at least the first and the last one.

    The number of images depends on the time that the oracle needs for one image.
    """
    count = row.inputs[0]
    each = max(3 * 2 * prod(row.convolved[1:3]) * prod(row.weights), 1)
    number = int(min(_MAX_IMAGES, count, max(1, _MAX_FLOPS // each)))
    return sorted({round(image) for image in np.linspace(0, count - 1, number)} | {count - 1})


def check(device: Device, row: Row, host: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Compute a row and compare it with the oracle. Compute it twice more and compare the bits.

    Args:
        device: Device that computes the row.
        row: The row (a benchmark case).
        host: Values of the arrays that the row reads, by name; random by default.

    Returns:
        The arrays of the last computation, for the whole batch.

    Raises:
        WrongResultError: The result differs from the oracle's, or two computations differ.
    """
    host = values(row) if host is None else host
    images = chosen_images(row)
    arrays = upload(device, row, host)
    summed = "grad_weights" in results(row)
    if summed:
        sparse = np.zeros_like(host["grad_outputs"])
        sparse[images] = host["grad_outputs"][images]
        arrays["grad_outputs"] = device.put(sparse)
    device.run(prepare(row, arrays))
    device.run(calls(row, arrays))
    got = {
        name: device.get(arrays[name], images if _batched(name) else None) for name in results(row)
    }
    some = {name: array[images] if _batched(name) else array for name, array in host.items()}
    try:
        compare(row, some, got)
    except AssertionError as error:
        raise WrongResultError(f"differs from the float64 oracle: {error}") from None
    if summed:
        arrays["grad_outputs"] = device.put(host["grad_outputs"])
    device.run(calls(row, arrays))
    first = {name: device.copy(arrays[name]) for name in results(row)}
    for name in first:
        device.poison(arrays[name])
    device.run(calls(row, arrays))
    for name, before in first.items():
        if not device.same(before, arrays[name]):
            raise WrongResultError(f"`{name}` has other bits when it is computed again")
    return arrays


def _batched(name: str) -> bool:
    return name not in ("weights", "bias", "grad_weights", "grad_bias")


def compare(row: Row, host: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> None:
    """Compare results of our kernels for a few images with those of the oracle.

    Args:
        row: The row.
        host: Arrays that the kernels read, with only these images.
        got: Arrays that the kernels wrote, with only these images.

    Raises:
        AssertionError: The results differ by more than rounding errors.
    """
    if row.op in ("max", "average"):
        _compare_pool(row, host, got)
    elif row.op == "block":
        _compare_block(row, host, got)
    else:
        _compare_convolution(row, host, got)


def _compare_pool(row: Row, host: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> None:
    x = host["inputs"]
    if row.op == "average":
        if row.which == "forward":
            want = reference.average_pool2d(x, pool_size=POOL)
        else:
            want = reference.average_pool2d_grad(x, host["grad_outputs"], pool_size=POOL)
        assert_close(got["outputs" if row.which == "forward" else "grad_inputs"], want, 4)
    elif row.which == "forward":
        best, argmax = reference.max_pool2d(x, pool_size=POOL)
        assert_close(got["outputs"], best, 0)
        _require_argmax(got["argmax"], argmax, 0.0)
    else:
        want = reference.max_pool2d_grad(x, host["grad_outputs"], pool_size=POOL)
        assert_close(got["grad_inputs"], want, 0)


def _require_argmax(got: np.ndarray, want: np.ndarray, allowed: float) -> None:
    others = float((got != want).mean())
    if others > allowed:
        raise AssertionError(
            f"{others:.2%} of the argmax values differ, expected at most {allowed:.2%}"
        )


def _compare_convolution(
    row: Row, host: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]
) -> None:
    x, w = host["inputs"], host["weights"]
    options: dict[str, Any] = {"strides": (row.stride,) * 2, "same": True}
    depthwise = row.op == "depthwise"
    if row.which == "forward":
        oracle = reference.depthwise_conv2d if depthwise else reference.conv2d
        terms = prod(row.weights[:2]) if depthwise else prod(row.weights[:3])
        assert_close(got["outputs"], oracle(x, w, **options), _terms(row, terms))
        return
    oracle = reference.depthwise_conv2d_gradients if depthwise else reference.conv2d_gradients
    g = host["grad_outputs"]
    grad_inputs, grad_weights, grad_bias = oracle(x, w, g, **options)
    if row.which == "grad_inputs":
        taps = prod(row.weights[:2]) * (1 if depthwise else row.filters)
        assert_close(got["grad_inputs"], grad_inputs, _terms(row, taps))
    else:
        pixels = prod(g.shape[:3])
        assert_close(got["grad_weights"], grad_weights, _terms(row, pixels))
        assert_close(got["grad_bias"], grad_bias, pixels)


def _terms(row: Row, terms: int) -> int:
    """Return the number of terms to pass to ``assert_close`` for a sum of ``terms`` products.

    The tolerance of ``assert_close`` grows like the square root of this number. Tensor cores add 8
    products at a time and truncate the sum instead of rounding it (M. Fasi, N. Higham, M. Mikaitis,
    S. Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021, section 4). So all errors have
    the same sign, and are half a unit in the last place on average. A sum of K terms has K / 8 such
    errors, so its error grows like K / 16, not like sqrt(K). Return (K / 16)^2 for tensor cores if
    this is larger than K.
    """
    return terms if row.precision == "float32" else max(terms, (terms // 16) ** 2)


def _compare_block(row: Row, host: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> None:
    x, w, b = host["inputs"], host["weights"], host["bias"]
    options: dict[str, Any] = {"strides": (row.stride,) * 2, "same": True}
    outputs, argmax = reference.conv_block(x, w, b, pool_size=POOL, **options)
    assert_close(got["outputs"], outputs, prod(row.weights[:3]))
    _require_argmax(got["argmax"], argmax, _MAX_OTHER_ARGMAX)
    if row.which == "forward":
        return
    g = host["grad_outputs"]
    # Compute the expected gradients with the argmax of our kernel. Because of rounding, it may be
    # different from the argmax of the oracle, and the check above allowed this.
    gradients = reference.conv_block_gradients(x, w, got["argmax"], g, pool_size=POOL, **options)
    pixels = prod(g.shape[:3])
    assert_close(got["grad_weights"], gradients[1], pixels)
    assert_close(got["grad_bias"], gradients[2], pixels)
    if row.grad_inputs:
        assert_close(got["grad_inputs"], gradients[0], prod(row.weights[:2]) * row.filters)

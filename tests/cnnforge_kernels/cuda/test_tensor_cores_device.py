"""The tensor-core kernels on a real device, against the oracle: ``pytest -m gpu``.

The tests hide all devices from this process, so the kernels run in another one, which is this file
run as a script.
"""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

NO_DEVICE = 77
# inputs, weights, strides, padding, dilation_rate
PROBLEMS = (
    ((8, 28, 28, 64), (3, 3, 64, 128), (1, 1), "same", (1, 1)),
    ((7, 6, 8, 64), (3, 3, 64, 96), (1, 1), "same", (1, 1)),
    ((3, 20, 37, 112), (2, 5, 112, 60), (1, 1), "valid", (2, 3)),
    ((4, 29, 27, 32), (5, 3, 32, 36), (2, 3), "same", (1, 1)),
    ((2, 31, 33, 3), (3, 3, 3, 37), (1, 1), "valid", (2, 1)),
    ((64, 28, 28, 8), (3, 3, 8, 16), (1, 1), "valid", (1, 1)),
    ((16, 14, 14, 256), (1, 1, 256, 64), (2, 2), "valid", (1, 1)),
    ((1, 1, 1, 5), (3, 3, 5, 7), (1, 1), "same", (1, 1)),
)


@pytest.mark.gpu
def test_on_a_device():
    pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'cnnforge[cuda13]'")
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    environment.pop("NUMBA_ENABLE_CUDASIM", None)
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode == NO_DEVICE:
        pytest.skip(done.stdout.strip() or "no device")
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-5000:]


def check(problem, precision, relu, rounded):
    from numba import cuda

    import cnnforge_kernels as kernels
    from cnnforge.testing import assert_close
    from cnnforge_kernels import reference

    inputs, weights, strides, padding, dilation = problem
    options = {"strides": strides, "dilation_rate": dilation}
    generator = np.random.default_rng(0)

    def random(*shape):
        return generator.standard_normal(shape, np.float32)

    def empty(*shape):
        return cuda.to_device(np.full(shape, np.nan, np.float32))

    x, w, b = random(*inputs), random(*weights), random(weights[3])
    same = padding == "same"
    expected = reference.conv2d(rounded(x), rounded(w), b, same=same, relu=relu, **options)
    g, results = random(*expected.shape), []
    options |= {"precision": precision, "padding": padding}
    # Twice: the same arguments give the same bits.
    for _ in range(2):
        y, gx, gw = empty(*expected.shape), empty(*inputs), empty(*weights)
        dx, dw, db, dg = (cuda.to_device(v) for v in (x, w, b, g))
        kernels.conv2d(dx, dw, db, activation="relu" if relu else None, out=y, **options)
        mask = {"outputs": y} if relu else {}
        kernels.conv2d_grad_inputs(dg, dw, inputs, out=gx, **options, **mask)
        kernels.conv2d_grad_weights(dx, dg, weights, out=gw, **options, **mask)
        results.append([v.copy_to_host() for v in (y, gx, gw)])
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
    y, gx, gw = results[0]
    gradients = reference.conv2d_gradients(
        *(rounded(v) for v in (x, w, g)),
        outputs=y if relu else None,
        same=same,
        strides=strides,
        dilation_rate=dilation,
    )
    assert_close(y, expected, math.prod(weights[:3]))
    assert_close(gx, gradients[0], math.prod(weights[:2]) * weights[3])
    assert_close(gw, gradients[1], math.prod(expected.shape[:3]))


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parent))
    from warp_emulator import round_bfloat16, round_tf32

    from cnnforge_kernels.cuda.errors import CudaUnavailableError
    from cnnforge_kernels.cuda.runtime import driver
    from cnnforge_kernels.cuda.tensor_cores import check_capability

    try:
        check_capability(driver().capability(0), "tf32")
    except CudaUnavailableError as error:
        print(error)
        return NO_DEVICE
    rounding = {"tf32": round_tf32, "bfloat16": round_bfloat16}
    for problem, precision, relu in itertools.product(PROBLEMS, rounding, (False, True)):
        print(problem, precision, "relu" if relu else "", flush=True)
        convert = rounding[precision]
        check(problem, precision, relu, lambda v, r=convert: r(v.view(np.uint32)).view(np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())

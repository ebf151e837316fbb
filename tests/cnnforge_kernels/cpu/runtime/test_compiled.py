"""Compiled kernels: kept on disk, the same bits for any number of threads, safe under threads."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import cnnforge_kernels as kernels
from cnnforge_kernels.cpu.runtime import compiled

PROGRAM = textwrap.dedent("""
    import hashlib, sys
    import numpy as np
    from numba.core import event
    import cnnforge_kernels as kernels
    compiled = []
    class Listener(event.Listener):
        def on_start(self, e): compiled.append(str(e.data["dispatcher"]))
        def on_end(self, e): pass
    event.register("numba:compile", Listener())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 14, 14, 8)).astype("f")
    w = rng.standard_normal((3, 3, 8, 16)).astype("f")
    y = kernels.conv2d(x, w, padding="same", activation="relu")
    g = rng.standard_normal(y.shape).astype("f")
    results = [y, kernels.conv2d_grad_inputs(g, w, x.shape, padding="same", outputs=y)]
    results += kernels.conv2d_grad_weights(x, g, w.shape, padding="same", outputs=y)
    results += kernels.max_pool2d(y)
    results.append(kernels.average_pool2d(y))
    digest = hashlib.sha256(b"".join(r.tobytes() for r in results)).hexdigest()
    print(len(compiled), digest)
""")


def run(cache, threads):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    count, digest = done.stdout.split()
    return int(count), digest


@pytest.mark.slow
def test_second_process_compiles_nothing_and_threads_change_no_bit(tmp_path):
    first, one = run(tmp_path, 1)
    assert first > 0
    again, same = run(tmp_path, 1)
    assert again == 0
    assert same == one
    run(tmp_path, 2)  # The workers are compiled where there are some.
    none, two = run(tmp_path, 2)
    still_none, four = run(tmp_path, 4)
    assert none == still_none == 0
    assert one == two == four


def test_many_callers_at_once():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((30, 14, 14, 8)).astype(np.float32)
    weights = rng.standard_normal((3, 3, 8, 16)).astype(np.float32)
    expected = kernels.conv2d(inputs, weights, padding="same")
    wrong = []

    def work():
        for _ in range(30):
            if not np.array_equal(kernels.conv2d(inputs, weights, padding="same"), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


INTERRUPTED = textwrap.dedent("""
    import os, signal
    from cnnforge_kernels.authoring import kernel_address, kernel_family

    @kernel_family(1)
    def slot(number):
        os.kill(os.getpid(), signal.SIGINT)

    try:
        kernel_address(slot)
    except RuntimeError as error:
        print(error)
""")


def test_ctrl_c_while_a_kernel_compiles_is_reported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (
        "interrupted while a kernel of cnnforge was compiled\n",
        "",
    )


FAMILY = """
import numba, numpy as np
from numba import carray
from cnnforge_kernels.authoring import (
    KERNEL_SIGNATURE, address_of, cached_cfunc, cached_njit, call_kernel, kernel_address,
    kernel_family,
)

@kernel_family(3)
def KERNELS(number):
    value = {value} + number
    @cached_cfunc(KERNEL_SIGNATURE)
    def kernel(args, begin, end):
        carray(args, 1)[0] = value
    return kernel
"""
USER = """
import numpy as np
from cnnforge_kernels.authoring import address_of, cached_njit, call_kernel, kernel_address
from {family} import KERNELS

@{decorator}
def ask():
    block = np.zeros(1, np.int64)
    call_kernel(kernel_address(KERNELS + 1), address_of(block), 0, 1)
    return block[0]
"""
ASK = """
import importlib, sys
for name in sys.argv[1:]:
    print(name, importlib.import_module(name).ask())
"""


@pytest.fixture
def families(tmp_path):
    """Return `write(family, value, decorator)` and `ask(*users)`, of modules `use_<family>`."""

    def write(family, value, decorator="cached_njit()"):
        path = tmp_path / f"{family}.py"
        path.write_text(FAMILY.format(value=value))
        user = tmp_path / f"use_{family}.py"
        if not user.exists():
            user.write_text("import numba\n" + USER.format(family=family, decorator=decorator))

    def ask(*users):
        return subprocess.run(
            [sys.executable, "-B", "-c", ASK, *users],
            env={
                **os.environ,
                "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
                "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return write, ask


def test_cached_function_finds_its_kernels_in_any_order_of_imports(families):
    write, ask = families
    write("first", 10)
    write("second", 20)
    assert ask("use_first", "use_second").stdout == "use_first 11\nuse_second 21\n"
    assert ask("use_second", "use_first").stdout == "use_second 21\nuse_first 11\n"
    assert ask("use_second").stdout == "use_second 21\n"


def test_changed_kernels_are_not_called_from_a_cache(families):
    # Numba's own cache does not notice: the file of the function is the same.
    write, ask = families
    write("family", 10, "numba.njit(cache=True)")
    assert ask("use_family").stdout == "use_family 11\n"
    assert ask("use_family").stdout == "use_family 11\n"
    write("family", 30)
    done = ask("use_family")
    assert done.returncode != 0
    assert "decorate the function with cached_njit" in done.stderr


def test_unknown_slot_number_is_an_error():
    with pytest.raises(RuntimeError, match="does not exist"):
        compiled.compile_kernel(np.int64(12345))
    with pytest.raises(RuntimeError, match="does not exist"):
        # Beyond the end of its family.
        compiled.compile_kernel(compiled._table[0, 1] + (1 << 15))


@pytest.mark.parametrize(
    ("features", "lanes", "registers"),
    [
        ("+avx2,+avx512f,+fma", 16, 32),
        ("+avx2,-avx512f,+fma", 8, 16),
        ("+avx2,+sse2", 4, 16),
        ("", 4, 16),
    ],
)
def test_kernels_use_the_features_that_the_user_chose_for_numba(
    features, lanes, registers, monkeypatch
):
    monkeypatch.setattr(compiled.numba.config, "CPU_FEATURES", features)
    monkeypatch.setattr(compiled.llvm, "get_process_triple", lambda: "x86_64-unknown-linux-gnu")
    compiled._features.cache_clear()
    try:
        assert (compiled.vector_lanes(), compiled.vector_registers()) == (lanes, registers)
    finally:
        compiled._features.cache_clear()

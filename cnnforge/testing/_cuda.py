"""Compare the functions for CUDA devices with those for the CPU, in Numba's CUDA simulator.

Numba must know that it simulates before it is imported, so a new process runs the functions
(`cuda_simulator.py`). No device is needed.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnforge.errors import one_line
from cnnforge.ops import registered_ops
from cnnforge.ops.audit.intercept import Call
from cnnforge.ops.cuda_module import cuda_functions
from cnnforge.ops.definition.attributes import decode_attributes
from cnnforge.ops.definition.definition import parameters
from cnnforge.testing import cuda_simulator
from cnnforge.testing._subject import Array, Subject
from cnnforge.testing._values import compare

_TIMEOUT = 600
# The simulator runs each thread of a device as a thread of Python. So larger inputs take long.
_MAX_VARIED = 2_000


def cuda(subject: Subject) -> str:
    """Require that functions for CUDA devices compute what those for the CPU compute."""
    subjects = [
        it
        for it in subject.variants
        if it is subject or math.prod(it.case.input_shape) <= _MAX_VARIED
    ]
    calls = [(it, *found) for it in subjects for found in it.calls]
    known = {step: op for op in registered_ops() for step in (op.forward_step, *op.backward_steps)}
    chosen, requests = [], []
    for it, call, expected in calls:
        op = known.get(call.program.step)
        if op is not None and op.cuda is not None:
            chosen.append((it, call, expected))
            requests.append(_request(op, call, expected))
    if not requests:
        raise AssertionError(
            "no op of the layer can run on CUDA devices: name a module with its functions in "
            "ArrayOp(cuda=...)"
        )
    for (it, call, expected), found in zip(chosen, _simulated(requests), strict=True):
        _compare(it, call, expected, found)
    functions = {call.program.step.label for _, call, _ in chosen}
    plural = "" if len(functions) == 1 else "s"
    return f"{len(functions)} function{plural} in Numba's simulator, not on a device"


def _request(op: Any, call: Call, expected: Sequence[Array]) -> dict[str, Any]:
    step = call.program.step
    try:
        function = cuda_functions(op)[step]
    except ImportError as error:
        missing = (error.name or "").startswith("numba.cuda")
        hint = "; pip install 'cnnforge[cuda13]' installs numba-cuda" if missing else ""
        raise AssertionError(f"{op.cuda} cannot be imported: {one_line(error)}{hint}") from error
    except ValueError as error:
        raise AssertionError(str(error)) from error
    values: dict[str, Any] = decode_attributes(call.program.attributes, call.words)
    values |= {item.name: array for item, array in zip(step.reads, call.arrays, strict=True)}
    arguments = {name: values[name] for name in parameters(step.function) if name in values}
    outputs = {
        item.name: (array.shape, array.dtype.str)
        for item, array in zip(step.writes, expected, strict=True)
    }
    return {
        "module": op.cuda,
        "function": function.__name__,
        "arguments": arguments,
        "outputs": outputs,
    }


def _simulated(requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls"
        file.write_bytes(pickle.dumps(requests))
        path = os.pathsep.join(path for path in sys.path if path)
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", cuda_simulator.__name__, str(file)],
                env={**os.environ, "PYTHONPATH": path, "NUMBA_ENABLE_CUDASIM": "1"},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"Numba's CUDA simulator has not ended after {_TIMEOUT} s: look for a loop without "
                "end, or give the case a smaller input_shape"
            ) from None
        results = pickle.loads(file.read_bytes())
    if done.returncode or len(results) != len(requests):
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise AssertionError(
            f"Numba's CUDA simulator ends with status {done.returncode}: {' '.join(last)}"
        )
    return results


def _compare(
    subject: Subject, call: Call, expected: Sequence[Array], found: Mapping[str, Any]
) -> None:
    step = call.program.step
    label = f"{subject.where}{step.label}: its function for CUDA devices"
    if found["error"]:
        raise AssertionError(f"{label} raises {found['error']}")
    if found["changed"]:
        raise AssertionError(f"{label} modified '{found['changed']}', which it reads")
    for item, right in zip(step.writes, expected, strict=True):
        got = found["outputs"][item.name]
        terms = subject.terms if step.is_forward else subject.grad_terms(right, call.arrays[0])
        compare(f"{label}: '{item.name}'", got, right, terms, against="function for the CPU")

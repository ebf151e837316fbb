"""The CUDA stream that TensorFlow computes on: a C++ function, built once on the user's machine.

It is all that the C API lacks. It reads TensorFlow's own objects, whose layout is known to the
headers in TensorFlow's wheel alone; a compiler turns those into machine code, in about five
seconds, and the result is kept on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import tensorflow as tf

from cnnforge.utils.cache_folder import cache_folder

_SOURCE = Path(__file__).with_name("stream.cc")
_SYMBOL = "cnnforge_stream"
_COMPILERS = ("g++", "c++", "clang++")
# TensorFlow's headers warn of themselves. -O1: six instructions, and no assertions of theirs.
_FLAGS = ("-w", "-O1", "-DNDEBUG", "-shared", "-fPIC")
_SECONDS = 300


class NoStreamError(RuntimeError):
    """The stream of TensorFlow cannot be had; the message says what is missing."""


@cache
def stream_function() -> int:
    """The address of `int32 cnnforge_stream(TF_OpKernelContext *, int64 found[2])`.

    Raises:
        NoStreamError: There is no compiler, no header, or the compiler fails.
    """
    path = build(_cache_directory())
    try:
        # Python keeps it loaded.
        function = getattr(ctypes.CDLL(str(path)), _SYMBOL)
    except (OSError, AttributeError) as error:
        raise NoStreamError(f"{path} cannot be loaded: {error}; remove it") from error
    address = ctypes.cast(function, ctypes.c_void_p).value
    _loaded.append(function)
    return int(address or 0)


_loaded: list[object] = []


def build(folder: Path) -> Path:
    """Compile the function, unless the same has been compiled before.

    Args:
        folder: Where compiled code is kept.

    Returns:
        A shared library. Its name is a digest of TensorFlow's version, the compiler and its
        version, the flags (TensorFlow's own for its ABI among them) and the source.

    Raises:
        NoStreamError: There is no compiler, no header, or the compiler fails.
    """
    headers = Path(tf.sysconfig.get_include())
    if not (headers / "tensorflow/core/framework/op_kernel.h").exists():
        raise NoStreamError(f"TensorFlow's headers are not in {headers}")
    compiler = _compiler()
    flags = [*_FLAGS, *tf.sysconfig.get_compile_flags()]
    links = tf.sysconfig.get_link_flags()
    version = _run([*compiler, "--version"])
    facts = (tf.__version__, tf.version.GIT_VERSION, compiler, version, flags, links)
    digest = hashlib.sha256(repr(facts).encode() + _SOURCE.read_bytes()).hexdigest()
    path = folder / f"tf_stream-{digest[:32]}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(suffix=".so", dir=folder)
    except OSError as error:
        raise NoStreamError(f"{folder} cannot be written: {error}") from error
    os.close(handle)
    try:
        _run([*compiler, str(_SOURCE), *flags, "-o", made, *links])
        # Two processes that build it at once leave one whole file.
        os.replace(made, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(made)
    return path


def _cache_directory() -> Path:
    return cache_folder() / "tensorflow"


def _compiler() -> list[str]:
    """What `CXX` says, or the first of the usual ones that is there."""
    wanted = os.environ.get("CXX")
    commands = [shlex.split(wanted)] if wanted else [[name] for name in _COMPILERS]
    for command in commands:
        found = shutil.which(command[0]) if command else None
        if found is not None:
            return [found, *command[1:]]
    text = f"CXX is {wanted!r}, which is no program" if wanted else "no C++ compiler was found"
    raise NoStreamError(f"{text}; install one: apt install g++")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoStreamError(f"{command[0]} fails: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise NoStreamError(f"{command[0]} fails: {' '.join(lines[0].split())}")
    return done.stdout

"""Compile the C++ function that finds TensorFlow's CUDA stream, once on the user's machine.

Experimental: not yet run on a device.

TensorFlow's C API has no such function. The function in `stream.cc` reads C++ objects of
TensorFlow. Their layout differs between versions, so the function is compiled with the headers of
the installed TensorFlow. The user's compiler needs about five seconds; the result is kept on disk.
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
# `-w` turns off warnings, which TensorFlow's headers cause. `-O1` is enough for a function of a few
# instructions.
_FLAGS = ("-w", "-O1", "-DNDEBUG", "-shared", "-fPIC")
_MAX_SECONDS = 300


class NoStreamError(RuntimeError):
    """The C++ function cannot be compiled or loaded; the message says what is missing."""


@cache
def stream_function() -> int:
    """Return the address of `int32 cnnforge_stream(TF_OpKernelContext *, int64 found[2])`.

    Raises:
        NoStreamError: A compiler or a header is missing, or the compiler fails.
    """
    path = build(_cache_directory())
    try:
        # Python never unloads a library, so the address stays valid.
        function = getattr(ctypes.CDLL(str(path)), _SYMBOL)
    except (OSError, AttributeError) as error:
        raise NoStreamError(f"{path} cannot be loaded: {error}; remove it") from error
    address = ctypes.cast(function, ctypes.c_void_p).value
    _loaded.append(function)
    return int(address or 0)


_loaded: list[object] = []


def build(folder: Path) -> Path:
    """Compile the function, unless it has been compiled before.

    Args:
        folder: Folder of compiled code.

    Returns:
        Path of a shared library. Its name is a digest of TensorFlow's version, the compiler and its
        version, the flags (including TensorFlow's flags for its ABI) and the source.

    Raises:
        NoStreamError: A compiler or a header is missing, or the compiler fails.
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
        # Two processes may compile the function at once. Because of the rename, the path always
        # contains a complete file.
        os.replace(made, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(made)
    return path


def _cache_directory() -> Path:
    return cache_folder() / "tensorflow"


def _compiler() -> list[str]:
    """Return the command in `CXX`, or the first of the usual compilers that is installed."""
    wanted = os.environ.get("CXX")
    commands = [shlex.split(wanted)] if wanted else [[name] for name in _COMPILERS]
    for command in commands:
        found = shutil.which(command[0]) if command else None
        if found is not None:
            return [found, *command[1:]]
    text = f"CXX is {wanted!r}, which is not a program" if wanted else "no C++ compiler was found"
    raise NoStreamError(f"{text}; install one: apt install g++")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_MAX_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoStreamError(f"{command[0]} fails: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise NoStreamError(f"{command[0]} fails: {' '.join(lines[0].split())}")
    return done.stdout

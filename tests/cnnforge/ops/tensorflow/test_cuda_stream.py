"""Tests of the C++ function that finds TensorFlow's stream, without a device."""

import ctypes
import os
import shutil
import stat
from pathlib import Path

import pytest

from cnnforge.ops.tensorflow.cuda import stream
from cnnforge.ops.tensorflow.cuda.stream import NoStreamError, build

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, stream._COMPILERS)),
    reason="NO C++ COMPILER: the stream function is not tested here; apt install g++",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("built")


@needs_compiler
def test_the_function_is_built_once(folder, monkeypatch):
    path = build(folder)
    assert [it.name for it in folder.iterdir()] == [path.name]
    assert hasattr(ctypes.CDLL(str(path)), "cnnforge_stream")
    commands = []
    run = stream._run

    def noted(command):
        commands.append(command[1:])
        return run(command)

    monkeypatch.setattr(stream, "_run", noted)
    assert build(folder) == path
    assert commands == [["--version"]]


@needs_compiler
def test_another_source_or_compiler_is_built_again(folder, monkeypatch, tmp_path):
    built = build(folder)
    names = {built.name}

    def compile_nothing(command):
        if "-o" in command:
            Path(command[command.index("-o") + 1]).write_text("new")
        return "another version" if os.environ.get("CXX") else "version"

    monkeypatch.setattr(stream, "_run", compile_nothing)
    names.add(build(tmp_path).name)
    for compiler in ("true", "true --fast"):
        monkeypatch.setenv("CXX", compiler)
        names.add(build(tmp_path).name)
    source = tmp_path / "other.cc"
    source.write_bytes(stream._SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(stream, "_SOURCE", source)
    names.add(build(tmp_path).name)
    monkeypatch.setattr(stream.tf, "__version__", "0.0")
    names.add(build(tmp_path).name)
    assert len(names) == 6


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoStreamError, match=r"no C\+\+ compiler was found; install one: apt"):
        build(tmp_path / "cache")
    monkeypatch.setenv("CXX", "nosuchcompiler")
    with pytest.raises(NoStreamError, match="CXX is 'nosuchcompiler', which is not a program"):
        build(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_no_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(stream.tf.sysconfig, "get_include", lambda: str(tmp_path))
    with pytest.raises(NoStreamError, match="TensorFlow's headers are not in"):
        build(tmp_path)


def test_a_compiler_that_fails_leaves_nothing(tmp_path, monkeypatch):
    compiler = tmp_path / "broken"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
        "echo in file included from x >&2; echo 'x.h:1: error: no  luck' >&2; exit 1\n"
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NoStreamError, match=r"broken fails: x\.h:1: error: no luck$"):
        build(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(NoStreamError, match="cannot be written"):
        build(tmp_path / "file")

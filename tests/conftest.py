"""Settings that must be there before TensorFlow is imported; what ``pytest -m gpu`` collects."""

import os
import sys
from collections import Counter
from importlib.util import find_spec

import pytest

# TensorFlow's oneDNN corrupts memory in the gradient of the weights of strided 1x1 convolutions
# (2.21, some channel counts); as a reference it is used without.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# The test processes use all cores, so workers that compile ahead would only slow them down.
os.environ.setdefault("CNNFORGE_COMPILE_AHEAD", "0")
# The routes to TensorFlow's CUDA devices are experimental, and off by default.
os.environ.setdefault("CNNFORGE_TENSORFLOW_GPU", "auto")


# A slow test takes as long as this number of others, and so does one that reads spoiled files. A
# test that takes a minute or more has a larger number, such as `slow(300)`.
_SLOW = 40


@pytest.fixture(autouse=True)
def _same_path(monkeypatch):
    """Python finds modules in the folder of a plugin file, but not in other tests."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def pytest_configure(config):
    """No test sees a CUDA device but those that ask for one: ``pytest -m gpu``."""
    if not _asks_for_a_device(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def pytest_collection_modifyitems(config, items):
    """The processes of ``make test`` begin with the files that take long: if one of these were the
    last, all processes but one would wait for it."""
    if hasattr(config, "workerinput"):
        weights = Counter()
        for item in items:
            weights[item.path] += _weight(item)
        items.sort(key=lambda item: -weights[item.path])


def _weight(item):
    slow = item.get_closest_marker("slow")
    if slow is not None and slow.args:
        return slow.args[0]
    return _SLOW if slow or item.path.stem.startswith("test_fuzzing_") else 1


def pytest_report_header(config):
    if _asks_for_a_device(config) and find_spec("keras") is None:
        return "Keras is not installed: the tests that go through its layers are left out"
    return None


def pytest_ignore_collect(collection_path, config):
    """With ``-m gpu`` no file is imported that has no such test: most need TensorFlow, which a
    machine with a GPU may not have."""
    if not _asks_for_a_device(config):
        return None
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    return None if any(map(_tests_a_device, files)) else True


def _asks_for_a_device(config):
    return config.option.markexpr.strip() == "gpu"


def _tests_a_device(path):
    text = path.read_text(encoding="utf-8")
    needs_keras = "\nimport keras\n" in text
    return "mark.gpu" in text and not (needs_keras and find_spec("keras") is None)

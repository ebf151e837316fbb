"""Settings that must be there before TensorFlow is imported."""

import os

# TensorFlow's oneDNN corrupts memory in the gradient of the weights of strided 1x1 convolutions
# (2.21, some channel counts); as a reference it is used without.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure(config):
    """No test sees a CUDA device but those that ask for one: ``pytest -m gpu``."""
    if config.option.markexpr.strip() != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

"""Predict and evaluate with the model of a training run."""

from cnnforge.prediction.inputs import FileInputs, RunData, SampleInputs, find_inputs, open_samples
from cnnforge.prediction.predictor import Predictor, load_model

__all__ = [
    "FileInputs",
    "Predictor",
    "RunData",
    "SampleInputs",
    "find_inputs",
    "load_model",
    "open_samples",
]

"""Classifying images with what a training run has left behind."""

from cnnforge.prediction.inputs import FileInputs, RunData, SampleInputs, find_inputs, open_samples
from cnnforge.prediction.predictor import Predictor, load_model
from cnnforge.prediction.rows import Prediction, csv_table, submission

__all__ = [
    "FileInputs",
    "Prediction",
    "Predictor",
    "RunData",
    "SampleInputs",
    "csv_table",
    "find_inputs",
    "load_model",
    "open_samples",
    "submission",
]

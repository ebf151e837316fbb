"""Predict and evaluate with the model of a training run."""

from cnnforge.prediction.inputs import FileInputs, RunData, SampleInputs, find_inputs, open_samples
from cnnforge.prediction.predictor import Predictor, load_model
from cnnforge.tasks.classification import Prediction, csv_table, submission

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

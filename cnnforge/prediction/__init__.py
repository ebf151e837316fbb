"""Predict and evaluate with the model of a training run."""

from cnnforge.prediction.inputs import FileInputs, find_inputs
from cnnforge.prediction.kept_split import KeptSplit
from cnnforge.prediction.model import Model, Predictions
from cnnforge.prediction.opening import open_predictor
from cnnforge.prediction.predictor import OpenedModel, Predictor
from cnnforge.prediction.samples import RunData, SampleInputs, open_samples
from cnnforge.tasks.classification import Prediction, csv_table, submission

__all__ = [
    "FileInputs",
    "KeptSplit",
    "Model",
    "OpenedModel",
    "Prediction",
    "Predictions",
    "Predictor",
    "RunData",
    "SampleInputs",
    "csv_table",
    "find_inputs",
    "open_predictor",
    "open_samples",
    "submission",
]

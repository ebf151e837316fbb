"""Predicting with what a training run has left behind."""

from cnnforge.prediction.inputs import FileInputs as FileInputs
from cnnforge.prediction.inputs import RunData as RunData
from cnnforge.prediction.inputs import SampleInputs as SampleInputs
from cnnforge.prediction.inputs import find_inputs as find_inputs
from cnnforge.prediction.inputs import open_samples as open_samples
from cnnforge.prediction.predictor import Predictor as Predictor
from cnnforge.prediction.predictor import load_model as load_model

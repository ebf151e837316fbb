"""Train a model. Training can be interrupted and resumed at any step, with identical results."""

from cnnforge.backends import prepare
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.training.events import (
    BatchesDone,
    EpochBegun,
    EpochEnded,
    EpochMetrics,
    Event,
    FeaturesKept,
    Interrupted,
    Listener,
)
from cnnforge.training.loop import train
from cnnforge.training.order import order
from cnnforge.training.phases import FineTuning
from cnnforge.training.session import Session
from cnnforge.training.setup import resume, start
from cnnforge.training.state import Best, StateStore, TrainingResult, TrainingState
from cnnforge.utils.stop_signals import StopOnSignal

__all__ = [
    "BatchesDone",
    "Best",
    "EpochBegun",
    "EpochEnded",
    "EpochMetrics",
    "Event",
    "FeaturesKept",
    "FineTuning",
    "Interrupted",
    "Listener",
    "OptimizerOptions",
    "Session",
    "StateStore",
    "StopOnSignal",
    "TrainingResult",
    "TrainingState",
    "order",
    "prepare",
    "resume",
    "start",
    "train",
]

"""Training that can be interrupted and resumed at any step, and reproduced bit for bit."""

from cnnforge.backends import prepare as prepare
from cnnforge.optimizer_options import OptimizerOptions as OptimizerOptions
from cnnforge.training.events import BatchesDone as BatchesDone
from cnnforge.training.events import EpochBegun as EpochBegun
from cnnforge.training.events import EpochEnded as EpochEnded
from cnnforge.training.events import EpochMetrics as EpochMetrics
from cnnforge.training.events import Event as Event
from cnnforge.training.events import Interrupted as Interrupted
from cnnforge.training.events import Listener as Listener
from cnnforge.training.loop import TrainingResult as TrainingResult
from cnnforge.training.loop import train as train
from cnnforge.training.order import order as order
from cnnforge.training.session import Session as Session
from cnnforge.training.setup import resume as resume
from cnnforge.training.setup import start as start
from cnnforge.training.signals import StopOnSignal as StopOnSignal
from cnnforge.training.state import Best as Best
from cnnforge.training.state import StateStore as StateStore
from cnnforge.training.state import TrainingState as TrainingState

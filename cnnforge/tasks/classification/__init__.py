"""Classification: each image belongs to one of several classes."""

from cnnforge.tasks.classification.metrics import ClassEvaluation, ClassEvaluator, evaluate
from cnnforge.tasks.classification.report import Prediction, csv_table, rank, submission
from cnnforge.tasks.classification.task import Classification

__all__ = [
    "ClassEvaluation",
    "ClassEvaluator",
    "Classification",
    "Prediction",
    "csv_table",
    "evaluate",
    "rank",
    "submission",
]

"""Tasks define what a model learns. Classification is built in, and plugins can declare others.

A plugin declares its task with a `cnnforge.plugin.TaskSpec`, which names a subclass of `Task`.
"""

from cnnforge.tasks.box_output import BoxOutput
from cnnforge.tasks.evaluators import Evaluator
from cnnforge.tasks.export_form import ExportForm
from cnnforge.tasks.metric import LOSS, Evaluation, Metric, is_better
from cnnforge.tasks.opening import check_match, default_model, load_task, open_task, task_for
from cnnforge.tasks.options import prediction_options
from cnnforge.tasks.reports import Section, TaskSections
from cnnforge.tasks.rows import Row, Source, ValueRow, csv_table
from cnnforge.tasks.task import Task

__all__ = [
    "LOSS",
    "BoxOutput",
    "Evaluation",
    "Evaluator",
    "ExportForm",
    "Metric",
    "Row",
    "Section",
    "Source",
    "Task",
    "TaskSections",
    "ValueRow",
    "check_match",
    "csv_table",
    "default_model",
    "is_better",
    "load_task",
    "open_task",
    "prediction_options",
    "task_for",
]

"""Tasks, which define what a model learns: classification, and the tasks of plugins.

The task of a plugin is a subclass of `Task` that a `cnnforge.plugin.TaskSpec` names.
"""

from cnnforge.tasks.metric import LOSS as LOSS
from cnnforge.tasks.metric import Evaluation as Evaluation
from cnnforge.tasks.metric import Metric as Metric
from cnnforge.tasks.metric import is_better as is_better
from cnnforge.tasks.opening import check_match as check_match
from cnnforge.tasks.opening import load_task as load_task
from cnnforge.tasks.opening import open_task as open_task
from cnnforge.tasks.opening import task_for as task_for
from cnnforge.tasks.rows import Row as Row
from cnnforge.tasks.rows import ValueRow as ValueRow
from cnnforge.tasks.rows import csv_table as csv_table
from cnnforge.tasks.task import Evaluator as Evaluator
from cnnforge.tasks.task import Task as Task

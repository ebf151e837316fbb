"""Classification: each image belongs to one of several classes."""

from cnnforge.tasks.classification.metrics import ClassEvaluation as ClassEvaluation
from cnnforge.tasks.classification.metrics import ClassEvaluator as ClassEvaluator
from cnnforge.tasks.classification.metrics import cross_entropy as cross_entropy
from cnnforge.tasks.classification.metrics import evaluate as evaluate
from cnnforge.tasks.classification.report import Prediction as Prediction
from cnnforge.tasks.classification.report import rank as rank
from cnnforge.tasks.classification.report import submission as submission
from cnnforge.tasks.classification.task import Classification as Classification

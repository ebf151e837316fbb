"""Time plugin layers and their references, and report ratios of the times.

The reference of a plugin layer is the stock Keras layer that it replaces. Both are timed
alternately in one process, so that a busy machine slows both alike.
"""

from cnnforge.benchmarking.cases import every_layer as every_layer
from cnnforge.benchmarking.cases import layer_cases as layer_cases
from cnnforge.benchmarking.cases import model_cases as model_cases
from cnnforge.benchmarking.cases import parse_shape as parse_shape
from cnnforge.benchmarking.comparison import FORMAT as FORMAT
from cnnforge.benchmarking.comparison import MIN_ROUNDS as MIN_ROUNDS
from cnnforge.benchmarking.comparison import Change as Change
from cnnforge.benchmarking.comparison import compare as compare
from cnnforge.benchmarking.comparison import read_result as read_result
from cnnforge.benchmarking.comparison import remarks as remarks
from cnnforge.benchmarking.comparison import require_same_machine as require_same_machine
from cnnforge.benchmarking.measure import PASSES as PASSES
from cnnforge.benchmarking.measure import Measurement as Measurement
from cnnforge.benchmarking.measure import Pass as Pass
from cnnforge.benchmarking.measure import first_calls as first_calls
from cnnforge.benchmarking.measure import kernel_times as kernel_times
from cnnforge.benchmarking.measure import measure as measure
from cnnforge.benchmarking.measure import to_json as to_json
from cnnforge.benchmarking.peaks import Peaks as Peaks
from cnnforge.benchmarking.peaks import measure_peaks as measure_peaks
from cnnforge.benchmarking.table import csv_text as csv_text
from cnnforge.benchmarking.torch_peer import torch_missing as torch_missing
from cnnforge.benchmarking.work import work as work
from cnnforge.conversion.workloads import Case as Case
from cnnforge.conversion.workloads import Workload as Workload
from cnnforge.plugin import Work as Work
from cnnforge.utils.timing import Timing as Timing
from cnnforge.utils.timing import interleave as interleave
from cnnforge.utils.timing import ratio as ratio

"""Timing that can be believed: parity first, interleaved, in one process, as ratios."""

from cnnforge._timing import Timing as Timing
from cnnforge._timing import interleave as interleave
from cnnforge._timing import ratio as ratio
from cnnforge._workloads import Workload as Workload
from cnnforge.benchmarking.cases import Case as Case
from cnnforge.benchmarking.cases import every_layer as every_layer
from cnnforge.benchmarking.cases import layer_cases as layer_cases
from cnnforge.benchmarking.cases import model_cases as model_cases
from cnnforge.benchmarking.cases import parse_shape as parse_shape
from cnnforge.benchmarking.comparison import FORMAT as FORMAT
from cnnforge.benchmarking.comparison import Change as Change
from cnnforge.benchmarking.comparison import compare as compare
from cnnforge.benchmarking.comparison import read_result as read_result
from cnnforge.benchmarking.comparison import remarks as remarks
from cnnforge.benchmarking.comparison import require_same_machine as require_same_machine
from cnnforge.benchmarking.measure import PASSES as PASSES
from cnnforge.benchmarking.measure import Measurement as Measurement
from cnnforge.benchmarking.measure import Pass as Pass
from cnnforge.benchmarking.measure import check as check
from cnnforge.benchmarking.measure import measure as measure
from cnnforge.benchmarking.measure import to_json as to_json
from cnnforge.benchmarking.peaks import Peaks as Peaks
from cnnforge.benchmarking.peaks import measure_peaks as measure_peaks
from cnnforge.benchmarking.work import Work as Work
from cnnforge.benchmarking.work import work as work

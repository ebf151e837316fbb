"""The benchmarks that a run of pytest has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cnnforge.benchmarking import gate
from cnnforge.benchmarking.gate import PASSES, Ratio
from cnnforge.benchmarking.measure import Measurement, Pass
from cnnforge.conversion.workloads import Case


@dataclass
class Entry:
    """A benchmark that was measured.

    Attributes:
        case: The benchmark.
        rounds: The max number of its rounds.
        limit: The max number of seconds of its rounds.
        info: Dictionary `extra_info` of pytest-benchmark; every new measurement updates it.
        passes: The last measurement of each pass, by the name of the pass.
        attempts: Number of measurements of each pass.
    """

    case: Case
    rounds: int
    limit: float
    info: dict[str, Any]
    passes: dict[str, Pass] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, Ratio]:
        """The ratio of each pass, by the name of the pass."""
        return {name: gate.ratio(measured) for name, measured in self.passes.items()}

    def take(self, measured: Measurement, names: Sequence[str] = PASSES) -> None:
        """Replace the results of the passes `names` by those of a new measurement."""
        found = {one.name: one for one in measured.passes if one.name in names}
        self.passes |= found
        for name in found:
            self.attempts[name] = self.attempts.get(name, 0) + 1
        self.info |= {
            "ratio": plain(self.ratios),
            "seconds": {
                name: {"ours": it.ours.median, "reference": it.reference.median}
                for name, it in self.passes.items()
            },
        }

    def limits(self, thresholds: Mapping[str, float]) -> dict[str, float]:
        """Return the min ratio of each pass: the larger of the threshold and the `min_ratio`.

        Args:
            thresholds: The thresholds of this machine by key.

        Returns:
            The min ratios by the name of the pass. A pass without any limit is left out.
        """
        found = {}
        for name in PASSES:
            both = (thresholds.get(f"{self.case.name}.{name}"), self.case.min_ratio)
            given = [limit for limit in both if limit is not None]
            if given:
                found[name] = max(given)
        return found


def plain(ratios: Mapping[str, Ratio]) -> dict[str, dict[str, float]]:
    """Return ratios as values that JSON knows."""
    return {key: asdict(ratio) for key, ratio in ratios.items()}

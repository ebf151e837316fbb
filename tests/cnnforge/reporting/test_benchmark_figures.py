"""The figure of `cnnforge bench`: written, whole, whatever is known of the cases."""

from pathlib import Path

import pytest
from PIL import Image

from cnnforge.reporting.benchmark_figures import benchmark_figure


def result(count, *, flops=1e10, ratio=True):
    def timed(factor):
        rate = flops and flops / factor
        return {"median": factor, "p20": factor, "p80": factor, "flops": rate, "bytes": rate}

    passes = {
        name: {
            "ours": timed(1.0),
            "reference": timed(2.0),
            "ratio": {"median": 2.0, "p20": 1.5, "p80": 9.0} if ratio else None,
        }
        for name in ("forward", "backward", "full")
    }
    cases = [
        {"name": f"lay$er {number}x2x3", "layers": ["a", "b"], "passes": passes}
        for number in range(count)
    ]
    return {
        "cases": [*cases, {"name": "not measured", "layers": [], "passes": {}}],
        "machine": {
            "cpu": {"model": "A processor"},
            "backend": {"name": "tensorflow", "version": "2"},
        },
        "peaks": {"flops": 1e11, "bytes": 1e10, "threads": 2},
        "rounds": 30,
    }


def without_backward():
    found = result(2)
    found["cases"][0]["passes"] = {
        name: it for name, it in found["cases"][0]["passes"].items() if name != "backward"
    }
    return found


@pytest.mark.parametrize(
    "found",
    [
        result(1),
        result(40),
        result(2, flops=None),
        result(2, ratio=False),
        result(0),
        without_backward(),
    ],
)
def test_figure(tmp_path: Path, found):
    path = tmp_path / "bench.png"
    benchmark_figure(path, found)
    with Image.open(path) as image:
        image.load()
        assert image.size[0] > 1000

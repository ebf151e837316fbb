"""The loops of bench_loops.py compute the same; their times are not tested."""

import bench_loops
import numpy as np


def test_all_versions_are_compared_and_timed(monkeypatch, capsys):
    monkeypatch.setattr(bench_loops, "SHAPE", (2, 5, 6, 21))
    monkeypatch.setattr("sys.argv", ["bench_loops.py", "--rounds", "1"])
    bench_loops.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [version.__name__ for version in bench_loops.VERSIONS]
    assert rows[0][-1] == "1.0x"


def test_arrays_begin_at_a_cache_line():
    for size in (1, 17, 1000):
        values = np.arange(float(size))
        copy = bench_loops.aligned(values)
        assert copy.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy, values)

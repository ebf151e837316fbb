"""The table of bench_inference.py, and the environments of its processes."""

import bench_inference
import inference_engines
import pytest

RESULT = {
    "machine": "EPYC, znver5, 2 cores",
    "threads": 2,
    "lanes": None,
    "not compared": {"Third": "Third is not installed"},
    "engines": {
        "cnnforge": {"version": "1", "lanes": "16"},
        "ONNX Runtime": {"version": "2"},
        "OpenVINO": {"version": "3"},
    },
    "rows": [
        {
            "network": name,
            "images": 4000,
            "batch size": 64,
            "mode": "batch",
            "best": dict(zip(("cnnforge", "ONNX Runtime", "OpenVINO"), best, strict=True)),
            "median": dict(zip(("cnnforge", "ONNX Runtime", "OpenVINO"), best, strict=True)),
        }
        for name, best in {"lenet": (1.0, 2.0, 4.0), "resnet20": (1.0, 8.0, 1.0)}.items()
    ],
}


@pytest.fixture
def result():
    found = {**RESULT}
    bench_inference.summarize(found)
    return found


def test_means(result):
    # The faster engine is another one in each row: 2 and 1.
    assert result["geometric mean"]["batch"] == pytest.approx(
        {"ONNX Runtime": 4.0, "OpenVINO": 2.0, "faster engine": 2**0.5}
    )


def test_table(result):
    lines = bench_inference.table(result)
    assert lines[0].count("|") == 7
    assert lines[2] == (
        "| lenet 4,000, 64 | 1.0000 (1.0000) | 2.0000 (2.0000) | 4.0000 (4.0000) | 2.00 | 4.00 |"
    )
    assert lines[-1] == (
        "| geometric mean, batch; with the faster engine 1.41 |  |  |  | 4.00 | 2.00 |"
    )


def test_the_table_of_a_document(result, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- bench_inference.py -->\nold\n<!-- end -->\nb\n<!-- end -->\n")
    bench_inference.put_into(path, result)
    text = path.read_text()
    assert text.startswith("a\n<!-- bench_inference.py -->\n\n*EPYC, znver5, 2 cores; 2 threads")
    assert "Not compared: Third is not installed" in text
    assert "| lenet 4,000, 64 |" in text
    assert "old" not in text
    assert text.endswith("\n<!-- end -->\nb\n<!-- end -->\n")
    with pytest.raises(SystemExit, match=r"has no lines <!-- bench_inference.py --lanes 8 -->"):
        bench_inference.put_into(path, {**result, "lanes": 8})


def test_environments():
    whole = inference_engines.environment("OpenVINO", 2, None)
    assert whole["NUMBA_NUM_THREADS"] == "2"
    assert "ONEDNN_MAX_CPU_ISA" not in whole
    narrow = inference_engines.environment("cnnforge", 1, 8)
    assert narrow["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "+avx512" not in narrow["NUMBA_CPU_FEATURES"]
    with pytest.raises(ValueError, match="ONNX Runtime has no setting"):
        inference_engines.environment("ONNX Runtime", 2, 8)


def test_only_a_whole_table_is_written(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "--only", "lenet", "--write", "page.md"])
    with pytest.raises(SystemExit):
        bench_inference.parse()
    assert "--write needs all networks and modes" in capsys.readouterr().err

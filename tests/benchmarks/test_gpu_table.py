"""Tests of the rows of bench_gpu.py: their work and floors, and the files and lines of results."""

import json
from dataclasses import replace

import bench_gpu
import numpy as np
import pytest
from gpu import problem, results, rows
from gpu.ceilings import H200, Ceilings, floor
from gpu.measure import Measured, from_json
from gpu.rows import ROWS, select, work

BY_KEY = {row.key: row for row in ROWS}
ABOUT = {
    "gpu": "NVIDIA H200",
    "driver": "CUDA 13.0",
    "torch": "2.11.0",
    "cudnn": "91002",
    "numba_cuda": "0.30.4",
}


def made(key, ours=2e-5, ratio=1.5, verdict="right", **more):
    """Make a row with made-up times."""
    if verdict != "right":
        return Measured(key, verdict=verdict)
    row = BY_KEY[key]
    needed, least = work(row), floor(row, H200)
    three = (ratio, 0.9 * ratio, 1.1 * ratio)
    return Measured(
        key,
        ours=(ours, 0.9 * ours, 1.2 * ours),
        peer=(ours * ratio, 0.9 * ours * ratio, 1.3 * ours * ratio),
        peer_name="compiled channels_last",
        ratio=three,
        floor=least.seconds,
        bound=least.bound,
        flops=needed.flops,
        bytes=needed.bytes,
        distance=1e-6,
        sets=26,
        rounds=31,
        **more,
    )


def test_rows_of_the_table():
    assert len({row.key for row in ROWS}) == len(ROWS)
    for case in ("seed1", "seed2", "seed7", "cifar", "mid", "r64", "r128", "stem", "point"):
        for which in ("forward", "grad_inputs", "grad_weights"):
            assert f"{case}.convolution.{which}" in BY_KEY
        for which in ("forward", "full"):
            assert f"{case}.block.{which}" in BY_KEY
    for case in ("seed1", "seed2", "seed7", "cifar"):
        assert BY_KEY[f"{case}@4096.block.full"].inputs[0] == 4096
    for case in ("r64", "r128"):
        for precision in ("tf32", "bfloat16"):
            row = BY_KEY[f"{case}@256.convolution.grad_weights.{precision}"]
            assert row.inputs[0] == 256
            assert row.precision == precision
    assert BY_KEY["depth.depthwise.grad_weights"].weights == (3, 3, 64, 1)
    assert BY_KEY["pool_cifar.average.backward"].outputs == (64, 16, 16, 32)
    assert BY_KEY["stem.convolution.forward"].outputs == (4, 56, 56, 64)
    assert not BY_KEY["seed1.block.full"].grad_inputs
    assert BY_KEY["mid.block.full"].grad_inputs


def test_select():
    assert select(["*"]) == list(ROWS)
    found = {row.key for row in select(["seed1"])}
    assert {"seed1.block.full", "seed1@4096.block.full", "seed1.convolution.forward"} <= found
    assert [row.key for row in select(["pool_stem.max.*"])] == [
        "pool_stem.max.forward",
        "pool_stem.max.backward",
    ]
    assert 10 <= len(select(rows.SHORT)) <= 25
    with pytest.raises(ValueError, match=r"'seed3' names no row. Expected a case \(seed1, "):
        select(["seed1", "seed3"])


@pytest.mark.parametrize(
    ("key", "flops", "size"),
    [
        # 2 * 250 * 28 * 28 * 25 * 8; inputs, outputs, weights.
        ("seed1.convolution.forward", 78_400_000, 4 * (196_000 + 1_568_000 + 200)),
        ("seed1.convolution.grad_weights", 78_400_000, 4 * (196_000 + 1_568_000 + 200)),
        ("depth.depthwise.grad_inputs", 18_874_368, 4 * (2 * 1_048_576 + 576)),
        # Each of four cells counts as one operation, and an argmax is one byte.
        ("pool_stem.average.forward", 802_816, 4 * (802_816 + 200_704)),
        ("pool_stem.max.backward", 200_704, 4 * (802_816 + 200_704) + 200_704),
    ],
)
def test_work_of_a_pass(key, flops, size):
    assert (work(BY_KEY[key]).flops, work(BY_KEY[key]).bytes) == (flops, size)


def test_work_equals_that_of_the_layer_benchmarks():
    """Compare convolutions and pools, whose layers have the same passes."""
    from layer_cases import build

    from cnnforge import benchmarking
    from cnnforge.plugin_host.discovery import discover

    layers, known = discover().layers, 0
    names = {"max": "max", "average": "average", "block": "block", "convolution": "convolution"}
    for row in ROWS:
        if row.large or row.op not in names or row.which.startswith("grad"):
            continue
        workload = build(f"{row.case}.{names[row.op]}", layers).workload
        layer = workload.build(workload.kind)
        shaped = replace(workload, shape=row.inputs, grad_inputs=row.grad_inputs)
        counted = benchmarking.work(shaped, layer)[row.which]
        assert (counted.flops, counted.bytes) == (work(row).flops, work(row).bytes), row.key
        known += 1
    assert known == 9 * 3 + 4 * 2 * 2


def test_floors():
    slow = Ceilings(1e12, 1e12, 8e12, 16e12)
    row = BY_KEY["r64@256.convolution.forward.tf32"]
    least = floor(row, slow)
    assert least.bound == "flops"
    assert least.seconds == work(row).flops / 8e12
    least = floor(BY_KEY["pool_seed1.max.forward"], slow)
    assert least.bound == "bytes"
    assert least.seconds == work(BY_KEY["pool_seed1.max.forward"]).bytes / 1e12
    assert floor(replace(row, precision="bfloat16"), slow).seconds == work(row).flops / 16e12


@pytest.mark.parametrize(("precision", "fraction"), [("tf32", 10), ("bfloat16", 7)])
def test_operands_of_tensor_cores_need_no_rounding(precision, fraction):
    row = replace(BY_KEY["seed2.convolution.grad_weights"], precision=precision)
    for array in problem.values(row).values():
        assert not (array.view(np.uint32) & np.uint32((1 << (23 - fraction)) - 1)).any()
        assert 0.9 < array.std() < 1.1


def test_the_file_holds_everything_and_is_read_again(tmp_path):
    path = results.path_of(tmp_path, ABOUT["gpu"])
    assert path.name == "nvidia-h200.csv"
    assert results.read(path) == ([], {}, None)
    table = [
        made("seed1.block.full", tuned={"conv_block ...": "threads 64"}, note="a peer failed, so"),
        made("seed2.block.full", verdict='WRONG: differs, "by" 3'),
        replace(made("stem.block.full"), distance=None, peer=None, ratio=None, peer_name=""),
    ]
    path.write_text(results.csv_text(table, ABOUT, H200))
    found, about, ceilings = results.read(path)
    assert about == ABOUT
    assert ceilings == H200
    assert [row.key for row in found] == [row.key for row in table]
    assert found[0].tuned == table[0].tuned
    assert found[1] == table[1]
    assert found[2].peer is None
    assert found[0].ours == pytest.approx(table[0].ours, rel=1e-5)
    header, first, *_ = path.read_text().splitlines()
    assert header == ",".join(results.COLUMNS)
    assert first.endswith("H200,CUDA 13.0,2.11.0,91002,0.30.4,4.8e+12,6.7e+13,4.95e+14,9.9e+14")
    path.write_text("case,ours\nseed1,3\n")
    with pytest.raises(ValueError, match="was not written by this version"):
        results.read(path)


def test_messages_between_processes():
    row = made("seed1.block.full")
    assert from_json(json.loads(json.dumps(row.to_json()))) == row


def test_the_table():
    text = results.table(
        [made("seed1.block.full", note="x failed. "), made("mid.block.full", verdict="WRONG: no")],
        H200,
    )
    lines = text.splitlines()
    assert lines[0].startswith("measured: copy 4800 GB/s")
    assert "20.00     30.00    1.50 (1.35 to 1.65)" in lines[3]
    assert lines[3].endswith("compiled channels_last, by flops  [x failed.]")
    assert lines[4].split() == ["mid.block.full", "WRONG:", "no"]


def test_the_floors_without_a_device(capsys):
    assert bench_gpu.main(["--floors", "--cases", "seed1.convolution.forward"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| seed1.convolution.forward | 78.4 | 7.06 | 1.47 | bytes |"
    ]


def verdicts(found):
    return [str(goal).split("  ")[0] for goal in found]


def test_goals():
    assert verdicts(results.goals([], None))[:6] == ["not measured"] * 6
    everything = [
        made(row.key, ours=work(row).bytes / (0.95 * H200.bytes), ratio=2.5) for row in ROWS
    ]
    assert verdicts(results.goals(everything, H200, epoch=1.6)) == ["reached"] * 7
    # The minimum of the blocks counts, and the mean of the convolutions.
    worse = [
        replace(row, ratio=(1.9, 1.8, 2.0)) if row.key == "seed7@4096.block.full" else row
        for row in everything
    ]
    worse = [
        replace(row, ratio=(0.5, 0.5, 0.5)) if row.key == "mid.convolution.forward" else row
        for row in worse
    ]
    found = results.goals(worse, H200, epoch=1.4)
    assert verdicts(found)[:2] == ["NOT REACHED", "reached"]
    assert verdicts(found)[5] == "NOT REACHED"
    assert found[0].value == 1.9
    # A wrong row has no time, and the other rows alone do not reach the goal.
    broken = [
        Measured(row.key, verdict="WRONG: x") if row.key == "seed1@4096.block.full" else row
        for row in everything
    ]
    found = results.goals(broken, H200)
    assert verdicts(found)[0] == "incomplete"
    assert str(found[0]).endswith("1 rows are missing")
    assert verdicts(found)[6] == "NOT REACHED"


def test_the_picture(tmp_path):
    from gpu.picture import picture
    from matplotlib.image import imread

    random = np.random.default_rng(0)
    shown = [made(row.key, 1e-5, float(random.uniform(0.5, 4))) for row in ROWS[::3]]
    shown.append(made("seed1.block.full", verdict="WRONG: no time"))
    shown.append(replace(made("stem.block.full"), peer=None, ratio=None))
    path = tmp_path / "table.png"
    picture(path, shown, ABOUT)
    height, width, _ = imread(path).shape
    assert height > 1000
    assert width > 1500
    with pytest.raises(ValueError, match="no row has a time"):
        picture(path, [made("seed1.block.full", verdict="WRONG: no")], ABOUT)

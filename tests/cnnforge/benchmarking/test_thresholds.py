"""Files of thresholds: written, read, and on which machine they hold."""

import pytest

from cnnforge.benchmarking import thresholds
from cnnforge.benchmarking.gate import Ratio
from cnnforge.benchmarking.thresholds import ELSEWHERE, Machine, Threshold
from cnnforge.errors import UsageError

HERE = Machine("a processor", 2, "tensorflow 2.21")
MACHINE = "[machine]\ncpu = 'x'\ncores = 2\nbackend = 'torch 2.9'\n"


def test_what_was_written_is_read_again(tmp_path):
    path = tmp_path / "thresholds.toml"
    run = {"a.full": Ratio(4.4, 3, 5, 4), "b.full": Ratio(2, 2, 2, 3)}
    entries = thresholds.renewed(run, [run], None, HERE)
    path.write_text(thresholds.thresholds_text(entries, HERE))
    found = thresholds.read_thresholds(path)
    assert found.machine == HERE
    assert found.entries == {"a.full": Threshold(3.0, 4.4), "b.full": Threshold(1.5, 2.0)}


def test_a_key_that_another_process_has_not_measured():
    ratio = Ratio(2, 2, 2, 2)
    runs = [{"a.full": ratio, "b.full": ratio}, {"a.full": ratio}]
    with pytest.raises(UsageError, match=r"b\.full was not measured in every process: .*idle"):
        thresholds.renewed(runs[0], runs, None, HERE)


@pytest.mark.parametrize("least", ["0", "-1.0", "'fast'", "{ measured = 2.0 }"])
def test_a_threshold_that_cannot_fail_is_refused(tmp_path, least):
    path = tmp_path / "thresholds.toml"
    path.write_text(f"{MACHINE}[ratios]\n'a.full' = {least}\n")
    with pytest.raises(UsageError, match=r"at_least of 'a\.full' is .* expected a number above 0"):
        thresholds.read_thresholds(path)


@pytest.mark.parametrize("machine", ["", "machine = 'old'", "[machine]\ncpu = 'x'"])
def test_thresholds_of_no_machine_are_refused(tmp_path, machine):
    path = tmp_path / "thresholds.toml"
    path.write_text(machine)
    with pytest.raises(UsageError, match=r"\[machine\] must have cpu, cores and backend, got"):
        thresholds.read_thresholds(path)


def test_a_file_that_is_not_toml(tmp_path):
    path = tmp_path / "thresholds.toml"
    path.write_text("[ratios")
    with pytest.raises(UsageError, match=r"thresholds\.toml is not TOML: .*--cnnforge-gate-write"):
        thresholds.read_thresholds(path)


@pytest.mark.parametrize(
    ("other", "factor"),
    [
        (HERE, 1.0),
        (Machine("another", 2, "tensorflow 2.21"), ELSEWHERE),
        (Machine("a processor", 2, "tensorflow 2.22"), ELSEWHERE),
        (Machine("a processor", 4, "tensorflow 2.21"), None),
        (Machine("a processor", 2, "torch 2.21"), None),
    ],
    ids=["same", "cpu", "version", "cores", "backend"],
)
def test_where_thresholds_hold(other, factor):
    assert HERE.factor(other) == factor


def test_this_machine():
    machine = thresholds.this_machine()
    assert machine.cores >= 1
    name, version = machine.backend.split()
    assert name
    assert version.count(".") == 1


def test_of_several_files_that_of_this_machine_is_taken(tmp_path):
    machines = [Machine(f"processor {n}", 2, "tensorflow 2.21") for n in range(3)]
    for number, machine in enumerate(machines):
        text = thresholds.thresholds_text({"a.full": Threshold(1.0 + number)}, machine)
        (tmp_path / thresholds.file_name(machine.cpu, "toml")).write_text(text)
    assert sorted(it.name for it in tmp_path.iterdir()) == [f"processor-{n}.toml" for n in range(3)]
    for number, machine in enumerate(machines):
        found = thresholds.nearest_thresholds(tmp_path, machine)
        assert found.machine == machine
        assert found.entries == {"a.full": Threshold(1.0 + number)}
    unknown = Machine("another", 2, "tensorflow 2.21")
    assert thresholds.nearest_thresholds(tmp_path, unknown).machine == machines[0]


def test_a_folder_without_thresholds(tmp_path):
    with pytest.raises(UsageError, match="--cnnforge-gate-write writes one"):
        thresholds.nearest_thresholds(tmp_path, HERE)

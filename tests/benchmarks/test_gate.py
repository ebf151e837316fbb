"""The gate's verdicts on measurements that are made up, and the names of the real cases."""

import cases  # pyright: ignore[reportMissingImports]
import gate  # pyright: ignore[reportMissingImports]
import layer_cases  # pyright: ignore[reportMissingImports]
import pytest
from gate import Machine, Ratio, WrongResultError  # pyright: ignore[reportMissingImports]

KEYS = ("a.block.forward", "a.block.full", "b.max.forward", "b.max.full")
THRESHOLDS = dict.fromkeys(KEYS, 2.0)
PAIRS = ("a.block", "b.max")


class Fake:
    """Ratios by pair and pass; a list gives one for each attempt."""

    def __init__(self, width=0.01, **ratios):
        self.calls = []
        self._ratios = {"a.block": {"forward": 3.0, "full": 3.0}, "b.max": {"forward": 3.0}}
        self._ratios["b.max"]["full"] = 3.0
        for key, value in ratios.items():
            pair, which = key.rsplit("_", 1)
            self._ratios[pair.replace("_", ".")][which] = value
        self._width = width

    def __call__(self, pair, attempt):
        self.calls.append((pair, attempt))
        found = {}
        for which, value in self._ratios[pair].items():
            if isinstance(value, list):
                value = value[attempt]
            if value is not None:
                half = value * self._width / 2
                found[which] = Ratio(value, value - half, value + half, value)
        return found


def check(measure, pairs=PAIRS, thresholds=THRESHOLDS, keys=KEYS):
    return gate.check(pairs, thresholds, measure, keys=keys)


def test_all_is_well():
    measure = Fake()
    report = check(measure)
    assert report.failures == []
    assert [row[0] for row in report.rows] == list(KEYS)
    assert measure.calls == [("a.block", 0), ("b.max", 0)]


def test_a_regression():
    measure = Fake(a_block_full=1.5)
    report = check(measure)
    (failure,) = report.failures
    assert failure.startswith("a.block.full: 1.50 times as fast")
    assert "at least 2.00" in failure
    assert "measured 4 times" in failure
    # The other pair lies between the first two attempts, and is not measured again.
    assert measure.calls == [("a.block", 0), ("b.max", 0)] + [("a.block", n) for n in (1, 2, 3)]


@pytest.mark.parametrize("values", [[1.9, 2.1], [1.0, 1.9, 2.1], [0.5, 0.5, 0.5, 2.0]])
def test_only_what_is_below_is_measured_again(values):
    measure = Fake(b_max_forward=values)
    report = check(measure)
    assert report.failures == []
    again = [("b.max", number) for number in range(1, len(values))]
    assert measure.calls == [("a.block", 0), ("b.max", 0), *again]
    expected = {**dict.fromkeys(KEYS, 1), KEYS[2]: len(values)}
    assert {row[0]: row[3] for row in report.rows} == expected


def test_what_stays_below_has_become_slower():
    assert len(check(Fake(b_max_forward=[1.98, 1.2, 1.9, 1.99])).failures) == 1


def test_the_best_of_both_counts_where_a_core_was_taken():
    def measure(pair, attempt):
        return dict.fromkeys(layer_cases.PASSES, Ratio(1.2, 0.5, 2.5, 2.4))

    assert check(measure).failures == []


def test_a_case_without_a_threshold():
    report = check(Fake(), thresholds={key: 2.0 for key in KEYS[:-1]})
    assert report.failures == ["b.max.full is measured and has no threshold"]


def test_a_threshold_without_a_case():
    report = check(Fake(), thresholds={**THRESHOLDS, "zebra.average.full": 1.0})
    assert report.failures == ["zebra.average.full has a threshold and is not measured"]


def test_a_renamed_case():
    thresholds = {key.replace("b.max", "b2.max"): value for key, value in THRESHOLDS.items()}
    failures = check(Fake(), thresholds=thresholds).failures
    assert len(failures) == 4
    assert "b2.max.full has a threshold and is not measured (renamed? there is b.max.full)" in (
        failures
    )


def test_names_are_compared_in_the_short_form_too():
    measure = Fake()
    report = check(measure, pairs=PAIRS[:1], thresholds={key: 2.0 for key in KEYS[:-1]})
    assert measure.calls == [("a.block", 0)]
    assert len(report.failures) == 1


def test_nothing_ran():
    assert check(Fake(), pairs=()).failures == ["nothing was measured"]


@pytest.mark.parametrize("error", [WrongResultError("grad_kernel"), LookupError("no layer")])
def test_a_layer_that_is_wrong_or_missing(error):
    def measure(pair, attempt):
        raise error

    failures = check(measure).failures
    assert failures[0] == f"a.block: {error}"
    assert failures[-1] == "nothing was measured"


def test_a_pass_that_drowns_in_the_noise():
    assert check(Fake(a_block_full=None)).failures == ["a.block.full could not be measured"]
    assert check(Fake(a_block_full=[None, 3.0])).failures == []


HERE = Machine("a processor", 2, "tensorflow 2.21")


def test_the_written_thresholds_are_read_again(tmp_path):
    path = tmp_path / "thresholds.toml"
    path.write_text(gate.thresholds_text({"a.block.full": Ratio(4.4, 3, 5, 4)}, 0.25, HERE))
    assert gate.read_thresholds(path) == ({"a.block.full": 3.0}, HERE)


@pytest.mark.parametrize("least", ["0", "-1.0", "'fast'", "{ measured = 2.0 }"])
def test_a_threshold_that_cannot_fail_is_refused(tmp_path, least):
    path = tmp_path / "thresholds.toml"
    path.write_text(f"[ratios]\n'a.block.full' = {least}\n")
    with pytest.raises(ValueError, match=r"at_least of 'a\.block\.full'"):
        gate.read_thresholds(path)


@pytest.mark.parametrize("machine", ["machine = 'old'", "[machine]\ncpu = 'x'"])
def test_thresholds_of_no_machine_are_refused(tmp_path, machine):
    path = tmp_path / "thresholds.toml"
    path.write_text(machine)
    with pytest.raises(ValueError, match="cpu, cores and backend"):
        gate.read_thresholds(path)


@pytest.mark.parametrize(
    ("other", "factor"),
    [
        (HERE, 1.0),
        (Machine("another", 2, "tensorflow 2.21"), gate.ELSEWHERE),
        (Machine("a processor", 2, "tensorflow 2.22"), gate.ELSEWHERE),
        (Machine("a processor", 4, "tensorflow 2.21"), None),
        (Machine("a processor", 2, "torch 2.21"), None),
    ],
    ids=["same", "cpu", "version", "cores", "backend"],
)
def test_where_thresholds_hold(other, factor):
    assert HERE.factor(other) == factor


def everything(ratio):
    return lambda pair, attempt: dict.fromkeys(
        layer_cases.PASSES, Ratio(ratio, ratio, ratio, ratio)
    )


COMMITTED = sorted(gate.THRESHOLDS.glob("*.toml"))


def committed():
    return gate.read_thresholds(COMMITTED[0])[1]


def elsewhere():
    return Machine("another", committed().cores, committed().backend)


def larger():
    return Machine(committed().cpu, 64, committed().backend)


def test_on_another_machine(capsys):
    thresholds, _ = gate.read_thresholds(COMMITTED[0])

    def half(pair, attempt):
        found = {it: thresholds[f"{pair}.{it}"] / 2 for it in layer_cases.PASSES}
        return {name: Ratio(it, it, it, it) for name, it in found.items()}

    assert gate.main([], measure=half, machine=committed) == 1
    capsys.readouterr()
    # Half as fast is no reason on another processor; a hundredth is one.
    assert gate.main([], measure=half, machine=elsewhere) == 0
    assert "40% of them are expected" in capsys.readouterr().out
    assert gate.main([], measure=everything(0.01), machine=elsewhere) == 1
    capsys.readouterr()
    # With other cores no ratio is; a wrong layer is, and so is nothing.
    assert gate.main([], measure=everything(0.01), machine=larger) == 0
    assert capsys.readouterr().out.startswith("NOT COMPARABLE: thresholds of ")

    def wrong(pair, attempt):
        raise WrongResultError("outputs")

    assert gate.main([], measure=wrong, machine=larger) == 1


@pytest.mark.parametrize("short", [[], ["--short"]])
def test_the_program(capsys, short):
    assert gate.main(short, measure=everything(1000.0), machine=committed) == 0
    out, err = capsys.readouterr()
    count = len(layer_cases.SHORT) * 2 if short else len(layer_cases.KEYS)
    assert out.splitlines()[-1] == f"{count} ratios, 0 failures"
    assert gate.main(short, measure=everything(0.001), machine=committed) == 1
    out, err = capsys.readouterr()
    assert err.count("FAILED: ") == count


def test_the_program_writes_thresholds(tmp_path):
    path = tmp_path / "thresholds.toml"
    arguments = ["--write", "--thresholds", str(path)]
    assert gate.main(arguments, measure=everything(2.0), machine=lambda: HERE) == 0
    assert gate.read_thresholds(path) == (dict.fromkeys(layer_cases.KEYS, 1.5), HERE)


def test_the_lowest_of_several_processes_is_written():
    fast, slow = (dict.fromkeys(KEYS, Ratio(it, it, it, it)) for it in (2.0, 1.5))
    assert gate._lowest([fast, slow, fast]) == slow


def test_a_process_that_fails_writes_nothing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "thresholds.toml"
    monkeypatch.setattr(
        gate.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 1})
    )
    assert gate.main(["--write", "--thresholds", str(path)]) == 1
    assert not path.exists()
    assert "nothing was written" in capsys.readouterr().err


def test_nothing_is_written_of_a_case_that_cannot_be_measured(tmp_path, capsys):
    path = tmp_path / "thresholds.toml"
    assert gate.main(["--write", "--thresholds", str(path)], measure=lambda *_: {}) == 1
    assert not path.exists()
    assert "could not be measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--only", "seed1.blok"], ["--margin", "1.5", "--write"], ["--thresholds", "nowhere.toml"]],
)
def test_bad_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        gate.main(arguments, measure=everything(2.0))
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_committed_thresholds_fit_the_cases(path):
    thresholds, machine = gate.read_thresholds(path)
    assert gate.compare_names(layer_cases.KEYS, thresholds) == []
    assert path.name == layer_cases.file_name(machine.cpu, "toml")


def test_of_several_files_that_of_this_machine_is_taken(tmp_path):
    machines = [Machine(f"processor {n}", 2, "tensorflow 2.21") for n in range(3)]
    for number, machine in enumerate(machines):
        arguments = ["--write", "--thresholds", str(tmp_path)]
        assert gate.main(arguments, everything(4.0 + number), lambda it=machine: it) == 0
    assert sorted(it.name for it in tmp_path.iterdir()) == [f"processor-{n}.toml" for n in range(3)]
    for number, machine in enumerate(machines):
        thresholds, theirs = gate.nearest_thresholds(tmp_path, machine)
        assert theirs == machine
        assert set(thresholds.values()) == {(4.0 + number) * 0.75}
    unknown = Machine("another", 2, "tensorflow 2.21")
    assert gate.nearest_thresholds(tmp_path, unknown)[1] == machines[0]


def test_a_folder_without_thresholds(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        gate.main(["--thresholds", str(tmp_path)], measure=everything(2.0), machine=lambda: HERE)
    assert stopped.value.code == 2
    assert "--write writes one" in capsys.readouterr().err


def test_every_case_is_measured():
    every = (*cases.CONVOLUTIONS, *cases.DEPTHWISE, *cases.POOLS, *cases.DROPOUTS)
    every += cases.NORMALIZATIONS
    assert {pair.partition(".")[0] for pair in layer_cases.PAIRS} == {case.name for case in every}
    assert len({case.name for case in every}) == len(every)
    assert set(layer_cases.SHORT) <= set(layer_cases.PAIRS)


def test_every_pair_can_be_built():
    from cnnforge.benchmarking import work
    from cnnforge.plugin_host.discovery import discover

    layers = discover().layers
    convolutions = {case.name: case for case in cases.CONVOLUTIONS}
    for pair in layer_cases.PAIRS:
        case = layer_cases.build(pair, layers)
        assert case.name == pair
        stock = case.workload.build(case.workload.reference)
        counted = work(case.workload, stock)
        assert counted is not None
        name, kind = pair.split(".")
        if kind == "convolution" and name in convolutions:
            assert counted["forward"].flops == convolutions[name].flops

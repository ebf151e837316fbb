"""The gate's verdicts on measurements that are made up, and the names of the real cases."""

import cases  # pyright: ignore[reportMissingImports]
import gate  # pyright: ignore[reportMissingImports]
import layer_cases  # pyright: ignore[reportMissingImports]
import pytest
from gate import Ratio, WrongResultError  # pyright: ignore[reportMissingImports]

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
                found[which] = Ratio(value, value - half, value + half, 30)
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
    assert measure.calls == [("a.block", 0), ("b.max", 0)]


def test_only_an_ambiguous_case_is_repeated():
    measure = Fake(b_max_forward=[1.98, 2.5])
    report = check(measure)
    assert report.failures == []
    assert measure.calls == [("a.block", 0), ("b.max", 0), ("b.max", 1)]
    assert {row[0]: row[3] for row in report.rows} == {**dict.fromkeys(KEYS, 1), KEYS[2]: 2}


def test_a_repeated_case_may_turn_out_to_be_slower():
    assert len(check(Fake(b_max_forward=[1.98, 1.2])).failures) == 1


@pytest.mark.parametrize(
    ("values", "failures"), [([1.98, 2.02, 2.03, 2.01], 0), ([2.01, 1.97, 1.98, 1.99], 1)]
)
def test_what_stays_ambiguous_is_decided_by_the_middle(values, failures):
    measure = Fake(a_block_forward=values)
    assert len(check(measure).failures) == failures
    assert len(measure.calls) == 1 + len(values)


def test_wide_measurements_are_ambiguous():
    assert gate.judge(Ratio(1.5, 0.5, 2.5, 9), 2.0) == "ambiguous"
    assert gate.judge(Ratio(1.5, 1.4, 1.6, 900), 2.0) == "slower"
    assert gate.judge(Ratio(2.01, 2.01, 2.01, 30), 2.0) == "ambiguous"


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


def test_the_written_thresholds_are_read_again(tmp_path):
    path = tmp_path / "thresholds.toml"
    path.write_text(gate.thresholds_text({"a.block.full": Ratio(4, 3, 5, 9)}, 0.25, "a machine"))
    assert gate.read_thresholds(path) == {"a.block.full": 3.0}


@pytest.mark.parametrize("least", ["0", "-1.0", "'fast'", "{ measured = 2.0 }"])
def test_a_threshold_that_cannot_fail_is_refused(tmp_path, least):
    path = tmp_path / "thresholds.toml"
    path.write_text(f"[ratios]\n'a.block.full' = {least}\n")
    with pytest.raises(ValueError, match=r"at_least of 'a\.block\.full'"):
        gate.read_thresholds(path)


def everything(ratio):
    return lambda pair, attempt: dict.fromkeys(layer_cases.PASSES, Ratio(ratio, ratio, ratio, 9))


@pytest.mark.parametrize("short", [[], ["--short"]])
def test_the_program(capsys, short):
    assert gate.main(short, measure=everything(1000.0)) == 0
    out, err = capsys.readouterr()
    count = len(layer_cases.SHORT) * 2 if short else len(layer_cases.KEYS)
    assert out.splitlines()[-1] == f"{count} ratios, 0 failures"
    assert gate.main(short, measure=everything(0.001)) == 1
    out, err = capsys.readouterr()
    assert err.count("FAILED: ") == count


def test_the_program_writes_thresholds(tmp_path):
    path = tmp_path / "thresholds.toml"
    arguments = ["--write", "--thresholds", str(path)]
    assert gate.main(arguments, measure=everything(2.0)) == 0
    assert gate.read_thresholds(path) == dict.fromkeys(layer_cases.KEYS, 1.5)


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


def test_the_committed_thresholds_fit_the_cases():
    thresholds = gate.read_thresholds(gate.THRESHOLDS)
    assert gate.compare_names(layer_cases.KEYS, thresholds) == []


def test_every_case_is_measured():
    every = (*cases.CONVOLUTIONS, *cases.DEPTHWISE, *cases.POOLS)
    assert {pair.partition(".")[0] for pair in layer_cases.PAIRS} == {case.name for case in every}
    assert len({case.name for case in every}) == len(every)
    assert set(layer_cases.SHORT) <= set(layer_cases.PAIRS)


def test_every_pair_can_be_built():
    from cnnforge.benchmarking import work
    from cnnforge.discovery import discover

    layers = discover().layers
    convolutions = {case.name: case for case in cases.CONVOLUTIONS}
    for pair in layer_cases.PAIRS:
        case = layer_cases.build(pair, layers)
        assert case.name == pair
        stock = case.workload.build(case.workload.reference)
        counted = work(stock, case.workload.shape)
        assert counted is not None
        name, kind = pair.split(".")
        if kind == "convolution" and name in convolutions:
            assert counted["forward"].flops == convolutions[name].flops

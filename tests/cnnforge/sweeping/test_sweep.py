"""Sweeps with a toy trainer: proposals, interruptions, and folders of others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import toy_sweep

from cnnforge.errors import CnnforgeError, RunError, UsageError
from cnnforge.runs.finding import runs_in
from cnnforge.sweeping import local, storage
from cnnforge.sweeping.files import FIGURE, TABLE, write_results
from cnnforge.sweeping.results import BEST, SweepResult
from cnnforge.sweeping.space import read_space

TRIALS = 8


@pytest.fixture(autouse=True)
def _path_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOY_SECONDS", "TOY_FAILS", "TOY_DIES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep that was not interrupted."""
    return toy_sweep.run(tmp_path_factory.mktemp("whole") / "sweep", TRIALS)


def shown(result: SweepResult) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.value, t.values, t.epochs) for t in result.trials]


def test_all_trials_run(whole: SweepResult) -> None:
    assert [each.number for each in whole.trials] == list(range(TRIALS))
    assert len({each.run for each in whole.trials}) == TRIALS
    assert len(runs_in(whole.folder)) == TRIALS
    assert {each.state for each in whole.trials} <= {"done", "pruned"}
    done = [each for each in whole.trials if each.state == "done"]
    assert whole.best.value == max(each.value for each in done)
    assert whole.ranked[0] == whole.best
    assert sum(whole.importance.values()) == pytest.approx(1)


def test_a_finished_sweep_stays_as_it_is(whole: SweepResult) -> None:
    assert shown(toy_sweep.run(whole.folder, TRIALS)) == shown(whole)
    assert shown(toy_sweep.run(whole.folder, 3)) == shown(whole)


def test_more_trials_continue_a_sweep(whole: SweepResult, tmp_path: Path) -> None:
    toy_sweep.run(tmp_path, 3)
    assert shown(toy_sweep.run(tmp_path, TRIALS)) == shown(whole)


@pytest.mark.parametrize("group", [False, True])
def test_a_killed_sweep_ends_with_the_same_trials(
    whole: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: bool
) -> None:
    """The sweep alone is killed, or its processes, too."""
    folder = tmp_path / "sweep"
    monkeypatch.setenv("TOY_SECONDS", "0.05")
    command = [sys.executable, toy_sweep.__file__, str(folder), str(TRIALS)]
    for kill in (1, 2):
        process = subprocess.Popen(command, start_new_session=True)
        before = len(list(folder.glob("toy-*")))
        while len(list(folder.glob("toy-*"))) < before + kill and process.poll() is None:
            time.sleep(0.002)
        time.sleep(0.03 * kill)
        assert process.poll() is None, "the sweep ended before it was killed"
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    monkeypatch.setenv("TOY_SECONDS", "0")
    assert shown(toy_sweep.run(folder, TRIALS)) == shown(whole)
    assert len(runs_in(folder)) == TRIALS


def test_a_killed_process_of_a_trial_is_replaced(
    whole: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DIES", "2")
    found = toy_sweep.run(tmp_path, 2)
    assert shown(found) == shown(whole)[:2]
    assert len(runs_in(tmp_path)) == 2


def test_processes_are_replaced_now_and_then(
    whole: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_TRIALS_PER_PROCESS", 2)
    started = []
    process = toy_sweep.Process
    monkeypatch.setattr(toy_sweep, "Process", lambda *given: started.append(1) or process(*given))
    assert shown(toy_sweep.run(tmp_path, 4)) == shown(whole)[:4]
    assert len(started) == 2


def test_a_value_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    found = toy_sweep.run(tmp_path, 2, space=["ema=0.1,0.2"], options={"model": "nan"})
    assert "failed" in {each.state for each in found.trials}
    assert {each.error for each in found.trials if each.state == "failed"} == {
        "its accuracy is not a finite number"
    }


def test_a_stop_keeps_the_running_trial(
    whole: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_SECONDS", "0.5")
    # The first epoch has ended, and three are left.
    found = toy_sweep.run(tmp_path, TRIALS, should_stop=lambda: any(tmp_path.glob("*/metrics.csv")))
    assert found.trials[-1].state == "unfinished"
    monkeypatch.setenv("TOY_SECONDS", "0")
    lines: list[str] = []
    assert shown(toy_sweep.run(tmp_path, TRIALS, lines=lines)) == shown(whole)
    assert lines[0].startswith(f"trial {found.trials[-1].number} goes on: ")


def test_several_trials_run_at_a_time(tmp_path: Path) -> None:
    found = toy_sweep.run(tmp_path, 6, parallel=3, prune=False)
    assert [each.state for each in found.trials] == ["done"] * 6
    assert len(runs_in(tmp_path)) == 6


def test_a_trial_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAILS", "some")
    found = toy_sweep.run(tmp_path, 6, space=["learning_rate=1e-2..3e-2"], prune=False)
    failed = [each for each in found.trials if each.state == "failed"]
    assert failed
    assert len(failed) < 6
    assert failed[0].error == "the loss is not a finite number"
    assert found.ranked[-1].state == "failed"


def test_a_sweep_ends_if_nothing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAILS", "all")
    with pytest.raises(CnnforgeError, match=r"the first 3 trials failed.*not a finite number"):
        toy_sweep.run(tmp_path, 8)


def test_another_sweep_is_not_continued(whole: SweepResult) -> None:
    with pytest.raises(
        UsageError, match="has another sweep, in which epochs is 4, and now 9: type"
    ):
        toy_sweep.run(whole.folder, TRIALS, options={"epochs": 9})
    with pytest.raises(UsageError, match=r"in which batch_size is 16\.\.64, and now left out"):
        toy_sweep.run(whole.folder, TRIALS, space=["learning_rate=1e-4..3e-2"])


def test_a_folder_of_runs_is_not_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    with pytest.raises(UsageError, match="is not the folder of a sweep"):
        toy_sweep.run(tmp_path, 1)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"the folder .* cannot be used: "):
        toy_sweep.run(tmp_path / "file", 1)


def test_what_a_killed_process_left_is_repaired(tmp_path: Path, whole: SweepResult) -> None:
    toy_sweep.run(tmp_path, 2)
    (tmp_path / "journal.log.lock").symlink_to("journal.log")
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":')
    lines: list[str] = []
    assert shown(toy_sweep.run(tmp_path, TRIALS, lines=lines)) == shown(whole)
    assert lines[0].startswith("a lock of a killed process is removed: ")
    assert lines[1].endswith("was not complete, and is removed")


@pytest.mark.parametrize("name", ["journal.log", "sweep.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    toy_sweep.run(tmp_path, 1)
    (tmp_path / name).write_text("oops\n{}\n")
    with pytest.raises(RunError, match=rf"{name}.*another --output"):
        toy_sweep.run(tmp_path, 1)


def test_values_that_optuna_cannot_compare_are_named(
    whole: SweepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        # What NumPy says about a whole number of more than 64 bits.
        raise TypeError("loop of ufunc does not support argument 0 of type int")

    monkeypatch.setattr(optuna.importance, "get_param_importances", fail)
    with pytest.raises(RunError, match=r"journal.log cannot be read .*another --output"):
        toy_sweep.run(whole.folder, TRIALS)


def test_one_process_works_on_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_PATIENCE", 0.2)
    with storage.claimed(tmp_path), pytest.raises(RunError, match="another process works on"):
        toy_sweep.run(tmp_path, 1)


def test_a_run_that_was_not_noted_is_adopted(tmp_path: Path, whole: SweepResult) -> None:
    """The sweep was killed after the directory was made, before the journal had its name."""
    toy_sweep.run(tmp_path, 1)
    lines = (tmp_path / "journal.log").read_text().splitlines(keepends=True)
    place = next(at for at, line in enumerate(lines) if '"user_attr":{"run"' in line)
    (tmp_path / "journal.log").write_text("".join(lines[:place]))
    assert shown(toy_sweep.run(tmp_path, TRIALS)) == shown(whole)
    assert len(runs_in(tmp_path)) == TRIALS


def test_results_are_written(whole: SweepResult) -> None:
    write_results(whole, read_space(toy_sweep.SPACE))
    table = (whole.folder / TABLE).read_text().splitlines()
    assert table[0] == "trial,state,accuracy,epochs,batch_size,learning_rate,optimizer,run,error"
    assert len(table) == TRIALS + 1
    assert (whole.folder / FIGURE).read_bytes().startswith(b"\x89PNG")
    best = (whole.folder / BEST).read_text()
    assert f"trial {whole.best.number}" in best
    assert f"learning_rate = {whole.best.values['learning_rate']}" in best
    assert "output" not in best


def test_optuna_can_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage.check_optuna()
    monkeypatch.setattr(storage, "find_spec", lambda name: None)
    with pytest.raises(CnnforgeError, match=r"pip install 'cnnforge\[sweep\]'"):
        storage.check_optuna()


def test_the_study_is_an_ordinary_one_of_optuna(whole: SweepResult) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(whole.folder / "journal.log"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    assert study.best_value == whole.best.value

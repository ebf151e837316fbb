"""The supervision of workers that train together. Nothing here needs Ray."""

import signal
from pathlib import Path
from typing import Any

import pytest

from cnnforge.distributed import machines
from cnnforge.distributed.machines import Place, scratch, share
from cnnforge.distributed.ray_train import RayTrain
from cnnforge.distributed.supervisor import WorkerDied, supervise
from cnnforge.errors import CnnforgeError, RunError
from cnnforge.utils.names import resume_command

RUN = "runs/lenet-001"


@pytest.fixture
def training(tmp_path: Path) -> RayTrain:
    """A training with two workers that prints into the lists `shown` and `told`."""
    (tmp_path / "runs").mkdir()
    found = RayTrain(
        command=("-c",),
        arguments=("train", "lenet"),
        resumed=lambda run: ["train", "--resume", str(run)],
        run=None,
        output=tmp_path / "runs",
        place=Place(tmp_path, [tmp_path / "runs"]),
        workers=2,
        address="local",
        startup_timeout=60.0,
        show=lambda line, stream: found.shown.append((line, stream)),
        tell=lambda line: found.told.append(line),
    )
    found.shown, found.told = [], []
    return found


def begin(training: RayTrain, *ranks: int) -> list[Any]:
    """Let the workers of a new attempt begin."""
    attempt = f"{training._attempt}+"
    who = {"begins": True, "host": "h", "attempt": attempt}
    return [
        training._answer({"rank": rank, "node": f"n{rank}", "process": 70 + rank, **who})
        for rank in ranks
    ]


def end(training: RayTrain, rank: int, code: int, *errors: str) -> bool:
    return training._answer({"rank": rank, "code": code, "errors": list(errors)})


def test_a_dead_worker_is_named_and_all_go_on_with_the_run(training: RayTrain) -> None:
    assert begin(training, 0, 1) == [{"arguments": ["train", "lenet"], "run": None}] * 2
    line = f"run directory: {RUN}"
    training._answer({"rank": 0, "line": line, "stream": "err"})
    assert training.shown == [(line, "err")]
    assert end(training, 1, -signal.SIGKILL)
    # The first one has lost the other: nothing is told again.
    assert end(training, 0, 4, "worker 1 has ended")
    assert begin(training, 0, 1) == [{"arguments": ["train", "--resume", RUN], "run": RUN}] * 2
    assert not end(training, 0, 0)
    assert training.told == [
        f"worker 1 on h was ended by SIGKILL; all workers start again from the last state of {RUN}"
    ]


def test_a_dead_process_of_ray_is_named(training: RayTrain) -> None:
    begin(training, 0, 1)
    training._note_death("warning: worker process 71 died: it was killed, or it crashed")
    training._note_death("warning: worker process 99 died: it was killed, or it crashed")
    assert training.told == [
        "worker 1 on h was killed (process 71 of Ray); all workers start again from the beginning"
    ]


def test_restarts_in_vain_end(training: RayTrain, tmp_path: Path) -> None:
    training.run = tmp_path / "runs" / "r"
    (training.run / "last").mkdir(parents=True)
    begin(training, 0, 1)
    for restart in range(3):
        assert end(training, 0, 4, "another worker has ended")
        begin(training, 0, 1)
        assert training.told[restart].startswith("worker 0 on h has lost another one; all workers")
    end(training, 0, 4, "another worker has ended")
    with pytest.raises(RunError, match=r"3 restarts in a row .* --resume .*/r --workers 2'"):
        begin(training, 0)


def test_an_error_of_a_worker_is_final(training: RayTrain) -> None:
    begin(training, 0, 1)
    assert not end(training, 1, 2, "there is no data")
    with pytest.raises(CnnforgeError, match=r"^worker 1 on h: there is no data$") as raised:
        training._fail(1, 2)
    assert raised.value.exit_code == 2
    assert not training.told


@pytest.mark.parametrize("code", [0, 143])
def test_a_worker_that_has_saved_is_not_started_again(training: RayTrain, code: int) -> None:
    begin(training, 0, 1)
    training._stopping = True
    assert not end(training, 0, code)
    assert training._codes == {0: 0}
    # This one could not save.
    assert not end(training, 1, 1, "no space left")
    assert training._codes[1] == 1
    assert begin(training, 0) == [None]


def test_a_worker_that_never_began_is_waited_for(training: RayTrain) -> None:
    """The first attempt ends before all have begun; the second one has all."""
    training._waiting_since = 0.0
    begin(training, 0)
    assert begin(training, 1, 0)[0] is not None
    assert training._begun == {0, 1}
    assert training._waiting_since is None


class Asking:
    """A desk, a call that never ends and a watch. Each question is asked when it is served."""

    def __init__(self, training: RayTrain, *questions: Any) -> None:
        self.training, self.questions = training, list(questions)
        self.asked: list[str] = []

    def serve(self, seconds: float) -> None:
        question = self.questions.pop(0)
        if callable(question):
            question()
        else:
            rank, code = question
            end(self.training, rank, code)

    def look(self) -> bool:
        return False

    def has_ended(self) -> bool:
        return False

    def stop(self) -> None:
        self.asked.append("stop")

    def end(self) -> None:
        self.asked.append("end")


def wait(training: RayTrain, asking: Asking, should_stop: Any = lambda: False) -> None:
    there: Any = asking
    training._wait(there, there, there, should_stop)
    assert not asking.questions


@pytest.mark.parametrize("lost", [False, True])
def test_training_ends_with_its_last_worker(training: RayTrain, lost: bool) -> None:
    """Also if a machine is lost whose processes go on to the last epoch."""
    begin(training, 0)

    def others() -> None:
        begin_in_same_attempt(training, 1)
        if lost:
            training._died(0, "is lost with its machine")

    asking = Asking(training, (0, 0), others, (1, 0))
    wait(training, asking)
    assert asking.asked == []
    assert not training._errors
    assert training.told == (
        ["worker 0 on h is lost with its machine; all workers start again from the beginning"]
        if lost
        else []
    )


def test_a_stop_ends_with_the_last_worker(training: RayTrain) -> None:
    begin(training, 0)
    asking = Asking(training, lambda: None, (0, 130))
    wait(training, asking, lambda: len(asking.questions) == 1)
    assert asking.asked == ["stop"]


def test_an_error_ends_the_other_workers(training: RayTrain) -> None:
    begin(training, 0)
    begin_in_same_attempt(training, 1)
    asking = Asking(training, (1, 3), (0, 1))
    wait(training, asking)
    assert asking.asked == ["stop", "end"]
    assert training._codes == {0: 0, 1: 3}


def begin_in_same_attempt(training: RayTrain, rank: int) -> None:
    who = {"host": "h", "attempt": training._attempt, "node": f"n{rank}", "process": 70 + rank}
    training._answer({"rank": rank, "begins": True, **who})


def test_lines_name_the_command_with_its_workers(training: RayTrain) -> None:
    training.run, training.address = Path(RUN), "auto"
    line = f"the time limit is reached; go on with {resume_command(RUN)}"
    training._answer({"rank": 0, "line": line, "stream": "err"})
    assert training.shown == [(line[:-1] + " --workers 2 --address auto'", "err")]
    # The command has an option, and another line names another run.
    for line in (resume_command(RUN, "--cache"), resume_command(f"{RUN}-2")):
        training._answer({"rank": 0, "line": line, "stream": "err"})
    assert [line for line, _ in training.shown[1:]] == [
        f"'cnnforge train --resume {RUN} --workers 2 --address auto --cache'",
        resume_command(f"{RUN}-2"),
    ]


def test_a_machine_without_the_data_is_named(training: RayTrain) -> None:
    with pytest.raises(CnnforgeError, match="does not see"):
        training._answer({"rank": 1, "missing": "the machine h does not see /data"})


class FakeDesk:
    """Answers like a training that runs `script` in a worker."""

    def __init__(self, script: str, stopped: bool = False) -> None:
        self.asked, self._script, self._stopped = [], script, stopped

    def ask(self, **question: Any) -> Any:
        self.asked.append(question)
        if "begins" in question:
            return {"arguments": [self._script], "run": None}
        return question.get("code", 0) < 0

    def is_stopped(self) -> bool:
        return self._stopped and any("line" in each for each in self.asked)

    def is_over(self) -> bool:
        return False


def supervised(script: str, folder: Path, rank: int = 0, stopped: bool = False) -> FakeDesk:
    desk: Any = FakeDesk(script, stopped)
    supervise(rank, {}, desk, Place(folder, [folder]), ("-c",), {"TF_CONFIG": "here"})
    return desk


SCRIPT = """
import os, sys
print(os.environ["TF_CONFIG"], os.environ.get("TF_USE_LEGACY_KERAS"), os.getcwd())
print("note", file=sys.stderr)
print("error: wrong", file=sys.stderr)
sys.exit(2)
"""


def test_lines_of_the_first_worker_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    desk = supervised(SCRIPT, tmp_path)
    lines = {each["line"]: each["stream"] for each in desk.asked if "line" in each}
    assert lines == {f"here None {tmp_path}": "out", "note": "err"}
    assert desk.asked[-1] == {"rank": 0, "code": 2, "errors": ["wrong"]}
    # Of the others only errors.
    desk = supervised(SCRIPT, tmp_path, rank=1)
    assert [sorted(each) for each in desk.asked[1:]] == [["code", "errors", "rank"]]


def test_a_killed_process_and_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(WorkerDied):
        supervised("import os; os.kill(os.getpid(), 9)", tmp_path)
    waits = """
import signal, sys
signal.signal(15, lambda *_: sys.exit(143))
print("ready", flush=True)
signal.pause()
"""
    assert supervised(waits, tmp_path, stopped=True).asked[-1]["code"] == 143


def test_what_a_machine_does_not_see_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_VISIBLE", 0.0)
    desk: Any = FakeDesk("")
    supervise(1, {}, desk, Place(tmp_path, [tmp_path / "data"]), ("-c",), {})
    (asked,) = desk.asked
    assert f"does not see {tmp_path / 'data'}: all machines need the data" in asked["missing"]
    assert Place.here("mnist5k", None, tmp_path).needed == [tmp_path]


@pytest.mark.parametrize(
    ("sizes", "workers", "part"), [([8], 2, 4), ([8], 3, 2), ([4, 4, 4], 2, 4), ([0, 1, 1], 2, 1)]
)
def test_processors_are_shared(sizes: list[int], workers: int, part: int) -> None:
    assert share(sizes, workers) == part


def test_too_few_processors() -> None:
    with pytest.raises(CnnforgeError, match=r"has 3 processors, which is too few for 4 workers"):
        share([1, 2], 4)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"file/runs cannot be written to: Not a directory; name"),
        scratch(tmp_path / "file" / "runs"),
    ):
        pass
    with scratch(tmp_path / "runs") as folder:
        assert folder.is_dir()
    assert not list((tmp_path / "runs").iterdir())

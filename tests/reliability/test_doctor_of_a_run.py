"""`cnnforge doctor --resume` and `--determinism`, on copies of runs."""

import dataclasses
import errno
import hashlib
import json
import re
import shutil
import signal
from pathlib import Path

import odd_layers
import pytest

from cnnforge.cli import main
from cnnforge.cli.doctor import worker
from cnnforge.runs import RunDirectory
from cnnforge.training import StateStore
from cnnforge.verifying.processes import Copies

# Its processes are copies of the process of the command, which has computed nothing. So they do not
# import Keras again, which takes seconds.
FORKED = """
import json, os
from cnnforge.cli.doctor import worker
from cnnforge.verifying import processes
def run(self, request, environment):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.environ.clear()
        os.environ.update(environment)
        with os.fdopen(writing, "w") as answers:
            json.dump(worker.answer_to(json.loads(request)), answers)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        output = answers.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output
processes.Copies._run = run
"""
KNOWN_DRAW = """
from cnnforge.verifying import resuming
class random:
    class Random:
        def randint(self, low, high):
            return 4
resuming.random = random
"""
TWO_PROCESSORS = """
from cnnforge.verifying import repeating
repeating.usable_processors = lambda: 2
"""
# A result of `cnnforge.verifying.trials.answer`.
TRIAL = {
    "last": 2,
    "limit": 2,
    "batches": 6,
    "notes": [],
    "weights": "0" * 64,
    "difference": None,
}
PLUGIN = ("--plugin", odd_layers.__file__)


@pytest.fixture(scope="module")
def run_of(train, tmp_path_factory):
    """Return `run_of(model, *arguments)`: a run that has trained one epoch."""
    known = {}

    def run_of(model, *arguments):
        key = model, *arguments
        if key not in known:
            folder = tmp_path_factory.mktemp("runs")
            ended = train(model, folder, "--epochs", "2", *PLUGIN, *arguments)
            assert ended.code == 0, ended.err
            known[key] = Path(ended.json["run"])
        return known[key]

    return run_of


@pytest.fixture(scope="module")
def doctor(commands):
    """Return `doctor(*arguments)`: the command, in processes that are copies of one."""

    def doctor(*arguments, before="", **more):
        return commands.run("doctor", *arguments, before=FORKED + before, **more)

    return doctor


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_can_be_resumed(run_of, doctor, tmp_path):
    run = run_of("small", "--augment", "shift:1")
    before = digests(run)
    ended = doctor("--resume", run, "--json", environment={"TMPDIR": str(tmp_path)})
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["equal"]
    assert found["difference"] is None
    assert found["weights"]["whole"] == found["weights"]["interrupted"]
    assert found["steps"] == 10
    assert found["from"] == {"epoch": 1, "batch": 1}
    assert found["resumed_after"] == found["killed_after"] - 1
    assert 1 <= found["resumed_after"] <= 9
    assert digests(run) == before
    assert not list(tmp_path.iterdir())


def test_the_last_state_of_a_run_that_goes_on_is_resumed(train, doctor, tmp_path):
    where = {"TOY_SIGNAL": f"{signal.SIGKILL} 5"}
    ended = train("plain", tmp_path, "--epochs", "2", environment=where)
    assert ended.code == 128 + signal.SIGKILL
    (run,) = tmp_path.iterdir()
    # What a check must not do in the run: such a file is a leftover of the killed process.
    (run / "last" / ".cnnforge-tmp-leftover").touch()
    before = digests(run)
    ended = doctor("--resume", run, "--steps", "5", before=KNOWN_DRAW)
    assert ended.code == 0, ended.err
    first, whole, killed, last = ended.out.splitlines()
    # Images are read ahead of the batch that is trained.
    begun = r"trained 5 steps from epoch 1, batch [2-5], in copies; the run is unchanged"
    assert re.search(begun, first)
    assert re.fullmatch(r"not interrupted:    [0-9a-f]{16}\.\.\.", whole)
    assert killed.endswith("(SIGKILL after step 4, resumed after step 3)")
    assert last == "the same bits: this run can be interrupted at any time"
    assert digests(run) == before


def test_a_difference_after_a_resume_is_named(run_of, doctor):
    run = run_of("of_the_process")
    ended = doctor("--resume", run, "--steps", "4")
    assert ended.code == 1
    *_, other, advice = ended.out.splitlines()
    assert re.match(r"OTHER BITS: \d+ of \d+ variables differ, first .*before/kernel", other)
    assert "(layer 'before' (Dense)), by up to " in other
    assert f"type: cnnforge doctor --determinism {run}; then report it to the authors" in advice


def test_a_steady_run_is_bit_equal(run_of, doctor):
    run = run_of("small", "--augment", "shift:1")
    before = digests(run)
    ended = doctor("--determinism", run, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["equal"]
    assert found["steps"] == 3
    assert [trial["how"] for trial in found["trials"]][:2] == [
        "a process",
        "the same process again",
    ]
    assert len(found["trials"]) == 5
    assert len({trial["weights"] for trial in found["trials"]}) == 1
    assert digests(run) == before


@pytest.mark.parametrize(
    ("model", "kind", "cause"),
    [
        ("unseeded", "from run to run", "random numbers without a seed"),
        ("of_the_process", "from process to process", "a number of the process"),
        ("of_the_threads", "with the number of threads", "sums whose order depends"),
    ],
)
def test_the_first_layer_that_differs_is_named(run_of, doctor, model, kind, cause):
    run = run_of(model)
    ended = doctor("--determinism", run, before=TWO_PROCESSORS)
    assert ended.code == 1, ended.err
    *_, line, advice = ended.out.splitlines()
    kinds = {"unseeded": "Unseeded", "of_the_process": "OfTheProcess"}
    layer = f"layer 'odd' ({kinds.get(model, 'OfTheThreads')})"
    found = re.fullmatch(
        rf"NOT BIT-EQUAL {kind}: first the outputs of {re.escape(layer)}, in step 1 \(epoch 1, "
        r"batch 1\); (\d+) of 64 compared values differ, by up to ([\d.e-]+) "
        r"\(the largest value is ([\d.e-]+)\)",
        line,
    )
    assert found
    assert int(found[1]) > 1
    assert 0 < float(found[2]) < float(found[3])
    assert cause in advice
    assert advice.endswith("report it to the author of the plugin 'odd_layers'")


def test_a_layer_that_hashes_a_text_differs_in_another_process(run_of, capsys):
    """With new processes, which have other hashes."""
    run = run_of("of_the_text")
    assert main(["doctor", "--determinism", str(run), "--steps", "1", "--json"]) == 1
    out, err = capsys.readouterr()
    difference = json.loads(out)["difference"]
    assert difference["kind"] == "process to process"
    assert difference["what"] == "outputs"
    assert difference["layer"] == "layer 'odd' (OfTheText)"
    assert difference["plugin"] == "odd_layers"
    assert err.splitlines() == [
        "training 1 step, twice in one process",
        "training them in another process",
    ]


def test_a_run_with_frozen_epochs_and_a_damaged_state(run_of, doctor, tmp_path):
    """The steps go from the first phase into the second one."""
    weights = run_of("small", "--augment", "shift:1")
    made = run_of("small", "--init-from", str(weights), "--freeze-epochs", "1")
    run = Path(shutil.copytree(made, tmp_path / "run"))
    for state in (run / "last").iterdir():
        state.write_bytes(state.read_bytes()[:1000])
    ended = doctor("--resume", run, "--steps", "8")
    assert ended.code == 0, ended.err
    notes = [line for line in ended.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert notes[0].startswith(f"note: {run}/last/state-00002-0000000.ckpt is damaged (")
    assert "trained 8 steps from the beginning of the run" in ended.out


@pytest.fixture
def run(run_of, tmp_path):
    return Path(shutil.copytree(run_of("steady"), tmp_path / "run"))


@pytest.fixture
def refused(capsys, monkeypatch):
    """Return `refused(*arguments, code=2)`: the error, without processes of its own."""

    def answer(self, request, environment):
        return 0, json.dumps(worker.answer_to(json.loads(request)))

    monkeypatch.setattr(Copies, "_run", answer)

    def refused(*arguments, code=2):
        assert main(["doctor", *map(str, arguments)]) == code
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return refused


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("check", ["--resume", "--determinism"])
def test_data_that_are_gone(run, refused, check):
    replace(run / "config.toml", 'data = "toy"', 'data = "images:/nowhere"')
    assert "if the data have moved, name their new place with --data" in refused(check, run)


def test_a_plugin_that_is_gone(run, refused):
    replace(run / "config.toml", odd_layers.__file__, "/nowhere/acme.py")
    assert "there is no file /nowhere/acme.py" in refused("--resume", run)


def test_another_backend(run, refused):
    environment = json.loads((run / "environment.json").read_text())
    environment["backend"]["name"] = "torch"
    (run / "environment.json").write_text(json.dumps(environment))
    error = refused("--determinism", run)
    assert error.startswith(f"the run {run} was trained with the Keras backend torch, and this is")
    assert error.endswith("set KERAS_BACKEND=torch")
    # A state names the backend too.
    (run / "environment.json").unlink()
    state = StateStore(run / "last").load()[0]
    StateStore(run / "last").save(
        dataclasses.replace(state, config={**state.config, "Keras backend": "torch"})
    )
    assert refused("--resume", run).startswith(f"the run {run} has Keras backend = torch, not ")


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.toml", "cannot be read"), ("kernels.json", "so the kernels of this run are unknown")],
)
def test_a_damaged_run(run, refused, name, message):
    (run / name).write_text("x = [")
    error = refused("--resume", run, code=1)
    assert error.startswith(str(run / name))
    assert message in error


def test_a_run_that_is_being_trained(run, refused):
    with RunDirectory(run).claimed():
        assert "another process is training the run" in refused("--resume", run, code=1)


def test_no_room_for_a_copy(run, refused, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cnnforge.verifying.processes.shutil.copyfile", full)
    error = refused("--resume", run, code=1)
    assert f"the run {run} could not be copied to " in error
    assert "No space left on device; the variable TMPDIR names another folder" in error


@pytest.mark.parametrize(("code", "hint"), [(-9, "; memory may have run out"), (1, "")])
def test_a_process_that_ends(run, refused, monkeypatch, code, hint):
    def end(self, request, environment):
        (self.folder / "processes.log").write_text("one\nthe last line\n\n")
        return code, ""

    monkeypatch.setattr(Copies, "_run", end)
    how = "by signal 9" if code < 0 else "with exit code 1"
    assert refused("--resume", run, code=1).endswith(f"was ended {how}: the last line{hint}")


def test_a_callback_that_writes_into_the_run(run, refused, monkeypatch):
    answers = iter([{**TRIAL, "first": 0}, None, {**TRIAL, "first": 1}])

    def write(self, request, environment):
        (run / "written.txt").touch()
        trial = next(answers)
        return (-9, "") if trial is None else (0, json.dumps({"trials": [trial]}))

    monkeypatch.setattr(Copies, "_run", write)
    error = refused("--resume", run, "--steps", "2", code=1)
    assert error.startswith(f"{run / 'written.txt'} has changed during the check")


def test_what_the_processes_are_asked_for(run, refused, monkeypatch):
    asked = []

    def ask(self, request, environment):
        asked.append(json.loads(request))
        return 0, json.dumps({"error": "enough", "code": 1})

    monkeypatch.setattr(Copies, "_run", ask)
    assert refused("--resume", run, "--data", "x", "--plugin", "y", "--trust-model", code=1)
    (request,) = asked
    assert request["original"] == str(run)
    assert (request["data"], request["plugin"], request["steps"]) == ("x", ["y"], 10)
    assert request["trust"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "{}", "--determinism", "{}"), "give one of --resume and --determinism"),
        (("--steps", "3"), "--steps belongs to the check of a run: add --resume RUN"),
        (("--data", "x"), "--data belongs to the check of a run"),
        (("--trust-model",), "--trust-model belongs to the check of a run"),
        (("--resume", "{}", "--steps", "1"), "--steps is 1: give 2 or more"),
        (("--resume", "{}x"), "there is no run "),
        (("--resume", "{}/last"), "is in the run "),
        (("--determinism",), "--determinism needs a run; latest is the newest run; type: "),
        (("{}",), "type: cnnforge doctor --resume {}"),
    ],
)
def test_wrong_arguments(run, refused, arguments, message):
    error = refused(*(each.replace("{}", str(run)) for each in arguments))
    assert message.replace("{}", str(run)) in error

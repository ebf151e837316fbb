"""T11, and a full disk and a folder that is read-only, for each command that writes.

Each ends with one line, and leaves nothing incomplete.
"""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import faulty_toy
import numpy as np
import pytest
from forked import NO_PRIVILEGES, SLOW, Commands, Ended, files_in
from odd_pictures import folder_of
from PIL import Image

# The signal comes when the data are in a temporary file or folder, before it gets its name.
AT_THE_END = """
import os, signal
names = ("fsync", "rename", "replace")
def interrupted(do):
    def interrupted(*arguments):
        for name in names:
            setattr(os, name, done[name])
        os.kill(os.getpid(), signal.SIGTERM)
        return do(*arguments)
    return interrupted
done = {name: getattr(os, name) for name in names}
for name in names:
    setattr(os, name, interrupted(done[name]))
"""
IN_THE_CONFIGURATION = """
import os, signal
from cnnforge.runs import RunDirectory
write_config = RunDirectory.write_config
def interrupted(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    write_config(*arguments)
RunDirectory.write_config = interrupted
"""
WHILE_IT_MEASURES = """
import os, signal, sys
from cnnforge import benchmarking
# It compiles kernels.
sys.modules["cnnforge.cli.bench.bench"]._check = lambda cases, _: cases
benchmarking.measure_peaks = lambda: os.kill(os.getpid(), signal.SIGTERM)
"""


# The table of three rows is longer than the result on stdout, which is a file too.
QUICK_AND_LONG = """
from cnnforge import benchmarking
from cnnforge.benchmarking import peaks
peaks._SECONDS, peaks._COPIED_BYTES = 0.01, 1 << 20
text = benchmarking.csv_text
benchmarking.csv_text = lambda result: 100 * text(result)
"""


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes:
        arguments: The command line. RUN is a run, DATA a folder of pictures, and OUT the folder
            that it writes into.
        full: Part of its message if the disk is full.
        read_only: Part of its message if OUT cannot be written to.
        code: Exit code then.
        needs: Python code that is executed before the command.
        size: Max size of a file on the full disk.
    """

    arguments: str
    full: str = "could not be written: File too large"
    read_only: str = "could not be written: Permission denied"
    code: int = 1
    needs: str = ""
    size: int = 1500


TRAIN = "train lenet --data DATA --kernels keras --epochs 1 --output OUT"
CASES = {
    "predict": Case(
        "predict RUN toy --kernels keras --output OUT/rows.json",
        read_only="cannot be written to",
        code=2,
    ),
    "convert": Case(
        "data convert DATA npz:OUT/data.npz",
        full="cannot be written: file too large; nothing was written there",
        read_only="cannot be written: permission denied; nothing was written there",
    ),
    "convert to a folder": Case(
        "data convert DATA images:OUT/pictures",
        full="cannot be written: file too large; nothing was written there",
        read_only="cannot be written: permission denied; nothing was written there",
    ),
    "export": Case(
        "export RUN --format keras --output OUT/model.keras",
        full="cannot be written: File too large",
        read_only="cannot be written to",
        code=2,
    ),
    "report": Case("report OUT"),
    "explain": Case("explain RUN DATA/cat/0.png --output OUT/page.html"),
    "filter": Case("filter DATA/large.png --output OUT/map.png"),
    "sheet": Case(
        "data show DATA --output OUT/sheet.png",
        full="cannot be written: File too large",
        read_only="cannot be written: Permission denied",
    ),
    "cache": Case(
        f"{TRAIN}/runs --cache",
        full="the image cache",
        read_only="the image cache",
    ),
    "bench": Case(
        "bench global_average_pooling2d --shape 2x3x3x2 --rounds 3 --csv OUT/table.csv --plot "
        "OUT/plot.png",
        full="table.csv could not be written: File too large; ",
        read_only="table.csv cannot be written: the folder ",
        code=2,
        needs=QUICK_AND_LONG,
        # The result on stdout is a file too.
        size=6000,
    ),
    "train": Case(TRAIN, full="could not be written", read_only="cannot create a run directory in"),
}


@pytest.fixture(scope="module")
def places(train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, and pictures."""
    folder = tmp_path_factory.mktemp("places")
    data = folder_of(folder / "data", size=(64, 64))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(data / "large.png")
    run = train("small", folder / "runs", "--epochs", "1")
    assert run.code == 0, run.err
    return {"RUN": Path(run.json["run"]), "DATA": data}


def execute(
    commands: Commands, case: Case, places: dict[str, Path], out: Path, before: str, **more
) -> Ended:
    words = case.arguments.split()
    out.mkdir()
    if case.arguments.startswith("report"):
        shutil.copytree(places["RUN"], out, dirs_exist_ok=True)
        (out / "report.html").unlink(missing_ok=True)
    for name, path in {**places, "OUT": out}.items():
        words = [word.replace(name, str(path)) for word in words]
    if words[0] in ("train", "predict", "export", "report", "explain"):
        words += ["--plugin", faulty_toy.__file__]
    before = faulty_toy.QUICK.replace("session.write_report", "_") + case.needs + before
    if "--cache" in words:
        more["environment"] = {"XDG_CACHE_HOME": str(out / "cache")}
    return commands.run(*words, before=before, **more)


def new_files(out: Path, case: Case, places: dict[str, Path]) -> list[str]:
    """List what a command has left, other than a run directory, which may be continued."""
    before = files_in(places["RUN"]) if case.arguments.startswith("report") else []
    found = [name for name in files_in(out) if name not in before]
    # Run directories are whole, and so are notes about the plugins that the user has named.
    whole = ("lenet-", "named-plugins/")
    return [name for name in found if "tmp" in name or not any(each in name for each in whole)]


@pytest.mark.parametrize("name", CASES)
def test_a_full_disk(commands, places, tmp_path, name) -> None:
    case, out = CASES[name], tmp_path / "out"
    ended = execute(commands, case, places, out, "", limits={"FSIZE": case.size})
    assert ended.code == 1, ended.err
    (line,) = ended.errors
    assert case.full in line
    assert "Traceback" not in ended.err
    assert new_files(out, case, places) == []


@pytest.mark.parametrize("name", CASES)
def test_a_folder_that_is_read_only(commands, places, tmp_path, name) -> None:
    case, out = CASES[name], tmp_path / "out"
    close = f"import os\nos.chmod({str(out)!r}, 0o555)\n{NO_PRIVILEGES}"
    ended = execute(commands, case, places, out, close)
    os.chmod(out, 0o755)
    assert ended.code == case.code, ended.err
    (line,) = ended.errors
    assert case.read_only in line
    assert "Traceback" not in ended.err
    assert new_files(out, case, places) == []


@pytest.mark.parametrize("name", CASES)
def test_t11_sigterm_leaves_nothing_incomplete(commands, places, tmp_path, name) -> None:
    case, out = CASES[name], tmp_path / "out"
    ended = execute(commands, case, places, out, AT_THE_END)
    assert ended.code == 128 + signal.SIGTERM, ended.err
    (line,) = ended.errors
    assert line.startswith("error: interrupted by SIGTERM")
    assert "Traceback" not in ended.err
    assert new_files(out, case, places) == []


@pytest.mark.parametrize(
    ("before", "limits", "code"),
    [("", {"FSIZE": 300}, 1), (AT_THE_END, {}, 143), (IN_THE_CONFIGURATION, {}, 143)],
    ids=["full disk", "SIGTERM at once", "SIGTERM later"],
)
def test_a_training_without_a_configuration_leaves_no_run(
    commands, places, tmp_path, before, limits, code
) -> None:
    """It could not be resumed."""
    ended = execute(commands, CASES["train"], places, tmp_path / "out", before, limits=limits)
    assert ended.code == code, ended.err
    assert len(ended.errors) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_t11_sigterm_while_bench_measures(commands, tmp_path) -> None:
    command = [
        "bench",
        "global_average_pooling2d",
        "--rounds",
        "3",
        "--csv",
        tmp_path / "table.csv",
    ]
    ended = commands.run(*command, before=WHILE_IT_MEASURES)
    assert ended.code == 128 + signal.SIGTERM, ended.err
    assert ended.errors == ["error: interrupted by SIGTERM"]
    assert list(tmp_path.iterdir()) == []


CLOSED = f"import os\nos.chmod(os.environ['OUT'], 0o555)\n{NO_PRIVILEGES}"
SWEEP = ("sweep", "plain", "--data", "toy", "--kernels", "keras", "--epochs", "1")
TRIALS = ("--trials", "2", "--space", "learning_rate=1e-3..1e-2", "--plugin", faulty_toy.__file__)


@pytest.mark.parametrize(
    ("before", "limits", "code", "message"),
    [
        (AT_THE_END, {}, 143, "error: interrupted by SIGTERM"),
        (CLOSED, {}, 1, "error: {}/sweep.json could not be written: Permission denied"),
        # Its trials are processes that import Keras.
        *[("", {"FSIZE": 1000}, 1, "error: the journal of the sweep could not be written: ")]
        * SLOW,
    ],
    ids=["T11 SIGTERM", "a folder that is read-only", *["full disk"] * SLOW],
)
def test_a_sweep(commands, tmp_path, before, limits, code, message) -> None:
    out = {"OUT": str(tmp_path)}
    command = [*SWEEP, *TRIALS, "--output", tmp_path]
    ended = commands.run(*command, before=before, limits=limits, environment=out)
    os.chmod(tmp_path, 0o755)
    assert ended.code == code, ended.err
    (line,) = ended.errors
    assert line.startswith(message.format(tmp_path))
    assert "Traceback" not in ended.err
    assert not [name for name in files_in(tmp_path) if "tmp" in name or name.endswith("csv")]

"""T13 to T15: equal seeds give equal bits, whatever the threads, the file system and Python do."""

import json
from pathlib import Path

import pytest
from forked import SLOW
from odd_pictures import folder_of

from cnnforge.cli import main
from cnnforge.training import Session

EPOCHS = ("--epochs", "3")

OTHER_ORDER = """
import os
scan, names = os.scandir, os.listdir
class Reversed:
    def __init__(self, path="."):
        with scan(path) as entries:
            self.entries = iter(list(entries)[::-1])
    def __enter__(self):
        return self
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.entries)
    def __exit__(self, *_):
        pass
    close = __exit__
os.scandir, os.listdir = Reversed, lambda path=".": names(path)[::-1]
"""
ONE_THREAD = {"NUMBA_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
TWO_THREADS = {"NUMBA_NUM_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "2"}
AS_MANY_THREADS = """
import os, numba
assert numba.config.NUMBA_NUM_THREADS == int(os.environ["NUMBA_NUM_THREADS"])
"""


def test_t13_equal_seeds_give_equal_bits_and_others_others(train, whole, tmp_path) -> None:
    first = whole("small", *EPOCHS).json
    again = train("small", tmp_path, *EPOCHS).json
    other = train("small", tmp_path, *EPOCHS, "--seed", "1").json
    assert again["weights"] == first["weights"]
    assert again["validation"] == first["validation"]
    assert other["weights"] != first["weights"]


# The kernels of a convolution are compiled for half a minute.
@pytest.mark.parametrize(
    ("model", "kernels"),
    [("small", "keras"), ("plain", "numba"), *[("small", "numba")] * SLOW],
)
def test_t14_the_number_of_threads_changes_no_bit(train, tmp_path, model, kernels) -> None:
    arguments = (model, tmp_path, "--epochs", "2", "--batch-size", "32", "--kernels", kernels)
    one, two = (
        train(*arguments, before=AS_MANY_THREADS, environment=threads)
        for threads in (ONE_THREAD, TWO_THREADS)
    )
    assert one.code == two.code == 0, one.err + two.err
    assert one.json["weights"] == two.json["weights"]


def test_t15_the_order_of_the_files_and_the_seed_of_python_change_no_bit(
    train,
    commands,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It compiles kernels.
    monkeypatch.setattr(Session, "_prepare_predictions", lambda *_: None)
    data = folder_of(tmp_path / "data", classes=("a", "b", "c", "d"))
    arguments = (*EPOCHS, "--data", str(data), "--kernels", "keras", "--batch-size", "8")
    ours = hash("cnnforge")
    assert main(["train", "lenet", "--output", str(tmp_path / "ours"), *arguments, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["weights"]
    # The process that is copied has another seed than this one.
    assert int(commands.run(before="print(hash('cnnforge'))").out) != ours
    output = ("lenet", tmp_path / "theirs", *arguments)
    for before in ("", OTHER_ORDER):
        ended = train(*output, before=before)
        assert ended.code == 0, ended.err
        assert ended.json["weights"] == expected

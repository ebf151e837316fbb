"""A run stays usable when its data are moved, renamed, added to, or gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.training import session

pytestmark = pytest.mark.usefixtures("quick_figures")

CLASSES = ("cat", "dog")


def write(folder: Path, count: int, seed: int = 0) -> None:
    """Write images of two classes; the halves of each image differ, and each is another one."""
    for kind, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw = np.random.default_rng([seed, kind, number])
            pixels = draw.integers(0, 60, (8, 8), np.uint8)
            (pixels if kind else pixels.T)[:4] += 150
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number}.png")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data `photos` and the finished run `run`; to be left as it is."""
    folder = tmp_path_factory.mktemp("first")
    write(folder / "photos", 10)
    command = ["train", "--data", str(folder / "photos"), "--epochs", "1", "--kernels", "keras"]
    assert main([*command, "--output", str(folder)]) == 0
    (folder / "lenet-photos-001").rename(folder / "run")
    return folder


@pytest.fixture
def work(first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, as the working directory. The run still names the data in it."""
    shutil.copytree(first_run, tmp_path / "work")
    config = tmp_path / "work" / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(first_run), str(tmp_path / "work")))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return `said(*arguments)`: the exit code, and what is written to stdout and to stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_run_and_the_terminal_tell_what_was_found(work: Path, said) -> None:
    found = json.loads((work / "run" / "data.json").read_text())
    assert found["images"] == {"training": 16, "validation": 4}
    assert found["classes"] == {"cat": 10, "dog": 10}
    code, out, err = said("evaluate", "run", "--json")
    assert code == 0
    assert json.loads(out)["found"]["images"] == {"used": 4}
    assert "data: 4 images of 8x8x1 in 2 classes (cat 2, dog 2)" in err


def test_added_and_renamed_images_change_no_validation_image(work: Path, said) -> None:
    before = json.loads(said("evaluate", "run", "--json")[1])
    for path in sorted((work / "photos" / "cat").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    code, out, _ = said("evaluate", "run", "--json")
    assert code == 0
    after = json.loads(out)
    assert (after["samples"], after["accuracy"]) == (before["samples"], before["accuracy"])
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
    write(work / "photos", 3, seed=1)
    code, out, err = said("evaluate", "run", "--json")
    assert json.loads(out)["samples"] == 10
    assert "note: 6 of 10 images are new since the training of the run" in err


def test_an_image_that_goes_during_training_can_be_put_back(
    work: Path, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, spare = work / "photos" / "cat" / "0-3.png", work / "spare.png"

    def without_an_image(*given, **named):
        removed.rename(spare)
        return train(*given, **named)

    train = session.train
    monkeypatch.setattr(session, "train", without_an_image)
    words = ["--data", "photos", "--epochs", "1", "--kernels", "keras", "--output", "new"]
    code, _, err = said("train", "lenet", *words)
    run = "new/lenet-photos-001"
    assert code == 1
    assert err.splitlines()[-1] == (
        f"error: {removed}: no such file or directory; it was changed or moved after the dataset "
        f"was opened; put it right, then go on with 'cnnforge train --resume {run}'"
    )
    spare.rename(removed)
    monkeypatch.undo()
    assert said("train", "--resume", str(work / run))[0] == 0


def test_moved_data_are_known_by_their_content(work: Path, said) -> None:
    (work / "photos").rename(work / "elsewhere")
    code, _, err = said("evaluate", "run")
    assert code == 2
    assert "name their new place with --data" in err
    code, out, err = said("evaluate", "run", "--data", "elsewhere", "--json")
    assert (code, json.loads(out)["samples"]) == (0, 4)
    assert "16 of 20 images are left out: the model was trained on them" in err


def test_a_run_goes_on_with_moved_data(work: Path, said) -> None:
    (work / "photos").rename(work / "elsewhere")
    code, _, err = said("train", "--resume", "run", "--epochs", "+1")
    assert code == 2
    assert "if the data have moved, name their new place with --data" in err
    command = ["train", "--resume", "run", "--epochs", "+1", "--data", "elsewhere"]
    assert said(*command)[0] == 0
    # The run has noted the new place.
    assert said("train", "--resume", "run", "--epochs", "+1")[0] == 0


def test_other_content_is_described_and_not_resumed(work: Path, said) -> None:
    (work / "photos" / "cat" / "0-3.png").unlink()
    write(work / "photos", 1, seed=2)
    code, _, err = said("train", "--resume", "run", "--epochs", "+1")
    assert code == 2
    assert "2 images were added (" in err
    assert "1 image was removed (cat/0-3.png)" in err
    assert "--init-from run" in err


def test_a_run_of_before_splits_its_data_again(work: Path, said) -> None:
    before = json.loads(said("evaluate", "run", "--json")[1])
    (work / "run" / "split.csv").unlink()
    after = json.loads(said("evaluate", "run", "--json")[1])
    for name in ("data", "samples", "loss"):
        assert after[name] == before[name]


def test_a_majority_is_a_note_of_evaluate_and_of_its_json(
    work: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    write(work / "other", 12, seed=1)
    for number in range(1, 12):
        (work / "other" / "dog" / f"1-{number}.png").unlink()
    code, out, err = said("evaluate", "run", "--data", "other", "--json")
    assert code == 0
    note = "92% of the images are of the class cat"
    assert f"note: {note}" in err.replace("\n", " ")
    assert any(text.startswith(note) for text in json.loads(out)["found"]["notes"])


def test_the_json_of_predict_has_the_notes_about_the_data(
    work: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    write(work / "new", 2, seed=1)
    (work / "new" / "readme.txt").write_text("text")
    (work / "nothing").mkdir()
    (work / "nothing" / "film.mp4").write_text("film")
    code, out, err = said("predict", "run", "new", "nothing", "--json")
    assert code == 0
    first, second = json.loads(out)["found"]
    assert first["notes"] == ["files that are not pictures are left out: 1 .txt"]
    assert second["notes"] == ["files that are not pictures are left out: 1 .mp4"]
    assert f"note: {second['notes'][0]}" in err


def test_data_may_have_the_qualified_name_of_a_dataset(
    work: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = said("evaluate", "run", "--data", "builtin/mnist5k")
    assert code == 2
    assert "has the class '0', which the model does not know" in err.replace("\n", " ")
    code, _, err = said("evaluate", "run", "--data", "")
    assert code == 2
    assert "the dataset is ''" in err


def test_a_config_may_start_from_the_latest_run(
    work: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    (work / "runs").mkdir()
    (work / "run").rename(work / "runs" / "mine")
    (work / "c.toml").write_text('init_from = "latest"\nepochs = 2\n')
    code, out, err = said("train", "--config", "c.toml", "--print-config", "--json")
    assert code == 0
    assert "the newest run is runs/mine" in err
    assert '"runs/mine"' in out


def test_a_path_that_no_file_system_accepts_is_one_line(
    work: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    name = "long" * 100
    for command in (
        ("evaluate", name),
        ("evaluate", "run", "--data", name),
        ("predict", "run", name),
        ("predict", "run", "photos", "--output", f"{name}/x.csv"),
        ("runs", name),
        ("train", "--data", name),
        ("train", "--init-from", name),
        ("train", "--init-from", f"{name}.keras"),
        ("train", "--config", name),
        ("runs", "~nobody-of-this-name/x"),
        ("train", "--config", "~nobody-of-this-name/x"),
        ("train", "--init-from", "~nobody-of-this-name/x"),
    ):
        code, _, err = said(*command)
        assert code == 2, command
        assert "error: " in err, command

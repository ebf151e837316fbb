"""`cnnforge compare`: two runs with known answers, on pictures that none was trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from browser import needs_axe, needs_chromium, run_in_page, violations
from PIL import Image

from cnnforge.cli import main
from cnnforge.data.dataset import DataOptions
from cnnforge.data.references import open_dataset
from cnnforge.plugin_host.discovery import discover
from cnnforge.prediction import KeptSplit
from cnnforge.runs import RunDirectory

ODD = "bright <b>&\u202e"
COUNT = 60


def value_model(threshold: float, classes: int = 2) -> keras.Model:
    """Return a model that says dark below a gray value, and bright above it."""
    inputs = keras.Input((4, 4, 1))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(classes, activation="softmax")
    model = keras.Model(inputs, dense(mean))
    bias = [0.0, -threshold, -900.0][:classes]
    dense.set_weights([np.array([[0.0, 1.0, 0.0][:classes]]), np.array(bias)])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the gray values 0, 2, ..., 118; those from 60 on are bright."""
    folder = tmp_path_factory.mktemp("compare")
    for number in range(COUNT):
        label = "dark" if number < COUNT // 2 else ODD
        path = folder / "data" / label / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 2 * number).save(path)
    return folder


@pytest.fixture(scope="module")
def make(folder: Path) -> Callable[..., Path]:
    """Return `make(name, threshold, trained)`: a run with the model and its split."""
    data = f"images:{folder / 'data'}"
    options = DataOptions(purpose="evaluation", color="grayscale")
    splits = open_dataset(data, discover().datasets, options).splits
    assert splits is not None
    pairs = [(n, d.hex()) for each in splits for n, d in zip(each.names, each.digests, strict=True)]

    def make(
        name: str,
        threshold: float,
        trained: range = range(10),
        *,
        classes: tuple[str, ...] = ("dark", "bright <b>&\u202e"),
        model: bool = True,
        reference: str = data,
        **changed: Any,
    ) -> Path:
        run = RunDirectory(folder / "runs" / name)
        run.path.mkdir(parents=True)
        chosen = {f"{number:02d}.png" for number in trained}
        own = [pair for pair in pairs if Path(pair[0]).name in chosen]
        rest = [pair for pair in pairs if pair not in own]
        KeptSplit(own, rest).write(run)
        run.write_config({"model": "toy", "data": reference, **changed}, {"monitor": "accuracy"})
        run.write_json("classes.json", list(classes))
        values = (0.5, 0.75, 0.8, 0.82, 0.81, 0.83)
        rows = [[epoch, 1 - value, value] for epoch, value in enumerate(values, 1)]
        run.write_csv("metrics.csv", ["epoch", "val_loss", "val_accuracy"], rows)
        if model:
            value_model(threshold, len(classes)).save(run.model)
        return run.path

    return make


@pytest.fixture(scope="module")
def runs(make: Callable[..., Path]) -> dict[str, Path]:
    """A is right on all pictures, B on none of the values 60 to 98."""
    return {
        "a": make("a", 59, range(10), seed=0),
        "b": make("b", 99, range(5, 15), seed=0, learning_rate=0.01),
        "c": make("c", 61, range(10), seed=3),
    }


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    texts = [*map(str, arguments), "--kernels", "keras", "--json"]
    assert main(["compare", *texts]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    assert main(["compare", *map(str, arguments), "--kernels", "keras"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.startswith("error:") for line in lines].count(True) == 1
    return captured.err


def test_only_pictures_that_no_run_was_trained_on_count(runs, capsys) -> None:
    found = compared(capsys, runs["a"], runs["b"])
    assert found["samples"] == {"compared": 45, "trained_on": 15, "total": 60}
    assert found["differ"]
    assert found["verdict"].startswith("They differ, and A is better: on 45 pictures the accuracy")
    # 20 pictures flip, all to the side of A.
    assert found["tests"][0] == {"name": "McNemar's exact test", "p": 2 / 2**20}
    assert found["tests"][1]["name"] == "with the fluctuation of the last epochs"
    assert found["difference"]["mean"] == pytest.approx(-20 / 45)
    assert found["difference"]["high"] < 0
    assert found["both_right"] == 25


def test_a_copy_of_a_training_picture_does_not_count(folder, make, runs, capsys) -> None:
    path = make("copies", 99)
    lines = (path / "split.csv").read_text().splitlines()
    digest = lines[1].split(",")[-1]
    # Picture 59, which is for validation, was a copy of the first picture.
    changed = [f"{line[: -len(digest)]}{digest}" if "59.png" in line else line for line in lines]
    (path / "split.csv").write_text("\n".join(changed) + "\n")
    picture = folder / "data" / ODD / "59.png"
    before = picture.read_bytes()
    picture.write_bytes((folder / "data" / "dark" / "00.png").read_bytes())
    try:
        found = compared(capsys, runs["a"], path)
    finally:
        picture.write_bytes(before)
    assert found["samples"] == {"compared": 49, "trained_on": 11, "total": 60}


def test_the_pictures_that_flipped_are_named(runs, capsys) -> None:
    flips = compared(capsys, runs["a"], runs["b"])["flips"]
    assert [Path(each["file"]).name for each in flips] == [f"{n}.png" for n in range(30, 50)]
    assert {each["right"] for each in flips} == {"A"}
    assert flips[0]["truth"].startswith("bright")
    assert (flips[0]["a"].split()[0], flips[0]["b"]) == ("bright", "dark 100%")


def test_classes_and_options_are_compared(runs, capsys) -> None:
    found = compared(capsys, runs["a"], runs["b"])
    dark, bright = found["classes"].values()
    assert (dark["samples"], dark["a"], dark["b"], dark["difference"]) == (15, 1, 1, 0)
    assert (bright["samples"], bright["a"], bright["b"]) == (30, 1, pytest.approx(1 / 3))
    assert found["configuration"] == [{"name": "learning_rate", "a": "none", "b": "0.01"}]
    assert found["environment"] == []


def test_runs_that_differ_in_the_seed_do_not_differ(runs, capsys) -> None:
    found = compared(capsys, runs["a"], runs["c"])
    assert not found["differ"]
    assert found["verdict"].startswith("They do not differ: on 50 pictures the accuracy of A is")
    assert "the runs differ only in the seed" in found["notes"]


def test_the_terminal_shows_tables_and_one_sentence(runs, capsys) -> None:
    names = [str(runs["a"]), str(runs["b"])]
    assert main(["compare", *names, "--kernels", "keras"]) == 0
    captured = capsys.readouterr()
    assert "45 of 60 pictures count; 15 are left out" in captured.err
    assert "only A is right on 20 pictures, only B on 0" in captured.out
    assert "learning_rate" in captured.out
    assert captured.out.splitlines()[-1].startswith("They differ, and A is better: ")


def test_folders_of_runs_are_compared_as_groups(make, folder: Path, capsys) -> None:
    for place, threshold in enumerate((57, 59, 61)):
        make(f"../good/{place}", threshold, seed=place)
        make(f"../bad/{place}", threshold + 40, seed=place, epochs=2)
    make("../good/unfinished", 0, model=False)
    found = compared(capsys, folder / "good", folder / "bad")
    assert len(found["a"]["runs"]) == len(found["b"]["runs"]) == 3
    assert found["a"]["std"] > 0
    names = [each["name"] for each in found["tests"]]
    assert names == ["paired sign-flip test", "t-test over the runs"]
    assert found["differ"]
    assert found["flips"][0]["a"].startswith("right in ")


def test_the_test_part_can_be_asked_for(runs, capsys) -> None:
    error = refused(capsys, 2, runs["a"], runs["b"], "--part", "test")
    assert "has no test part" in error
    error = refused(capsys, 2, runs["a"], runs["b"], "--part", "tset")
    assert "did you mean 'test'?" in error


def test_a_run_without_a_model_is_refused(make, runs, capsys) -> None:
    path = make("no-model", 0, model=False)
    error = refused(capsys, 1, runs["a"], path)
    assert "has no model.keras: the file was removed" in error


def test_a_folder_without_a_model_is_refused(make, folder: Path, runs, capsys) -> None:
    make("../begun/first", 0, model=False)
    error = refused(capsys, 2, runs["a"], folder / "begun")
    assert "has a model yet" in error


def test_a_run_is_not_compared_with_itself(runs, capsys) -> None:
    assert "is on both sides" in refused(capsys, 2, runs["a"], runs["a"])


def test_runs_of_other_classes_are_refused(make, runs, capsys) -> None:
    other = make("cats", 59, classes=("cat", "dog"))
    error = refused(capsys, 2, runs["a"], other)
    assert "have different classes" in error
    assert "(the first knows cat, dog):" in refused(capsys, 2, other, runs["a"])
    assert "--data" in error


def test_classes_that_both_know_are_compared(make, runs, capsys) -> None:
    other = make("night", 59, classes=("dark", "night", "storm"))
    found = compared(capsys, runs["a"], other)
    assert found["samples"]["compared"] == 20
    assert "30 pictures of classes that not every run knows are left out" in found["notes"]


def test_other_data_of_a_run_are_said(make, runs, capsys) -> None:
    other = make("moved", 61, reference="images:/nowhere")
    found = compared(capsys, runs["a"], other)
    assert any("not all runs were trained on" in note for note in found["notes"])


def test_data_that_are_gone_can_be_named(make, folder: Path, runs, capsys) -> None:
    gone = make("gone", 61, reference="images:/nowhere")
    error = refused(capsys, 2, gone, runs["a"])
    assert "the data of the run" in error
    assert "name their new place with --data" in error
    found = compared(capsys, gone, runs["a"], "--data", folder / "data")
    assert found["samples"]["compared"] == 50


def test_a_run_that_has_not_kept_its_split_is_said(make, runs, capsys) -> None:
    old = make("old", 61)
    (old / "split.csv").unlink()
    found = compared(capsys, runs["a"], old)
    # The data are split again, a fifth for validation; some of it was in the training of A.
    assert 0 < found["samples"]["compared"] <= 12
    assert any("has not kept which images" in note for note in found["notes"])


def test_pictures_that_each_run_knows_cannot_be_compared(make, runs, capsys) -> None:
    every = make("every", 59, range(5, 60))
    error = refused(capsys, 2, runs["a"], every)
    assert "was in the training of a run" in error
    assert "--split-seed" in error


def test_a_missing_folder_of_the_page_is_said_first(runs, capsys) -> None:
    error = refused(capsys, 2, runs["a"], runs["b"], "--page", "gone/page.html")
    assert "there is no folder gone" in error
    assert "is an HTML file" in refused(capsys, 2, runs["a"], runs["b"], "--page", "x.txt")


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "compared.html"
    names = [str(runs["a"]), str(runs["b"])]
    assert main(["compare", *names, "--kernels", "keras", "--page", str(path)]) == 0
    return path


def test_the_page_has_both_runs_and_every_flip(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<li data-better=") == 20
    for part in ("They differ, and A is better", "learning_rate", "<svg", "only B is right"):
        assert part in text
    assert "<b>&" not in text.replace("truth <b>", "")
    assert "\u202e" not in text


SHOWN = "[...document.querySelectorAll('li[data-better]')].filter((each) => !each.hidden).length"


@needs_chromium
def test_one_side_of_the_flips_can_be_chosen(page: Path) -> None:
    script = f"""
      const found = [{SHOWN}];
      for (const button of document.querySelectorAll("button[data-better]")) {{
        button.focus();
        if (document.activeElement !== button) throw new Error("not reached by keyboard");
        button.click();
        found.push({SHOWN}, byId("flipped").textContent, button.getAttribute("aria-pressed"));
      }}
      const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
      const facts = [...document.querySelectorAll("dl.facts dd")].map((each) => each.clientWidth);
      return [...found, wide, Math.min(...facts) > 100];
    """
    assert run_in_page(page, script, width=360) == [
        *(20, 20, "20 of 20 shown pictures.", "true"),
        *(20, "20 of 20 shown pictures.", "true"),
        *(0, "0 of 20 shown pictures.", "true"),
        False,
        True,
    ]


@needs_axe
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_accessible(page: Path, width: int, dark: bool) -> None:
    assert violations(page, width=width, dark=dark) == []

"""The options of `cnnforge predict` about workers, where no worker is started."""

from typing import Any

import pytest

from cnnforge.cli import main
from cnnforge.cli._trained import show_found
from cnnforge.data import PicturePart, PictureParts
from cnnforge.distributed import addresses
from cnnforge.errors import DataError, PluginError, UsageError
from cnnforge.plugin import DatasetSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.prediction import find_inputs
from cnnforge.prediction.part_inputs import open_parts
from cnnforge.prediction.samples import RunData

TRAINED_ON = RunData("toy", 0.2, 0, "fingerprint")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "auto"], "--address is for several workers: add --workers N, or leave it"),
        (["--startup-timeout", "9s"], "--startup-timeout is for several workers: add --workers N"),
        (["--workers", "2", "--startup-timeout", "x"], "--startup-timeout must be a time such as"),
        (["--workers", "2", "--address", "head"], "--address is 'head': expected local, auto, HO"),
        (["--workers", "2", "--tile"], "--tile needs the images in one process: leave out --tile"),
        (["--workers", "2", "--show"], "--show needs the images in one process"),
        (["--workers", "2", "--draw", "x"], "--draw needs the images in one process"),
        (["--workers", "0"], "should be greater than or equal to 1, got '0'"),
    ],
)
def test_wrong_options(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(addresses, "find_spec", lambda name: True)
    assert main(["predict", "run", "images", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_the_install_line_is_given_without_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(addresses, "find_spec", lambda name: None)
    assert main(["predict", "run", "images", "--workers", "2"]) == 2
    error = (
        "several workers need Ray, which is not installed; type: pip install 'cnnforge[cluster]'"
    )
    assert capsys.readouterr().err == f"error: {error}\n"


def test_data_that_cannot_be_read_in_parts() -> None:
    with pytest.raises(UsageError, match="mnist5k is read by the dataset mnist5k, which cannot be"):
        find_inputs(
            ["mnist5k"],
            image_shape=(28, 28, 1),
            datasets=discover().datasets,
            trained_on=TRAINED_ON,
            in_parts=True,
        )


def parts(argument: str | None) -> Any:
    toy = PictureParts("toy", [PicturePart(3, list)], ["two are left out"])  # pyright: ignore
    return toy if argument else None


def test_a_plugin_divides_its_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = DatasetSpec(name="toy", target="x:load", summary="", in_parts="x:parts")
    monkeypatch.setattr(
        "cnnforge.prediction.part_inputs.find_dataset", lambda text, _: (spec, text)
    )
    monkeypatch.setattr(DatasetSpec, "resolve", lambda *_: parts)
    inputs = open_parts("a", discover().datasets)
    assert (len(inputs), inputs.ids, dict(inputs.class_ids)) == (3, None, {})
    show_found([inputs])
    assert capsys.readouterr().err.splitlines()[1:] == ["note: two are left out"]
    with pytest.raises(UsageError, match="cannot be drawn or shown: leave out --workers"):
        inputs.picture(0)
    with pytest.raises(DataError, match="returned a NoneType: its plugin must return a"):
        open_parts("", discover().datasets)


def test_the_import_path_of_parts_is_checked() -> None:
    with pytest.raises(ValueError, match="the function for parts of dataset 'toy'"):
        DatasetSpec(name="toy", target="x:load", summary="", in_parts="x")
    spec = DatasetSpec(name="toy", target="json:loads", summary="", in_parts="json:gone")
    with pytest.raises(PluginError):
        spec.load_all()
    assert DatasetSpec(name="toy", target="x:load", summary="").load_in_parts() is None

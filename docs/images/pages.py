"""Take pictures of the web pages of cnnforge in Chromium: docs/images/page-*.jpg.

Run it again if the pages change: `.venv/bin/python docs/images/pages.py`. Most of its time is the
training of three networks. With a folder as its argument, it takes the files that an earlier run
has left there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))

from browser import photograph  # noqa: E402  # pyright: ignore[reportMissingImports]

COMMANDS = (
    "train lenet --epochs 8",
    "train resnet20 --epochs 2",
    "train detector --data digits_in_scenes --epochs 8",
    "explain runs/lenet-mnist5k-001 digit.png --output lenet.html",
    "explain runs/resnet20-mnist5k-001 digit.png --output resnet20.html",
    "explain runs/detector-digits_in_scenes-001 scene.png --output detector.html",
    "filter photo.jpg --output edges.png --page filter.html",
    "report runs/lenet-mnist5k-001",
    "report runs/detector-digits_in_scenes-001",
)
MAX_BYTES = 100_000
_TO = "it('{}').scrollIntoView();"
_LENET = "runs/lenet-mnist5k-001/report.html"
_DETECTOR = "runs/detector-digits_in_scenes-001/report.html"


@dataclass(frozen=True)
class Shot:
    """A picture of a page.

    Attributes:
        page: The page, in the folder of the run.
        size: Width and height of the window in pixels.
        script: JavaScript that runs in the page before.
        dark: Whether the user prefers dark colors.
    """

    page: str
    size: tuple[int, int]
    script: str = ""
    dark: bool = False


SHOTS = {
    "page-lenet": Shot("lenet.html", (1280, 1000)),
    "page-lenet-map": Shot("lenet.html", (1280, 1000), _TO.format("map-part")),
    "page-lenet-phone": Shot("lenet.html", (360, 780), dark=True),
    "page-resnet20-why": Shot("resnet20.html", (1280, 760), _TO.format("why-part")),
    "page-detector-heat": Shot("detector.html", (1280, 1240), _TO.format("heat-part")),
    "page-detector-boxes": Shot(
        "detector.html",
        (1280, 1120),
        "it('confidence').value = 0.1; it('confidence').dispatchEvent(new Event('input'));"
        + _TO.format("boxes-part"),
        dark=True,
    ),
    "page-filter": Shot("filter.html", (1280, 1000)),
    "page-report-lenet": Shot(_LENET, (1280, 1000)),
    "page-report-detector": Shot(_DETECTOR, (1280, 1000), dark=True),
}


def take(folder: Path) -> None:
    """Take all pictures.

    Args:
        folder: The folder in which the commands ran.
    """
    with tempfile.TemporaryDirectory() as made:
        for name, shot in SHOTS.items():
            page, picture = Path(made, Path(shot.page).name), Path(made, f"{name}.png")
            page.write_bytes((folder / shot.page).read_bytes())
            photograph(page, picture, script=shot.script, size=shot.size, dark=shot.dark)
            write(Image.open(picture).convert("RGB"), HERE / f"{name}.jpg")


def write(picture: Image.Image, path: Path) -> None:
    """Write a picture as a JPEG file with at most `MAX_BYTES`."""
    for quality in (85, 75, 65, 55, 45):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"{path.name} has {size:,} bytes, the max is {MAX_BYTES:,}")


def prepare(folder: Path) -> None:
    """Write the pictures that the commands read, and run them."""
    import numpy as np

    from cnnforge.data import DataOptions, open_dataset
    from cnnforge.plugin_host.discovery import discover

    plugins = discover()
    for data, row, name in (("mnist5k", 3, "digit.png"), ("digits_in_scenes", 7, "scene.png")):
        dataset = open_dataset(data, plugins.datasets, DataOptions(), plugins.tasks)
        samples = dataset.validation or dataset.train
        Image.fromarray(samples.fetch(np.array([row]))[0, ..., 0]).save(folder / name)
    photo = files("skimage").joinpath("data", "rocket.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(photo)
    for command in COMMANDS:
        print(f"$ cnnforge {command}", flush=True)
        program = Path(sys.executable).with_name("cnnforge")
        subprocess.run([program, *command.split()], cwd=folder, check=True)


def main() -> None:
    """Run the commands, unless a folder is given, and take the pictures."""
    with tempfile.TemporaryDirectory() as new:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else new)
        if len(sys.argv) == 1:
            prepare(folder)
        take(folder)


if __name__ == "__main__":
    main()

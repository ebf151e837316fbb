"""Make the pictures of the course: run its commands, then take pictures of the files they leave.

`make pictures` runs this. It needs Chromium, and most of its time is the training of the detector.
With a folder as its argument, it takes the files that an earlier run of the commands has left
there: `.venv/bin/python docs/course/pictures.py FOLDER`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COURSE = Path(__file__).parent
sys.path.insert(0, str(COURSE.parents[1] / "tests" / "support"))

from browser import CHROMIUM, photograph  # noqa: E402  # pyright: ignore[reportMissingImports]

PAGES = (
    "index",
    "convolution",
    "stride",
    "detectors",
    "relu",
    "padding",
    "pooling",
    "flattening",
    "full-connection",
    "environment",
    "detection",
    "own-layer",
)
"""The pages, in the order in which their commands run."""

MAX_BYTES = 100_000
# Height of a picture in a row, and size of the window for web pages, in pixels.
_SIDE, _SIZE = 240, (720, 1400)


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield the Python blocks and the commands of a page, in their order.

    Args:
        text: The page, Markdown.

    Yields:
        `"python"` and a block, or `"console"` and the text of a line after `$ `.
    """
    for language, block in re.findall(r"^```(python|console)\n(.*?)^```", text, re.S | re.M):
        if language == "python":
            yield language, block
        else:
            yield from ((language, line) for line in re.findall(r"^\$ (.*)$", block, re.M))


def run_course(run: Callable[[str], object]) -> None:
    """Run everything on the pages, in the current folder.

    Args:
        run: Function that runs a command.
    """
    for page in PAGES:
        # A block of Python uses the names of the blocks before it on its page.
        names: dict[str, object] = {}
        for kind, source in steps((COURSE / f"{page}.md").read_text(encoding="utf-8")):
            if kind == "python":
                exec(source, names)
            else:
                run(source)


def run_in_process(command: str) -> None:
    """Run a command of the pages in a process of its own."""
    print(f"$ {command}", flush=True)
    if command.startswith("pip install"):
        # The layer is imported from its folder, so that the environment stays as it is.
        sys.path.insert(0, str(Path("soft-edge", "src").resolve()))
        os.environ["PYTHONPATH"] = sys.path[0]
        return
    program, *arguments = shlex.split(command)
    if "soft_edge" in command:
        arguments += ["--plugin", "soft_edge.manifest"]
    subprocess.run([Path(sys.executable).parent / program, *arguments], check=True)


def photograph_parts(page: Path, name: str, parts: str, script: str = "") -> None:
    """Write a picture of parts of a web page of cnnforge.

    Args:
        page: The page.
        name: Name of the picture.
        parts: CSS selector of the parts of `<main>` that are in the picture.
        script: JavaScript that runs in the page before.
    """
    script += f"""
        for (const each of document.querySelectorAll("main > :not({parts})"))
            each.style.display = "none";"""
    with tempfile.TemporaryDirectory() as folder:
        copy, output = Path(folder, "page.html"), Path(folder, "page.png")
        text = page.read_text(encoding="utf-8")
        # Nobody needs to see the folder of this run.
        for parent in page.parents:
            text = text.replace(f"images:{parent}/", "images:")
        copy.write_text(text, encoding="utf-8")
        photograph(copy, output, script=script, size=_SIZE)
        write(cropped(Image.open(output).convert("RGB")), name)


def cropped(picture: Image.Image) -> Image.Image:
    """Cut off the empty space below."""
    mask = picture.convert("L").point([255 * (value < 250) for value in range(256)])
    box = mask.getbbox()
    bottom = picture.height if box is None else min(picture.height, box[3] + 16)
    return picture.crop((0, 0, picture.width, bottom))


def grid(pictures: list[tuple[str, Image.Image]], columns: int, name: str) -> None:
    """Write pictures in rows, each with a line of text below."""
    font = ImageFont.load_default(15)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    width = max(sum(picture.width + 12 for _, picture in row) for row in rows)
    height = max(picture.height for _, picture in pictures) + 34
    sheet = Image.new("RGB", (12 + width, 12 + len(rows) * height), "white")
    canvas = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = 12, 12 + number * height
        for text, picture in row:
            sheet.paste(picture, (left, top))
            frame = (left - 1, top - 1, left + picture.width, top + picture.height)
            canvas.rectangle(frame, outline="#c9d0da")
            canvas.text((left, top + picture.height + 4), text, fill="#1d2127", font=font)
            left += picture.width + 12
    write(sheet, name)


def write(picture: Image.Image, name: str) -> None:
    """Write a picture next to the pages: `.jpg` for photographs, `.png` for all others."""
    path = COURSE / name
    if path.suffix == ".jpg":
        picture.convert("RGB").save(path, quality=80, optimize=True)
    else:
        # This method keeps colors that only a few pixels have.
        method = Image.Quantize.MAXCOVERAGE
        few = picture.convert("RGB").quantize(256, method, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{name}: {size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"{name} has {size:,} bytes, the max is {MAX_BYTES:,}")


def small(path: Path, side: int = _SIDE) -> Image.Image:
    """Open a picture with a height of `side` pixels; the pixels of a small one are squares."""
    picture = Image.open(path).convert("RGB")
    enlarged = picture.height < side
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return picture.resize((round(picture.width * side / picture.height), side), method)


def draw_all(folder: Path) -> None:
    """Make all pictures from the files that the commands have left in a folder."""
    photo = ("the photograph", small(folder / "photo.jpg"))
    grid([photo, ("some of the digits", small(folder / "digits.png"))], 2, "data.jpg")
    photograph_parts(
        folder / "edge.html",
        "convolution.png",
        ":is(.columns:first-of-type, .panel)",
        "state.row = 17; state.column = 15; showPixel();",
    )
    strides = [(f"stride {number}", folder / f"stride-{number}.png") for number in (1, 2, 4)]
    grid([(text, halved(path)) for text, path in strides], 3, "stride.jpg")
    names = ("sobel-x", "sobel-y", "blur", "sharpen", "emboss")
    found = [(each, small(folder / f"{each}.png")) for each in names]
    grid([photo, *found], 3, "detectors.jpg")
    edges = [
        ("a part of the photograph", "photo.jpg"),
        ("edge", "edge.png"),
        ("course", "course.png"),
    ]
    grid([(text, face(folder / name)) for text, name in edges], 3, "edge.jpg")
    for part in ("detector", "relu", "padding", "pooling", "flattening", "full"):
        photograph_parts(folder / "seven.html", f"{part}.png", f"#{part}-part")
    # A map that has passed its check.
    script = """byId("method").value = DATA.maps.findIndex(
        ({ passes, target }) => passes && target === Number(byId("target").value)); showWhy();"""
    photograph_parts(folder / "seven.html", "why.png", "#why-part", script)
    photograph_parts(folder / "scene.html", "heat.png", "#heat-part")
    maps = [(f"map {number}", small(folder / f"map-{number}.png")) for number in (1, 2, 3)]
    grid([("the digit", small(folder / "seven.png")), *maps], 4, "learned.png")
    photograph_parts(
        folder / "runs" / "lenet-digits-001" / "report.html",
        "report.png",
        ":not(section, nav), #confusion",
    )
    for name in ("curves", "confusion", "neurons", "slopes", "moved"):
        write(Image.open(folder / f"{name}.png"), f"{name}.png")
    drawn = sorted((folder / "drawn").glob("*.png"))
    grid([(f"scene {number}", small(path)) for number, path in enumerate(drawn)], 3, "found.jpg")


def face(path: Path) -> Image.Image:
    """Open a part of the photograph, or of a map of it, in full size."""
    return Image.open(path).convert("RGB").crop((136, 30, 376, 270))


def halved(path: Path) -> Image.Image:
    """Open a map in half of its size."""
    picture = Image.open(path).convert("RGB")
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def main() -> None:
    """Run the course, unless a folder is given, and make the pictures."""
    if CHROMIUM is None:
        sys.exit(
            "Chromium is not installed: install the package chromium, then type: make pictures"
        )
    os.environ["MPLBACKEND"] = "Agg"
    with tempfile.TemporaryDirectory() as new:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else new).resolve()
        if len(sys.argv) == 1:
            os.chdir(folder)
            run_course(run_in_process)
            os.chdir(COURSE)
        draw_all(folder)


if __name__ == "__main__":
    main()

"""Write the objects that `cnnforge predict` finds: pictures, COCO results and files of YOLO."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnforge.prediction.inputs import Inputs
    from cnnforge.tasks import BoxOutput, Row, Task

    Part = tuple[Inputs, Sequence[Row]]

_JPEG = (".jpg", ".jpeg")
_NAMES = "classes.txt"
# Name of the ids of the images of COCO data.
_COCO_ID = "image_id"


@dataclass(frozen=True)
class BoxFiles:
    """The files that the user wants.

    Attributes:
        draw: Folder for the pictures with boxes, or `None`.
        coco: File for the results in the format of COCO, or `None`.
        yolo: Folder for one text file per picture in the format of YOLO, or `None`.
    """

    draw: Path | None
    coco: Path | None
    yolo: Path | None

    @property
    def written(self) -> list[str]:
        """The folders and the file, as texts."""
        return [str(path) for path in (self.draw, self.coco, self.yolo) if path is not None]

    def check(self, task: Task, *, tiled: bool) -> None:
        """Check that the task has boxes, and that the files can be written.

        Args:
            task: The task.
            tiled: Whether the user gave `--tile`, which needs boxes too.

        Raises:
            UsageError: An option does not suit the task, or a path cannot be written to.
        """
        from cnnforge.prediction.tiles import box_output_of

        options = {"--draw": self.draw, "--coco": self.coco, "--yolo": self.yolo}
        given = [option for option, path in options.items() if path is not None]
        for option in [*given, *["--tile"] * tiled]:
            box_output_of(task, option)
        for option in given:
            _check_path(option, options[option], is_folder=option != "--coco")

    def write(self, parts: Sequence[Part], task: Task) -> None:
        """Write the files.

        Args:
            parts: Each input with the rows of its images, in their order.
            task: The task.

        Raises:
            RunError: A file could not be written.
        """
        from cnnforge.errors import RunError

        if task.box_output is None:
            return
        path = Path()
        try:
            for path, write in (
                (self.draw, _draw),
                (self.coco, _write_coco),
                (self.yolo, _write_yolo),
            ):
                if path is not None:
                    write(path, parts, task.box_output)
        except OSError as error:
            name = error.filename or path
            raise RunError(f"{name} could not be written: {error.strerror or error}") from error


def _check_path(option: str, path: Path | None, *, is_folder: bool) -> None:
    from cnnforge.errors import UsageError

    if path is None:
        return
    if is_folder and path.exists() and not path.is_dir():
        raise UsageError(f"{option}: {path} is a file, expected a folder")
    if not is_folder:
        if path.is_dir():
            raise UsageError(f"{option}: {path} is a folder, expected the name of a file in it")
        if path.suffix.lower() != ".json":
            raise UsageError(f"{option} writes .json, got {path}: name it {path.stem}.json")
    if not path.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {path.parent} for {path.name}: make it")
    if not os.access(path if path.is_dir() else path.parent, os.W_OK):
        raise UsageError(f"{option}: {path} cannot be written to")


def _read(parts: Sequence[Part]) -> Iterator[tuple[Row, Inputs, int]]:
    """Yield each row of an image that could be read, its input and its number there."""
    for part, rows in parts:
        for number, row in enumerate(rows):
            if row.error is None:
                yield row, part, number


def _stems(parts: Sequence[Part], used: set[str]) -> Iterator[str]:
    """Yield a different file name without ending for each row that `_read` yields.

    It is the name of the image if that is free: readers of YOLO's files find them by this name.

    Args:
        parts: The rows.
        used: Names in small letters that are taken. The function adds its own.
    """
    for row, _, _ in _read(parts):
        stem = os.path.splitext(os.path.basename(row.name))[0] or "image"
        name, number = stem, 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        yield name


def _draw(folder: Path, parts: Sequence[Part], boxes: BoxOutput) -> None:
    folder.mkdir(exist_ok=True)
    for stem, (row, part, number) in zip(_stems(parts, set()), _read(parts), strict=True):
        picture = boxes.draw(part.picture(number), row)
        if row.name.lower().endswith(_JPEG):
            picture.save(folder / f"{stem}.jpg", quality=92)
        else:
            picture.save(folder / f"{stem}.png")


def _write_coco(path: Path, parts: Sequence[Part], boxes: BoxOutput) -> None:
    import json

    from cnnforge.utils.atomic_files import write_text

    results = []
    for image_id, (row, part, _) in zip(_image_ids(parts), _read(parts), strict=True):
        results += boxes.coco(row, image_id, part.class_ids)
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in results)
    write_text(path, f"[\n{lines}\n]\n" if results else "[]\n")


def _image_ids(parts: Sequence[Part]) -> list[int | str]:
    """Return the id of each row that `_read` yields: that of COCO data, or a number from 1."""
    found: list[int | str] = []
    for part, rows in parts:
        name, ids = part.ids or ("", [])
        if name != _COCO_ID:
            return list(range(1, sum(1 for _ in _read(parts)) + 1))
        found += [_number_or_text(ids[i]) for i, row in enumerate(rows) if row.error is None]
    return found


def _number_or_text(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _write_yolo(folder: Path, parts: Sequence[Part], boxes: BoxOutput) -> None:
    from cnnforge.utils.atomic_files import write_text

    folder.mkdir(exist_ok=True)
    write_text(folder / _NAMES, boxes.yolo_names())
    used = {os.path.splitext(_NAMES)[0]}
    for stem, (row, _, _) in zip(_stems(parts, used), _read(parts), strict=True):
        write_text(folder / f"{stem}.txt", boxes.yolo(row))

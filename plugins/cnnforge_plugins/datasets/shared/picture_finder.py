"""Find the image files that a table names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

from cnnforge.data import IMAGE_SUFFIXES, find_images, find_run_folders, normal_name, printable
from cnnforge.errors import CnnforgeError

_USUAL_FOLDERS = ("images", "image", "imgs", "img", "pictures", "photos", "data")


class PictureFinder:
    """Finds the image files that a table names, with or without ending and folder.

    A file is looked for in this order: at the path that the table gives, absolute or relative to
    the folder of the table; among the files in that folder; in the sub-folders that are called like
    the table, such as `train` or `train_images` for `train.csv`; in sub-folders with usual names
    such as `train` and `images`; in the other sub-folders.

    Args:
        table: Path of the table.
    """

    def __init__(self, table: str) -> None:
        self.folder = os.path.dirname(os.path.abspath(table))
        self._groups = self._grouped(os.path.splitext(os.path.basename(table))[0].lower())
        # The index of a group of folders is made when no group before it has a file.
        self._indexes: list[dict[str, list[str]]] = []

    def find(self, text: str) -> list[str]:
        """Return the files that a cell of the table may mean: none, one, or several.

        Args:
            text: Name or path of a picture, with or without ending.
        """
        text = text.strip().replace("\\", "/")
        if not text or "\0" in text:
            return []
        direct = os.path.join(self.folder, os.path.expanduser(text))
        if os.path.isfile(direct):
            return [os.path.normpath(direct)]
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        if not parts:
            return []
        # A Mac may have stored the name in another Unicode form than the table.
        parts = [normal_name(part) for part in parts]
        for index in self._each_index():
            found = index.get(parts[-1]) or index.get(parts[-1].lower())
            if found:
                return _closest(_exact(found, parts[-1]), parts)
        return []

    def where(self) -> str:
        """Return the folders in which files were looked for, for a message."""
        names = [os.path.basename(folder) for group in self._groups[1:] for folder in group]
        shown = ", ".join(printable(name) for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        below = f" and its sub-folders {shown}{more}" if names else ", which has no sub-folders"
        return f"{printable(self.folder)}{below}"

    def _grouped(self, stem: str) -> list[list[str]]:
        try:
            with os.scandir(self.folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
        except OSError:
            names = []
        try:
            # The figures of a run are not data.
            runs = {os.path.basename(path) for path in find_run_folders(self.folder)}
        except CnnforgeError:
            runs = set()
        names = [name for name in names if name not in runs]
        # A table such as `sample_submission.csv` is about the pictures in `test`.
        split = "test" if "test" in stem or "submission" in stem else "train"
        ranks: dict[int, list[str]] = defaultdict(list)
        for name in names:
            lower = name.lower()
            if lower == stem:
                rank = 0
            elif lower.startswith(stem) or stem.startswith(lower):
                rank = 1
            elif lower.startswith(split):
                rank = 2
            else:
                rank = 3 if lower in _USUAL_FOLDERS else 4
            ranks[rank].append(os.path.join(self.folder, name))
        return [[self.folder], *(ranks[rank] for rank in sorted(ranks))]

    def _each_index(self) -> Iterator[dict[str, list[str]]]:
        yield from self._indexes
        while len(self._indexes) < len(self._groups):
            place = len(self._indexes)
            index: dict[str, list[str]] = defaultdict(list)
            for folder in self._groups[place]:
                for path in find_images(folder, recursive=place > 0).paths:
                    name = normal_name(os.path.basename(path))
                    for text in {name, name.lower(), *_stems(name)}:
                        index[text].append(path)
            self._indexes.append(dict(index))
            yield self._indexes[-1]


def _stems(name: str) -> set[str]:
    stem, ending = os.path.splitext(name)
    return {stem, stem.lower()} if ending.lower() in IMAGE_SUFFIXES else set()


def _exact(paths: Sequence[str], name: str) -> Sequence[str]:
    """Return the paths with exactly this name, or else with this stem, or else all."""
    names = [normal_name(os.path.basename(path)) for path in paths]
    for texts in (names, [os.path.splitext(own)[0] for own in names]):
        if name in texts:
            return [path for path, text in zip(paths, texts, strict=True) if text == name]
    return paths


def _closest(paths: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return the paths that end with as many of the folders in a table as possible."""

    def common(path: str) -> int:
        folders = [normal_name(part) for part in path.replace(os.sep, "/").split("/")[:-1]]
        count = 0
        for own, wanted in zip(reversed(folders), reversed(parts[:-1]), strict=False):
            if own != wanted:
                break
            count += 1
        return count

    best = max(map(common, paths))
    return [path for path in paths if common(path) == best]

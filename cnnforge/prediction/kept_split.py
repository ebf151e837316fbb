"""Keep in a run which samples it was trained on and validated on, and find them in other data.

Samples are found by content: each run stores the sha256 of every image. So the validation images
of a run stay the same if images are added, moved or renamed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cnnforge.data import Split, printable
from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory

FILE_NAME = "split.csv"
_HEADER = ["split", "file", "sha256"]
_TRAINING, _VALIDATION, _DROPPED = "training", "validation", "left out"
_MAX_NAMED = 3


class Origin(NamedTuple):
    """The part that each of N samples had in the training of a run.

    Attributes:
        trained: (N,) bool, whether the run was trained on the image.
        kept: (N,) bool, whether the image is one of the validation images of the run.
        gone: Number of validation images of the run that are not among the samples.
        dropped: (N,) bool, whether the run left out the image, because it is a copy.
        copies: (N,) bool, whether the image is a validation image that is equal to a training
            image.
    """

    trained: np.ndarray
    kept: np.ndarray
    gone: int
    dropped: np.ndarray
    copies: np.ndarray


@dataclass(frozen=True)
class KeptSplit:
    """The training and the validation samples of a run.

    Attributes:
        training: (name, sha256) of each training image. The name does not contain the folder of the
            data. The digest has 64 hexadecimal digits.
        validation: The same for each validation image.
        dropped: The same for each copy that was left out with `--drop-duplicates`.
    """

    training: Sequence[tuple[str, str]]
    validation: Sequence[tuple[str, str]]
    dropped: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, splits: tuple[Split, Split], dropped: Split | None = None) -> KeptSplit:
        """Make it from the splits of a dataset, and from the copies that were left out."""
        parts = (*splits, dropped) if dropped is not None else splits
        return cls(*(list(_named(split)) for split in parts))

    @classmethod
    def read(cls, run: RunDirectory) -> KeptSplit | None:
        """Read the split of a run.

        Returns:
            The split; `None` if the run does not have one. Runs of cnnforge 0.1 do not, and neither
            do runs on data whose digests are not known.

        Raises:
            RunError: The file is damaged.
        """
        path = run.path / FILE_NAME
        parts: dict[str, list[tuple[str, str]]] = {
            _TRAINING: [],
            _VALIDATION: [],
            _DROPPED: [],
        }
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            if header != _HEADER:
                raise ValueError(f"its columns are {', '.join(header)}")
            for split, name, digest in rows:
                parts[split].append((name, digest))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise RunError(
                f"{path} is damaged ({error}), so the images that the run was trained on are "
                "unknown: restore the file, or delete it to go on without it"
            ) from error
        return cls(parts[_TRAINING], parts[_VALIDATION], parts[_DROPPED])

    def write(self, run: RunDirectory) -> None:
        """Write the split into a run.

        Raises:
            RunError: The file could not be written.
        """
        rows = [
            (part, name, digest)
            for part, samples in (
                (_TRAINING, self.training),
                (_VALIDATION, self.validation),
                (_DROPPED, self.dropped),
            )
            for name, digest in samples
        ]
        run.write_csv(FILE_NAME, _HEADER, rows)

    def find(self, samples: Split) -> Origin:
        """Find the images of the run among other samples.

        An image that is equal to a training image counts as trained on. An exception are validation
        images that were equal to a training image already in the training of the run: these are
        found by their names.

        Args:
            samples: Names and digests of N samples.
        """
        trained = {digest for _, digest in self.training}
        kept = {digest for _, digest in self.validation}
        named, left_out = set(self.validation), set(self.dropped)
        found = list(_named(samples))
        is_dropped = np.array([each in left_out for each in found], bool)
        is_kept = np.array(
            [
                digest in kept and (digest not in trained or (name, digest) in named)
                for name, digest in found
            ],
            bool,
        )
        is_kept &= ~is_dropped
        is_equal = np.array([digest in trained for _, digest in found], bool)
        is_trained = is_equal & ~is_kept
        present = {digest for _, digest in found}
        gone = sum(digest not in present for _, digest in self.validation)
        return Origin(is_trained, is_kept, gone, is_dropped & ~is_trained, is_equal & is_kept)

    def differences(self, other: KeptSplit) -> str:
        """Describe how other data differ from those of the run, in one line.

        Args:
            other: The split of the other data.

        Returns:
            A text such as `"1 image was added (cat/7.png)"`. If all images and names are the same,
            the text says that the labels or the split differ.
        """
        before, after = (
            dict([*each.training, *each.validation, *each.dropped]) for each in (self, other)
        )
        gone = {name: digest for name, digest in before.items() if name not in after}
        added = {name: digest for name, digest in after.items() if name not in before}
        changed = [name for name in before if name in after and before[name] != after[name]]
        renamed = _renamed(gone, added)
        for old, new in renamed:
            del gone[old], added[new]
        texts = [
            _counted(list(added), "added"),
            _counted(list(gone), "removed"),
            _counted(changed, "changed"),
            _counted([f"{old} is now {new}" for old, new in renamed], "renamed"),
        ]
        return "; ".join(filter(None, texts)) or "the images are the same, their labels are not"


def _named(split: Split) -> Iterable[tuple[str, str]]:
    for name, digest in zip(split.names, split.digests, strict=True):
        yield printable(name), digest.hex()


def _renamed(gone: Mapping[str, str], added: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pair names that are gone with added names of the same content, if both are unique."""
    counts = Counter(gone.values()), Counter(added.values())
    old = {digest: name for name, digest in gone.items()}
    return [
        (old[digest], name)
        for name, digest in added.items()
        if counts[0][digest] == counts[1][digest] == 1
    ]


def _counted(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
    images = "1 image was" if len(names) == 1 else f"{len(names)} images were"
    return f"{images} {what} ({shown})"

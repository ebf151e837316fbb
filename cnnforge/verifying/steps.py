"""Describe the steps that a check has trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a training that a check repeats.

    Attributes:
        first: Number of steps before them, from the beginning of the run.
        last: Number of steps at their end.
        batches: Number of steps in an epoch.
        notes: Messages about the run, one sentence each.
    """

    first: int
    last: int
    batches: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, trial: Mapping[str, Any]) -> Steps:
        """Return the steps of a result of `cnnforge.verifying.trials.answer`."""
        return cls(
            first=trial["first"],
            last=trial["last"],
            batches=trial["batches"],
            notes=tuple(trial["notes"]),
        )

    @property
    def count(self) -> int:
        """Number of the steps."""
        return self.last - self.first

    def place(self, step: int) -> str:
        """Return epoch and batch of a step, for messages.

        Args:
            step: Number of the step among these, from 0.
        """
        epoch, batch = divmod(self.first + step, self.batches)
        return f"epoch {epoch + 1}, batch {batch + 1}"

    def describe(self) -> str:
        """Return the steps as a clause, such as `"10 steps from epoch 3, batch 1"`."""
        start = "the beginning of the run" if not self.first else self.place(0)
        return f"{self.count} step{'s' * (self.count > 1)} from {start}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        epoch, batch = divmod(self.first, self.batches)
        return {
            "steps": self.count,
            "from": {"epoch": epoch + 1, "batch": batch + 1},
            "notes": list(self.notes),
        }


def most_steps(count: int) -> str:
    """Return the max number of steps as words, such as `"at most 10 steps"`."""
    return "1 step" if count == 1 else f"at most {count} steps"

"""Kill and resume a training of a copy of a run; compare it with one that is not interrupted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnforge.errors import CnnforgeError
from cnnforge.verifying.processes import Copies
from cnnforge.verifying.steps import Steps, most_steps

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ResumeCheck:
    """The result of `check_resume`.

    Attributes:
        steps: The steps that were trained.
        killed: Step after which the process was killed.
        resumed: Step of the state from which the training was resumed.
        whole: SHA-256 of all variables after the training that nothing interrupted.
        interrupted: SHA-256 of all variables after the training that was killed and resumed.
        difference: The first variable that differs, as plain values; `None` if none does.
    """

    steps: Steps
    killed: int
    resumed: int
    whole: str
    interrupted: str
    difference: dict[str, Any] | None

    @property
    def equal(self) -> bool:
        """Whether the two trainings have ended with the same bits."""
        return self.whole == self.interrupted

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {
            **self.steps.as_dict(),
            "killed_after": self.killed,
            "resumed_after": self.resumed,
            "weights": {"whole": self.whole, "interrupted": self.interrupted},
            "equal": self.equal,
            "difference": self.difference,
        }


def check_resume(copies: Copies, tell: Tell, draws: random.Random | None = None) -> ResumeCheck:
    """Train a copy of a run, and another copy that is killed and resumed; compare the variables.

    Args:
        copies: The copies of the run.
        tell: Function that shows a line to the user: what is done next.
        draws: Random numbers, which choose the step after which the process is killed; `None`: it
            is another step each time.

    Returns:
        The result.

    Raises:
        CnnforgeError: The run cannot be resumed, or a process has failed.
    """
    draws = draws or random.Random()
    tell(f"training a copy of the run, {most_steps(copies.options.steps)}")
    whole_run = copies.copy("whole")
    whole = _trial(copies.ask({"copies": [str(whole_run)]}))
    steps = Steps.of(whole)
    # If possible not after the first step: then a state of a later step than the first is resumed.
    killed = draws.randint(min(2, steps.count), steps.count) + steps.first
    killed_run = copies.copy("killed", states=steps.first > 0)
    tell(f"training another copy, and killing its process after step {killed - steps.first}")
    request = {"copies": [str(killed_run)], "last": whole["limit"]}
    if copies.ask({**request, "kill": killed}) is not None:
        raise CnnforgeError(
            f"the training of a copy of the run {copies.run.path} ended before step "
            f"{killed - steps.first}, and the first one did not: type the command again"
        )
    tell("resuming it in a new process")
    expected = whole_run / copies.run.states.name
    again = _trial(copies.ask({**request, "expected": str(expected)}))
    copies.unchanged()
    return ResumeCheck(
        steps=steps,
        killed=killed - steps.first,
        resumed=again["first"] - steps.first,
        whole=whole["weights"],
        interrupted=again["weights"],
        difference=again["difference"],
    )


def _trial(answer: dict[str, Any] | None) -> dict[str, Any]:
    assert answer is not None
    return answer["trials"][0]

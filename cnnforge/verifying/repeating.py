"""Repeat some steps of a run in several ways, and find the first value that differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.utils.processors import usable_processors
from cnnforge.verifying.processes import Copies
from cnnforge.verifying.steps import Steps, most_steps

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first value that differs between two trainings of the same steps.

    Attributes:
        kind: `"run to run"`, `"process to process"` or `"threads"`.
        step: Number of the step among those that were trained, from 0.
        place: Epoch and batch of the step, as a text.
        what: `"inputs"`, `"outputs"`, `"gradient"` or `"variable"`.
        name: Name of the layer or of the variable.
        layer: Name and class of the layer of the variable, as a text; empty if it has none.
        plugin: Plugin or module of the layer; empty if it is a layer of Keras.
        before: The last layer or variable before it, of the same kind, that is equal, or "".
        max: Max difference in a sample of the values.
        size: Max absolute value in this sample.
        differing: Number of values in the sample that differ.
        compared: Number of values in the sample.
    """

    kind: str
    step: int
    place: str
    what: str
    name: str
    layer: str
    plugin: str
    before: str
    max: float
    size: float
    differing: int
    compared: int


@dataclass(frozen=True, kw_only=True)
class RepeatCheck:
    """The result of `check_repeats`.

    Attributes:
        steps: The steps that were trained.
        threads: The two numbers of threads.
        trials: For each training how it ran, and the SHA-256 of all variables after it. If one
            differs, those after it are left out.
        difference: The first value that differs; `None` if all trainings are equal.
    """

    steps: Steps
    threads: tuple[int, int]
    trials: Sequence[tuple[str, str]]
    difference: Difference | None

    @property
    def equal(self) -> bool:
        """Whether all trainings have ended with the same bits."""
        return self.difference is None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {
            **self.steps.as_dict(),
            "threads": list(self.threads),
            "trials": [{"how": how, "weights": weights} for how, weights in self.trials],
            "equal": self.equal,
            "difference": None if self.difference is None else asdict(self.difference),
        }


def check_repeats(copies: Copies, tell: Tell) -> RepeatCheck:
    """Train the same steps twice in one process, in another process, and with other threads.

    Args:
        copies: The copies of the run.
        tell: Function that shows a line to the user: what is done next.

    Returns:
        The result. The first kind of training that differs ends the check.

    Raises:
        CnnforgeError: The run cannot be resumed, or a process has failed.
    """
    usual = usable_processors()
    # With one processor, two threads can be tested all the same.
    threads = usual, 1 if usual > 1 else 2
    tell(f"training {most_steps(copies.options.steps)}, twice in one process")
    first, second = _train(copies, "one", 2, usual, 1)
    steps = Steps.of(first)
    trials = [("a process", first["weights"]), ("the same process again", second["weights"])]

    def result(difference: Difference | None) -> RepeatCheck:
        copies.unchanged()
        return RepeatCheck(steps=steps, threads=threads, trials=trials, difference=difference)

    if found := _difference(copies, steps, "run to run", ("one", first, 0), ("one", second, 1)):
        return result(found)
    others = (
        ("process to process", "another process", usual, 2),
        ("process to process", "a third process", usual, 3),
        ("threads", f"a process with {threads[1]} thread{'s' * (threads[1] > 1)}", threads[1], 1),
    )
    for kind, how, count, seed in others:
        tell(f"training them in {how}")
        (other,) = _train(copies, how, 1, count, seed)
        trials.append((how, other["weights"]))
        if found := _difference(copies, steps, kind, ("one", first, 0), (how, other, 0)):
            return result(found)
    return result(None)


def _train(copies: Copies, name: str, times: int, threads: int, seed: int) -> list[dict[str, Any]]:
    """Train copies of the run in one process, and return the results."""
    paths = [str(copies.copy(f"{name} {number}")) for number in range(times)]
    record = copies.folder / f"record of {name}"
    record.mkdir()
    answer = copies.ask(
        {"copies": paths, "record": str(record)},
        threads=threads,
        # The hashes of texts, and so the order of sets, differ between processes.
        variables={"PYTHONHASHSEED": str(seed)},
    )
    assert answer is not None
    return answer["trials"]


def _difference(
    copies: Copies,
    steps: Steps,
    kind: str,
    one: tuple[str, Mapping[str, Any], int],
    other: tuple[str, Mapping[str, Any], int],
) -> Difference | None:
    """Find the first value that differs; `None` if the variables are equal after each step.

    Args:
        copies: The copies of the run.
        steps: The steps.
        kind: See `Difference`.
        one: The name of a process, a result of it, and the index of the result.
        other: The same of another training.
    """
    pairs = list(zip(one[1]["steps"], other[1]["steps"], strict=False))
    for step, (before, after) in enumerate(pairs):
        # Not the names: Keras counts the layers that a process has made.
        digests = [[item[2] for item in items] for items in (before, after)]
        # The layers were also computed by themselves. Only what the step itself has changed counts.
        if _variables(before) == _variables(after):
            continue
        unequal = (a != b for a, b in zip(*digests, strict=False))
        number = next((n for n, it in enumerate(unequal) if it), 0)
        what, name, _ = before[number]
        same_kind = [item[1] for item in before[:number] if item[0] == what]
        values = [_sample(copies, *it, step, number) for it in (one, other)]
        layer, plugin = one[1]["owners"].get(name, ["", ""])
        return Difference(
            kind=kind,
            step=step,
            place=steps.place(step),
            what=what,
            name=name,
            layer=layer,
            plugin=plugin,
            before=same_kind[-1] if same_kind else "",
            **_sizes(*values),
        )
    if one[1]["weights"] != other[1]["weights"]:
        # A callback at the end of an epoch may have changed a variable after the last step.
        return Difference(
            kind=kind,
            step=steps.count - 1,
            place=steps.place(steps.count - 1),
            what="variable",
            name="after the last step",
            layer="",
            plugin="",
            before="",
            **_sizes(np.empty(0), np.empty(0)),
        )
    return None


def _variables(step: Sequence[Sequence[str]]) -> list[str]:
    return [digest for what, _, digest in step if what == "variable"]


def _sample(
    copies: Copies, name: str, result: Mapping[str, Any], trial: int, step: int, number: int
) -> np.ndarray:
    path = Path(copies.folder, f"record of {name}", f"{trial}-{step}.npz")
    with np.load(path, allow_pickle=False) as samples:
        return samples[str(number)]


def _sizes(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    if one.shape != other.shape or not one.size:
        return {"max": 0.0, "size": 0.0, "differing": 0, "compared": 0}
    apart = np.abs(one - other)
    return {
        "max": float(apart.max()),
        "size": float(np.abs(one).max()),
        "differing": int(np.count_nonzero(apart)),
        "compared": one.size,
    }

"""List what differs in the configuration and in the environment of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnnforge.errors import RunError
from cnnforge.utils.structured_text import MALFORMED, read_json

# These say where a run was written, and not how it was trained.
_PLACES = ("output", "log")
_ENVIRONMENT = "environment.json"


class Difference(NamedTuple):
    """A value that is not the same in all runs.

    Attributes:
        name: Name of the option or of the fact.
        first: The values in the first group of runs, without repetitions.
        second: The same for the second group.
    """

    name: str
    first: str
    second: str


def configuration_differences(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    """List the options that differ.

    Args:
        first: The options of each run of the first group, by name.
        second: The same for the second group.
    """
    return [
        each for each in _differences(first, second) if each.name.rpartition(".")[2] not in _PLACES
    ]


def environment_differences(first: Sequence[Path], second: Sequence[Path]) -> list[Difference]:
    """List the versions, processors and drivers that differ.

    Args:
        first: The directories of the runs of the first group.
        second: The same for the second group.

    Raises:
        RunError: A file cannot be read.
    """
    return _differences(
        [environment_facts(path) for path in first], [environment_facts(path) for path in second]
    )


def environment_facts(run: Path) -> dict[str, Any]:
    """Return the facts about the machine and its packages from `environment.json` of a run.

    Args:
        run: The run directory. A run without the file has no facts.

    Raises:
        RunError: The file cannot be read.
    """
    path = run / _ENVIRONMENT
    try:
        found = read_json(path)
        cpu, git = found.get("cpu") or {}, found.get("git") or {}
        return {
            "Python": found.get("python"),
            **(found.get("packages") or {}),
            "backend": (found.get("backend") or {}).get("name"),
            "platform": found.get("platform"),
            "processor": cpu.get("model"),
            "processor target": cpu.get("target"),
            "cores": cpu.get("usable_cores"),
            "GPU": found.get("gpu"),
            "driver": found.get("driver"),
            "commit": git.get("commit") if isinstance(git, dict) else git,
            **{
                f"plugin {each['name']}": each.get("version") for each in found.get("plugins") or ()
            },
        }
    except FileNotFoundError:
        return {}
    except (OSError, *MALFORMED) as error:
        raise RunError(f"{path} cannot be read: {error}; restore or delete it") from error


def _differences(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    names = dict.fromkeys(name for each in (*first, *second) for name in each)
    found = []
    for name in names:
        values = [list(dict.fromkeys(_text(run.get(name)) for run in g)) for g in (first, second)]
        if len({*values[0], *values[1]}) > 1:
            found.append(Difference(name, ", ".join(values[0]), ", ".join(values[1])))
    return found


def _text(value: Any) -> str:
    if value is None or value in ([], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

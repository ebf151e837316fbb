"""Print the results of `cnnforge plugins check`: a line for each, and tables at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cnnforge.plugin import Spec

_MARKS = {"ok": "ok  ", "failed": "FAIL", "same": "fail", "not run": "--  "}
# The message of a check that depends on a failed one: the property, and the layer if it is another.
_CAUSE = re.compile(r"^(?:not run: )?(\w+?)(?:-[a-z0-9-]+)?( of the layer \w+)? failed$")


class Report:
    """Prints results as they come, and each cause once.

    A check that fails for several cases has one line, after the last case. The checks of a layer
    that were not run because of a failed one have one line, after all others.

    Args:
        verbose: Whether each result has a line of its own.
    """

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._spec: Spec | None = None
        # The results of one property that are not printed yet, and its number of results.
        self._waiting: list[dict[str, Any]] = []
        self._kind, self._count = "", 0
        self._not_run: list[str] = []

    def begin(self, spec: Spec) -> None:
        """Print a title, if the next results are those of another spec."""
        if spec is self._spec:
            return
        if self._spec is not None:
            self.end()
            typer.echo()
        typer.echo(f"{spec.kind} {spec.qualified_name}: {spec.summary}")
        self._spec = spec

    def add(self, row: dict[str, Any]) -> None:
        """Print a result now or, if more results may have the same cause, later."""
        if row["check"] != self._kind:
            self._print_waiting()
            self._kind, self._count = row["check"], 0
        self._count += 1
        if row["status"] == "ok" or self._verbose:
            typer.echo(_line(row))
        elif row["status"] == "not run" and _CAUSE.match(row["message"]):
            self._not_run.append(row["message"])
        else:
            self._waiting.append(row)

    def end(self) -> None:
        """Print what is not printed yet."""
        self._print_waiting()
        if self._not_run:
            found = [match for it in self._not_run if (match := _CAUSE.match(it))]
            causes = dict.fromkeys(match[1] + (match[2] or "") for match in found)
            count = len(self._not_run)
            typer.echo(
                f"  --   {count} check{'s' if count > 1 else ''} not run: "
                f"{', '.join(causes)} failed; -v lists them"
            )
        self._not_run.clear()

    def _print_waiting(self) -> None:
        for not_run in (False, True):
            rows = [row for row in self._waiting if (row["status"] == "not run") == not_run]
            if not rows:
                continue
            first = dict(rows[0])
            if len(rows) > 1:
                first["message"] = f"{len(rows)} of {self._count} cases: {first['message']}"
            typer.echo(_line(first))
        self._waiting.clear()


def summary(count: Counter[str]) -> str:
    """Return a sentence about the number of results of each status."""
    total = sum(count.values())
    text = f"{count['ok']} of {total} checks passed"
    rest = {"failed": "failed", "same": "failed for the same reason", "not run": "not run"}
    return ", ".join([text, *(f"{count[key]} {what}" for key, what in rest.items() if count[key])])


def _line(row: dict[str, Any]) -> str:
    name = f"{row['check']}-{row['case']}" if row["case"] else row["check"]
    message = f": {row['message']}" if row["message"] else ""
    return f"  {_MARKS[row['status']]} {name}{message}"


def table(spec: Spec, rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table: one line for each check, one column for each case."""
    cases = list(dict.fromkeys(row["case"] for row in rows if row["case"]))
    columns = cases or [""]
    lines = [
        f"| {spec.qualified_name} | {' | '.join(case or 'result' for case in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for kind in dict.fromkeys(row["check"] for row in rows):
        results = {row["case"]: row for row in rows if row["check"] == kind}
        # A check of the whole layer has no case. Its result goes into the first column.
        cells = [
            _cell(results.get(case) or results.get("" if case == columns[0] else None))
            for case in columns
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["status"] != "ok":
        return {"failed": "**FAIL**", "same": "fail"}.get(row["status"], "-")
    if row["check"] != "speed":
        return "ok"
    return row["message"].replace(" times as fast as the reference", "x")

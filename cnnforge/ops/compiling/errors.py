"""Shorten the error that Numba raises for a function that it cannot compile."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(r'File "([^"\n]+)", line (\d+):\n(.*?)\n\s*\^', re.DOTALL)
_SPECIFIC = re.compile(r"raised a specific error:\s*\n\s*\w+: ([^\n]+)")
_UNCOMPILED = re.compile(r"name '(\w+)': Cannot determine Numba type of <class 'function'>")


def explain(error: BaseException) -> str:
    """Return the reason why a function does not compile.

    Args:
        error: Numba's error, often sixty lines that list every signature that does not fit.

    Returns:
        The reason. If Numba names the line of the function, the file, the line number and the
        source of that line follow.
    """
    text = _COLOURS.sub("", str(error))
    specific = _SPECIFIC.search(text)
    plain = _UNCOMPILED.search(text)
    if plain:
        reason = f"it calls {plain[1]!r}, a plain Python function: decorate that with @numba.njit"
    elif specific:
        reason = specific[1]
    else:
        lines = [line for line in text.splitlines() if not line.startswith("Failed in ")]
        kept = []
        for line in lines:
            if line.startswith(("File ", "During: ", "There are ")):
                break
            kept.append(line.replace(">>>", ""))
        reason = " ".join(" ".join(kept).split())
    places = _PLACE.findall(text)
    if places:
        path, line, source = places[-1]
        shown = source.splitlines()[-1].strip()
        reason += f" ({path.rpartition('/')[2]}:{line}: {shown})"
    return reason

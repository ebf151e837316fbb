"""Commands that messages tell the user to type, if several messages name the same one.

The paths in them are quoted where a shell needs it, so that a command can be copied.
"""

from __future__ import annotations

import os

from cnnforge.utils.names import as_argument


def resume_command(run: str | os.PathLike[str], options: str = "") -> str:
    """Return the command that continues a run, in the quotes of a message.

    Args:
        run: Path of the run directory.
        options: Text of more options, such as `--epochs +10`.

    Returns:
        `'cnnforge train --resume RUN OPTIONS'`, with the quotes.
    """
    return f"'cnnforge train --resume {as_argument(run)}{options and f' {options}'}'"


def from_its_weights(run: str | os.PathLike[str]) -> str:
    """Return a clause about the option that begins a new run with the weights of a run.

    Args:
        run: Path of the run directory.
    """
    return f"for a new run from its weights use --init-from {as_argument(run)}"

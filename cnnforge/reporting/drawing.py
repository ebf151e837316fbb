"""Draw figures in cnnforge's own style, whatever Matplotlib is configured to do.

Figures are drawn with the backend Agg, which needs no screen. `MPLBACKEND` and the user's file
`matplotlibrc` have no effect on them, even if Matplotlib itself cannot be imported with these.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MODULES = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.font_manager")
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "figure.facecolor": "white",
    # Otherwise the text between two dollar signs would be drawn as a formula.
    "text.parse_math": False,
}


def import_matplotlib() -> None:
    """Import Matplotlib, whatever `MPLBACKEND` and the user's file `matplotlibrc` contain.

    Keras imports Matplotlib, too. So the program calls this before it imports Keras.
    """
    with _silence():
        try:
            for module in _MODULES:
                import_module(module)
        except Exception:
            # A wrong MPLBACKEND or a damaged matplotlibrc may be the cause, so import again without
            # them.
            for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
                del sys.modules[module]
            with _default_configuration():
                for module in _MODULES:
                    import_module(module)


@contextlib.contextmanager
def style(changes: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Import Matplotlib if necessary, and use cnnforge's style in the block.

    Args:
        changes: Parameters of Matplotlib that differ from the style, by name.
    """
    import_matplotlib()
    with _silence():
        import matplotlib as mpl

        defaults: dict[Any, Any] = {k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"}
        with mpl.rc_context():
            mpl.rcParams.update({**defaults, **_STYLE, **(changes or {})})
            yield


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Make an empty figure of 150 pixels per inch, inside of `style`.

    Args:
        width: Width in inches.
        height: Height in inches.
        **options: Other arguments of Matplotlib's `Figure`.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, **options)


def write(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file, inside of `style`.

    Args:
        figure: The figure.
        path: The file.

    Raises:
        OSError: The file could not be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide what Matplotlib says about the user's configuration, which has no effect here."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _default_configuration() -> Iterator[None]:
    """Make Matplotlib read its default configuration if it is imported in the block."""
    backend = os.environ.pop("MPLBACKEND", None)
    spec = find_spec("matplotlib")
    folder = Path(str(spec and spec.origin)).parent / "mpl-data"
    try:
        # Matplotlib looks for the file matplotlibrc in the current folder first. This folder has
        # the default one.
        with contextlib.chdir(folder):
            yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend

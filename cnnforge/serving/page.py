"""The web page of `cnnforge serve`."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import Any

from cnnforge.pages import Page, asset, escape, make_page, plain

_SCRIPTS = ["page.js", "drawing.js", "serve.js"]
# Number of classes that the page asks for.
_TOP = 10


def serve_page(description: Mapping[str, Any]) -> Page:
    """Make the page of a server.

    Args:
        description: Facts about the model and limits of the server, as in `GET /health`.

    Returns:
        The page.
    """
    height, width, channels = description["image"]
    classes, explains = description["classes"], description["explains"]
    count = "" if classes is None else f"; {len(classes):,} classes"
    options = description["options"]
    body = Template(asset("serve.html")).substitute(
        model=escape(description["model"]),
        facts=escape(
            f"Run {description['run']}; task {description['task']}{count}; the network takes "
            f"pictures of {height}x{width} pixels, {'gray' if channels == 1 else 'color'}."
        ),
        megabytes=f"{description['max_bytes'] / 2**20:g}",
        explain="" if explains else " hidden",
    )
    asked = {"top_k": min(_TOP, len(classes or ())) or 1} if "top_k" in options else {}
    data = {
        "asked": asked,
        "maxBytes": description["max_bytes"],
        "classes": [plain(each) for each in classes or ()],
        "explains": explains,
    }
    title = f"{description['model']}: predictions"
    return make_page(title, body, scripts=_SCRIPTS, data=data, asks_server=True)

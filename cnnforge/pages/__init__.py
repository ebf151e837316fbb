"""Make web pages that are one file and load nothing: neither fonts, nor scripts, nor pictures.

A `Content-Security-Policy` in the page makes the browser refuse every request, and every script or
style whose hash it does not name.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class Page(NamedTuple):
    """A web page.

    Attributes:
        text: HTML.
        policy: The content security policy that the page contains.
    """

    text: str
    policy: str


def page(title: str, body: str, *, scripts: Sequence[str], data: Mapping[str, Any]) -> str:
    """Make a page that is one file.

    Args:
        title: Title of the page, plain text.
        body: HTML of the page inside `<main>`. The caller escapes texts in it with `escape`.
        scripts: Names of the scripts in the folder `assets`, in the order in which they run. A
            script reads `data` from the global constant `DATA`.
        data: Plain values for the scripts; see `packed` for arrays.

    Returns:
        HTML.
    """
    return make_page(title, body, scripts=scripts, data=data).text


def make_page(
    title: str,
    body: str,
    *,
    scripts: Sequence[str],
    data: Mapping[str, Any],
    asks_server: bool = False,
) -> Page:
    """Make a page.

    Args:
        title: See `page`.
        body: See `page`.
        scripts: See `page`.
        data: See `page`.
        asks_server: Whether the scripts may send requests to the server that the page comes from.
    """
    style = asset("page.css")
    code = "\n".join(["'use strict';", f"const DATA = {_json(data)};", *map(asset, scripts)])
    policy = (
        f"default-src 'none'; script-src '{_hash(code)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
        f"{'; connect-src ' + _SELF if asks_server else ''}"
    )
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{code}</script>
</body>
</html>
"""
    return Page(text, policy)


def escape(text: str) -> str:
    """Escape a text for HTML, also for the value of an attribute."""
    return html.escape(plain(text))


def plain(text: str) -> str:
    """Remove marks from a text that change the direction of the text that follows it.

    Half of a character, which JSON can contain and UTF-8 cannot, is replaced.
    """
    shown = "".join(c for c in text if c not in _DIRECTION_MARKS)
    return shown.encode("utf-8", "replace").decode("utf-8")


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """Make a picture smaller if it is larger than a square.

    Args:
        pixels: (H, W, 1 or 3) uint8.
        side: Max height and width.
    """
    height, width, channels = pixels.shape
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC)).reshape(size[1], size[0], -1)


def packed(array: np.ndarray) -> dict[str, Any]:
    """Return an array in the form that `unpack` in `page.js` reads.

    Args:
        array: An array of uint8, float32 or float16.

    Returns:
        The dtype, the shape, and the little-endian values in base64.
    """
    if array.dtype not in (np.uint8, np.float16, np.float32):
        raise TypeError(f"arrays of {array.dtype} are not packed: convert it to float32")
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "values": base64.b64encode(content).decode("ascii"),
    }


def asset(name: str) -> str:
    """Return the text of a file in the folder `assets`."""
    return files("cnnforge.pages").joinpath("assets", name).read_text(encoding="utf-8").strip()


_SELF = "'self'"
_DIRECTION_MARKS = frozenset(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def _json(data: Mapping[str, Any]) -> str:
    # "</script>" and "<!--" inside of a string would end or change the script.
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"sha256-{digest}"

"""Open web pages in Chromium without a window, and run scripts in them."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
AXE = Path(
    os.environ.get("CNNFORGE_AXE", "")
    or Path(__file__).parents[2] / ".pages" / "node_modules" / "axe-core" / "axe.min.js"
)
"""The script that checks accessibility. `make test-pages` downloads it."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
needs_axe = pytest.mark.skipif(
    CHROMIUM is None or not AXE.is_file(), reason="needs Chromium and axe-core: make test-pages"
)

# Reports what the page did wrong before and while the script of a test ran.
_REPORT = Path(__file__).with_name("in_page.js").read_text(encoding="utf-8")


_FRAME = """<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<script>addEventListener("message", ({ data }) => {
const made = document.createElement("pre");
made.id = "result-of-test";
made.textContent = data;
made.hidden = true;
document.body.append(made);
});</script>
<body style="margin: 0">
<iframe src="FILE" width="WIDTH" height="HEIGHT" style="border: 0"></iframe></body>
"""


def run_in_page(
    page: Path, script: str, *, width: int = 1280, dark: bool = False, scripts: str = ""
) -> Any:
    """Open a page of cnnforge, run a script in it, and return the value of the script.

    Fails if the page writes to the console, makes a request or breaks its own policy.

    Args:
        page: The page.
        script: Body of an async function.
        width: Width of the window in pixels.
        dark: Whether the user prefers dark colors.
        scripts: Further code that runs before.
    """
    code = f"{_REPORT}\n{scripts}\nreport(async () => {{ {script} }});"
    outer = _framed(page.resolve(), code, width, 1500)
    done = _chromium(
        outer, "--virtual-time-budget=120000", "--dump-dom", size=(width, 1500), dark=dark
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    found = re.search(r'<pre id="result-of-test" hidden="">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    result = json.loads(html.unescape(found[1]))
    assert result["problems"] == [], result["problems"]
    assert result["requests"] == []
    return result["value"]


def photograph(
    page: Path, output: Path, *, script: str = "", size: tuple[int, int], dark: bool = False
) -> None:
    """Open a page of cnnforge, run a script in it, and write what is seen to a PNG file.

    Args:
        page: The page.
        output: The file.
        script: Body of an async function, which runs when the page is ready.
        size: Width and height of the window in pixels.
        dark: Whether the user prefers dark colors.
    """
    code = f"{_REPORT}\nreport(async () => {{ {script} }});"
    outer = _framed(page.resolve(), code, *size)
    picture = f"--screenshot={output.resolve()}"
    done = _chromium(outer, "--virtual-time-budget=20000", picture, size=size, dark=dark)
    assert output.is_file(), done.stderr[-2000:]


def _framed(page: Path, code: str, width: int, height: int) -> Path:
    """Write a copy of a page with more code, and a page with a frame that shows it."""
    code = code.replace("</script", "<\\/script")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace(
        "script-src ", f"script-src 'sha256-{digest}' ", 1
    )
    copy = page.with_name(f"{page.stem}-in-test.html")
    # The script comes first, so that it sees the errors of the page.
    copy.write_text(text.replace("<main>", f"<script>{code}</script><main>", 1), encoding="utf-8")
    # Chromium makes no window narrower than 500 pixels, so the page is in a frame.
    outer = page.with_name(f"{page.stem}-frame.html")
    frame = _FRAME.replace("WIDTH", str(width)).replace("HEIGHT", str(height))
    outer.write_text(frame.replace("FILE", copy.name), "utf-8")
    return outer


def _chromium(
    page: Path, *options: str, size: tuple[int, int], dark: bool
) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return done


def violations(page: Path, *, width: int, dark: bool) -> list[str]:
    """Return what axe-core finds wrong in a page, one line for each kind."""
    script = "return accessibility();"
    code = AXE.read_text(encoding="utf-8")
    value = run_in_page(page, script, width=width, dark=dark, scripts=code)
    assert (value["width"], value["dark"]) == (width, dark)
    return value["found"]

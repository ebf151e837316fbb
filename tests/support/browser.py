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
document.body.append(made);
});</script>
<body><iframe src="FILE" width="WIDTH" height="1500" style="border: 0"></iframe></body>
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
    page = page.resolve()
    code = f"{_REPORT}\n{scripts}\nreport(async () => {{ {script} }});"
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
    outer.write_text(_FRAME.replace("WIDTH", str(width)).replace("FILE", copy.name), "utf-8")
    profile = page.parent / "profile"
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={width + 40},1600",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=120000",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    shutil.rmtree(profile, ignore_errors=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    found = re.search(r'<pre id="result-of-test">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    result = json.loads(html.unescape(found[1]))
    assert result["problems"] == [], result["problems"]
    assert result["requests"] == []
    return result["value"]


def violations(page: Path, *, width: int, dark: bool) -> list[str]:
    """Return what axe-core finds wrong in a page, one line for each kind."""
    script = "return accessibility();"
    code = AXE.read_text(encoding="utf-8")
    value = run_in_page(page, script, width=width, dark=dark, scripts=code)
    assert (value["width"], value["dark"]) == (width, dark)
    return value["found"]

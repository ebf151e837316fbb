"""The page of `cnnforge serve` in Chromium: it shows answers, and asks nobody but its server."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import AXE, needs_axe, needs_chromium, run_in_page
from served import picture

from cnnforge.serving.page import serve_page

CLASSIFIER = {
    "run": "lenet-<b>-001",
    "model": 'lenet & "co"',
    "task": "classification",
    "image": [28, 28, 1],
    "classes": ["cat", "<i>dog</i>", "bird"],
    "options": {"top_k": 3},
    "explains": True,
    "max_bytes": 1000,
    "max_pixels": 10**6,
}
DETECTOR = {**CLASSIFIER, "task": "detection", "options": {"confidence": 0.3}, "explains": False}
ROW = {
    "file": "picture",
    "label": "<i>dog</i>",
    "probability": 0.75,
    "top": [
        {"label": "<i>dog</i>", "probability": 0.75},
        {"label": "cat", "probability": 0.25},
    ],
    "true_label": None,
    "error": None,
}
BOXES = {
    "file": "picture",
    "height": 30,
    "width": 40,
    "objects": [
        {"label": "cat", "confidence": 0.9, "box": [4.0, 12.0, 14.0, 22.0]},
        {"label": "cat", "confidence": 0.5, "box": [20.0, 2.0, 39.0, 28.0]},
    ],
    "true_objects": None,
    "error": None,
}

# Answers in place of the server, and hands pictures to the page as a user does.
_HELP = """
const asked = [];
function answer(status, value, headers = {}) {
  window.fetch = async (path, options) => {
    asked.push([path, options.method, options.headers["Content-Type"], options.body.size]);
    return new Response(JSON.stringify(value), { status, headers });
  };
}
const file = (size) => {
  const bytes = Uint8Array.from(atob("PICTURE"), (letter) => letter.charCodeAt(0));
  return new File(size ? [new Uint8Array(size)] : [bytes], "a.png", { type: "image/png" });
};
function holding(one) {
  const data = new DataTransfer();
  if (one) data.items.add(one); else data.setData("text/uri-list", "http://x/a.png");
  return data;
}
const drop = (one) =>
  dispatchEvent(new DragEvent("drop", { dataTransfer: holding(one), cancelable: true }));
const paste = (one) =>
  dispatchEvent(new ClipboardEvent("paste", { clipboardData: holding(one) }));
const text = (id) => byId(id).hidden ? "" : byId(id).textContent;
async function settled() {
  const waiting = () => text("answer") === "The network looks at the picture.";
  // The time of `wait` passes at once. Decoding takes time by the clock, so this takes some, too.
  for (let i = 0; i < 500 && waiting(); i++) {
    for (let j = 0; j < 3e6; j++) asked.spent = j;
    await wait(20);
  }
  await wait(20);
}
"""
_WAIT = "const wait = (time) => new Promise((done) => setTimeout(done, time));\n"


def written(folder: Path, description: Any) -> Path:
    path = folder / "serve.html"
    path.write_text(serve_page(description).text, encoding="utf-8")
    return path


def in_page(folder: Path, description: Any, script: str, **options: Any) -> Any:
    code = _WAIT + _HELP.replace("PICTURE", base64.b64encode(picture(9, (40, 30))).decode())
    return run_in_page(written(folder, description), code + script, **options)


def test_the_page_escapes_names_and_names_no_address() -> None:
    made = serve_page(CLASSIFIER)
    assert "<b>" not in made.text
    assert "<i>" not in made.text
    assert not re.search(r"https?:|src=|@import|url\(", made.text)
    assert made.policy in made.text
    assert made.policy.endswith("connect-src 'self'")


@needs_chromium
def test_a_dropped_picture_is_classified_and_explained(tmp_path: Path) -> None:
    found = in_page(
        tmp_path,
        CLASSIFIER,
        f"""
        answer(200, {json.dumps(ROW)});
        drop(file()); await settled();
        const bars = [...byId("bars").querySelectorAll("tbody tr")].map((row) =>
          [...row.cells].map((cell) => cell.firstChild?.style?.width ?? cell.textContent));
        const size = [byId("picture").width, byId("picture").height];
        const first = [text("answer"), bars, size, text("caption"), byId("file").files[0].name];
        answer(200, "", {{ "Content-Location": "/explained/abc" }});
        byId("explain").click(); await wait(50);
        const links = [...byId("explained").querySelectorAll("a")].map((link) =>
          [link.getAttribute("href"), link.target, link.download]);
        return [...first, links, asked];
        """,
    )
    answer, bars, size, caption, name, links, asked = found
    assert answer == "<i>dog</i>, with a probability of 75.0%; then cat, 25.0%."
    assert bars == [["<i>dog</i>", "75.0%", "75%"], ["cat", "25.0%", "25%"]]
    assert size == [480, 360]
    assert caption == "Your picture, 30x40 pixels."
    assert name == "a.png"
    assert links == [["/explained/abc", "_blank", ""], ["/explained/abc", "", "explained.html"]]
    assert [each[:3] for each in asked] == [
        ["predict?top_k=3", "POST", "image/png"],
        ["explain", "POST", "image/png"],
    ]


@needs_chromium
def test_boxes_are_drawn(tmp_path: Path) -> None:
    found = in_page(
        tmp_path,
        DETECTOR,
        f"""
        answer(200, {json.dumps(BOXES)});
        paste(file()); await settled();
        const line = byId("picture").getContext("2d").getImageData(48, 200, 53, 1).data;
        const boxes = [text("answer"), [...line.slice(0, 4)], [...line.slice(-4)], text("why")];
        answer(200, {json.dumps({**BOXES, "objects": []})});
        paste(file()); await settled();
        return [...boxes, text("answer"), byId("bars").rows.length];
        """,
        width=360,
    )
    answer, on_box, in_box, why, none, rows = found
    assert answer == "2 objects: 2 of class cat."
    assert on_box == [255, 176, 0, 255]
    assert in_box == [9, 9, 9, 255]
    assert why == ""
    assert none == "No object was found."
    assert rows == 1


@needs_chromium
def test_problems_are_said(tmp_path: Path) -> None:
    # A long name is not wider than the window.
    long = {**ROW, "top": [{"label": "x" * 90, "probability": 1.0}]}
    refused, large, no_file, gone, *rest = in_page(
        tmp_path,
        CLASSIFIER,
        f"""
        answer(200, {json.dumps(long)}); drop(file()); await settled();
        const shown = [text("answer"), document.documentElement.scrollWidth, unreachable()];
        """
        """
        answer(415, { error: "no picture" });
        drop(file()); await settled();
        const texts = [text("problem")];
        drop(file(2 ** 20)); await settled(); texts.push(text("problem"));
        drop(null); await settled(); texts.push(text("problem"));
        window.fetch = async () => { throw new TypeError("gone"); };
        drop(file()); await settled(); texts.push(text("problem"));
        return [...texts, ...shown];
        """,
        width=360,
        dark=True,
    )
    assert refused == "The server refuses the picture: no picture."
    assert large.startswith("The picture has 1.0 MB, at most 0.0 MB are allowed")
    assert no_file.startswith("This is not a file: the page loads nothing from other addresses.")
    assert rest == [f"{'x' * 90}, with a probability of 100.0%.", 360, []]
    assert gone == "The server does not answer: is 'cnnforge serve' still running?"


@needs_axe
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(("page", "row"), [(CLASSIFIER, ROW), (DETECTOR, BOXES)])
def test_nothing_is_inaccessible(
    tmp_path: Path, page: Any, row: Any, width: int, dark: bool
) -> None:
    script = f"""
    const empty = await accessibility();
    answer(200, {json.dumps(row)}); drop(file()); await settled();
    const shown = await accessibility();
    answer(415, {{ error: "no picture" }}); drop(file()); await settled();
    return [empty, shown, await accessibility()];
    """
    code = AXE.read_text(encoding="utf-8")
    for found in in_page(tmp_path, page, script, width=width, dark=dark, scripts=code):
        assert (found["width"], found["dark"]) == (width, dark)
        assert found["found"] == []

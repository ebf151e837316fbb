"""Pages are one file that loads nothing, and whatever a text contains stays a text."""

import base64
import hashlib
import re

import numpy as np
import pytest

from cnnforge.pages import escape, packed, page

ODD = "</script><b>\"quoted\" & 'odd' <!-- \u202eabc \u2066x"


def parts(text: str, tag: str) -> str:
    (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found


def test_the_policy_names_the_only_script_and_style() -> None:
    text = page("title", "<p>body</p>", scripts=["page.js"], data={"name": ODD})
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        digest = hashlib.sha256(parts(text, tag).encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert not re.search(r"https?:|src=|@import|url\(", text.replace("img-src", ""))


def test_texts_stay_texts() -> None:
    text = page(ODD, f"<p>{escape(ODD)}</p>", scripts=["page.js"], data={"name": ODD})
    assert text.count("</script>") == 1
    assert "<b>" not in text
    assert "<!--" not in text
    assert not set("\u202e\u2066") & set(text.partition("<script>")[0])


def test_values_that_are_not_json_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        page("t", "", scripts=[], data={"x": float("nan")})


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_arrays_are_packed(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    made = packed(array)
    assert made["shape"] == [3, 4]
    values = np.frombuffer(base64.b64decode(made["values"]), f"<{array.dtype.str[1:]}")
    np.testing.assert_array_equal(values.reshape(3, 4), array)
    with pytest.raises(TypeError, match="float64"):
        packed(array.astype(np.float64))

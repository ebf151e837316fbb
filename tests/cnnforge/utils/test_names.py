import os
import shlex
import unicodedata

import pytest

from cnnforge.utils.names import (
    as_argument,
    escaped,
    from_its_weights,
    normal_name,
    printable,
    resume_command,
    unescaped,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("Straße 猫 🐈", "Straße 猫 🐈"),
        (unicodedata.normalize("NFD", "café"), "café"),
        (os.fsdecode(b"schl\xe4cht"), r"schl\xe4cht"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        (" cat", r"\x20cat"),
        ("cat  ", r"cat\x20\x20"),
        ("cat\u3000", r"cat\u3000"),
        ("a cat", "a cat"),
        (" ", r"\x20"),
        ("", ""),
    ],
)
def test_the_normal_form_of_a_name(name, expected):
    assert normal_name(name) == expected
    assert normal_name(expected) == expected
    expected.encode()


def test_a_printable_path_keeps_its_unicode_form():
    name = unicodedata.normalize("NFD", "café /x")
    assert printable(name) == name
    assert printable(os.fsdecode(b"\xe4\n")) == r"\xe4\n"


@pytest.mark.parametrize(
    "text", [os.fsdecode(b"r\xe4um\xff"), r"r\xe4um", r"\x5cxe4", r"C:\x", "ä\n", r"\\xe4\x41", ""]
)
def test_an_escaped_path_is_utf8_and_comes_back(text):
    escaped(text).encode()
    assert unescaped(escaped(text)) == text
    assert unescaped({"a": [escaped(text), 1]}) == {"a": [text, 1]}


def test_letters_of_every_script_stay():
    # A non-joiner, a joiner and a no-break space are part of words and of emoji.
    for name in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d🔬",
        "prix\u00a0€",
        "犬",
        "हिन्दी",
    ):
        assert normal_name(name) == name


def test_a_name_is_the_same_in_a_locale_without_utf8():
    # Python in such a locale decodes file names so.
    name = "gr\u00f6\u00dfe".encode().decode("ascii", "surrogateescape")
    assert normal_name(name) == printable(name) == "gr\u00f6\u00dfe"
    decomposed = "o\u0308".encode().decode("ascii", "surrogateescape")
    assert normal_name(decomposed) == "\u00f6"
    assert normal_name("a\ud800") == r"a\ud800"


@pytest.mark.parametrize("path", ["runs/a-001", "my runs/a-001", "it's/é", "$HOME/`x`"])
def test_an_argument_of_a_command_can_be_copied(path):
    assert shlex.split(f"cnnforge train --resume {as_argument(path)} --cache")[3:] == [
        path,
        "--cache",
    ]


def test_a_command_continues_a_run() -> None:
    assert resume_command("runs/a") == "'cnnforge train --resume runs/a'"
    assert resume_command("runs/a", "--cache") == "'cnnforge train --resume runs/a --cache'"


def test_a_clause_names_the_weights() -> None:
    expected = "for a new run from its weights use --init-from runs/a"
    assert from_its_weights("runs/a") == expected


def test_a_path_with_a_blank_is_one_argument() -> None:
    assert "--init-from 'my run'" in from_its_weights("my run")
    assert "--resume 'my run' --cache" in resume_command("my run", "--cache")

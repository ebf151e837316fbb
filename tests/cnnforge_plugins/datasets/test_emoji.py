"""Emoji: fonts and lists that are there, missing, or others."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets import emoji
from cnnforge_plugins.datasets.emoji import load

FONT = emoji.FONTS[0]
needs_font = pytest.mark.skipif(
    not (FONT.is_file() and emoji.LIST.is_file()),
    reason="needs Debian's fonts-noto-color-emoji and unicode-data",
)
SOME = """\
# group: Smileys & Emotion
1F600 ; fully-qualified # x E1.0 grinning face
263A FE0F ; fully-qualified # x E0.6 smiling face
263A ; unqualified # x E0.6 smiling face
1F636 200D 1F32B FE0F ; fully-qualified # x E13.1 face in clouds
# group: People & Body
1F44B ; fully-qualified # x E0.6 waving hand
1F44B 1F3FB ; fully-qualified # x E1.0 waving hand: light skin tone
1F590 FE0F ; fully-qualified # x E0.7 hand with fingers splayed
# group: Component
1F3FB ; component # x E1.0 light skin tone
# group: Symbols
1F3E7 ; fully-qualified # x E0.6 ATM sign
# group: Flags
1F3C1 ; fully-qualified # x E0.6 chequered flag
"""
EXPECTED = [
    "emoji 1F600 grinning face",
    "emoji 263A smiling face",
    "emoji 1F44B waving hand",
    "emoji 1F590 hand with fingers splayed",
]


@pytest.fixture
def some(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_text(SOME)
    monkeypatch.setattr(emoji, "LIST", path)
    return path


@needs_font
def test_single_emoji_of_seven_groups_are_drawn():
    dataset = load(None, DataOptions())
    assert dataset.classes == (
        "Smileys & Emotion",
        "People & Body",
        "Animals & Nature",
        "Food & Drink",
        "Travel & Places",
        "Activities",
        "Objects",
    )
    assert dataset.image_shape == (128, 128, 3)
    assert len(dataset.train) + len(dataset.validation) > 1000
    assert load(None, DataOptions(seed=7)).fingerprint == dataset.fingerprint


@needs_font
def test_what_is_left_out_of_the_list(some):
    dataset = load(None, DataOptions(purpose="evaluation"))
    assert dataset.train.names == EXPECTED
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    pictures = dataset.train.fetch(np.arange(4))
    assert len({picture.tobytes() for picture in pictures}) == 4
    # Yellow faces on white.
    assert (pictures[0, 64, 20] > (200, 150, 0)).all()
    assert pictures[0, 64, 20, 2] < 150
    assert (pictures[:, :2, :2] == 255).all()


@needs_font
def test_emoji_that_the_font_does_not_have_are_skipped(some):
    some.write_text(SOME + "# group: Objects\nE0FFE ; fully-qualified # x E99.0 new thing\n")
    dataset = load(None, DataOptions(purpose="evaluation"))
    assert dataset.train.names == EXPECTED
    (skipped,) = dataset.skipped
    assert skipped == ("emoji E0FFE new thing", "not in NotoColorEmoji.ttf")


@needs_font
def test_another_font_file_may_be_named(some, tmp_path):
    own = tmp_path / "own.ttf"
    own.write_bytes(FONT.read_bytes())
    dataset = load(str(own), DataOptions(purpose="evaluation"))
    assert dataset.name == f"emoji:{own}"
    assert dataset.train.names == EXPECTED


@needs_font
def test_the_size_and_the_color_can_be_chosen(some):
    options = DataOptions(purpose="evaluation", image_size=(32, 32), color="grayscale")
    assert load(None, options).image_shape == (32, 32, 1)


def plain_font():
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@pytest.mark.parametrize("kind", ["gray", "text", "empty"])
def test_a_font_without_colour_is_named(some, tmp_path, kind):
    path = tmp_path / "x.ttf"
    path.write_bytes(b"" if kind == "empty" else b"not a font")
    if kind == "gray":
        path = plain_font()
    with pytest.raises(
        DataError, match=r"(no colour pictures|cannot be used as a font).*type: apt"
    ):
        load(str(path), DataOptions(purpose="evaluation"))


def test_what_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "FONTS", (tmp_path / "NotoColorEmoji.ttf",))
    with pytest.raises(
        DataError, match=r"NotoColorEmoji.ttf is missing; type: apt install fonts-noto-color-emoji"
    ):
        load(None, DataOptions())
    monkeypatch.setattr(emoji, "LIST", tmp_path / "emoji-test.txt")
    with pytest.raises(DataError, match=r"emoji-test.txt is missing; type: apt install unicode"):
        load(plain_font(), DataOptions())
    (tmp_path / "emoji-test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot be read.*--reinstall unicode-data"):
        load(plain_font(), DataOptions())
    (tmp_path / "emoji-test.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="none of the emoji"):
        load(plain_font(), DataOptions())
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "x", "does not exist")):
        with pytest.raises(UsageError, match=message):
            load(os.fspath(path), DataOptions())


def test_a_font_of_another_size_is_scaled(some, monkeypatch):
    """A scalable font stands for one whose pictures have another size."""
    monkeypatch.setattr(emoji, "_SIZES", (999, 64))
    font = emoji._open_font(Path(plain_font()))[0].font_variant(size=64)
    picture = emoji._draw(font, 64, "A")
    assert picture.shape == (128, 128, 3)
    assert Image.fromarray(picture).convert("L").getextrema() == (0, 255)

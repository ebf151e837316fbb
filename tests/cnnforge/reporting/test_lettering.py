"""Names in any script are readable in a figure, also if no installed font has their letters."""

import pytest

from cnnforge.reporting import lettering as module
from cnnforge.reporting.drawing import style
from cnnforge.reporting.lettering import Lettering, lettering


def write(*names: str) -> Lettering:
    with style():
        return lettering(names)


@pytest.fixture
def only_the_default_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_families", lambda: [])


def test_letters_of_the_default_font_are_kept() -> None:
    names = ["cat", "Größe", "Ελλάδα", "кошка", "e\u0301"]
    assert write(*names) == Lettering(["DejaVu Sans"], names, [])


@pytest.mark.usefixtures("only_the_default_font")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("犬", "#2 Quan"),
        ("สุนัข", "#2 sunakh"),
        ("ድመት", "#2 dmet"),
        ("🐶 happy", "#2 :dog: happy"),
        ("👩\u200d👧", "#2 :woman::girl:"),
    ],
)
def test_other_letters_become_latin_ones_with_the_number(name: str, shown: str) -> None:
    found = write("cat", name)
    assert found.names == ["cat", shown]
    assert found.replaced == [name]


@pytest.mark.usefixtures("only_the_default_font")
@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", r"a\nb"), ("a\x1b[1m", r"a\x1b[1m"), ("\udce4", r"\udce4"), ("\ue000", r"\ue000")],
)
def test_what_is_not_a_letter_becomes_an_escape(name: str, shown: str) -> None:
    assert write(name) == Lettering(["DejaVu Sans"], [shown], [])


def test_another_font_is_taken_if_it_has_the_letters() -> None:
    # This sign is in a font that is part of Matplotlib, and not in the default font.
    found = write("ring \u29e7", "cat")
    assert found.families[0] == "DejaVu Sans"
    assert len(found.families) == 2
    assert (found.names, found.replaced) == (["ring \u29e7", "cat"], [])


@pytest.mark.parametrize("name", ["قطة", "שלום"])
def test_letters_that_cannot_be_arranged_are_replaced(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import ft2font

    monkeypatch.setattr(ft2font, "__libraqm_version__", "0", raising=False)
    assert write(name).replaced == []
    # As in versions of Matplotlib before 3.11.
    monkeypatch.delattr(ft2font, "__libraqm_version__")
    assert write(name).replaced == [name]


def test_long_names_stay_different() -> None:
    same_start = [f"a very long name of a class, {end}" for end in ("one", "two")]
    same_ends = [f"a very long name {middle} of a class" for middle in ("one", "two")]
    found = write(*same_start, *same_ends).names
    assert len(set(found)) == 4
    assert found[2].startswith("#3 ")
    assert max(map(len, found)) <= 24 + len("#3 ")

from cnnforge.utils.names import normal_name, printable


def test_printable_is_one_line_of_text():
    assert printable("a b/ä.png") == "a b/ä.png"
    assert printable("a\n\t\x1b[31m\u2028") == r"a\n\t\x1b[31m\u2028"


def test_bytes_that_are_not_utf8_are_shown_as_bytes():
    assert printable(b"gr\xfc\xdfe".decode("utf-8", "surrogateescape")) == r"gr\xfc\xdfe"


def test_a_name_cannot_hide_its_end():
    assert printable("cat\u202egnp.exe") == r"cat\u202egnp.exe"


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


def test_two_unicode_forms_are_one_name():
    assert normal_name("cafe\u0301") == normal_name("caf\u00e9") == "caf\u00e9"
    assert printable("cafe\u0301") == "cafe\u0301"

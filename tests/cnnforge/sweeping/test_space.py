"""The space of a sweep: what a user can write, and what is refused."""

from pathlib import Path

import pytest

from cnnforge.configuration import TrainingOptions
from cnnforge.errors import UsageError
from cnnforge.sweeping.space import Dimension, check_space, read_space


def test_ranges_and_choices_are_read() -> None:
    found = read_space(
        [
            "learning-rate=1e-4..1e-2",
            "batch_size=16..64",
            "optimizer=adam, sgd",
            "augment=none,light,flip+shift:0.1",
            "ema=off,0.99",
            "weight_decay=0..0.1",
        ]
    )
    assert found == (
        Dimension("augment", (None, "light", "flip+shift:0.1")),
        Dimension("batch_size", (), 16, 64, False),
        Dimension("ema", (None, 0.99)),
        Dimension("learning_rate", (), 1e-4, 1e-2, True),
        Dimension("optimizer", ("adam", "sgd")),
        Dimension("weight_decay", (), 0.0, 0.1, False),
    )
    assert [found[0].option(each) for each in found[0].choices] == [
        (),
        ("light",),
        ("flip", "shift:0.1"),
    ]
    lines = [each.describe() for each in found]
    assert lines[1] == "batch_size: 16 to 64, whole numbers, even scale"
    assert lines[3] == "learning_rate: 0.0001 to 0.01, log scale"
    # The description of a sweep keeps the text, which gives the same space.
    assert read_space([f"{each.name}={each.text}" for each in found]) == found


def test_a_range_of_a_factor_of_ten_has_an_even_scale() -> None:
    assert not read_space(["learning_rate=1e-3..1e-2"])[0].log
    assert read_space(["learning_rate=1e-3..1.01e-2"])[0].log


def test_a_file_has_texts_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(
        'learning_rate = "1e-4..1e-2"\noptimizer = ["adam", "sgd"]\nbatch_size = [16, 32]\n'
        'augment = [[], ["flip", "shift"]]\nema = "none,0.9"\n'
    )
    named = {each.name: each for each in read_space([str(path)])}
    assert named["batch_size"].choices == (16, 32)
    assert named["augment"].choices == (None, "flip+shift")
    assert named["learning_rate"].log
    with pytest.raises(UsageError, match="learning_rate is in the space twice"):
        read_space([str(path), "learning_rate=1e-3..1e-1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learing_rate=1..2", "no option 'learing_rate'; did you mean 'learning_rate'?"),
        ("colour_space=a,b", "'cnnforge train --print-config' lists all options"),
        ("learning_rate=1e-2..1e-4", "is empty: write the lower end first, such as 0.0001..0.01"),
        ("learning_rate=0.1..0.1", "has one value: write two different ends"),
        ("learning_rate=1e-4..high", "must be a number, got 'high'"),
        ("learning_rate=..1", "must be a number, got ''"),
        ("learning_rate=1..inf", "must be a number, got 'inf'"),
        ("batch_size=8,many", "must be a whole number, got 'many'"),
        ("batch_size=1.5..4", "must be a whole number, got '1.5'"),
        ("optimizer=a..b", "has no range"),
        ("optimizer=adam", "has one value, adam"),
        ("optimizer=adam,,sgd", "a value of optimizer is empty"),
        ("epochs=", "must be a range"),
        ("data=a,b", "could not be compared"),
        ("output=a,b", "does not change what is trained"),
        ("gone.toml", "there is no such file"),
    ],
)
def test_what_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_space([text])
    assert message in str(caught.value)


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(UsageError, match="the space is empty"):
        read_space([])


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("learning_rate = 1e-4..1e-2\n")
    with pytest.raises(UsageError, match="is not TOML"):
        read_space([str(tmp_path / "space.toml")])
    (tmp_path / "space.toml").write_text("learning_rate = 3\n")
    with pytest.raises(UsageError, match="must be a range"):
        read_space([str(tmp_path / "space.toml")])


def test_each_value_must_be_allowed_in_some_trial() -> None:
    def resolve(values):
        return TrainingOptions(**values)

    check_space(read_space(["momentum=none,0.9", "optimizer=adam,sgd"]), resolve)
    with pytest.raises(UsageError, match="--space optimizer=adam,sgd: adam takes no momentum"):
        check_space(read_space(["momentum=0.5,0.9", "optimizer=adam,sgd"]), resolve)
    with pytest.raises(UsageError, match="takes no momentum"):
        check_space(read_space(["momentum=0.5,0.9", "optimizer=adam,adamw"]), resolve)
    with pytest.raises(UsageError, match=r"--space learning_rate=0\.0\.\.1\.0: learning_rate must"):
        check_space(read_space(["learning_rate=0..1"]), resolve)
    with pytest.raises(UsageError, match="got 'adamv'; did you mean"):
        check_space(read_space(["optimizer=adam,adamv"]), resolve)

"""Options: their values, their files and their origins."""

from pathlib import Path
from typing import Any

import pytest

from cnnforge.configuration import (
    TrainingOptions,
    check_types,
    parse_epochs,
    parse_time,
    read_config,
    resolve,
)
from cnnforge.errors import UsageError


def test_command_line_over_config_over_default() -> None:
    options, origins = resolve({"seed": 1}, {"seed": 2, "epochs": 3})
    assert (options.seed, options.epochs, options.batch_size) == (1, 3, 64)
    assert origins["seed"] == "command line"
    assert origins["epochs"] == "config"
    assert origins["batch_size"] == "default"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("seed", -1),
        ("seed", 2**32),
        ("split_seed", -1),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("schedule", "step:0"),
        ("schedule", "cosine:3"),
        ("warmup_epochs", -1),
        ("warmup_epochs", 20),
        ("clip_norm", 0.0),
        ("ema", 1.0),
        ("optimizer", "sdg"),
        ("validation_fraction", 1.0),
        ("kernels", "nunba"),
        ("color", "gray"),
        ("image_size", "28px"),
        ("image_size", "28x"),
        ("image_size", "3x28x28"),
        ("image_size", "0x28"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        TrainingOptions(**{name: value})


def test_a_close_word_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean 'numba'"):
        TrainingOptions(kernels="nunba")
    with pytest.raises(UsageError, match="no option 'learnin_rate'; did you mean 'learning_rate'"):
        check_types({"learnin_rate": 1}, "x")
    with pytest.raises(UsageError, match="no option 'zzz'; there are: model, data"):
        check_types({"zzz": 1}, "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 0.9}, "adam takes no momentum, got 0.9: .* use sgd or rmsprop"),
        ({"weight_decay": 0.1}, "adam takes no weight_decay, got 0.1: use adamw"),
        ({"optimizer": "admw"}, "adamw, .* or ftrl, got 'admw'; did you mean 'adamw'"),
        ({"schedule": "cosin"}, "constant, .* or one_cycle, got 'cosin'; did you mean 'cosine'"),
        ({"schedule": "cosine:3"}, "cosine takes no argument"),
        ({"schedule": "step:x"}, "such as step:5, got 'step:x'"),
        ({"schedule": "one_cycle", "warmup_epochs": 1}, "one_cycle schedule has its own warmup"),
        ({"warmup_epochs": 5, "epochs": 5}, "less than epochs, which is 5, got 5"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingOptions(**options)


def test_the_options_of_the_optimizer_are_options_of_a_run() -> None:
    values = TrainingOptions(optimizer="sgd", momentum=0.5, schedule="step:3").as_dict()
    assert list(values)[:3] == ["model", "data", "epochs"]
    assert (values["optimizer"], values["momentum"], values["schedule"]) == ("sgd", 0.5, "step:3")
    assert check_types({"clip-norm": 1}, "x") == {"clip_norm": 1.0}


def test_the_split_has_the_seed_of_the_run_or_its_own() -> None:
    assert TrainingOptions(seed=3).as_dict()["split_seed"] == 3
    assert TrainingOptions(seed=3, split_seed=0).as_dict()["split_seed"] == 0


def test_a_size_is_height_by_width() -> None:
    assert TrainingOptions(image_size="28x32").height_and_width == (28, 32)
    assert TrainingOptions().height_and_width is None


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('batch-size = 8\nlearning_rate = 1\nplugin = ["a.py"]\n[run]\nformat = 1\n')
    found = read_config(path)
    assert found == {"batch_size": 8, "learning_rate": 1.0, "plugin": ("a.py",)}
    assert isinstance(found["learning_rate"], float)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = ", "is not TOML"),
        ("epochs = '3'", "epochs must be an integer, got '3'"),
        ("epochs = true", "epochs must be an integer, got True"),
        ("learning_rate = 'x'", "learning_rate must be a number"),
        ("strict = 1", "strict must be true or false"),
        ("model = 1", "model must be a string"),
        ("plugin = 'a.py'", "plugin must be a list of strings"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_config(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_config(tmp_path / "missing.toml")


def test_epochs() -> None:
    assert parse_epochs("20") == 20
    assert parse_epochs("+10", 20) == 30
    for text, before in (("+10", None), ("0", None), ("-1", None), ("x", 3), ("+", 3), ("1.5", 3)):
        with pytest.raises(UsageError, match="epochs"):
            parse_epochs(text, before)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("28x32", (28, 32)),
        ("28", (28, 28)),
        ("28X32", (28, 32)),
        ("28, 32", (28, 32)),
        ("28 32", (28, 32)),
        ("28*32", (28, 32)),
        (" 28\u00d732 ", (28, 32)),
        ("10", (10, 10)),
    ],
)
def test_the_size_of_images_is_understood_and_stored_in_one_form(
    text: str, size: tuple[int, int]
) -> None:
    options = TrainingOptions(image_size=text)
    assert options.height_and_width == size
    assert options.image_size == f"{size[0]}x{size[1]}"
    checked = check_types({"image-size": text}, "command line")
    assert checked == {"image_size": f"{size[0]}x{size[1]}"}


def test_a_folder_is_not_a_config_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder: name a file in it, such as .*config\.toml"):
        read_config(tmp_path)


def test_the_size_of_images_may_be_a_number_in_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("image_size = 48")
    assert read_config(tmp_path / "a.toml") == {"image_size": "48x48"}
    (tmp_path / "a.toml").write_text("image_size = 0.5")
    with pytest.raises(UsageError, match="image_size must be HEIGHTxWIDTH"):
        read_config(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"validation_fraction": 0.0}, "more than 0 and less than 1, such as 0.2, got 0.0"),
        ({"validation_fraction": 25.0}, r"such as 0.2 \(25 percent is 0.25\), got 25.0"),
        ({"validation_fraction": 100.0}, "less than 1, such as 0.2, got 100.0"),
        ({"ema": 0.0}, "more than 0 and less than 1, such as 0.99, got 0.0"),
        ({"momentum": 1.0}, "0 or more and less than 1, got 1.0"),
        ({"label_smoothing": 1.0}, "0 or more and less than 1, got 1.0"),
    ],
)
def test_a_fraction_out_of_range_is_answered_with_its_bounds(
    options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        TrainingOptions(**options)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (("none",), ()),
        (("light",), ("flip", "shift:0.1")),
        (("mixup", "light", "hue:0.2"), ("mixup", "flip", "shift:0.1", "hue:0.2")),
        (("strong",), ("flip", "crop:0.7", "randaugment:0.5", "erasing:0.25")),
        (("acme/light", "light:2"), ("acme/light", "light:2")),
    ],
)
def test_presets_of_augmentations_are_written_out(given: Any, stored: Any) -> None:
    assert TrainingOptions(augment=given).augment == stored
    # A resumed run compares what is given with what it stored.
    assert check_types({"augment": list(given)}, "command line") == {"augment": stored}


@pytest.mark.parametrize("given", [("none", "flip"), ("light", "none"), ("none", "none")])
def test_none_and_an_augmentation_contradict(given: Any) -> None:
    with pytest.raises(UsageError, match=r"augment has 'none' and (flip|light|none): leave out"):
        TrainingOptions(augment=given)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (" 1.5H ", 5400), ("1m1s", 61)],
)
def test_a_length_of_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0s", "1d", "-5m", "m", "30m1h", "1:30"])
def test_a_wrong_length_of_time(text: str) -> None:
    message = f"--time-limit must be a time such as 90s, 30m, 2h or 1h30m, got {text!r}"
    with pytest.raises(UsageError, match=message):
        parse_time(text)

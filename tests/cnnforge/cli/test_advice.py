"""Messages for users of other tools: each names the command of cnnforge."""

import shlex
from pathlib import Path

import pytest

from cnnforge.cli import _synonyms, app, main
from cnnforge.cli._advice import _options

RUN = "runs/lenet-digits-001"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, two folders of pictures and a picture."""
    for name in (RUN, "flowers/rose", "more flowers"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / RUN / "config.toml").write_text("[run]\nformat = 2\n")
    (tmp_path / "rose.jpg").touch()
    (tmp_path / "table.csv").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of a command, which must be a usage error in one line."""
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.strip()


@pytest.mark.parametrize(
    ("typed", "corrected"),
    [
        # Names of options.
        ("train --num-epochs 3", "train --epochs 3"),
        ("train --arch resnet20 --bs 8", "train resnet20 --batch-size 8"),
        ("train --imgsz=64 --wd=0.1", "train --image-size=64 --weight-decay=0.1"),
        ("train lenet --train-dir flowers -b 16", "train lenet --data flowers --batch-size 16"),
        ("train --early-stopping 4", "train --callback early_stopping:4"),
        ("train --project out --seed 1", "train --output out --seed 1"),
        ("train --Learning_Rate 0.1", "train --learning-rate 0.1"),
        ("train -lr 0.1", "train --learning-rate 0.1"),
        ("train -b64", "train --batch-size 64"),
        ("train --size 32 64", "train --image-size 32x64"),
        ("train --scheduler cosine --strict", "train --schedule cosine --strict"),
        ("train --path 'more flowers'", "train --data 'more flowers'"),
        (f"evaluate --checkpoint {RUN} --images flowers", f"evaluate {RUN} --data flowers"),
        (f"predict --files rose.jpg --run {RUN}", f"predict {RUN} rose.jpg"),
        ("predict --source rose.jpg --topk 2", "predict latest rose.jpg --top-k 2"),
        # Misspelt commands and names.
        ("trian lenet --data flowers", "train lenet --data flowers"),
        ("evaluat latest", "evaluate latest"),
        ("train lennet --data flowers", "train lenet --data flowers"),
        ("train lennet:3 --seed 1", "train lenet:3 --seed 1"),
        ("train lenet --data flower", "train lenet --data flowers"),
        ("train lenet --data=./flower", "train lenet --data=flowers"),
        ("train --augment=shfit:2", "train --augment=shift:2"),
        ("train --callback earlystopping:5", "train --callback early_stopping:5"),
        ("train --optimizer SGD", "train --optimizer sgd"),
        ("train --schedule Cosine", "train --schedule cosine"),
        ("train --resume runs/lenet-digit-001", f"train --resume {RUN}"),
        ("train --resume lenet-digits-001 --epochs +1", f"train --resume {RUN} --epochs +1"),
        ("evaluate runs/lenet-digits-01 --data flowers", f"evaluate {RUN} --data flowers"),
        # NAME=VALUE.
        ("train dataset=flowers lr0=0.01", "train --data flowers --learning-rate 0.01"),
        ("train lenet epochs=2", "train lenet --epochs 2"),
        ("train batch_size=4", "train --batch-size 4"),
        # The place of an argument.
        ("train flowers --seed 2", "train --data flowers --seed 2"),
        ("train ./table.csv", "train --data ./table.csv"),
        ("train lenet flowers", "train lenet --data flowers"),
        ("train flowers resnet20", "train --data flowers resnet20"),
        ("evaluate flowers", "evaluate latest --data flowers"),
        (f"evaluate {RUN} table.csv", f"evaluate {RUN} --data table.csv"),
        ("predict rose.jpg", "predict latest rose.jpg"),
        (f"predict rose.jpg flowers {RUN}", f"predict {RUN} rose.jpg flowers"),
        ("predict flowers rose.jpg", "predict latest flowers rose.jpg"),
        (f"predict {RUN}", f"predict {RUN} IMAGES"),
        (f"predict {RUN}/config.toml rose.jpg", f"predict {RUN} rose.jpg"),
        ("evaluate", "evaluate latest"),
        ("train --resume", "train --resume latest"),
        ("train lenet --init-from", "train lenet --init-from latest"),
        ("--epochs 3 train", "train --epochs 3"),
        # Commands.
        ("fit flowers --lr 0.1", "train --data flowers --learning-rate 0.1"),
        ("validate table.csv", "evaluate latest --data table.csv"),
        ("inference rose.jpg", "predict latest rose.jpg"),
        ("finetune", "train --init-from latest"),
        (f"resume {RUN}", f"train --resume {RUN}"),
        ("ls", "runs"),
        ("info --json", "doctor --json"),
        ("help train", "--help"),
        ("flowers", "train --data flowers"),
        ("table.csv", "train --data table.csv"),
        ("rose.jpg", "predict latest rose.jpg"),
        ("resnet20 --epochs 1", "train resnet20 --epochs 1"),
        (RUN, f"evaluate {RUN}"),
    ],
)
def test_the_message_ends_with_the_command_to_type(here, capsys, typed, corrected):
    message = error(typed, capsys).replace("? Type:", "; type:")
    assert message.endswith(f"; type: cnnforge {corrected}")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train --cuda", "the device itself"),
        ("train --num-workers 4", "NUMBA_NUM_THREADS"),
        ("train --pretrained", "--init-from"),
        ("train --load x", "--resume RUN to continue"),
        ("train --save-best", "always saved"),
        ("train --test flowers", "cnnforge evaluate latest --data DATA"),
        ("evaluate --out x.json", "--json > FILE"),
        ("doctor --augment flip", "it is an option of 'cnnforge train'"),
        ("--top-k 3", "an option of 'cnnforge predict': write it after the command"),
    ],
)
def test_an_option_without_a_counterpart_is_explained(here, capsys, typed, message):
    text = error(typed, capsys)
    assert message in text
    assert "; type:" not in text


@pytest.mark.parametrize(
    "typed",
    [
        "train --data flowers --validation-fraction 2",
        "train nothing_here --data flowers",
        "train lenet --data missing",
        "predict missing-run rose.jpg",
    ],
)
def test_nothing_is_corrected_if_the_arguments_are_in_place(here, capsys, typed):
    assert "; type:" not in error(typed, capsys)


def test_a_model_is_not_taken_for_the_folder_of_its_name(here, capsys):
    (here / "lenet").mkdir()
    assert error("train lenet --lr 1", capsys).endswith("cnnforge train lenet --learning-rate 1")


def test_the_value_of_an_option_is_not_corrected(here, capsys):
    text = error("train --monitor flowers --output lr=3 --lr 1", capsys)
    assert text.endswith("cnnforge train --monitor flowers --output lr=3 --learning-rate 1")


@pytest.mark.parametrize("command", sorted(_synonyms.OPTIONS))
def test_each_answer_is_an_option_of_the_command(command):
    program = app.typer.main.get_command(app.app)
    own = _options(program.commands[command])
    for name, answer in _synonyms.OPTIONS[command].items():
        assert f"--{name}" not in own
        if answer.startswith("--"):
            assert answer.split()[0] in own


def test_each_command_of_another_tool_leads_to_a_command():
    program = app.typer.main.get_command(app.app)
    for name, answer in _synonyms.COMMANDS.items():
        assert name not in program.commands
        command, *options = answer.split()
        if command in program.commands:
            assert set(options) <= set(_options(program.commands[command]))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("new.zip", "unzip new.zip -d new"),
        ("new.tar.bz2", "mkdir new && tar -xf new.tar.bz2 -C new"),
        ("https://example.com/cat.jpg", "curl -LO https://example.com/cat.jpg"),
    ],
)
@pytest.mark.parametrize("before", ["predict latest", "evaluate latest --data", "train --data"])
def test_packed_and_remote_data_are_refused_before_the_model_is_opened(
    here, capsys, before, name, command
):
    if ":" not in name:
        (here / name).write_bytes(b"PK")
    assert main([*before.split(), name]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"; type: {command}")

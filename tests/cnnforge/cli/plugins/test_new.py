"""`cnnforge plugins new`."""

import json

import pytest

from cnnforge.cli import main


@pytest.mark.parametrize(
    ("kind", "tried"),
    [
        ("layer", "soft_edge_net"),
        ("dataset", "--data soft_edge"),
        ("model", "soft_edge"),
        ("callback", "--callback soft_edge"),
        ("augmentation", "--augment soft_edge"),
        ("task", "soft_edge_net --data soft_edge_data"),
    ],
)
def test_it_says_what_it_wrote_and_what_comes_next(tmp_path, capsys, kind, tried):
    assert main(["plugins", "new", "soft-edge", "--kind", kind, "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    written = [path for path in (tmp_path / "soft-edge").rglob("*") if path.is_file()]
    assert sorted(out.splitlines()) == sorted(map(str, written))
    assert err.splitlines() == [
        "TODO(soft-edge) marks what to replace. Next:",
        f"  pip install -e {tmp_path / 'soft-edge'}",
        "  cnnforge plugins check soft_edge",
        f"  cnnforge train {tried} --epochs 1",
        f"  python -m pytest {tmp_path / 'soft-edge'}",
    ]


def test_a_class_of_another_name(tmp_path, capsys):
    command = ["plugins", "new", "blurpool", "--class", "BlurPool2D", "--output", str(tmp_path)]
    assert main(command) == 0
    capsys.readouterr()
    source = tmp_path / "blurpool" / "src" / "blurpool"
    assert "class BlurPool2D(keras.layers.Layer):" in (source / "layer.py").read_text()
    assert 'target="blurpool.layer:BlurPool2D"' in (source / "manifest.py").read_text()


def test_functions_for_cuda_devices(tmp_path, capsys):
    assert main(["plugins", "new", "soft-edge", "--cuda", "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "src/soft_edge/op_cuda.py" in out
    assert "  cnnforge plugins check soft_edge --cuda" in err.splitlines()
    op = (tmp_path / "soft-edge" / "src" / "soft_edge" / "op.py").read_text()
    assert 'cuda="soft_edge.op_cuda",' in op


def test_what_it_refuses_is_one_line(tmp_path, capsys):
    command = ["plugins", "new", "soft", "--output", str(tmp_path)]
    assert main(command) == 0
    capsys.readouterr()
    for arguments, text in [
        (command, "soft exists already and is not overwritten"),
        ([*command[:2], "Soft Edge", *command[3:]], "cannot be named 'Soft Edge'"),
        ([*command, "--class", "blurPool2D"], "a class is named by words that begin with capitals"),
        ([*command, "--class", "Net", "--kind", "model"], "--kind is model: leave it out"),
        ([*command, "--cuda", "--kind", "task"], "--cuda is for the op of a layer"),
        (
            [*command, "--kind", "nothing"],
            "--kind must be layer, dataset, model, callback, augmentation or task",
        ),
    ]:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert text in err
        assert err.count("\n") == 1


def test_json(tmp_path, capsys):
    command = ["plugins", "new", "soft-edge", "--kind", "task", "--output", str(tmp_path), "--json"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert err == ""
    assert made["folder"] == str(tmp_path / "soft-edge")
    assert (made["kind"], made["name"]) == ("task", "soft_edge/soft_edge")
    assert all((tmp_path / "soft-edge" / file).is_file() for file in made["files"])
    assert made["next"][2] == "cnnforge train soft_edge_net --data soft_edge_data --epochs 1"

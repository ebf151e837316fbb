"""`cnnforge plugins`."""

import json
import textwrap

import pytest

from cnnforge.cli import main
from cnnforge.plugin_host.discovery import _bounds

GOOD = """
    @hookimpl
    def cnnforge_models():
        return [ModelSpec(name="tiny", target="acme_good:build", summary="one [dense] layer")]

    def build(input_shape, classes): ...
"""


@pytest.fixture(autouse=True)
def _without_builtin(monkeypatch):
    # Its targets import Keras: these tests are about the command.
    monkeypatch.setenv("CNNFORGE_DISABLED_PLUGINS", "builtin")


def report(capsys, *arguments):
    code = main(["plugins", "--json", *arguments])
    found = json.loads(capsys.readouterr().out)
    return code, {row["name"]: row for row in found["plugins"] + found["specs"]}


def test_table(install_plugin, capsys):
    install_plugin("good", GOOD)
    install_plugin("broken", "1 / 0")
    assert main(["plugins"]) == 0
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["good"].split() == ["good", "loaded", "1.0", "acme_good"]
    assert "failed" in lines["broken"]
    assert "ZeroDivisionError: division by zero" in lines["broken"]
    assert "disabled" in lines["builtin"]
    assert lines["model"].rstrip().split(maxsplit=2)[1:] == ["good/tiny", "one [dense] layer"]
    assert err == ""


def test_json(install_plugin, capsys):
    install_plugin("good", GOOD)
    install_plugin("broken", "1 / 0")
    code, rows = report(capsys)
    assert code == 0
    assert rows["good"] == {
        "name": "good",
        "status": "loaded",
        "distribution": "acme-good",
        "version": "1.0",
        "source": "acme_good",
        "api": None,
        "cnnforge": None,
        "cause": None,
    }
    assert rows["broken"]["status"] == "failed"
    assert rows["broken"]["cause"].startswith("ZeroDivisionError")
    assert rows["good/tiny"] == {
        "kind": "model",
        "name": "good/tiny",
        "summary": "one [dense] layer",
        "target": "acme_good:build",
        "reference": None,
        "error": None,
    }


def test_what_an_update_of_cnnforge_would_break(install_plugin, capsys):
    path = install_plugin("bound", "CNNFORGE_PLUGIN_API = 1\n" + textwrap.dedent(GOOD))
    metadata = path.parent / "acme_bound-1.0.dist-info" / "METADATA"
    metadata.write_text(
        metadata.read_text() + "Requires-Dist: cnnforge-like>=7\n"
        "Requires-Dist: cnnforge<1,>=0.1\nRequires-Dist: cnnforge>=2; extra == 'new'\n"
    )
    install_plugin("silent", GOOD.replace("tiny", "small"))
    install_plugin("future", "CNNFORGE_PLUGIN_API = 9")
    _, rows = report(capsys)
    assert (rows["bound"]["api"], rows["bound"]["cnnforge"]) == (1, "<1,>=0.1")
    assert (rows["silent"]["api"], rows["silent"]["cnnforge"]) == (None, None)
    assert (rows["future"]["api"], rows["future"]["status"]) == (9, "incompatible")
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "plugin API of this cnnforge: 1; a cnnforge with another number would not load bound; it "
        "would load silent, which may then fail: give it a CNNFORGE_PLUGIN_API = 1"
    ) in lines
    (line,) = [line for line in lines if line.startswith("bound ")]
    assert line.split() == ["bound", "loaded", "1.0", "1", "<1,>=0.1", "acme_bound"]


def test_a_requirement_of_cnnforge():
    assert _bounds(["numpy", "cnnforge (>=0.1)"]) == ">=0.1"
    assert _bounds(["CNNforge[torch] >=0.2 , <1"]) == ">=0.2 , <1"
    assert _bounds(["cnnforge"]) is None
    assert _bounds(["cnnforge.extra>1", "cnnforge_x>1"]) is None


def test_builtin_is_listed(monkeypatch, capsys):
    monkeypatch.delenv("CNNFORGE_DISABLED_PLUGINS")
    _, rows = report(capsys)
    assert rows["builtin/conv2d"]["reference"] == "keras.layers:Conv2D"
    assert {"builtin/mnist5k", "builtin/images", "builtin/csv", "builtin/lenet"} <= set(rows)


def test_imports_of_a_good_plugin(install_plugin, capsys):
    install_plugin("good", GOOD)
    code, rows = report(capsys, "--imports")
    assert code == 0
    assert rows["good/tiny"]["error"] is None
    assert main(["plugins", "--imports"]) == 0
    assert "ok" in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("declaration", "error"),
    [
        ("target='acme_bad:missing', reference=None", "AttributeError"),
        ("target='acme_bad:Layer', reference='acme_bad:missing'", "AttributeError"),
        ("target='no_such_module:Layer', reference=None", "No module named 'no_such_module'"),
    ],
)
def test_imports_of_a_bad_target(install_plugin, capsys, declaration, error):
    install_plugin(
        "bad",
        f"""
        @hookimpl
        def cnnforge_layers():
            return [LayerSpec(name="x", summary="", {declaration})]

        class Layer: ...
        """,
    )
    assert main(["plugins"]) == 0
    capsys.readouterr()
    code, rows = report(capsys, "--imports")
    assert code == 1
    assert error in rows["bad/x"]["error"]
    assert main(["plugins", "--imports"]) == 1
    assert error in capsys.readouterr().out


def test_imports_fails_for_a_plugin_that_failed(install_plugin, capsys):
    install_plugin("broken", "1 / 0")
    assert report(capsys, "--imports")[0] == 1


def test_explicit_plugin(write_plugin, capsys):
    path = write_plugin("acme_good", GOOD)
    code, rows = report(capsys, "--plugin", path)
    assert code == 0
    assert rows["acme_good"]["source"] == path
    assert "acme_good/tiny" in rows


def test_explicit_plugin_that_fails(write_plugin, capsys):
    path = write_plugin("acme_bad", "1 / 0")
    assert main(["plugins", "--plugin", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: plugin '{path}' cannot be loaded: ZeroDivisionError")
    assert err.count("\n") == 1

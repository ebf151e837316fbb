"""`cnnforge serve`: it starts, answers as `predict`, stops, and says what is wrong."""

import importlib.util
import json
import os
import signal
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import keras
import pytest
from served import picture

from cnnforge.cli import main
from cnnforge.cli.serve import serve
from cnnforge.runs import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    directory = RunDirectory.create(tmp_path, "toy", "toy")
    directory.write_config({"model": "toy", "data": "images:gone"}, {})
    directory.write_json("classes.json", ["cat", "dog"])
    model.save(directory.model)
    return directory.path


def test_it_answers_as_predict_and_stops(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[str, Any] = {}

    def use(url: str) -> None:
        try:
            headers = {"Content-Type": "image/png"}
            asked = urllib.request.Request(f"{url}predict", picture(), headers)
            with urllib.request.urlopen(asked, timeout=20) as answer:
                found["row"] = json.load(answer)
            with urllib.request.urlopen(f"{url}health", timeout=20) as answer:
                found["health"] = json.load(answer)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    say = serve._say

    def start(run: Path, url: str, *rest: Any) -> None:
        say(run, url, *rest)
        threading.Thread(target=use, args=(url,)).start()

    monkeypatch.setattr(serve, "_say", start)
    before = signal.getsignal(signal.SIGTERM)
    command = ["serve", str(run), "--port", "0", "--kernels", "keras", "--json"]
    assert main(command) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    captured = capsys.readouterr()
    assert json.loads(captured.out)["url"].startswith("http://127.0.0.1:")
    assert "this server is for your desk, not for production" in captured.err
    assert captured.err.endswith("the server has stopped\n")
    health = found["health"]
    assert (health["run"], health["model"], health["explains"]) == (run.name, "toy", True)
    (tmp_path / "picture").write_bytes(picture())
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(run), "picture", "--kernels", "keras", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert found["row"] == row


def fails(command: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err


def test_a_port_in_use(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = f"port {port} of 127.0.0.1 is in use, perhaps by another 'cnnforge serve'"
        fails(["serve", str(run), "--port", str(port)], 1, text, capsys)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--host", "192.0.2.7"], "--host 192.0.2.7 is not an address of this machine"),
        (["--host", "no such name"], "--host no such name is not known"),
        (["--host", "0.0.0.0", "--token", "short"], "--token must have 16 or more letters"),
        (["--port", "70000"], "less than or equal to 65535"),
        (["--kernels", "fast"], "kernels"),
    ],
)
def test_wrong_options(
    run: Path, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["serve", str(run), "--port", "0", *options], 2, text, capsys)


def test_words_of_other_tools(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["serve"], 2, "cnnforge serve needs a run; latest is the newest run; type: ", capsys)
    text = f"type: cnnforge serve {run} --port 9000"
    fails(["serve", "--model", str(run), "-p", "9000"], 2, text, capsys)
    fails(["serve", str(run), "data", "--port", "9000"], 2, text, capsys)
    fails(["gradio", str(run)], 2, f"type: cnnforge serve {run}", capsys)
    fails(["serve", str(run), "--share"], 2, "--host 0.0.0.0", capsys)


def test_missing_packages(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    text = "serve needs uvicorn, which is not installed; type: pip install 'cnnforge[serve]'"
    fails(["serve", str(run)], 1, text, capsys)


def test_runs_that_cannot_be_served(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["serve", str(tmp_path / "gone"), "--port", "0"], 2, "gone", capsys)
    (run / "model.keras").unlink()
    fails(["serve", str(run), "--port", "0"], 1, "model.keras", capsys)


def test_without_a_host_it_listens_on_this_machine_only(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[str] = []
    monkeypatch.setattr(
        "cnnforge.serving.connection.run",
        lambda server, listener: bound.append(listener.getsockname()[0]),
    )
    monkeypatch.setattr("cnnforge.serving.app.make_app", lambda *_, **__: None)
    assert main(["serve", str(run), "--port", "0", "--kernels", "keras"]) == 0
    assert bound == ["127.0.0.1"]


def test_other_machines_need_a_token(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnforge.serving.connection.run", lambda server, listener: None)
    given: list[Any] = []
    monkeypatch.setattr(
        "cnnforge.serving.app.make_app", lambda *_, access, **__: given.append(access)
    )
    command = ["serve", str(run), "--port", "0", "--kernels", "keras"]
    assert main([*command, "--host", "0.0.0.0"]) == 0
    captured = capsys.readouterr()
    assert "warning: other machines reach this server" in captured.err
    assert captured.out.strip().endswith(f"/?token={given[-1].token}")
    assert len(given[-1].token) > 30
    assert main([*command, "--host", "0.0.0.0", "--token", "my-own-long-token"]) == 0
    assert capsys.readouterr().out.strip().endswith("/?token=my-own-long-token")
    assert main([*command, "--host", "localhost"]) == 0
    assert capsys.readouterr().out.startswith("http://localhost:")
    assert given[-1].token == ""

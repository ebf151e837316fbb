"""A layer whose reference is a class of the plugin itself: it is what saved models contain."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cnnforge.cli import main

PLUGIN = Path(__file__).parents[2] / "support" / "halved.py"
OPEN = """
import sys
import cnnforge
cnnforge.load_plugins([sys.argv[1]])
import keras
model = keras.saving.load_model(sys.argv[2])
print([type(layer).__module__ for layer in model.layers if type(layer).__name__ == "Halved"])
"""


def test_the_run_says_what_the_saved_model_needs(tmp_path, capsys):
    options = ["--epochs", "1", "--kernels", "numba", "--plugin", str(PLUGIN)]
    assert main(["train", "halved_net", *options, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    run = tmp_path / "halved_net-mnist5k-001"
    assert (
        "note: model.keras has layers of the module halved_stock (Halved): a program that opens it "
        f"with plain Keras imports it before, or calls cnnforge.load_plugins(['{PLUGIN}'])"
    ) in said.splitlines()
    assert " run on Numba kernels" in said
    needed = {it["plugin"]: it for it in json.loads((run / "plugins.json").read_text())}
    assert needed["halved"]["layers"] == ["Halved"]
    assert "" not in needed  # Not a library that is not a plugin.

    # In a fresh process, plain Keras opens the model after this call, and so does cnnforge.
    paths = os.pathsep.join(path for path in sys.path if path and "support" not in path)
    fresh = {"env": {**os.environ, "PYTHONPATH": paths}, "capture_output": True, "text": True}
    model = str(run / "model.keras")
    done = subprocess.run([sys.executable, "-c", OPEN, str(PLUGIN), model], **fresh)
    assert done.stdout.strip() == "['halved_stock']", done.stderr
    command = [
        sys.executable,
        "-c",
        "import sys; from cnnforge.cli import main; sys.exit(main())",
        "predict",
        str(run),
        "mnist5k",
    ]
    command += ["--limit", "2", "--kernels", "keras", "--plugin", str(PLUGIN)]
    done = subprocess.run(command, **fresh)
    assert done.returncode == 0, done.stderr

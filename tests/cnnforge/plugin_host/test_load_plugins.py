"""`cnnforge.load_plugins`: plain Keras opens a model with layers of plugins."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "plugins" / "example" / "src"


def run(code: str, folder: Path, *paths: Path) -> str:
    search = os.pathsep.join(map(str, [*paths, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def entry_point(folder: Path, name: str, target: str) -> None:
    """Make an entry point known where `folder` is on the path."""
    information = folder / f"{name}-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Name: {name}\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text(f"[cnnforge]\n{name} = {target}\n")


def test_a_fresh_process_opens_a_model_with_a_layer_of_the_example(tmp_path):
    saved = """
        import keras
        from cnnforge_example.separable import SeparableBlock2D
        keras.Sequential([keras.Input((6, 6, 2)), SeparableBlock2D(3)]).save("model.keras")
    """
    run(saved, tmp_path, EXAMPLE)
    entry_point(tmp_path / "site", "example", "cnnforge_example.manifest")
    # A plugin whose layer cannot be imported does not prevent the others.
    (tmp_path / "site" / "broken.py").write_text(
        textwrap.dedent("""
            from cnnforge.plugin import LayerSpec, hookimpl

            @hookimpl
            def cnnforge_layers():
                return [LayerSpec(name="gone", target="nowhere.layer:Gone", summary="gone")]
        """)
    )
    entry_point(tmp_path / "site", "broken", "broken")
    opened = """
        import cnnforge
        import logging
        import sys

        assert "keras" not in sys.modules
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        cnnforge.load_plugins()
        import keras

        model = keras.saving.load_model("model.keras")
        print([type(layer).__name__ for layer in model.layers])
    """
    told = run(opened, tmp_path, EXAMPLE, tmp_path / "site")
    assert told.splitlines()[-1] == "['SeparableBlock2D']"
    assert "the layer broken/gone is left out: " in told

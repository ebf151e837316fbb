"""plugins/example, from its wheel in an environment of its own, together with a broken plugin."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKEN = """
import sys

sys.exit("a plugin that ends the program while it is imported")
"""


@pytest.mark.slow(1000)
def test_the_example_plugin(environment):
    wheels = environment.work / "wheels"
    build = f"--no-index --no-build-isolation --no-deps --wheel-dir {wheels}"
    environment.run(f"cp -r {ROOT / 'plugins' / 'example'} source")
    environment.run(f"python -m pip wheel {build} ./source")
    (wheel,) = wheels.glob("*.whl")
    assert wheel.name == "cnnforge_example-0.1.0-py3-none-any.whl"
    environment.install(str(wheel))
    environment.run("mv source/tests source/benchmark.py . && rm -r source")
    install_broken(environment)

    listed = json.loads(environment.run("cnnforge plugins --json"))
    status = {
        row["name"]: (row["status"], row["version"], row["cause"]) for row in listed["plugins"]
    }
    assert status["example"] == ("loaded", "0.1.0", None)
    assert status["acme"][0] == "failed"
    assert "a plugin that ends the program" in status["acme"][2]
    names = {row["name"] for row in listed["specs"] if row["name"].startswith("example/")}
    layers = ("gabor_conv2d", "separable_block2d", "blur_pool2d", "squeeze_excite", "involution2d")
    assert names == {*(f"example/{name}" for name in layers), "example/gabor_net"}

    # All the checks that `cnnforge plugins check example` runs, one test each. Its benchmarks
    # compare it with its references; nothing is measured here. One process imports Keras for both.
    checked = environment.run(
        "python -m pytest -v -p no:cacheprovider --benchmark-disable tests benchmark.py"
    )
    passed = Counter(re.findall(r"^(\S+)::.* PASSED", checked, re.MULTILINE))
    assert passed["benchmark.py"] == 13
    assert passed["tests/test_example.py"] > 0

    # Without a measurement of both implementations.
    train = "cnnforge train gabor_net --kernels numba --epochs 3 --learning-rate 0.01 --json"
    train += " 2> messages"
    result = json.loads(environment.run(train))
    messages = (environment.work / "messages").read_text()
    assert messages.count("warning: plugin 'acme' is not loaded") == 1
    assert result["validation"]["accuracy"] > 0.6
    # Another process: the layers are in model.keras, and only their plugin knows them.
    run = result["run"]
    again = json.loads(environment.run(f"cnnforge evaluate {run} --json 2> messages"))
    assert again["accuracy"] == pytest.approx(result["validation"]["accuracy"])
    needed = json.loads((environment.work / run / "plugins.json").read_text())
    layers = {row["plugin"]: row["layers"] for row in needed}
    assert layers["example"] == ["GaborConv2D", "SeparableBlock2D"]

    environment.run("python -m pip uninstall -y cnnforge-example")
    said = environment.run(f"cnnforge evaluate {run}", code=1)
    assert said.splitlines()[-1].startswith(
        f"error: the run {run} needs the layer GaborConv2D, layer SeparableBlock2D of the plugin "
        "'example', which is not installed here; pip install cnnforge-example==0.1.0"
    )


def install_broken(environment) -> None:
    (site,) = (environment.folder / "lib").glob("python*/site-packages")
    (site / "acme_broken.py").write_text(BROKEN)
    info = site / "acme_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cnnforge]\nacme = acme_broken\n")

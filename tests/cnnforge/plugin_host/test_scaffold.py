"""`cnnforge plugins new`: what it writes, what it refuses, and that what it writes is sound."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numba
import pytest

from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.plugin_host import scaffold
from cnnforge.plugin_host.scaffold import KINDS, NewPlugin, create
from cnnforge.testing import layer_checks
from cnnforge.utils import clean_import

ROOT = Path(__file__).parents[3]


def install(plugin: NewPlugin) -> None:
    """Make the entry point known where the sources are on the path, without pip."""
    information = plugin.folder / "src" / f"{plugin.module}-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {plugin.distribution}\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text(
        f"[cnnforge]\n{plugin.module} = {plugin.module}.manifest\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_package(tmp_path, kind):
    made = create("soft-edge_two", kind, tmp_path / "new" / "folder")
    assert made.folder == tmp_path / "new" / "folder" / "soft-edge-two"
    assert (made.distribution, made.module) == ("soft-edge-two", "soft_edge_two")
    there = [path.relative_to(made.folder) for path in made.folder.rglob("*") if path.is_file()]
    assert sorted(map(str, there)) == list(made.files)
    assert {"README.md", "pyproject.toml", "tests/test_soft_edge_two.py"} <= set(made.files)
    assert {"LICENSE", "CHANGELOG.md", ".github/workflows/test.yml"} <= set(made.files)
    project = tomllib.loads((made.folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["cnnforge"] == {
        "soft_edge_two": "soft_edge_two.manifest"
    }
    texts = {file: (made.folder / file).read_text() for file in made.files}
    # A workflow has expressions of its own, such as ${{ matrix.python }}.
    plain = {file: text.replace("${{", "") for file, text in texts.items()}
    assert not [file for file, text in plain.items() if "$" in text or "__module__" in text]
    marked = [file for file, text in texts.items() if "TODO(soft-edge-two)" in text]
    assert "README.md" in marked
    assert len([file for file in marked if file.endswith(".py")]) >= 2


def test_generated_code_is_in_style(tmp_path):
    for name in ("a", "soft-edge", "quite-a-long-name"):
        for kind in KINDS:
            create(f"{name}-x", kind, tmp_path / kind / name)
        create(f"{name}-x", "layer", tmp_path / "cuda" / name, cuda=True)
    options = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "format", "--check", *options, str(tmp_path)], check=True)
    # No names are too long, and those of tests need no docstrings; lines get as long as names.
    subprocess.run([*ruff, "check", *options, "--ignore", "D103,E501", str(tmp_path)], check=True)


def test_predictions_with_a_new_layer_need_no_keras(tmp_path, monkeypatch):
    plugin = create("soft-light", "layer", tmp_path)
    monkeypatch.syspath_prepend(plugin.folder / "src")
    cases, layer = (importlib.import_module(f"soft_light.{name}") for name in ("cases", "layer"))

    def inference():
        checks = layer_checks(layer.SoftLight, cases.CASES)
        (check,) = [check for check in checks if check.kind == "inference"]
        return check()

    assert inference() == "predictions need no Keras, only soft_light.op:op"
    clean_import.import_error.cache_clear()
    op = plugin.folder / "src" / "soft_light" / "op.py"
    op.write_text(op.read_text().replace("import numba", "import keras\nimport numba"))
    assert inference().startswith(
        "predictions need Keras: its op soft_light.op:op cannot be imported without Keras (it "
        "imports keras): define the op"
    )


def test_a_layer_with_functions_for_cuda_devices(tmp_path, monkeypatch):
    pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'cnnforge[test]'")
    plugin = create("soft-glow", "layer", tmp_path, cuda=True)
    assert "src/soft_glow/op_cuda.py" in plugin.files
    assert "numba-cuda" in (plugin.folder / "pyproject.toml").read_text()
    assert "src/soft_glow/op_cuda.py" in (plugin.folder / "README.md").read_text()
    tests = (plugin.folder / "tests" / "test_soft_glow.py").read_text()
    assert 'layer_checks("soft_glow/soft_glow", cuda=True)' in tests
    monkeypatch.syspath_prepend(plugin.folder / "src")
    cases, layer = (importlib.import_module(f"soft_glow.{name}") for name in ("cases", "layer"))
    checks = layer_checks(layer.SoftGlow, cases.CASES, cuda=True)
    found = [check.alone() for check in checks if check.kind == "cuda"]
    assert found == [("ok", "2 functions in Numba's simulator, not on a device")] * 2
    # The simulator does not compile. Compile the kernels for a device, too.
    functions = importlib.import_module("soft_glow.op_cuda")
    four, one = numba.float32[:, :, :, ::1], numba.float32[::1]
    for kernel, types in [
        (functions._forward, (four, one, four)),
        (functions._backward, (four, one, four, four, one)),
    ]:
        code, _ = functions.cuda.compile_ptx(kernel.py_func, types, cc=(8, 0))
        assert kernel.py_func.__name__ in code


def test_cuda_is_for_layers(tmp_path):
    with pytest.raises(UsageError, match="--cuda is for the op of a layer, and --kind is model"):
        create("soft", "model", tmp_path, cuda=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_benchmark_of_a_layer(tmp_path):
    plugin, wrong = (create(f"{word}-layer", "layer", tmp_path) for word in ("soft", "wrong"))
    install(plugin)
    install(wrong)
    op = wrong.folder / "src" / "wrong_layer" / "op.py"
    op.write_text(op.read_text().replace("= x / (1", "= x / (1.001"))
    sources = os.pathsep.join(str(each.folder / "src") for each in (plugin, wrong))
    good, bad = (
        f"{each.distribution}/benchmarks/bench_{each.module}.py" for each in (plugin, wrong)
    )

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]
        return subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": sources},
            capture_output=True,
            text=True,
        )

    # Without a measurement it compares the layer with its reference. One process compares both.
    done = run("--benchmark-disable", "-v", good, bad)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "wrong_layer.default: the layer differs from its reference" in done.stdout
    assert f"{good}::" in done.stdout
    assert "soft_layer.default: the layer differs" not in done.stdout
    done = run("-p", "no:benchmark", "-q", good)
    assert done.returncode == 1
    assert "layer_benchmark needs pytest-benchmark" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_own_tests_of_packages_without_a_kernel_pass(tmp_path):
    plugins = [create(f"soft-{kind}", kind, tmp_path) for kind in KINDS if kind != "layer"]
    for plugin in plugins:
        install(plugin)
    sources = os.pathsep.join(str(plugin.folder / "src") for plugin in plugins)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(
        [*command, "-W", "error", "-W", "ignore:__array__ implementation:DeprecationWarning", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    "name",
    ["", "Soft", "soft edge", "soft--edge", "-soft", "soft.edge", "1soft", "s\u00f6ft", "soft\n"],
)
def test_a_name_of_another_form(tmp_path, name):
    with pytest.raises(UsageError, match=r"cannot be named .* use lower-case words"):
        create(name, "layer", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "a Python keyword"),
        ("match", "a Python keyword"),
        ("json", "hide the installed Python module 'json'"),
        ("cnnforge-plugins", "hide the installed Python module 'cnnforge_plugins'"),
    ],
)
def test_a_name_that_is_taken(tmp_path, name, reason):
    with pytest.raises(UsageError, match=reason):
        create(name, "layer", tmp_path)


def test_another_kind(tmp_path):
    with pytest.raises(UsageError, match="augmentation or task, got 'optimizer'"):
        create("soft", "optimizer", tmp_path)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "soft").mkdir()
    (tmp_path / "soft" / "mine").write_text("precious")
    with pytest.raises(UsageError, match="soft exists already and is not overwritten"):
        create("soft", "layer", tmp_path)
    assert (tmp_path / "soft" / "mine").read_text() == "precious"
    assert len(list((tmp_path / "soft").iterdir())) == 1


def test_a_place_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="file is not a folder"):
        create("soft", "layer", tmp_path / "file")
    with pytest.raises(CnnforgeError, match="cannot be created: Not a directory"):
        create("soft", "layer", tmp_path / "file" / "below")


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    # The administrator may write anywhere: the refusal is acted.
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(CnnforgeError, match="soft cannot be created: Permission denied"):
            create("soft", "layer", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        with pytest.raises(CnnforgeError, match="somewhere cannot be written: Permission denied"):
            create("soft", "layer", tmp_path)
    assert not list(tmp_path.iterdir())


def test_templates_are_part_of_the_package():
    folder = Path(scaffold.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {*KINDS, "common", "cuda"}

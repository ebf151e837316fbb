"""Define fixtures for tests of plugins, and pytest's options for the speed of layers.

If cnnforge is installed, every run of pytest imports this module. So it must not import slow
modules such as Keras at the top.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from cnnforge.errors import UsageError

if TYPE_CHECKING:
    from cnnforge.benchmarking.pytest_session import LayerBenchmarks
    from cnnforge.plugin_host.discovery import Plugins

_SESSION = "cnnforge_layer_benchmarks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that compare the speed of layers with thresholds."""
    group = parser.getgroup("cnnforge", "gate on the speed of layers (fixture layer_benchmark)")
    group.addoption(
        "--cnnforge-gate",
        metavar="FILE.toml",
        help="fail if a layer is slower, compared with its reference, than this file of thresholds "
        "allows; in a folder, the file that fits this machine best",
    )
    group.addoption(
        "--cnnforge-gate-write",
        action="store_true",
        help="measure in several processes and write the thresholds to --cnnforge-gate; the "
        "thresholds of tests that -k leaves out do not change",
    )
    group.addoption("--cnnforge-gate-record", help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options and read the thresholds, before anything is measured."""
    path = config.getoption("cnnforge_gate")
    if config.getoption("collectonly") or hasattr(config, "workerinput"):
        return
    if path is None:
        if config.getoption("cnnforge_gate_write"):
            _wrong("--cnnforge-gate-write needs --cnnforge-gate FILE.toml, the file to write")
        return
    if not _can_measure(config):
        _wrong(f"--cnnforge-gate {_NEEDS_BENCHMARK}")
    if config.getoption("dist", "no") != "no":
        _wrong("--cnnforge-gate measures in one process: leave out -n")
    try:
        _layer_benchmarks(config)
    except UsageError as error:
        _wrong(str(error))


def pytest_itemcollected(item: pytest.Item) -> None:
    """For a test that uses `layer_benchmark`, let pytest-benchmark read times from `_clock`."""
    names = getattr(item, "fixturenames", ())
    if "layer_benchmark" in names and _can_measure(item.config):
        if "benchmark" not in names:
            item.fixturenames.append("benchmark")  # pyright: ignore[reportAttributeAccessIssue]
        own = item.get_closest_marker("benchmark")
        options = {**(own.kwargs if own else {}), "timer": _clock}
        # pytest-benchmark reads only the first marker. So insert this one before the marker of the
        # test, whose options it contains.
        item.add_marker(pytest.mark.benchmark(**options), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[Any]:
    """Compare the speeds that the tests have measured with thresholds, after all tests."""
    result = yield
    # Not a hook of this object: without `--cnnforge-gate` the first test makes it.
    known: Any = session.config.pluginmanager.get_plugin(_SESSION)
    if known is not None:
        known.finish(session)
    return result


class _Clock:
    """A timer that makes pytest-benchmark report seconds that were measured before."""

    __name__ = "cnnforge"
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def replay(self, benchmark: Any, seconds: Sequence[float]) -> None:
        """Run one empty round of pytest-benchmark for each measured time, and report this time."""
        waiting = iter(seconds)

        def begin() -> None:
            self.now = 0.0

        def end() -> None:
            self.now = next(waiting, 0.0)

        benchmark.pedantic(end, setup=begin, rounds=len(seconds))


_clock = _Clock()
_NEEDS_BENCHMARK = (
    "needs pytest-benchmark, which is not loaded here: pip install pytest-benchmark, and leave out "
    "-p no:benchmark"
)


def _can_measure(config: pytest.Config) -> bool:
    """Return whether pytest-benchmark is loaded, by its entry point or its module's name."""
    names = ("benchmark", "pytest_benchmark.plugin")
    return any(config.pluginmanager.hasplugin(name) for name in names)


def _wrong(message: str) -> NoReturn:
    pytest.exit(message, returncode=UsageError.exit_code)


def _layer_benchmarks(config: pytest.Config) -> LayerBenchmarks:
    """Return the object that measures layers in this run of pytest.

    The first call makes the object, and imports Keras.
    """
    known: Any = config.pluginmanager.get_plugin(_SESSION)
    if known is None:
        from cnnforge.cli._import_keras import import_keras

        # Called before the next import loads OpenMP: it sets environment variables for OpenMP.
        import_keras()
        from cnnforge.benchmarking.pytest_session import LayerBenchmarks

        path, record = config.getoption("cnnforge_gate"), config.getoption("cnnforge_gate_record")
        known = LayerBenchmarks(
            config,
            path and Path(path),
            write=bool(config.getoption("cnnforge_gate_write")),
            record=record and Path(record),
        )
        config.pluginmanager.register(known, _SESSION)
    return known


@pytest.fixture
def layer_benchmark(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Measure a layer and its reference alternately, after a check that they compute the same.

    Returns:
        A function `measure(case, rounds=31, limit=8.0)`. `case` is one that
        `cnnforge.testing.benchmark_cases` returned; `limit` is the max number of seconds of all
        rounds. The function fails the test if the layer differs from its reference. It returns a
        `cnnforge.benchmarking.Measurement`, or `None` with `--benchmark-disable`. pytest-benchmark
        shows the seconds of the layer's full pass. The ratios are in the `extra_info` of
        pytest-benchmark, which `--benchmark-json` writes. A ratio that stays below the `min_ratio`
        of its case makes the run fail. `--cnnforge-gate FILE.toml` compares the ratios with
        thresholds, too.

    Example:
        ```python
        @pytest.mark.parametrize("case", benchmark_cases("acme/gabor"), ids=str)
        def test_speed(layer_benchmark, case):
            layer_benchmark(case)
        ```
    """
    if not _can_measure(request.config):
        pytest.fail(f"layer_benchmark {_NEEDS_BENCHMARK}", pytrace=False)
    benchmark = request.getfixturevalue("benchmark")
    run = _layer_benchmarks(request.config).run
    return lambda case, **options: run(benchmark, case, _clock.replay, **options)


@pytest.fixture
def isolated_plugins(
    monkeypatch: pytest.MonkeyPatch, forgotten_modules: None
) -> Callable[..., Plugins]:
    """Load only the plugins that the test names, without the built-in one.

    Returns:
        A function `isolate(*plugins)`. Each argument is a plugin's file or module, as for
        `--plugin`. The function loads these plugins and returns a
        `cnnforge.plugin_host.discovery.Plugins`.

    Example:
        ```python
        def test_it(isolated_plugins):
            plugins = isolated_plugins("acme_layers.manifest")
            assert list(plugins.layers) == ["acme_layers.manifest/gabor"]
        ```
    """
    from cnnforge.plugin_host.discovery import AUTOLOAD_VARIABLE, DISABLED_VARIABLE, discover

    monkeypatch.setenv(AUTOLOAD_VARIABLE, "0")
    monkeypatch.delenv(DISABLED_VARIABLE, raising=False)
    return lambda *plugins: discover([str(plugin) for plugin in plugins])


@pytest.fixture
def install_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten_modules: None
) -> Callable[..., Path]:
    """Install plugins for one test.

    Returns:
        A function `install(name, source, distribution="acme-NAME", version="1.0")`. The function
        makes a distribution that has the entry point `name` and one module with the text `source`,
        and returns the path of the module. The module has the name of the distribution, with
        underscores instead of hyphens.

    Example:
        ```python
        def test_it(install_plugin):
            install_plugin("mine", "from cnnforge.plugin import ...")
            assert "mine/gabor" in cnnforge.plugin_host.discovery.discover().layers
        ```
    """
    folder = tmp_path / "installed_plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(name: str, source: str, distribution: str = "", version: str = "1.0") -> Path:
        distribution = distribution or f"acme-{name}"
        module = distribution.replace("-", "_")
        path = folder / f"{module}.py"
        path.write_text(dedent(source))
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[cnnforge]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return path

    return install


@pytest.fixture
def forgotten_modules(tmp_path: Path) -> Iterator[None]:
    """At the end of a test, remove from `sys.modules` what the test imported from `tmp_path`."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]

"""`cnnforge doctor`: what this machine offers, and whether every layer computes what it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnforge.conversion.certificate import LayerCheck
    from cnnforge.plugin import LayerSpec
    from cnnforge.plugin_host.discovery import Plugins

# What a layer is built with, by the names of its arguments.
_ARGUMENTS = {
    "filters": 8,
    "units": 8,
    "kernel_size": 3,
    "pool_size": 2,
    "rate": 0.5,
    "padding": "same",
    "activation": "relu",
}
_INPUT_SHAPE = (28, 28, 4)


def doctor(plugin: PluginOption = None, json: JsonOption = False) -> None:
    """Show what this machine offers; check every layer kernel against its reference."""
    from cnnforge.plugin_host.discovery import discover

    plugins = discover(plugin or ())
    report = _report(plugins)
    if json:
        print_json(report)
    else:
        _show(report)
    if not all(check["passed"] for check in report["checks"]):
        raise typer.Exit(1)


def _report(plugins: Plugins) -> dict[str, Any]:
    """Return everything there is to say, as plain values."""
    from cnnforge.cli._import_keras import import_keras

    import_keras()
    from cnnforge.utils.environment import environment

    route, usable = _route()
    checks = _checks(plugins.layers.values()) if usable else []
    # After the checks: the threads are started by then, and the ops known.
    facts = environment()
    route = _route()[0] if usable else route
    layer = _threading_layer(facts["threading_layer"])
    return {
        "python": facts["python"],
        "packages": facts["packages"],
        "backend": facts["backend"],
        "platform": facts["platform"],
        "cpu": {**facts["cpu"], "float32_lanes": _lanes(facts["cpu"]["features"])},
        "threads": {"layer": layer, "count": _thread_count(), "advice": _threads_advice(layer)},
        "ops": route,
        "gpu": facts["gpu"],
        "driver": facts["driver"],
        "cuda": _cuda(),
        "cache": _cache_directory(),
        "plugins": [
            {
                "name": record.name,
                "status": record.status,
                "version": record.version,
                "cause": record.cause or None,
            }
            for record in plugins.records
        ],
        "choices": _choices(plugins.layers.values()),
        "checks": checks if usable else [_failed("all layers", "", route)],
    }


def _route() -> tuple[str, bool]:
    """How ops reach the backend, and whether they do."""
    import warnings

    from cnnforge import ops
    from cnnforge.errors import CnnforgeError

    with warnings.catch_warnings(record=True):
        # What it warns of is part of what `route` returns.
        warnings.simplefilter("always")
        try:
            return ops.route(), True
        except CnnforgeError as error:
            return str(error), False


def _checks(specs: Sequence[LayerSpec]) -> list[dict[str, Any]]:
    """Run each layer that stands for a stock layer once, forward and backward."""
    return [_check(spec) for spec in specs if spec.reference is not None]


def _check(spec: LayerSpec) -> dict[str, Any]:
    import inspect

    import keras

    from cnnforge.conversion.certificate import certify
    from cnnforge.errors import one_line
    from cnnforge.plugin import LayerSpec
    from cnnforge.plugin_host.registry import Registry

    kind = (spec.reference or "").rpartition(":")[2]
    try:
        # Of the class itself Python tells the signature of Keras' `__new__`, up to some 3.11.
        taken = inspect.signature(spec.load_reference().__init__).parameters
        known = {name: value for name, value in _ARGUMENTS.items() if name in taken}
        keras.utils.set_random_seed(0)  # the same weights, and verdict, every time
        layer = spec.load()(**known, name=spec.name)
        model = keras.Sequential([keras.Input(_INPUT_SHAPE), layer])
        only = Registry(LayerSpec)
        only.add(spec.plugin, [spec])
        checks: list[LayerCheck] = certify(model, layers=only)
    except Exception as error:
        return _failed(spec.qualified_name, kind, one_line(error))
    if not checks:
        return _failed(spec.qualified_name, kind, "the layer is not of the class it declares")
    return checks[0].to_json()


def _failed(name: str, kind: str, error: str) -> dict[str, Any]:
    return {
        "layer": name.rpartition("/")[2],
        "kind": kind,
        "provider": name,
        "input_shape": [],
        "dtype": "",
        "results": [],
        "error": error,
        "passed": False,
    }


def _choices(specs: Sequence[LayerSpec]) -> list[dict[str, Any]]:
    """What `--kernels auto` has measured on this machine with these versions, and taken."""
    from cnnforge.conversion.autotune import remembered
    from cnnforge.errors import PluginError

    kinds = {}
    for spec in specs:
        try:
            kinds[spec.qualified_name] = spec.load()
        except PluginError:
            continue  # The table of the plugins says so.
    return [
        {
            "layer": it.layer,
            "shape": list(it.shape),
            "training": it.training,
            "implementation": it.choice.implementation,
            "ratio": it.choice.ratio,
        }
        for it in remembered(kinds)
    ]


def _lanes(features: Sequence[str]) -> int:
    """How many float32 values fit into a vector register."""
    if "avx512f" in features:
        return 16
    return 8 if {"avx2", "fma"} <= set(features) else 4


def _threading_layer(known: str) -> str:
    import numba
    from numba.np.ufunc import parallel

    if known.startswith("not used yet"):
        parallel._launch_threads()
        return numba.threading_layer()
    return known


def _thread_count() -> int:
    import numba

    return numba.get_num_threads()


def _threads_advice(layer: str) -> str | None:
    if layer in ("omp", "tbb"):
        return None
    return (
        f"Numba's threading layer {layer!r} cannot run two ops at once, so all ops take turns: "
        "install libgomp (apt install libgomp1) or TBB (pip install tbb)"
    )


def _cuda() -> str:
    """What Numba sees of the graphics cards, and what that means for the layers and the tests."""
    from importlib.util import find_spec

    on_cpu = "the layers' kernels run on the CPU, and `pytest -m gpu` skips"
    if find_spec("numba_cuda") is None:
        return f"{on_cpu}; numba-cuda is not installed (pip install 'cnnforge[cuda13]')"
    try:
        from numba import cuda

        names = [str(device.name) for device in cuda.gpus] if cuda.is_available() else []
    except Exception as error:
        return f"{on_cpu}; numba-cuda fails: {' '.join(str(error).split())}"
    if not names:
        return f"{on_cpu}; numba-cuda sees no device"
    return (
        f"numba-cuda sees {', '.join(names)}; the layers' kernels run there under the torch "
        "backend (KERAS_BACKEND=torch), and under TensorFlow as 'ops' says"
    )


def _cache_directory() -> str:
    """Where compiled kernels are kept."""
    import numba
    import platformdirs

    numbas: str = numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    return numbas or platformdirs.user_cache_dir("cnnforge", appauthor=False)


def _show(report: dict[str, Any]) -> None:
    from cnnforge.cli import _render

    cpu, threads, gpu = report["cpu"], report["threads"], report["gpu"]
    backend = report["backend"]
    vectors = [it for it in cpu["features"] if it in ("neon", "avx", "avx2", "fma", "avx512f")]
    cards = gpu if isinstance(gpu, str) else ", ".join(gpu)
    facts = [
        ["Python", report["python"]],
        ["packages", ", ".join(f"{name} {it}" for name, it in report["packages"].items())],
        ["platform", report["platform"]],
        ["processor", f"{cpu['model']} ({cpu['usable_cores']} of {cpu['cores']} cores)"],
        ["vectors", f"{' '.join(vectors)}: {cpu['float32_lanes']} float32 values"],
        ["threads", f"{threads['count']}; parallel loops of plugins: Numba's {threads['layer']}"],
        ["backend", f"{backend['name']} {backend['version']}"],
        ["ops", report["ops"]],
        ["graphics", cards if cards == "none" else f"{cards}, driver {report['driver']}"],
        ["CUDA", report["cuda"]],
        ["cache", report["cache"]],
    ]
    _render.table(["machine", ""], facts)
    typer.echo()
    columns = ["name", "status", "version", "cause"]
    rows = [[row[key] for key in columns] for row in report["plugins"]]
    _render.table(["plugin", *columns[1:]], rows)
    typer.echo()
    if report["choices"]:
        rows = [
            [
                it["layer"],
                "x".join(map(str, it["shape"])),
                "training" if it["training"] else "inference",
                "the kernel" if it["implementation"] == "numba" else "the framework",
                f"{it['ratio']:.2f}",
            ]
            for it in report["choices"]
        ]
        _render.table(["layer", "inputs", "for", "--kernels auto takes", "ratio"], rows)
        typer.echo()
    rows = []
    for check in report["checks"]:
        for it in check["results"]:
            verdict = "ok" if it["ok"] else "WRONG"
            error = "not finite" if it["max_error"] is None else f"{it['max_error']:.1e}"
            rows.append([check["provider"], it["tensor"], error, f"{it['allowed']:.1e}", verdict])
        if check["error"]:
            rows.append([check["provider"], check["error"], None, None, "FAILED"])
    _render.table(["layer", "result", "max error", "allowed", ""], rows)
    if threads["advice"]:
        _render.message(f"warning: {threads['advice']}", "yellow")
    wrong = [check["provider"] for check in report["checks"] if not check["passed"]]
    if wrong:
        _render.message(
            f"{len(wrong)} of {len(report['checks'])} layers failed: " + ", ".join(wrong)
        )

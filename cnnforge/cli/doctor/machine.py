"""Describe this machine, and compare every layer with its stock layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cnnforge.cli._common import import_error, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnforge.plugin import LayerSpec
    from cnnforge.plugin_host.discovery import Plugins

# LLVM's names of the instruction sets that compute on float32 vectors.
_VECTORS = ("neon", "avx", "avx2", "fma", "avx512f")


def check_machine(plugin: Sequence[str], json: bool) -> None:
    """Print what this machine offers, and the checks of all layers.

    Args:
        plugin: The values of `--plugin`.
        json: Whether to print JSON.

    Raises:
        UsageError: No other command can start with the settings of Keras.
        typer.Exit: A check has failed.
    """
    from cnnforge.plugin_host.discovery import discover

    report = _report(discover(plugin))
    if json:
        print_json(report)
    else:
        _show(report)
    if report["error"]:
        from cnnforge.errors import UsageError

        raise UsageError(f"no other command can start: {report['error']}")
    if not all(check["passed"] for check in report["checks"]):
        raise typer.Exit(1)


def _report(plugins: Plugins) -> dict[str, Any]:
    """Return the report as a dictionary that can be printed as JSON."""
    from cnnforge.cli._import_keras import import_keras

    settings = import_keras(any_backend=True)
    from cnnforge.utils.environment import environment

    route, usable = _route()
    checks = _checks(plugins.layers.values()) if usable else []
    # The checks above call kernels. The first call loads Numba's threading layer, and may change
    # how the backend calls ops. So describe both after the checks.
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
        "experimental": _experimental() if usable else {},
        "cache": _cache_directory(),
        "lock": _lock(),
        "settings": list(settings.notes),
        "error": settings.error or None,
        "plugins": [
            {
                "name": record.name,
                "status": record.status,
                "version": record.version,
                "cause": record.cause or None,
            }
            for record in plugins.records
        ],
        "engines": [
            {"name": spec.qualified_name, "error": import_error(spec)}
            for spec in plugins.engines.values()
        ],
        "choices": _choices(plugins.layers.values()),
        "checks": checks if usable else [_no_layer(route)],
    }


def _route() -> tuple[str, bool]:
    """Return two values: how the backend calls ops, as a text, and whether it can call them.

    If the backend cannot call ops, the text is an error message.
    """
    import warnings

    from cnnforge import ops
    from cnnforge.errors import CnnforgeError

    with warnings.catch_warnings(record=True):
        # The warnings are recorded only so that they are not printed: the text that `route` returns
        # contains them.
        warnings.simplefilter("always")
        try:
            return ops.route(), True
        except CnnforgeError as error:
            return str(error), False


def _checks(specs: Sequence[LayerSpec]) -> list[dict[str, Any]]:
    """Compare each plugin layer with the stock layer that it replaces, in the first test case."""
    import keras

    from cnnforge.conversion.certificate import certify_layer, failed_check
    from cnnforge.conversion.workloads import example_workload
    from cnnforge.errors import one_line

    checks = []
    for spec in specs:
        if spec.reference is None:
            continue
        keras.utils.set_random_seed(0)  # Every call checks the same weights.
        try:
            check = certify_layer(example_workload(spec))
        except Exception as error:
            check = failed_check(spec, (), one_line(error))
        checks.append(check.to_json())
    return checks


def _engine(engine: dict[str, Any]) -> str:
    return f"{engine['name']} {engine['error'] or 'predicts without Keras'}"


def _no_layer(error: str) -> dict[str, Any]:
    return {
        "layer": "all layers",
        "kind": "",
        "provider": "all layers",
        "input_shape": [],
        "dtype": "",
        "results": [],
        "error": error,
        "passed": False,
    }


def _choices(specs: Sequence[LayerSpec]) -> list[dict[str, Any]]:
    """List the choices of `--kernels auto` on this machine with the installed packages."""
    from cnnforge.conversion.autotune import cached_measurements

    return [
        {
            "layer": cached.layer,
            "shape": list(cached.shape),
            "training": cached.training,
            "implementation": cached.choice.implementation,
            "ratio": cached.choice.ratio,
        }
        for cached in cached_measurements(specs)
    ]


def _lanes(features: Sequence[str]) -> int:
    """Return the number of float32 values in a vector register."""
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
    """Describe the graphics cards that Numba finds, and say whether layers and tests use them."""
    from importlib.util import find_spec

    from cnnforge.errors import one_line

    on_cpu = "the layers' kernels run on the CPU, and `pytest -m gpu` skips"
    if find_spec("numba_cuda") is None:
        return f"{on_cpu}; numba-cuda is not installed (pip install 'cnnforge[cuda13]')"
    try:
        from numba import cuda

        names = [str(device.name) for device in cuda.gpus] if cuda.is_available() else []
    except Exception as error:
        return f"{on_cpu}; numba-cuda fails: {one_line(error)}"
    if not names:
        return f"{on_cpu}; numba-cuda sees no device"
    return (
        f"numba-cuda sees {', '.join(names)}; the layers' kernels run there under the torch "
        "backend (KERAS_BACKEND=torch), and under TensorFlow as 'ops' says"
    )


def _experimental() -> dict[str, str]:
    """Describe the CUDA features that were not yet tested on a graphics card.

    Return a dictionary by name of the feature. Each description says whether the feature is on, and
    how to switch it on or off.
    """
    from cnnforge.ops.array_op import registered_ops
    from cnnforge.ops.cuda_module import experimental

    return experimental(registered_ops())


def _cache_directory() -> str:
    """Return the folder in which compiled kernels are cached."""
    import numba

    from cnnforge.utils.cache_folder import cache_folder

    numbas: str = numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    return numbas or str(cache_folder())


def _lock() -> dict[str, Any] | None:
    """Compare the installed packages with the lock file; return `None` without such a file."""
    from cnnforge.utils.lock_file import find_lock_file, other_versions

    path = find_lock_file()
    if path is None:
        return None
    try:
        different = other_versions(path)
    except (OSError, ValueError):
        return None
    return {"file": str(path), "different": [each._asdict() for each in different]}


def _versions(lock: dict[str, Any] | None) -> str:
    if lock is None:
        return "not compared: there is no requirements.lock"
    count = len(lock["different"])
    if not count:
        return "those of requirements.lock"
    return f"{count} installed package{'s' * (count > 1)} differ{'s' * (count == 1)} from the lock"


def _show_lock(lock: dict[str, Any] | None) -> None:
    from cnnforge.cli import _render

    for each in lock["different"] if lock else ():
        _render.message(
            f"note: {each['name']} {each['installed']} is installed, and cnnforge was tested with "
            f"{each['tested']}"
        )
    if lock and lock["different"]:
        names = " ".join(each["name"] for each in lock["different"])
        _render.message(f"to get the tested versions: pip install -c {lock['file']} {names}")


def _show(report: dict[str, Any]) -> None:
    from cnnforge.cli import _render

    cpu, threads, gpu = report["cpu"], report["threads"], report["gpu"]
    backend = report["backend"]
    vectors = [name for name in cpu["features"] if name in _VECTORS]
    cards = gpu if isinstance(gpu, str) else ", ".join(gpu)
    changed = [*report["settings"], *([report["error"]] if report["error"] else [])]
    facts = [
        ["Python", report["python"]],
        ["packages", ", ".join(f"{name} {known}" for name, known in report["packages"].items())],
        ["platform", report["platform"]],
        ["processor", f"{cpu['model']} ({cpu['usable_cores']} of {cpu['cores']} cores)"],
        ["vectors", f"{' '.join(vectors)}: {cpu['float32_lanes']} float32 values"],
        ["threads", f"{threads['count']}; parallel loops of plugins: Numba's {threads['layer']}"],
        ["backend", f"{backend['name']} {backend['version']}"],
        ["ops", report["ops"]],
        ["graphics", cards if cards == "none" else f"{cards}, driver {report['driver']}"],
        ["CUDA", report["cuda"]],
        *([f"CUDA {name}", state] for name, state in report["experimental"].items()),
        ["cache", report["cache"]],
        ["versions", _versions(report["lock"])],
        [
            "plans",
            "; ".join(map(_engine, report["engines"])) or "no inference engine: Keras predicts",
        ],
        ["settings", "; ".join(changed) or "none that cnnforge has to change"],
    ]
    _render.table(["machine", ""], facts)
    typer.echo()
    columns = ["name", "status", "version", "cause"]
    rows = [[row[key] for key in columns] for row in report["plugins"]]
    _render.table(["plugin", *columns[1:]], rows)
    typer.echo()
    if report["choices"]:
        _render.table(
            ["layer, with --kernels auto", "shapes", "kernel", "framework", "ratio"],
            _choices_by_layer(report["choices"]),
        )
        typer.echo()
    rows = []
    for check in report["checks"]:
        for result in check["results"]:
            verdict = "ok" if result["ok"] else "WRONG"
            error = "not finite" if result["max_error"] is None else f"{result['max_error']:.1e}"
            allowed = f"{result['allowed']:.1e}"
            rows.append([check["provider"], result["tensor"], error, allowed, verdict])
        if check["error"]:
            rows.append([check["provider"], check["error"], None, None, "FAILED"])
    _render.table(["layer", "result", "max error", "allowed", ""], rows)
    _show_lock(report["lock"])
    if threads["advice"]:
        _render.message(f"warning: {threads['advice']}", "yellow")
    wrong = [check["provider"] for check in report["checks"] if not check["passed"]]
    if wrong:
        _render.message(
            f"{len(wrong)} of {len(report['checks'])} layers failed: " + ", ".join(wrong)
        )
    else:
        _render.message(f"all {len(report['checks'])} layers passed their checks")


def _choices_by_layer(choices: Sequence[dict[str, Any]]) -> list[list[object]]:
    """Count the choices of each layer. A machine that was used for long has hundreds of them.

    Returns:
        A row for each layer: its name, the number of shapes, the number of shapes for which the
        kernel and the framework are taken, and how many times as fast the kernel is.
    """
    rows: list[list[object]] = []
    for layer in dict.fromkeys(choice["layer"] for choice in choices):
        own = [choice for choice in choices if choice["layer"] == layer]
        kernel = sum(choice["implementation"] == "numba" for choice in own)
        ratios = [choice["ratio"] for choice in own]
        ratio = f"{min(ratios):.2f}"
        if len(own) > 1:
            ratio += f" to {max(ratios):.2f}"
        rows.append([layer, len(own), kernel, len(own) - kernel, ratio])
    return rows

"""The readers of configurations and of the files of runs and sweeps. None of them imports Keras."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_target import Files, Target

from cnnforge.cli._settings import _read as read_keras_json
from cnnforge.cli._trained import open_run
from cnnforge.cli.runs import _as_json, _cells, _fitting
from cnnforge.comparing.differences import configuration_differences, environment_differences
from cnnforge.comparing.history import fluctuation
from cnnforge.configuration import check_types, read_config, resolve
from cnnforge.data import Split
from cnnforge.errors import RunError
from cnnforge.filtering.detectors import find_detector
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.prediction.reference_predictions import reference_drift
from cnnforge.reports.run_page import write_report
from cnnforge.runs import FORMAT, RunDirectory, to_csv, to_toml
from cnnforge.runs.listing import list_runs
from cnnforge.sweeping.space import check_space, read_space
from cnnforge.tasks import open_task

CLASSES = ("cat", "dog", "<b>&")
_OLD = Path(__file__).parents[1] / "data" / "run-0.1"


@cache
def plugins() -> Plugins:
    """Return the installed plugins."""
    return discover()


def _dumped(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def config(task: str = "cnnforge/classification", **changed: Any) -> bytes:
    """Return the `config.toml` of a run."""
    options = {
        "model": "lenet", "data": "photos", "epochs": 2, "batch_size": 8, "learning_rate": 0.01,
        "seed": 0, "kernels": "keras", "output": "runs", "validation_fraction": 0.2,
        "augment": ["shift:1"], "plugin": [], "strict": False, "image_size": "4x5", **changed,
    }  # fmt: skip
    about = {
        "format": FORMAT, "cnnforge": "0.2.0", "model": "builtin/lenet", "task": task,
        "data": "photos", "fingerprint": "ab" * 32, "image_shape": [4, 5, 3], "callbacks": [],
        "augmentations": ["builtin/shift:1"], "monitor": "accuracy", "monitor_best": "max",
        "monitor_percent": True,
    }  # fmt: skip
    return (to_toml(options) + "\n[run]\n" + to_toml(about)).encode()


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _metrics(names: Sequence[str] = ("loss", "accuracy")) -> tuple[list[dict[str, Any]], bytes]:
    rows = [
        [n, *(0.5 / n for _ in names), *(0.6 / n for _ in names), 0.1 / n, 60] for n in range(1, 7)
    ]
    header = ["epoch", *names, *(f"val_{name}" for name in names), "learning_rate", "seconds"]
    about = [
        {
            "name": name,
            "title": name,
            "best": "min" if name == "loss" else "max",
            "percent": name != "loss",
        }
        for name in names
    ]
    return about, to_csv(header, rows).encode()


@cache
def run_files() -> Files:
    """Return the files of a run of a classification."""
    about, metrics = _metrics()
    values = {"samples": 6, "loss": 0.7, "accuracy": 0.5}
    classes = {name: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2} for name in CLASSES}
    validation = {**values, "classes": classes, "confusion_matrix": np.eye(3, dtype=int).tolist()}
    evaluation = {
        "task": "cnnforge/classification", "best_epoch": 2, "monitor": "accuracy", "metrics": about,
        "validation": validation, "test": validation,
    }  # fmt: skip
    header = ["file", "label", "probability", "label_2", "probability_2", "true_label"]
    rows = [[f"{n}.png", CLASSES[n % 3], 0.9, CLASSES[1], 0.1, CLASSES[n % 2]] for n in range(6)]
    layer = {"layer": "conv1", "kind": "Conv2D", "implementation": "numba", "ratio": 1.5,
             "provider": "builtin", "reason": "measured"}  # fmt: skip
    environment = {
        "python": "3.11", "packages": {"keras": "3.15"}, "backend": {"name": "tensorflow"},
        "platform": "Linux", "cpu": {"model": "x", "target": "skylake", "cores": 2, "usable_cores": 2},
        "gpu": None, "driver": None, "git": {"commit": "abc"}, "plugins": [{"name": "builtin", "version": "1"}],
    }  # fmt: skip
    data = {"name": "photos", "images": {"training": 20, "validation": 6}, "notes": ["a note"],
            "classes": {"cat": 10, "dog": 16}}  # fmt: skip
    requirement = {"plugin": "builtin", "source": "cnnforge_plugins.manifest", "distribution": "cnnforge",
                   "version": "0.2.0", "origin": None, "uses": ["model builtin/lenet"], "layers": ["Conv2D"]}  # fmt: skip
    split = [
        [("training", "validation", "left out")[n % 3], f"{n}.png", f"{n:064x}"] for n in range(6)
    ]
    model = (_OLD / "model.keras").read_bytes()
    return {
        "config.toml": config(),
        "evaluation.json": _dumped(evaluation),
        "metrics.csv": metrics,
        "predictions.csv": to_csv(header, rows).encode(),
        "data.json": _dumped(data),
        "kernels.json": _dumped([layer]),
        "kernel_check.json": _dumped([{"passed": True, "layer": "conv1"}]),
        "skipped.csv": to_csv(["file", "reason"], [["a", "truncated"]]).encode(),
        "environment.json": _dumped(environment),
        "classes.json": _dumped(CLASSES),
        "plugins.json": _dumped([requirement]),
        "split.csv": to_csv(["split", "file", "sha256"], split).encode(),
        "thumbnails.npz": _npz(rows=np.arange(3), ends=np.array([2, 4, 6]), content=np.arange(6, dtype=np.uint8)),
        "golden.npz": _npz(images=np.zeros((2, 4, 5, 3), np.uint8), model=np.array(hashlib.sha256(model).hexdigest()),
                           output_0=np.zeros((2, 3), np.float32)),
        "model.keras": model,
    }  # fmt: skip


_REPORTED = ("config.toml", "evaluation.json", "metrics.csv", "predictions.csv", "data.json",
             "kernels.json", "kernel_check.json", "skipped.csv", "environment.json", "classes.json",
             "thumbnails.npz")  # fmt: skip
_OPENED = ("config.toml", "plugins.json", "split.csv", "golden.npz", "model.keras", "classes.json")
_COMPARED = ("config.toml", "environment.json", "metrics.csv")


def _some(names: Sequence[str]) -> list[Files]:
    return [{name: run_files()[name] for name in names}]


def _detection_files() -> list[Files]:
    about, metrics = _metrics(("loss", "map"))
    numbers = {
        "objects": 3,
        "map": 0.5,
        "map50": 0.6,
        "ar100": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
    }
    from cnnforge.tasks.detection.page import _COCO

    found = {
        **numbers, "samples": 6, "loss": 1.0, "confidence": 0.4,
        "coco": {name: 0.5 for name in _COCO.values()},
        "by_size": {name: {"objects": 2, "map": 0.5, "ar": None} for name in ("small", "large")},
        "classes": {name: numbers for name in CLASSES},
        "errors": {name: {"count": 2, "lost_map50": 0.1} for name in ("Cls", "Loc")},
    }  # fmt: skip
    evaluation = {"task": "builtin/detection", "best_epoch": 2, "monitor": "map", "metrics": about,
                  "validation": found}  # fmt: skip
    settings = {"classes": list(CLASSES), "image_size": [32, 32], "confidence": 0.4, "overlap": 0.6,
                "max_detections": 100}  # fmt: skip
    confusions = [["", *CLASSES], ["cat", 1, 2, 3], ["dog", 0, 4, 1], ["<b>&", 1, 1, 1]]
    from fuzz_data import _picture

    picture = _picture(0)
    return [
        {
            "config.toml": config("builtin/detection"),
            "evaluation.json": _dumped(evaluation),
            "metrics.csv": metrics,
            "detection.json": _dumped(settings),
            "pr_curve.csv": to_csv(
                ["class", "recall", "precision"], [["cat", 0.1, 1], ["cat", 0.2, 0.5]]
            ).encode(),
            "confusion_matrix.csv": to_csv(confusions[0], confusions[1:]).encode(),
            "validation.png": picture,
            "labels.png": picture,
        }
    ]


def _read_report(folder: Path, choice: int) -> None:
    run = RunDirectory.open(folder, needs=("config.toml",))
    check_types(run.read_config()[0], "config.toml")
    write_report(run, open_task(run, plugins().tasks))


def _read_opened(folder: Path, choice: int) -> None:
    run, data, loaded, _ = open_run(folder, None, lambda names: plugins())
    open_task(run, loaded.tasks)
    if data.split is not None:
        names, digests = ["0.png", "1.png"], [bytes.fromhex(f"{n:064x}") for n in range(2)]
        data.split.find(Split(np.zeros(2), names, digests))
        data.split.differences(data.split)
    reference_drift(run, lambda images: [np.zeros((len(images), 3), np.float32)])


def _read_compared(folder: Path, choice: int) -> None:
    run = RunDirectory.open(folder, needs=())
    options = run.read_config()[0]
    configuration_differences([options], [{"model": "lenet", "augment": []}])
    environment_differences([folder], [folder.parent])
    fluctuation(folder, "accuracy")


def _read_listed(folder: Path, choice: int) -> None:
    for found in list_runs(folder):
        json.dumps(_as_json(found))
        _fitting([_cells(found, found.metric if choice % 2 else "")], 80)
        if found.reason:
            # `runs` shows it instead of the numbers.
            raise RunError(found.reason)


def _read_config(folder: Path, choice: int) -> None:
    resolve({"epochs": 3}, read_config(folder / "options.toml"))


def _config_seeds() -> list[Files]:
    texts = [
        config(),
        config(
            learning_rate=1, schedule="cosine", warmup_epochs=1, optimizer="adamw", weight_decay=0.1
        ),
        b"model = 'lenet'\n# a comment\nbatch-size = 16\naugment = [\n 'flip',\n]\nclip_norm = 1.0\n",
        b'model = """lenet"""\ndata = "mnist5k"\nepochs = 0x10\nlearning_rate = 1e-3\nfreeze = "all"\n',
    ]
    return [{"options.toml": text} for text in texts]


def _read_space(folder: Path, choice: int) -> None:
    space = read_space([str(folder / "space.toml")])
    for each in space:
        each.describe()
    check_space(space, lambda values: resolve(values, {"model": "lenet"}))


def _space_seeds() -> list[Files]:
    texts = [
        b'learning_rate = "1e-4..1e-2"\noptimizer = "adam,sgd"\nbatch_size = "16..128"\n',
        b'optimizer = ["adam", "sgd"]\naugment = [["flip", "shift:1"], [], "none"]\nepochs = [1, 2]\n',
        b'image-size = "28,32x30"\nlabel_smoothing = "0,0.1"\nclass_weights = "none,balanced"\n',
    ]
    return [{"space.toml": text} for text in texts]


def _read_detector(folder: Path, choice: int) -> None:
    find_detector(str(folder / "edge.txt"))


def _detector_seeds() -> list[Files]:
    texts = [
        b"0 1 0\n1 -4 1\n0 1 0\n",
        b"1/9, 1/9, 1/9\n1/9 1/9 1/9\n1/9 1/9 1/9",
        b"1e3;0;0;\n" * 3,
    ]
    return [{"edge.txt": text} for text in texts]


def _read_keras_json(folder: Path, choice: int) -> None:
    read_keras_json(folder / "keras.json", [])


def _keras_json_seeds() -> list[Files]:
    values = {
        "floatx": "float32",
        "epsilon": 1e-07,
        "backend": "tensorflow",
        "image_data_format": "channels_last",
    }
    return [{"keras.json": _dumped(values)}]


def _read_choices(folder: Path, choice: int) -> None:
    from cnnforge.conversion.autotune import _read as read_choices

    read_choices(folder / "choices.json")


def _choice_seeds() -> list[Files]:
    value = {"implementation": "numba", "ratio": 1.5, "seconds": [0.1, 0.2], "machine": "a", "layer": "Conv2D",
             "shape": [8, 4, 5, 3], "training": True}  # fmt: skip
    from cnnforge.conversion.autotune import _VERSION

    return [{"choices.json": _dumped({"version": _VERSION, "choices": {"ab": value, "cd": value}})}]


_DESCRIPTION = {
    "options": {"model": "lenet", "epochs": 2}, "space": {"learning_rate": "0.001..0.1"},
    "metric": "accuracy", "direction": "maximize", "prune": True,
}  # fmt: skip


def _read_sweep(folder: Path, choice: int) -> None:
    from cnnforge.sweeping.results import result_of
    from cnnforge.sweeping.storage import open_study
    from cnnforge.tasks.classification.metrics import ACCURACY

    study, _ = open_study(folder, _DESCRIPTION, lambda text: None)
    result = result_of(folder, study, ACCURACY)
    json.dumps(result.as_dict())
    assert result.ranked is not None


_FIXED = {
    b'"worker_id":': b'"a-1"',
    b'"datetime_start":': b'"2026-01-01T00:00:00.000000+00:00"',
    b'"datetime_complete":': b'"2026-01-01T00:00:01.000000+00:00"',
    b'"param_value_internal":': b"0.01",
}


def _sweep_seeds() -> list[Files]:
    import tempfile

    import optuna

    from cnnforge.sweeping.storage import open_study

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study, _ = open_study(folder, _DESCRIPTION, lambda text: None)
        for number in range(5):
            trial = study.ask(
                {"learning_rate": optuna.distributions.FloatDistribution(0.001, 0.1, log=True)}
            )
            trial.set_user_attr("run", f"lenet-photos-{number:03}")
            for epoch in (1, 2):
                trial.report(0.1 * number + 0.01 * epoch, epoch)
            study.tell(trial, 0.1 * number)
        files = {each: (folder / each).read_bytes() for each in ("journal.log", "sweep.json")}
    # The same number must give the same file, so the journal has no time, identifier or random value.
    files["journal.log"] = re.sub(
        rb'("worker_id":|"datetime_\w+":|"param_value_internal":)("[^"]*"|[0-9.e-]+)',
        lambda found: found[1] + _FIXED[found[1]],
        files["journal.log"],
    )
    return [files]


TARGETS = [
    Target("config", "`--config` files", _config_seeds, _read_config),
    Target("space", "`--space` files", _space_seeds, _read_space),
    Target("detector", "files of detectors for `filter`", _detector_seeds, _read_detector),
    Target("keras-json", "Keras' `keras.json`", _keras_json_seeds, _read_keras_json),
    Target("choices", "the cache of measured layers", _choice_seeds, _read_choices),
    Target("runs", "the run that `runs` lists", lambda: [
        {f"lenet-photos-001/{name}": run_files()[name] for name in ("config.toml", "metrics.csv", "evaluation.json")}
        | {"lenet-photos-001/model.keras": b"x"}], _read_listed, fixed=["lenet-photos-001/model.keras"]),
    Target("report", "the run of a classification that `report` shows", lambda: _some(_REPORTED), _read_report),
    Target("report-boxes", "the run of a detector that `report` shows", _detection_files, _read_report),
    Target("opened", "the run that `predict` and `evaluate` open", lambda: _some(_OPENED), _read_opened,
           fixed=["model.keras"]),
    Target("compared", "the runs that `compare` reads", lambda: _some(_COMPARED), _read_compared),
    Target("sweep", "the journal and the description of a sweep", _sweep_seeds, _read_sweep),
]  # fmt: skip

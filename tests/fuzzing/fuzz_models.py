"""The readers of model files, training states, plans and pictures for `serve`."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
from fuzz_data import _image_seeds
from fuzz_runs import CLASSES, config, plugins
from fuzz_target import Files, Target

from cnnforge.errors import RunError, UsageError
from cnnforge.filtering.learned import learned_detector
from cnnforge.model_files.content import check_keras_file, check_weights_file
from cnnforge.prediction.plans import find_plan, plan_outputs
from cnnforge.runs import RunDirectory
from cnnforge_kernels.plan import Plan
from cnnforge_plugins.inference.runner import open_plan
from cnnforge_plugins.models._torch_checkpoint import _FORMAT, _MAGIC, read_checkpoint

_OLD = Path(__file__).parents[1] / "data" / "run-0.1"
_SEEDS = Path(__file__).parent / "seeds"


def _dense(kind: str, name: str, **options: Any) -> dict[str, Any]:
    about = {"module": "keras.layers", "class_name": kind, "registered_name": None}
    return {**about, "config": {"name": name, "trainable": True, "dtype": "float32", **options}}


def keras_file(layers: Sequence[dict[str, Any]], arrays: dict[str, list[np.ndarray]]) -> bytes:
    """Return a `.keras` file of a sequential model, as Keras writes it."""
    model = {"module": "keras", "class_name": "Sequential", "registered_name": "Sequential",
             "config": {"name": "model", "trainable": True, "dtype": "float32", "layers": list(layers)},
             "build_config": {"input_shape": [None, 8, 8, 1]}, "compile_config": None}  # fmt: skip
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("metadata.json", b'{"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}'),
            ("config.json", json.dumps(model).encode()),
            ("model.weights.h5", weights_file(arrays)),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def weights_file(
    arrays: dict[str, list[np.ndarray]], libver: str | None = None, **options: Any
) -> bytes:
    """Return a `.weights.h5` file, as Keras writes it without options."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=libver) as weights:
        for name, own in arrays.items():
            group = weights.create_group(f"layers/{name}/vars")
            group.attrs["name"] = name
            for number, array in enumerate(own):
                group.create_dataset(str(number), data=array, **options)
    return file.getvalue()


def _arrays() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    kernel, dense = rng.random((3, 3, 1, 2), np.float32), rng.random((72, 3), np.float32)
    return {"conv2d": [kernel, np.zeros(2, np.float32)], "dense": [dense, np.zeros(3, np.float32)]}


def _model_seeds() -> list[Files]:
    inputs = _dense("InputLayer", "input", batch_shape=[None, 8, 8, 1])
    del inputs["config"]["trainable"]
    layers = [
        inputs,
        _dense("Conv2D", "conv2d", filters=2, kernel_size=[3, 3], activation="relu"),
        _dense("Flatten", "flatten"),
        _dense("Dense", "dense", units=3, activation="softmax"),
    ]
    return [
        {"model.keras": keras_file(layers, _arrays())},
        {"model.keras": (_OLD / "model.keras").read_bytes()},
    ]


def _weights_seeds() -> list[Files]:
    # Other programs may pack the values, and HDF5 has a newer format.
    packed = weights_file(_arrays(), libver="latest", compression="gzip", shuffle=True)
    return [{"model.weights.h5": each} for each in (weights_file(_arrays()), packed)]


def _read_guard(folder: Path, choice: int) -> None:
    from cnnforge.model_files.classes import find_class_problem

    found = check_keras_file(folder / "model.keras")
    find_class_problem(found, lambda name: False, lambda module, name: name in ("relu", "Zeros"))


def _read_weights(folder: Path, choice: int) -> None:
    from cnnforge.training.weight_sources import _layers_in

    check_weights_file(folder / "model.weights.h5")
    list(_layers_in(folder / "model.weights.h5"))


def _read_learned(folder: Path, choice: int) -> None:
    learned_detector(folder, ("conv2d", None)[choice % 2], 1)


def _read_keras(folder: Path, choice: int) -> None:
    from cnnforge.prediction.keras_model import load_model, outputs_of

    model = load_model(folder / "model.keras", plugins().layers)
    outputs_of(model)


def _state_seeds() -> list[Files]:
    old = next((_OLD / "last").glob("*.ckpt")).read_bytes().partition(b"\n")[2]
    meta = {
        "epoch": 2, "batch": 1, "sums": {"seconds": 1.0, "loss": 2.0, "correct": 3.0}, "waiting": 0.1,
        "best": {"epoch": 1, "loss": 0.5, "accuracy": 0.5}, "config": {"seed": 0, "batch_size": 8},
        "history": [{"epoch": 1, "loss": 0.5, "val_loss": 0.5, "learning_rate": 0.1, "seconds": 1.0,
                     "accuracy": 0.5, "val_accuracy": 0.5, "images_per_second": 3.0, "waiting": 0.0}],
        "callbacks": {"a": {"best": 1.0}}, "stopped": "", "arrays": 2,
    }  # fmt: skip
    seeds = []
    with np.load(io.BytesIO(old)) as archive:
        stored = {name: archive[name] for name in archive.files}
    meta["history"] = json.loads(stored["meta"].tobytes())["history"]
    for text, arrays in ((stored.pop("meta").tobytes(), stored), (json.dumps(meta).encode(), {})):
        file = io.BytesIO()
        np.savez(file, **(arrays or {"00000": np.zeros((2, 3)), "00001": np.array(3)}))
        seeds.append({"arrays.npz": file.getvalue(), "meta.json": text})
    return seeds


def _read_state(folder: Path, choice: int) -> None:
    """Give the spoiled parts of a state the right checksum, and read it."""
    from cnnforge.training.session import stored_identity
    from cnnforge.training.state import StateStore

    body = (folder / "arrays.npz").read_bytes() if (folder / "arrays.npz").exists() else b""
    meta = (folder / "meta.json").read_bytes() if (folder / "meta.json").exists() else b""
    file = io.BytesIO(body)
    try:
        with zipfile.ZipFile(file, "a") as archive:
            part = io.BytesIO()
            np.save(part, np.frombuffer(meta, np.uint8))
            archive.writestr(zipfile.ZipInfo("meta.npy"), part.getvalue())
    # The archive is damaged, and so is the state.
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error):
        pass
    content = file.getvalue()
    line = f"cnnforge-state {1 + choice % 2} {hashlib.sha256(content).hexdigest()}\n".encode()
    states = folder / "last"
    states.mkdir(exist_ok=True)
    (states / "state-00002-0000001.ckpt").write_bytes(line + content if choice % 9 else body)
    state, warnings = StateStore(states).load()
    if state is None:
        # Training begins from the start, after these warnings.
        raise RunError(" ".join(warnings))
    stored_identity(state)
    json.dumps([row.as_dict() for row in state.history])
    state.digest()


def _plan_seeds() -> list[Files]:
    seeds = []
    for path in sorted(_SEEDS.glob("plan-*.json")):
        found = json.loads(path.read_text())
        rng, file = np.random.default_rng(0), io.BytesIO()
        np.savez(file, **{
            name: rng.random(shape).astype(kind) if kind == "float32" else np.zeros(shape, kind)
            for name, (kind, *shape) in found["arrays"].items()
        })  # fmt: skip
        seeds.append(
            {"program.json": json.dumps(found["program"]).encode(), "arrays.npz": file.getvalue()}
        )
    return seeds


def _read_plan(folder: Path, choice: int) -> Plan:
    """Give the spoiled parts of a plan the right checksum, and open it."""
    from cnnforge_kernels.plan.files import _digest

    arrays: dict[str, Any] = {}
    try:
        with np.load(folder / "arrays.npz") as archive:
            arrays = {name: archive[name] for name in archive.files}
        text = (folder / "program.json").read_text("utf-8")
        with open(folder / "plan.npz", "wb") as file:
            np.savez(file, program=np.array(text), sha256=np.array(_digest(text, arrays)), **arrays)
    # What cannot be packed is read as it is.
    except Exception:
        source = folder / ("arrays.npz" if choice % 2 else "program.json")
        (folder / "plan.npz").write_bytes(source.read_bytes() if source.exists() else b"")
    try:
        return open_plan(folder / "plan.npz")
    except (ValueError, OSError) as error:
        # `find_plan` shows the message, and Keras predicts.
        raise UsageError(" ".join(str(error).split()) or "no message") from error


def _run_plan(folder: Path, choice: int) -> None:
    plan = _read_plan(folder, choice)
    plan_outputs(plan, np.zeros((1, *plan.image_shape), np.uint8))


def _record_seeds() -> list[Files]:
    record = {
        "model": "ab" * 32, "versions": {"builtin/numba": "0.2.0"}, "engine": "builtin/numba", "plan": "cd" * 32,
        "refused": "", "outputs": 3, "drift": 1e-7, "format": 1,
    }  # fmt: skip
    refused = {**record, "engine": "", "plan": "", "refused": "a layer"}
    common = {
        "config.toml": config(),
        "plugins.json": b"[]",
        "model.keras": b"x",
        "plan.npz": b"PK",
    }
    return [{**common, "plan.json": json.dumps(each).encode()} for each in (record, refused)]


def _read_record(folder: Path, choice: int) -> None:
    """Let the record belong to the model and to the plan, and look for the plan."""
    path, run = folder / "plan.json", RunDirectory(folder)
    with_digests = path.read_bytes() if path.exists() else b""
    for old, name in (("ab", "model.keras"), ("cd", "plan.npz")):
        content = (folder / name).read_bytes() if (folder / name).exists() else b""
        with_digests = with_digests.replace(
            old.encode() * 32, hashlib.sha256(content).hexdigest().encode()
        )
    path.write_bytes(with_digests)
    task: Any = SimpleNamespace(output_size=len(CLASSES))
    find_plan(run, task, plugins())


Tensor = tuple[str, str, int, Sequence[int], Sequence[int], str, int]
"""Name, key of the storage, offset, shape, strides, and kind and length of the storage."""


def checkpoint(
    tensors: Sequence[Tensor], storages: Mapping[str, np.ndarray], system: object
) -> bytes:
    """Return a checkpoint in the form of PyTorch, written without it: names and ids by hand."""
    import pickle

    def text(value: str) -> bytes:
        return b"V" + value.replace("\\", "\\u005c").encode("raw-unicode-escape") + b"\n"

    body = b"\x80\x02ccollections\nOrderedDict\n)R("
    for name, key, offset, shape, strides, kind, size in tensors:
        body += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        body += b"Vstorage\nctorch\n" + kind.encode() + b"\n" + text(key) + b"Vcpu\n"
        body += b"I%d\nNtQI%d\n" % (size, offset)
        for each in (shape, strides):
            body += b"(" + b"".join(b"I%d\n" % n for n in each) + b"t"
        body += b"I00\nccollections\nOrderedDict\n)RtR"
    body += b"u."
    content = b"".join(pickle.dumps(each, 2) for each in (_MAGIC, _FORMAT, system))
    content += body + pickle.dumps(list(storages), 2)
    for array in storages.values():
        content += len(array).to_bytes(8, "little") + array.tobytes()
    return content


def _checkpoint_seeds() -> list[Files]:
    tensors = [
        ("a.weight", "1", 0, (2, 3), (3, 1), "FloatStorage", 6),
        ("b", "2", 0, (4,), (1,), "LongStorage", 4),
    ]
    storages = {"1": np.zeros(6, "<f4"), "2": np.zeros(4, "<i8")}
    return [{"model.pth": checkpoint(tensors, storages, {"little_endian": True, "type_sizes": {}})}]


def _read_checkpoint(folder: Path, choice: int) -> None:
    read_checkpoint(folder / "model.pth")


def _picture_seeds() -> list[Files]:
    forms = (".png", ".jpeg", ".webp", ".bmp", ".gif")
    found = [each for seed in _image_seeds() for each in seed.items() if each[0].endswith(forms)]
    return [{f"picture{Path(name).suffix}": content} for name, content in found]


def _read_picture(folder: Path, choice: int) -> None:
    from cnnforge.serving.limits import Limits, Refused
    from cnnforge.serving.pictures import decode

    (path,) = folder.glob("picture.*")
    try:
        decode(path.read_bytes(), (6, 6, 1 + choice % 2 * 2), "stretch", Limits())
    except Refused as error:
        raise UsageError(str(error)) from error


TARGETS = [
    Target("guard", "`.keras` files, before Keras reads them", _model_seeds, _read_guard),
    Target("weights", "`.weights.h5` files", _weights_seeds, _read_weights),
    Target("learned", "the detectors in a model for `filter`", lambda: [
        {"config.toml": config(), **_model_seeds()[0]}], _read_learned, fixed=["config.toml"]),
    Target("state", "training states with the right checksum", _state_seeds, _read_state),
    Target("plan", "inference plans with the right checksum", _plan_seeds, _read_plan),
    # A prediction compiles the kernels that it needs.
    Target("plan-run", "predictions of such plans", _plan_seeds, _run_plan, kind="compiled", seconds=60),
    Target("plan-record", "`plan.json`", _record_seeds, _read_record,
           fixed=["config.toml", "model.keras", "plan.npz"]),
    Target("checkpoint", "checkpoints of PyTorch", _checkpoint_seeds, _read_checkpoint,
           refuses=(ValueError, OSError)),
    Target("picture", "pictures sent to `serve`", _picture_seeds, _read_picture),
    Target("keras", "`.keras` files that Keras opens", _model_seeds, _read_keras, kind="keras"),
]  # fmt: skip

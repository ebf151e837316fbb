"""Make harmless attack files: each would write a marker file, read a file, or fill the memory."""

import io
import json
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

layers = keras.layers
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def small_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, activation="relu", name="first"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )


def attacks(folder: Path, marker: Path) -> Iterator[Path]:
    """Write the attack files into a folder, and yield their paths.

    Args:
        folder: An existing folder.
        marker: File that a file with code would write.
    """
    good = folder / "good.keras"
    small_model().save(good)
    secret = folder / "secret.txt"
    secret.write_text("secret\n", encoding="utf-8")
    code = f"open({str(marker)!r}, 'w')"
    for name, change in _config_attacks(marker, secret, code).items():
        config = json.loads(zipfile.ZipFile(good).read(CONFIG))
        yield _packed(folder / f"{name}.keras", good, {CONFIG: json.dumps(change(config)).encode()})
    for name, change in _weight_attacks(secret).items():
        content = io.BytesIO(zipfile.ZipFile(good).read(WEIGHTS))
        with h5py.File(content, "r+") as file:
            change(file)
        yield _packed(folder / f"{name}.keras", good, {WEIGHTS: content.getvalue()})
    yield from _file_attacks(folder, good, marker, code)


def _config_attacks(
    marker: Path, secret: Path, code: str
) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    run = eval(f"lambda inputs: {code} and inputs")
    dumped = keras.saving.serialize_keras_object(layers.Lambda(run))["config"]["function"]

    def layer(
        module: str | None, name: str, registered: str | None = None, /, **config: Any
    ) -> Any:
        item = {"module": module, "class_name": name, "config": config}
        return {**item, "registered_name": registered}

    def adding(item: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(config: dict[str, Any]) -> dict[str, Any]:
            config["config"]["layers"].append(item)
            return config

        return change

    def initializing(item: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(config: dict[str, Any]) -> dict[str, Any]:
            config["config"]["layers"][1]["config"]["kernel_initializer"] = item
            return config

        return change

    def function_of(module: str | None, name: str) -> dict[str, Any]:
        value = {"module": module, "class_name": "function", "config": name}
        return {**value, "registered_name": name}

    hidden = layer("keras.layers", "Lambda", function=dumped, arguments={})
    return {
        "lambda": adding(hidden),
        "lambda_without_module": adding(layer(None, "Lambda", function=dumped)),
        "lambda_of_another_name": adding(layer("keras.layers", "Lambda", "Dense", function=dumped)),
        "lambda_inside": adding(layer("keras.layers", "TimeDistributed", layer=hidden)),
        "lambda_as_initializer": initializing(dumped),
        "lambda_by_path": adding(layer("keras.src.layers.core.lambda_layer", "Lambda")),
        "lambda_in_compiled_part": lambda config: {
            **config,
            "config": {
                **config["config"],
                "layers": [
                    *config["config"]["layers"],
                    {**layer("keras", "Sequential", layers=[]), "compile_config": {"loss": dumped}},
                ],
            },
        },
        "os_system": initializing(function_of("os", "system")),
        "exec": initializing(function_of("builtins", "exec")),
        "eval_class": initializing({**layer("builtins", "eval"), "config": {"source": code}}),
        "get_file": initializing(layer("keras.utils", "get_file", fname="a", origin="file:///a")),
        "get_file_function": initializing(function_of("keras.utils", "get_file")),
        "load_model": initializing(function_of("keras.saving", "load_model")),
        "string_lookup": adding(layer("keras.layers", "StringLookup", vocabulary=str(secret))),
        "vectorization": adding(layer("keras.layers", "TextVectorization", vocabulary=str(secret))),
        "saved_model": adding(layer("keras.layers", "TFSMLayer", filepath=str(secret.parent))),
        "torch_module": adding(layer("keras.layers", "TorchModuleWrapper", module="x")),
        "typespec": initializing(
            {"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}
        ),
        "module_here": adding(layer("cnnforge_attack_module", "Layer", "Layer")),
        "plugin_here": adding(layer("cnnforge_attack_module", "Layer", "cnnforge_attack>Layer")),
        "keras_hub": adding(layer("keras_hub.layers", "Layer", "Layer")),
        "name_is_a_list": adding({"class_name": ["Lambda"], "config": {}}),
        "large_config": lambda config: {**config, "text": "a" * 300_000_000},
    }


def _weight_attacks(secret: Path) -> dict[str, Callable[[h5py.File], object]]:
    def external(file: h5py.File) -> None:
        file.create_dataset("x", (4,), "u1", external=[(str(secret), 0, 4)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "u1")
        layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
        file.create_virtual_dataset("x", layout)

    def link(file: h5py.File) -> None:
        file["x"] = h5py.ExternalLink(str(secret), "/")

    def soft(file: h5py.File) -> None:
        file["x"] = h5py.SoftLink("/layers")

    def circle(file: h5py.File) -> None:
        file["layers/x"] = file["layers"]

    def objects(file: h5py.File) -> None:
        file.create_dataset("x", data=np.array([b"a", b"bc"], object), dtype=h5py.string_dtype())

    def references(file: h5py.File) -> None:
        file.create_dataset("x", (2,), h5py.ref_dtype)

    def kind(file: h5py.File) -> None:
        file["x"] = np.dtype("f4")

    def unfilled(file: h5py.File) -> None:
        file.create_dataset("x", (1 << 40,), "f4")

    def compressed(file: h5py.File) -> None:
        item = file.create_dataset("x", (1 << 30,), "f4", chunks=(1 << 24,), compression="gzip")
        chunk = zlib.compress(bytes(1 << 26), 9)
        for place in range(8):
            item.id.write_direct_chunk((place << 24,), chunk)

    return {
        "external": external,
        "virtual": virtual,
        "link": link,
        "soft_link": soft,
        "circle": circle,
        "objects": objects,
        "references": references,
        "kind": kind,
        "unfilled": unfilled,
        "hdf5_bomb": compressed,
    }


class _Marked:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def _file_attacks(folder: Path, good: Path, marker: Path, code: str) -> Iterator[Path]:
    pickled = pickle.dumps(np.array([_Marked(code)], object))
    arrays = io.BytesIO()
    np.savez(arrays, x=np.array([_Marked(code)], object))
    yield _packed(folder / "npz.keras", good, {"model.weights.npz": arrays.getvalue()}, (WEIGHTS,))
    yield _packed(folder / "assets.keras", good, {"assets/vocabulary.txt": b"a"})
    yield _packed(folder / "outside.keras", good, {f"../{marker.name}": b"a"})
    yield _packed(folder / "twice.keras", good, {"metadata.json ": b"{}"}, rename="metadata.json")
    yield _packed(folder / "no_weights.keras", good, {}, (WEIGHTS,))
    yield _packed(folder / "deep.keras", good, {CONFIG: b"[" * 200_000})
    yield _packed(folder / "list.keras", good, {CONFIG: b"[1]"})
    yield _packed(folder / "zeros.keras", good, {WEIGHTS: bytes(200_000_000)})
    yield _packed(folder / "no_hdf5.keras", good, {WEIGHTS: pickled})
    bad = folder / "bad_hash.keras"
    content = bytearray(good.read_bytes())
    start = content.index(b'"class_name"')
    content[start + 1] ^= 1
    bad.write_bytes(content)
    yield bad
    (folder / "pickle.keras").write_bytes(pickled)
    yield folder / "pickle.keras"
    unpacked = folder / "folder.keras"
    with zipfile.ZipFile(good) as archive:
        archive.extractall(unpacked)
    yield unpacked
    shutil.copy(folder / "objects.keras", folder / "again.keras")
    yield folder / "again.keras"


def _packed(
    path: Path,
    good: Path,
    members: dict[str, bytes],
    without: tuple[str, ...] = (),
    rename: str = "",
) -> Path:
    """Write a copy of a `.keras` file with other members, compressed."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in members and name not in without:
                new.writestr(name, old.read(name))
        for name, content in members.items():
            new.writestr(name, content)
    if rename:
        # zipfile warns of two members of one name, so change the name in the file.
        path.write_bytes(path.read_bytes().replace(f"{rename} ".encode(), rename.encode() + b"\0"))
    return path

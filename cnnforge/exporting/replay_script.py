"""Run an exported model on images, in a process of its own: FORMAT MODEL IMAGES OUTPUTS.

This script imports nothing of cnnforge. It runs with `python -I`, and cnnforge cannot be imported,
so a model that needs a layer of cnnforge or of a plugin fails here. IMAGES is an array (N, H, W, C)
uint8 in a .npy file. The outputs are written to OUTPUTS, an .npz file with a (N, ...) array for
each. A line of JSON on stdout has the seconds of opening and of predicting.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

BATCH = 32


def hide(names: list[str]) -> None:
    """Make every import of some modules fail, wherever they are installed."""
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(names))


def flat(value: Any, name: str = "output") -> Iterator[tuple[str, Any]]:
    """Yield the name and the array of each output in a structure."""
    import numpy as np

    if isinstance(value, dict):
        for key in sorted(value):
            yield from flat(value[key], key)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from flat(part, f"{name}_{number}")
    else:
        yield name, np.asarray(value)


def open_keras(path: str) -> Callable[[Any], Any]:
    """Open a .keras file."""
    import keras

    model: Any = keras.saving.load_model(path, compile=False)
    return lambda images: keras.tree.map_structure(
        keras.ops.convert_to_numpy, model(images, training=False)
    )


def open_savedmodel(path: str) -> Callable[[Any], Any]:
    """Open the folder of a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def predict(images: Any) -> Any:
        # The signature alone would not keep the variables.
        serve = loaded.signatures["serving_default"]
        (name,) = serve.structured_input_signature[1]
        return serve(**{name: tf.constant(images)})

    return predict


def open_onnx(path: str) -> Callable[[Any], Any]:
    """Open an ONNX file."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    names = [each.name for each in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {image.name: images}), strict=True))


def open_litert(path: str) -> Callable[[Any], Any]:
    """Open a .tflite file."""
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(model_path=path)
    runner = interpreter.get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    return lambda images: runner(**{name: images})


def open_plan(path: str) -> Callable[[Any], Any]:
    """Open an inference plan."""
    plan = import_module("cnnforge_kernels.plan")
    return plan.Plan(plan.read(path)).predict


OPENERS = {
    "keras": open_keras,
    "savedmodel": open_savedmodel,
    "onnx": open_onnx,
    "litert": open_litert,
    "plan": open_plan,
}


def main(kind: str, model: str, given: str, results: str) -> None:
    """Predict all images, and write the outputs."""
    hidden = ["cnnforge", "cnnforge_plugins"]
    # The kernels run a plan, and nothing else may.
    hidden += ["keras", "tensorflow"] if kind == "plan" else ["cnnforge_kernels"]
    hide(hidden)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np

    images = np.load(given)
    begin = time.perf_counter()
    predict = OPENERS[kind](model)
    # The first call may compile or allocate.
    predict(images[:BATCH].astype(np.float32))
    opened = time.perf_counter()
    parts = [
        dict(flat(predict(images[first : first + BATCH].astype(np.float32))))
        for first in range(0, len(images), BATCH)
    ]
    seconds = time.perf_counter() - opened
    arrays: dict[str, Any] = {
        name: np.concatenate([each[name] for each in parts]) for name in parts[0]
    }
    np.savez(results, **arrays)
    print(json.dumps({"open": opened - begin, "predict": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])

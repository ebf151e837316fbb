"""Run an exported model on images, in a process of its own: FORMAT MODEL IMAGES OUTPUTS.

This script imports nothing of cnnforge. It runs with `python -I`, and cnnforge cannot be imported,
so a model that needs a layer of cnnforge or of a plugin fails here. IMAGES is an array (N, H, W, C)
uint8 in a .npy file. The outputs are written to OUTPUTS, an .npz file with a (N, ...) array for
each. A line of JSON on stdout has the seconds, and the versions of the packages.
"""

import json
import os
import sys
import time

FORMAT, MODEL, IMAGES, OUTPUTS = sys.argv[1:]
BATCH = 32
HIDDEN = ["cnnforge", "cnnforge_plugins"]
# The kernels run a plan, and nothing else may.
HIDDEN += ["keras", "tensorflow"] if FORMAT == "plan" else ["cnnforge_kernels"]
# An import of a module that is None fails, wherever it is installed.
sys.modules.update(dict.fromkeys(HIDDEN))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402


def flat(value, name="output"):
    """Yield the name and the array of each output in a structure."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from flat(value[key], key)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from flat(part, f"{name}_{number}")
    else:
        yield name, np.asarray(value)


def open_keras():
    """Open a .keras file."""
    import keras

    model = keras.saving.load_model(MODEL, compile=False)
    return lambda images: keras.tree.map_structure(
        keras.ops.convert_to_numpy, model(images, training=False)
    )


def open_savedmodel():
    """Open the folder of a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(MODEL)
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    # `loaded` is kept, because the signature does not hold the variables.
    return lambda images: serve(**{name: tf.constant(images)}) if loaded else None


def open_onnx():
    """Open an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    names = [each.name for each in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {image.name: images}), strict=True))


def open_litert():
    """Open a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=MODEL)
    runner = interpreter.get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    return lambda images: runner(**{name: images})


def open_plan():
    """Open an inference plan."""
    from cnnforge_kernels.plan import Plan, read

    return Plan(read(MODEL)).predict


def main():
    """Predict all images, and write the outputs."""
    images = np.load(IMAGES)
    begin = time.perf_counter()
    predict = globals()[f"open_{FORMAT}"]()
    # The first call may compile or allocate.
    dict(flat(predict(images[:BATCH].astype(np.float32))))
    opened = time.perf_counter()
    parts = [
        dict(flat(predict(images[first : first + BATCH].astype(np.float32))))
        for first in range(0, len(images), BATCH)
    ]
    seconds = time.perf_counter() - opened
    np.savez(OUTPUTS, **{name: np.concatenate([each[name] for each in parts]) for name in parts[0]})
    loaded = [name for name in HIDDEN if sys.modules.get(name) is not None]
    print(json.dumps({"open": opened - begin, "predict": seconds, "loaded": loaded}))


main()

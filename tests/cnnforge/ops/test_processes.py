"""Tests in new processes: disk cache, saved graphs, the environment, Numba's thread layers."""

import numpy as np
import pytest

COUNT_COMPILATIONS = """
import sys
import numpy as np
import numba.core.event as event
compiled = []
class Listener(event.Listener):
    def on_start(self, received):
        compiled.append(received.data["dispatcher"].py_func.__name__)
    def on_end(self, received):
        pass
event.register("numba:compile", Listener())
import tensorflow as tf
import toy_ops
inputs, factor = tf.ones((2, 3, 4)), tf.ones(4)
with tf.GradientTape() as tape:
    tape.watch([inputs, factor])
    outputs, mask = toy_ops.toy_op(inputs, factor)
gradients = tape.gradient(outputs, [inputs, factor])
total = toy_ops.total_op(tf.ones((2, 2)))
assert float(total) == 4 and gradients[1].shape == 4
from cnnforge.ops.tensorflow.compute import compute
print(compute.cache_hits, *compiled)
"""


def test_a_second_process_compiles_nothing(run_python, tmp_path):
    first = run_python(COUNT_COMPILATIONS, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert {"toy", "toy_backward_inputs", "toy_shape", "total"} <= set(first)
    second = run_python(COUNT_COMPILATIONS, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert second == ["1"]


EXPORT = """
import sys
import numpy as np
import tensorflow as tf
import keras, toy_ops
keras.utils.set_random_seed(0)
model = toy_ops.make_model()
inputs = np.arange(24, dtype=np.float32).reshape(2, 4, 3) / 24
model.export(sys.argv[1] + "/exported", verbose=False)
np.save(sys.argv[1] + "/outputs.npy", model.predict(inputs, verbose=0))

class Step(tf.Module):
    def __init__(self):
        self.factor = tf.Variable([1.0, 2.0, 3.0])
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 3])])
    def loss(self, inputs):
        return tf.reduce_sum(toy_ops.toy_op(inputs, self.factor)[0] ** 2)
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 3])])
    def gradient(self, inputs):
        with tf.GradientTape() as tape:
            loss = self.loss(inputs)
        return tape.gradient(loss, self.factor)
step = Step()
np.save(sys.argv[1] + "/gradient.npy", step.gradient(inputs))
tf.saved_model.save(step, sys.argv[1] + "/step",
    options=tf.saved_model.SaveOptions(experimental_custom_gradients=False))
"""

LOAD = """
import sys
import numpy as np
import tensorflow as tf
import cnnforge.ops, toy_ops
cnnforge.ops.register()
inputs = np.arange(24, dtype=np.float32).reshape(2, 4, 3) / 24
loaded = tf.saved_model.load(sys.argv[1] + "/exported")
np.testing.assert_allclose(loaded.serve(inputs), np.load(sys.argv[1] + "/outputs.npy"), rtol=1e-6)
step = tf.saved_model.load(sys.argv[1] + "/step")
expected = np.load(sys.argv[1] + "/gradient.npy")
np.testing.assert_allclose(step.gradient(tf.constant(inputs)), expected, rtol=1e-6)
with tf.GradientTape() as tape:
    loss = step.loss(tf.constant(inputs))
np.testing.assert_allclose(tape.gradient(loss, step.factor), expected, rtol=1e-6)
print("loaded")
"""


def test_a_saved_graph_runs_in_a_new_process(run_python, tmp_path):
    run_python(EXPORT, tmp_path)
    assert "loaded" in run_python(LOAD, tmp_path)


PREPARE_SAVED = """
import sys
import numba, numpy as np, tensorflow as tf
import cnnforge.ops
calls = []
@numba.njit
def same(inputs, outputs):
    outputs[:] = inputs
op = cnnforge.ops.ArrayOp("same", forward=same, inputs={"inputs": 2}, outputs={"outputs": 2},
    output_shapes=lambda inputs: inputs, attributes={"k": 1},
    prepare=lambda inputs, k: calls.append((inputs, k)))
if sys.argv[2] == "save":
    module = tf.Module()
    module.run = tf.function(lambda x: op(x, k=7), input_signature=[tf.TensorSpec([None, 3])])
    module.run(tf.ones((1, 3)))
    tf.saved_model.save(module, sys.argv[1])
else:
    cnnforge.ops.register()
    tf.saved_model.load(sys.argv[1]).run(tf.ones((1, 3)))
print(calls)
"""


@pytest.mark.slow
def test_prepare_is_called_for_a_loaded_graph(run_python, tmp_path):
    saved = run_python(PREPARE_SAVED, tmp_path, "save")
    assert run_python(PREPARE_SAVED, tmp_path, "load") == saved == "[((None, 3), 7)]\n"


FORCED = """
import warnings
warnings.simplefilter("always")
import tensorflow as tf
import cnnforge.ops, toy_ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        toy_ops.toy_op(tf.ones((1, 1, 2)), tf.ones(2))
print(len([item for item in caught if "numpy_function" in str(item.message)]))
print(cnnforge.ops.route())
"""


def test_the_environment_forces_the_fallback(run_python):
    count, route = run_python(FORCED, CNNFORGE_TENSORFLOW_ROUTE="numpy_function").splitlines()
    assert count == "1"
    assert route == "tensorflow: tf.numpy_function (CNNFORGE_TENSORFLOW_ROUTE=numpy_function)"


PARALLEL = """
import threading
import numba, tensorflow as tf
import toy_ops
@tf.function
def compute(inputs):
    return tf.add_n([toy_ops.total_op(inputs + float(i)) for i in range(8)])
expected = float(compute(tf.ones((64, 64))))
def work():
    for _ in range(100):
        assert float(compute(tf.ones((64, 64)))) == expected
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(numba.threading_layer(), expected)
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_parallel_functions_under_every_thread_layer(run_python, layer):
    printed = run_python(PARALLEL, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2").split()
    assert printed == [layer, str(64 * 64 * float(np.arange(1, 9).sum()))]

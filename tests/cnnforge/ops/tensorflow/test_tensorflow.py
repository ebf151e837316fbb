"""Tests of ops under TensorFlow by both routes: eager, graphs, gradients, Keras."""

import resource
import threading

import keras
import numba
import numpy as np
import pytest
import tensorflow as tf

import cnnforge.ops
from cnnforge.ops import ArrayOp
from cnnforge.ops import tensorflow as route_module
from cnnforge.ops.tensorflow import numpy_function, registration

ROUTES = ["c_api", "numpy_function"]


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    module = {"c_api": registration, "numpy_function": numpy_function}[request.param]
    choice = route_module._Choice(module, request.param, "the test asks for it")
    monkeypatch.setattr(route_module, "_choice", choice)
    return request.param


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return random.standard_normal((2, 3, 4), np.float32), random.standard_normal(4, np.float32)


def value_and_gradients(op, **keywords):
    def compute(inputs, factor, weights):
        with tf.GradientTape() as tape:
            tape.watch([inputs, factor])
            outputs, mask = op(inputs, factor, **keywords)
            loss = tf.reduce_sum(outputs * weights)
        return outputs, mask, *tape.gradient(loss, [inputs, factor])

    return compute


@pytest.mark.parametrize(
    "keywords", [{}, {"flip": True, "bias": 0.1, "shift": (3, 2), "repeat": 3}]
)
def test_eager_graph_and_numpy_agree(toy, route, arrays, keywords):
    outputs, mask = toy.toy_op.run(*arrays, **keywords)
    weights = np.random.default_rng(1).standard_normal(outputs.shape, np.float32)
    gradients = toy.toy_op.run_backward(arrays, (outputs, mask), (weights, None), **keywords)
    compute = value_and_gradients(toy.toy_op, **keywords)
    tensors = [tf.constant(array) for array in (*arrays, weights)]
    nested = tf.function(tf.function(compute))
    unknown = [tf.TensorSpec([None] * 3), tf.TensorSpec([None]), tf.TensorSpec([None] * 3)]
    no_rank = [tf.TensorSpec(None)] * 3
    for function in (
        compute,
        tf.function(compute),
        nested,
        tf.function(compute, input_signature=unknown),
        tf.function(compute, input_signature=no_rank),
    ):
        found = function(*tensors)
        for expected, tensor in zip((outputs, mask, *gradients), found, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), expected)


def test_static_shapes(toy, route):
    @tf.function(input_signature=[tf.TensorSpec([None, 3, 4]), tf.TensorSpec([None])])
    def compute(inputs, factor):
        with tf.GradientTape() as tape:
            tape.watch([inputs, factor])
            outputs, mask = toy.toy_op(inputs, factor)
        gradients = tape.gradient(outputs, [inputs, factor])
        shapes.extend(tuple(t.shape) for t in (outputs, mask, *gradients))
        return outputs

    shapes = []
    compute.get_concrete_function()
    assert shapes[-4:] == [(None, 6, 4), (None, 6, 4), (None, 3, 4), (None,)]


def test_persistent_tape(toy, route, arrays):
    inputs, factor = (tf.constant(array) for array in arrays)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([inputs, factor])
        outputs, _ = toy.toy_op(inputs, factor)
        doubled = 2 * outputs
    first, second = tape.gradient(outputs, factor), tape.gradient(doubled, factor)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
    assert tape.gradient(doubled, inputs).shape == inputs.shape


def test_while_loop_and_cond(toy, route, arrays):
    factor = tf.constant(arrays[1])

    def step(state):
        return toy.toy_op(state, factor, repeat=1)[0]

    # Without AutoGraph, which raises warnings under Python 3.13.
    @tf.function(autograph=False)
    def compute(inputs, steps):
        with tf.GradientTape() as tape:
            tape.watch(factor)
            _, state = tf.while_loop(
                lambda done, state: done < steps,
                lambda done, state: (done + 1, step(state)),
                [tf.constant(0), inputs],
            )
            state = tf.cond(tf.reduce_sum(state) < -1, lambda: step(state), lambda: state)
        return tape.gradient(state, factor)

    with tf.GradientTape() as tape:
        tape.watch(factor)
        state = tf.constant(arrays[0])
        for _ in range(3):
            state = step(state)
    expected = tape.gradient(state, factor)
    np.testing.assert_allclose(compute(tf.constant(arrays[0]), 3), expected, rtol=1e-6)


def test_variables_and_what_tensorflow_converts(toy, route, arrays):
    variable = keras.Variable(arrays[1])
    with tf.GradientTape() as tape:
        outputs, _ = toy.toy_op(arrays[0], variable)
    assert tape.gradient(outputs, variable.value).shape == (4,)


def test_an_output_that_nothing_depends_on(toy, route, arrays):
    inputs, factor = (tf.constant(array) for array in arrays)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        _, mask = toy.toy_op(inputs, factor)
        loss = tf.reduce_sum(tf.cast(mask, tf.float32))
    assert tape.gradient(loss, inputs) is None


def test_float64(toy, route, arrays):
    inputs, factor = (tf.constant(array, tf.float64) for array in arrays)
    outputs, _ = toy.toy_op_float64(inputs, factor)
    np.testing.assert_array_equal(
        outputs, toy.toy_op_float64.run(inputs.numpy(), factor.numpy())[0]
    )


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_tensors(toy, route, shape):
    compute = value_and_gradients(toy.toy_op)
    tensors = tf.zeros(shape), tf.ones(shape[2:]), tf.zeros((shape[0], 2 * shape[1], shape[2]))
    for function in (compute, tf.function(compute)):
        outputs, _, grad_inputs, grad_factor = function(*tensors)
        assert outputs.shape == tensors[2].shape
        assert grad_inputs.shape == shape
        assert grad_factor.numpy().tolist() == [0] * shape[2]


@pytest.mark.parametrize("graph", [False, True])
def test_the_error_of_a_function_names_op_and_reason(toy, route, graph):
    def compute(inputs):
        return toy.toy_op(inputs, tf.ones(2), repeat=-1)[0]

    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"'toy'.*raised ValueError.*repeat is negative:.*-1"
    ):
        (tf.function(compute) if graph else compute)(tf.ones((1, 0, 2)))


def test_a_shape_that_the_rule_rejects_at_run_time(toy, route):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None])])
    def compute(inputs):
        return toy.toy_op(inputs, tf.ones(2), repeat=-1)[0]

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"'toy'.*negative dimension"):
        compute(tf.ones((1, 2, 2)))


def test_a_shape_rule_that_raises_at_run_time(route):
    @numba.njit
    def forward(inputs, outputs):
        outputs[...] = inputs[0]

    def even(inputs):
        if inputs[0] % 2:
            raise ValueError("expected an even length")
        return ()

    op = ArrayOp(
        "only_even",
        forward=forward,
        inputs={"inputs": 1},
        outputs={"outputs": 0},
        output_shapes=even,
    )
    compute = tf.function(lambda inputs: op(inputs), input_signature=[tf.TensorSpec([None])])
    assert compute(tf.ones(2)) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"'only_even'.*an even length"):
        compute(tf.ones(3))
    with pytest.raises(ValueError, match="an even length"):
        op(tf.ones(3))


def test_a_rank_that_is_only_known_at_run_time(toy):
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def compute(inputs):
        return toy.toy_op(inputs, tf.ones(2))[0]

    assert compute(tf.ones((1, 1, 2))).shape == (1, 2, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"'inputs'.*expected 3"):
        compute(tf.ones((1, 2)))


@pytest.mark.parametrize(
    ("inputs", "keywords", "error", "named"),
    [
        (
            np.ones((1, 1, 2)),
            {},
            TypeError,
            r"float64, expected float32; .* keras\.ops",
        ),
        (np.ones((1, 1, 2), np.float16), {}, TypeError, "float16, expected float32"),
        (np.ones((1, 2), np.float32), {}, ValueError, "'inputs' has 2 dimensions, expected 3"),
        (np.ones((1, 1, 2), np.float32), {"nope": 1}, TypeError, "'nope'; there are bias, flip"),
        (np.ones((1, 1, 2), np.float32), {"flip": 2}, TypeError, "'flip' is 2"),
        (np.ones((1, 1, 2), np.float32), {"repeat": True}, TypeError, "'repeat' is True"),
    ],
)
def test_wrong_calls(toy, route, inputs, keywords, error, named):
    with pytest.raises(error, match=named):
        toy.toy_op(inputs, tf.ones(2), **keywords)


def test_second_order_gradients_are_refused(toy, route, arrays):
    factor = tf.constant(arrays[1])

    def compute():
        with tf.GradientTape() as outer:
            outer.watch(factor)
            with tf.GradientTape() as inner:
                inner.watch(factor)
                outputs, _ = toy.toy_op(arrays[0], factor)
                loss = tf.reduce_sum(outputs**2)
            first = tf.reduce_sum(inner.gradient(loss, factor))
        return outer.gradient(first, factor)

    for function in (compute, tf.function(compute)):
        with pytest.raises(NotImplementedError, match=r"'toy': gradients of gradients"):
            function()


def test_the_gradient_of_an_op_without_backward(toy, route):
    inputs = tf.ones((2, 2))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = toy.total_op(inputs)
    with pytest.raises(ValueError, match=r"'toy_total' has no backward function"):
        tape.gradient(total, inputs)


def test_fit_save_and_load(toy, route, tmp_path):
    keras.utils.set_random_seed(0)
    model = toy.make_model()
    random = np.random.default_rng(0)
    inputs = random.standard_normal((64, 4, 3), np.float32)
    targets = np.maximum(3 * inputs + 0.125, 0)[:, :2, 0]
    model.compile("adam", "mse")
    before = model.layers[0].get_weights()[0].copy()
    losses = model.fit(inputs, targets, epochs=4, batch_size=24, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.array_equal(before, model.layers[0].get_weights()[0])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), again.predict(inputs, verbose=0)
    )


def test_gradients_that_are_not_needed_are_pruned(toy, arrays):
    factor = tf.Variable(arrays[1])

    @tf.function
    def compute(inputs):
        with tf.GradientTape() as tape:
            outputs, _ = toy.toy_op(inputs, factor)
        return tape.gradient(outputs, factor)

    function = compute.get_concrete_function(tf.constant(arrays[0]))
    executed = _executed(function.function_def)
    assert "Cnnforge>ToyGradFactor" in executed
    assert "Cnnforge>ToyGradInputs" not in executed


def _executed(function):
    """Return the types of the nodes that the results of a function depend on."""
    nodes = {node.name: node for node in function.node_def}
    wanted = [
        value.split(":")[0] for value in (*function.ret.values(), *function.control_ret.values())
    ]
    found = set()
    while wanted:
        name = wanted.pop().lstrip("^")
        if name in nodes and name not in found:
            found.add(name)
            wanted += [value.split(":")[0] for value in nodes[name].input]
    return {nodes[name].op for name in found}


def make_counting_op(name, counts):
    """Return an op whose backward functions count their runs in `counts[0]` and `counts[1]`."""
    address = counts.ctypes.data

    @numba.njit
    def forward(inputs, factor, outputs):
        outputs[:] = inputs * factor

    @numba.njit
    def backward_inputs(grad_outputs, grad_inputs):
        numba.carray(_pointer(address), 2)[0] += 1
        grad_inputs[:] = grad_outputs

    @numba.njit
    def backward_factor(grad_outputs, grad_factor):
        numba.carray(_pointer(address), 2)[1] += 1
        grad_factor[:] = grad_outputs

    return ArrayOp(
        name,
        forward=forward,
        backward=(backward_inputs, backward_factor),
        inputs={"inputs": 1, "factor": 1},
        outputs={"outputs": 1},
        output_shapes=lambda inputs: inputs,
    )


@numba.extending.intrinsic
def _pointer(typingctx, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(
            context.cast(builder, arguments[0], signature.args[0], numba.types.intp),
            context.get_value_type(signature.return_type),
        )

    return numba.types.CPointer(numba.types.int64)(address), generate


@pytest.mark.parametrize("graph", [False, True])
def test_a_backward_function_that_is_not_needed_never_runs(route, graph):
    counts = np.zeros(2, np.int64)
    op = make_counting_op(f"counting_{route}_{graph}".lower(), counts)
    factor = tf.Variable([2.0, 3.0])

    def compute(inputs):
        with tf.GradientTape() as tape:
            outputs = op(inputs, factor)
        return tape.gradient(outputs, factor)

    compute = tf.function(compute) if graph else compute
    for _ in range(3):
        compute(tf.ones(2))
    expected = [3, 3] if route == "numpy_function" and not graph else [0, 3]
    assert counts.tolist() == expected


def test_many_ops_on_many_threads(toy):
    @tf.function
    def compute(inputs):
        parts = [toy.toy_op(inputs + float(i), tf.ones(4), shift=(0, 0))[0] for i in range(16)]
        totals = [toy.total_op(tf.reshape(part, (-1, 4))) for part in parts]
        return tf.add_n(parts)[0, 0, 0], tf.add_n(totals)

    results, inputs = set(), tf.ones((8, 16, 4))

    def work():
        for _ in range(40):
            results.add(tuple(float(value) for value in compute(inputs)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cells = 8 * 32 * 4
    assert results == {(16 * 8.5 + 16 * 0.125, cells * (16 * 8.5 + 16 * 0.125))}


def test_errors_on_many_threads(toy):
    """An error takes the GIL on threads of TensorFlow, which must not cause a deadlock."""

    @tf.function(reduce_retracing=True)
    def compute(inputs):
        return toy.toy_op(inputs, tf.ones(2), repeat=-1)[0]

    caught = []

    def work():
        for _ in range(25):
            try:
                compute(tf.ones((1, 0, 2)))
            except tf.errors.InvalidArgumentError as error:
                caught.append("repeat is negative" in str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caught == [True] * 100


@pytest.mark.parametrize("graph", [False, True])
def test_memory_does_not_grow(toy, graph):
    compute = value_and_gradients(toy.toy_op, repeat=1)
    compute = tf.function(compute) if graph else compute
    tensors = tf.ones((64, 64, 32)), tf.ones(32), tf.ones((64, 64, 32))

    def work(times):
        for _ in range(times):
            compute(*tensors)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = work(50)
    # Each call makes more than a MiB of tensors. The peak may grow by a few MiB, not by a thousand.
    assert work(1000) - before < 32 * 1024


def test_an_op_defined_again_replaces_the_old_one():
    def define(number, rank=1):
        @numba.njit
        def forward(inputs, outputs):
            outputs[:] = inputs + np.float32(number)

        return ArrayOp(
            "replaced",
            forward=forward,
            inputs={"inputs": rank},
            outputs={"outputs": rank},
            output_shapes=lambda inputs: inputs,
            attributes={"number": number},
        )

    if not cnnforge.ops.route().startswith("tensorflow: C API"):
        pytest.skip("the C API route is not available")
    assert define(1)(tf.zeros(1)).numpy().tolist() == [1]
    assert define(2)(tf.zeros(1)).numpy().tolist() == [2]
    assert define(3, rank=2)(tf.zeros((1, 1))).numpy().tolist() == [[3]]


def test_prepare_is_called_with_the_shapes_that_a_graph_knows():
    calls = []

    @numba.njit
    def forward(inputs, outputs):
        outputs[:] = inputs

    op = ArrayOp(
        "prepared_in_graph",
        forward=forward,
        inputs={"inputs": 2},
        outputs={"outputs": 2},
        output_shapes=lambda inputs: inputs,
        prepare=lambda inputs, gradient: calls.append((inputs, gradient)),
    )
    function = tf.function(lambda inputs: op(inputs), input_signature=[tf.TensorSpec([None, 3])])
    function(tf.ones((2, 3)))
    assert calls == [((None, 3), False)]
    op(tf.ones((5, 3)))
    assert calls[1:] == [((5, 3), False)]


def test_route_names_the_route(toy, route):
    name = {"c_api": "C API", "numpy_function": "tf.numpy_function"}[route]
    said, *card = cnnforge.ops.route().split("; GPU: ")
    assert said == f"tensorflow: {name} (the test asks for it)"
    assert len(card) == (route == "c_api")


def test_a_failing_self_test_leads_to_the_fallback(monkeypatch):
    from cnnforge.ops.tensorflow import self_test

    def fail(call):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(self_test, "run", fail)
    with pytest.warns(RuntimeWarning, match=r"tf\.numpy_function.*no such luck"):
        assert route_module._decide("auto").name == "numpy_function"
    with pytest.raises(RuntimeError, match="no such luck"):
        route_module._decide("c_api")
    with pytest.raises(ValueError, match="CNNFORGE_TENSORFLOW_ROUTE is 'nope'"):
        route_module._decide("nope")

"""Tests of ops under the torch backend (`make test-torch`): values, gradients, memory, devices."""

import importlib
import sys
import threading
from types import SimpleNamespace

import keras
import numba
import numpy as np
import pytest

import cnnforge.ops
from cnnforge.errors import UsageError
from cnnforge.ops import ArrayOp

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")
if keras.backend.backend() != "torch":
    pytest.skip("the Keras backend is another one: make test-torch", allow_module_level=True)

# These import torch.
route = importlib.import_module("cnnforge.ops.torch")
_torch_run = importlib.import_module("cnnforge.ops.torch.run")


def random(*shape, dtype=np.float32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


@numba.njit(cache=True)
def split(inputs, positive, negative):
    for index in range(inputs.size):
        positive[index] = max(inputs[index], 0)
        negative[index] = min(inputs[index], 0)


@numba.njit(cache=True)
def split_backward(inputs, grad_positive, grad_negative, grad_inputs):
    for index in range(inputs.size):
        source = grad_positive if inputs[index] > 0 else grad_negative
        grad_inputs[index] = source[index]


split_op = ArrayOp(
    "torch_split",
    forward=split,
    backward=split_backward,
    inputs={"inputs": 1},
    outputs={"positive": 1, "negative": 1},
    output_shapes=lambda inputs: (inputs, inputs),
)


@numba.njit(cache=True)
def shift(inputs, amount, outputs):
    for index in range(inputs.size):
        outputs[index] = inputs[index] + amount


@numba.njit(cache=True)
def shift_backward(grad_outputs, grad_inputs):
    for index in range(grad_outputs.size):
        grad_inputs[index] = grad_outputs[index]


def make_shift(name="torch_shift", **options):
    return ArrayOp(
        name,
        forward=shift,
        inputs={"inputs": 1},
        outputs={"outputs": 1},
        output_shapes=lambda inputs: inputs,
        attributes={"amount": 1.0},
        **options,
    )


shift_op = make_shift(backward=shift_backward)
shift_op_without_gradient = make_shift("torch_shift_without_gradient")


def test_the_route_is_named():
    assert cnnforge.ops.route() == f"torch: autograd.Function (torch {torch.__version__})"
    cnnforge.ops.register()


@pytest.mark.parametrize(
    "options",
    [{}, {"flip": True, "repeat": 3}, {"bias": -0.5, "shift": (-3, 1)}],
    ids=str,
)
def test_values(toy, options):
    inputs, factor = random(3, 4, 5), random(5, seed=1)
    outputs, mask = toy.toy_op(inputs, factor, **options)
    expected, expected_mask = toy.toy_oracle(inputs.numpy(), factor.numpy(), **options)
    np.testing.assert_allclose(outputs.numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(mask.numpy(), expected_mask)
    assert (outputs.dtype, mask.dtype) == (torch.float32, torch.uint8)


def test_what_keras_converts_is_taken(toy):
    inputs, factor = random(3, 4, 5), random(5, seed=1)
    expected = toy.toy_op(inputs, factor)[0]
    variable = keras.Variable(factor.numpy())
    torch.testing.assert_close(toy.toy_op(inputs.numpy(), variable)[0], expected, rtol=0, atol=0)
    assert toy.toy_op(inputs, variable)[0].requires_grad
    assert not toy.toy_op(inputs, factor)[0].requires_grad


@pytest.mark.parametrize("flip", [False, True])
def test_gradients_are_the_finite_differences(toy, flip):
    inputs = random(2, 3, 4, dtype=np.float64).requires_grad_()
    factor = random(4, dtype=np.float64, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: toy.toy_op_float64(a, b, flip=flip)[0], (inputs, factor)
    )


def test_integer_outputs_have_no_gradient(toy):
    outputs, mask = toy.toy_op(random(3, 4, 5).requires_grad_(), random(5))
    assert outputs.requires_grad
    assert not mask.requires_grad


@pytest.mark.parametrize("wanted", ["inputs", "factor"])
def test_only_the_gradients_that_are_needed_are_computed(toy, monkeypatch, wanted):
    ran = []
    run = _torch_run.Call.run

    def watched(call, step, known):
        ran.append(step.function.__name__)
        return run(call, step, known)

    monkeypatch.setattr(_torch_run.Call, "run", watched)
    tensors = {"inputs": random(3, 4, 5), "factor": random(5, seed=1)}
    tensors[wanted].requires_grad_()
    toy.toy_op(*tensors.values())[0].sum().backward()
    assert ran == ["toy", f"toy_backward_{wanted}"]


def test_the_gradient_of_an_output_that_nobody_uses_is_zero():
    inputs = random(20).requires_grad_()
    positive, _ = split_op(inputs)
    positive.sum().backward()
    np.testing.assert_array_equal(inputs.grad.numpy(), (inputs.detach().numpy() > 0) * 1.0)


def test_gradients_of_gradients_are_refused_when_they_are_asked_for(toy):
    inputs, factor = random(3, 4, 5).requires_grad_(), random(5).requires_grad_()
    outputs = toy.toy_op(inputs, factor)[0]
    first = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)[0]
    np.testing.assert_array_equal(
        first.detach(), torch.autograd.grad(toy.toy_op(inputs, factor)[0].sum(), inputs)[0]
    )
    with pytest.raises(NotImplementedError, match="'toy': gradients of gradients are not"):
        first.sum().backward()


# Warnings of modules that torch imports.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_forward_mode_is_refused():
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(random(4), random(4))
        with pytest.raises(NotImplementedError, match="forward mode"):
            shift_op(dual)


def test_an_op_without_backward_functions():
    inputs = random(4).requires_grad_()
    outputs = shift_op_without_gradient(inputs)
    with pytest.raises(ValueError, match="no backward function"):
        outputs.sum().backward()


# Layouts of tensors in memory.


def test_nothing_is_copied(monkeypatch):
    seen = []
    run = _torch_run.Call.run

    def watched(call, step, known):
        results = run(call, step, known)
        seen.append(({name: t.data_ptr() for name, t in known.items()}, results[0].data_ptr()))
        return results

    monkeypatch.setattr(_torch_run.Call, "run", watched)
    inputs = random(1000)
    outputs = shift_op(inputs)
    assert seen == [({"inputs": inputs.data_ptr()}, outputs.data_ptr())]


def test_views_and_expanded_gradients(toy):
    inputs = random(5, 4, 3)
    view = inputs.permute(2, 1, 0).requires_grad_()
    factors = random(5, seed=2)
    outputs = toy.toy_op(view, factors)[0]
    expected = toy.toy_oracle(inputs.numpy().T, factors.numpy())[0]
    np.testing.assert_allclose(outputs.detach(), expected, rtol=1e-6, atol=1e-6)
    # The gradient of a sum is an expanded number.
    outputs.sum().backward()
    copy = view.detach().contiguous().requires_grad_()
    (toy.toy_op(copy, factors)[0] * torch.ones(3, 8, 5)).sum().backward()
    np.testing.assert_array_equal(view.grad, copy.grad)


def test_every_second_element():
    inputs = random(20)
    np.testing.assert_array_equal(shift_op(inputs[::2]), inputs[::2].numpy() + 1)


def test_a_tensor_whose_sign_is_a_flag():
    inputs = torch.view_as_complex(random(4, 2)).conj().imag
    assert inputs.is_neg()
    np.testing.assert_array_equal(shift_op(inputs), inputs.resolve_neg().numpy() + 1)


def test_an_address_that_is_not_aligned():
    memory = np.zeros(4 * 5 + 1, np.uint8)[1:]
    inputs = torch.frombuffer(memory, dtype=torch.float32)
    assert inputs.data_ptr() % 4
    np.testing.assert_array_equal(shift_op(inputs), np.ones(5))


def test_no_elements(toy):
    inputs = torch.zeros(0, 4, 5, requires_grad=True)
    factor = torch.ones(5, requires_grad=True)
    outputs = toy.toy_op(inputs, factor)[0]
    assert outputs.shape == (0, 8, 5)
    outputs.sum().backward()
    assert inputs.grad.shape == (0, 4, 5)
    np.testing.assert_array_equal(factor.grad, np.zeros(5))


def test_what_backward_reads_must_not_change_in_between(toy):
    inputs, factor = random(3, 4, 5), random(5).requires_grad_()
    outputs = toy.toy_op(inputs, factor)[0]
    inputs += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()
    # The gradient of `factor` is not wanted, so no function reads the inputs again.
    inputs.requires_grad_()
    doubled = inputs * 2
    outputs = toy.toy_op(doubled, factor.detach())[0]
    doubled += 1
    outputs.sum().backward()


def test_meta_tensors_give_shapes(toy):
    inputs = torch.empty(3, 4, 5, device="meta", requires_grad=True)
    outputs, mask = toy.toy_op(inputs, torch.ones(5), repeat=3)
    assert (outputs.shape, outputs.device.type) == ((3, 12, 5), "meta")
    assert (mask.shape, mask.dtype) == ((3, 12, 5), torch.uint8)


# Models.


def test_a_layer_in_a_functional_model(toy, tmp_path):
    model = toy.make_model()
    assert model.output_shape == (None, 2)
    assert model.layers[0].output.shape == (None, 8, 3)
    model.compile("sgd", "mse")
    inputs = random(6, 4, 3).numpy()
    history = model.fit(inputs, np.ones((6, 2)), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    model.save(tmp_path / "toy.keras")
    again = keras.saving.load_model(tmp_path / "toy.keras")
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), again.predict(inputs, verbose=0)
    )


def test_under_torch_compile(toy):
    inputs, factor = random(3, 4, 5), random(5, seed=1)
    compiled = torch.compile(lambda a, b: toy.toy_op(2 * a, b)[0] + 1, backend="eager")
    expected = toy.toy_op(2 * inputs, factor)[0] + 1
    torch.testing.assert_close(compiled(inputs, factor), expected, rtol=0, atol=0)


def test_several_threads(toy):
    inputs, factor = random(64, 40, 16), random(16, seed=1)
    expected = toy.toy_op(inputs, factor)[0]
    wrong = []

    def work():
        for _ in range(50):
            if not torch.equal(toy.toy_op(inputs, factor)[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prepare_is_called_with_the_shapes():
    called = []

    def prepare(inputs, amount, gradient):
        called.append((inputs, amount, gradient))

    op = make_shift("torch_shift_prepared", backward=shift_backward, prepare=prepare)
    for _ in range(2):
        op(random(3).requires_grad_(), amount=2.0).sum().backward()
    assert called == [((3,), 2.0, False), ((3,), 2.0, True)]


# Bad input: the messages of the TensorFlow route.


def test_bad_input(toy):
    inputs, factor = random(3, 4, 5), random(5)
    with pytest.raises(TypeError, match="'inputs' has the dtype float64, expected float32; conv"):
        toy.toy_op(inputs.double(), factor)
    with pytest.raises(TypeError, match="'factor' has the dtype bfloat16, expected float32"):
        toy.toy_op(inputs, factor.bfloat16())
    with pytest.raises(ValueError, match="'inputs' has 2 dimensions, expected 3"):
        toy.toy_op(inputs[0], factor)
    with pytest.raises(ValueError, match="was called with 1 inputs, expected 2: inputs, factor"):
        toy.toy_op(inputs)
    with pytest.raises(ValueError, match=r"'inputs' is a KerasTensor.*in the call"):
        toy.toy_op(keras.Input((4, 5)), factor)
    with pytest.raises(TypeError, match="no attribute 'bais'"):
        toy.toy_op(inputs, factor, bais=1.0)


def test_an_exception_of_a_function_is_raised(toy):
    with pytest.raises(ValueError, match="negative dimension"):
        toy.toy_op(random(3, 4, 5), random(5), repeat=-1)

    @numba.njit
    def fails(inputs, outputs):
        if inputs[0] > 0:
            raise ValueError("positive:", inputs[0])
        outputs[:] = inputs

    op = ArrayOp(
        "torch_fails",
        forward=fails,
        inputs={"inputs": 1},
        outputs={"outputs": 1},
        output_shapes=lambda inputs: inputs,
    )
    with pytest.raises(ValueError, match="positive"):
        op(torch.ones(2))
    np.testing.assert_array_equal(op(-torch.ones(2)), [-1, -1])


def test_sparse_tensors_are_refused():
    with pytest.raises(RuntimeError):
        shift_op(torch.ones(4).to_sparse())


# Devices.


def on(device):
    return SimpleNamespace(device=torch.device(device), is_meta=False)


def test_two_devices(toy):
    with pytest.raises(ValueError, match=r"'inputs' is on cpu, 'factor' on cuda:1; expected one"):
        route._device(toy.toy_op, [on("cpu"), on("cuda:1")])


def test_a_device_without_an_implementation():
    assert route.runs_on(shift_op, "cpu")
    assert not route.runs_on(shift_op, "cuda:0")
    with pytest.raises(UsageError, match=r"no implementation for the device cuda:0.*KERAS_TORCH"):
        route._device(shift_op, [on("cuda:0")])


def cuda_shift(inputs, amount, outputs, stream, precision="float32"):
    torch.add(inputs, amount, out=outputs)


def cuda_shift_backward(grad_outputs, grad_inputs, stream):
    grad_inputs.copy_(grad_outputs)


@pytest.fixture
def on_cuda(monkeypatch):
    """Return ``make(shift, shift_backward)``: an op, and its functions in a module for CUDA."""

    def make(**functions):
        monkeypatch.setitem(sys.modules, "shift_on_cuda", SimpleNamespace(**functions))
        return make_shift("torch_shift_cuda", backward=shift_backward, cuda="shift_on_cuda")

    return make


def test_a_module_for_cuda_that_does_not_fit(on_cuda):
    with pytest.raises(ValueError, match=r"shift_on_cuda has no function 'shift_backward'"):
        _torch_run.cuda_functions(on_cuda(shift=cuda_shift))
    op = on_cuda(shift=cuda_shift_backward, shift_backward=cuda_shift_backward)
    with pytest.raises(ValueError, match=r"'shift': its function in shift_on_cuda has the param"):
        _torch_run.cuda_functions(op)


def test_functions_for_cuda_are_called_by_name_with_the_stream(on_cuda, monkeypatch):
    seen = []

    def forward(inputs, amount, outputs, stream):
        seen.append((amount, stream))
        cuda_shift(inputs, amount, outputs, stream)

    op = on_cuda(shift=forward, shift_backward=cuda_shift_backward)
    assert route.runs_on(op, "cuda:0")
    assert route._device(op, [on("cuda:0")]) == torch.device("cuda:0")
    entered = []

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            entered.append(self.device)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
    call = _torch_run.Call(op, {"amount": 2.0}, [(3,)], [(3,)], torch.device("cuda:1"))
    outputs = torch.full((3,), torch.nan)
    call._run_on_cuda(op.forward_step, {"inputs": torch.ones(3)}, [outputs])
    np.testing.assert_array_equal(outputs, [3, 3, 3])
    assert seen == [(2.0, 77)]
    assert entered == [torch.device("cuda:1")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_functions_for_cuda_on_a_device(on_cuda):
    op = on_cuda(shift=cuda_shift, shift_backward=cuda_shift_backward)
    inputs = torch.ones(5, device="cuda", requires_grad=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outputs = op(inputs, amount=2.0)
        outputs.sum().backward()
    stream.synchronize()
    assert outputs.device == inputs.device
    np.testing.assert_array_equal(outputs.detach().cpu(), np.full(5, 3))
    np.testing.assert_array_equal(inputs.grad.cpu(), np.ones(5))


def test_tensorflow_is_not_imported(run_python):
    source = """
import sys
import torch
import toy_ops
inputs = torch.ones(2, 3, 4, requires_grad=True)
toy_ops.toy_op(inputs, torch.ones(4))[0].sum().backward()
print("tensorflow" in sys.modules)
"""
    assert run_python(source, KERAS_BACKEND="torch") == "False\n"

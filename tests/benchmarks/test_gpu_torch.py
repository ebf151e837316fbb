"""Tests of the calls of PyTorch by bench_gpu.py, on the CPU: `make test-torch`."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from gpu import measure
from gpu.rows import ROWS

from cnnforge_kernels.cuda.codegen.jit import AVAILABLE
from cnnforge_kernels.cuda.runtime import driver

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")
if not AVAILABLE:
    pytest.skip("needs numba-cuda: pip install 'cnnforge[test]'", allow_module_level=True)

from gpu import torch_device, torch_epoch, torch_peer  # noqa: E402
from gpu.dry_run import DryRunDevice, shrunk  # noqa: E402

BY_KEY = {row.key: row for row in ROWS}


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(driver, "_driver", None)
    return DryRunDevice()


@pytest.mark.parametrize(
    ("key", "ways"),
    [
        ("seed2.convolution.forward", 2),
        ("seed2.convolution.grad_inputs", 2),
        ("seed1.convolution.grad_weights", 2),
        ("r64@256.convolution.forward.tf32", 2),
        ("r64@256.convolution.grad_weights.bfloat16", 2),
        ("depth.depthwise.forward", 2),
        ("depth.depthwise.grad_weights", 2),
        ("seed2.block.forward", 4),
        ("seed2@4096.block.full", 4),
        ("pool_seed2.max.backward", 2),
        ("pool_seed2.average.backward", 2),
    ],
)
def test_pytorch_computes_the_same(device, key, ways):
    row = shrunk(BY_KEY[key])
    found = measure.measure(row, device, device.ceilings(), rounds=3)
    assert found.verdict == "right"
    assert found.note == ""
    assert found.distance is not None
    assert found.distance < (1e-2 if "bfloat16" in key else 1e-5)
    assert found.peer is not None
    assert found.ratio == (1.0, 1.0, 1.0)
    assert len(torch_peer.variants(row, "eager")) == ways


def test_uneven_padding_is_not_compared(device):
    row = shrunk(BY_KEY["stem.convolution.forward"])
    assert torch_peer.padding(row) is None
    found = measure.measure(row, device, device.ceilings(), rounds=3)
    assert (found.verdict, found.distance, found.note) == ("right", None, "")
    assert found.peer is not None


def test_a_different_result_is_wrong(device, monkeypatch):
    real = torch_peer.distance
    monkeypatch.setattr(torch_peer, "distance", lambda *tensors: real(*tensors) + 0.5)
    row = shrunk(BY_KEY["seed2.convolution.forward"])
    found = measure.measure(row, device, device.ceilings(), rounds=3)
    assert found.verdict.startswith("WRONG: |ours - PyTorch| / |PyTorch| is 0.5")
    assert found.ours is None
    monkeypatch.setattr(torch_peer, "distance", lambda *tensors: float("nan"))
    assert "is inf" in measure.measure(row, device, device.ceilings(), rounds=3).verdict


def test_a_peer_that_fails_is_noted(device, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no algorithm\nfound")

    monkeypatch.setattr(torch_peer.torch, "compile", lambda *_, **__: refuse)
    found = measure.measure(shrunk(BY_KEY["seed2.block.forward"]), device, device.ceilings(), 3)
    assert found.verdict == "right"
    assert "compiled channels_last failed: RuntimeError: no algorithm found" in found.note
    assert found.peer_name == "channels_last"


def test_layouts(device):
    row = shrunk(BY_KEY["seed2.convolution.forward"])
    arrays = {"inputs": torch.zeros(row.inputs), "weights": torch.zeros(row.weights)}
    last, first = (variant.make(arrays).run() for variant in torch_peer.variants(row))
    assert last.shape == first.shape == (2, 16, 14, 14)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert first.is_contiguous()


def test_an_epoch_learns(device):
    """With the same initial weights as PyTorch, the first loss is the same."""
    found = torch_epoch.measure(device, "cpu", graphs=False, rounds=3, images=1024)
    assert found["ratio"] > 0
    assert len(found["lines"]) == 6
    torch.manual_seed(0)
    plain = torch_epoch.torch_training.LeNet((28, 28, 1), 10).eval()
    ours = torch_epoch.LeNet(device.run, plain).eval()
    images = torch.rand(3, 28, 28, 1)
    theirs = plain(images.permute(0, 3, 1, 2))
    # The flattened map has another order: pixels before channels.
    hidden = ours.dense.weight.detach().reshape(256, 16, 7, 7).permute(0, 2, 3, 1).reshape(256, -1)
    ours.dense = torch.nn.Linear(784, 256)
    ours.dense.weight = torch.nn.Parameter(hidden.contiguous())
    ours.dense.bias = plain.dense.bias
    torch.testing.assert_close(ours(images), theirs, rtol=1e-4, atol=1e-5)
    # The gradients are equal too, with another order of the weights.
    ours(images).square().sum().backward()
    ours_gradient = ours.conv1_weights.grad.permute(3, 2, 0, 1).clone()
    plain.zero_grad()
    plain(images.permute(0, 3, 1, 2)).square().sum().backward()
    torch.testing.assert_close(ours_gradient, plain.conv1.weight.grad, rtol=1e-3, atol=1e-5)


class Cuda:
    """Replaces ``torch.cuda`` and notes the order of calls."""

    def __init__(self):
        self.seen, self.now = [], 0.0

    def note(self, name):
        return lambda *_, **__: self.seen.append(name)

    def install(self, monkeypatch):
        cuda, fake = torch.cuda, self
        stream = SimpleNamespace(wait_stream=self.note("wait"), cuda_stream=77)

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = fake.now

            def synchronize(self):
                fake.seen.append("synchronized")

            def elapsed_time(self, other):
                return other.at - self.at

        class Graph:
            def replay(self):
                fake.seen.append("replay")
                fake.now += 2.0

        @contextlib.contextmanager
        def graph(made, stream, capture_error_mode):
            assert isinstance(made, Graph)
            assert capture_error_mode == "relaxed"
            fake.seen.append("capture")
            yield
            fake.seen.append("captured")

        for name, value in {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": graph,
            "Stream": lambda: stream,
            "stream": lambda _: contextlib.nullcontext(),
            "current_stream": lambda: stream,
            "synchronize": self.note("synchronize"),
        }.items():
            monkeypatch.setattr(cuda, name, value)


def test_graphs_and_events(monkeypatch):
    fake = Cuda()
    fake.install(monkeypatch)
    device = torch_device.TorchDevice.__new__(torch_device.TorchDevice)
    graph = device.repeated([fake.note("one"), fake.note("other")])
    assert fake.seen == [
        "wait",
        *["one", "other"] * 3,
        "synchronize",
        *("capture", "one", "other", "captured"),
        "synchronize",
    ]
    fake.seen.clear()
    # Milliseconds become seconds.
    assert device.seconds(graph, 3) == 6e-3
    assert fake.seen == ["replay"] * 3 + ["synchronized"]
    graph()
    assert fake.seen[-1] == "replay"
    fake.seen.clear()
    calls = device.called([fake.note("one"), fake.note("other")])
    calls()
    calls.repeat(2)
    assert fake.seen == ["synchronize", *["one", "other"] * 3]


def test_torch_has_the_arguments_of_captures():
    """The installed PyTorch has the arguments that are passed."""
    import inspect

    assert "capture_error_mode" in inspect.signature(torch.cuda.graph.__init__).parameters
    assert "stream" in inspect.signature(torch.cuda.graph.__init__).parameters
    assert "capturable" in inspect.signature(torch.optim.Adam.__init__).parameters


def test_buffers_are_larger_than_the_cache():
    device = torch_device.TorchDevice.__new__(torch_device.TorchDevice)
    device._properties = SimpleNamespace(L2_cache_size=60 << 20)
    row = BY_KEY["seed2.convolution.forward"]
    assert device.sets(row, 5 << 20) == 48
    assert device.sets(row, 1 << 10) == 64
    assert device.sets(row, 1 << 30) == 2


def test_arrays_of_the_device(monkeypatch):
    """All operations on tensors work with tensors of the CPU."""
    device = torch_device.TorchDevice.__new__(torch_device.TorchDevice)
    values = torch.arange(24.0).reshape(4, 3, 2)
    assert device.get(values, [0, 3]).shape == (2, 3, 2)
    copy = device.copy(values)
    assert device.same(copy, values)
    copy[0, 0, 0] = -0.0
    assert not device.same(copy, values)
    device.poison(copy)
    assert torch.isnan(copy).all()
    assert device.same(copy, copy.clone())
    argmax = torch.zeros(3, dtype=torch.uint8)
    device.poison(argmax)
    assert argmax.tolist() == [254] * 3
    assert device.same(argmax, argmax.clone())


def test_tensor_cores_are_on_for_tf32_alone(monkeypatch):
    device = torch_device.TorchDevice.__new__(torch_device.TorchDevice)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    row = BY_KEY["r64@256.convolution.forward.tf32"]
    try:
        for precision, on in (("tf32", True), ("bfloat16", False), ("float32", False)):
            device.variants(replace(row, precision=precision))
            assert torch.backends.cudnn.allow_tf32 is on
            assert torch.backends.cuda.matmul.allow_tf32 is on
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_calls_are_made_on_torchs_stream(monkeypatch):
    from gpu.problem import Call

    from cnnforge_kernels.cuda import launch

    seen = []

    def forward(*arguments, stream, **options):
        seen.append((arguments, driver.stream_handle(stream), options))

    Cuda().install(monkeypatch)
    monkeypatch.setattr(launch, "conv2d_forward", forward)
    device = torch_device.TorchDevice.__new__(torch_device.TorchDevice)
    device.run([Call("conv2d_forward", (1, 2), (("precision", "tf32"),))])
    assert seen == [((1, 2), 77, {"precision": "tf32"})]


def test_distance():
    one = torch.tensor([3.0, 4.0])
    assert torch_peer.distance(one, one) == 0
    assert torch_peer.distance(one * 1.1, one) == pytest.approx(0.1, rel=1e-5)
    assert np.isnan(torch_peer.distance(one * float("nan"), one))

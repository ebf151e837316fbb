"""Time a training epoch of LeNet in PyTorch, with our kernels and with those of PyTorch.

All variants train the network of bench_training.py with Adam on the same images. Our variant
computes the two blocks (convolution, ReLU and max pool) with our kernels, and replays a CUDA graph
for each training step. The other variants use PyTorch's kernels: a plain loop in each memory
layout, and a loop with a CUDA graph, which shows how much time the graph alone saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch_training
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from cnnforge.utils.timing import interleave, ratio
from gpu.problem import Call

IMAGES, BATCH, CLASSES = 16384, 1024, 10
OURS, GRAPH = "our blocks in one graph", "PyTorch in one graph"
_OPTIONS = (1, 1), True, (1, 1), 1, (2, 2)


def block(run: Callable[[list[Call]], None]) -> Any:
    """Return an autograd function that computes a block with our kernels.

    A block is a SAME convolution with bias, a ReLU and a 2x2 max pool.

    Args:
        run: Function that executes a list of ``Call`` (problem.py) on tensors.
    """

    class Block(torch.autograd.Function):
        """The block: inputs (N, H, W, C), weights (KH, KW, C, F) and bias (F,) -> outputs.

        The outputs have the shape (N, H // 2, W // 2, F).
        """

        @staticmethod
        def forward(context: Any, x: Any, w: Any, b: Any) -> Any:
            shape = (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, w.shape[3])
            outputs = x.new_empty(shape)
            argmax = torch.empty(shape, dtype=torch.uint8, device=x.device)
            run([Call("conv_block_forward", (x, w, b, *_OPTIONS, outputs, argmax))])
            context.save_for_backward(x, w, argmax)
            return outputs

        @staticmethod
        def backward(context: Any, *gradients: Any) -> Any:
            x, w, argmax = context.saved_tensors
            g = gradients[0].contiguous()
            grad_w, grad_b = torch.empty_like(w), w.new_empty(w.shape[3])
            made = (x, w, grad_b, argmax, *_OPTIONS, g, grad_w, grad_b)
            found = [Call("conv_block_grad_weights", made)]
            grad_x = torch.empty_like(x) if context.needs_input_grad[0] else None
            if grad_x is not None:
                found.append(Call("conv_block_grad_inputs", (x, w, argmax, *_OPTIONS, g, grad_x)))
            run(found)
            return grad_x, grad_w, grad_b

    return Block.apply


class LeNet(nn.Module):
    """``torch_training.LeNet`` whose blocks use our kernels, for images (N, H, W, C)."""

    def __init__(self, run: Callable[[list[Call]], None], plain: Any) -> None:
        super().__init__()
        self._block = block(run)
        for name in ("conv1", "conv2"):
            convolution = getattr(plain, name)
            weights = convolution.weight.detach().permute(2, 3, 1, 0).contiguous()
            setattr(self, f"{name}_weights", nn.Parameter(weights))
            setattr(self, f"{name}_bias", nn.Parameter(convolution.bias.detach().clone()))
        self.dense, self.head = plain.dense, plain.head

    def forward(self, images: Any) -> Any:
        """Return the logits (N, classes)."""
        for name in ("conv1", "conv2"):
            weights, bias = getattr(self, f"{name}_weights"), getattr(self, f"{name}_bias")
            images = functional.dropout(self._block(images, weights, bias), 0.25, self.training)
        hidden = functional.relu(self.dense(images.flatten(1)))
        return self.head(functional.dropout(hidden, 0.5, self.training))


class Epoch:
    """Trains a model for an epoch at each call, on the images in random order.

    Args:
        model: Model for (N, H, W, C) pixels, or for (N, C, H, W) if ``form`` is given.
        images: Images (N, H, W, C) uint8 on the device.
        labels: Labels (N,) int64 on the device.
        form: Memory format of the (N, C, H, W) pixels; ``None`` for a model for (N, H, W, C).
        graph: Whether to capture the training step into a CUDA graph.
    """

    def __init__(
        self, model: Any, images: Any, labels: Any, form: Any = None, graph: bool = False
    ) -> None:
        self._model = model.train()
        # `capturable` makes Adam count its steps on the device. On the host, the count would not
        # change when the graph is replayed.
        self._optimizer = torch.optim.Adam(model.parameters(), 0.001, capturable=graph)
        self._form = form
        self._images, self._labels = images, labels
        if form is not None:
            self._images = images.permute(0, 3, 1, 2).contiguous(memory_format=form)
        self._batch = self._images[:BATCH].clone()
        self._wanted = labels[:BATCH].clone()
        self._total = torch.zeros((), device=images.device)
        self._graph = self._capture() if graph else None

    def _step(self, images: Any, wanted: Any) -> None:
        pixels = images.float() / 255
        if self._form is not None:
            pixels = pixels.contiguous(memory_format=self._form)
        loss = functional.cross_entropy(self._model(pixels), wanted)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._total += loss.detach() * len(wanted)

    def _capture(self) -> Any:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(self._batch, self._wanted)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
            self._step(self._batch, self._wanted)
        return graph

    def __call__(self) -> float:
        """Train for an epoch and return the mean loss."""
        self._total.zero_()
        count = len(self._labels) // BATCH * BATCH
        order = torch.randperm(len(self._labels), device=self._labels.device)[:count]
        for chosen in order.split(BATCH):
            if self._graph is None:
                self._step(self._images[chosen], self._labels[chosen])
            else:
                self._batch.copy_(self._images[chosen])
                self._wanted.copy_(self._labels[chosen])
                self._graph.replay()
        return float(self._total) / count


def epochs(device: Any, where: str, graphs: bool, count: int) -> dict[str, Callable[[], float]]:
    """Return the function of each variant that trains for an epoch, by name. Ours is the first.

    Args:
        device: A ``TorchDevice`` or a ``DryRunDevice``, which runs our kernels.
        where: Name of the device in PyTorch, such as ``"cuda"``.
        graphs: Whether to use CUDA graphs.
        count: Number of images per epoch.
    """
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (count, 28, 28, 1), np.uint8)).to(where)
    labels = torch.from_numpy(random.integers(0, CLASSES, count)).to(where)
    torch.manual_seed(0)

    def plain() -> Any:
        return torch_training.LeNet((28, 28, 1), CLASSES).to(where)

    found: dict[str, Callable[[], float]] = {
        OURS: Epoch(LeNet(device.run, plain()).to(where), images, labels, graph=graphs)
    }
    for name, form in torch_training.LAYOUTS.items():
        model = plain().to(memory_format=form)
        found[f"eager PyTorch, {name}"] = Epoch(model, images, labels, form)
    form = torch_training.LAYOUTS["channels_last"]
    model = plain().to(memory_format=form)
    found[GRAPH] = Epoch(model, images, labels, form, graph=graphs)
    return found


def measure(
    device: Any,
    where: str = "cuda",
    graphs: bool = True,
    rounds: int = 11,
    images: int = IMAGES,
) -> dict[str, Any]:
    """Time the epochs of all variants alternately.

    Args:
        device: A ``TorchDevice`` or a ``DryRunDevice``, which runs our kernels.
        where: Name of the device in PyTorch, such as ``"cuda"``.
        graphs: Whether to use CUDA graphs.
        rounds: Number of epochs that are timed per variant.
        images: Number of images per epoch.

    Returns:
        A dict with ``lines`` to print, and ``ratio``: the time of eager PyTorch in its faster
        memory layout divided by ours.

    Raises:
        ValueError: The loss of a variant is not finite.
    """
    runs = epochs(device, where, graphs, images)
    for name, run in runs.items():
        loss = run()
        if not np.isfinite(loss):
            raise ValueError(f"{name}: the loss is {loss}")
    timings, times = interleave(runs, rounds=rounds, warm_up=1, limit=30)
    eager = [name for name in runs if name.startswith("eager")]
    peer = min(eager, key=lambda name: timings[name].median)
    lines = [
        f"{name:28} {taken.median * 1e3:8.2f} ms ({taken.p20 * 1e3:.2f} to {taken.p80 * 1e3:.2f})"
        for name, taken in timings.items()
    ]
    found = ratio(times[peer], times[OURS])
    over_graph = ratio(times[GRAPH], times[OURS])
    lines.append("{:.2f} ({:.2f} to {:.2f}) times as fast as {}".format(*found, peer))
    lines.append("{:.2f} ({:.2f} to {:.2f}) times as fast as {}".format(*over_graph, GRAPH))
    return {"lines": lines, "ratio": found[0]}

"""Define the networks of bench_training.py in PyTorch, and loops that train them and predict."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

# An optimizer of PyTorch imports Triton, which compiles for GPUs. Its LLVM ends the process if that
# of TensorFlow or Numba is loaded already. With None, the import fails, and PyTorch goes on.
sys.modules.setdefault("triton", None)  # pyright: ignore[reportArgumentType]

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class LeNet(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.conv1 = nn.Conv2d(channels, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.dense = nn.Linear(16 * (height // 4) * (width // 4), 256)
        self.head = nn.Linear(256, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for convolution in (self.conv1, self.conv2):
            images = functional.max_pool2d(functional.relu(convolution(images)), 2)
            images = functional.dropout(images, 0.25, self.training)
        hidden = functional.relu(self.dense(images.flatten(1)))
        return self.head(functional.dropout(hidden, 0.5, self.training))


class Block(nn.Module):
    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.stride, self.more = stride, filters - before

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = functional.relu(self.norm1(self.conv1(images)))
        outputs = self.norm2(self.conv2(outputs))
        if self.stride > 1:
            half = self.more // 2
            images = images[:, :, :: self.stride, :: self.stride]
            images = functional.pad(images, (0, 0, 0, 0, half, self.more - half))
        return functional.relu(outputs + images)


class ResNet20(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[2], 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        blocks, before = [], 16
        for filters in (16, 32, 64):
            for number in range(3):
                blocks.append(Block(before, filters, 2 if before != filters and not number else 1))
                before = filters
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = self.blocks(functional.relu(self.norm(self.stem(images))))
        return self.head(outputs.mean((2, 3)))


def convolution(
    before: int, filters: int, window: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> list[nn.Module]:
    """Return a convolution that keeps the size, divided by the stride, and a normalization."""
    convolve = nn.Conv2d(before, filters, window, stride, window // 2, groups=groups, bias=bias)
    return [convolve, nn.BatchNorm2d(filters)]


class Bottleneck(nn.Module):
    def __init__(self, before: int, filters: int, stride: int, project: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(before, filters, 1, stride, bias=True),
            nn.ReLU(inplace=True),
            *convolution(filters, filters, 3, bias=True),
            nn.ReLU(inplace=True),
            *convolution(filters, 4 * filters, 1, bias=True),
        )
        shortcut = convolution(before, 4 * filters, 1, stride, bias=True) if project else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(images) + self.shortcut(images))


class ResNet50(nn.Module):
    """The network of ``keras.applications``: biases, and the stride in the first convolution."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        layers = [*convolution(shape[2], 64, 7, 2, bias=True), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        before = 64
        for filters, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for number in range(count):
                first = number == 0
                layers.append(Bottleneck(before, filters, stride if first else 1, first))
                before = 4 * filters
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images).mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, before: int, filters: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = before * factor
        expand = [*convolution(before, wide, 1), nn.ReLU6(inplace=True)] if factor > 1 else []
        self.body = nn.Sequential(
            *expand,
            *convolution(wide, wide, 3, stride, wide),
            nn.ReLU6(inplace=True),
            *convolution(wide, filters, 1),
        )
        self.added = stride == 1 and before == filters

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = self.body(images)
        return outputs + images if self.added else outputs


class MobileNetV2(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        layers = [*convolution(shape[2], 32, 3, 2), nn.ReLU6(inplace=True)]
        before = 32
        blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
        for factor, filters, count, stride in (
            *blocks,
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for number in range(count):
                layers.append(Inverted(before, filters, stride if number == 0 else 1, factor))
                before = filters
        self.layers = nn.Sequential(*layers, *convolution(before, 1280, 1), nn.ReLU6(inplace=True))
        self.head = nn.Linear(1280, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images).mean((2, 3)))


MODELS: dict[str, type[nn.Module]] = {
    "lenet": LeNet,
    "resnet20": ResNet20,
    "resnet50": ResNet50,
    "mobilenetv2": MobileNetV2,
}


def loops(
    name: str, images: np.ndarray, labels: np.ndarray, batch_size: int, layout: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two functions: one trains for an epoch, and one predicts all images.

    Training uses Adam and the cross-entropy of the logits. Like the other implementations, it sums
    the loss and the number of correctly classified images. The prediction returns the probabilities
    of all images, in order.

    Args:
        name: Name of a model, one of `MODELS`.
        images: (N, H, W, C) uint8.
        labels: (N,) int.
        batch_size: Number of images per training step.
        layout: Memory layout, one of `LAYOUTS`.

    Returns:
        Two functions: `run() -> (loss, correct)`, and `predict()`, which returns probabilities
        (N, classes) float32.
    """
    form: Any = LAYOUTS[layout]
    classes = int(labels.max()) + 1
    model: nn.Module = MODELS[name](images.shape[1:], classes).to(memory_format=form)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=form)
    truth = torch.from_numpy(labels.astype(np.int64))

    def run() -> tuple[float, int]:
        model.train()
        total, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for chosen in torch.randperm(len(truth)).split(batch_size):
            batch, wanted = pixels[chosen].float() / 255, truth[chosen]
            logits = model(batch.contiguous(memory_format=form))
            loss = functional.cross_entropy(logits, wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(wanted)
            correct += (logits.detach().argmax(1) == wanted).sum()
        return float(total), int(correct)

    def predict() -> np.ndarray:
        model.eval()
        found = []
        with torch.inference_mode():
            for batch in pixels.split(batch_size):
                logits = model((batch.float() / 255).contiguous(memory_format=form))
                found.append(functional.softmax(logits, 1))
        return torch.cat(found).numpy()

    return run, predict

"""Define the networks of bench_training.py in PyTorch, and loops that train them and predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

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


MODELS: dict[str, type[nn.Module]] = {"lenet": LeNet, "resnet20": ResNet20}


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

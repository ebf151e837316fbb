"""One epoch of training: ``cnnforge train``'s loop on our kernels against stock Keras' ``fit``.

Run with ``python benchmarks/bench_training.py``. Both train the same network on the same digits in
this process, in turn; the numbers to read are the ratios.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from cnnforge.benchmarking import interleave, ratio
from cnnforge.conversion import forge
from cnnforge.data import DataOptions
from cnnforge.discovery import discover


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, nargs="*", default=[64, 250])
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    plugins = discover()
    digits = plugins.datasets["mnist5k"].load()(None, DataOptions())
    images = digits.train.fetch(np.arange(len(digits.train)))
    labels = np.asarray(digits.train.labels)
    for batch_size in options.batch_size:
        stock = plugins.models["lenet"].load()((28, 28, 1), 10)
        stock.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        runs = {"keras fit": fit(stock, images, labels, batch_size)}
        for name, kernels in (
            ("our loop, stock layers", "keras"),
            ("our loop and kernels", "numba"),
        ):
            model = plugins.models["lenet"].load()((28, 28, 1), 10)
            runs[name] = loop(forge(model, kernels, layers=plugins.layers), digits, batch_size)
        timings, times = interleave(runs, rounds=options.rounds, warm_up=2)
        print(f"lenet, one epoch of {len(images)} digits, batch {batch_size}")
        for name, timing in timings.items():
            median, low, high = ratio(times["keras fit"], times[name])
            print(
                f"  {name:24} {timing.median:.3f} s ({timing.p20:.3f} to {timing.p80:.3f})"
                f"   {median:.2f} times as fast as fit ({low:.2f} to {high:.2f})"
            )


def fit(model, images, labels, batch_size):
    return lambda: model.fit(images, labels, batch_size=batch_size, epochs=1, verbose=0)


def loop(model, dataset, batch_size):
    """One epoch of our loop as the command runs it, without validation (``fit`` has none here)."""
    from cnnforge._chunks import ChunkSize, chunks
    from cnnforge._tensorflow import Trainer
    from cnnforge.training.order import order

    trainer = Trainer(model, 0.001, batch_size)
    size = ChunkSize(dataset.image_shape, batch_size)
    epoch = 0

    def run():
        nonlocal epoch
        visit = order(0, epoch, len(dataset.train))
        epoch += 1
        loss, correct = 0.0, 0
        for chunk in chunks(dataset.train, visit, batch_size, size):
            result = trainer.train(chunk.images, chunk.labels, loss, correct)
            loss, correct = result.loss, result.correct

    return run


if __name__ == "__main__":
    main()

"""Compare the time of reading the images of an epoch with that of ``tf.data``.

Run ``python benchmarks/bench_loading.py [png] [jpeg] [photo]``. It writes images to a temporary
folder, and reads each set alternately in three ways: as an epoch of training does, as an epoch with
``--cache`` does from the second one on, and through ``tf.data`` (``map`` in as many threads as
there are processors, ``batch(64)``, ``prefetch(2)``). The files are in the file cache. A ratio is
the time of ``tf.data`` divided by ours. The best times of all rounds are compared, because other
processes only make a round slower. The times of the processor, over all threads, depend less on the
load.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

BATCH = 64


class Case(NamedTuple):
    """A set of image files.

    Attributes:
        files: Number of files.
        stored: Height and width of the files.
        read: Height and width of the images that are read from them.
        suffix: Ending of the files.
        target: Min ratio.
    """

    files: int
    stored: tuple[int, int]
    read: tuple[int, int]
    suffix: str
    target: float


CASES = {
    "png": Case(20_000, (32, 32), (32, 32), ".png", 1.0),
    "jpeg": Case(1_500, (256, 256), (256, 256), ".jpg", 1.0),
    "photo": Case(40, (3000, 4000), (224, 224), ".jpg", 3.0),
}


def write(case: Case, folder: Path) -> list[str]:
    """Write the files of a case: a smooth random pattern with some noise, like a photograph."""
    generator = np.random.default_rng(0)
    height, width = case.stored
    paths = []
    for number in range(case.files):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = generator.integers(0, 8, (height, width, 1), np.uint8)
        pixels = np.asarray(image) // 2 + noise
        path = folder / f"{number:05d}{case.suffix}"
        Image.fromarray(pixels).save(path)
        paths.append(str(path))
    return paths


def ours(paths: list[str], case: Case, cache: Path | None = None) -> Callable[[np.ndarray], int]:
    """Return a function that reads all files in the given order, as an epoch of training does."""
    from cnnforge.data.cache import CachedSamples, make_cache_file
    from cnnforge.data.files import ImageFiles
    from cnnforge.data.prefetch import StepsPerCall, chunks, images_only

    shape = (*case.read, 3)
    samples = ImageFiles(paths, np.zeros(len(paths), np.int32), shape)
    if cache is not None:
        make_cache_file(cache, "benchmark", len(paths), shape)
        samples = CachedSamples(samples, cache, shape)

    def epoch(visit: np.ndarray) -> int:
        size = StepsPerCall(shape, BATCH)
        return sum(len(chunk.images) for chunk in chunks(images_only(samples), visit, BATCH, size))

    return epoch


def theirs(paths: list[str], case: Case, threads: int) -> Callable[[np.ndarray], int]:
    """Return a function that reads all files in the given order with ``tf.data``."""
    import tensorflow as tf

    decode = tf.io.decode_png if case.suffix == ".png" else tf.io.decode_jpeg

    def read(path: Any) -> Any:
        image = decode(tf.io.read_file(path), channels=3)
        if case.read != case.stored:
            image = tf.image.resize(image, case.read, method="bicubic", antialias=True)
        return image

    def epoch(visit: np.ndarray) -> int:
        names = np.array(paths)[visit]
        pipeline = tf.data.Dataset.from_tensor_slices(names)
        pipeline = pipeline.map(read, num_parallel_calls=threads).batch(BATCH).prefetch(2)
        return sum(len(batch.numpy()) for batch in pipeline)

    return epoch


def compare(name: str, rounds: int, threads: int) -> bool:
    """Measure a case, and print a line. Return whether the ratio is the target or more."""
    case = CASES[name]
    with tempfile.TemporaryDirectory(prefix="cnnforge-loading-") as folder:
        paths = write(case, Path(folder))
        functions = {
            "ours": ours(paths, case),
            "tf.data": theirs(paths, case, threads),
            "cache": ours(paths, case, Path(folder) / "cache"),
        }
        times: dict[str, list[float]] = {each: [] for each in functions}
        processor: dict[str, list[float]] = {each: [] for each in functions}
        order = np.random.default_rng(1).permutation(case.files)
        for turn in range(rounds + 1):
            for each in list(functions) if turn % 2 else list(functions)[::-1]:
                begun, used = time.perf_counter(), time.process_time()
                assert functions[each](order) == case.files
                # The first round builds graphs, fills the file cache and writes the image cache.
                if turn:
                    times[each].append(time.perf_counter() - begun)
                    processor[each].append(time.process_time() - used)
    ratios = [peer / own for own, peer in zip(times["ours"], times["tf.data"], strict=True)]
    best = {each: min(values) for each, values in times.items()}
    work = {each: min(values) / case.files * 1e6 for each, values in processor.items()}
    ratio, again = best["tf.data"] / best["ours"], best["ours"] / best["cache"]
    speeds = ", ".join(f"{each} {case.files / value:,.0f}" for each, value in best.items())
    used = ", ".join(f"{each} {value:,.0f}" for each, value in work.items())
    print(
        f"{name}: ratio {ratio:.2f} of the best times (target {case.target}), median "
        f"{median(ratios):.2f} over {rounds} rounds; the cache is {again:.1f} times as fast as "
        f"decoding (target 3); images/s: {speeds}; processor time in us per image: {used}",
        flush=True,
    )
    return ratio >= case.target and again >= 3


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="png|jpeg|photo")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {sorted(unknown)[0]!r}: use {', '.join(CASES)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    threads = len(os.sched_getaffinity(0))
    # Only the decoding is compared. The device would only be in the way.
    tf.config.set_visible_devices([], "GPU")
    print(f"{threads} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    passed = [compare(name, options.rounds, threads) for name in options.cases or CASES]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())

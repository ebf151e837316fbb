"""Measure the memory and the speed of `cnnforge predict --workers` on many small images.

    python benchmarks/bench_cluster_predict.py RUN --images 100000 1000000 --workers 2

RUN is a run for gray images of 28x28 pixels, for instance of lenet on mnist5k. For each number of
images, the script writes Parquet shards with PNG images into a temporary folder, predicts them, and
prints the max memory of the main process, of all processes together, and of shared memory, in MB.
The sum counts pages that processes share once each (PSS). It also checks that there is one row per
image, in order. All files are removed at the end.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

PER_SHARD = 50_000
SECONDS = 1.0
COMMAND = "from cnnforge.cli import main; main()"


def digits(count: int) -> list[bytes]:
    """PNG files of bundled digits, shifted in many ways."""
    from cnnforge_plugins import datasets

    with np.load(Path(datasets.__file__).with_name("mnist5k.npz")) as stored:
        images = next(stored[name] for name in stored.files if stored[name].ndim >= 3)
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        shifted = np.roll(images[number % len(images)], random.integers(-2, 3, 2), (0, 1))
        content = io.BytesIO()
        Image.fromarray(shifted.reshape(28, 28)).save(content, "PNG", compress_level=1)
        found.append(content.getvalue())
    return found


def write_shards(folder: Path, images: int) -> None:
    """Write Parquet files of up to 50,000 images. The same 20,000 images come again."""
    pool = digits(min(images, 20_000))
    for first in range(0, images, PER_SHARD):
        cells = [pool[n % len(pool)] for n in range(first, min(images, first + PER_SHARD))]
        column = pyarrow.array([{"bytes": cell, "path": None} for cell in cells])
        name = f"part-{first // PER_SHARD:03d}.parquet"
        parquet.write_table(
            pyarrow.table({"image": column}),
            folder / name,
            row_group_size=10_000,
            use_dictionary=False,
        )


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            parents[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def memory(process: int) -> tuple[int, int]:
    """RSS and PSS of a process in kB."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return sizes.get("Rss", 0), sizes.get("Pss", 0)


class Watch(threading.Thread):
    """Measures the memory of a command every second."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.seen: list[tuple[float, int, int, int]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        start = time.monotonic()
        while not self.ended.wait(SECONDS):
            sizes = [memory(process) for process in tree(self.process)]
            status = os.statvfs("/dev/shm")
            shared = (status.f_blocks - status.f_bfree) * status.f_frsize // 1024
            self.seen.append(
                (time.monotonic() - start, sizes[0][0], sum(pss for _, pss in sizes), shared)
            )


def measure(run: Path, images: int, workers: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cnnforge-bench-") as name:
        folder, output = Path(name, "shards"), Path(name, "rows.csv")
        folder.mkdir()
        write_shards(folder, images)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{images} images, {size / 1e6:.0f} MB in {len(list(folder.iterdir()))} files")
        words = ["predict", str(run), str(folder), "--output", str(output), "--top-k", "1"]
        words += ["--workers", str(workers)] if workers else []
        started = time.monotonic()
        command = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words], stdout=subprocess.DEVNULL
        )
        watch = Watch(command.pid)
        watch.start()
        code = command.wait()
        seconds = time.monotonic() - started
        watch.ended.set()
        if code:
            sys.exit(f"the command ended with {code}")
        with output.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            next(rows)
            count = 0
            for row in rows:
                shard, place = divmod(count, PER_SHARD)
                assert row[0].endswith(f"part-{shard:03d}.parquet/row {place}"), row
                count += 1
        assert count == images, (count, images)
        end = watch.seen[-1][0]
        for label, part in (("first half", (0, end / 2)), ("second half", (end / 2, end + 1))):
            rows_of = [seen for seen in watch.seen if part[0] <= seen[0] < part[1]]
            main, together, shared = (max(row[place] for row in rows_of) for place in (1, 2, 3))
            print(
                f"  {label}: main process {main // 1024} MB, all processes {together // 1024} MB, "
                f"shared memory {shared // 1024} MB"
            )
        print(
            f"  {count} rows in order, {seconds:.0f} s, {images / seconds:.0f} images/s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2, help="0: without --workers")
    given = parser.parse_args()
    for images in given.images:
        measure(given.run, images, given.workers)


if __name__ == "__main__":
    main()

"""Compare predictions of cnnforge's inference engine with those of ONNX Runtime and OpenVINO.

Run ``make bench-inference``, which installs the engines in an environment of their own, or there
``python benchmarks/bench_inference.py [--only lenet] [--json FILE]``. All engines compute the same
network with the same weights on the same images, in float32 and on two threads. Each engine runs in
a process of its own. The processes take turns, so that another load of the machine affects all of
them. Compare the best times: a run that nothing disturbed is the best measure of an engine.

Before anything is measured, the outputs of each engine are compared with those of Keras. With
``--write docs/inference.md`` the table of that page is replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
from inference_cases import CASES
from inference_engines import ENGINES, environment

OURS = "cnnforge"
# How many images a call takes: the batch size of the network, or one.
MODES = ("batch", "one image")
MAX_DIFFERENCE = 1e-4
# A turn of an engine lasts this many seconds, or one run if that takes longer.
TURN = 0.15
WORKER = Path(__file__).with_name("inference_worker.py")


class Worker:
    """The process of one engine with one network."""

    def __init__(self, request: dict[str, Any], environment: dict[str, str]) -> None:
        self.engine = request["engine"]
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        about = self._read()
        self.facts: dict[str, str] = about["facts"]
        self.settings: dict[str, str] = about["settings"]

    def times(self, mode: str) -> list[float]:
        print(json.dumps({"mode": mode, "seconds": TURN}), file=self._process.stdin, flush=True)
        return self._read()["times"]

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            sys.exit(f"the process of {self.engine} ended, exit code {self._process.wait()}")
        return json.loads(line)


def main() -> None:
    options = parse()
    result: dict[str, Any] = {
        "threads": options.threads,
        "lanes": options.lanes,
        "not compared": {},
        "engines": {},
        "rows": [],
    }
    environments = {}
    for engine in options.engines:
        try:
            environments[engine] = environment(engine, options.threads, options.lanes)
        except ValueError as error:
            result["not compared"][engine] = str(error)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["machine"] = prepare(options.only, folder)
        for network in options.only:
            result["rows"] += measure(network, folder, environments, options, result["engines"])
    summarize(result)
    print(*conditions(result), "", *table(result), sep="\n")
    if options.write:
        put_into(options.write, result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NETWORK")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seconds", type=float, default=20, help="for each row of the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lanes", type=int, choices=[8], help="8: AVX2, without AVX-512")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into a document")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to a file")
    options = parser.parse_args()
    if options.write and (len(options.only) < len(CASES) or len(options.modes) < len(MODES)):
        parser.error("--write needs all networks and modes: leave --only and --modes out")
    if OURS not in options.engines:
        options.engines = [OURS, *options.engines]
    return options


def prepare(networks: list[str], folder: Path) -> str:
    """Write the files of the networks, and return the name of the processor.

    A process of its own does this, because it imports TensorFlow, whose threads may not sleep.
    """
    code = (
        "import sys, pathlib, inference_models\n"
        "from cnnforge.utils.environment import processor\n"
        "for name in sys.argv[2:]: inference_models.prepare(name, pathlib.Path(sys.argv[1]))\n"
        "about = processor()\n"
        "print(f\"{about['model']} ({about['target']}), {about['cores']} cores\")"
    )
    path = os.pathsep.join([str(WORKER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *networks],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def measure(
    network: str,
    folder: Path,
    environments: dict[str, dict[str, str]],
    options: argparse.Namespace,
    engines: dict[str, dict[str, str]],
) -> list[dict[str, Any]]:
    """Measure a network, and return a row for each mode. The facts are added to `engines`."""
    images = folder / f"{network}.images.npy"
    sizes = {"batch": CASES[network].batch_size, "one image": 1}
    workers = []
    for engine, variables in environments.items():
        outputs = {mode: str(folder / f"{network}.{engine}.{mode}.npy") for mode in options.modes}
        request = {
            "engine": engine,
            "network": network,
            "folder": str(folder),
            "images": str(images),
            "threads": options.threads,
            "batch_sizes": {mode: sizes[mode] for mode in options.modes},
            "outputs": outputs,
        }
        workers.append(Worker(request, variables))
        check(engine, network, np.load(folder / f"{network}.keras.npy"), outputs)
        engines.setdefault(engine, {}).update(workers[-1].facts)
    rows = []
    for mode in options.modes:
        times: dict[str, list[float]] = {worker.engine: [] for worker in workers}
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end or not times[OURS]:
            for worker in workers:
                times[worker.engine] += worker.times(mode)
            workers.reverse()
        rows.append(
            {
                "network": network,
                "images": CASES[network].count,
                "batch size": sizes[mode],
                "mode": mode,
                "settings": {worker.engine: worker.settings[mode] for worker in workers},
                "best": {engine: min(found) for engine, found in times.items()},
                "median": {engine: median(found) for engine, found in times.items()},
                "runs": {engine: len(found) for engine, found in times.items()},
            }
        )
    for worker in workers:
        worker.close()
    return rows


def check(engine: str, network: str, wanted: np.ndarray, outputs: dict[str, str]) -> None:
    """Stop if the outputs of an engine differ from those of Keras."""
    for mode, path in outputs.items():
        difference = float(np.abs(np.load(path) - wanted).max())
        if not difference <= MAX_DIFFERENCE:
            sys.exit(
                f"{network}, {mode}: the outputs of {engine} differ from those of Keras by "
                f"{difference:.3g}, {MAX_DIFFERENCE:g} is allowed"
            )


def summarize(result: dict[str, Any]) -> None:
    """Add the geometric means, for each mode, of the times of the others divided by ours."""
    result["geometric mean"] = {}
    for mode in dict.fromkeys(row["mode"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["mode"] == mode]
        means = {
            engine: mean([row["best"][engine] / row["best"][OURS] for row in rows])
            for engine in rows[0]["best"]
            if engine != OURS
        }
        faster = [min(others(row).values()) / row["best"][OURS] for row in rows if others(row)]
        result["geometric mean"][mode] = {**means, "faster engine": mean(faster)}


def others(row: dict[str, Any]) -> dict[str, float]:
    return {engine: seconds for engine, seconds in row["best"].items() if engine != OURS}


def mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def table(result: dict[str, Any]) -> list[str]:
    """Return the rows and the means as a table in Markdown."""
    engines = list(result["engines"])
    peers = engines[1:]
    columns = ["images, images a call", *engines, *(f"{peer} / {OURS}" for peer in peers)]
    lines = [columns, ["---"] * len(columns)]
    for row in result["rows"]:
        best, middle = row["best"], row["median"]
        lines.append(
            [
                f"{row['network']} {row['images']:,}, {row['batch size']}",
                *(f"{best[engine]:.4f} ({middle[engine]:.4f})" for engine in engines),
                *(f"{best[peer] / best[OURS]:.2f}" for peer in peers),
            ]
        )
    for mode, means in result["geometric mean"].items():
        title = f"geometric mean, {mode}; with the faster engine {means['faster engine']:.2f}"
        lines.append([title, *([""] * len(engines)), *(f"{means[peer]:.2f}" for peer in peers)])
    return [f"| {' | '.join(line)} |" for line in lines]


def conditions(result: dict[str, Any]) -> list[str]:
    """Return lines about the machine, the engines, and the engines that were not compared."""
    about = [
        f"{engine} ({', '.join(f'{k} {v}' for k, v in facts.items())})"
        for engine, facts in result["engines"].items()
    ]
    lines = [
        f"{result['machine']}; {result['threads']} threads; best time in seconds (median)",
        ", ".join(about),
    ]
    return lines + [f"Not compared: {why}" for why in result["not compared"].values()]


def put_into(path: Path, result: dict[str, Any]) -> None:
    """Replace the table in a document, which is between two comments."""
    lanes = f" --lanes {result['lanes']}" if result["lanes"] else ""
    begin, end = f"<!-- bench_inference.py{lanes} -->", "<!-- end -->"
    before, found, after = path.read_text().partition(begin)
    if not found or end not in after:
        sys.exit(f"{path} has no lines {begin} and {end}, between which the table belongs")
    about = f"*{'. '.join(conditions(result))}.*"
    lines = [begin, "", about, "", *table(result), "", end]
    path.write_text(before + "\n".join(lines) + after.partition(end)[2])


if __name__ == "__main__":
    main()

"""Command-line options of bench_gpu.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu import rows, suite
from gpu.measure import ROUNDS

# The parts of the script, in the order in which they run.
PARTS = ("suite", "layers", "epoch", "rows", "keras")
RESULTS = Path(__file__).parents[1] / "results"


def capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def parsed(arguments: Sequence[str] | None) -> Any:
    """Parse the command line. The result also has ``rows``, the chosen benchmark cases.

    A usage error ends the process with exit code 2.
    """
    parser = argparse.ArgumentParser(
        "bench_gpu.py", description="Measure the kernels on a GPU, compared with cuDNN."
    )
    parser.add_argument("--short", action="store_true", help="a few rows of each kind")
    parser.add_argument(
        "--cases", nargs="+", metavar="CASE", help="such as seed1, or r64@256.convolution.*.tf32"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: benchmarks/results")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="end by then, with the rows measured so far",
    )
    parser.add_argument(
        "--tune", action="store_true", help="let the tuner choose configurations (experimental)"
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows in the file of --out")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"only these parts of {', '.join(PARTS)}",
    )
    parser.add_argument("--alone", action="store_true", help="rows without the times of PyTorch")
    parser.add_argument(
        "--sanitize",
        nargs="*",
        choices=suite.TOOLS,
        metavar="TOOL",
        help="instead: the small tests under compute-sanitizer, with all tools at the same time "
        f"({', '.join(suite.TOOLS)})",
    )
    parser.add_argument(
        "--tests",
        metavar="EXPRESSION",
        help="only these tests of a suite, an expression as for pytest -k",
    )
    parser.add_argument(
        "--floors",
        action="store_true",
        help="instead: the minimum times by the datasheet of the H200",
    )
    parser.add_argument(
        "--compile-for",
        type=capability,
        metavar="9.0",
        help="instead: compile all kernels for a device into the folder --cubins",
    )
    parser.add_argument(
        "--cubins",
        type=Path,
        metavar="DIR",
        help="folder of the kernels that --compile-for compiled",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    # `--dry-run` is for tests: everything runs without a device, and all times are made up.
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--epoch", action="store_true", help=argparse.SUPPRESS)
    options: Any = parser.parse_args(arguments)
    patterns = options.cases or (rows.SHORT if options.short else ["*"])
    try:
        options.rows = rows.select(patterns)
    except ValueError as error:
        parser.error(str(error))
    if options.time_limit is not None and options.time_limit <= 0:
        parser.error(f"--time-limit is {options.time_limit:g}, expected above 0")
    if options.compile_for and not options.cubins:
        parser.error("--compile-for needs --cubins DIR, the folder to write to")
    if options.rounds < 3:
        parser.error(f"--rounds is {options.rounds}, expected 3 or more")
    return options

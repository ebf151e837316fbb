"""Look for files that reach new code of a reader: atheris counts the lines that each one runs.

`make fuzz-coverage READER=npz` calls it. The faults are those of `make fuzz`; atheris keeps the files
that reach new code in `build/fuzz/corpus`, and spoils them again. It ends at the first finding.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]

sys.path[:0] = [str(Path(__file__).parent)]
with atheris.instrument_imports(include=["cnnforge", "cnnforge_plugins", "cnnforge_kernels"]):
    from fuzz_targets import TARGETS

from fuzz_one import Tally  # noqa: E402
from fuzz_target import Files  # noqa: E402

_CORPUS = Path(__file__).parents[2] / "build" / "fuzz" / "corpus"


def packed(files: Files) -> bytes:
    """Return the files of a case as one text of bytes."""
    lengths = json.dumps([[name, len(content)] for name, content in files.items()]).encode()
    return lengths + b"\n" + b"".join(files.values())


def unpacked(data: bytes) -> Files:
    """Return the files of a case; none if the bytes have another form."""
    line, _, rest = data.partition(b"\n")
    files, at = {}, 0
    try:
        for name, length in json.loads(line):
            files[str(name)] = rest[at : at + length]
            at += length
    except (ValueError, TypeError, RecursionError):
        return {}
    return files


def main() -> None:
    """Fuzz one target for some seconds."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    target = next(each for each in TARGETS if each.name == name)
    logging.disable(logging.CRITICAL)
    tally = Tally(target, Path(tempfile.mkdtemp(prefix=f"cnnforge-fuzz-{name}-")))
    corpus = _CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(packed(seed))
    allowed = {each for seed in target.seeds for each in seed}

    def read(data: bytes) -> None:
        files = {each: content for each, content in unpacked(data).items() if each in allowed}
        finding = tally.run_files(files) if files else ""
        if finding:
            raise AssertionError(f"{finding}: {tally.folder}")

    def spoil(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        files = unpacked(data) or rng.choice(target.seeds)
        if set(files) <= set(target.fixed):
            files = rng.choice(target.seeds)
        return packed(target.spoil(files, rng))[:limit]

    options = [f"-max_total_time={seconds}", "-max_len=1000000", "-timeout=60", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], read, custom_mutator=spoil)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The disk cache under several writers, whichever package a process has imported."""

import os
import subprocess
import sys
import textwrap

import pytest

# Threads stand for processes: each reads and writes the index on the disk.
WRITERS = textwrap.dedent("""
    import importlib, sys, threading
    from pathlib import Path
    importlib.import_module(sys.argv[2])
    from numba.core import caching
    folder = sys.argv[1]

    def write(first):
        file = caching.IndexDataCacheFile(folder, "function", "stamp")
        for key in range(first, first + 20):
            file.save(key, f"code {key}")

    threads = [threading.Thread(target=write, args=(20 * i,)) for i in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    file = caching.IndexDataCacheFile(folder, "function", "stamp")
    wrong = [key for key in range(120) if file.load(key) != f"code {key}"]
    file.save(0, "again")
    print(wrong, file.load(0), len(list(Path(folder).glob("*.nbc"))))
    print(*{name.partition(".")[0] for name in sys.modules} & {"cnnforge", "cnnforge_kernels"})
""")


@pytest.mark.parametrize(
    ("module", "imported"),
    [("cnnforge_kernels", "cnnforge_kernels"), ("cnnforge.ops", "cnnforge")],
)
def test_variants_that_are_written_at_once_are_found_under_their_keys(tmp_path, module, imported):
    folder = tmp_path / "cache"
    folder.mkdir()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(folder), module],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[] again 120", imported]

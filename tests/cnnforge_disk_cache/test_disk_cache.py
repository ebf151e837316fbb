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


UNWRITABLE = textwrap.dedent("""
    import numpy as np
    import cnnforge_kernels
    from numba.core import caching
    if {full}:
        def save(*_):
            raise OSError(28, "No space left on device")
        caching.IndexDataCacheFile._save_data = save
    print(cnnforge_kernels.max_pool2d(np.ones((1, 4, 4, 1), "f"))[0].shape)
    folder = cnnforge_kernels.cpu.runtime.compiled.call_once._cache.cache_path
    print(folder)
""")


@pytest.mark.parametrize("full", [False, True])
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, full):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "temporary").mkdir()
    wanted = tmp_path / ("cache" if full else "file/cache")
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(wanted),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    done = subprocess.run(
        [sys.executable, "-c", UNWRITABLE.format(full=full)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    shape, folder = done.stdout.splitlines()
    assert shape == "(1, 2, 2, 1)"
    # Not next to the sources: changed sources would find it there.
    assert folder.startswith(str(wanted if full else tmp_path / "temporary"))
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"compiled functions cannot be kept in {wanted}")
    assert "set XDG_CACHE_HOME or NUMBA_CACHE_DIR to" in line
    assert not list((tmp_path / "temporary").iterdir())


NOWHERE = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[1])
    import cnnforge_disk_cache
    from numba.core import caching
    for locator in (caching.InTreeCacheLocator, caching.UserWideCacheLocator):
        locator.from_function = classmethod(lambda *_: None)
    cnnforge_disk_cache.share_disk_cache()
    import module
    print(module.double(2))
""")


def test_functions_of_others_can_be_kept_nowhere_too(tmp_path):
    (tmp_path / "module.py").write_text(
        "import numba\n@numba.njit(cache=True)\ndef double(x):\n    return 2 * x\n"
    )
    environment = {**os.environ}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", NOWHERE, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "4\n"
    assert "cannot be kept in" in done.stderr


def test_kernels_are_loaded_without_all_types_of_numba():
    code = """
import sys
import numpy as np
from cnnforge_kernels import conv2d
conv2d(np.ones((1, 4, 4, 1), "f4"), np.ones((3, 3, 1, 2), "f4"), np.zeros(2, "f4"))
print("scipy.linalg" in sys.modules)
"""
    # The first process compiles the functions, if no test has done so.
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
    assert done.stdout.split() == ["False"]

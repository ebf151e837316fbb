"""Check the files of `make dist`: DIST. Or let an environment see the packages of another one.

`--share FROM TO` adds a path file to the environment TO, so that Python finds the packages of FROM
after its own. Path files in FROM, such as that of an editable install, have no effect there.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = (
    "cnnforge/exporting/replay_script.py",
    "cnnforge/requirements.lock",
    "cnnforge_kernels/plan/__init__.py",
    "cnnforge_plugins/manifest.py",
)


def names(wheel: Path) -> set[str]:
    """List the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def only(folder: Path, pattern: str) -> Path:
    """Return the only file with a pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"error: {folder} has {len(found)} files {pattern}, expected one; run make dist")
    return found[0]


def check(folder: Path) -> None:
    """Check that the wheel of the sdist has the same files as the wheel."""
    built = names(only(folder, "*.whl"))
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        command += ["--no-build-isolation", "--wheel-dir", place, str(only(folder, "*.tar.gz"))]
        subprocess.run(command, check=True)
        again = names(only(Path(place), "*.whl"))
    if different := built ^ again:
        sys.exit(f"error: the wheel and that of the sdist differ: {', '.join(sorted(different))}")
    if missing := set(NEEDED) - built:
        sys.exit(f"error: the wheel has no {', '.join(sorted(missing))}")
    print(f"{len(built)} files in the wheel, and the same in that of the sdist")


def share(source: Path, target: Path) -> None:
    """Let the environment `target` see the packages of `source`."""
    packages = only(source, "lib/python*/site-packages").resolve()
    own = only(target, "lib/python*/site-packages")
    (own / "shared.pth").write_text(f"{packages}\n", encoding="utf-8")


if sys.argv[1] == "--share":
    share(Path(sys.argv[2]), Path(sys.argv[3]))
else:
    check(Path(sys.argv[1]))

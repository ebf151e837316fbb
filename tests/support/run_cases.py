"""Run a folder of cases: situations from the field, each with a script that checks the behaviour.

Each case is a folder with a file `case.sh` or `case.py`. The script finds the program `cnnforge` in
`PATH`, makes its own data in a temporary folder, and ends with exit code 0 if the behaviour is
right. `make cases CASES=FOLDER` runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SCRIPTS = {"case.sh": ["sh"], "case.py": [sys.executable]}
_TIMEOUT = 600
_SHOWN_LINES = 15


def run(case: Path) -> tuple[bool, float, str]:
    """Run one case in a new process. Return three values: success, seconds, and its output."""
    script = next((case / name for name in _SCRIPTS if (case / name).is_file()), None)
    if script is None:
        return False, 0.0, f"there is neither {' nor '.join(_SCRIPTS)} in {case}"
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [*_SCRIPTS[script.name], str(script.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return False, time.monotonic() - begun, f"it did not end within {_TIMEOUT} s"
    output = done.stdout.decode(errors="replace")
    return done.returncode == 0, time.monotonic() - begun, output


def main(arguments: list[str]) -> int:
    """Run the cases in a folder, two at a time, and print one line for each.

    Args:
        arguments: The folder, then parts of the names of the cases to run; without them, all.

    Returns:
        0 if all cases succeed, 1 if one fails, 2 if there is no case.
    """
    folder = Path(arguments[0]) if arguments else Path()
    wanted = arguments[1:] or [""]
    cases = [
        path
        for path in sorted(folder.iterdir() if arguments and folder.is_dir() else [])
        if path.is_dir() and any(name in path.name for name in wanted)
    ]
    if not cases:
        print("error: no case found: make cases CASES=FOLDER, with folders of case.sh or case.py")
        return 2
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for case, (success, seconds, output) in zip(cases, pool.map(run, cases), strict=True):
            print(f"{'ok    ' if success else 'FAILED'} {seconds:5.0f} s  {case.name}", flush=True)
            if not success:
                failed += 1
                print("\n".join(f"    {line}" for line in output.splitlines()[-_SHOWN_LINES:]))
    print(f"{len(cases) - failed} of {len(cases)} cases are right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

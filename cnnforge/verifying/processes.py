"""Copy a run into a temporary folder, and start processes that train the copies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cnnforge.errors import CnnforgeError, RunError, UsageError
from cnnforge.runs import MODEL, STATE_FOLDER, RunDirectory
from cnnforge.utils.processors import THREAD_VARIABLES

_LOG = "processes.log"
# A copy needs no files with these endings: figures, reports and models.
_LEFT_OUT = (".png", ".jpg", ".html", ".keras", ".h5")


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of a check.

    Args:
        data: New place of the data, if they have moved; `None`: the place that the run names.
        plugin: Plugins to load in addition to those of the run.
        trust: Whether layers that model files may not contain are allowed.
        steps: Max number of training steps.
    """

    data: str | None = None
    plugin: tuple[str, ...] = ()
    trust: bool = False
    steps: int = 10


class Copies:
    """Copies of a run in a temporary folder, and processes that train them.

    It is a context manager; the folder is removed at its end.

    Args:
        run: The run. Nothing is written into it.
        options: Options of the check.
        command: Command that starts a process. The process reads a request from stdin, a JSON
            object in one line, and writes the answer on stdout.

    Raises:
        RunError: Another process trains the run, or the disk is too full for a copy.
    """

    def __init__(self, run: RunDirectory, options: CheckOptions, command: Sequence[str]) -> None:
        self.run, self.options, self._command = run, options, command
        if run.is_claimed:
            raise RunError(
                f"another process is training the run {run.path}: wait until it ends, or interrupt "
                "it"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="cnnforge-"))
        self._before = _files(run.path)

    def __enter__(self) -> Copies:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def copy(self, name: str, *, states: bool = True) -> Path:
        """Copy what a resumed training reads.

        Args:
            name: Name of a new folder for the copy.
            states: Whether the training states are copied.

        Returns:
            Path of the copy. Its last part is the name of the run.

        Raises:
            RunError: The run cannot be read, or the disk is full.
        """
        path = self.folder / name / self.run.name
        try:
            path.mkdir(parents=True)
            for entry in self.run.path.iterdir():
                if entry.is_file() and entry.suffix not in _LEFT_OUT and entry.name != MODEL:
                    shutil.copyfile(entry, path / entry.name)
            if states and self.run.states.is_dir():
                shutil.copytree(self.run.states, path / STATE_FOLDER)
        except (OSError, shutil.Error) as error:
            cause = getattr(error, "strerror", None) or error
            raise RunError(
                f"the run {self.run.path} could not be copied to {self.folder}: {cause}; the "
                "variable TMPDIR names another folder for temporary files"
            ) from error
        return path

    def ask(
        self,
        request: Mapping[str, Any],
        *,
        threads: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """Start a process, and wait for its answer.

        Args:
            request: The request, see `cnnforge.verifying.trials.answer`.
            threads: Number of threads of the process; `None`: as many as this process may use.
            variables: Environment variables of the process, in addition to those of this process.

        Returns:
            The answer. `None` if SIGKILL has ended the process, and the request asks for that.

        Raises:
            CnnforgeError: The process has met an error, or has ended without an answer.
        """
        options = self.options
        whole = {
            "original": str(self.run.path),
            "data": options.data,
            "plugin": list(options.plugin),
            "trust": options.trust,
            "steps": options.steps,
            **request,
        }
        environment = {**os.environ, **(variables or {})}
        if threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        code, output = self._run(json.dumps(whole), environment)
        try:
            answer = json.loads(output)
        except ValueError:
            if code == -9 and "kill" in request:
                return None
            raise self._died(code) from None
        if "error" in answer:
            kind = UsageError if answer["code"] == UsageError.exit_code else CnnforgeError
            error = kind(answer["error"])
            error.exit_code = answer["code"]
            raise error
        return answer

    def unchanged(self) -> None:
        """Check that nothing has changed in the run since this object was made.

        Raises:
            RunError: A file has changed.
        """
        now = _files(self.run.path)
        changed = sorted(
            name
            for name in now.keys() | self._before.keys()
            if now.get(name) != self._before.get(name)
        )
        if changed:
            raise RunError(
                f"{self.run.path / changed[0]} has changed during the check, which writes nothing "
                "into the run: another program, or a callback of a plugin, has written it"
            )

    def _run(self, request: str, environment: Mapping[str, str]) -> tuple[int, str]:
        with (self.folder / _LOG).open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        assert process.stdin is not None
        assert process.stdout is not None
        # The process ends itself when its stdin ends, so keep it open until the answer is there.
        with process.stdin, process.stdout:
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                output = process.stdout.read()
                return process.wait(), output
            except BrokenPipeError:
                return process.wait(), ""
            finally:
                process.kill()
                process.wait()

    def _died(self, code: int) -> CnnforgeError:
        """Return an error that says how a process has ended, with the last line that it wrote."""
        text = (self.folder / _LOG).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
        last = f": {lines[-1]}" if lines else ""
        hint = "; memory may have run out" if code == -9 else ""
        return CnnforgeError(
            f"the process that trains a copy of the run {self.run.path} was ended {how}{last}{hint}"
        )


def _files(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return size, times and number of each file in a folder, by its path."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            found[os.path.relpath(path, folder)] = facts
    return found

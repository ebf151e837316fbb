"""Explain a picture in a process of its own, which ends afterwards.

Keras takes seconds to import and much memory, and the server needs neither for predictions.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cnnforge.errors import CnnforgeError, one_line
from cnnforge.model_files.trust import models_are_trusted, trusting_models
from cnnforge.serving.limits import Refused

if TYPE_CHECKING:
    from cnnforge.prediction import RunData

# Name of the picture in the page.
_NAME = "your picture"
_OK, _FAILED = b"+", b"-"


@dataclass(frozen=True)
class Explainer:
    """Makes pages as `cnnforge explain` does.

    Attributes:
        run: The run directory.
        data: The data of the run.
        plugins: Plugins to load that are not installed, as for `--plugin`.
        trust_model: Whether model files are opened without checks, as for `--trust-model`.
    """

    run: Path
    data: RunData
    plugins: Sequence[str] = ()
    trust_model: bool = field(default_factory=models_are_trusted)

    async def explain(self, content: bytes, seconds: float) -> str:
        """Make the page of a picture.

        Args:
            content: Content of the file, which was checked by `check_picture`.
            seconds: Max time.

        Returns:
            HTML.

        Raises:
            Refused: The page could not be made in time, or for another reason.
        """
        path = os.pathsep.join(each for each in sys.path if each)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            # A Ctrl-C in the terminal is for the server.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(seconds):
                made, _ = await process.communicate(pickle.dumps((self, content)))
        except TimeoutError:
            raise Refused(503, f"the explanation was not ready after {seconds:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if made[:1] == _OK:
            return made[1:].decode()
        if made[:1] == _FAILED:
            raise Refused(422, f"the picture cannot be explained: {made[1:].decode()}")
        raise Refused(500, f"the process of the explanation ended with status {process.returncode}")


def _explain(explainer: Explainer, content: bytes) -> str:
    import keras

    from cnnforge.configuration import TrainingOptions, check_types
    from cnnforge.data.images import check_image, read_image
    from cnnforge.plugin_host.discovery import discover
    from cnnforge.prediction.opening import plugin_names
    from cnnforge.runs import CONFIG, RunDirectory
    from cnnforge.serving.pictures import stored

    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    run = RunDirectory.open(explainer.run)
    options = TrainingOptions(**check_types(run.read_config()[0], CONFIG))
    from cnnforge.explaining.opening import explain_picture

    picture = stored(content)
    checked = check_image(picture)
    loaded = read_image(picture, (*checked.size, 1 if checked.grayscale else 3))
    with trusting_models(explainer.trust_model):
        plugins = discover(plugin_names(run.path, options.plugin, explainer.plugins))
        return explain_picture(run, explainer.data, plugins, picture, loaded, _NAME).text


def _main() -> None:
    # Libraries print, too. What they print is not the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        text = _OK + _explain(*pickle.load(sys.stdin.buffer)).encode()
    except CnnforgeError as error:
        text = _FAILED + str(error).encode("utf-8", "replace")
    except Exception as error:
        text = _FAILED + one_line(error).encode("utf-8", "replace")
    with open(answer, "wb") as file:
        file.write(text)


if __name__ == "__main__":
    _main()

"""Train and run convolutional networks from the command line, with plugins and Numba kernels.

`load` opens the trained model of a run in a Python program. The other public names are in the
packages below this one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels
    from cnnforge.prediction import Model

__all__ = ["load"]


def load(
    run: str | os.PathLike[str],
    *,
    kernels: Kernels = "auto",
    plugins: Sequence[str] = (),
) -> Model:
    """Load the trained model of a run.

    If the run has an inference plan, neither TensorFlow nor Keras is imported. `cnnforge train`
    makes the plan. A run without one, or with one that does not fit any more, is opened through
    Keras, and its plan is made again if that is possible.

    Args:
        run: The run directory; or `"latest"`, the newest run in the folder `runs`.
        kernels: `"auto"` uses the plan. `"numba"` and `"keras"` open the model through Keras, with
            plugin layers or with stock layers.
        plugins: Files and modules of plugins that the model needs and that are not installed, as
            for the option `--plugin`.

    Returns:
        The model.

    Raises:
        CnnforgeError: There is no such run, a file of it is missing or damaged, or a plugin is
            missing; a subclass such as `UsageError` or `RunError`.

    Example:
        ```python
        import cnnforge

        model = cnnforge.load("runs/lenet-mnist5k-001")
        found = model.predict("digit.png")
        print(found.label, found.probability)
        ```
    """
    # Imported here, so that `import cnnforge` stays light.
    from cnnforge.prediction import model

    return model.load(run, kernels=kernels, plugins=plugins)

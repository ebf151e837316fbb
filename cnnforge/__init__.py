"""Train and run convolutional networks from the command line, with plugins and Numba kernels.

`load` opens the trained model of a run in a Python program. `load_plugins` imports the layers of
all plugins, so that Keras opens model files that contain them. The other public names are in the
packages below this one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels
    from cnnforge.prediction import Model

__all__ = ["load", "load_plugins"]


def load(
    run: str | os.PathLike[str],
    *,
    kernels: Kernels = "auto",
    plugins: Sequence[str] = (),
    trust_model: bool = False,
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
            for the option `--plugin`. They are remembered on this machine.
        trust_model: Whether to open `model.keras` without the checks that refuse code, and to
            import all plugins that the run names, as for the option `--trust-model`. Such files can
            run any code.

    Returns:
        The model.

    Raises:
        UsageError: The folder is not a run, an argument is invalid, or the run names a plugin
            that is not installed and was never named on this machine.
        RunError: A file of the run or a plugin is missing, or a file is damaged or
            refused.

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

    return model.load(run, kernels=kernels, plugins=plugins, trust_model=trust_model)


def load_plugins(plugins: Sequence[str] = ()) -> None:
    """Import the layers of all installed plugins, so that Keras opens models that contain them.

    Keras knows a class only after its module was imported. This function imports Keras. A layer
    that cannot be imported is left out, with a warning of the logger `cnnforge`.

    Args:
        plugins: Files and modules of plugins that are not installed, as for the option `--plugin`.

    Raises:
        UsageError: A plugin in `plugins` cannot be loaded.

    Example:
        ```python
        import cnnforge
        import keras

        cnnforge.load_plugins()
        model = keras.saving.load_model("runs/gabor_net-mnist5k-001/model.keras")
        ```
    """
    from cnnforge.plugin_host.layers import load_layers

    load_layers(plugins)

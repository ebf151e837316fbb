"""Count the floating-point operations and bytes of a layer, with a function that its spec names."""

from __future__ import annotations

import keras

from cnnforge.conversion.workloads import Workload
from cnnforge.errors import PluginError, one_line
from cnnforge.plugin import Work


def work(workload: Workload, layer: keras.layers.Layer) -> dict[str, Work] | None:
    """Count the operations and bytes of each pass of a layer.

    Args:
        workload: The layer and its shape.
        layer: The built reference.

    Returns:
        The operations and bytes of ``forward``, ``backward`` and ``full``. `None` if the spec names
        no function, or if the function returns `None`.

    Raises:
        PluginError: The function of the layer's spec cannot be imported, or it fails.
    """
    count = workload.spec.load_work()
    if count is None:
        return None
    try:
        found = count(layer, workload.shape, workload.grad_inputs)
        if found is None:
            return None
        forward, backward = found["forward"], found["backward"]
        return {"forward": forward, "backward": backward, "full": forward + backward}
    except Exception as error:
        raise PluginError(
            f"the work of {workload.spec.qualified_name!r} cannot be counted by "
            f"{workload.spec.work}: {one_line(error)}"
        ) from error

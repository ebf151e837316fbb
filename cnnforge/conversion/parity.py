"""Whether a layer that is about to be timed computes what its reference computes."""

from __future__ import annotations

import keras

from cnnforge.conversion.certificate import LayerCheck, certify
from cnnforge.conversion.workloads import Workload
from cnnforge.errors import one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry

# The certificate computes its reference in float64 several times over; more images would check
# nothing more: every image is computed alike, or statistics of eight are as good as of all.
_CHECKED_IMAGES = 8


def check(workload: Workload) -> LayerCheck:
    """Compare a layer with its reference in float64, outputs and gradients.

    Args:
        workload: Of its images at most eight are computed.

    Returns:
        The result; no time of a layer is worth anything unless it has passed.
    """
    spec, shape = workload.spec, workload.shape
    only: Registry[LayerSpec] = Registry(LayerSpec)
    only.add(spec.plugin or "plugin", [spec])
    error = "the layer is not of the class it declares"
    try:
        layer = workload.kind.from_config(dict(workload.config))
        model = keras.Sequential([keras.Input(shape[1:]), layer])
        checks = certify(model, layers=only, batch=min(shape[0], _CHECKED_IMAGES))
        if checks:
            return checks[0]
    except Exception as raised:
        error = one_line(raised)
    kind = workload.reference.__name__
    return LayerCheck(spec.name, kind, spec.qualified_name, shape, "", (), error)

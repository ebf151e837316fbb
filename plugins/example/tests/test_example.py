"""Check that the layers and the model of this plugin pass cnnforge's conformance kit."""

import pytest

from cnnforge.testing import layer_checks, model_checks

CHECKS = {
    f"{name}-{check}": check
    for name, checks in (
        ("gabor", layer_checks("example/gabor_conv2d")),
        ("separable", layer_checks("example/separable_block2d")),
        ("blur", layer_checks("example/blur_pool2d")),
        ("excite", layer_checks("example/squeeze_excite")),
        ("involution", layer_checks("example/involution2d")),
        ("net", model_checks("example/gabor_net")),
    )
    for check in checks
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_it(check):
    """Run one check of a layer or of the model."""
    check()

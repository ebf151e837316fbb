"""Both layers pass cnnforge's conformance kit, and so does the model."""

import pytest

from cnnforge.testing import layer_checks, model_checks

CHECKS = {
    f"{name}-{check}": check
    for name, checks in (
        ("gabor", layer_checks("example/gabor_conv2d")),
        ("separable", layer_checks("example/separable_block2d")),
        ("net", model_checks("example/gabor_net")),
    )
    for check in checks
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_it(check):
    """It holds."""
    check()

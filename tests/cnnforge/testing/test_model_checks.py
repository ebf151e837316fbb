"""The checks of a model find a plugin layer of it that computes something wrong."""

import mutant_models

from cnnforge.plugin_host.discovery import Plugins
from cnnforge.testing import model_checks


def results(name):
    plugins = Plugins()
    plugins.register(mutant_models, "mutants")
    return {str(check): check.result() for check in model_checks(f"mutants/{name}", plugins)}


def test_a_good_layer():
    found = results("good")
    assert {status for status, _ in found.values()} == {"ok"}, found
    assert found["kernels-8x8x3"] == ("ok", "1 checked")


def test_a_wrong_gradient():
    found = results("wrong")
    assert [name for name, (status, _) in found.items() if status != "ok"] == ["kernels-8x8x3"]
    assert found["kernels-8x8x3"][1] == (
        "the kernel of layer 'mix' (mutants/wrong_sign) fails at (2, 8, 8, 3): its grad_mix differ "
        "from those of its oracle"
    )

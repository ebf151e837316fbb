"""Put the checks of a layer into the order of causes, and say what each of them depends on.

A wrong shape leads to writes outside of an array, these lead to results that change from call to
call, and those to any other failure. So a check comes after all checks whose failure could make it
fail too. If one of these has failed, the check is not run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cnnforge.plugin import LayerSpec
from cnnforge.testing import (
    _behaviour,
    _conversion,
    _cuda,
    _first_run,
    _gradients,
    _memory,
    _shapes,
    _structure,
    _training,
    _values,
)
from cnnforge.testing._inference import inference
from cnnforge.testing._subject import Subject
from cnnforge.testing.cases import Check
from cnnforge.testing.fresh_process import save_and_load

# Each kind of check, and the kinds that it depends on, directly. A kind that a layer does not have
# is left out.
_MEMORY = ("index_in_range", "races", "every_element_written", "inputs_unchanged")
_REPEATABLE = ("determinism", "no_state")
_VALUES = ("values_oracle", "values_reference")
_GRADIENTS = ("gradients_oracle", "gradients_reference", "gradients_numeric")
_RIGHT = (*_VALUES, *_GRADIENTS)
ORDER: dict[str, tuple[str, ...]] = {
    "builds": (),
    "output_shape": ("builds",),
    "runs": ("output_shape",),
    "prints": ("runs",),
    "index_in_range": ("runs",),
    "races": ("index_in_range",),
    "every_element_written": ("races",),
    "inputs_unchanged": ("every_element_written",),
    "determinism": _MEMORY,
    "no_state": ("determinism",),
    "oracle": ("builds",),
    "reference": ("builds",),
    "values_oracle": ("oracle", *_REPEATABLE),
    "values_reference": ("reference", *_REPEATABLE),
    "gradients_oracle": _VALUES,
    "gradients_reference": _VALUES,
    "gradients_numeric": _REPEATABLE,
    "config_round_trip": _REPEATABLE,
    "bad_arguments": ("builds",),
    "batch_sizes": _RIGHT,
    "eager_equals_graph": _RIGHT,
    "precision": _RIGHT,
    "training_step": (*_RIGHT, "eager_equals_graph"),
    "training_reference": _RIGHT,
    "forge_and_lower": (*_RIGHT, "config_round_trip"),
    "cuda": _RIGHT,
    "speed": _RIGHT,
}
_RUNS: dict[str, Any] = {
    **_first_run.CHECKS,
    **_shapes.CHECKS,
    **_memory.CHECKS,
    **_values.CHECKS,
    **_gradients.CHECKS,
    **_structure.CHECKS,
    **_behaviour.CHECKS,
    **_training.CHECKS,
    **_conversion.CHECKS,
    "cuda": _cuda.cuda,
    "speed": _conversion.speed,
}


def list_checks(
    spec: LayerSpec, subjects: Sequence[Subject], targets: Check, *, speed: bool, cuda: bool
) -> list[Check]:
    """List the checks of a layer whose classes could be imported.

    Args:
        spec: Spec of the layer.
        subjects: The layer with each of its cases.
        targets: The check of what the spec names, on which all others depend.
        speed: Whether to measure the speed too.
        cuda: Whether to run the functions for CUDA devices in Numba's simulator too.
    """
    asked = {"speed": speed, "cuda": cuda}
    wanted = [set(_wanted(subject, asked)) for subject in subjects]
    registration = Check("registration", "", partial(_structure.registration, spec), (targets,))
    checks, made = [targets, registration], {}
    for kind, before in ORDER.items():
        repeats: list[Check] = []
        for number, subject in enumerate(subjects):
            if kind not in wanted[number]:
                continue
            after = [made[number, it] for it in before if (number, it) in made] or [targets]
            run = partial(_RUNS[kind], subject)
            check = Check(kind, subject.case.name, run, tuple(after), tuple(repeats))
            made[number, kind] = check
            repeats.append(check)
            checks.append(check)
    after = [made[number, "config_round_trip"] for number in range(len(subjects))]
    run = partial(save_and_load, subjects)
    checks.append(Check("save_and_load", "", run, (registration, *after)))
    if not _has_reference(spec):
        # A model is saved with the reference in place of the layer, so an inference plan is made
        # of the reference.
        run = partial(inference, subjects)
        checks.append(Check("inference", "", run, (registration, *after)))
    return checks


def _wanted(subject: Subject, asked: Mapping[str, bool]) -> list[str]:
    """Return the kinds of checks that can be made with a case."""
    has_oracle = subject.case.oracle is not None
    has_reference = _has_reference(subject.spec)
    # All other comparisons call the layer without `training=True`. So a layer with an argument
    # `training` needs a check of its own.
    call = getattr(subject.spec.load(), "call", None)
    trains = call is not None and "training" in inspect.signature(call).parameters
    conditions = {
        "bad_arguments": bool(subject.case.bad_arguments),
        "oracle": has_oracle,
        "values_oracle": has_oracle,
        "gradients_oracle": has_oracle,
        "reference": has_reference,
        "values_reference": has_reference,
        "gradients_reference": has_reference,
        "gradients_numeric": not has_oracle and not has_reference,
        "training_reference": has_reference and trains,
        "forge_and_lower": has_reference,
        **asked,
    }
    return [kind for kind in ORDER if conditions.get(kind, True)]


def _has_reference(spec: LayerSpec) -> bool:
    return bool(getattr(spec, "stock", None) or spec.reference)

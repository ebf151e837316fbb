"""Compute the output shapes of an op in Python, also if some dimensions are not known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnforge.ops.definition.definition import Definition, parameters

Shape = tuple[int | None, ...]

# The shape rule is called with each of these values in place of an unknown dimension. They differ
# by much, so that a dependent output dimension also differs, even if a division is rounded. They
# are large, so that a window fits into the input.
_SUBSTITUTES = (1009, 1000003)


def output_shapes(
    definition: Definition, shapes: Sequence[Shape], attributes: Mapping[str, Any]
) -> tuple[Shape, ...]:
    """Call an op's shape rule, the author's function that computes the output shapes.

    If there are unknown dimensions, the rule is called twice, with different values in their place.
    An output dimension is unknown if it differs between the two calls. If the rule rejects such
    values, all output dimensions are unknown.

    Args:
        definition: The op.
        shapes: Shape of every input; `None` for an unknown dimension.
        attributes: Value of every attribute.

    Returns:
        Shape of every output; `None` for an unknown dimension.

    Raises:
        ValueError: The rule rejects the shapes, or its result does not fit the declared ranks.
    """
    if not any(dimension is None for shape in shapes for dimension in shape):
        return _evaluate(definition, shapes, attributes)
    trials = []
    for base in _SUBSTITUTES:
        count = 0
        trial = []
        for shape in shapes:
            known = []
            for dimension in shape:
                if dimension is None:
                    count += 1
                    dimension = base * count + count - 1
                known.append(dimension)
            trial.append(tuple(known))
        try:
            trials.append(_evaluate(definition, trial, attributes))
        except (ValueError, ArithmeticError):
            return tuple((None,) * output.rank for output in definition.outputs)
    return tuple(
        tuple(a if a == b else None for a, b in zip(first, second, strict=True))
        for first, second in zip(*trials, strict=True)
    )


def _evaluate(
    definition: Definition, shapes: Sequence[Shape], attributes: Mapping[str, Any]
) -> tuple[Shape, ...]:
    values = dict(zip((item.name for item in definition.inputs), shapes, strict=True))
    values.update(attributes)
    rule = getattr(definition.shape_rule, "py_func", definition.shape_rule)
    label = f"ArrayOp {definition.name!r}: the shape rule {rule.__name__!r}"
    try:
        returned = rule(*(values[name] for name in parameters(rule)))
    except Exception as error:
        error.add_note(f"raised by the shape rule of ArrayOp {definition.name!r}")
        raise
    outputs = definition.outputs
    several = (returned,) if len(outputs) == 1 else returned
    expected = ", ".join(f"{item.name}: {item.rank} dimensions" for item in outputs)
    if (
        not isinstance(several, tuple)
        or len(several) != len(outputs)
        or not all(isinstance(shape, tuple) for shape in several)
        or [len(shape) for shape in several] != [item.rank for item in outputs]
    ):
        raise ValueError(f"{label} returned {returned!r}, expected a tuple each for {expected}")
    if any(dimension < 0 for shape in several for dimension in shape):
        raise ValueError(
            f"{label} returned the negative dimension in {returned!r} for the shapes "
            f"{dict(zip((item.name for item in definition.inputs), shapes, strict=True))}"
        )
    return tuple(tuple(int(dimension) for dimension in shape) for shape in several)

"""Apply functions to the arrays in nested dictionaries, lists and tuples, without Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def flatten(structure: Any) -> list[Any]:
    """List the leaves of a structure, in the order of `keras.tree.flatten`.

    Args:
        structure: A leaf, or a dictionary, list or tuple of structures.

    Returns:
        The leaves. Those of a dictionary are in the order of its sorted keys.
    """
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in flatten(structure[key])]
    if isinstance(structure, list | tuple):
        return [leaf for part in structure for leaf in flatten(part)]
    return [structure]


def map_structure(function: Callable[..., Any], *structures: Any) -> Any:
    """Call a function with the leaves at the same place in several structures.

    Args:
        function: Function of one leaf of each structure.
        structures: Structures that differ only in their leaves.

    Returns:
        The results, in the same structure.
    """
    first = structures[0]
    if isinstance(first, dict):
        return {key: map_structure(function, *(each[key] for each in structures)) for key in first}
    if isinstance(first, list | tuple):
        parts = [map_structure(function, *each) for each in zip(*structures, strict=True)]
        return parts if isinstance(first, list) else tuple(parts)
    return function(*structures)

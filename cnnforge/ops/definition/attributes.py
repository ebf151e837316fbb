"""Attributes of an op (its arguments that are not tensors), and their encoding as 64-bit words."""

from __future__ import annotations

import operator
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numba import types


@dataclass(frozen=True)
class Attribute:
    """One attribute of an op.

    Attributes:
        name: Name of the keyword argument in a call, and of the parameter of the op's functions.
        default: Default value: an int, a float, a bool or a tuple of ints. The value of a caller
            must have the same type, and if it is a tuple, the same length.
    """

    name: str
    default: int | float | bool | tuple[int, ...]

    @classmethod
    def declare(cls, op: str, name: str, default: Any) -> Attribute:
        """Check the name and the default of an attribute, and make the attribute.

        Raises:
            ValueError: The name is not lower_snake_case, or the type of the default is not allowed.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{op}: attribute {name!r}: expected a lower_snake_case name")
        plain = isinstance(default, (int, float)) or (
            isinstance(default, tuple)
            and all(isinstance(item, int) and not isinstance(item, bool) for item in default)
        )
        if not plain:
            raise ValueError(
                f"{op}: attribute {name!r} has the default {default!r}, expected an int, a float, "
                "a bool or a tuple of ints"
            )
        return cls(name, default)

    @property
    def type(self) -> types.Type:
        """The Numba type of the parameter."""
        if isinstance(self.default, bool):
            return types.boolean
        if isinstance(self.default, int):
            return types.int64
        if isinstance(self.default, float):
            return types.float64
        return types.UniTuple(types.int64, len(self.default))

    @property
    def words(self) -> int:
        """Number of 64-bit words of an encoded value."""
        return len(self.default) if isinstance(self.default, tuple) else 1

    def check(self, op: str, value: Any) -> Any:
        """Convert a caller's value to the type of the default.

        Raises:
            TypeError: The value cannot be converted to that type.
            ValueError: The value is a tuple, and its length differs from that of the default.
        """
        default = self.default
        try:
            if isinstance(default, bool):
                if operator.index(value) in (0, 1):
                    return bool(value)
            elif isinstance(default, int):
                if not isinstance(value, bool):
                    return operator.index(value)
            elif isinstance(default, float):
                return float(value)
            elif not isinstance(value, (str, bytes)):
                items = tuple(operator.index(item) for item in value)
                if len(items) != len(default):
                    raise ValueError(
                        f"{op}: attribute {self.name!r} is {value!r}, expected {len(default)} "
                        f"integers as in {default!r}"
                    )
                return items
        except TypeError:
            pass
        kind = "tuple of ints" if isinstance(default, tuple) else type(default).__name__
        raise TypeError(
            f"{op}: attribute {self.name!r} is {value!r} ({type(value).__name__}), expected a "
            f"{kind} as in {default!r}"
        )

    def encode(self, value: Any) -> list[int]:
        """Encode a value as 64-bit words, after `check`."""
        if isinstance(self.default, tuple):
            return list(value)
        if isinstance(self.default, float):
            return list(struct.unpack("q", struct.pack("d", value)))
        return [int(value)]

    def decode(self, words: Sequence[int]) -> Any:
        """Return the value from the words that `encode` made."""
        if isinstance(self.default, tuple):
            return tuple(words)
        if isinstance(self.default, float):
            return struct.unpack("d", struct.pack("q", words[0]))[0]
        return type(self.default)(words[0])


def check_attributes(
    op: str, attributes: Sequence[Attribute], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Check a caller's keyword arguments, and return the values of all attributes.

    An attribute that the caller does not give has its default.

    Raises:
        TypeError: An attribute does not exist, or the type of a value is wrong.
        ValueError: The length of a tuple is wrong.
    """
    names = [attribute.name for attribute in attributes]
    for name in given:
        if name not in names:
            raise TypeError(
                f"{op} has no attribute {name!r}; "
                + (f"there are {', '.join(names)}" if names else "it has none")
            )
    return {
        attribute.name: attribute.check(op, given[attribute.name])
        if attribute.name in given
        else attribute.default
        for attribute in attributes
    }


def encode_attributes(attributes: Sequence[Attribute], values: Mapping[str, Any]) -> list[int]:
    """Encode the values of all attributes as 64-bit words, in the order of declaration."""
    return [word for item in attributes for word in item.encode(values[item.name])]


def decode_attributes(attributes: Sequence[Attribute], words: Sequence[int]) -> dict[str, Any]:
    """Return the values of all attributes, by name, from the words of `encode_attributes`.

    Raises:
        ValueError: The number of words is wrong.
    """
    if len(words) != sum(item.words for item in attributes):
        raise ValueError(
            f"the attributes take {len(words)} words, expected "
            f"{sum(item.words for item in attributes)}: the graph was saved with another version "
            "of this op"
        )
    values, position = {}, 0
    for item in attributes:
        values[item.name] = item.decode(words[position : position + item.words])
        position += item.words
    return values

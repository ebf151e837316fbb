"""Spoil bytes and texts: flipped bits, cuts, copies, and numbers replaced by extreme ones."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Random = random.Random

# What readers of many formats stumble over.
WORDS = (
    *(b"", b"\0", b"\xff", b"\n", b"\r\n", b"\r", b" ", b"\t", b",", b";", b'"', b"'", b"\\", b"/"),
    *(b"..", b"../../etc/passwd", b"/dev/zero", b"/dev/stdin", b"%s", b"{}", b"{0.__class__}"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xcc\x81"),
    *(b"nan", b"NaN", b"inf", b"-Infinity", b"null", b"None", b"true", b"False", b"1_0", b"0x10"),
    *(b"[" * 3000, b"{" * 3000, b"(" * 3000, b"[" * 200_000, b'{"a":' * 100_000, b"<a>" * 5000),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"<![CDATA[", b"<?xml version='9'?>"),
    *(
        b"&a [*a]",
        b"!!python/object/apply:os.system [ls]",
        b"<<: *a",
        b"? a\n: b\n",
        b"---\n",
        b"%",
    ),
    *(
        "é".encode(),
        "²".encode(),
        "٣".encode(),
        "\uff11".encode(),
        "😀".encode(),
        "\u2028".encode(),
    ),
)
NUMBERS = (
    *(b"0", b"-0", b"1", b"-1", b"2", b"255", b"256", b"257", b"32767", b"65535", b"65536"),
    *(b"2147483647", b"2147483648", b"4294967295", b"4294967296", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809", b"1" + b"0" * 30),
    *(
        b"1" + b"0" * 400,
        b"0x" + b"f" * 5000,
        b"9" * 5000,
        b"1e308",
        b"1e309",
        b"-1e309",
        b"1e-320",
        b"1e400",
        b"nan",
    ),
    *(b"inf", b"0.5", b"-0.5", b"1.0", b"1e6", b"100000", b"99999999", b"1e18", b"0.1e1", b"+1"),
    *(b"1.", b".5", b"1,5", b"007", b"1e", b"--1", b"1979-05-27T07:32:00Z", b"07:32:00"),
)
EXTREMES = (0, 1, 2, 3, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000)
EXTREMES = (*EXTREMES, 0xFFFFFFFF, 0x100000000, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 1_000_000)
_MAX = 1 << 20

_TOKEN = re.compile(rb"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\w+|\s+|.", re.DOTALL)


def spoiled(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a content with one to four random faults.

    Args:
        content: The content.
        rng: The source of randomness.
        others: Other contents of the same kind, parts of which are copied into this one.
    """
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(_FAULTS)(made, rng, others)
    return bytes(made[:_MAX])


def spoiled_text(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a text with random faults in its words, numbers and lines."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        content = rng.choice(_TEXT_FAULTS)(content, rng, others)
    return content[:_MAX]


def _flip(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    if made:
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)


def _set(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    if made:
        made[rng.randrange(len(made))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    del made[rng.randint(0, len(made)) :]


def _remove(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    at = rng.randint(0, len(made))
    del made[at : at + rng.choice((1, 2, 4, 8, 64, len(made)))]


def _repeat(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    at = rng.randint(0, len(made))
    made[at:at] = made[at : at + rng.randint(1, 64)] * rng.choice((1, 1, 2, 100))


def _word(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    at = rng.randint(0, len(made))
    made[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(WORDS)


def _integer(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    """Replace what may be a length, in one of the usual forms."""
    size = rng.choice((1, 2, 4, 8))
    if len(made) < size:
        return
    # Lengths and offsets are more often near the ends.
    near = rng.choice((64, 512, len(made)))
    at = rng.randrange(len(made) - size + 1)
    at = min(at, near) if rng.random() < 0.5 else max(len(made) - size - at % near, 0)
    order = rng.choice(("little", "big"))
    now = int.from_bytes(made[at : at + size], order)
    value = rng.choice((*EXTREMES, now + 1, now - 1, now * 2, now // 2, -now))
    made[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)


def _splice(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others) if others else bytes(made)
    at, start = rng.randint(0, len(made)), rng.randint(0, len(other))
    part = other[start : start + rng.choice((4, 16, 256, len(other)))]
    made[at : at + rng.choice((0, len(part)))] = part


def _blank(made: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    at = rng.randint(0, len(made))
    size = min(rng.choice((4, 16, 64, 512)), len(made) - at)
    made[at : at + size] = bytes([rng.choice((0, 0xFF, 0x20, 0x41))]) * size


_FAULTS: Sequence[Callable[[bytearray, Random, Sequence[bytes]], None]] = (
    *(_flip, _flip, _flip, _set, _set, _cut, _remove, _repeat, _word, _integer, _integer),
    *(_splice, _blank),
)


def _token(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Replace a word or a number. Only a part of a long text is taken apart."""
    start = rng.randint(0, max(len(content) - 2000, 0))
    tokens = _TOKEN.findall(content[start : start + 2000])
    if not tokens:
        return rng.choice(WORDS)
    numbers = [at for at, token in enumerate(tokens) if token[:1].isdigit()]
    if numbers and rng.random() < 0.6:
        tokens[rng.choice(numbers)] = rng.choice(NUMBERS)
    else:
        at = rng.randrange(len(tokens))
        tokens[at] = rng.choice((rng.choice(tokens), rng.choice(WORDS), rng.choice(NUMBERS), b""))
    return content[:start] + b"".join(tokens) + content[start + 2000 :]


def _line(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    action = rng.randrange(5)
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(at, rng.choice(lines))
    elif action == 2:
        rng.shuffle(lines)
    elif action == 3 and others:
        lines[at] = rng.choice(rng.choice(others).split(b"\n"))
    else:
        lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
    return b"\n".join(lines)


def _encoded(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    text = content.decode("utf-8", "replace")
    form = rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7"))
    return text.encode(form, "replace")


def _raw(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return spoiled(content, rng, others)


_TEXT_FAULTS: Sequence[Callable[[bytes, Random, Sequence[bytes]], bytes]] = (
    *(_token, _token, _token, _token, _line, _line, _raw, _raw),
) * 3 + (_encoded,)

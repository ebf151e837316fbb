"""Spoil files inside their containers, and repair checksums, so that the inner reader is reached."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from fuzz_bytes import EXTREMES, NUMBERS, WORDS, Random, spoiled, spoiled_text

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (".csv", ".toml", ".txt", ".yaml", ".yml", ".xml", ".json", ".log", ".tsv", ".cls")
# Files that are left as they are this often.
_RAW = 0.2


def spoiled_file(name: str, content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a file with random faults that fit its kind.

    Args:
        name: Its name, whose ending says the kind.
        content: Its content.
        rng: The source of randomness.
        others: Contents of other files of the kind.
    """
    suffix = os.path.splitext(name)[1].lower()
    if rng.random() >= _RAW:
        try:
            made = _FORMS[suffix](content, rng, others) if suffix in _FORMS else None
            if made is None and content.startswith(_PNG):
                made = _png(content, rng)
            if made is not None:
                return made
        # A seed of the wrong kind, or one that is damaged already.
        except (ValueError, KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile):
            pass
        except (struct.error, tarfile.TarError, NotImplementedError, RecursionError):
            pass
    plain = spoiled_text if suffix in _TEXTS else spoiled
    return plain(content, rng, others)


VALUES: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 65536, 2**31, 2**32, 2**63, 2**64, -(2**63) - 1),
    *(10**30, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), float("-inf"), -0.0, 1e-320),
    *(
        "",
        " ",
        "a",
        "0",
        "1",
        "nan",
        "1e999",
        "\0",
        "\ud800",
        "\u202e",
        "\n",
        "../x",
        "/",
        "a" * 5000,
    ),
    *([], {}, [[]], [None], {"": ""}, [1, 2, 3], {"a": {"b": [1]}}, "é\u0301", "²", 1.5, [{}], [0]),
)


def json_spoiled(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes | None:
    """Return a JSON text with other values, keys or lengths in random places."""
    if rng.random() < 0.15:
        return None
    document = json.loads(content)
    holder = [document]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(holder, rng)
    return json.dumps(holder[0], ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")


def _change(holder: list[Any], rng: Random) -> None:
    """Change one random place below a list with one item."""
    parent, key = holder, 0
    # A longer way down is as likely as a short one.
    for _ in range(rng.randint(0, 6)):
        value = parent[key]
        if isinstance(value, dict) and value:
            parent, key = value, rng.choice(list(value))
        elif isinstance(value, list) and value:
            parent, key = value, rng.randrange(len(value))
        else:
            break
    action = rng.randrange(8)
    if action == 0 and parent is not holder:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[rng.choice(("", "a", "id", "\0", str(key) * 2))] = parent.pop(key)
    elif action == 2 and isinstance(parent, list) and parent is not holder:
        parent.insert(key, rng.choice(parent))
    elif action == 3 and isinstance(parent, dict):
        parent[key] = parent[rng.choice(list(parent))]
    elif action == 4:
        value: Any = rng.choice(VALUES)
        for _ in range(rng.choice((1, 2, 50))):
            value = rng.choice(([value], {"a": value}))
        parent[key] = value
    else:
        parent[key] = rng.choice(VALUES)


def _npy(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes | None:
    """Spoil the description of an array, and give it the right length."""
    if rng.random() < 0.3 or content[:6] != b"\x93NUMPY":
        return None
    size = struct.unpack("<H", content[8:10])[0]
    about, data = content[10 : 10 + size], content[10 + size :]
    if rng.random() < 0.5:
        kind = rng.choice(
            (
                b"|u1",
                b"<f4",
                b">f8",
                b"|O",
                b"<U3",
                b"|S2",
                b"<c8",
                b"<M8[D]",
                b"|b1",
                b"<i8",
                b"<f2",
            )
        )
        shape = tuple(
            rng.choice((0, 1, 2, 3, 4, 8, 12, 2**31, 2**62)) for _ in range(rng.randint(0, 5))
        )
        order = rng.choice((b"False", b"True"))
        about = b"{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (
            kind,
            order,
            str(shape).encode(),
        )
        count = 1
        for each in shape:
            count *= each
        if rng.random() < 0.8 and count < 10_000:
            unit = {b"1": 1, b"4": 4, b"8": 8, b"2": 2}.get(kind[-1:], 8)
            unit = 12 if b"U" in kind else unit
            data = (data * (count * unit // max(len(data), 1) + 1))[: count * unit]
    else:
        about = spoiled_text(about.rstrip(), rng)[:60_000]
    about = about.ljust((len(about) + 10 + 64) // 64 * 64 - 10) + b"\n"
    return content[:8] + struct.pack("<H", min(len(about), 65535)) + about + data


def _zip(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes | None:
    """Spoil a member of an archive, and pack it again with the right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(each.filename, archive.read(each)) for each in archive.infolist()]
    at = rng.randrange(len(members))
    name, inner = members[at]
    action = rng.randrange(12)
    if action == 0:
        del members[at]
    elif action == 1:
        words = ("", "../x", "/x", "config.json", "x.npy", "é", "a" * 300, members[0][0])
        members[at] = (rng.choice(words), inner)
    elif action == 2:
        members.append((name, rng.choice(members)[1]))
    elif action == 3:
        members[at] = (name, rng.choice(members)[1])
    elif action == 4:
        members.append((rng.choice(("x.npy", "y.txt", "z/")), spoiled(inner, rng)))
    else:
        members[at] = (name, spoiled_file(name, inner, rng))
    file = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, inner in members:
            # The same file each time, and no warning about two members of one name.
            archive.NameToInfo.pop(name, None)
            archive.writestr(zipfile.ZipInfo(name), inner, method)
    return file.getvalue()


def _png(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes | None:
    """Spoil a chunk of a PNG file, and repair its length and its checksum."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(_PNG)
    while at + 8 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return None
    number = rng.randrange(len(chunks))
    kind, inner = chunks[number]
    action = rng.randrange(8)
    if action == 0:
        del chunks[number]
    elif action == 1:
        chunks.insert(rng.randint(0, len(chunks)), rng.choice(chunks))
    elif action == 2:
        kinds = (b"acTL", b"fcTL", b"fdAT", b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt", b"gAMA")
        chunks.insert(rng.randint(0, len(chunks)), (rng.choice(kinds), rng.randbytes(13)))
    elif kind == b"IHDR" and len(inner) == 13 and action < 6:
        parts = list(struct.unpack(">IIBBBBB", inner))
        part = rng.randrange(7)
        choices = EXTREMES[:14] if part < 2 else (0, 1, 2, 3, 4, 6, 8, 16, 255)
        parts[part] = rng.choice(choices) % (1 << 32)
        chunks[number] = (kind, struct.pack(">IIBBBBB", *parts))
    elif kind == b"IDAT" and action < 6:
        chunks[number] = (kind, zlib.compress(spoiled(zlib.decompress(inner), rng), 1))
    else:
        chunks[number] = (kind, spoiled(inner, rng))
    made = bytearray(_PNG)
    for kind, inner in chunks:
        made += struct.pack(">I", len(inner)) + kind + inner
        made += struct.pack(">I", zlib.crc32(kind + inner))
    return bytes(made)


def _gz(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes | None:
    if rng.random() < 0.2:
        return None
    inner = gzip.decompress(content)
    return gzip.compress(spoiled(inner, rng), 1, mtime=0)


def _tar(content: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes | None:
    """Spoil a header or a member of an archive, and repair the checksum of the header."""
    made = bytearray(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
    member = rng.choice(members)
    start = member.offset
    action = rng.randrange(6)
    if action == 0:
        inner = content[member.offset_data : member.offset_data + member.size]
        other = spoiled_file(member.name, inner, rng)[: member.size].ljust(member.size, b"\0")
        made[member.offset_data : member.offset_data + member.size] = other
        return bytes(made)
    fields = {
        "name": (0, 100), "mode": (100, 8), "size": (124, 12), "time": (136, 12), "type": (156, 1),
        "link": (157, 100), "magic": (257, 8), "prefix": (345, 155),
    }  # fmt: skip
    at, size = fields[rng.choice(list(fields))]
    if size == 1:
        value = rng.choice(b"01234567xgLKSDNVM\0\xff").to_bytes(1)
    elif rng.random() < 0.5:
        value = rng.choice((*NUMBERS, *WORDS))[:size].ljust(size, b"\0")
    else:
        value = spoiled(bytes(made[start + at : start + at + size]), rng)[:size].ljust(size, b"\0")
    made[start + at : start + at + size] = value
    made[start + 148 : start + 156] = b" " * 8
    total = sum(made[start : start + 512])
    made[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(made)


_Form = Callable[[bytes, Random, Sequence[bytes]], bytes | None]
_FORMS: dict[str, _Form] = {
    ".json": json_spoiled,
    ".npy": _npy,
    ".npz": _zip,
    ".keras": _zip,
    ".png": _png,
    ".gz": _gz,
    ".tar": _tar,
}

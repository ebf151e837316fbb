"""Make up files of arrays: NumPy's, IDX, HDF5, and checkpoints of PyTorch."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_up_texts import TEXTS, Draw, json_file, like

_KINDS = st.one_of(
    st.sampled_from(("u1", "<i8", "<f4", ">f8", ">i2", "<f2", "?", "<u8", "<U1", "S3", "<c8", "i1", "<f8")).map(np.dtype),
    hnp.scalar_dtypes(),
    hnp.array_dtypes(max_size=3),
    hnp.nested_dtypes(max_leaves=4),
    st.sampled_from((np.dtype("V3"), np.dtype("<U0"), np.dtype("S0"), np.dtype(np.longdouble), np.dtype(object))),
)  # fmt: skip
_SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)


def array(draw: Draw, seed: np.ndarray) -> np.ndarray:
    """Return an array like another one, or any array."""
    action = draw(st.sampled_from(("kind", "kind", "shape", "shape", "values", "any")))
    made = seed
    if action == "kind":
        made = _as_kind(seed, draw(_KINDS))
    elif action == "shape":
        with_shapes = (
            lambda: seed[..., None], lambda: seed[None], lambda: seed[:0], lambda: seed[:1], lambda: seed.T,
            lambda: seed.ravel(), lambda: seed[..., :0], lambda: seed[0], lambda: np.repeat(seed, 3, -1),
            lambda: seed.sum(), lambda: seed[..., None, None], lambda: seed[:-1],
        )  # fmt: skip
        try:
            made = np.asarray(draw(st.sampled_from(with_shapes))())
        # The array has no axis, no values, or texts.
        except (IndexError, TypeError, ValueError):
            made = np.zeros(draw(_SHAPES), np.uint8)
    elif action == "values":
        made = _filled(
            seed, draw(st.sampled_from((0, 1, -1, 255, 2**31, 2**63, np.nan, np.inf, 1e300, "")))
        )
    else:
        kind = draw(_KINDS)
        # Hypothesis has no values for the others.
        known = kind.itemsize > 0 and not kind.hasobject and kind != np.dtype("V3")
        shape = draw(_SHAPES)
        made = draw(hnp.arrays(kind, shape)) if known else np.zeros(shape, kind)
    return np.asfortranarray(made) if made.ndim > 1 and draw(st.booleans()) else made


def _as_kind(seed: np.ndarray, kind: np.dtype) -> np.ndarray:
    try:
        return seed.astype(kind)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return np.zeros(seed.shape, kind)


def _filled(seed: np.ndarray, value: Any) -> np.ndarray:
    try:
        return np.full_like(seed, value)
    except (ValueError, TypeError, OverflowError):
        return np.full(seed.shape, value)


def npy_file(draw: Draw, content: bytes) -> bytes:
    """Return a `.npy` file with an array like that of another one."""
    seed = np.load(io.BytesIO(content), allow_pickle=True)
    made, file = array(draw, seed), io.BytesIO()
    version = draw(st.sampled_from((None, (1, 0), (2, 0), (3, 0))))
    try:
        np.lib.format.write_array(file, made, version)
    # The first versions have no names that are not Latin.
    except (ValueError, UnicodeError):
        file = io.BytesIO()
        np.lib.format.write_array(file, made)
    return file.getvalue()


_PACKED = st.sampled_from(
    (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
)


def zip_file(draw: Draw, content: bytes) -> bytes:
    """Return an archive with members like those of another one.

    It may have further members, folders, two members of one name, comments and any packing.
    """
    if content[:6] == b"\x93NUMPY":
        return npy_file(draw, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(each, archive.read(each)) for each in archive.namelist()]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(members) - 1))
        name, inner = members[at]
        maker = {"npy": npy_file, "json": json_file, "h5": hdf5_file}.get(name.rpartition(".")[2])
        if maker:
            members[at] = (name, maker(draw, inner))
    action = draw(
        st.sampled_from((*["none"] * 6, "add", "name", "repeat", "remove", "folder", "swap"))
    )
    at = draw(st.integers(0, len(members) - 1))
    name, inner = members[at]
    if action == "add":
        ending = draw(st.sampled_from(("", ".npy", ".txt", "/", "/x.npy")))
        members.append((draw(_MEMBERS) + ending, inner))
    elif action == "name":
        members[at] = (draw(_MEMBERS) + draw(st.sampled_from(("", ".npy"))), inner)
    elif action == "repeat":
        members.insert(draw(st.integers(0, len(members))), members[at])
    elif action == "remove":
        del members[at]
    elif action == "folder":
        members.append(("folder/", b""))
    elif action == "swap":
        members[at] = (name, draw(st.sampled_from(members))[1])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        packed = draw(_PACKED)
        for name, inner in members:
            archive.NameToInfo.pop(name, None)
            about = zipfile.ZipInfo(name)
            about.compress_type = packed
            with archive.open(about, "w", force_zip64=action == "add") as member:
                member.write(inner)
        archive.comment = draw(st.binary(max_size=5))
    return file.getvalue()


_MEMBERS = TEXTS.map(lambda text: text.encode("utf-8", "replace").decode().replace("\0", "")[:300])

_IDX_KINDS = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx_file(draw: Draw, content: bytes) -> bytes:
    """Return an IDX file of any kind and shape, or with the kind or a part of the shape of another."""
    code = draw(st.sampled_from((8, 8, *_IDX_KINDS)))
    sides = st.integers(0, 6) | st.just(12)
    own = struct.unpack_from(f">{content[3]}I", content, 4)
    form = draw(st.sampled_from(("same", "side", "any")))
    shape = own if form == "same" else tuple(draw(st.lists(sides, max_size=5)))
    if form == "side":
        # The number of images stays more often, which must be that of the labels.
        at = draw(st.integers(min(1, len(own) - 1), len(own) - 1) | st.just(0))
        shape = (*own[:at], draw(sides), *own[at + 1 :])
    numbers = np.arange(int(np.prod(shape, dtype=np.int64))) % draw(st.sampled_from((2, 3, 256)))
    kind = np.dtype(_IDX_KINDS[code])
    factor = draw(st.sampled_from((1, 1 / 255, np.inf, 1e300))) if kind.kind == "f" else 1
    head = bytes((0, 0, code, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return head + (numbers * factor).astype(kind).tobytes()


def gzip_members(draw: Draw, content: bytes) -> bytes:
    """Pack a content with gzip, in one or several members, with any header."""
    parts = (
        [content[: len(content) // 2], content[len(content) // 2 :]]
        if draw(st.booleans())
        else [content]
    )
    if draw(st.integers(0, 5)) == 5:
        parts.append(b"")
    made = b""
    for part in parts:
        flags = draw(st.sampled_from((0, 0, 8, 16, 24)))
        made += b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\xff"
        made += b"name\0" * (flags // 8 % 2) + b"comment\0" * (flags // 16)
        packer = zlib.compressobj(draw(st.sampled_from((0, 1, 9))), wbits=-15)
        made += packer.compress(part) + packer.flush()
        made += struct.pack("<II", zlib.crc32(part), len(part) % (1 << 32))
    return made + draw(st.sampled_from((b"", b"", b"\0" * 512)))


def gzip_idx_file(draw: Draw, content: bytes) -> bytes:
    return gzip_members(draw, idx_file(draw, gzip.decompress(content)))


def hdf5_file(draw: Draw, content: bytes) -> bytes:
    """Return an HDF5 file like another one, with odd values, links and attributes."""
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        for _ in range(draw(st.integers(1, 3))):
            paths: list[str] = []
            opened.visit(paths.append)
            paths.sort()
            path = paths[draw(st.integers(0, len(paths) - 1))] if paths else "x"
            if draw(st.integers(0, 3)) == 3:
                path += draw(st.sampled_from(("/x", "x", "/vars", "/0", "0")))
            try:
                _change(draw, opened, path)
            # HDF5 does not have this kind, or not here.
            except (TypeError, ValueError, KeyError, OSError, RuntimeError, NotImplementedError):
                continue
    return file.getvalue()


def _change(draw: Draw, file: h5py.File, path: str) -> None:
    old = file.get(path)
    seed = old[()] if isinstance(old, h5py.Dataset) and old.shape is not None else None
    seed = np.asarray(seed) if seed is not None else np.zeros((2, 3), np.float32)
    action = draw(
        st.sampled_from(("array", "array", "odd", "packed", "link", "group", "attribute", "remove"))
    )
    if action == "attribute":
        holder = file if old is None else old
        names = st.sampled_from(("name", "keras_version", "layer_names", "weight_names", "x", "é"))
        values = st.sampled_from(
            (
                "a",
                b"\xff",
                1,
                np.zeros(3),
                np.array(["a", "b"], "S"),
                h5py.Empty("f4"),
                np.array([], "S1"),
                "x" * 5000,
            )
        )
        holder.attrs[draw(names)] = draw(values)
        return
    if old is not None:
        del file[path]
    if action == "array":
        file[path] = array(draw, seed)
    elif action == "odd":
        odd = draw(
            st.sampled_from(
                ("empty", "texts", "enum", "varying", "kind", "reference", "text", "scalar")
            )
        )
        if odd == "empty":
            file[path] = h5py.Empty(draw(st.sampled_from(("f4", "i8", "S3"))))
        elif odd == "texts":
            file.create_dataset(path, data=["é", ""], dtype=h5py.string_dtype())
        elif odd == "enum":
            file.create_dataset(
                path, data=seed.astype("i4"), dtype=h5py.enum_dtype({"A": 0, "B": 1}, "i4")
            )
        elif odd == "varying":
            made = file.create_dataset(path, (2,), dtype=h5py.vlen_dtype(np.float32))
            made[0] = np.zeros(3, np.float32)
        elif odd == "kind":
            file[path] = np.dtype("f4")
        elif odd == "reference":
            file.create_dataset(path, data=[file.ref], dtype=h5py.ref_dtype)
        elif odd == "text":
            file[path] = draw(st.sampled_from(("", "a", "é" * 100)))
        else:
            file[path] = np.float32(1)
    elif action == "packed":
        chunks = tuple(min(each, 2) for each in seed.shape) or None
        options = draw(st.sampled_from((
            {"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True},
            {"maxshape": (None,) * seed.ndim}, {"scaleoffset": 2}, {"fillvalue": 3}, {"track_times": True},
        )))  # fmt: skip
        if draw(st.booleans()):
            # Space for numbers that were never written.
            file.create_dataset(path, seed.shape, seed.dtype, chunks=chunks, **options)
        else:
            file.create_dataset(path, data=seed, chunks=chunks, **options)
    elif action == "link":
        targets = (
            h5py.SoftLink("/"), h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{path}"), h5py.ExternalLink("/etc/passwd", "/"),
            h5py.ExternalLink("model.weights.h5", "/"), file["/"],
        )  # fmt: skip
        file[path] = draw(st.sampled_from(targets))
    elif action == "group":
        file.create_group(path, track_order=draw(st.booleans()))


_STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8", "HalfStorage": "<f2"}


def checkpoint_file(draw: Draw, content: bytes) -> bytes:
    """Return a checkpoint of PyTorch with tensors of any shapes, strides and storages."""
    from fuzz_models import checkpoint

    sides = st.integers(0, 4) | st.sampled_from((-1, 2**31, 2**40))
    tensors = []
    for number in range(draw(st.integers(0, 4))):
        size, shape = draw(st.integers(0, 12)), draw(st.lists(st.integers(0, 4), max_size=4))
        strides = [int(np.prod(shape[at + 1 :])) for at in range(len(shape))]
        if draw(st.booleans()):
            strides = draw(st.lists(sides, min_size=len(shape), max_size=len(shape)))
        if draw(st.integers(0, 3)) == 3:
            shape = draw(st.lists(sides, min_size=len(shape), max_size=len(shape)))
        kind = draw(st.sampled_from(tuple(_STORAGES)))
        offset = draw(st.sampled_from((0, 0, 0, 1, -1, 2**40)))
        key = draw(st.sampled_from((str(number), "0", "é")))
        tensors.append((draw(_MEMBERS).replace("\n", " "), key, offset, shape, strides, kind, size))
    system = draw(like({"little_endian": True, "type_sizes": {"int": 4}}))
    numbers = {key: np.arange(size).astype(_STORAGES[kind]) for _, key, *_, kind, size in tensors}
    return checkpoint(tensors, numbers, system)

"""Make up tar archives with members of all types, archives of CIFAR, and Parquet tables."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from fuzz_data import _packed
from hypothesis import strategies as st
from made_up_arrays import gzip_members
from made_up_pictures import picture_file
from made_up_texts import NUMBERS, TEXTS, Draw, like

from cnnforge_plugins.datasets import cifar

_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
          tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE)  # fmt: skip
_STEMS = st.sampled_from(("0", "0000", "a", "cat/a", "dog/a", "./a", "../a", "/a", "a//b", "é/e\u0301", "x" * 99, "x" * 160 + "/a", "a.b", ".a", "",
                          "train/cat/a", "A", "a\nb", "\udcff"))  # fmt: skip
_ENDINGS = st.sampled_from(
    (".png", ".png", ".jpg", ".PNG", ".cls", ".json", ".txt", "", ".a.png", ".seg.png", ".tar", "/")
)
_PAX = st.dictionaries(
    st.sampled_from(
        (
            "comment",
            "mtime",
            "path",
            "linkpath",
            "uid",
            "hdrcharset",
            "SCHILY.xattr.a",
            "GNU.sparse.name",
            "GNU.sparse.size",
            "GNU.sparse.map",
            "GNU.sparse.major",
            "GNU.sparse.minor",
            "size",
        )
    ),
    st.sampled_from(("1", "1.5", "-1", "x", "a/b.png", "é", "BINARY", "9" * 30, "", "0,1", "7")),
    max_size=2,
)


def tar_file(draw: Draw, content: bytes) -> bytes:
    """Return an archive with members like those of another one, and of all types."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(each, archive.extractfile(each).read()) for each in archive.getmembers()]
    form = draw(
        st.sampled_from(
            (tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
        )
    )
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, members)
    file = io.BytesIO()
    about = draw(_PAX) if draw(st.integers(0, 4)) == 4 else {}
    about = {key: value for key, value in about.items() if key not in ("path", "linkpath")}
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=about) as archive:
        for info, inner in members:
            info.size = len(inner) if info.isreg() else 0
            try:
                archive.addfile(info, io.BytesIO(inner))
            # A name is too long for the form.
            except ValueError:
                info.name = info.name[-90:]
                info.linkname, info.mtime = info.linkname[-90:], 0
                archive.addfile(info, io.BytesIO(inner))
    return file.getvalue()


def _change(draw: Draw, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    at = draw(st.integers(0, len(members) - 1))
    info, inner = members[at]
    info = tarfile.TarInfo.frombuf(
        info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")[-512:], "utf-8", "surrogateescape"
    )
    action = draw(
        st.sampled_from(("content", "content", "name", "type", "about", "add", "repeat", "remove"))
    )
    if action == "content":
        if info.name.endswith(".json"):
            document = draw(like({"label": 0, "class": "cat", "boxes": [[0, 0, 1, 1]]}))
            inner = json.dumps(document).encode()
        elif info.name.endswith(".cls"):
            inner = str(draw(NUMBERS | TEXTS)).encode("utf-8", "replace")
        else:
            inner = picture_file(draw)
        members[at] = (info, inner)
    elif action == "remove" and len(members) > 1:
        del members[at]
    elif action == "repeat":
        members.insert(draw(st.integers(0, len(members))), (info, inner))
    else:
        if action in ("name", "add"):
            info.name = draw(_STEMS) + draw(_ENDINGS)
        if action == "about":
            info.pax_headers = draw(_PAX)
            info.mode, info.mtime = (
                draw(st.integers(0, 0o7777)),
                draw(st.sampled_from((0, 0.5, 2**34))),
            )
            info.uname = draw(st.sampled_from(("", "é", "x" * 30)))
        if action == "type":
            info.type = draw(st.sampled_from(_TYPES))
            names = [each.name for each, _ in members]
            info.linkname = draw(st.sampled_from((*names, "", "/etc/passwd", "..", "nowhere")))
            info.devmajor = draw(st.integers(0, 5))
        if action == "add":
            members.append((info, inner))
        else:
            members[at] = (info, inner)


def cifar_file(draw: Draw, content: bytes) -> bytes:
    """Return an archive of CIFAR with any number of rows, labels and names."""
    names = [*cifar.CIFAR10.train, cifar.CIFAR10.test]
    members = []
    for name in draw(st.permutations(names)) if draw(st.booleans()) else names:
        labels = draw(
            st.lists(
                st.sampled_from((0, 1, 9, 10, 255)),
                min_size=draw(st.sampled_from((1, 1, 1, 1, 0))),
                max_size=2,
            )
        )
        rows = b"".join(bytes([each]) + bytes([each]) * 3072 for each in labels)
        members.append((f"cifar/{name}", rows))
    texts = st.lists(TEXTS, max_size=11).map("\n".join) | st.just("\n".join("abcdefghij"))
    members.append((f"cifar/{cifar.CIFAR10.classes}", draw(texts).encode("utf-8", "replace")))
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(members) - 1))
        name, inner = members[at]
        other = draw(st.sampled_from((f"other/{name}", name, name.rpartition("/")[2], f"./{name}")))
        members.append((other, draw(st.sampled_from((inner, b"", inner[:-1])))))
        if draw(st.booleans()):
            del members[at]
    made = _packed(members, draw(st.sampled_from((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))))
    return gzip_members(draw, made) if draw(st.booleans()) else gzip.compress(made, 1, mtime=0)


_COLUMNS = ("image", "label", "image", "img", "labels", "y", "split", "file", "path", "class", "bytes", "é", "", "image.bytes", "id")  # fmt: skip


def parquet_file(draw: Draw, content: bytes) -> bytes:
    """Return a Parquet table of any columns, with nulls and nested values, in any packing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seed = pq.read_table(io.BytesIO(content))
    rows = draw(st.sampled_from((seed.num_rows, seed.num_rows, 0, 1, 3)))
    names, columns = list(seed.column_names), [each[:rows] for each in seed.columns]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(columns)))
        column = _column(draw, rows) if draw(st.integers(0, 2)) else _pictures(draw, rows)
        if at == len(columns):
            names.append(draw(st.sampled_from(_COLUMNS)))
            columns.append(column)
        elif draw(st.integers(0, 5)) < 5:
            columns[at] = column
        elif len(columns) > 1:
            del names[at], columns[at]
    made = pa.Table.from_arrays([each[:rows] for each in columns if len(each) >= rows] or [pa.nulls(rows)],
                                [name for name, each in zip(names, columns, strict=True) if len(each) >= rows] or ["x"])  # fmt: skip
    about = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    if draw(st.booleans()):
        text = json.dumps(draw(like({"info": {"features": about}})))
        made = made.replace_schema_metadata({"huggingface": text})
    file = io.BytesIO()
    options = {
        "compression": draw(st.sampled_from(("none", "snappy", "gzip", "brotli", "zstd", "lz4"))),
        "use_dictionary": draw(st.booleans()),
        "row_group_size": draw(st.sampled_from((None, 1, 3))),
        "data_page_version": draw(st.sampled_from(("1.0", "2.0"))),
        "version": draw(st.sampled_from(("1.0", "2.4", "2.6"))),
        "use_deprecated_int96_timestamps": draw(st.booleans()),
        "store_schema": draw(st.booleans()),
        "write_statistics": draw(st.booleans()),
    }
    try:
        with pq.ParquetWriter(file, made.schema, **_writer_options(options)) as writer:
            for part in (made[:0], made) if draw(st.integers(0, 4)) == 4 else (made,):
                writer.write_table(part, row_group_size=options["row_group_size"])
    # A type that Parquet does not have.
    except (pa.ArrowException, NotImplementedError):
        return content
    return file.getvalue()


def _writer_options(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "row_group_size"}


def _values(kind: str) -> Sequence[Any]:
    now = datetime(2026, 1, 1)
    return {
        "bool": (True, False), "int": (0, 1, 2, 100), "float": (0.0, 1.0, 0.5, float("nan"), float("inf")),
        "text": ("cat", "dog", "", "é", "0", "train", "0.png", "../x", "a\nb", "x" * 300),
        "bytes": (b"", b"cat", b"\xff", b"0.png"), "date": (date(1, 1, 1), date(9999, 12, 31)), "moment": (now, datetime(1970, 1, 1)),
        "time": (time(0), time(23, 59)), "span": (timedelta(0), timedelta(days=1)), "decimal": (Decimal(0), Decimal("1.5"), Decimal(99)),
        "null": (None,), "zoned": (now.replace(tzinfo=UTC),),
    }[kind]  # fmt: skip


def _column(draw: Draw, rows: int) -> Any:
    import pyarrow as pa

    leaves: Sequence[tuple[Any, str]] = (
        (pa.bool_(), "bool"), (pa.int8(), "int"), (pa.uint8(), "int"), (pa.int64(), "int"), (pa.uint64(), "int"),
        (pa.float16(), "float"), (pa.float32(), "float"), (pa.float64(), "float"), (pa.string(), "text"),
        (pa.large_string(), "text"), (pa.string_view(), "text"), (pa.binary(), "bytes"), (pa.large_binary(), "bytes"),
        (pa.date32(), "date"), (pa.date64(), "date"), (pa.timestamp("s"), "moment"), (pa.timestamp("ns"), "moment"),
        (pa.timestamp("us", "UTC"), "zoned"), (pa.time32("s"), "time"), (pa.time64("ns"), "time"), (pa.duration("ms"), "span"),
        (pa.decimal128(5, 2), "decimal"), (pa.decimal256(50, 10), "decimal"), (pa.null(), "null"),
    )  # fmt: skip
    kind, name = draw(st.sampled_from(leaves))
    nulls = draw(st.booleans())

    def leaf() -> Any:
        return draw(st.sampled_from((*_values(name), *((None,) if nulls else ()))))

    wraps: dict[str, tuple[Any, Callable[[], Any]]] = {
        "list": (pa.list_(kind), lambda: [leaf() for _ in range(draw(st.integers(0, 3)))]),
        "large list": (pa.large_list(kind), lambda: [leaf()]),
        "fixed list": (pa.list_(kind, 2), lambda: [leaf(), leaf()]),
        "struct": (
            pa.struct([("bytes", kind), ("path", pa.string())]),
            lambda: {"bytes": leaf(), "path": None},
        ),
        "empty struct": (pa.struct([("x", kind)]), lambda: None),
        "map": (pa.map_(pa.string(), kind), lambda: [("a", leaf()), ("a", leaf())]),
        "deep": (pa.list_(pa.list_(kind)), lambda: [[leaf()], []]),
    }
    form = draw(st.sampled_from(("plain", "plain", "plain", "dictionary", *wraps)))
    if form in wraps:
        kind, one = wraps[form]
    else:
        one = leaf
    values = [None if nulls and draw(st.integers(0, 5)) == 5 else one() for _ in range(rows)]
    made = pa.array(values, kind)
    if form == "dictionary":
        try:
            return made.dictionary_encode()
        except pa.ArrowException:
            return made
    return made


def _pictures(draw: Draw, rows: int) -> Any:
    import pyarrow as pa

    contents = st.sampled_from((None, b"", b"x", picture_file(draw), picture_file(draw)))
    form = draw(st.sampled_from(("struct", "bytes", "large", "list", "view", "numbers")))
    values = [draw(contents) for _ in range(rows)]
    if form == "struct":
        path = draw(st.sampled_from((None, "0.png", "", "/etc/passwd", "é", "\0", b"0.png", 1)))
        kind = pa.binary() if isinstance(path, bytes) else pa.int8() if path == 1 else pa.string()
        return pa.array([None if each == b"x" else {"bytes": each, "path": path} for each in values],
                        pa.struct([("bytes", pa.binary()), ("path", kind)]))  # fmt: skip
    if form == "list":
        return pa.array(
            [None if each is None else [each] for each in values], pa.list_(pa.binary())
        )
    if form == "numbers":
        pixels = np.arange(16, dtype=np.uint8).tolist()
        side = draw(st.integers(0, 16))
        return pa.array([pixels[:side] for _ in values], pa.list_(pa.uint8()))
    kinds = {"bytes": pa.binary(), "large": pa.large_binary(), "view": pa.binary_view()}
    return pa.array(values, kinds[form])

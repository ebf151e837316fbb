"""Files that fuzzing has found: each ended in a traceback, took long, or filled the memory."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_target import Files, fresh, place
from fuzz_targets import TARGETS

from cnnforge.errors import CnnforgeError
from cnnforge.model_files.arrays import check_arrays

READERS = {target.name: target for target in TARGETS}
Change = Callable[[bytes], bytes]


def in_json(*path: str | int, value: Any) -> Change:
    """Return a function that sets a value in a JSON text."""

    def change(content: bytes) -> bytes:
        document = place = json.loads(content)
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        return json.dumps(document).encode()

    return change


def in_text(old: bytes, new: bytes) -> Change:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(description: str, data: bytes = b"") -> bytes:
    text = description.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def about(kind: str, shape: tuple[int, ...]) -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


IMAGES = npy(about("|u1", (4, 4, 4)), bytes(64))


def too_long(content: bytes) -> bytes:
    """Change the length of the first member in the directory of an archive."""
    at = content.index(b"PK\x01\x02") + 20
    return content[:at] + b"\xf0" * 4 + content[at + 4 :]


def in_keras(*path: str, value: Any) -> Change:
    """Return a function that sets a value in the configuration in a `.keras` file."""

    def change(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members["config.json"] = in_json(*path, value=value)(members["config.json"])
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, inner in members.items():
                archive.writestr(name, inner)
        return file.getvalue()

    return change


DEEP = b"[" * 100_000
# A row of `plugins.json`.
LOST = {"plugin": "lost", "source": "lost", "distribution": "lost", "version": "1", "origin": None}
LOST |= {"uses": [], "layers": ["Lost"]}
DIGITS = b"9" * 5000


def constant(content: bytes) -> Change:
    return lambda _: content


FOUND: Sequence[tuple[str, str, Change, str]] = [
    # NumPy takes the description of an array apart as Python.
    ("npz", "data.npz", constant(zipped(images=npy("{'descr': ("), labels=b"")), "is damaged"),
    ("npz", "data.npz", constant(zipped(images=npy("{'descr': )"), labels=b"")), "is damaged"),
    ("npz", "data.npz", constant(zipped(images=npy("{'descr': " + "9" * 5000 + "}"), labels=b"")), "is damaged"),
    ("npz", "data.npz", constant(zipped(images=npy(about("|u1", (0, 4, 4))), labels=npy(about("<i8", (0, 0))))),
     "labels"),
    ("npz", "data.npz", constant(zipped(images=npy("(" * 9000), labels=b"")), "is damaged"),
    # 16 GiB of sums of rows without values.
    ("npz", "data.npz", constant(zipped(images=IMAGES, labels=npy(about("<i8", (2**31, 0))))),
     r"labels has the shape \(2147483648, 0\) and no values"),
    ("npz", "data.npz", constant(zipped(images=IMAGES, labels=npy(about("<U1", (4,)), b"\xff" * 16))),
     "labels has characters that do not exist"),
    ("npz", "data.npz", constant(too_long(zipped(images=IMAGES, labels=npy(about("|u1", (4,)), bytes(4))))),
     "'images.npy' has 4.04 GB in a file of"),
    ("idx", "train-images-idx3-ubyte", constant(b"\0\0\x08\x03\0\0\0"),
     r"is damaged: its header gives the shape \(\)"),
    ("idx", "train-images-idx4-ubyte", constant(b"\0\0\x08\x04" + struct.pack(">IIII", 12, 0, 4, 3)),
     "has images of 0x4 pixels"),
    ("npz", "data.npz", constant(saved(images=np.zeros((0, 4, 4), "<i2,<M8[s]"), labels=np.zeros(0))),
     "images has the dtype .*: expected uint8"),
    # The buffer for what the header promises.
    ("idx", "train-images-idx3-ubyte", constant(b"\0\0\x08\x03" + struct.pack(">III", 4000, 2000, 2000)),
     "expected 16000000000 bytes .* got only 0"),
    ("idx", "train-images-idx3-ubyte", constant(b"\0\0\x08\x03" + struct.pack(">III", 2**31, 0, 4)),
     "its header gives the shape"),
    # Rows of different lengths, with several columns of labels.
    ("csv", "data.csv", constant(b"label,pixel0,pixel1,label,pixel2,pixel3,label\n" + b"0,1,2,0,4,5,0\n1,1,2\n" * 4),
     "data.csv"),
    ("coco", "annotations/instances_train.json", in_text(b'"id": 0', b'"id": ' + DIGITS),
     r"cannot be read \(Exceeds the limit"),
    ("yolo", "data.yaml", constant(b"train: /\nnames: [cat]\n"), "contains all files of this machine"),
    ("yolo", "data.yaml", constant(b"train: /dev/zero\nnames: [cat]\n"),
     "names /dev/zero for train, which is not there"),
    ("yolo", "data.yaml", constant(b"train: images\nnames: [&a [x, x], *a]\n"), "a name in names is a list"),
    ("yolo", "data.yaml", constant(b"train: images\nnames: [0x" + b"f" * 5000 + b"]\n"), "of too many digits"),
    ("yolo", "data.yaml", constant(b"train: images\nnames: {0: 0x" + b"f" * 5000 + b"}\n"),
        "of too many digits"),
    ("yolo", "data.yaml", constant(b"train: images\nnames: 2026-13-99\n"), r"is damaged \(month must be"),
    ("space", "space.toml", constant(b"epochs = " + DEEP), "is not TOML: it is nested too deeply"),
    ("space", "space.toml", constant(b"dropout = [1, " + b"1" + b"0" * 400 + b"]"),
     "is not TOML: a whole number has more than 64 bits"),
    ("space", "space.toml", constant(b'augment = [1, "flip"]'), "must be a text or a list, got 1"),
    ("space", "space.toml", constant(b'optimizer = ["\\n", "sgd"]'), r"optimizer=\\n,sgd: optimizer must be"),
    ("space", "space.toml", constant(b'optimizer = ["\\n"]'), r"has one value, \\n: give"),
    ("space", "space.toml", constant(b'learning_rate = "1..1\\n"'), r"the range 1..1\\n of"),
    ("config", "options.toml", constant(b"epochs = " + DEEP), "is not TOML: it is nested too deeply"),
    ("config", "options.toml", constant(b"learning_rate = 1" + b"0" * 400), "more than 64 bits"),
    ("config", "options.toml", constant(b"epochs = 0x" + b"f" * 5000), "more than 64 bits"),
    # The fraction would have a billion digits.
    ("detector", "edge.txt", constant(b"1e-999999999 0 0\n0 0 0\n0 0 1e999999999\n"), "not a number"),
    ("report", "config.toml", in_text(b"epochs = 2", b"epochs = " + DEEP), "nested too deeply"),
    ("report", "classes.json", constant(DEEP), "nested too deeply"),
    ("report", "evaluation.json", in_json("best_epoch", value=10**400), "evaluation.json is damaged"),
    ("report", "evaluation.json", in_json("monitor", value={}), "evaluation.json is damaged"),
    ("report", "evaluation.json", in_json("metrics", 0, value=3), "evaluation.json is damaged"),
    ("report", "evaluation.json", in_json("validation", "classes", "cat", value=1), "cannot be read"),
    ("report", "evaluation.json", in_json("validation", "confusion_matrix", value=[[1]]),
     r"the confusion matrix has the shape \(1, 1\)"),
    ("report", "kernels.json", constant(b"[1]"), "kernels.json is damaged .*: restore or delete it"),
    ("report", "data.json", in_json("images", "training", value="x"), "data.json is damaged"),
    ("report", "data.json", constant(b"[1]"), "data.json is damaged"),
    ("report", "environment.json", in_json("cpu", value=1), "environment.json is damaged"),
    ("report", "predictions.csv", in_text(b"0.9", b"nan"), "row 1 has a probability that is not 0 to 1"),
    ("report-boxes", "evaluation.json", in_json("validation", "by_size", value=[]), "cannot be read"),
    ("report-boxes", "detection.json", in_json("overlap", value=10**400), "detection.json is damaged"),
    ("report-boxes", "validation.png", constant(b"\x89PNG\r\n\x1a\n" + bytes(40)), "cannot be shown"),
    ("opened", "plugins.json", in_json(0, "plugin", value=[]), "plugins.json cannot be read: a name is"),
    ("opened", "plugins.json", in_json(0, "version", value=3), "plugins.json cannot be read"),
    ("opened", "plugins.json", in_json(0, "version", value="1 && rm -r x"), "other characters than"),
    ("opened", "plugins.json", in_json(0, value={**LOST, "origin": "\n"}), r"installed from \\n\)"),
    ("opened", "plugins.json", in_json(0, value={**LOST, "layers": ["\n"]}), r"needs the layer \\n of"),
    ("opened", "plugins.json", in_json(0, value={**LOST, "distribution": None, "source": "\n"}),
     r"name it with --plugin '\\n'$"),
    ("sweep", "sweep.json", in_json("prune", value="\n"), r"in which prune is \\n, and now True"),
    ("sweep", "sweep.json", in_json("options", "\n", value=1), r"in which \\n is 1, and now left out"),
    ("sweep", "journal.log", in_text(b'"directions":[2]', b'"directions":[]'), "is not maximize"),
    ("sweep", "journal.log", in_text(b'"directions":[2]', b'"directions":[1]'), "is not maximize"),
    ("sweep", "journal.log", in_text(b'"values":[0.0]', b'"values":[1' + b"0" * 400 + b"]"),
     r"trial 0 has the value '1000"),
    ("sweep", "journal.log", in_text(b'"values":[0.0]', b'"values":["a"]'),
     r"trial 0 has the value 'a'\): restore it"),
    ("sweep", "journal.log", in_text(b'"values":[0.0]', b'"values":[0.0,1.0]'), "journal.log cannot be read"),
    ("sweep", "journal.log", in_text(b'"intermediate_value":0.01', b'"intermediate_value":[]'),
     r"trial 0 has the value '\[\]'"),
    ("runs", "lenet-photos-001/config.toml", in_text(b"epochs = 2", b"epochs = 0x" + b"f" * 5000),
     "a whole number has more than 64 bits"),
    ("state", "meta.json", in_json("sums", "seconds", value=[]), "a count is not a number"),
    ("state", "meta.json", in_json("history", 0, "loss", value="x"), "a count is not a number"),
    ("sweep", "journal.log", in_text(b'"step":1', b'"step":"a"'), "an epoch that is not a number"),
    ("guard", "model.keras", too_long, "has 4.04 GB in a file of"),
    ("learned", "model.keras", in_keras("config", value=[]), "the weights in .* cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "change", "message"), FOUND)
def test_refused_with_one_line(
    name: str, file: str, change: Change, message: str, tmp_path: Path
) -> None:
    target = READERS[name]
    seed = next(each for each in target.seeds if file in each)
    place(tmp_path, {}, {**seed, file: change(seed[file])})
    with pytest.raises(CnnforgeError, match=message) as caught:
        target.read(tmp_path, 1)
    assert "\n" not in str(caught.value)


READ: Sequence[tuple[str, str, Change]] = [
    ("voc", "Annotations/0.xml", in_text(b"<width>5", b"<width>1e999")),
    ("coco", "annotations/instances_train.json", in_json("images", 0, "width", value=10**30)),
    ("npz", "data.npz", constant(saved(images=np.zeros((4, 5, 6), np.uint8, order="F"), labels=np.arange(4) % 2))),
    ("tar", "classnames.txt", constant(b"1.0\n2.0\n")),
    ("choices", "choices.json", in_json("choices", "ab", "shape", value=[float("inf")])),
    ("choices", "choices.json", constant(DEEP)),
    ("keras-json", "keras.json", constant(DEEP)),
    ("report", "metrics.csv", in_text(b"0.6", b"1e300")),
    ("report", "metrics.csv", in_text(b"\n1,", b"\ninf,")),
    ("report", "data.json", in_json("notes", value=["\ud800"])),
    ("report", "thumbnails.npz", constant(zipped(rows=npy(about("|u1", (1, 1)), b"1"),
                                                 ends=npy(about("|u1", (1,)), b"1"),
                                                 content=npy(about("|u1", (1,)), b"1")))),
    ("plan-record", "plan.json", in_json("versions", "builtin/numba", value=1.5)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "change"), READ)
def test_read_without_what_is_damaged(name: str, file: str, change: Change, tmp_path: Path) -> None:
    target = READERS[name]
    seed = next(each for each in target.seeds if file in each)
    place(tmp_path, {}, {**seed, file: change(seed[file])})
    target.read(tmp_path, 1)


def test_numbers_of_a_table_with_characters_that_are_not_ascii(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For them, NumPy reads memory behind its table of digits. What is there decides what happens:
    # an error, a wrong number, or a crash of the process.
    seen: list[str] = []

    def loadtxt(lines: Sequence[str], *arguments: Any, **options: Any) -> np.ndarray:
        seen.extend(lines)
        return original(lines, *arguments, **options)

    original = np.loadtxt
    monkeypatch.setattr(np, "loadtxt", loadtxt)
    content = READERS["csv"].seeds[0]["data.csv"]
    odd = content.replace(b"\n0,95,", "\n0,\U0010ffff95,".encode(), 1)
    assert odd != content
    (tmp_path / "data.csv").write_bytes(odd)
    with pytest.raises(CnnforgeError, match="is not a number"):
        READERS["csv"].read(tmp_path, 1)
    assert seen
    assert all(map(str.isascii, seen))


def test_texts_of_a_parquet_file_that_are_not_utf_8(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    offsets = np.array([0, 2, 4], np.int32).tobytes()
    texts = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xffb\x80")]
    )
    pq.write_table(pa.table({"image": [b"x", b"y"], "label": texts}), tmp_path / "data.parquet")
    with pytest.raises(CnnforgeError, match=r"is damaged \('utf-8' codec can't decode"):
        READERS["parquet"].read(tmp_path, 1)


def test_several_columns_of_one_name_in_a_parquet_file(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = [pa.array([b"x", b"y"]), pa.array([0, 1]), pa.array([0, 1])]
    pq.write_table(pa.table(columns, ["image", "label", "label"]), tmp_path / "data.parquet")
    with pytest.raises(CnnforgeError, match="several columns of the name 'label': rename"):
        READERS["parquet"].read(tmp_path, 1)


@pytest.mark.parametrize(
    ("label", "shown"),
    [(b"a", "b'a'"), (timedelta(1), "1 day"), (0.5, "0.5")],
)
def test_labels_of_a_parquet_file_that_are_not_numbers_of_classes(
    label: object, shown: str, tmp_path: Path
) -> None:
    _write_labels(tmp_path, [label, label])
    with pytest.raises(CnnforgeError, match=f"has the label {shown}.* in row 0.*from 0 to 1"):
        READERS["parquet"].read(tmp_path, 1)


def test_a_label_of_a_parquet_file_that_is_not_a_class_of_its_schema(tmp_path: Path) -> None:
    _write_labels(tmp_path, ["cat", "bird"])
    with pytest.raises(
        CnnforgeError, match=r"the label 'bird' in row 1, .* expected one of cat, dog"
    ):
        READERS["parquet"].read(tmp_path, 1)


def test_labels_of_a_parquet_file_that_are_whole_numbers_with_a_point(tmp_path: Path) -> None:
    _write_labels(tmp_path, [0.0, 1.0, -1.0, None] * 2)
    READERS["parquet"].read(tmp_path, 2)


@pytest.mark.parametrize("rows", [[None] * 1_000_001, [bytes(300 << 20)]], ids=["rows", "bytes"])
def test_a_small_parquet_file_that_would_fill_the_memory(
    rows: Sequence[object], tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": pa.array(rows, pa.binary()), "label": [0] * len(rows)})
    pq.write_table(table, tmp_path / "data.parquet", compression="zstd")
    with pytest.raises(
        CnnforgeError, match=r"rows and \d.* of values in \d+ bytes, and would fill"
    ):
        READERS["parquet"].read(tmp_path, 1)


def _write_labels(folder: Path, labels: Sequence[object]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    about = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    picture = READERS["parquet"].seeds[0]["0.png"]
    table = pa.table({"image": [{"bytes": picture, "path": 1}] * len(labels), "label": labels})
    text = json.dumps({"info": {"features": about}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), folder / "data.parquet")


def test_a_message_about_a_damaged_parquet_file_is_one_line(tmp_path: Path) -> None:
    files: Files = READERS["parquet"].seeds[0]
    content = files["data.parquet"]
    place(fresh(tmp_path), {}, {"data.parquet": content[:-8] + b"\x03\0\0\0PAR1"})
    with pytest.raises(CnnforgeError) as caught:
        READERS["parquet"].read(tmp_path, 1)
    assert re.fullmatch(".+ (cannot be read|is damaged).*", str(caught.value))


def test_a_description_that_is_nested_too_deeply_is_a_damaged_array() -> None:
    content = zipped(sums=npy("-" * 9000 + "1"))
    with pytest.raises(ValueError, match=r"sums\.npy has a damaged description"):
        check_arrays(io.BytesIO(content))

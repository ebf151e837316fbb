"""The readers of data: images, arrays, tables, archives, and annotations of objects."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_target import Files, Target
from PIL import Image

from cnnforge.data import DataOptions, Dataset, summarize
from cnnforge.data.inspection import inspect
from cnnforge_plugins.datasets import cifar, csv, idx, images, npz, parquet, table, tar
from cnnforge_plugins.detection_data import coco, voc, yolo

_PURPOSES = ("training", "evaluation", "prediction", "inspection")
_KINDS = ("cat", "dog")
_MAX_FETCHED = 32


def _pixels(seed: int, shape: tuple[int, ...] = (4, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _picture(seed: int, form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_pixels(seed)).convert(mode).save(file, form, **options)
    return file.getvalue()


def opened(
    load: Callable[[str, DataOptions], Dataset], path: Path, choice: int, **more: Any
) -> None:
    """Open data for one of the purposes, and read all samples, as the commands do."""
    options = DataOptions(
        purpose=_PURPOSES[choice % 4],
        max_size=64,
        image_size=(6, 6) if choice % 8 > 5 else None,
        color="auto" if choice % 3 else "rgb",
        placing="letterbox" if choice % 5 == 0 else "stretch",
        **more,
    )
    dataset = load(str(path), options)
    for part in (dataset.train, dataset.validation, dataset.test):
        if part is not None and len(part):
            part.fetch(np.arange(min(len(part), _MAX_FETCHED)))
            json.dumps(list(part.names))
    if options.purpose == "inspection":
        inspect(dataset, near=choice % 16 == 3)
    elif options.purpose != "prediction":
        json.dumps(summarize(dataset).as_dict())


def _reader(
    load: Callable[..., Dataset], place: str | Sequence[str] = ""
) -> Callable[[Path, int], None]:
    """Return a function that opens `place` in the folder of a case, or one of several."""
    places = [place] if isinstance(place, str) else place

    def read(folder: Path, choice: int) -> None:
        present = [each for each in places if (folder / each).exists()] or places
        opened(load, folder / present[0], choice)

    return read


def _image_seeds() -> list[Files]:
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "1", {}), ("PNG", "RGBA", {}),
        ("PNG", "L", {"transparency": 3}), ("PNG", "I;16", {}), ("JPEG", "RGB", {}),
        ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}), ("GIF", "P", {}),
        ("BMP", "RGB", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "L", {}), ("PPM", "RGB", {}),
    ]  # fmt: skip
    seeds = []
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (form, mode, options) in enumerate(forms):
        if mode == "I;16":
            file = io.BytesIO()
            Image.fromarray(_pixels(9, (4, 5)).astype(np.uint16) * 200).save(file, form)
            content = file.getvalue()
        else:
            more = {"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}
            content = _picture(number, form, mode, **options, **more)
        seeds.append(
            {
                f"cat/a.{form.lower()}": content,
                "cat/b.png": _picture(100),
                "dog/a.png": _picture(101),
                "dog/b.png": _picture(102),
            }
        )
    frames = [Image.fromarray(_pixels(n)) for n in range(3)]
    for form in ("GIF", "PNG", "WEBP"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        seeds.append({**seeds[0], f"cat/moving.{form.lower()}": file.getvalue()})
    return seeds


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _npz_seeds() -> list[Files]:
    pictures, labels = _pixels(0, (12, 4, 4)), np.arange(12) % 3
    arrays: list[dict[str, Any]] = [
        {"x_train": pictures, "y_train": labels, "x_test": pictures[:4], "y_test": labels[:4]},
        {
            "images": _pixels(1, (12, 4, 4, 3)),
            "labels": labels,
            "class_names": np.array(["a", "b", "é"]),
        },
        {"arr_0": pictures / 255.0, "arr_1": np.eye(3)[labels]},
        {"arr_0": pictures, "arr_1": labels, "arr_2": pictures[:6], "arr_3": labels[:6]},
        {"x": _pixels(2, (12, 3, 4, 4)).astype(np.int64), "y": np.array([b"a", b"bc"])[labels % 2]},
        {"images": pictures > 100, "labels": np.array(["x", "y"])[labels % 2]},
        {"data": pictures.astype(np.float16), "target": labels.astype(np.float64)},
    ]
    seeds = []
    for number, each in enumerate(arrays):
        file = io.BytesIO()
        (np.savez_compressed if number % 2 else np.savez)(file, **each)
        seeds.append({"data.npz": file.getvalue()})
    return [*seeds, {"data.npz": _npy(pictures)}]


def _idx(array: np.ndarray) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def _idx_seeds() -> list[Files]:
    pictures, labels = _idx(_pixels(0, (12, 4, 4))), _idx(np.arange(12) % 3)
    few = {"t10k-images-idx3-ubyte": pictures, "t10k-labels-idx1-ubyte": labels}
    plain = {"train-images-idx3-ubyte": pictures, "train-labels-idx1-ubyte": labels}
    packed = {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in plain.items()}
    color = {
        "train-images-idx4-ubyte": _idx(_pixels(0, (12, 4, 4, 3))),
        "train-labels-idx1-ubyte": labels,
    }
    floats = (
        bytes((0, 0, 13, 3)) + struct.pack(">III", 2, 2, 2) + np.arange(8).astype(">f4").tobytes()
    )
    return [plain, packed, {**plain, **few}, color, {**plain, "train-images-idx3-ubyte": floats}]


def _csv_seeds() -> list[Files]:
    rows = [[n % 3, *_pixels(n, (16,)).tolist()] for n in range(12)]
    head = ",".join(["label", *(f"pixel{n}" for n in range(16))])
    lines = [",".join(map(str, row)) for row in rows]
    words = [
        f"{n},{('cat', 'dög')[n % 2]},{' '.join(map(str, row[1:]))}" for n, row in enumerate(rows)
    ]
    split = [f"{line},{('train', 'test', 'val')[n % 3]}" for n, line in enumerate(lines)]
    texts = [
        "\n".join([head, *lines]),
        "\n".join(lines),
        "\r\n".join([head.replace(",", ";"), *(line.replace(",", ";") for line in lines)]),
        "\n".join(["id,emotion,pixels", *words]),
        "\n".join([f"{head},split", *split]),
        "\n".join(["\t".join(map(str, row)) for row in rows]),
        "\n".join(['"' + '","'.join(map(str, row)) + '"' for row in rows]),
        "\n".join([",".join(f"{value / 255:.3f}" for value in row) for row in rows]),
        "\n".join(["image,label", *(f"a/{n}.png,{n % 2}" for n in range(12))]),
    ]
    return [{"data.csv": text.encode()} for text in texts]


def _table_seeds() -> list[Files]:
    pictures = {f"p/{n}.png": _picture(n) for n in range(6)}
    rows = range(6)
    texts = [
        "\n".join(["id,label", *(f"{n},{n % 2}" for n in rows)]),
        "\n".join(
            [
                "path;art;split",
                *(f"p/{n}.png;{_KINDS[n % 2]};{('train', 'val')[n % 2]}" for n in rows),
            ]
        ),
        "\n".join(f'"{n}.png"\t"{_KINDS[n % 2]}, big"' for n in rows),
        "\n".join(
            [",file,class,fold", *(f"{n},./p/{n}.PNG,{_KINDS[n % 2]},{n % 3}" for n in rows)]
        ),
    ]
    return [{**pictures, "data.csv": text.encode()} for text in texts]


def _parquet_seeds() -> list[Files]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [n % 2 for n in range(8)]
    structs = [{"bytes": _picture(n), "path": f"{n}.png"} for n in range(8)]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(_KINDS), "_type": "ClassLabel"},
    }
    columns: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
        ({"image": structs, "label": labels}, features, {}),
        ({"image": [_picture(n) for n in range(8)], "label": [_KINDS[n] for n in labels]}, None,
         {"compression": "none", "use_dictionary": False}),
        ({"img": structs, "y": [float(n) for n in labels], "split": ["train", "test"] * 4}, None,
         {"row_group_size": 3}),
        ({"file": [f"{n}.png" for n in range(8)], "label": labels}, None, {}),
        ({"image": structs, "label": [[n] for n in labels]}, {"label": [1]}, {}),
    ]  # fmt: skip
    seeds = []
    for values, about, options in columns:
        made = pa.table(values)
        if about is not None:
            text = json.dumps({"info": {"features": about}})
            made = made.replace_schema_metadata({"huggingface": text})
        file = io.BytesIO()
        pq.write_table(made, file, **options)
        seeds.append({"data.parquet": file.getvalue(), "0.png": _picture(0), "1.png": _picture(1)})
    return seeds


def _packed(members: Sequence[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _tar_seeds() -> list[Files]:
    def samples(ending: str, label: Callable[[int], str]) -> list[tuple[str, bytes]]:
        pairs = [
            ((f"{n:04}.png", _picture(n)), (f"{n:04}.{ending}", label(n).encode()))
            for n in range(4)
        ]
        return [each for pair in pairs for each in pair]

    folders = [(f"{_KINDS[n % 2]}/{n}.png", _picture(n)) for n in range(4)]
    texts = samples("json", lambda n: json.dumps({"label": n % 2, "class": _KINDS[n % 2]}))
    return [
        {
            "data.tar": _packed(samples("cls", lambda n: str(n % 2))),
            "classnames.txt": b"cat\ndog\n",
        },
        {"data.tar": _packed(texts, tarfile.PAX_FORMAT)},
        {"data.tar": _packed(folders, tarfile.GNU_FORMAT)},
        {
            "data.tar": _packed(
                [("x" * 120 + f"/{name}", data) for name, data in folders], tarfile.PAX_FORMAT
            )
        },
        {
            "data.tar": _packed(
                [("x" * 120 + f"/{name}", data) for name, data in folders], tarfile.GNU_FORMAT
            )
        },
    ]


def _cifar_seeds() -> list[Files]:
    rows = b"".join(bytes([n]) + _pixels(n, (3072,)).tobytes() for n in range(2))
    members = [(f"cifar/{name}", rows) for name in (*cifar.CIFAR10.train, cifar.CIFAR10.test)]
    members.append((f"cifar/{cifar.CIFAR10.classes}", b"cat\ndog\n"))
    return [{"data.gz": gzip.compress(_packed(members), 1, mtime=0)}]


def _read_cifar(folder: Path, choice: int) -> None:
    cifar._read(folder / "data.gz", cifar.CIFAR10)


def _box_pictures() -> Files:
    return {f"images/{n}.png": _picture(n) for n in range(3)}


def _coco_seeds() -> list[Files]:
    document: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 5, "height": 4} for n in range(3)],
        "annotations": [
            {"id": n, "image_id": n % 3, "category_id": n % 2, "bbox": [0.5, 1, 3, 2], "iscrowd": 0,
             "area": 6, "segmentation": [[1, 1, 2, 2, 3, 3]]}
            for n in range(5)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(_KINDS)],
    }  # fmt: skip
    names = {**document, "images": [{**each, "id": str(each["id"])} for each in document["images"]]}
    crowd = {
        **document,
        "annotations": [{**each, "iscrowd": 1} for each in document["annotations"]],
    }
    labelme = {"shapes": [], "imagePath": "0.png", "version": "5.0", "imageData": None}
    return [
        {**_box_pictures(), "annotations/instances_train.json": json.dumps(each).encode()}
        for each in (document, names, crowd, labelme)
    ]


def _voc_seeds() -> list[Files]:
    def xml(number: int, sides: Sequence[object], extra: str = "") -> bytes:
        box = "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
        )
        return (
            f"<annotation><folder>a</folder><filename>{number}.png</filename>"
            "<size><width>5</width><height>4</height><depth>3</depth></size>"
            f"<object><name>{_KINDS[number % 2]}</name>{extra}<bndbox>{box}</bndbox></object>"
            "</annotation>"
        ).encode()

    pictures = {f"JPEGImages/{n}.png": _picture(n) for n in range(3)}
    sides = [(1, 1, 5, 4), (2.5, 1.0, 4.5, 3.0), (0, 0, 4, 3)]
    extra = "<difficult>1</difficult><part><name>x</name></part><truncated>0</truncated>"
    return [
        {
            **pictures,
            **{f"Annotations/{n}.xml": xml(n, each, more) for n in range(3)},
            "ImageSets/Main/train.txt": b"0\n1\n",
            "ImageSets/Main/val.txt": b"2\n",
        }
        for each, more in ((sides[0], ""), (sides[1], extra), (sides[2], ""))
    ]


def _yolo_seeds() -> list[Files]:
    line = b"0 0.5 0.5 0.25 0.5\n1 0.2 0.2 0.1 0.1 0.9\n"
    shape = b"0 0.1 0.1 0.5 0.1 0.5 0.5\n"
    labels = {f"labels/{n}.txt": shape if n == 2 else line for n in range(3)}
    yamls = [
        b"train: images\nval: images\nnames: [cat, dog]\n",
        b"path: .\ntrain: images\nval: [images]\nnc: 2\nnames:\n  0: cat\n  1: dog\n",
        b"train: list.txt\nval: images\nnames: {0: 'on', 1: yes, 7: dog}\nkpt_shape: [2, 3]\n",
    ]
    seeds = [{**_box_pictures(), **labels, "data.yaml": text} for text in yamls]
    seeds[2] = {**seeds[2], "list.txt": b"images/0.png\n./images/1.png\n"}
    return [*seeds, {**_box_pictures(), **labels, "classes.txt": b"cat\ndog\n"}]


_PICTURES = [f"images/{n}.png" for n in range(3)]
TARGETS = [
    Target("images", "image files in a folder", _image_seeds, _reader(images.load)),
    Target("npz", "`.npz` and `.npy` arrays", _npz_seeds, _reader(npz.load, "data.npz")),
    Target("idx", "IDX files, also with gzip", _idx_seeds, _reader(idx.load)),
    Target("csv", "tables of pixels", _csv_seeds, _reader(csv.load, "data.csv")),
    Target("table", "tables of file names", _table_seeds, _reader(table.load, "data.csv"),
           fixed=[f"p/{n}.png" for n in range(6)]),
    Target("parquet", "Parquet files", _parquet_seeds, _reader(parquet.load, "data.parquet"),
           fixed=["0.png", "1.png"]),
    Target("tar", "tar archives of images", _tar_seeds, _reader(tar.load, "data.tar")),
    Target("cifar", "archives of CIFAR", _cifar_seeds, _read_cifar),
    Target("coco", "COCO and labelme annotations", _coco_seeds,
           _reader(coco.load, "annotations/instances_train.json"), fixed=_PICTURES),
    Target("voc", "PASCAL VOC annotations", _voc_seeds, _reader(voc.load),
           fixed=[f"JPEGImages/{n}.png" for n in range(3)]),
    Target("yolo", "YOLO annotations", _yolo_seeds, _reader(yolo.load, ["data.yaml", ""]),
           fixed=_PICTURES),
]  # fmt: skip

"""The commands on data of every kind, named by their paths."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main

KINDS = ("red", "green", "blue")


def picture(number, seed):
    pixels = np.random.default_rng(seed).integers(0, 60, (12, 12, 3), np.uint8)
    pixels[..., number % 3] += 150
    return pixels


def png(number, seed):
    file = io.BytesIO()
    Image.fromarray(picture(number, seed)).save(file, "PNG")
    return file.getvalue()


def make_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    for split, count in (("train", 30), ("test", 9)):
        images = [{"bytes": png(n, n + count), "path": None} for n in range(count)]
        labels = [KINDS[n % 3] for n in range(count)]
        parquet.write_table(
            pa.table({"image": images, "label": labels}), folder / f"{split}-0.parquet"
        )
    return folder


def make_tar(folder):
    for split, count in (("train", 30), ("test", 9)):
        with tarfile.open(folder / f"{split}-0.tar", "w") as archive:
            for n in range(count):
                for ending, content in (("png", png(n, n + count)), ("cls", KINDS[n % 3].encode())):
                    member = tarfile.TarInfo(f"{n:03}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def make_npz(folder):
    arrays = {}
    for split, count in (("train", 30), ("test", 9)):
        arrays[f"x_{split}"] = np.stack([picture(n, n + count) for n in range(count)])
        arrays[f"y_{split}"] = np.arange(count) % 3
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def make_idx(folder):
    for split, count in (("train", 30), ("t10k", 9)):
        images = np.stack([picture(n, n + count) for n in range(count)])
        labels = (np.arange(count) % 3).astype(np.uint8)
        for name, array in (("images-idx4", images), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{split}-{name}-ubyte").write_bytes(head + array.tobytes())
    return folder


def printed(capsys):
    return "".join(capsys.readouterr())


@pytest.mark.parametrize("make", [make_parquet, make_tar, make_npz, make_idx])
def test_a_bare_path_is_trained_evaluated_and_predicted(tmp_path, monkeypatch, capsys, make):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    path = str(make(tmp_path / "data").relative_to(tmp_path))
    command = ["train", "lenet", "--data", path, "--epochs", "1", "--kernels", "keras"]
    assert main([*command, "--output", "runs"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    run.rename(tmp_path / "run")
    assert "39 images of 12x12x3 in 3 classes" in printed(capsys)
    assert main(["evaluate", "run"]) == 0
    assert "the validation part of" in printed(capsys)
    monkeypatch.chdir(tmp_path / "data")
    assert main(["evaluate", "../run"]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "run", path, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows if isinstance(rows, list) else rows["predictions"]) == 6

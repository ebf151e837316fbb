"""Tar archives of images as people bring them: WebDataset shards and packed folders."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions, read_image
from cnnforge.data.writers.archives import write_tar
from cnnforge.data.writers.files import write_folder, write_table
from cnnforge.data.writers.items import Items
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets.tar import load

KINDS = ("cat", "dog")


def png(seed, form="PNG", size=(6, 5)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def pack(path, members, form=tarfile.USTAR_FORMAT):
    """Write an archive; a member is content, or a `tarfile.TarInfo` that is a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def samples(count=10, first=0, label=lambda n: str(n % 2), ending="cls", folder=""):
    for n in range(first, first + count):
        yield f"{folder}{n:04}.png", png(n)
        yield f"{folder}{n:04}.{ending}", label(n)


def link(target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def opened(path, purpose="training", **options):
    return load(str(path), DataOptions(purpose=purpose, **options))


@pytest.mark.parametrize(
    ("label", "ending", "classes"),
    [
        (lambda n: str(n % 2), "cls", ("0", "1")),
        (lambda n: f"{n % 2 + 9}\n", "cls", ("9", "10")),
        (lambda n: KINDS[n % 2], "cls", KINDS),
        (lambda n: KINDS[n % 2], "txt", KINDS),
        (lambda n: KINDS[n % 2], "label.txt", KINDS),
        (lambda n: json.dumps({"label": n % 2}), "json", ("0", "1")),
        (lambda n: json.dumps({"label": n % 2, "class_name": KINDS[n % 2]}), "json", KINDS),
        (lambda n: json.dumps({"caption": f"{n}", "label": [KINDS[n % 2]]}), "json", KINDS),
        (lambda n: json.dumps(n % 2), "json", ("0", "1")),
    ],
)
def test_labels_are_understood(tmp_path, label, ending, classes):
    path = pack(tmp_path / "x.tar", samples(label=label, ending=ending))
    dataset = opened(path)
    assert dataset.classes == classes
    parts = (dataset.train, dataset.validation)
    assert sum(map(len, parts)) == 10
    for part in parts:
        for row, name in enumerate(part.names):
            n = int(os.path.basename(name)[:4])
            assert part.labels[row] == n % 2
            (tmp_path / "one.png").write_bytes(png(n))
            expected = read_image(tmp_path / "one.png", (5, 6, 3))
            np.testing.assert_array_equal(part.fetch(np.array([row]))[0], expected)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("top", ["", "./", "photos/", "data/photos/", "ø" * 60 + "/"])
def test_folders_in_an_archive_are_classes(tmp_path, top, form):
    members = [(f"{top}{kind}/{n}.png", png(n)) for n, kind in enumerate(KINDS * 5)]
    members += [(f"{top}{kind}/._0.png", b"x") for kind in KINDS]
    dataset = opened(pack(tmp_path / "x.tar", members, form))
    assert dataset.classes == KINDS
    assert len(dataset.train) + len(dataset.validation) == 10
    assert not dataset.skipped


def test_folders_in_an_archive_may_be_splits(tmp_path):
    members = [
        (f"photos/{part}/{kind}/{n}.png", png(n * 7 + len(part)))
        for part, count in (("train", 6), ("val", 2), ("test", 3))
        for kind in KINDS
        for n in range(count)
    ]
    dataset = opened(pack(tmp_path / "x.tar", members))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [12, 4, 6]
    assert "12 images are for training, 4 for validation, 6 for a test at the end" in dataset.notes


def test_names_of_shards_say_their_split(tmp_path):
    for name, first, count in (("train-000", 0, 6), ("train-001", 6, 6), ("test-000", 20, 4)):
        pack(tmp_path / f"shards-{name}.tar", samples(count, first))
    dataset = opened(tmp_path)
    assert len(dataset.train) + len(dataset.validation) == 12
    assert len(dataset.test) == 4
    for pattern in ("shards-train-{000..001}.tar", "shards-train-*.tar", "shards-{train-000}.tar"):
        if pattern.count("{train"):
            with pytest.raises(UsageError, match="no file fits"):
                opened(tmp_path / pattern)
            continue
        dataset = opened(tmp_path / pattern)
        assert len(dataset.train) + len(dataset.validation) == 12
        assert dataset.test is None
    with pytest.raises(UsageError, match=r"1 of the files .* do not exist, the first .*002\.tar"):
        opened(tmp_path / "shards-train-{000..002}.tar")
    assert len(opened(tmp_path, "evaluation").train) == 12
    predicted = opened(tmp_path, "prediction")
    assert (len(predicted.train), predicted.test) == (12, None)
    assert "images of the test part that are left out: 4" in predicted.notes


def test_names_of_classes_may_stand_next_to_the_shards(tmp_path):
    pack(tmp_path / "a.tar", samples())
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    dataset = opened(tmp_path)
    assert dataset.classes == KINDS
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(DataError, match="has 1 names, and the labels go up to 1"):
        opened(tmp_path)


def test_what_cannot_be_used_is_skipped_with_a_reason(tmp_path):
    members = [
        *samples(),
        ("up.png", link("../secret.png")),
        ("hard.png", link("0001.png", tarfile.LNKTYPE)),
        ("../out.png", png(1)),
        ("/root.png", png(1)),
        ("bad.png", b"<html>"),
        ("bad.cls", "0"),
        ("alone.png", png(99)),
        ("odd.png", png(98)),
        ("odd.json", "{"),
    ]
    dataset = opened(pack(tmp_path / "x.tar", members))
    assert len(dataset.train) + len(dataset.validation) == 10
    reasons = {os.path.basename(file.path): file.reason for file in dataset.skipped}
    assert reasons["up.png"] == reasons["hard.png"] == "links in an archive are not followed"
    assert reasons["out.png"] == reasons["root.png"] == "the name leads out of the archive"
    assert "not an image" in reasons["bad.png"]
    assert reasons["alone.png"] == "it has no label"
    assert "its label cannot be read" in reasons["odd.png"]
    assert not (tmp_path.parent / "out.png").exists()
    with pytest.raises(DataError, match="--strict"):
        opened(tmp_path / "x.tar", strict=True)


def member(kind, **values):
    info = tarfile.TarInfo()
    info.type = kind
    for name, value in values.items():
        setattr(info, name, value)
    return info


def test_t23_an_archive_reads_and_writes_nothing_outside(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(200))
    before = secret.read_bytes()
    holes = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50), "GNU.sparse.major": "0"}
    members = [
        *samples(),
        ("../secret.png", png(1)),
        ("../secret.cls", "0"),
        ("a/../../secret.png", png(1)),
        (str(secret), png(1)),
        ("folder", link(str(tmp_path))),
        ("folder/secret.png", png(1)),
        ("soft.png", link("../secret.png")),
        ("soft.cls", "0"),
        ("absolute.png", link(str(secret))),
        ("hard.png", link(str(secret), tarfile.LNKTYPE)),
        ("disk.png", member(tarfile.BLKTYPE, devmajor=8)),
        ("zero.png", member(tarfile.CHRTYPE, devmajor=1, devminor=5)),
        ("pipe.png", member(tarfile.FIFOTYPE)),
        ("bomb.png", member(tarfile.REGTYPE, pax_headers=holes)),
    ]
    folder = tmp_path / "data"
    dataset = opened(pack(folder / "x.tar", members, tarfile.PAX_FORMAT))
    assert len(dataset.train) + len(dataset.validation) == 10
    for part in (dataset.train, dataset.validation):
        part.fetch(np.arange(len(part)))
    reasons = {file.path.removeprefix(f"{folder}/x.tar/"): file.reason for file in dataset.skipped}
    outside, links = "the name leads out of the archive", "links in an archive are not followed"
    assert reasons["../secret.png"] == reasons["a/../../secret.png"] == outside
    assert reasons["soft.png"] == reasons["absolute.png"] == reasons["hard.png"] == links
    for name in ("disk.png", "zero.png", "pipe.png", "bomb.png"):
        assert reasons[name] == "not a regular file"
    assert secret.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["data", "secret.png"]
    assert os.listdir(folder) == ["x.tar"]


def test_t23_names_in_an_archive_do_not_lead_out_of_a_converted_folder(tmp_path):
    members = samples(label=lambda n: ("../../up", "b")[n % 2])
    dataset = opened(pack(tmp_path / "in" / "x.tar", members), "inspection")
    target = tmp_path / "out" / "folder"
    target.mkdir(parents=True)
    with pytest.raises(DataError, match=r"the class '\.\./\.\./up' cannot be the name of a folder"):
        write_folder(Items(dataset), target)
    write_table(Items(dataset), target)
    write_tar(Items(dataset), target)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert os.listdir(tmp_path / "out") == ["folder"]
    with tarfile.open(target / "data-000000.tar") as archive:
        assert all("/" not in name and ".." not in name for name in archive.getnames())


def test_nothing_is_unpacked(tmp_path):
    path = pack(tmp_path / "x.tar", samples())
    dataset = opened(path)
    dataset.train.fetch(np.arange(len(dataset.train)))
    assert os.listdir(tmp_path) == ["x.tar"]


def test_data_without_labels_can_be_predicted(tmp_path):
    path = pack(tmp_path / "x.tar", [(f"{n}.png", png(n)) for n in range(4)])
    dataset = opened(path, "prediction")
    assert not dataset.labelled
    assert dataset.train.ids == ["0", "1", "2", "3"]
    with pytest.raises(DataError, match=r"has no labels: expected images with labels, a\.jpg and"):
        opened(path)


def test_a_test_split_without_labels_is_left_out(tmp_path):
    pack(tmp_path / "train.tar", samples())
    pack(tmp_path / "test.tar", [(f"{n}.png", png(n)) for n in range(4)])
    dataset = opened(tmp_path)
    assert dataset.test is None
    assert "the 4 images of the test split have no labels: left out" in dataset.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "not a tar archive, or is damaged"),
        (lambda content: b"<html>404</html>" * 99, "not a tar archive, or is damaged"),
        (lambda content: content[: len(content) // 2 // 512 * 512 - 700], "is damaged"),
        (gzip.compress, r"compressed with gzip.*type: gunzip -k "),
        (lambda content: b"PK\3\4" + content, "not a tar archive"),
    ],
)
def test_other_and_damaged_files_are_named(tmp_path, change, message):
    path = pack(tmp_path / "x.tar", samples())
    content = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(change(content))
    with pytest.raises(DataError, match=message):
        opened(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = pack(tmp_path / "x.tar", samples())
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[7].offset
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[offset + 150] ^= 255
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match="damaged header after 7 files"):
        opened(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [2**33, -1024])
def test_a_header_of_any_size_takes_no_memory(tmp_path, kind, size):
    path = pack(tmp_path / "x.tar", samples())
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, size
    content = header.tobuf(tarfile.GNU_FORMAT) + (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=f"is damaged .a header of {size} bytes.: copy or"):
        opened(path)


def test_an_archive_that_changes_is_noticed(tmp_path):
    path = pack(tmp_path / "x.tar", samples())
    dataset = opened(path)
    os.truncate(path, 700)
    with pytest.raises(DataError, match="changed or moved after"):
        dataset.train.fetch(np.arange(len(dataset.train)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "has no images"),
        ([("a.txt", "x"), ("b.mp4", "x")], "has no images: expected images with labels"),
        (samples(label=lambda n: "cat|dog" if n else "cat", ending="cls"), None),
        (samples(label=lambda n: json.dumps({"label": [0, n]}), ending="json"), "multi-label"),
        (samples(20, label=lambda n: f"a photo of {n} cats", ending="txt"), "ids or captions"),
        (samples(label=lambda n: "cat"), "only images of the class 'cat'"),
        (samples(label=lambda n: ""), "has no labels"),
    ],
)
def test_wrong_archives_are_named(tmp_path, members, message):
    path = pack(tmp_path / "x.tar", members)
    if message is None:
        members = samples(label=lambda n: ("cat|dog", "cat", "dog")[n % 3])
        path, message = pack(tmp_path / "x.tar", members), r"several classes.*\(multi-label\)"
    with pytest.raises(DataError, match=message):
        opened(path)


def test_paths_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"tar needs a file, a folder or a pattern"):
        load(None, DataOptions())
    with pytest.raises(UsageError, match="there is no file"):
        opened(tmp_path / "x.tar")
    with pytest.raises(UsageError, match=r"has no \.tar files"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="empty or too long"):
        opened(tmp_path / "x-{9..1}.tar")

"""Folders of pictures: good ones, and bad files of every sort."""

import hashlib
import os
import struct
import zlib

import numpy as np
from PIL import Image


def draw(path, seed=0, size=(8, 8), color=False):
    shape = (*size, 3) if color else size
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def folder_of(root, classes=("cat", "dog"), count=10, **how):
    for seed, name in enumerate(classes):
        for row in range(count):
            draw(root / name / f"{row}.png", seed, **how)
    return root


def tree_digest(folder):
    """Every path, link, content, mode and time of change in a user's folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(os.fsencode(path))
        if path.is_symlink():
            total.update(os.fsencode(os.readlink(path)))
        elif path.is_file():
            total.update(path.read_bytes())
        status = path.lstat()
        total.update(f"{status.st_mode} {status.st_mtime_ns}".encode())
    return total.hexdigest()


def png_bomb():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = b""
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        chunks += struct.pack(">I", len(content)) + kind + content + checksum
    return b"\x89PNG\r\n\x1a\n" + chunks


def make_odd_folder(folder):
    """Make a folder. Its class `cat` has good of every sort and bad files of every sort."""
    root = folder_of(folder / "root", color=True)
    cat = root / "cat"
    half_png = draw(folder / "whole.png", size=(64, 64)).read_bytes()
    half_jpeg = draw(folder / "whole.jpg", size=(64, 64)).read_bytes()
    (cat / "empty.png").touch()
    (cat / "half.png").write_bytes(half_png[: len(half_png) // 2])
    (cat / "half.jpg").write_bytes(half_jpeg[: len(half_jpeg) // 2])
    (cat / "text.jpg").write_text("this is not an image\n")
    (cat / "page.png").write_text("<html><body>404</body></html>")
    (cat / "bomb.png").write_bytes(png_bomb())
    (cat / "dangling.png").symlink_to("nowhere.png")
    (cat / "loop.png").symlink_to("loop.png")
    (cat / "up").symlink_to("..")
    (cat / "bad\nname.png").write_bytes(b"x")
    good = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    good.resize((1, 1)).save(cat / "one_pixel.png")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(cat / "sixteen.png")
    good.convert("RGBA").save(cat / "rgba.png")
    good.convert("CMYK").save(cat / "cmyk.jpg")
    good.convert("P").save(cat / "palette.png")
    good.convert("1").save(cat / "bits.png")
    good.save(cat / "moving.gif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    good.save(cat / "good\nname.png")
    (cat / "link.png").symlink_to("rgba.png")
    for litter in (".hidden.png", "Thumbs.db", "notes.txt", ".ipynb_checkpoints", "__MACOSX"):
        if "." in litter[1:]:
            (cat / litter).write_bytes(b"litter")
        else:
            draw(cat / litter / "copy.png")
    return root


BAD = {
    "cat/bad\nname.png": "not an image that can be read; it begins with b'x'",
    "cat/bomb.png": "too large",
    "cat/dangling.png": "dangling link: nowhere.png does not exist",
    "cat/empty.png": "empty file",
    "cat/half.jpg": "damaged",
    "cat/half.png": "damaged",
    "cat/loop.png": "broken link",
    "cat/page.png": "not an image that can be read; it begins with b'<html>",
    "cat/text.jpg": "not an image that can be read; it begins with b'this is",
    "cat/up": "link to a folder that contains it",
}

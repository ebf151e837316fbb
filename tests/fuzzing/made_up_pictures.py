"""Make up pictures in all forms and modes that Pillow writes, and folders of them."""

from __future__ import annotations

import io
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_target import Files
from hypothesis import strategies as st
from made_up_texts import Draw
from PIL import Image

_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")  # fmt: skip
_SIDES = st.sampled_from((1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 300))
_ORIENTATION = 0x0112


def _picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode in ("I;16", "I;16B"):
        numbers = rng.integers(0, 65536, size[::-1], np.uint16)
        return Image.frombytes(
            mode, size, numbers.astype(">u2" if "B" in mode else "<u2").tobytes()
        )
    if mode == "F":
        numbers = rng.choice(np.array([0, -1, 0.5, 1e38, np.nan, np.inf], np.float32), size[::-1])
        return Image.frombytes(mode, size, numbers.tobytes())
    if mode == "I":
        return Image.frombytes(
            mode, size, rng.integers(-(2**31), 2**31, size[::-1], np.int32).tobytes()
        )
    made = Image.new(mode, size)
    return Image.frombytes(mode, size, rng.bytes(len(made.tobytes()))) if seed else made


@cache
def forms() -> tuple[tuple[str, str], ...]:
    """Return each format that Pillow writes, with each mode that the format has."""
    Image.init()
    # Vectors, documents and data are not pictures, and ICNS takes a second for each.
    names = sorted(set(Image.SAVE) - {"PDF", "EPS", "WMF", "HDF5", "GRIB", "BUFR", "ICNS"})
    found = []
    for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", *names):
        for mode in _MODES:
            try:
                content = _saved(_picture(mode, (16, 16), 1), name)
                Image.open(io.BytesIO(content)).load()
            except Exception:
                continue
            found.append((name, mode))
    return tuple(found)


def _saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.save(file, form, **options)
    return file.getvalue()


def picture_file(draw: Draw, content: bytes = b"") -> bytes:
    """Return a picture in one of Pillow's forms; it has nothing of another one.

    Args:
        draw: Given by hypothesis.
        content: Not used.
    """
    form, mode = draw(st.sampled_from(forms()))
    size = draw(_SIDES), draw(_SIDES)
    picture = _picture(mode, size, draw(st.integers(0, 3)))
    options: dict[str, Any] = {}
    if form in ("JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF") and draw(st.booleans()):
        options["exif"] = _exif(draw)
    if form in ("PNG", "GIF") and mode in ("1", "L", "P", "RGB") and draw(st.booleans()):
        one = draw(st.sampled_from((0, 1, 255, b"\0\x80", b"\xff" * 256)))
        options["transparency"] = (1, 2, 3) if mode == "RGB" else one
    if form == "TIFF" and "exif" not in options:
        # A mode that a packing does not have, or odd EXIF data, may crash libtiff.
        packings = [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"]
        packings += ["group4"] * (mode == "1") + ["jpeg"] * (mode in ("L", "RGB"))
        options["compression"] = draw(st.sampled_from(packings))
    if form == "JPEG":
        options["progressive"], options["subsampling"] = (
            draw(st.booleans()),
            draw(st.integers(0, 2)),
        )
        options["quality"] = draw(st.sampled_from((1, 75, 100)))
    if form in ("PNG", "JPEG", "TIFF", "WEBP") and draw(st.integers(0, 4)) == 4:
        options["icc_profile"] = draw(st.binary(max_size=200))
    # Pillow crashes when it writes several pictures as AVIF.
    if form in ("GIF", "PNG", "TIFF", "WEBP", "MPO") and draw(st.booleans()):
        sizes = [
            size if draw(st.booleans()) else (draw(_SIDES), draw(_SIDES))
            for _ in range(draw(st.integers(0, 4)))
        ]
        options |= {
            "save_all": True,
            "append_images": [_picture(mode, each, at) for at, each in enumerate(sizes)],
        }
        if form in ("GIF", "PNG"):
            options |= {
                "duration": draw(st.sampled_from((0, 1, 60_000))),
                "disposal": draw(st.integers(0, 2)),
            }
    while True:
        try:
            return _saved(picture, form, **options)
        # A form does not have every option, or not for such a picture.
        except Exception:
            if not options:
                return _saved(_picture("L", size, 1), "PNG")
            options.popitem()


def _exif(draw: Draw) -> bytes:
    made = Image.Exif()
    made[_ORIENTATION] = draw(st.sampled_from((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535)))
    if draw(st.booleans()):
        made[draw(st.sampled_from((_ORIENTATION, 0x010F, 0x8769, 0x0132)))] = draw(
            st.sampled_from(("6", "", "x" * 300, (6, 6), b"\0\x06", 1.5))
        )
    if draw(st.booleans()):
        made.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    try:
        return made.tobytes()
    except Exception:
        return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


_NAMES = st.one_of(
    st.sampled_from((
        "a", "A", "a.b", ".a", "a ", "é", "e\u0301", "ß", "x" * 240, "-a", "a\nb", "a\tb", "'", '"', "#", "%s",
        "\u202e", "__MACOSX", "train", "Train", "val", "test", "TEST", "images", "labels", "0", "00", "1", "-", "None",
        "\udcff", "a\udc80b", "class=a", "[a]", "*", "\\", "~", "CON", "nan", "a,b", "😀",
    )),
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=6),
)  # fmt: skip
_SUFFIXES = st.sampled_from(
    (
        ".png",
        ".png",
        ".PNG",
        ".jpg",
        ".jpeg",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".webp",
        ".ppm",
        ".txt",
        "",
    )
)


@st.composite
def folders(draw: Draw, seed: Files) -> Files:
    """Draw folders of pictures with odd names and depths.

    Args:
        draw: Given by hypothesis.
        seed: A folder, the pictures of which are used too.
    """
    contents = list(seed.values())
    made: dict[str, bytes] = {}
    names = draw(st.lists(_NAMES, min_size=1, max_size=3))
    for _ in range(draw(st.integers(1, 6))):
        parts = draw(st.lists(st.sampled_from(names), max_size=3))
        path = "/".join([*parts, draw(st.sampled_from(names)) + draw(_SUFFIXES)])
        usable = all(
            part not in ("", ".", "..") and len(os.fsencode(part)) < 256 for part in path.split("/")
        )
        # A file cannot be a folder too.
        above = {str(each) for each in Path(path).parents}
        if (
            usable
            and not above & set(made)
            and not any(path in map(str, Path(each).parents) for each in made)
        ):
            made[path] = (
                picture_file(draw) if draw(st.booleans()) else draw(st.sampled_from(contents))
            )
    return made or seed

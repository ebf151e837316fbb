"""Say which image files are read, and why others are not."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image

IMAGE_SUFFIXES = frozenset(
    {
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".heic",
        ".heif",
        ".hif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".jpx",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""The endings of the image files that are read, in lower case. HEIC and HEIF need pillow-heif."""

# Only these formats are read. Pillow reads others too, but for some of them it starts another
# program (Ghostscript for EPS), which is not safe for files from unknown sources.
_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"msf1")
)
# Endings of pictures in formats that are not read.
_UNREAD = {
    "camera raw": (
        *(".arw", ".cr2", ".cr3", ".crw", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw"),
        *(".rw2", ".srw"),
    ),
    "DDS": (".dds",),
    "DICOM": (".dcm", ".dicom"),
    "FITS": (".fits",),
    "GIMP": (".xcf",),
    "HDR": (".exr", ".hdr"),
    "icon": (".cur", ".icns", ".ico"),
    "JPEG XL": (".jxl",),
    "JPEG XR": (".jxr", ".wdp"),
    "NIfTI": (".nii",),
    "PCX": (".pcx",),
    "PDF": (".pdf",),
    "Photoshop": (".psb", ".psd"),
    "PostScript": (".ai", ".eps", ".ps"),
    "SVG": (".svg", ".svgz"),
    "Targa": (".tga",),
    "whole-slide": (".mrxs", ".ndpi", ".svs"),
    "Windows metafile": (".emf", ".wmf"),
}
_UNREAD_NAMES = {suffix: name for name, suffixes in _UNREAD.items() for suffix in suffixes}


def unread_reason(suffix: str) -> str | None:
    """Say why a picture is not read, by its ending.

    Args:
        suffix: Ending of the file in lower case, with the dot.

    Returns:
        The reason with a fix, or `None` if the ending is not one of a picture that is not read.
    """
    name = _UNREAD_NAMES.get(suffix)
    return name and f"{name} pictures are not read; save them as PNG or JPEG"


def content_reason(start: bytes) -> str:
    """Say why the content of a file is not an image that is read.

    Args:
        start: The first 12 bytes of the file, or all if it has fewer.
    """
    if not start:
        return "empty file"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and "HEIF" not in pillow_formats():
        return "HEIC pictures need 'pip install pillow-heif'"
    return f"not an image that can be read; it begins with {start!r}"


@lru_cache(maxsize=1)
def pillow_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are read, for `Image.open`."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

        register_heif_opener()
    except (ImportError, OSError):
        # The package is optional, and its library may be one for another system.
        pass
    # Not every build of Pillow supports all formats, and `Image.open` raises a KeyError for an
    # unsupported one. Return only the supported formats.
    return tuple(name for name in _FORMATS if name in Image.OPEN)

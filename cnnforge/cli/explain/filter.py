"""The command `cnnforge filter`: shows what a feature detector sees in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    check_file,
    default_file,
    find_run,
    load_plugins,
    print_json,
)

if TYPE_CHECKING:
    from cnnforge.filtering.detectors import Detector
    from cnnforge.filtering.maps import Convolve, FeatureMap
    from cnnforge.plugin_host.discovery import Plugins


def filter(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MATRIX|FILE",
            help="edge, course, sobel-x, sobel-y, sharpen, blur, emboss or identity; or a matrix "
            'such as "0 1 0; 1 -4 1; 0 1 0", or a text file with one.  [default: edge]',
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Use a detector that the network of this run has learned."
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --run: the convolution.  [default: the first]"),
    ] = None,
    map: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --run: number of the feature map.")
    ] = 1,
    stride: Annotated[int, typer.Option(metavar="N", min=1, help="Step in pixels.")] = 1,
    padding: Annotated[
        str,
        typer.Option(
            metavar="same|valid",
            help="same: a frame of zeros keeps the size; valid: no frame, the map is smaller.",
        ),
    ] = "same",
    relu: Annotated[bool, typer.Option("--relu", help="Negative values become 0.")] = False,
    pool: Annotated[
        int, typer.Option(metavar="N", min=1, help="Keep the max of each square of NxN values.")
    ] = 1,
    gray: Annotated[
        bool, typer.Option("--gray", help="Convert a color picture to gray first.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write the map here.  [default: filtered.png]"),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write a web page in which every number can be changed."
        ),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a feature detector sees in a picture.

    The picture is convolved with the detector, as by the first layer of a network. In a color
    picture, every color is convolved by itself. The map is rounded and clipped to 0..255.
    """
    from cnnforge.errors import UsageError
    from cnnforge.optimizer_options import one_of

    one_of("padding", padding, ("same", "valid"))
    if run is None and (layer is not None or map != 1):
        raise UsageError("--layer and --map choose a detector of a run: add --run RUN")
    if run is not None and detector is not None:
        raise UsageError("--detector and --run both choose the detector: leave one out")
    image = image.expanduser()
    page = page and check_file("--page", page, ".html", "the page is an HTML file")
    if output is None:
        output = default_file(Path(), "filtered", ".png")
    else:
        output = check_file("--output", output, ".png", "the map is a PNG file")
    from cnnforge.filtering.detectors import find_detector
    from cnnforge.filtering.learned import learned_detector
    from cnnforge.filtering.maps import feature_map

    if run is None:
        chosen = find_detector(detector or "edge")
    else:
        chosen = learned_detector(find_run(run), layer, map)
    if page is not None and chosen.matrix.ndim == 3:
        raise UsageError(
            f"the detector {chosen.name} adds up the colors, which the page does not show: leave "
            "out --page"
        )
    pixels = _read(image, chosen, gray)
    convolve = _convolve(load_plugins(plugin))
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "relu": relu, "pool": pool}
    made = feature_map(pixels, chosen, convolve, **settings)
    written = {output: _png(made)}
    if page is not None:
        from cnnforge.filtering.page import filter_page

        text = filter_page(pixels, image.name, chosen, convolve, **settings)
        written[page] = text.encode("utf-8")
    _write(written)
    facts = _facts(image, pixels.shape, chosen, made)
    if json:
        print_json({**facts, **settings, "output": str(output), "page": page and str(page)})
        return
    _say(facts, chosen, made, [str(path) for path in written])


def _read(path: Path, detector: Detector, gray: bool) -> Any:
    """Read a picture in its own size: (H, W, C) uint8."""
    from cnnforge.data import printable
    from cnnforge.data.images import check_image, read_image
    from cnnforge.errors import UsageError

    if path.is_dir():
        raise UsageError(f"{printable(str(path))} is a folder: name one image file")
    checked = check_image(str(path))
    channels = 1 if gray or checked.grayscale else 3
    if detector.matrix.ndim == 3:
        channels = detector.matrix.shape[2]
        if gray:
            raise UsageError(f"the detector {detector.name} is for color: leave out --gray")
    return read_image(str(path), (*checked.size, channels))


def _convolve(plugins: Plugins) -> Convolve:
    """Return a function that convolves with the kernels of the first engine that has one."""
    import logging

    from cnnforge.errors import CnnforgeError
    from cnnforge.utils.compiling import compiling_announced

    functions = (spec.load_convolve() for spec in plugins.engines.values())
    function = next((each for each in functions if each is not None), None)
    if function is None:
        raise CnnforgeError("no installed plugin can convolve pictures: see 'cnnforge plugins'")

    def convolve(images: Any, weights: Any, stride: int, same: bool) -> Any:
        with compiling_announced(logging.getLogger("cnnforge"), "convolution"):
            return function(images, weights, stride, same)

    return convolve


def _png(made: FeatureMap) -> bytes:
    from io import BytesIO

    from PIL import Image

    pixels, file = made.pixels, BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def _write(contents: dict[Path, bytes]) -> None:
    from cnnforge.errors import CnnforgeError
    from cnnforge.utils.atomic_files import write_bytes

    for path, content in contents.items():
        try:
            write_bytes(path, content)
        except OSError as error:
            raise CnnforgeError(
                f"{path} could not be written: {error.strerror or error}; choose another file"
            ) from error


def _facts(
    image: Path, shape: tuple[int, ...], detector: Detector, made: FeatureMap
) -> dict[str, Any]:
    below, above = made.clipped
    return {
        "image": str(image),
        "size": list(shape),
        "detector": detector.name,
        "matrix": detector.matrix.tolist(),
        "divisor": detector.divisor,
        "map": list(made.pixels.shape),
        "min": float(made.values.min()),
        "max": float(made.values.max()),
        "below_0": below,
        "above_255": above,
    }


def _say(facts: dict[str, Any], detector: Detector, made: FeatureMap, written: list[str]) -> None:
    from cnnforge.cli import _render

    size, shape = ("x".join(map(str, facts[key][:2])) for key in ("size", "map"))
    color = "gray" if facts["size"][2] == 1 else "color"
    _render.message(f"picture: {size}, {color}; detector: {detector.name}; map: {shape}")
    if detector.about:
        _render.message(detector.about)
    below, above = made.clipped
    _render.message(
        f"values from {facts['min']:.4g} to {facts['max']:.4g}; {below:.1%} are below 0 and became "
        f"0, {above:.1%} are above 255 and became 255"
    )
    if above > 0.5 and detector.total > 1:
        _render.message(
            f"note: the numbers of the detector sum to {detector.total:g}, so an area of one color "
            f"becomes {detector.total:g} times as bright, and most of the map is white; the "
            "numbers of an edge detector sum to 0: --detector edge"
        )
    for path in written:
        typer.echo(path)

"""Image files made from records, of every kind that the serving graph takes, to try it on.

A run has records and no files. So each of its training images is made larger or smaller, roughened (the
detail is what resizing can get wrong), coloured by other images, and encoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

_SIDES = ((0.6, 0.8), (1.4, 3.1), (5.2, 2.1))  # height and width of a file, of the record's
_LARGE = (8.6, 8.2)  # JPEG alone is decoded at up to 1/8
_LONGEST = 3000  # pixels
_ROUGHNESS = 12  # gray levels
_ORIENTATION = 0x0112


class Sample(NamedTuple):
    """A file to try a graph on; ours: made by this module, so that the graph must take it."""

    name: str
    data: bytes
    ours: bool


def _jpeg(image: Image.Image, **options: object) -> bytes:
    return _encode(image, "JPEG", quality=90, **options)


def _turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return _jpeg(image, exif=exif)


def _png(image: Image.Image, **options: object) -> bytes:
    return _encode(image, "PNG", compress_level=1, **options)


def _encode(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _with_alpha(image: Image.Image) -> Image.Image:
    """As transparent as it is red."""
    image = image.copy()
    image.putalpha(image.getchannel(0))
    return image


def _deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257 - 1 & 0xFFFF)


_JPEGS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:2:0": lambda image: _jpeg(image, subsampling=2),
    "4:2:2": lambda image: _jpeg(image, subsampling=1),
    "4:4:4": lambda image: _jpeg(image, subsampling=0),
    "progressive": lambda image: _jpeg(image, progressive=True),
    "gray": lambda image: _jpeg(image.convert("L")),
    "RGB": lambda image: _jpeg(image, keep_rgb=True),
    "upside down": lambda image: _turned(image, 3),
    "on its side": lambda image: _turned(image, 6),
    "on its side, mirrored": lambda image: _turned(image, 5),
}
_OTHERS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": _png,
    "PNG gray": lambda image: _png(image.convert("L")),
    "PNG black and white": lambda image: _png(image.convert("1")),
    "PNG 16 bits": lambda image: _png(_deep(image)),
    "PNG transparent": lambda image: _png(_with_alpha(image)),
    "PNG gray transparent": lambda image: _png(_with_alpha(image.convert("L"))),
    "PNG palette": lambda image: _png(image.quantize(60)),
    "PNG palette transparent": lambda image: _png(
        image.quantize(60), transparency=bytes(range(60))
    ),
    "GIF": lambda image: _encode(image.quantize(200), "GIF"),
    "GIF transparent": lambda image: _encode(image.quantize(200), "GIF", transparency=7),
    "BMP": lambda image: _encode(image, "BMP"),
    "BMP gray": lambda image: _encode(image.convert("L"), "BMP"),
}


def sample_files(images: np.ndarray) -> Iterator[Sample]:
    """At least 64 files, the same ones for the same uint8[N, H, W, C]; of many shapes and sizes."""
    jpegs = {f"JPEG {kind}": encode for kind, encode in _JPEGS.items()}
    small = [(side, kind) for side in _SIDES for kind in (jpegs | _OTHERS).items()]
    large = [(_LARGE, kind) for kind in jpegs.items()]
    for number, (side, (name, encode)) in enumerate(small + large):
        picture = _picture(images, number, side)
        size = f"{picture.width}x{picture.height}"
        yield Sample(f"sample {number} ({name}, {size})", encode(picture), ours=True)


def _picture(images: np.ndarray, number: int, side: tuple[float, float]) -> Image.Image:
    """RGB, of `side` times the size of image `number`; a gray one is coloured by the two after it."""
    of_three = images[np.arange(number, number + 3) % len(images)]
    colours = of_three[0] if images.shape[3] == 3 else np.moveaxis(of_three[..., 0], 0, -1)
    height, width = (
        min(max(round(length * times), 1), _LONGEST)
        for length, times in zip(colours.shape[:2], side, strict=True)
    )
    smooth = Image.fromarray(np.ascontiguousarray(colours))
    smooth = smooth.resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(number).integers(
        -_ROUGHNESS, _ROUGHNESS, (height, width, 3), endpoint=True
    )
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))

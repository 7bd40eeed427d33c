"""The one preprocessing: the bytes of an image file → uint8[height, width, channels].

The build calls it for every record and `predict` for every file, so a model sees in use what it
saw in training. Whoever changes a pixel here changes `schema.PREPROCESSING`.
"""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ImageRejected
from pipeline.schema import ImageSpec

DEFAULT_MAX_PIXELS = 64_000_000

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")

Image.MAX_IMAGE_PIXELS = (
    None  # our own limit is checked, for each image, before any pixel is decoded
)

warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of broken metadata

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED_ON_ITS_SIDE = (5, 6, 7, 8)
_DCT_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # SOF markers: baseline, extended, progressive
_SEGMENTS = frozenset((*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD))  # APPn, COM, DQT, DHT, DRI
_LARGE_PIXELS = 16_000_000
_STRIP_ROWS = 256
_one_large_image_at_a_time = threading.Lock()  # so that threads of a worker do not add up


def decode_image(
    data: bytes, spec: ImageSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """uint8[spec.height, spec.width, spec.channels] from the bytes of an image file.

    The format is known by content. The first frame counts; EXIF orientation is applied; what is
    transparent lies over white; 16 bits lose the low eight; gray is the luma (ITU-R 601); the size
    comes from bilinear resizing with antialiasing, the aspect ratio is not kept.

    Raises ImageRejected with reason zero-bytes, not-an-image, too-large, truncated, unreadable or
    unsupported.
    """
    if not data:
        raise ImageRejected("zero-bytes", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageRejected(
                    "too-large", f"{width}x{height} pixels; the limit is {max_pixels} in all"
                )
            if width * height < _LARGE_PIXELS:
                return _decode(image, spec, data)
            with _one_large_image_at_a_time:
                return _decode(image, spec, data)
    except ImageRejected:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them trip over
        raise _verdict(error) from error


def _decode(image: Image.Image, spec: ImageSpec, data: bytes) -> np.ndarray:
    mode = "L" if spec.channels == 1 else "RGB"
    orientation = _orientation(image)
    size = (spec.width, spec.height)
    if orientation in _TURNED_ON_ITS_SIDE:
        size = size[::-1]
    if image.format == "JPEG" and _scales(data):
        image.draft(mode, size)  # decode at 1/2, 1/4 or 1/8 if that is no smaller than `size`
    image.load()
    small = _flatten(image, mode).resize(size, Image.Resampling.BILINEAR)
    if orientation in _TURNS:
        small = small.transpose(_TURNS[orientation])
    return np.asarray(small).reshape(spec.height, spec.width, spec.channels)


def _scales(data: bytes) -> bool:
    """Whether a JPEG is plainly of a kind (DCT, Huffman) that decodes at a scale.

    Asked for a smaller size, Pillow writes past the end of its buffer if the JPEG is lossless. So
    this walks the header as libjpeg does, and says no as soon as anything in it is unusual.
    """
    place = 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker not in _SEGMENTS or length < 2:
            return marker in _DCT_HUFFMAN_FRAMES
        place += 2 + length
    return False


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # broken metadata is no reason to lose good pixels
        return 1


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """`image` as `mode`, strip by strip, so that no second full-size copy is made on the way."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.height <= _STRIP_ROWS:
        return _flatten_strip(image, mode)
    result = Image.new(mode, image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        result.paste(_flatten_strip(image.crop(box), mode), box)
    return result


def _flatten_strip(strip: Image.Image, mode: str) -> Image.Image:
    if strip.mode.startswith("I;16"):
        strip = Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))
    elif strip.mode in ("I", "F"):
        raise ImageRejected("unsupported", f"pixels of 32 bits (mode {strip.mode})")
    if strip.has_transparency_data:
        colours = strip.convert("RGBA")
        strip = Image.new("RGB", strip.size, "white")
        strip.paste(colours, mask=colours)
    return strip.convert(mode)


def _verdict(error: Exception) -> ImageRejected:
    text = " ".join(str(error).split())
    detail = f"{type(error).__name__}: {text}"[:300]
    if isinstance(error, UnidentifiedImageError):
        return ImageRejected("not-an-image", "no image format that Pillow reads")
    if isinstance(error, MemoryError):
        return ImageRejected("too-large", "not enough memory to decode it")
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return ImageRejected("truncated", detail)
    return ImageRejected("unreadable", detail)

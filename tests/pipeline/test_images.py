from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageRejected
from pipeline.images import decode_image
from pipeline.schema import ImageSpec
from tests.conftest import jpeg

GRAY = ImageSpec(30, 40, 1)
COLOUR = ImageSpec(30, 40, 3)
EXACT = {"dct_method": "INTEGER_ACCURATE"}  # as Pillow; TensorFlow is hasty unless told


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(640, 480), (1024, 1024), (333, 777), (40, 30), (10, 8)])
def test_gray_and_size_are_what_tensorflow_makes_of_a_jpeg(size):
    """Law 7: the same gray values at the scale that the decoder offers, resized within a level."""
    import tensorflow as tf

    data = jpeg(1, size=size)
    ratio = next(r for r in (8, 4, 2, 1) if min(size[0] // 40, size[1] // 30) >= r or r == 1)
    luma = tf.io.decode_jpeg(data, channels=1, ratio=ratio, **EXACT)
    resized = tf.image.resize(luma, (30, 40), antialias=True).numpy()
    assert np.abs(decode_image(data, GRAY) - resized).max() <= 1.0


def test_without_resizing_gray_is_bit_for_bit_tensorflows():
    import tensorflow as tf

    data = jpeg(2, size=(40, 30))
    assert (decode_image(data, GRAY) == tf.io.decode_jpeg(data, channels=1, **EXACT).numpy()).all()
    assert (
        decode_image(data, COLOUR) == tf.io.decode_jpeg(data, channels=3, **EXACT).numpy()
    ).all()


def flat(mode, colour, **options):
    return encoded(Image.new(mode, (50, 60), colour), **options)


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (flat("L", 77), 77),
        (flat("RGB", (255, 0, 0)), 76),  # ITU-R 601: 0.299 of 255
        (flat("RGBA", (255, 0, 0, 0)), 255),  # transparent: white shows
        (flat("RGBA", (0, 0, 0, 128)), 127),
        (flat("LA", (0, 0)), 255),
        (flat("1", 1), 255),
        (flat("I;16", 0x4D00), 0x4D),  # the low byte goes
        (flat("CMYK", (0, 0, 0, 255), kind="TIFF"), 0),
        (flat("P", 0, transparency=0), 255),
        (flat("L", 77, kind="WEBP", lossless=True), 77),
        (flat("RGB", (77, 77, 77), kind="BMP"), 77),
        (flat("L", 77, kind="GIF"), 77),
    ],
)
def test_every_kind_of_pixel_comes_out_as_gray(data, level):
    pixels = decode_image(data, GRAY)
    assert pixels.shape == (30, 40, 1)
    assert pixels.dtype == np.uint8
    assert (pixels == level).all()


def test_a_format_is_known_by_content_whatever_the_name_says():
    """WebP bytes under a .jpg name, as downloads from the web have them, and AVIF."""
    for kind in ("WEBP", "AVIF"):
        pixels = decode_image(encoded(Image.new("RGB", (50, 60), (90, 90, 90)), kind), GRAY)
        assert np.abs(pixels.astype(int) - 90).max() <= 2


def test_strips_of_a_tall_image_make_no_seam():
    ramp = np.arange(700, dtype=np.uint16).repeat(5).reshape(700, 5) * 90
    data = encoded(Image.fromarray(ramp))
    assert (decode_image(data, ImageSpec(700, 5, 1))[..., 0] == ramp >> 8).all()


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("L", (50, 60), level) for level in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(data, GRAY) == 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    """The same picture, stored in eight ways, comes out once."""
    upright = Image.fromarray(np.arange(12 * 16, dtype=np.uint8).reshape(12, 16))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose: what a camera did
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    expected = np.asarray(upright)
    assert (decode_image(data, ImageSpec(12, 16, 1))[..., 0] == expected).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def png_start(width: int, height: int) -> bytes:
    """The first rows of a PNG that claims to be as large as that."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero-bytes"),
        (b"hello, I am no image", "not-an-image"),
        (jpeg(3)[:400], "truncated"),
        (jpeg(3)[:-200], "truncated"),
        (png_start(65536, 65536), "too-large"),
        (encoded(Image.new("F", (9, 9)), "TIFF"), "unsupported"),
    ],
)
def test_what_cannot_be_decoded_is_rejected_with_its_reason(data, reason):
    with pytest.raises(ImageRejected) as caught:
        decode_image(data, GRAY)
    assert caught.value.reason == reason


def test_the_limit_of_pixels_is_checked_before_decoding():
    data = flat("L", 5)
    with pytest.raises(ImageRejected, match="50x60 pixels; the limit is 2999"):
        decode_image(data, GRAY, max_pixels=2999)
    assert decode_image(data, GRAY, max_pixels=3000).shape == (30, 40, 1)

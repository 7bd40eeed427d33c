"""The graph's pixels are the build's, and what it cannot do it refuses by name."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from model.config import NetworkConfig
from model.headers import REFUSALS
from model.network import build_network
from model.samples import sample_files
from model.serving import decode_images, save_serving_graph
from pipeline.errors import ImageRejected
from pipeline.images import decode_image
from pipeline.schema import ImageSpec

GRAY = ImageSpec(32, 40, 1)
LIMIT = 4_000_000


def traced(spec: ImageSpec):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(image_bytes):
        return decode_images(image_bytes, spec, max_pixels=LIMIT)

    return lambda *files: decode(tf.constant(files, tf.string, [len(files)])).numpy()


@pytest.fixture(scope="module")
def graph():
    """Bytes of files → uint8[B, 32, 40, 1], by the graph."""
    return traced(GRAY)


def colours(width: int = 70, height: int = 50) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """`jpeg` with one more segment right behind its start."""
    head = struct.pack(">BBH", 0xFF, marker, len(content) + 2)
    return jpeg[:2] + head + content + jpeg[2:]


def exif(orientation: int, endian: str = "<", *, kind: int = 3, count: int = 1) -> bytes:
    """An Exif block of two entries: an image width and the orientation."""
    head = b"II*\0" if endian == "<" else b"MM\0*"
    entries = [struct.pack(endian + "HHII", 0x100, 4, 1, 70)]
    value = struct.pack(endian + ("HH" if kind == 3 else "I"), *([orientation, 0][: 5 - kind]))
    entries.append(struct.pack(endian + "HHI", 0x112, kind, count) + value)
    body = struct.pack(endian + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return b"Exif\0\0" + head + body


def xmp(orientation: int, *, more: str = "") -> bytes:
    text = f'<x:xmpmeta tiff:Orientation="{orientation}"{more}/>'
    return b"http://ns.adobe.com/xap/1.0/\0" + text.encode()


def png_text(orientation: int, *, zip: bool = False) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>', zip=zip)
    return info


def png_ztxt(orientation: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>', zip=True)
    return info


JPEG = encoded(colours(), "JPEG")
PNG = encoded(colours(), "PNG")
GIF = encoded(colours().quantize(30), "GIF")
BMP = encoded(colours(), "BMP")
MPO = encoded(colours(), "MPO", save_all=True, append_images=[colours(80)])
ORIENTED = exif(6)


@pytest.mark.parametrize("spec", [GRAY, ImageSpec(25, 50, 3)], ids=str)
def test_every_kind_of_file_gives_the_pixels_of_the_build(spec, graph):
    shape = (7, spec.height, spec.width, spec.channels)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    decode = graph if spec == GRAY else traced(spec)
    files = list(sample_files(images))
    assert len(files) >= 64
    for sample in files:
        expected, found = decode_image(sample.data, spec), decode(sample.data)[0]
        assert np.array_equal(found, expected), sample.name


def test_real_files_give_the_pixels_of_the_build_or_an_error(shared, graph):
    compared = 0
    for path in sorted((shared / "odd").glob("*.*")):
        data = path.read_bytes()
        try:
            found = graph(data)[0]
        except tf.errors.InvalidArgumentError:
            continue
        try:
            expected = decode_image(data, GRAY, max_pixels=LIMIT)
        except ImageRejected:
            assert path.name == "image-png__cicp_pq.png"  # a wrong checksum behind the header
            continue
        assert np.array_equal(found, expected), path.name
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
def test_every_orientation_is_applied(graph, orientation, endian):
    data = with_segment(JPEG, 0xE1, exif(orientation, endian))
    assert np.array_equal(graph(data)[0], decode_image(data, GRAY))
    chunk = exif(orientation, endian)[6:]
    data = encoded(colours(), "PNG", exif=chunk)
    assert np.array_equal(graph(data)[0], decode_image(data, GRAY))


TAKEN = {
    "an orientation of 1 in XMP": with_segment(JPEG, 0xE1, xmp(1)),
    "Exif's orientation, whatever XMP says": with_segment(
        with_segment(JPEG, 0xE1, exif(3)), 0xE1, xmp(8)
    ),
    "an Exif block without orientation": with_segment(
        JPEG, 0xE1, exif(6).replace(b"\x12\x01", b"\x13\x01")
    ),
    "a gain map": with_segment(MPO, 0xE1, xmp(1, more=' hdrgm:Version="1.0"')),
    "a photo in XMP of PNG": encoded(colours(), "PNG", pnginfo=png_text(1)),
    "16 bits and transparent": encoded(
        Image.fromarray(np.arange(3500).reshape(50, 70).astype(np.uint16) * 18), "PNG"
    ),
    "an animation": encoded(
        colours().quantize(9),
        "GIF",
        save_all=True,
        append_images=[colours(71).crop((0, 0, 70, 50))],
    ),
    "a BMP from the top": BMP[:22] + struct.pack("<i", -50) + BMP[26:],
    "a BMP of 32 bits": encoded(colours().convert("RGBA"), "BMP")[:28]
    + struct.pack("<HI", 32, 0)
    + encoded(colours().convert("RGBA"), "BMP")[34:],
    "one pixel": encoded(colours(1, 1), "PNG"),
    "a line": encoded(colours(900, 1), "JPEG"),
    "a column": encoded(colours(1, 900), "PNG"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_unusual_files_give_the_pixels_of_the_build(graph, name):
    assert np.array_equal(graph(TAKEN[name])[0], decode_image(TAKEN[name], GRAY))


REFUSED = [
    ("format", encoded(colours(), "WEBP")),
    ("format", encoded(colours(), "TIFF")),
    ("format", encoded(colours(), "PPM")),
    ("format", b"plain text"),
    ("format", b""),
    ("jpeg", JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1)),  # lossless
    ("jpeg", JPEG[:2] + b"\xff" + JPEG[2:]),  # padding between segments
    ("jpeg", JPEG[:100]),
    ("jpeg", JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1)),  # 12 bits
    ("cmyk", encoded(colours().convert("CMYK"), "JPEG")),
    ("several", MPO),
    ("exif", with_segment(with_segment(JPEG, 0xE1, ORIENTED), 0xE1, ORIENTED)),
    ("exif", with_segment(JPEG, 0xE1, ORIENTED[:36])),  # the directory is cut
    ("exif", with_segment(JPEG, 0xE1, ORIENTED.replace(b"II*", b"IX*"))),
    ("exif", with_segment(JPEG, 0xE1, exif(6, kind=4))),
    ("exif", with_segment(JPEG, 0xE1, exif(6, count=2))),
    (
        "exif",
        with_segment(JPEG, 0xE1, ORIENTED.replace(b"\x04\0\x01\0\0\0F", b"\x04\0\x09\0\0\0F")),
    ),
    ("exif", encoded(colours(), "PNG", exif=ORIENTED[6:36])),
    ("xmp", with_segment(JPEG, 0xE1, xmp(6))),
    ("xmp", encoded(colours(), "PNG", pnginfo=png_text(3))),
    ("xmp", encoded(colours(), "PNG", pnginfo=png_text(1, zip=True))),
    ("xmp", encoded(colours(), "PNG", pnginfo=png_ztxt(6))),
    ("png", PNG[:12] + b"CgBI" + PNG[16:]),
    ("colour key", encoded(colours(), "PNG", transparency=(1, 2, 3))),
    ("colour key", encoded(colours().convert("L"), "PNG", transparency=7)),
    ("gif", GIF[:6]),
    ("gif", GIF[:10] + b"\0" + GIF[11:13] + GIF[13 + 3 * 32 :]),  # no palette
    ("canvas", GIF[:6] + struct.pack("<HH", 71, 50) + GIF[10:]),
    ("canvas", GIF[:6] + struct.pack("<HH", 70, 51) + GIF[10:]),
    ("canvas", GIF.replace(struct.pack("<4H", 0, 0, 70, 50), struct.pack("<4H", 1, 0, 70, 50))),
    ("canvas", GIF.replace(struct.pack("<4H", 0, 0, 70, 50), struct.pack("<4H", 0, 1, 70, 50))),
    ("bmp", encoded(colours().quantize(9), "BMP")),
    ("bmp", encoded(colours().quantize(256), "BMP")),
    ("bmp", encoded(colours().convert("1"), "BMP")),
    ("bmp", BMP[:30] + b"\x01" + BMP[31:]),  # compressed
    ("size", encoded(Image.new("L", (2001, 2000)), "PNG")),
    ("size", GIF[:6] + bytes(4) + GIF[10:].replace(struct.pack("<HH", 70, 50), bytes(4), 1)),
]


@pytest.mark.parametrize(
    ("word", "data"), REFUSED, ids=[f"{w}-{i}" for i, (w, _) in enumerate(REFUSED)]
)
def test_what_a_graph_cannot_do_is_refused_by_name(graph, word, data):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        graph(data)
    assert f"[image] [0] [of the batch is refused:] [{REFUSALS[word]}]" in str(error.value)


def test_a_text_chunk_with_exif_is_refused(graph):
    info = PngImagePlugin.PngInfo()
    block = exif(6).hex()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block) // 2:8}\n{block}\n", zip=True)
    data = encoded(colours(), "PNG", pnginfo=info)
    assert decode_image(data, GRAY).shape == (32, 40, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text chunk"):
        graph(data)


def test_every_refusal_is_tried():
    assert {word for word, _ in REFUSED} | {"text"} == set(REFUSALS)


def test_a_batch_may_be_of_any_size_and_its_bad_file_is_named(graph):
    for found, data in zip(graph(JPEG, PNG, GIF), (JPEG, PNG, GIF), strict=True):
        assert np.array_equal(found, decode_image(data, GRAY))
    assert graph().shape == (0, 32, 40, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[image\] \[2\] \[of the batch"):
        graph(JPEG, PNG, b"no image")


def test_above_one_half_the_label_is_the_second_class(tmp_path):
    spec = ImageSpec(4, 4, 1)
    network = build_network(NetworkConfig(1, 1, 0), spec)
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 1
    network.set_weights(
        [centre, np.zeros(1), np.ones((1, 1)), np.zeros(1)]
    )  # the score of black is one half
    save_serving_graph(network, tmp_path, spec=spec, classes=("a", "b"), max_pixels=LIMIT)
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    files = [encoded(Image.new("L", (4, 4), level), "PNG") for level in (0, 100)]
    found = served(image_bytes=tf.constant(files))
    assert found["score"].numpy() == pytest.approx([0.5, 1 / (1 + np.exp(-100 / 255))])
    assert found["label"].numpy().tolist() == [b"a", b"b"]


def test_it_does_the_same_eagerly():
    found = decode_images(tf.constant([JPEG, PNG]), GRAY, max_pixels=LIMIT).numpy()
    assert np.array_equal(found[0], decode_image(JPEG, GRAY))
    assert np.array_equal(found[1], decode_image(PNG, GRAY))
    with pytest.raises(tf.errors.InvalidArgumentError, match="CMYK"):
        cmyk = encoded(colours().convert("CMYK"), "JPEG")
        decode_images(tf.constant([cmyk]), GRAY, max_pixels=LIMIT)

"""What the header of an image file says, read by TensorFlow operations inside a graph.

A graph decodes less than Pillow does, and some files it would decode differently. So before a pixel is
decoded, `read_header` walks the header as Pillow walks it; whatever a graph cannot do exactly as the
build does is named by one of REFUSALS. In doubt it refuses.

Numbers are int64 scalars, `octets` the bytes of the file as uint8[N]; a read past the end gives zeros.
The functions are written for AutoGraph: `while` and `if` on tensors become operations.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

JPEG, PNG, GIF, BMP, OTHER = range(5)

FORMATS = ("JPEG", "PNG", "GIF", "BMP")

REFUSALS = {
    "format": "not a JPEG, PNG, GIF or BMP file (WebP, TIFF, AVIF, JPEG 2000 and PPM need predict)",
    "jpeg": "a JPEG with an unusual or damaged header (lossless, arithmetic coding, 12 bits, ...)",
    "cmyk": "a JPEG of four components (CMYK)",
    "several": "a JPEG that holds several pictures (MPF)",
    "exif": "Exif data that are damaged or stand in several places",
    "xmp": "an orientation that stands in XMP data only, or XMP data that are compressed",
    "png": "a PNG with a damaged header",
    "colour key": "a PNG without a palette in which one colour is transparent (tRNS)",
    "text": "a PNG with Exif data in a text chunk",
    "gif": "a GIF with a damaged header or without a palette",
    "canvas": "a GIF whose first picture does not fill the canvas",
    "bmp": "a BMP that is neither 8-bit gray nor 24- or 32-bit colour, or is compressed",
    "size": "no pixels, or more of them than max_pixels",
}
"""What a graph refuses, by the word that the code uses for it."""


class Header(NamedTuple):
    """problem: string, empty or one of REFUSALS; kind, width, height, orientation: int64;
    data: the bytes to decode, string. A transparent colour of a GIF is white in them.
    """

    problem: tf.Tensor
    kind: tf.Tensor
    width: tf.Tensor
    height: tf.Tensor
    orientation: tf.Tensor
    data: tf.Tensor


def read_header(data: tf.Tensor, *, max_pixels: int) -> Header:
    """The header of the image file `data`, a string scalar.

    orientation: as in Exif, 1 (upright) to 8. Where `problem` is not empty the rest means nothing.
    """
    octets = tf.io.decode_raw(data, tf.uint8)
    kind = _kind(octets)
    if kind == JPEG:
        header = _read_jpeg(data, octets)
    elif kind == PNG:
        header = _read_png(data, octets)
    elif kind == GIF:
        header = _read_gif(data, octets)
    elif kind == BMP:
        header = _read_bmp(data, octets)
    else:
        one = _number(1)
        header = Header(tf.constant(REFUSALS["format"]), _number(OTHER), one, one, one, data)
    fits = (header.width > 0) & (header.height > 0) & (header.width * header.height <= max_pixels)
    problem = _first_of((header.problem != "", header.problem), (~fits, REFUSALS["size"]))
    return header._replace(problem=problem)


def _kind(octets: tf.Tensor) -> tf.Tensor:
    kind = tf.constant(OTHER, tf.int64)
    for number, magic in (
        (JPEG, b"\xff\xd8\xff"),
        (PNG, b"\x89PNG\r\n\x1a\n"),
        (GIF, b"GIF87a"),
        (GIF, b"GIF89a"),
        (BMP, b"BM"),
    ):
        kind = tf.where(_stands_at(octets, 0, magic), tf.constant(number, tf.int64), kind)
    return kind


_FRAMES = (0xC0, 0xC1, 0xC2)  # SOF markers: baseline, extended, progressive
_SEGMENTS = (*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD)  # APPn, COM, DQT, DHT, DRI
_SCAN = 0xDA
_APP1, _APP2 = 0xE1, 0xE2
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


class _Found(NamedTuple):
    """Where something was last found, int64, -1 for nowhere, and how often."""

    start: tf.Tensor
    end: tf.Tensor
    count: tf.Tensor


def _nowhere() -> _Found:
    return _Found(_number(-1), _number(-1), _number(0))


def _note(found: _Found, there: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> _Found:
    return _Found(
        tf.where(there, start, found.start),
        tf.where(there, end, found.end),
        found.count + tf.cast(there, tf.int64),
    )


def _read_jpeg(data: tf.Tensor, octets: tf.Tensor) -> Header:
    """Walk from segment to segment up to the first scan; every one must be of the usual kinds."""
    place, marker, usual = _number(2), _number(0), tf.constant(True)
    frame = exif = xmp = several = _nowhere()
    while usual & (marker != _SCAN):
        marker, size = _big(octets, place + 1, 1), _big(octets, place + 2, 2)
        start, end = place + 4, place + 2 + size
        is_frame = _is_in(marker, _FRAMES)
        known = is_frame | (marker == _SCAN) | _is_in(marker, _SEGMENTS)
        usual = (_big(octets, place, 1) == 0xFF) & (size >= 2) & known
        frame = _note(frame, is_frame, start, end)
        is_exif = (marker == _APP1) & _stands_at(octets, start, b"Exif\0\0")
        exif = _note(exif, is_exif, start + 6, end)
        xmp = _note(xmp, (marker == _APP1) & _stands_at(octets, start, _XMP), start, end)
        is_mpf = (marker == _APP2) & _stands_at(octets, start, b"MPF\0")
        several = _note(several, is_mpf, start, end)
        place = end
    bits, height, width, components = (
        _big(octets, frame.start + offset, size)
        for offset, size in ((0, 1), (1, 2), (3, 2), (5, 1))
    )
    orientation, has_tag, sound = _read_exif(octets, exif)
    text = _text(data, xmp)
    # Pillow takes a photo with a gain map for a plain JPEG, and some others with MPF data as well
    has_gain_map = tf.strings.regex_full_match(text, rb'\C* hdrgm:Version="\C*')
    problem = _first_of(
        (~usual | (frame.count != 1) | (bits != 8), REFUSALS["jpeg"]),
        (components == 4, REFUSALS["cmyk"]),
        ((components != 1) & (components != 3), REFUSALS["jpeg"]),
        ((several.count > 0) & ~has_gain_map, REFUSALS["several"]),
        (~sound, REFUSALS["exif"]),
        (~has_tag & _names_orientation(text), REFUSALS["xmp"]),
    )
    return Header(problem, _number(JPEG), width, height, orientation, data)


def _read_png(data: tf.Tensor, octets: tf.Tensor) -> Header:
    """Walk from chunk to chunk up to the last: Exif and text may stand behind the pixels."""
    place, last = _number(8), tf.constant(False)
    exif = xmp = packed = profile = key = _nowhere()
    while ~last:
        start = place + 8
        end = start + _big(octets, place, 4)
        exif = _note(exif, _stands_at(octets, place + 4, b"eXIf"), start, end)
        key = _note(key, _stands_at(octets, place + 4, b"tRNS"), start, end)
        is_international, is_compressed, is_plain = (
            _stands_at(octets, place + 4, name) for name in (b"iTXt", b"zTXt", b"tEXt")
        )
        is_text = is_international | is_compressed | is_plain
        is_profile = is_text & _stands_at(octets, start, b"Raw profile type exif\0")
        profile = _note(profile, is_profile, start, end)
        is_xmp = is_text & _stands_at(octets, start, b"XML:com.adobe.xmp\0")
        xmp = _note(xmp, is_xmp, start, end)
        is_compressed |= is_international & (_big(octets, start + 18, 1) != 0)
        packed = _note(packed, is_xmp & is_compressed, start, end)
        last = _stands_at(octets, place + 4, b"IEND") | (end >= tf.size(octets, tf.int64))
        place = end + 4  # behind the checksum
    width, height, colour_type = (
        _big(octets, _number(offset), size) for offset, size in ((16, 4), (20, 4), (25, 1))
    )
    orientation, has_tag, sound = _read_exif(octets, exif)
    unreadable = (packed.count > 0) | _names_orientation(_text(data, xmp))
    problem = _first_of(
        (~_stands_at(octets, 12, b"IHDR"), REFUSALS["png"]),
        ((key.count > 0) & (colour_type != 3), REFUSALS["colour key"]),
        (~sound, REFUSALS["exif"]),
        ((profile.count > 0) & (exif.count == 0), REFUSALS["text"]),
        (~has_tag & unreadable, REFUSALS["xmp"]),
    )
    return Header(problem, _number(PNG), width, height, orientation, data)


def _read_gif(data: tf.Tensor, octets: tf.Tensor) -> Header:
    """Walk to the first picture: over extensions, which are a byte, a label and sub-blocks."""
    has_palette, entries = _gif_palette(_little(octets, _number(10), 1))
    palette, place = _number(13), 13 + 3 * entries
    control = _nowhere()
    in_blocks, at_picture, usual = tf.constant(False), tf.constant(False), tf.constant(True)
    while usual & ~at_picture:
        octet = _little(octets, place, 1)
        if in_blocks:
            place += 1 + octet
            in_blocks = octet != 0
        else:
            at_picture = octet == 0x2C
            usual = at_picture | (octet == 0x21)
            control = _note(control, _stands_at(octets, place, b"\x21\xf9"), place, place)
            in_blocks = ~at_picture
            place = tf.where(at_picture, place, place + 2)
    canvas = tf.stack([_number(0), _number(0), *_pairs(octets, _number(6), 2)])
    picture = tf.stack(_pairs(octets, place + 1, 4))  # left, top, width, height
    is_local, local_entries = _gif_palette(_little(octets, place + 9, 1))
    palette = tf.where(is_local, place + 10, palette)
    entries = tf.where(is_local, local_entries, entries)
    transparent = (control.count > 0) & (_little(octets, control.start + 3, 1) % 2 == 1)
    index = _little(octets, control.start + 6, 1)
    unusual = ~usual | (control.count > 1) | ~(has_palette | is_local)
    problem = _first_of(
        (unusual | (transparent & (index >= entries)), REFUSALS["gif"]),
        (tf.reduce_any(picture != canvas), REFUSALS["canvas"]),
    )
    if transparent & (problem == ""):
        white = _splice(data, palette + 3 * index, b"\xff\xff\xff")
        data = _splice(white, control.start + 3, b"\0")
    return Header(problem, _number(GIF), picture[2], picture[3], _number(1), data)


def _pairs(octets: tf.Tensor, place: tf.Tensor, count: int) -> list[tf.Tensor]:
    return [_little(octets, place + 2 * number, 2) for number in range(count)]


def _gif_palette(flags: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether there is one, and its entries."""
    there = flags >= 128
    return there, tf.where(there, tf.bitwise.left_shift(_number(2), flags % 8), 0)


def _splice(data: tf.Tensor, place: tf.Tensor, new: bytes) -> tf.Tensor:
    """`data` with `new` in place of what stands at `place`."""
    place = tf.cast(place, tf.int32)
    rest = tf.strings.substr(data, place + len(new), tf.strings.length(data))
    return tf.strings.join([tf.strings.substr(data, 0, place), new, rest])


def _read_bmp(data: tf.Tensor, octets: tf.Tensor) -> Header:
    pixels, header_bytes = _little(octets, _number(10), 4), _little(octets, _number(14), 4)
    width, height = _little(octets, _number(18), 4), _little(octets, _number(22), 4)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: stored from the top
    bits, compression = _little(octets, _number(28), 2), _little(octets, _number(30), 4)
    colours = _little(octets, _number(46), 4)
    gray = _is_gray_ramp(_bytes(octets, 14 + header_bytes, 1024)) & (
        (colours == 0) | (colours == 256)
    )
    usual = _is_in(header_bytes, (40, 52, 56, 108, 124)) & (compression == 0)
    behind_palette = pixels >= 14 + header_bytes + 1024
    known = _is_in(bits, (24, 32)) | ((bits == 8) & gray & behind_palette)
    problem = _first_of((~(usual & known), REFUSALS["bmp"]))
    return Header(problem, _number(BMP), width, height, _number(1), data)


def _is_gray_ramp(palette: tf.Tensor) -> tf.Tensor:
    """Whether the BGRX entries, int64[1024], are the grays 0 to 255 in order."""
    ramp = tf.range(256, dtype=tf.int64)[:, tf.newaxis]
    return tf.reduce_all(tf.reshape(palette, [256, 4])[:, :3] == ramp)


_ORIENTATION = 0x0112
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0)  # of TIFF's types 1 to 13; else 0


def _read_exif(octets: tf.Tensor, exif: _Found) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(orientation 1-8, whether its tag is there, whether the data are sound)."""
    if exif.count == 0:
        result = _number(1), tf.constant(False), tf.constant(True)
    else:
        orientation, has_tag, sound = _read_tiff(octets[exif.start : exif.end])
        result = orientation, has_tag, sound & (exif.count == 1)
    return result


def _read_tiff(tiff: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Exif is a TIFF file: a header of 8 bytes, then a directory of 12-byte entries: tag, type, count,
    and the values or, if they need more than 4 bytes, where they stand (TIFF 6.0, section 2).
    """
    length = tf.size(tiff, tf.int64)
    little = _stands_at(tiff, 0, b"II*\0")
    directory = _of_order(little, _bytes(tiff, _number(4), 4))
    count = _of_order(little, _bytes(tiff, directory, 2))
    room = tf.maximum((length - directory - 2) // 12, 0)
    first = tf.minimum(directory + 2, length)
    entries = tf.reshape(tiff[first : first + 12 * tf.minimum(count, room)], [-1, 12])
    tags, types, counts, places = (
        _of_order(little, entries[:, start:end]) for start, end in ((0, 2), (2, 4), (4, 8), (8, 12))
    )
    sizes = counts * tf.gather(tf.constant(_TYPE_BYTES, tf.int64), tf.minimum(types, 14))
    inside = (sizes <= 4) | (places + sizes <= length)
    found = tags == _ORIENTATION
    usual = (types == 3) & (counts == 1)
    value = tf.reduce_sum(tf.where(found, _of_order(little, entries[:, 8:10]), 0))
    sound = (
        (little | _stands_at(tiff, 0, b"MM\0*"))
        & (count <= room)
        & tf.reduce_all(inside)
        & tf.reduce_all(usual | ~found)
        & (tf.math.count_nonzero(found) <= 1)
    )
    upright = (value < 1) | (value > 8)
    return tf.where(upright, _number(1), value), tf.reduce_any(found), sound


def _of_order(little: tf.Tensor, octets: tf.Tensor) -> tf.Tensor:
    """int64[...] from [..., size] bytes, the least significant one first if `little`."""
    octets = tf.cast(octets, tf.int64)
    ordered = tf.where(little, octets, tf.reverse(octets, [-1]))
    return tf.reduce_sum(ordered * [256**power for power in range(octets.shape[-1])], -1)


def _text(data: tf.Tensor, found: _Found) -> tf.Tensor:
    """The bytes of `data` that were found; none of them if nothing was."""
    length = tf.cast(tf.strings.length(data), tf.int64)
    start, end = (tf.clip_by_value(place, 0, length) for place in (found.start, found.end))
    return tf.strings.substr(data, start, tf.maximum(end - start, 0))


def _names_orientation(xmp: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_full_match(xmp, rb'\C*tiff:Orientation(="|>)[02-9]\C*')


def _first_of(*problems: tuple[tf.Tensor, tf.Tensor | str]) -> tf.Tensor:
    """The text of the first condition that holds, or an empty one."""
    result = tf.constant("")
    for holds, text in reversed(problems):
        result = tf.where(holds, text, result)
    return result


def _number(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _is_in(value: tf.Tensor, known: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(value == tf.constant(known, tf.int64))


def _big(octets: tf.Tensor, place: tf.Tensor, size: int) -> tf.Tensor:
    """The number of `size` bytes at `place`, the most significant one first."""
    weights = [256**power for power in reversed(range(size))]
    return tf.reduce_sum(_bytes(octets, place, size) * weights)


def _little(octets: tf.Tensor, place: tf.Tensor, size: int) -> tf.Tensor:
    """The number of `size` bytes at `place`, the least significant one first."""
    return tf.reduce_sum(_bytes(octets, place, size) * [256**power for power in range(size)])


def _bytes(octets: tf.Tensor, place: tf.Tensor, size: int) -> tf.Tensor:
    place = tf.clip_by_value(place, 0, tf.size(octets, tf.int64))
    part = octets[place : place + size]
    padded = tf.concat([part, tf.zeros([size - tf.size(part)], tf.uint8)], 0)
    return tf.cast(tf.ensure_shape(padded, [size]), tf.int64)


def _stands_at(octets: tf.Tensor, place: tf.Tensor | int, text: bytes) -> tf.Tensor:
    expected = tf.constant(list(text), tf.int64)
    return tf.reduce_all(_bytes(octets, tf.cast(place, tf.int64), len(text)) == expected)

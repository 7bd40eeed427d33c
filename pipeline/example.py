"""Record ↔ the bytes of a `tf.train.Example`, laid out so that a reader can go straight to a pixel.

Protobuf lets a number take more bytes than it needs, and leaves the order of a map's entries free.
So the features stand in a fixed order, numbers that vary take a fixed width, and a last feature
`pad` evens out the keys: all records of a data set have one length, and every value one offset.
Any protobuf reader sees an ordinary Example.

    Example  = 0A n Features              Feature of bytes = 0A n (0A n value)
    Features = (0A n Entry)*              Feature of int64 = 1A n (0A n varint)
    Entry    = 0A n name  12 n Feature

Changing a byte of this asks for a new SCHEMA_VERSION: readers trust the offsets in the manifest.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from pipeline.schema import BUCKETS, ImageSpec, Record
from pipeline.tfrecord import FOOTER_BYTES, HEADER_BYTES

_DELIMITED_1, _DELIMITED_2, _DELIMITED_3 = b"\x0a", b"\x12", b"\x1a"  # field number, wire type 2
_LENGTH_WIDTH = 3  # bytes of a length that varies from record to record: keys up to 2 MiB
_BUCKET_WIDTH = 2


@dataclass(frozen=True)
class Layout:
    """Where things stand in each record of a data set, in bytes from the start of its TFRecord frame.

    record_bytes: the stride, framing included. Integers are little-endian base-128 varints of the
    width given. key_length_offset: three bytes of varint; the UTF-8 key begins at key_offset.
    """

    record_bytes: int
    image_offset: int
    image_bytes: int
    label_offset: int
    label_width: int
    bucket_offset: int
    bucket_width: int
    key_length_offset: int
    key_offset: int
    key_room: int


def make_layout(spec: ImageSpec, *, num_classes: int, longest_key: int) -> Layout:
    """The layout of all records whose keys have at most `longest_key` UTF-8 bytes."""
    label_width = len(_varint(num_classes - 1))
    record = Record(image=bytes(spec.num_bytes), label=0, bucket=0, key="")
    entries = _entries(record, label_width=label_width, pad=longest_key)
    features = b"".join(entries)
    example = _delimited(_DELIMITED_1, features)
    ends, end = [], HEADER_BYTES + len(example) - len(features)
    for entry in entries:
        end += len(entry)
        ends.append(end)  # a value is the last thing in its entry
    image_end, label_end, bucket_end, key_end, _ = ends
    return Layout(
        record_bytes=HEADER_BYTES + len(example) + FOOTER_BYTES,
        image_offset=image_end - spec.num_bytes,
        image_bytes=spec.num_bytes,
        label_offset=label_end - label_width,
        label_width=label_width,
        bucket_offset=bucket_end - _BUCKET_WIDTH,
        bucket_width=_BUCKET_WIDTH,
        key_length_offset=key_end - _LENGTH_WIDTH,
        key_offset=key_end,
        key_room=longest_key,
    )


def encode_example(record: Record, layout: Layout) -> bytes:
    """`record` as the serialized Example, without framing. ValueError if it does not fit `layout`."""
    pad = layout.key_room - len(record.key.encode())
    if pad < 0 or len(record.image) != layout.image_bytes or not 0 <= record.bucket < BUCKETS:
        raise ValueError(f"record {record.key!r} does not fit the layout {layout}")
    entries = _entries(record, label_width=layout.label_width, pad=pad)
    return _delimited(_DELIMITED_1, b"".join(entries))


def decode_example(data: bytes, layout: Layout) -> Record:
    """The record in a serialized Example. ValueError unless `encode_example` would write it so."""
    frame = bytes(HEADER_BYTES) + data
    key_bytes = _read_varint(frame, layout.key_length_offset, _LENGTH_WIDTH)
    record = Record(
        image=frame[layout.image_offset : layout.image_offset + layout.image_bytes],
        label=_read_varint(frame, layout.label_offset, layout.label_width),
        bucket=_read_varint(frame, layout.bucket_offset, layout.bucket_width),
        key=frame[layout.key_offset : layout.key_offset + key_bytes].decode(),
    )
    if encode_example(record, layout) != data:
        raise ValueError("the record is not laid out as the manifest says")
    return record


def _entries(record: Record, *, label_width: int, pad: int) -> list[bytes]:
    key = record.key.encode()
    return [
        _bytes_head("image", len(record.image)) + record.image,
        _int_entry("label", record.label, label_width),
        _int_entry("bucket", record.bucket, _BUCKET_WIDTH),
        _bytes_head("key", len(key), _LENGTH_WIDTH) + key,
        _bytes_head("pad", pad, _LENGTH_WIDTH) + bytes(pad),
    ]


# Few lengths and small numbers come up again and again: what they look like is remembered.


@functools.lru_cache(maxsize=4096)
def _bytes_head(name: str, length: int, width: int = 0) -> bytes:
    """An entry of a value of `length` bytes, up to where the value begins."""
    value = bytes(length)
    feature = _delimited(_DELIMITED_1, _delimited(_DELIMITED_1, value, width), width)
    entry = _entry(name, feature, width)
    return entry[: len(entry) - length]


@functools.lru_cache(maxsize=65_536)
def _int_entry(name: str, value: int, width: int) -> bytes:
    return _entry(name, _delimited(_DELIMITED_3, _delimited(_DELIMITED_1, _varint(value, width))))


def _entry(name: str, feature: bytes, width: int = 0) -> bytes:
    parts = _delimited(_DELIMITED_1, name.encode()) + _delimited(_DELIMITED_2, feature, width)
    return _delimited(_DELIMITED_1, parts, width)


def _delimited(tag: bytes, payload: bytes, width: int = 0) -> bytes:
    return tag + _varint(len(payload), width) + payload


def _varint(value: int, width: int = 0) -> bytes:
    """`value` in groups of seven bits, low first; stretched to `width` bytes if that is more."""
    groups = max(1, -(-value.bit_length() // 7))
    if width and groups > width:
        raise ValueError(f"{value} does not fit {width} bytes of varint")
    total = max(groups, width)
    return bytes((value >> 7 * i & 0x7F) | (0x80 if i < total - 1 else 0) for i in range(total))


def _read_varint(data: bytes, offset: int, width: int) -> int:
    return sum((data[offset + i] & 0x7F) << 7 * i for i in range(width))

"""The TFRecord file: framing and checksums, written aside and renamed when whole.

record = length (8 bytes, little-endian)  masked CRC-32C of length (4)
         data                             masked CRC-32C of data (4)
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c

from pipeline.files import BUFFER_BYTES, write_aside

HEADER_BYTES = 12
FOOTER_BYTES = 4


class Written(NamedTuple):
    """What a finished file holds: records, bytes, and the sha256 of those bytes (hexadecimal)."""

    records: int
    bytes: int
    sha256: str


class DamagedRecord(ValueError):
    """A record that does not pass its own checksums; `index` counts from 0 within the file."""

    def __init__(self, path: Path, index: int, what: str) -> None:
        super().__init__(f"{path}: record {index}: {what}")
        self.index = index


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated and offset as the TFRecord format asks."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """`data` as one TFRecord."""
    length = struct.pack("<Q", len(data))
    header = length + struct.pack("<I", masked_crc(length))
    return b"".join((header, data, struct.pack("<I", masked_crc(data))))


def write_records(path: Path, records: Iterable[bytes]) -> Written:
    """Write `records` to `path`, which appears only when it is whole. Raises OSError.

    Two attempts at one file may run at once: each has a temporary name of its own, and as both write
    the same bytes it does not matter which rename is last.
    """
    count = size = 0
    sha256 = hashlib.sha256()
    with write_aside(path) as file:
        for framed in _in_blocks(map(frame, records)):
            block = b"".join(framed)
            file.write(block)
            sha256.update(block)
            size += len(block)
            count += len(framed)
    return Written(count, size, sha256.hexdigest())


def _in_blocks(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """`records` in lists of about a mebibyte: hashing and writing each alone costs threads dear."""
    block: list[bytes] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record)
        if size >= BUFFER_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def read_records(path: Path) -> Iterator[bytes]:
    """The records of `path` in turn, each checked. Raises DamagedRecord or OSError."""
    with open(path, "rb", buffering=BUFFER_BYTES) as file:
        index = 0
        while header := file.read(HEADER_BYTES):
            yield _read_record(file, header, path, index)
            index += 1


def _read_record(file: BinaryIO, header: bytes, path: Path, index: int) -> bytes:
    if len(header) < HEADER_BYTES:
        raise DamagedRecord(path, index, "the file ends within a record's header")
    length, length_crc = struct.unpack("<QI", header)
    if masked_crc(header[:8]) != length_crc:
        raise DamagedRecord(path, index, "the length does not match its checksum")
    body = file.read(length + FOOTER_BYTES)
    if len(body) < length + FOOTER_BYTES:
        raise DamagedRecord(path, index, "the file ends within the record")
    data = body[:length]
    if masked_crc(data) != struct.unpack("<I", body[length:])[0]:
        raise DamagedRecord(path, index, "the data do not match their checksum")
    return data

"""Random access to the records of a data set by positioned reads: numpy batches, no TensorFlow.

All records of a data set have one length (`pipeline.example`), so record i of a shard begins at
i · record_bytes; a batch is read straight into its array, and nothing else is held. Reading lets go
of the interpreter lock (`pipeline.scattered`), so several threads may share one reader.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.buffers import Buffers
from pipeline.errors import UsageError, WorkError, describe_os_error
from pipeline.manifest import Manifest, Shard
from pipeline.scattered import MOST_AT_ONCE, read_scattered
from pipeline.schema import BUCKETS
from pipeline.tfrecord import FOOTER_BYTES, HEADER_BYTES, masked_crc

_MAX_OPEN_FILES = 512


class RecordReader:
    """The records of one split, numbered from 0 through its shards in turn."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        """Check that every shard is there in full. Raises UsageError or WorkError if not."""
        if split not in manifest.splits:
            raise UsageError(f"{folder} has no split {split!r}: {', '.join(manifest.splits)}")
        self._folder = folder
        self._shards = manifest.splits[split].shards
        self._layout = manifest.layout
        self._image_shape = (manifest.image.height, manifest.image.width, manifest.image.channels)
        self._ends = np.cumsum([shard.records for shard in self._shards])
        self._starts = self._ends - [shard.records for shard in self._shards]
        self.records = int(self._ends[-1])
        self._checked = np.zeros(self.records, bool)
        self._buffers = Buffers()
        for shard in self._shards:
            self._check_size(shard)
        self._files: list[int] | None = None
        if len(self._shards) <= _MAX_OPEN_FILES:
            self._files = [self._open(shard) for shard in self._shards]
        self._closer = weakref.finalize(self, _close, self._files or [])
        self._closer.atexit = False  # threads may read until the very end

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8[B, H, W, C] and labels int64[B] of the records `numbers`, int64[B].

        The checksum of a record is compared the first time it is read. Raises WorkError for a
        damaged record or a file that cannot be read, naming both.
        """
        layout = self._layout
        image_end = layout.image_offset + layout.image_bytes
        images = self._buffers.take(len(numbers), layout.image_bytes)
        tails = np.empty((len(numbers), layout.record_bytes - image_end), np.uint8)
        unchecked = np.flatnonzero(~self._checked[numbers])
        if len(unchecked):
            heads = np.empty((len(numbers), layout.image_offset), np.uint8)
            self._read_into(numbers, 0, (heads, images, tails))
            for row in unchecked:
                self._check_record(int(numbers[row]), (heads[row], images[row], tails[row]))
        else:
            self._read_into(numbers, layout.image_offset, (images, tails))
        labels = _varints(tails, layout.label_offset - image_end, layout.label_width)
        return images.reshape(-1, *self._image_shape), labels

    def read_keys(self, numbers: np.ndarray) -> list[str]:
        """The keys of the records `numbers`, int64[B]. Raises WorkError."""
        layout = self._layout
        start = layout.key_length_offset
        width = layout.key_offset - start
        tails = np.empty((len(numbers), width + layout.key_room), np.uint8)
        self._read_into(numbers, start, (tails,))
        lengths = _varints(tails, 0, width)
        return [
            tail[width : width + length].tobytes().decode("utf-8", "replace")
            for tail, length in zip(tails, lengths, strict=True)
        ]

    def read_buckets(self, numbers: np.ndarray) -> np.ndarray:
        """The buckets int64[B] of the records `numbers`, int64[B]. Raises WorkError."""
        found = np.empty((len(numbers), self._layout.bucket_width), np.uint8)
        self._read_into(numbers, self._layout.bucket_offset, (found,))
        return _varints(found, 0, self._layout.bucket_width)

    def _read_into(self, numbers: np.ndarray, offset: int, arrays: Sequence[np.ndarray]) -> None:
        """Fill row i of each of `arrays`, one after the other, from `offset` of record i."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        offsets = (numbers - self._starts[shards]) * self._layout.record_bytes + offset
        expected = sum(array.shape[1] for array in arrays)
        for first in range(0, len(numbers), MOST_AT_ONCE):
            part = slice(first, first + MOST_AT_ONCE)
            with self._opened(shards[part]) as files:
                found = read_scattered(files, offsets[part], [array[part] for array in arrays])
            for row in np.flatnonzero(found != expected)[:1]:
                if found[row] < 0:
                    path = self._path(shards[first + row])
                    raise WorkError(f"{path}: {os.strerror(-found[row])}")
                raise self._damaged(int(numbers[first + row]), "the file ends within the record")

    @contextlib.contextmanager
    def _opened(self, shards: np.ndarray) -> Iterator[np.ndarray]:
        """The open files of `shards`; if there are too many shards, open within the block only."""
        if self._files is not None:
            yield np.array(self._files)[shards]
            return
        used, places = np.unique(shards, return_inverse=True)
        with contextlib.ExitStack() as stack:
            files = []
            for shard in used:
                try:
                    files.append(self._open(self._shards[shard]))
                except OSError as error:
                    raise WorkError(describe_os_error(error)) from error
                stack.callback(os.close, files[-1])
            yield np.array(files)[places]

    def _check_record(self, number: int, parts: Sequence[np.ndarray]) -> None:
        record = b"".join(parts)
        data = record[HEADER_BYTES:-FOOTER_BYTES]
        length, length_crc = struct.unpack("<QI", record[:HEADER_BYTES])
        if length != len(data) or masked_crc(record[:8]) != length_crc:
            raise self._damaged(number, "the length is not what the manifest and its checksum say")
        if masked_crc(data) != struct.unpack("<I", record[-FOOTER_BYTES:])[0]:
            raise self._damaged(number, "the data do not match their checksum")
        self._checked[number] = True

    def _damaged(self, number: int, what: str) -> WorkError:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        index = number - int(self._starts[shard])
        return WorkError(f"{self._path(shard)}: record {index}: {what}; {self._advice()}")

    def _check_size(self, shard: Shard) -> None:
        path = self._folder / shard.file
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise WorkError(f"{path} is missing; {self._advice()}") from None
        if size != shard.bytes:
            raise WorkError(
                f"{path} has {size} bytes, the manifest says {shard.bytes}; {self._advice()}"
            )

    def _advice(self) -> str:
        folder = shlex.quote(str(self._folder))
        return f"python -m pipeline.verify {folder} names all damage, with --repair mends it"

    def _path(self, shard: int) -> Path:
        return self._folder / self._shards[shard].file

    def _open(self, shard: Shard) -> int:
        return os.open(self._folder / shard.file, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the files, which otherwise happens when nobody holds the reader any more."""
        self._closer()
        self._files = []

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)


def _varints(rows: np.ndarray, offset: int, width: int) -> np.ndarray:
    """int64[B] from varints of `width` bytes that stand at `offset` of each row of uint8[B, n]."""
    groups = (rows[:, offset + i].astype(np.int64) & 0x7F for i in range(width))
    return sum((group << 7 * i for i, group in enumerate(groups)), np.zeros(len(rows), np.int64))


def choose_examples(
    reader: RecordReader, *, examples: int | None, validation_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Record numbers (training, validation), both int64, ascending, of the first `examples` records.

    The order of the data set is a shuffle already, so its first N records are a fair sample and the
    same one for everybody. A record is for validation if its bucket, a hash of its group, is below
    `validation_fraction`: twins stay together. Raises UsageError, also if either part is empty.
    """
    if not 0 <= validation_fraction < 1:
        raise UsageError(
            f"--validation_fraction: must be at least 0 and below 1, received {validation_fraction}"
        )
    if examples is not None and not 1 <= examples <= reader.records:
        raise UsageError(
            f"--examples: the training split has {reader.records} records, received {examples}"
        )
    numbers = np.arange(examples or reader.records, dtype=np.int64)
    if validation_fraction == 0:
        return numbers, numbers[:0]
    for_validation = reader.read_buckets(numbers) < BUCKETS * validation_fraction
    parts = numbers[~for_validation], numbers[for_validation]
    if not all(map(len, parts)):
        raise UsageError(
            f"--validation_fraction {validation_fraction} of {len(numbers)} examples leaves "
            f"{len(parts[0])} for training and {len(parts[1])} for validation; give more examples"
        )
    return parts

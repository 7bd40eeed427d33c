"""Grain on array-record: random access, global shuffle, read by threads of one process."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import grain.python as grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.peers.reading import main, records_of

LABEL = struct.Struct("<q")
FILE = "train.array_record"


def convert(records: Path, folder: Path) -> None:
    """One file, a record a chunk (as for random access), not compressed."""
    writer = ArrayRecordWriter(str(folder / FILE), "group_size:1,uncompressed")
    for image, label in records_of(records):
        writer.write(LABEL.pack(label) + image.tobytes())
    writer.close()
    np.save(folder / "shape.npy", image.shape)


def batches(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """Batches are made by the threads: of what was tried (1, 4 and 16 threads), the fastest."""
    shape = tuple(np.load(folder / "shape.npy"))

    def decode(record: bytes) -> tuple[np.ndarray, int]:
        return np.frombuffer(record, np.uint8, offset=LABEL.size).reshape(
            shape
        ), *LABEL.unpack_from(record)

    source = grain.ArrayRecordDataSource([str(folder / FILE)])
    for epoch in range(epochs):
        data = grain.MapDataset.source(source).shuffle(seed=epoch).map(decode).batch(batch_size)
        yield from data.to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=16))


if __name__ == "__main__":
    main(batches, convert=convert)

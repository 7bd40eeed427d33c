"""FFCV: its own file, compiled loaders, random order, a thread for each core."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, NDArrayField
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Squeeze, ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers.reading import main
from pipeline.manifest import load_manifest
from pipeline.reader import RecordReader

FILE = "train.beton"


class Records:
    """Our records as an indexed data set, which is what its writer takes."""

    def __init__(self, folder: Path) -> None:
        self._reader = RecordReader(folder, load_manifest(folder), "train")

    def __len__(self) -> int:
        return self._reader.records

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        images, labels = self._reader.read(np.array([index]))
        return images[0], int(labels[0])


def convert(records: Path, folder: Path) -> None:
    """Raw pixels."""
    data = Records(records)
    image, _ = data[0]
    fields = {"image": NDArrayField(image.dtype, image.shape), "label": IntField()}
    writer = DatasetWriter(str(folder / FILE), fields, num_workers=1)
    writer.from_indexed_dataset(data)


def batches(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """Every epoch in a new random order."""
    loader = Loader(
        str(folder / FILE),
        batch_size=batch_size,
        num_workers=os.cpu_count(),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [NDArrayDecoder(), ToTensor()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    for _ in range(epochs):
        yield from loader


if __name__ == "__main__":
    main(batches, convert=convert)

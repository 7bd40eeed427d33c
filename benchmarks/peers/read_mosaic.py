"""MosaicML Streaming: its own MDS shards, its shuffle, a DataLoader with a worker for each core."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from benchmarks.peers.reading import main, records_of


def convert(records: Path, folder: Path) -> None:
    """Not compressed; image as ndarray, label as int."""
    columns = {"image": "ndarray:uint8", "label": "int"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for image, label in records_of(records):
            writer.write({"image": image, "label": label})


def collate(samples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch."""
    images = np.stack([sample["image"] for sample in samples])
    return torch.from_numpy(images), torch.tensor([sample["label"] for sample in samples])


def batches(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """Shuffled anew each epoch."""
    clean_stale_shared_memory()
    data = StreamingDataset(local=str(folder), batch_size=batch_size, shuffle=True)
    workers = {"num_workers": os.cpu_count(), "persistent_workers": True, "prefetch_factor": 4}
    loader = DataLoader(data, batch_size=batch_size, collate_fn=collate, **workers)
    for _ in range(epochs):
        yield from loader


if __name__ == "__main__":
    main(batches, convert=convert)

"""WebDataset: tar files read from front to back, shuffled in a buffer, a worker for each core."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from benchmarks.peers.reading import main, records_of

SHARD_RECORDS = 1250
SHUFFLED = 2048


def convert(records: Path, folder: Path) -> None:
    """Raw pixels and the label as text, as small as a tar file lets them be."""
    pattern = str(folder / "train-%05d.tar")
    with wds.ShardWriter(pattern, maxcount=SHARD_RECORDS, verbose=0) as writer:
        for number, (image, label) in enumerate(records_of(records)):
            writer.write({"__key__": f"{number:09d}", "bin": image.tobytes(), "cls": label})
    np.save(folder / "shape.npy", image.shape)


def batches(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """Batched in the workers, as its guide advises."""
    shape = tuple(np.load(folder / "shape.npy"))

    def decode(sample: dict) -> tuple[np.ndarray, int]:
        return np.frombuffer(sample["bin"], np.uint8).reshape(shape), int(sample["cls"])

    def collate(samples: list[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.stack([image for image, _ in samples])
        return torch.from_numpy(images), torch.tensor([label for _, label in samples])

    files = sorted(map(str, folder.glob("train-*.tar")))
    data = wds.WebDataset(files, shardshuffle=len(files)).shuffle(SHUFFLED).map(decode)
    data = data.batched(batch_size, collation_fn=collate)
    workers = {"num_workers": os.cpu_count(), "persistent_workers": True, "prefetch_factor": 4}
    loader = DataLoader(data, batch_size=None, **workers)
    for _ in range(epochs):
        yield from loader


if __name__ == "__main__":
    main(batches, convert=convert)

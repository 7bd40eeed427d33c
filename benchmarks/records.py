"""Data sets made of noise, for reading only: nothing is decoded, so a gigabyte takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.example import Layout, encode_example, make_layout
from pipeline.manifest import Manifest, Shard, Split, save_manifest
from pipeline.schema import BUCKETS, ImageSpec, Record
from pipeline.tfrecord import write_records

SHARDS = 16
NUMBER_BYTES = 4
"""The first pixels of an image are its record's number, little-endian: `numbers_of` reads it back."""


def make_records(folder: Path, count: int, spec: ImageSpec, *, classes: int = 2) -> Path:
    """A data set with `count` training records in `folder`, made if it is not there.

    Pixels are noise, labels and buckets drawn independently; the same `count`, the same bytes.
    """
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        layout = make_layout(spec, num_classes=classes, longest_key=len(_key(0)))
        ends = np.linspace(0, count, SHARDS + 1).astype(int).tolist()
        parts = {"train": list(pairwise(ends)), "test": [(0, 1)]}
        splits = {
            name: _write_split(folder, name, part, layout, classes) for name, part in parts.items()
        }
        save_manifest(folder, _manifest(spec, layout, splits, classes))
    return folder


def numbers_of(images: np.ndarray) -> np.ndarray:
    """The record numbers int64[B] of images uint8[B, H, W, C] of `make_records`."""
    flat = np.ascontiguousarray(images.reshape(len(images), -1)[:, :NUMBER_BYTES])
    return flat.view("<u4")[:, 0].astype(np.int64)


def _write_split(
    folder: Path, name: str, parts: list[tuple[int, int]], layout: Layout, classes: int
) -> Split:
    shards = []
    for index, (first, last) in enumerate(parts):
        file = f"{name}-{index:05d}-of-{len(parts):05d}.tfrecord"
        records = list(_noise(first, last, layout.image_bytes, classes))
        labels = np.bincount([record.label for record in records], minlength=classes)
        written = write_records(folder / file, (encode_example(one, layout) for one in records))
        shards.append(Shard(file, *written, records_per_class=tuple(labels.tolist())))
    return Split(tuple(shards), pixel_mean=127.5, pixel_std=73.9)


def _noise(first: int, last: int, image_bytes: int, classes: int) -> Iterator[Record]:
    for number in range(first, last):
        random = np.random.default_rng(number)
        pixels = int(number).to_bytes(NUMBER_BYTES, "little") + random.bytes(
            image_bytes - NUMBER_BYTES
        )
        label, bucket = int(random.integers(classes)), int(random.integers(BUCKETS))
        yield Record(pixels, label, bucket, _key(number))


def _key(number: int) -> str:
    return f"noise/{number:09d}"


def _manifest(spec: ImageSpec, layout: Layout, splits: dict[str, Split], classes: int) -> Manifest:
    return Manifest(
        digest="noise",
        source={"uri": "noise"},
        seed=0,
        image=spec,
        classes=tuple(map(str, range(classes))),
        options={},
        layout=layout,
        splits=splits,
        rejects={},
        ignored={},
        duplicates={},
        versions={},
    )

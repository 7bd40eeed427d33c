"""What all programs that read records have in common: arguments, the clock, the check, the report.

A program goes through all records `epochs` + 1 times. The first epoch is not timed, and its images
are looked at: each record once, each in its right shape. With --cold only the first epoch is read,
and timed.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.records import numbers_of
from pipeline.manifest import Manifest, load_manifest
from pipeline.reader import RecordReader

CHUNK = 256


def main(
    batches: Callable[[Path, int, int], Iterable[tuple]],
    *,
    convert: Callable[[Path, Path], None] | None = None,
    counting: Callable[[Iterator[tuple]], Callable[[], int]] | None = None,
) -> None:
    """Time `batches(folder, batch_size, epochs)`, pairs of images and labels, and print JSON.

    convert: (records, folder) makes this program's own files of our records, the first time; without
    it the folder is that of the records. counting: batches → a function that reads all of them and
    returns the number of images; default: a loop in Python.
    """
    options = _parse_options()
    folder = options.own if convert else options.records
    if convert:
        _convert_once(convert, options.records, folder)
    if options.epochs:
        epochs = 1 if options.cold else 1 + options.epochs
        found = iter(batches(folder, options.batch_size, epochs))
        start = time.perf_counter()
        images = _look_at_first_epoch(found, load_manifest(options.records))
        if not options.cold:
            count = (counting or _counting)(found)
            start = time.perf_counter()
            images = count()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "images": images, "peak_mb": peak_mb()}))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--own", type=Path, help="folder for this program's own format")
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True, help="timed; 0: only convert")
    parser.add_argument("--cold", action="store_true", help="time the first epoch, and only that")
    return parser.parse_args()


def _counting(batches: Iterator[tuple]) -> Callable[[], int]:
    return lambda: sum(len(labels) for _, labels in batches)


def records_of(folder: Path) -> Iterator[tuple[np.ndarray, int]]:
    """(image uint8[H, W, C], label) of each training record of ours, in stored order."""
    with RecordReader(folder, load_manifest(folder), "train") as reader:
        for first in range(0, reader.records, CHUNK):
            numbers = np.arange(first, min(first + CHUNK, reader.records))
            images, labels = reader.read(numbers)
            yield from zip(images, labels.tolist(), strict=True)


def peak_mb() -> float:
    """The most memory that this process has held, in MB: VmHWM."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024 / 1e6


def _convert_once(convert: Callable[[Path, Path], None], records: Path, folder: Path) -> None:
    complete = folder / "complete"
    if not complete.exists():
        folder.mkdir(parents=True, exist_ok=True)
        convert(records, folder)
        complete.touch()


def _look_at_first_epoch(batches: Iterator[tuple], manifest: Manifest) -> int:
    """Images seen, or SystemExit if they are not ours. Records that are not parsed are counted."""
    total = manifest.splits["train"].records
    shape = (manifest.image.height, manifest.image.width, manifest.image.channels)
    found = np.zeros(total, bool)
    seen = 0
    for images, labels in batches:
        pixels, classes = np.asarray(images), np.asarray(labels)
        if pixels.dtype == np.float32:  # the tutorial's
            pixels = np.rint(pixels * 255).astype(np.uint8)
        if pixels.dtype != object:
            if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or classes.dtype != np.int64:
                raise SystemExit(f"got {pixels.dtype}{pixels.shape} and {classes.dtype}")
            found[numbers_of(pixels)[: total - seen]] = True
        seen += len(pixels)
        if seen >= total:
            break
    if pixels.dtype != object and not found.all():
        raise SystemExit("the first epoch does not hold each record once")
    return seen

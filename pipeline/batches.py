"""Numbered batches of records as numpy arrays, for any framework: step → (images, labels).

A step's number alone decides which records it holds, so any step can be read at any time, in any
order, by any thread; a run that was stopped goes on at its step, and no host needs to know another.

    batches = training_batches(Path("tfrecords"), batch_size=64, seed=0, epochs=10)
    images, labels = batches.read(120)                      # one step
    for images, labels in batches.iterate(first_step=120):  # from there on, read ahead
    batches.keys(120)                                       # whose images these were
    pipeline.dataset.stream(batches, first_step=120)        # the same as tf.data
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.augment import augment as augment_images
from pipeline.augment import check_augmentations
from pipeline.errors import UsageError
from pipeline.manifest import load_manifest
from pipeline.order import batch_positions, check_share, epoch_order, steps_per_epoch
from pipeline.reader import RecordReader, choose_examples
from pipeline.schema import ImageSpec

_POSITIONS_TOGETHER = 16_384  # a place in the order costs 30 times as much if it is asked for alone


@dataclass(frozen=True)
class Batches:
    """Steps 0 to `steps` - 1 over `epochs` epochs; made by the two functions below.

    choose: (epoch, step of the epoch) → record numbers int64[≤ B]; alter: None, or (images, keys,
    epoch) → images. It may be shared by threads.
    """

    image: ImageSpec
    steps_per_epoch: int
    epochs: int
    reader: RecordReader
    choose: Callable[[int, int], np.ndarray]
    alter: Callable[[np.ndarray, Sequence[str], int], np.ndarray] | None = None

    @property
    def steps(self) -> int:
        """Steps of all epochs; 0 for a host that gets no record."""
        return self.epochs * self.steps_per_epoch

    def numbers(self, step: int) -> np.ndarray:
        """Record numbers int64[≤ B] of `step` within the split. Raises IndexError."""
        return self.choose(*self._place(step))

    def keys(self, step: int) -> list[str]:
        """The keys of the records of `step`. Raises IndexError or WorkError."""
        return self.reader.read_keys(self.numbers(step))

    def read(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8[≤ B, H, W, C] and labels int64[≤ B] of `step`. Raises IndexError, WorkError."""
        epoch, step_of_epoch = self._place(step)
        numbers = self.choose(epoch, step_of_epoch)
        images, labels = self.reader.read(numbers)
        if self.alter:
            images = self.alter(images, self.reader.read_keys(numbers), epoch)
        return images, labels

    def iterate(
        self, first_step: int = 0, *, threads: int = 2, prefetch: int = 4
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `read` gives for each step from `first_step`, in turn; `threads` read ahead.

        At most `prefetch` batches wait to be taken. An error is raised at its step. Closed early,
        the generator leaves no thread behind.
        """
        _check_positive(threads=threads, prefetch=prefetch)
        steps = iter(range(first_step, self.steps))
        pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        try:
            ahead = deque(pool.submit(self.read, step) for step in islice(steps, prefetch))
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(self.read, step) for step in islice(steps, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _place(self, step: int) -> tuple[int, int]:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        return divmod(step, self.steps_per_epoch)


def training_batches(
    records: Path, *, batch_size: int, seed: int, epochs: int = 1, examples: int | None = None,
    validation_fraction: float = 0.0, augment: Sequence[str] = (),
    worker_index: int = 0, num_workers: int = 1,
) -> Batches:  # fmt: skip
    """The training part of a data set, in a new order each epoch.

    Each epoch holds every record once; its last batch may be smaller. Host `worker_index` of
    `num_workers` gets its share of each epoch: with all hosts together every record once, whatever
    their number; their steps differ by one at most. `augment`: names from
    `pipeline.augment.AUGMENTATIONS`. Raises UsageError or WorkError.
    """
    share = {"batch_size": batch_size, "worker_index": worker_index, "num_workers": num_workers}
    check_share(**share)
    _check_positive(epochs=epochs)
    names = check_augmentations(augment)
    manifest = load_manifest(records)
    reader = RecordReader(records, manifest, "train")
    numbers, _ = choose_examples(reader, examples=examples, validation_fraction=validation_fraction)
    together = max(1, _POSITIONS_TOGETHER // batch_size)

    @functools.lru_cache(maxsize=4)
    def steps_together(epoch: int, turn: int) -> np.ndarray:
        some = {**share, "batch_size": together * batch_size}
        positions = batch_positions(turn, records=len(numbers), **some)
        found = numbers[epoch_order(positions, records=len(numbers), seed=seed, epoch=epoch)]
        found.setflags(write=False)  # callers get parts of it
        return found

    def choose(epoch: int, step_of_epoch: int) -> np.ndarray:
        turn, place = divmod(step_of_epoch, together)
        return steps_together(epoch, turn)[place * batch_size : (place + 1) * batch_size]

    def alter(images: np.ndarray, keys: Sequence[str], epoch: int) -> np.ndarray:
        return augment_images(images, keys, names, seed=seed, epoch=epoch)

    per_epoch = steps_per_epoch(len(numbers), **share)
    return Batches(manifest.image, per_epoch, epochs, reader, choose, alter if names else None)


def evaluation_batches(
    records: Path, *, split: str, batch_size: int, examples: int | None = None,
    validation_fraction: float = 0.0,
) -> Batches:  # fmt: skip
    """One part of a data set in stored order, each record once, never augmented.

    split: `test`, or `validation` for the part of the training split that `training_batches` with
    the same `examples` and `validation_fraction` leaves out. Raises UsageError or WorkError.
    """
    check_share(batch_size=batch_size)
    manifest = load_manifest(records)
    reader = RecordReader(records, manifest, "test" if split == "test" else "train")
    if split == "test":
        numbers = np.arange(reader.records, dtype=np.int64)
    else:
        chosen = {"examples": examples, "validation_fraction": validation_fraction}
        _, numbers = choose_examples(reader, **chosen)

    def choose(_epoch: int, step: int) -> np.ndarray:
        return numbers[step * batch_size : (step + 1) * batch_size]

    per_epoch = steps_per_epoch(len(numbers), batch_size=batch_size)
    return Batches(manifest.image, per_epoch, 1, reader, choose)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"--{name}: must be at least 1, received {value}")

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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.augment import augment as augment_images
from pipeline.augment import check_augmentations
from pipeline.errors import UsageError, WorkError
from pipeline.manifest import load_manifest
from pipeline.order import batch_positions, check_share, epoch_order, steps_per_epoch
from pipeline.reader import RecordReader, choose_examples
from pipeline.scattered import MOST_AT_ONCE
from pipeline.schema import ImageSpec

_POSITIONS_TOGETHER = 16_384  # a place in the order costs 30 times as much if it is asked for alone


@dataclass(frozen=True)
class Batches:
    """Steps 0 to `steps` - 1 over `epochs` epochs; made by the two functions below.

    choose: (epoch, step of the epoch) → record numbers int64[≤ batch_size]; alter: None, or (images,
    keys, epoch) → images. It may be shared by threads.
    """

    image: ImageSpec
    batch_size: int
    steps_per_epoch: int
    epochs: int
    reader: RecordReader
    choose: Callable[[int, int], np.ndarray]
    alter: Callable[[np.ndarray, Sequence[str], int], np.ndarray] | None = None

    @property
    def steps(self) -> int:
        """Steps of all epochs; 0 for a host that gets no record."""
        return self.epochs * self.steps_per_epoch

    @property
    def worth_together(self) -> int:
        """How many steps to read at once: of small batches, several cost hardly more than one."""
        return max(1, MOST_AT_ONCE // self.batch_size)

    def numbers(self, step: int) -> np.ndarray:
        """Record numbers int64[≤ B] of `step` within the split. Raises IndexError."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        return self.choose(*divmod(step, self.steps_per_epoch))

    def keys(self, step: int) -> list[str]:
        """The keys of the records of `step`. Raises IndexError or WorkError."""
        return self.reader.read_keys(self.numbers(step))

    def read(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8[≤ B, H, W, C] and labels int64[≤ B] of `step`. Raises IndexError, WorkError."""
        return self.read_together(range(step, step + 1))

    def read_together(self, steps: range) -> tuple[np.ndarray, np.ndarray]:
        """What `read` gives for each of `steps`, all of one epoch, joined. Raises as `read`."""
        numbers = np.concatenate([self.numbers(step) for step in steps])
        images, labels = self.reader.read(numbers)
        if self.alter:
            epoch = steps[0] // self.steps_per_epoch
            images = self.alter(images, self.reader.read_keys(numbers), epoch)
        return images, labels

    def iterate(
        self, first_step: int = 0, *, threads: int = 2, prefetch: int = 12
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `read` gives for each step from `first_step`, in turn; `threads` read ahead.

        At most `prefetch` batches wait to be taken. An error is raised at its step. Closed early,
        the generator leaves no thread behind.
        """
        _check_positive(threads=threads, prefetch=prefetch)
        together = max(1, min(self.worth_together, prefetch // 3))
        groups = self._groups(first_step, together)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

        def submit(count: int) -> list[tuple[range, Future]]:
            return [
                (group, pool.submit(self.read_together, group)) for group in islice(groups, count)
            ]

        try:
            ahead = deque(submit(max(1, min(prefetch // together - 1, 2 * threads))))
            while ahead:
                group, future = ahead.popleft()
                try:
                    batches = self._split(*future.result())
                except WorkError:
                    batches = map(self.read, group)  # one by one: the error belongs to its step
                ahead.extend(submit(1))
                yield from batches
        finally:
            pool.shutdown(cancel_futures=True)

    def _groups(self, first_step: int, together: int) -> Iterator[range]:
        """The steps from `first_step`, `together` at a time; fewer where an epoch ends."""
        while first_step < self.steps:
            end_of_epoch = (first_step // self.steps_per_epoch + 1) * self.steps_per_epoch
            last_step = min(first_step + together, end_of_epoch)
            yield range(first_step, last_step)
            first_step = last_step

    def _split(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(labels), self.batch_size):
            part = slice(first, first + self.batch_size)
            yield images[part], labels[part]


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
    return Batches(
        manifest.image, batch_size, per_epoch, epochs, reader, choose, alter if names else None
    )


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
    return Batches(manifest.image, batch_size, per_epoch, 1, reader, choose)


def join_small_last(batches: Batches, *, least: int) -> Batches:
    """`batches`, the last of each epoch joined to the one before if it has fewer than `least` records.

    For training on several devices: one that gets no record at all ends the process.
    """
    last = batches.steps_per_epoch - 1
    if last < 1 or len(batches.choose(0, last)) >= least:
        return batches

    def choose(epoch: int, step: int) -> np.ndarray:
        steps = (step, last) if step == last - 1 else (step,)
        return np.concatenate([batches.choose(epoch, one) for one in steps])

    largest = max(batches.batch_size + least, MOST_AT_ONCE)  # so each is read alone, and not cut
    return replace(batches, batch_size=largest, steps_per_epoch=last, choose=choose)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"--{name}: must be at least 1, received {value}")

"""Records as tf.data: batches of uint8 images, read by position, nothing held in memory.

Why the steps stand in this order: the dataset counts steps, and a step's number alone decides which
records it reads, so that the map may run in parallel, any step can be the first, and the order of
the steps is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.manifest import load_manifest
from pipeline.order import batch_positions, epoch_order, steps_per_epoch
from pipeline.reader import RecordReader, choose_examples
from pipeline.schema import ImageSpec

_PARALLEL_READS = 2  # two threads fill the memory bus of a small machine; more wait for each other
_PREFETCHED_BATCHES = 4


def training_dataset(
    records: Path, *, batch_size: int, seed: int, epochs: int = 1, first_step: int = 0,
    examples: int | None = None, validation_fraction: float = 0.0,
    worker_index: int = 0, num_workers: int = 1,
) -> tf.data.Dataset:  # fmt: skip
    """(images uint8[B, H, W, C], labels int64[B]) of the training part, a new order each epoch.

    Steps count through all epochs; each epoch holds every record once, its last batch may be
    smaller. `first_step` resumes. `worker_index` of `num_workers` hosts gets its share of each
    epoch. Cardinality is known. Raises UsageError or WorkError; a record that turns out damaged
    raises tf.errors.OpError, whose text `pipeline.errors.find_user_error` understands.
    """
    manifest = load_manifest(records)
    reader = RecordReader(records, manifest, "train")
    numbers, _ = choose_examples(reader, examples=examples, validation_fraction=validation_fraction)
    share = {"batch_size": batch_size, "worker_index": worker_index, "num_workers": num_workers}
    per_epoch = steps_per_epoch(len(numbers), **share)

    def read_step(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, step_of_epoch = divmod(int(step), per_epoch)
        positions = batch_positions(step_of_epoch, records=len(numbers), **share)
        order = epoch_order(positions, records=len(numbers), seed=seed, epoch=epoch)
        return reader.read(numbers[order])

    return _stream(read_step, first_step, epochs * per_epoch, manifest.image)


def evaluation_dataset(
    records: Path, *, split: str, batch_size: int, examples: int | None = None,
    validation_fraction: float = 0.0,
) -> tf.data.Dataset:  # fmt: skip
    """(images uint8[B, H, W, C], labels int64[B]) in stored order, each record once.

    split: `test`, or `validation` for the part of the training split that `training_dataset` with
    the same `examples` and `validation_fraction` leaves out. Raises as `training_dataset` does.
    """
    manifest = load_manifest(records)
    reader = RecordReader(records, manifest, "test" if split == "test" else "train")
    if split == "test":
        numbers = np.arange(reader.records, dtype=np.int64)
    else:
        _, numbers = choose_examples(
            reader, examples=examples, validation_fraction=validation_fraction
        )

    def read_step(step: int) -> tuple[np.ndarray, np.ndarray]:
        return reader.read(numbers[step * batch_size : (step + 1) * batch_size])

    return _stream(
        read_step, 0, steps_per_epoch(len(numbers), batch_size=batch_size), manifest.image
    )


def _stream(
    read_step: Callable[[int], tuple[np.ndarray, np.ndarray]],
    first_step: int,
    steps: int,
    image: ImageSpec,
) -> tf.data.Dataset:
    def read(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(read_step, [step], (tf.uint8, tf.int64), stateful=False)
        images.set_shape((None, image.height, image.width, image.channels))
        labels.set_shape((None,))
        return images, labels

    dataset = tf.data.Dataset.range(first_step, steps)
    dataset = dataset.map(read, num_parallel_calls=_PARALLEL_READS, deterministic=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(max(0, steps - first_step)))
    return dataset.prefetch(_PREFETCHED_BATCHES)

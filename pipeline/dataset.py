"""Records as tf.data: batches of uint8 images, read by position, nothing held in memory.

Why the steps stand in this order: the dataset counts steps, or groups of them where batches are small,
and a step's number alone decides which records it reads, so that the map may run in parallel, any step
can be the first, and the order of the steps is kept. A call of Python costs as much as reading fifty
images, so a group is read by one call, and cut into batches without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.batches import Batches, evaluation_batches, training_batches

_PARALLEL_READS = 2  # two threads fill the memory bus of a small machine; more wait for each other
_PREFETCHED_BATCHES = 4


def training_dataset(
    records: Path, *, batch_size: int, seed: int, epochs: int = 1, first_step: int = 0,
    examples: int | None = None, validation_fraction: float = 0.0, augment: Sequence[str] = (),
    worker_index: int = 0, num_workers: int = 1,
) -> tf.data.Dataset:  # fmt: skip
    """(images uint8[B, H, W, C], labels int64[B]) of the training part, a new order each epoch.

    Steps count through all epochs; `first_step` resumes. See `pipeline.batches.training_batches`.
    """
    batches = training_batches(
        records,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        examples=examples,
        validation_fraction=validation_fraction,
        augment=augment,
        worker_index=worker_index,
        num_workers=num_workers,
    )
    return stream(batches, first_step=first_step)


def evaluation_dataset(
    records: Path, *, split: str, batch_size: int, examples: int | None = None,
    validation_fraction: float = 0.0,
) -> tf.data.Dataset:  # fmt: skip
    """(images uint8[B, H, W, C], labels int64[B]) in stored order, each record once.

    split: `test` or `validation`. See `pipeline.batches.evaluation_batches`.
    """
    batches = evaluation_batches(
        records,
        split=split,
        batch_size=batch_size,
        examples=examples,
        validation_fraction=validation_fraction,
    )
    return stream(batches)


def stream(
    batches: Batches, *, first_step: int = 0, last_step: int | None = None
) -> tf.data.Dataset:
    """(images uint8[B, H, W, C], labels int64[B]) of the steps from `first_step` up to, and without,
    `last_step`; default: to the end. Cardinality is known.

    A record that turns out damaged raises tf.errors.OpError, whose text
    `pipeline.errors.find_user_error` understands; small batches are read several at once, so the error
    may come a few steps before that of the record.
    """
    end = batches.steps if last_step is None else min(last_step, batches.steps)
    steps = max(0, end - first_step)
    per_epoch, together = max(1, batches.steps_per_epoch), batches.worth_together
    groups_per_epoch = -(-per_epoch // together)
    shape = (batches.image.height, batches.image.width, batches.image.channels)

    def group_of(step: int) -> int:
        epoch, step_of_epoch = divmod(step, per_epoch)
        return epoch * groups_per_epoch + step_of_epoch // together

    def read_group(group: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(int(group), groups_per_epoch)
        first = epoch * per_epoch + place * together
        last = min(first + together, (epoch + 1) * per_epoch, end)
        return batches.read_together(range(max(first, first_step), last))

    def read(group: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(
            read_group, [group], (tf.uint8, tf.int64), stateful=False
        )
        images.set_shape((None, *shape))
        labels.set_shape((None,))
        return images, labels

    def cut(images: tf.Tensor, labels: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors((images, labels)).rebatch(batches.batch_size)

    groups = range(group_of(first_step), group_of(end - 1) + 1) if steps else range(0)
    dataset = tf.data.Dataset.range(groups.start, groups.stop)
    dataset = dataset.map(read, num_parallel_calls=_PARALLEL_READS, deterministic=True)
    if together > 1:
        dataset = dataset.flat_map(cut)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(_PREFETCHED_BATCHES)

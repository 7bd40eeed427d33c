"""Records as tf.data: batches of uint8 images, read by position, nothing held in memory.

Why the steps stand in this order: the dataset counts steps, and a step's number alone decides which
records it reads, so that the map may run in parallel, any step can be the first, and the order of
the steps is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    `pipeline.errors.find_user_error` understands.
    """
    end = batches.steps if last_step is None else min(last_step, batches.steps)
    shape = (batches.image.height, batches.image.width, batches.image.channels)

    def read(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(
            lambda step: batches.read(int(step)), [step], (tf.uint8, tf.int64), stateful=False
        )
        images.set_shape((None, *shape))
        labels.set_shape((None,))
        return images, labels

    dataset = tf.data.Dataset.range(first_step, end)
    dataset = dataset.map(read, num_parallel_calls=_PARALLEL_READS, deterministic=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(max(0, end - first_step)))
    return dataset.prefetch(_PREFETCHED_BATCHES)

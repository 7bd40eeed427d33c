"""Three ways to read the same TFRecords with TensorFlow alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from benchmarks.peers.in_graph import counting
from benchmarks.peers.reading import main
from pipeline.manifest import load_manifest

SHUFFLED = 2048
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def raw(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """The records' bytes, in file order, not parsed: the least that TFRecordDataset costs."""
    data = tf.data.TFRecordDataset(_files(folder), num_parallel_reads=tf.data.AUTOTUNE)
    data = data.batch(batch_size).repeat(epochs)
    return data.map(lambda records: (records, records)).prefetch(tf.data.AUTOTUNE)


def tuned(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """As the guides advise: parallel interleave, shuffle, a batch parsed at once, all in parallel."""
    spec = load_manifest(folder).image
    shape = (-1, spec.height, spec.width, spec.channels)
    files = tf.data.Dataset.from_tensor_slices(_files(folder)).shuffle(1000)
    data = files.interleave(
        tf.data.TFRecordDataset,
        cycle_length=tf.data.AUTOTUNE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    data = data.shuffle(SHUFFLED).batch(batch_size).repeat(epochs)
    data = data.map(
        lambda records: _parse(records, shape),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    return data.prefetch(tf.data.AUTOTUNE)


def tutorial(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """As one writes it first: record by record, cast, shuffled as pixels, then batched."""
    spec = load_manifest(folder).image

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, FEATURES)
        image = tf.reshape(
            tf.io.decode_raw(example["image"], tf.uint8), (spec.height, spec.width, spec.channels)
        )
        return tf.cast(image, tf.float32) / 255.0, example["label"]

    data = tf.data.TFRecordDataset(_files(folder)).map(parse).shuffle(SHUFFLED)
    return data.batch(batch_size).repeat(epochs)


def _parse(records: tf.Tensor, shape: tuple[int, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    examples = tf.io.parse_example(records, FEATURES)
    return tf.reshape(tf.io.decode_raw(examples["image"], tf.uint8), shape), examples["label"]


def _files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("train-*.tfrecord"))


WAYS = {"raw": raw, "tuned": tuned, "tutorial": tutorial}

if __name__ == "__main__":
    main(WAYS[sys.argv.pop(1)], counting=counting)

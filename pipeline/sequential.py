"""Records as tf.data, read from front to back: for disks and stores that seek badly.

Each epoch reads the shards in an order of its own, a few of them at once, and shuffles the raw
records in a buffer of SHUFFLE_BYTES. So a record comes out at most that far before its turn, and
what stands together in a shard stays roughly together: benchmarks/README.md has figures. Where the
disk can seek, `pipeline.dataset` shuffles without limit, faster, and resumes at no cost.

Only training has such a reader: evaluation reads in stored order in any case.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import tensorflow as tf

from pipeline.errors import UsageError, WorkError, describe_os_error
from pipeline.example import Layout
from pipeline.hashing import stable_hash
from pipeline.manifest import Shard, load_manifest
from pipeline.order import check_share, epoch_order
from pipeline.reader import RecordReader, choose_examples
from pipeline.schema import ImageSpec
from pipeline.tfrecord import FOOTER_BYTES, HEADER_BYTES

SHUFFLE_BYTES = 64 << 20
"""Of raw records that wait to be drawn: 2,962 records of 150x150 gray pixels."""

_READ_BYTES = 1 << 20  # asked of a file at once
_SHARDS_AT_ONCE = 4
_RECORDS_AT_ONCE = 16  # of a shard, before the next one's turn
_PARALLEL_PARSERS = 2
_PREFETCHED_BATCHES = 4


def sequential_training_dataset(
    records: Path, *, batch_size: int, seed: int, epochs: int = 1, first_step: int = 0,
    examples: int | None = None, validation_fraction: float = 0.0, augment: Sequence[str] = (),
    worker_index: int = 0, num_workers: int = 1, shuffle_bytes: int = SHUFFLE_BYTES,
) -> tf.data.Dataset:  # fmt: skip
    """(images uint8[B, H, W, C], labels int64[B]): what `pipeline.dataset.training_dataset` gives,
    in another, less thorough order.

    The same records, each once an epoch; cardinality is known; one seed, one order. `first_step`
    resumes: the epochs before it cost nothing, the steps before it in its epoch are read and thrown
    away. Hosts share the shards, so their steps differ; where there are more hosts than shards, each
    reads all and takes its share of the records. Raises UsageError (also for `augment`, which needs
    the other reader) or WorkError; damage met later raises tf.errors.OpError, whose text
    `pipeline.errors.find_user_error` understands.
    """
    check_share(batch_size=batch_size, worker_index=worker_index, num_workers=num_workers)
    if augment:
        raise UsageError(
            f"--augment {','.join(augment)}: the sequential reader does not augment; leave one of "
            "the two out"
        )
    manifest = load_manifest(records)
    shards = manifest.splits["train"].shards
    with RecordReader(records, manifest, "train") as reader:
        chosen = {"examples": examples, "validation_fraction": validation_fraction}
        numbers, _ = choose_examples(reader, **chosen)
    wanted = _share_of_host(numbers, shards, worker_index=worker_index, num_workers=num_workers)
    steps = -(-int(wanted.sum()) // batch_size)
    first_epoch = first_step // steps if steps else epochs
    left = max(0, epochs * steps - first_step)

    # Strings are cheap to shuffle and to skip, so they become pixels only after both.
    data = _shuffled_records(
        records,
        shards,
        wanted,
        seed=seed,
        epochs=range(first_epoch, epochs),
        batch_size=batch_size,
        buffered=max(1, shuffle_bytes // manifest.layout.record_bytes),
    )
    data = data.skip(first_step - first_epoch * steps)
    parse = functools.partial(_parse, layout=manifest.layout, image=manifest.image)
    data = data.map(parse, num_parallel_calls=_PARALLEL_PARSERS, deterministic=True)
    data = data.apply(tf.data.experimental.assert_cardinality(left))
    return data.prefetch(_PREFETCHED_BATCHES)


def _share_of_host(
    numbers: np.ndarray, shards: Sequence[Shard], *, worker_index: int, num_workers: int
) -> np.ndarray:
    """bool[records]: which records of the split this host takes of those chosen, `numbers`."""
    shard_of = np.repeat(np.arange(len(shards)), [shard.records for shard in shards])
    used, rank = np.unique(shard_of[numbers], return_inverse=True)
    turn = rank if num_workers <= len(used) else np.arange(len(numbers))
    wanted = np.zeros(len(shard_of), bool)
    wanted[numbers[turn % num_workers == worker_index]] = True
    return wanted


def _shuffled_records(
    folder: Path, shards: Sequence[Shard], wanted: np.ndarray, *, seed: int, epochs: range,
    batch_size: int, buffered: int,
) -> tf.data.Dataset:  # fmt: skip
    """Batches of serialized Examples, string[B], of the records `wanted` in each of `epochs`."""
    ends = np.cumsum([shard.records for shard in shards])
    starts = np.concatenate([[0], ends[:-1]])
    used = np.flatnonzero([wanted[s:e].any() for s, e in zip(starts, ends, strict=True)])
    paths = tf.constant([str(folder / shard.file) for shard in shards])
    starts, ends, wanted = tf.constant(starts), tf.constant(ends), tf.constant(wanted)

    def read_shard(shard: tf.Tensor) -> tf.data.Dataset:
        path = tf.numpy_function(_check_readable, [paths[shard]], tf.string, stateful=False)
        start, end = starts[shard], ends[shard]
        records = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).ignore_errors()
        missing = tf.data.Dataset.from_tensors(path).repeat()
        records = records.concatenate(missing).take(end - start)
        marked = tf.data.Dataset.zip(
            (records, tf.data.Dataset.from_tensor_slices(wanted[start:end]))
        )
        return marked.filter(lambda _, wanted: wanted).map(lambda record, _: record)

    def read_epoch(order: tf.Tensor, shuffle_seed: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # for what is traced here only: a global seed must not move the order
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            read_shard,
            cycle_length=_SHARDS_AT_ONCE,
            block_length=_RECORDS_AT_ONCE,
            num_parallel_calls=_SHARDS_AT_ONCE,
            deterministic=True,
        )
        return records.shuffle(buffered, seed=shuffle_seed).batch(batch_size)

    orders = [
        used[epoch_order(np.arange(len(used)), records=len(used), seed=seed, epoch=epoch)]
        for epoch in epochs
    ]
    seeds = [stable_hash(seed, "sequential", str(epoch)) % 2**31 for epoch in epochs]
    orders = np.reshape(orders, (len(epochs), len(used))).astype(np.int64)
    return tf.data.Dataset.from_tensor_slices((orders, np.array(seeds, np.int64))).flat_map(
        read_epoch
    )


def _check_readable(path: bytes) -> bytes:
    """`path`. Raises WorkError, as a file that cannot be opened would be tried again forever."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise WorkError(describe_os_error(error)) from error
    return path


def _parse(records: tf.Tensor, layout: Layout, image: ImageSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Serialized Examples string[B] → (images uint8[B, H, W, C], labels int64[B]).

    All records of a data set have one length, so they are cut, not parsed.
    """
    framing = HEADER_BYTES + FOOTER_BYTES
    size = layout.record_bytes - framing
    whole = tf.reduce_all(tf.strings.length(records) == size)
    records = tf.cond(
        whole,
        lambda: records,
        lambda: tf.numpy_function(_refuse_damage, [records, size], tf.string, stateful=False),
    )
    data = tf.ensure_shape(tf.io.decode_raw(records, tf.uint8), (None, size))
    first = layout.image_offset - HEADER_BYTES
    images = data[:, first : first + layout.image_bytes]
    first = layout.label_offset - HEADER_BYTES
    groups = tf.cast(data[:, first : first + layout.label_width] & 0x7F, tf.int64)
    shifts = tf.constant([1 << 7 * place for place in range(layout.label_width)], tf.int64)
    return (
        tf.reshape(images, (-1, image.height, image.width, image.channels)),
        tf.reduce_sum(groups * shifts, axis=1),
    )


def _refuse_damage(records: np.ndarray, size: int) -> NoReturn:
    """Raise WorkError for the shard whose path stands in the place of its first unreadable record."""
    path = Path(os.fsdecode(next(record for record in records if len(record) != size)))
    raise WorkError(
        f"{path} is damaged; python -m pipeline.verify {shlex.quote(str(path.parent))} names all "
        "damage, with --repair mends it"
    )

"""Numbered batches: a step's number alone decides what it holds, on any host and in any thread."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import batches as batches_module
from pipeline.augment import AUGMENTATIONS, augment
from pipeline.batches import evaluation_batches, join_small_last, training_batches
from pipeline.errors import UsageError, WorkError
from pipeline.manifest import load_manifest
from pipeline.order import epoch_order
from pipeline.reader import RecordReader, choose_examples
from pipeline.schema import ImageSpec

HOSTS = (1, 2, 3, 7, 16, 17, 500)  # 16 shards; fewer than 200 records


def train(records, **options):
    return training_batches(records, **{"batch_size": 16, "seed": 0, **options})


def all_numbers(batches):
    return [number for step in range(batches.steps) for number in batches.numbers(step).tolist()]


def same(one, two):
    return all((a == b).all() for a, b in zip(one, two, strict=True))


def test_a_step_holds_the_records_of_its_numbers(records):
    batches = train(records, epochs=2)
    with RecordReader(records, load_manifest(records), "train") as reader:
        for step in (0, batches.steps_per_epoch, batches.steps - 1):
            assert same(batches.read(step), reader.read(batches.numbers(step)))
            assert batches.keys(step) == reader.read_keys(batches.numbers(step))
    assert batches.image == ImageSpec(32, 40, 1)


def test_the_numbers_are_the_order_of_the_epoch(records):
    """Of those chosen for training; the last batch of an epoch is what is left."""
    part = {"examples": 100, "validation_fraction": 0.3}
    batches = train(records, epochs=2, seed=5, **part)
    with RecordReader(records, load_manifest(records), "train") as reader:
        chosen, _ = choose_examples(reader, **part)
    for epoch in range(2):
        everything = np.arange(len(chosen))
        order = chosen[epoch_order(everything, records=len(chosen), seed=5, epoch=epoch)]
        for step in range(batches.steps_per_epoch):
            found = batches.numbers(epoch * batches.steps_per_epoch + step)
            assert found.tolist() == order[step * 16 : (step + 1) * 16].tolist()
    assert batches.steps == 2 * batches.steps_per_epoch == 2 * -(-len(chosen) // 16)


@pytest.mark.parametrize("together", [1, 40, 64])
def test_how_many_positions_are_computed_together_does_not_matter(records, monkeypatch, together):
    expected = all_numbers(train(records, epochs=2, worker_index=1, num_workers=2))
    monkeypatch.setattr(batches_module, "_POSITIONS_TOGETHER", together)
    assert all_numbers(train(records, epochs=2, worker_index=1, num_workers=2)) == expected


@pytest.mark.parametrize("num_workers", HOSTS)
def test_with_all_hosts_together_each_record_once_an_epoch(records, num_workers):
    hosts = [
        train(records, epochs=2, worker_index=index, num_workers=num_workers)
        for index in range(num_workers)
    ]
    total = load_manifest(records).splits["train"].records
    for epoch in range(2):
        seen = [
            number
            for host in hosts
            for step in range(host.steps_per_epoch)
            for number in host.numbers(epoch * host.steps_per_epoch + step).tolist()
        ]
        assert sorted(seen) == list(range(total))
    steps = [host.steps for host in hosts]
    assert max(steps) - min(steps) <= 2  # one an epoch


def test_a_host_that_gets_nothing_has_no_steps(records):
    batches = train(records, worker_index=499, num_workers=500)
    assert batches.steps == 0
    assert list(batches.iterate()) == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("first_step", [0, 5, 10**6])
def test_iterate_gives_the_steps_in_turn(records, threads, first_step):
    batches = train(records, epochs=2)
    found = list(batches.iterate(first_step, threads=threads, prefetch=2))
    assert len(found) == max(0, batches.steps - first_step)
    for step, batch in enumerate(found, start=first_step):
        assert same(batch, batches.read(step))


@pytest.mark.parametrize("prefetch", [1, 3, 6, 12])
def test_at_most_prefetch_batches_wait(records, prefetch):
    """Counted in images, as several batches may be read at once."""
    read = []
    plain = train(records, batch_size=4)
    batches = replace(plain, alter=lambda images, _, __: read.append(len(images)) or images)
    taken = batches.iterate(threads=2, prefetch=prefetch)
    for count in range(1, 8):
        next(taken)
        time.sleep(0.02)
        assert sum(read) / 4 - count <= prefetch
        assert sum(read) / 4 - count >= min(prefetch, 2) / 2  # and it does read ahead
    taken.close()


def test_closed_early_it_leaves_no_thread_behind(records):
    before = threading.active_count()
    taken = train(records, epochs=50).iterate(threads=3)
    next(taken)
    assert threading.active_count() > before
    taken.close()
    assert threading.active_count() == before


def test_damage_is_raised_at_its_step_and_not_before(records, tmp_path):
    folder = shutil.copytree(records, tmp_path / "damaged")
    batches = train(folder)
    step, row = 7, 3
    number = int(batches.numbers(step)[row])
    layout = load_manifest(folder).layout
    shards = load_manifest(folder).splits["train"].shards
    index = int(np.searchsorted(np.cumsum([s.records for s in shards]), number, side="right"))
    within = number - sum(shard.records for shard in shards[:index])
    with (folder / shards[index].file).open("r+b") as file:
        file.seek(within * layout.record_bytes + 500)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    taken = batches.iterate()
    for _ in range(step):
        next(taken)
    with pytest.raises(WorkError, match=f"{shards[index].file}: record {within}: the data do not"):
        next(taken)


def test_evaluation_is_in_stored_order_and_what_training_leaves(records):
    part = {"batch_size": 16, "examples": 90, "validation_fraction": 0.3}
    validation = evaluation_batches(records, split="validation", **part)
    left = all_numbers(validation)
    assert left == sorted(left)
    assert sorted(left + all_numbers(train(records, **part))) == list(range(90))
    test = evaluation_batches(records, split="test", batch_size=16)
    assert all_numbers(test) == list(range(load_manifest(records).splits["test"].records))


def augmented(records, **options):
    """Key → image of epoch 1."""
    batches = train(records, epochs=2, augment=AUGMENTATIONS, **options)
    steps = range(batches.steps_per_epoch, batches.steps)
    found = {}
    for step in steps:
        images, _ = batches.read(step)
        found |= dict(zip(batches.keys(step), map(np.ndarray.tobytes, images), strict=True))
    return found


def test_an_augmented_image_depends_on_neither_batch_nor_host(records):
    expected = augmented(records)
    assert augmented(records, batch_size=7) == expected
    shared = [augmented(records, worker_index=index, num_workers=3) for index in range(3)]
    assert {key: image for part in shared for key, image in part.items()} == expected


def test_augmented_batches_are_the_plain_ones_augmented(records):
    plain = train(records, epochs=2, seed=3)
    batches = train(records, epochs=2, seed=3, augment=["flip", "shift"])
    for step in (0, plain.steps_per_epoch):
        images, labels = plain.read(step)
        epoch = step // plain.steps_per_epoch
        expected = augment(images, plain.keys(step), ("flip", "shift"), seed=3, epoch=epoch)
        assert same(batches.read(step), (expected, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch_size: must be at least 1, received 0"),
        ({"epochs": 0}, "--epochs: must be at least 1, received 0"),
        ({"worker_index": 3, "num_workers": 3}, "received worker_index 3 and num_workers 3"),
        ({"worker_index": -1, "num_workers": 3}, "received worker_index -1"),
        ({"num_workers": 0}, "num_workers 0"),
        ({"augment": ["turn"]}, "--augment: 'turn'"),
    ],
)
def test_what_cannot_be_is_refused(records, options, message):
    with pytest.raises(UsageError, match=message):
        train(records, **options)


@pytest.mark.parametrize("options", [{"threads": 0}, {"prefetch": 0}])
def test_nobody_reads_with_no_thread_or_no_room(records, options):
    with pytest.raises(UsageError, match="must be at least 1, received 0"):
        next(train(records).iterate(**options))


@pytest.mark.parametrize("step", [-1, 12, 10**9])
def test_there_are_no_other_steps(records, step):
    batches = train(records, examples=12 * 16)
    assert batches.steps == 12
    for ask in (batches.numbers, batches.keys, batches.read):
        with pytest.raises(IndexError, match=f"step {step} of 12"):
            ask(step)


def test_batches_that_nobody_holds_close_their_files(records):
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        train(records).read(0)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("examples", "sizes"), [(33, [16, 17]), (34, [16, 16, 2]), (1, [1])])
def test_a_last_batch_too_small_for_all_devices_is_joined_to_the_one_before(
    records, examples, sizes
):
    from pipeline.dataset import stream

    whole = train(records, epochs=2, examples=examples)
    joined = join_small_last(whole, least=2)
    assert all_numbers(joined) == all_numbers(whole)
    assert [len(joined.numbers(step)) for step in range(joined.steps)] == sizes * 2
    assert [len(labels) for _, labels in stream(joined)] == sizes * 2
    assert [len(labels) for _, labels in joined.iterate()] == sizes * 2

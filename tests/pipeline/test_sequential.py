"""The sequential reader: the same records as the positioned one, from front to back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.records import make_records, numbers_of
from pipeline.batches import training_batches
from pipeline.dataset import training_dataset
from pipeline.errors import UsageError, WorkError, find_user_error
from pipeline.manifest import load_manifest
from pipeline.schema import ImageSpec
from pipeline.sequential import sequential_training_dataset


def dataset(folder, **options):
    return sequential_training_dataset(folder, **{"batch_size": 16, "seed": 0, **options})


def images_and_labels(data):
    """(bytes of an image, label) of all its batches."""
    return [
        (image.tobytes(), int(label))
        for images, labels in data.as_numpy_iterator()
        for image, label in zip(images, labels, strict=True)
    ]


def positioned(folder, **options):
    return images_and_labels(training_dataset(folder, **{"batch_size": 16, "seed": 0, **options}))


def same(one, two):
    pairs = list(zip(one, two, strict=True))
    return all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in pairs)


def test_it_gives_what_the_positioned_reader_gives_in_another_order(records):
    data = dataset(records, epochs=2)
    other = training_dataset(records, batch_size=16, seed=0, epochs=2)
    assert data.element_spec == other.element_spec
    assert int(data.cardinality()) == int(other.cardinality())
    found = images_and_labels(data)
    total = len(found) // 2
    epochs = found[:total], found[total:]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(epoch) == sorted(positioned(records))
    assert [len(labels) for _, labels in data] == [len(labels) for _, labels in other]


def test_three_channels_and_many_classes_are_cut_right(tmp_path):
    """A label of two bytes, and an image that is not gray."""
    folder = make_records(tmp_path / "noise", 40, ImageSpec(5, 4, 3), classes=200)
    assert load_manifest(folder).layout.label_width == 2
    found = images_and_labels(dataset(folder))
    assert sorted(found) == sorted(positioned(folder))
    assert max(label for _, label in found) > 128


def test_a_seed_decides_the_order_and_a_global_one_does_not(records):
    expected = images_and_labels(dataset(records))
    tf.random.set_seed(1234)
    try:
        assert images_and_labels(dataset(records)) == expected
    finally:
        tf.random.set_seed(None)
    assert images_and_labels(dataset(records, seed=1)) != expected


@pytest.mark.parametrize("first_step", [1, 12, 13, 20, 35, 100])
def test_a_stream_that_begins_later_goes_on_as_the_whole_one(records, first_step):
    whole = list(dataset(records, epochs=3).as_numpy_iterator())
    rest = dataset(records, epochs=3, first_step=first_step)
    assert int(rest.cardinality()) == max(0, len(whole) - first_step)
    assert same(rest.as_numpy_iterator(), whole[first_step:])


@pytest.mark.parametrize(
    ("num_workers", "part"),
    [
        (1, {}),
        (3, {"validation_fraction": 0.3}),
        (17, {"validation_fraction": 0.3}),  # more than shards
        (11, {"examples": 10}),  # more than records
    ],
)
def test_with_all_hosts_together_each_record_once(records, num_workers, part):
    shared = [
        one
        for host in range(num_workers)
        for one in images_and_labels(
            dataset(records, worker_index=host, num_workers=num_workers, **part)
        )
    ]
    assert sorted(shared) == sorted(positioned(records, **part))


def test_no_host_is_left_without_work_when_few_shards_are_asked_for(records):
    """The first 20 examples stand in two of the 16 shards."""
    sizes = [
        len(images_and_labels(dataset(records, examples=20, worker_index=host, num_workers=4)))
        for host in range(4)
    ]
    assert sizes == [5, 5, 5, 5]


def test_a_host_that_gets_nothing_has_no_steps(records):
    data = dataset(records, examples=2, worker_index=2, num_workers=3, epochs=2)
    assert int(data.cardinality()) == 0
    assert list(data) == []


@pytest.mark.parametrize(
    "part",
    [
        {"examples": 50},
        {"validation_fraction": 0.3},
        {"examples": 90, "validation_fraction": 0.3},
    ],
)
def test_training_has_the_same_examples_with_either_reader(records, part):
    assert sorted(images_and_labels(dataset(records, **part))) == sorted(
        positioned(records, **part)
    )


@pytest.fixture
def damaged(records, tmp_path):
    """A copy of `records`, to be damaged."""
    return shutil.copytree(records, tmp_path / "dama'ged")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "is damaged; python -m pipeline.verify '"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "is damaged; python -m pipeline"),
        (lambda path: path.write_bytes(b""), "is damaged; python -m pipeline.verify"),
        (lambda path: path.unlink(), "No such file or directory"),
    ],
)
def test_damage_after_the_start_is_one_line_that_names_the_shard(damaged, damage, message):
    data = dataset(damaged, epochs=2)
    damage(damaged / "train-00003-of-00016.tfrecord")
    with pytest.raises(tf.errors.OpError) as caught:
        list(data)
    found = find_user_error(caught.value)
    assert isinstance(found, WorkError)
    assert f"{damaged}/train-00003-of-00016.tfrecord" in str(found)
    assert message in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ["flip"]}, "--augment flip: the sequential reader does not augment"),
        ({"batch_size": 0}, "--batch_size"),
        ({"worker_index": 2, "num_workers": 2}, "worker_index"),
        ({"examples": 10**6}, "--examples"),
    ],
)
def test_what_cannot_be_is_refused(records, options, message):
    with pytest.raises(UsageError, match=message):
        dataset(records, **options)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """20,000 tiny records."""
    return make_records(tmp_path_factory.mktemp("many") / "records", 20_000, ImageSpec(3, 3, 1))


def order(folder, **options):
    found = sequential_training_dataset(folder, **{"batch_size": 500, "seed": 0, **options})
    return np.concatenate([numbers_of(images) for images, _ in found.as_numpy_iterator()])


@pytest.mark.parametrize(
    "part",
    [
        {"examples": 1000},  # of one shard: only the buffer shuffles
        {"shuffle_bytes": 0},  # no buffer: only the order of the shards differs
    ],
)
def test_seed_and_epoch_decide_the_order_of_the_shards_and_of_the_buffer(many, part):
    one, two = np.split(order(many, epochs=2, **part), 2)
    other = order(many, seed=1, **part)
    assert sorted(one) == sorted(two) == sorted(other)
    assert len({array.tobytes() for array in (one, two, other)}) == 3


def test_the_shuffle_reaches_as_far_as_its_buffer(many):
    """No record comes out earlier than the buffer allows; with no buffer, in the order of reading."""
    size = load_manifest(many).layout.record_bytes
    turn = np.argsort(order(many, shuffle_bytes=0))
    shuffled = order(many, shuffle_bytes=1000 * size)
    early = turn[shuffled] - np.arange(20_000)
    assert early.max() < 1000
    assert 650 < np.abs(early).mean() < 800  # 2/e of the buffer, less what the end cuts off
    assert sorted(shuffled) == list(range(20_000))


def test_what_is_read_is_checked_against_the_positioned_numbers(many):
    """The numbers in the pixels are those of the records."""
    batches = training_batches(many, batch_size=500, seed=0)
    images, _ = batches.read(3)
    assert (numbers_of(images) == batches.numbers(3)).all()

"""Reading: the same records by position, as tf.data, and with TensorFlow's own reader."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from pipeline import reader as reader_module
from pipeline.errors import UsageError, WorkError, find_user_error
from pipeline.images import decode_image
from pipeline.manifest import load_manifest
from pipeline.reader import RecordReader, choose_examples
from pipeline.schema import ImageSpec


def open_split(folder, split="train"):
    return RecordReader(folder, load_manifest(folder), split)


@pytest.fixture
def damaged(records, tmp_path):
    """A copy of `records`, to be damaged."""
    return shutil.copytree(records, tmp_path / "damaged")


def plain_tensorflow(folder, split):
    """Every record of a split with nothing but TensorFlow, in file order."""
    import tensorflow as tf

    files = sorted(str(path) for path in folder.glob(f"{split}-*.tfrecord"))
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "bucket": tf.io.FixedLenFeature([], tf.int64),
        "key": tf.io.FixedLenFeature([], tf.string),
    }
    parsed = tf.data.TFRecordDataset(files).map(lambda r: tf.io.parse_single_example(r, features))
    return list(parsed.as_numpy_iterator())


@pytest.mark.parametrize("split", ["train", "test"])
def test_tensorflow_alone_reads_the_same_records(records, split):
    with open_split(records, split) as reader:
        everything = np.arange(reader.records)
        images, labels = reader.read(everything)
        keys, buckets = reader.read_keys(everything), reader.read_buckets(everything)
    plain = plain_tensorflow(records, split)
    assert len(plain) == len(images)
    for position, record in enumerate(plain):
        assert record["image"] == images[position].tobytes()
        assert record["label"] == labels[position]
        assert record["bucket"] == buckets[position]
        assert record["key"].decode() == keys[position]


def test_a_record_leads_back_to_its_file_and_class(records, image_folder):
    with open_split(records) as reader:
        numbers = np.array([5, 0, reader.records - 1])
        images, labels = reader.read(numbers)
        for image, label, key in zip(images, labels, reader.read_keys(numbers), strict=True):
            data = (image_folder / key).read_bytes()
            assert (image == decode_image(data, ImageSpec(32, 40, 1))).all()
            assert key.startswith(("faces/", "comics/")[label])


def test_no_pair_is_split_between_training_validation_and_test(records):
    with open_split(records) as train, open_split(records, "test") as test:
        parts = choose_examples(train, examples=None, validation_fraction=0.3)
        keys = [train.read_keys(part) for part in parts]
        keys.append(test.read_keys(np.arange(test.records)))
    stems = [{key.split("/")[1] for key in part} for part in keys]
    assert all(stems)
    assert not stems[0] & stems[1] | stems[0] & stems[2] | stems[1] & stems[2]
    assert len(set.union(*stems)) == 120


def test_with_more_shards_than_open_files_reading_is_the_same(records, monkeypatch):
    with open_split(records) as reader:
        expected = reader.read(np.arange(50))
    monkeypatch.setattr(reader_module, "_MAX_OPEN_FILES", 3)
    before = len(os.listdir("/proc/self/fd"))
    with open_split(records) as reader:
        found = reader.read(np.arange(50))
        assert len(os.listdir("/proc/self/fd")) == before
    assert all((one == two).all() for one, two in zip(expected, found, strict=True))


def test_the_first_n_examples_are_the_same_for_everybody(records):
    with open_split(records) as reader:
        train, validation = choose_examples(reader, examples=100, validation_fraction=0.3)
        assert sorted([*train, *validation]) == list(range(100))
        few, _ = choose_examples(reader, examples=50, validation_fraction=0.3)
        assert set(few) <= set(train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0, "validation_fraction": 0.2}, "received 0"),
        ({"examples": 10**6, "validation_fraction": 0.2}, "records, received 1000000"),
        ({"examples": None, "validation_fraction": 1.0}, "below 1, received 1.0"),
        ({"examples": 2, "validation_fraction": 0.001}, "0 for validation"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(records, options, message):
    with open_split(records) as reader, pytest.raises(UsageError, match=message):
        choose_examples(reader, **options)


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_at_the_first_reading_and_named(damaged):
    layout = load_manifest(damaged).layout
    flip(damaged / "train-00001-of-00016.tfrecord", layout.record_bytes * 2 + 500)
    with open_split(damaged) as reader, pytest.raises(WorkError) as caught:
        reader.read(np.arange(reader.records))
    assert "train-00001-of-00016.tfrecord: record 2: the data" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "bytes, the manifest says"),
    ],
)
def test_a_missing_or_truncated_shard_is_found_at_once(damaged, damage, message):
    damage(damaged / "train-00003-of-00016.tfrecord")
    with pytest.raises(WorkError, match=f"train-00003-of-00016.tfrecord.*{message}"):
        open_split(damaged)


def test_what_the_system_says_of_a_file_that_cannot_be_read_is_passed_on(damaged):
    folder = os.open(damaged, os.O_RDONLY)
    with open_split(damaged) as reader:
        os.dup2(folder, reader._files[2])  # a folder in the place of the file: any error would do
        os.close(folder)
        with pytest.raises(WorkError, match=r"00002-of-00016.tfrecord: (Is a dir|Invalid arg)"):
            reader.read(np.arange(reader.records))


@pytest.mark.parametrize("most_open", [512, 0])
def test_a_shard_that_shrinks_or_goes_while_it_is_read_is_named(damaged, monkeypatch, most_open):
    monkeypatch.setattr(reader_module, "_MAX_OPEN_FILES", most_open)
    layout = load_manifest(damaged).layout
    with open_split(damaged) as reader:
        path = damaged / "train-00002-of-00016.tfrecord"
        path.write_bytes(path.read_bytes()[: 3 * layout.record_bytes + 100])
        with pytest.raises(WorkError, match="00002-of-00016.tfrecord: record 3: the file ends"):
            reader.read(np.arange(reader.records))
        if not most_open:
            path.unlink()
            with pytest.raises(WorkError, match="00002-of-00016.tfrecord: No such file"):
                reader.read(np.arange(reader.records))


def dataset(folder, **options):
    from pipeline.dataset import training_dataset

    return training_dataset(folder, **{"batch_size": 16, "seed": 0, **options})


def test_an_epoch_holds_every_record_once_and_the_next_another_order(records):
    steps = list(dataset(records, epochs=2).as_numpy_iterator())
    images = np.concatenate([images for images, _ in steps])
    total = load_manifest(records).splits["train"].records
    assert len(images) == 2 * total
    assert images.shape[1:] == (32, 40, 1)
    assert images.dtype == np.uint8
    rows = [image.tobytes() for image in images]
    expected = {record["image"] for record in plain_tensorflow(records, "train")}
    assert set(rows[:total]) == set(rows[total:]) == expected
    assert rows[:total] != rows[total:]


def test_the_cardinality_is_known(records):
    total = load_manifest(records).splits["train"].records
    assert int(dataset(records, epochs=3).cardinality()) == 3 * -(-total // 16)
    assert int(dataset(records, epochs=3, first_step=5).cardinality()) == 3 * -(-total // 16) - 5


def test_a_stream_that_begins_later_goes_on_as_the_whole_one(records):
    whole = list(dataset(records, epochs=2).as_numpy_iterator())
    rest = list(dataset(records, epochs=2, first_step=7).as_numpy_iterator())
    assert len(rest) == len(whole) - 7
    for (one, _), (two, _) in zip(whole[7:], rest, strict=True):
        assert (one == two).all()


def test_hosts_share_the_stream_exactly(records):
    whole = np.concatenate([i for i, _ in dataset(records).as_numpy_iterator()])
    shared = [
        image.tobytes()
        for host in range(3)
        for images, _ in dataset(records, worker_index=host, num_workers=3).as_numpy_iterator()
        for image in images
    ]
    assert sorted(shared) == sorted(image.tobytes() for image in whole)


def test_training_and_validation_share_the_examples(records):
    from pipeline.dataset import evaluation_dataset

    part = {"batch_size": 16, "examples": 90, "validation_fraction": 0.3}
    train = [i for images, _ in dataset(records, **part).as_numpy_iterator() for i in images]
    validation = [
        image
        for images, _ in evaluation_dataset(records, split="validation", **part).as_numpy_iterator()
        for image in images
    ]
    everything = sorted(image.tobytes() for image in train + validation)
    first = sorted(record["image"] for record in plain_tensorflow(records, "train")[:90])
    assert everything == first


def test_a_piece_of_a_stream_is_the_batches_of_its_steps(records):
    from pipeline.batches import training_batches
    from pipeline.dataset import stream

    batches = training_batches(
        records, batch_size=16, seed=0, epochs=2, augment=("flip", "shift", "brightness")
    )
    for first, last, steps in ((0, None, batches.steps), (3, 9, 6), (5, 10**6, batches.steps - 5)):
        piece = stream(batches, first_step=first, last_step=last)
        assert int(piece.cardinality()) == steps
        found = list(piece.as_numpy_iterator())
        assert len(found) == steps
        for step, (images, labels) in enumerate(found, start=first):
            expected = batches.read(step)
            assert (images == expected[0]).all() and (labels == expected[1]).all()
    assert int(stream(batches, first_step=9, last_step=3).cardinality()) == 0


def test_training_is_augmented_and_evaluation_is_not(records):
    from pipeline.dataset import evaluation_dataset

    plain, altered = (
        np.concatenate([i for i, _ in dataset(records, augment=names).as_numpy_iterator()])
        for names in ((), ("brightness",))
    )
    assert plain.shape == altered.shape
    changed = (plain != altered).any(axis=(1, 2, 3)).mean()
    assert changed > 0.9  # one in 51 gets a change of zero
    test = evaluation_dataset(records, split="test", batch_size=16)
    stored = [image.tobytes() for images, _ in test.as_numpy_iterator() for image in images]
    assert stored == [record["image"] for record in plain_tensorflow(records, "test")]


def test_damage_met_by_tensorflow_comes_out_as_one_line(damaged):
    import tensorflow as tf

    layout = load_manifest(damaged).layout
    flip(damaged / "train-00001-of-00016.tfrecord", layout.image_offset + 3)
    with pytest.raises(tf.errors.OpError) as caught:
        list(dataset(damaged))
    line = str(find_user_error(caught.value))
    assert "train-00001-of-00016.tfrecord: record 0: the data do not match" in line
    assert "\n" not in line

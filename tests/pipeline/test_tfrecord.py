from __future__ import annotations

import hashlib

import pytest

from pipeline.tfrecord import DamagedRecord, read_records, write_records

RECORDS = [b"", b"a", b"ink" * 1000]


def test_tensorflow_and_we_read_what_we_write(tmp_path):
    import tensorflow as tf

    path = tmp_path / "some.tfrecord"
    written = write_records(path, RECORDS)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS
    assert list(read_records(path)) == RECORDS
    assert written.records == 3
    assert written.bytes == path.stat().st_size
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def breaks():
        yield b"first"
        assert not (tmp_path / "half.tfrecord").exists()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_records(tmp_path / "half.tfrecord", breaks())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("offset", "index", "what"),
    [
        (0, 0, "length"),  # the length of the first record
        (16 + 12, 1, "data"),  # the only byte of the second
        (16 + 17 + 12 + 7, 2, "data"),
        (-1, 2, "data"),  # the checksum itself
    ],
)
def test_a_flipped_bit_is_found_and_named(tmp_path, offset, index, what):
    path = tmp_path / "some.tfrecord"
    write_records(path, RECORDS)
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedRecord, match=f"some.tfrecord: record {index}: .*{what}"):
        list(read_records(path))


@pytest.mark.parametrize("cut", [1, 4, 3003, 3005, 3015])
def test_a_truncated_file_is_found(tmp_path, cut):
    path = tmp_path / "some.tfrecord"
    write_records(path, RECORDS)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DamagedRecord, match=r"record 2: the file ends within"):
        list(read_records(path))

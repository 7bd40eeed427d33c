from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.example import decode_example, encode_example, make_layout
from pipeline.schema import ImageSpec, Record
from pipeline.tfrecord import frame

SPEC = ImageSpec(2, 3, 1)


@st.composite
def records_and_layouts(draw):
    num_classes = draw(st.sampled_from([2, 128, 129, 20_000]))
    record = Record(
        image=draw(st.binary(min_size=6, max_size=6)),
        label=draw(st.integers(0, num_classes - 1)),
        bucket=draw(st.integers(0, 999)),
        key=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=200)),
    )
    room = len(record.key.encode()) + draw(st.integers(0, 300))
    return record, make_layout(SPEC, num_classes=num_classes, longest_key=room)


@given(records_and_layouts())
def test_decoding_undoes_encoding(case):
    record, layout = case
    assert decode_example(encode_example(record, layout), layout) == record


@given(records_and_layouts())
def test_every_record_of_a_data_set_has_one_length_and_its_values_their_places(case):
    record, layout = case
    framed = frame(encode_example(record, layout))
    assert len(framed) == layout.record_bytes
    image = framed[layout.image_offset : layout.image_offset + layout.image_bytes]
    assert image == record.image


@given(records_and_layouts())
def test_tensorflow_reads_what_we_write(case):
    import tensorflow as tf

    record, layout = case
    features = tf.train.Example.FromString(encode_example(record, layout)).features.feature
    assert sorted(features) == ["bucket", "image", "key", "label", "pad"]
    assert features["image"].bytes_list.value == [record.image]
    assert features["label"].int64_list.value == [record.label]
    assert features["bucket"].int64_list.value == [record.bucket]
    assert features["key"].bytes_list.value == [record.key.encode()]


def test_the_bytes_spelled_out():
    """The format itself: a change here is a new SCHEMA_VERSION."""
    layout = make_layout(SPEC, num_classes=2, longest_key=4)
    record = Record(b"abcdef", label=1, bucket=300, key="k/é")
    assert encode_example(record, layout) == bytes.fromhex(
        "0a65"
        "0a13 0a05 696d616765 120a 0a08 0a06 616263646566"  # image: abcdef
        "0a0e 0a05 6c6162656c 1205 1a03 0a01 01"  # label: 1
        "0a10 0a06 6275636b6574 1206 1a04 0a02 ac02"  # bucket: 300
        "0a958000 0a03 6b6579 128c8000 0a888000 0a848000 6b2fc3a9"  # key: k/é
        "0a918000 0a03 706164 12888000 0a848000 0a808000"  # pad: nothing, the key fills the room
    )


def test_what_is_not_ours_is_refused():
    layout = make_layout(SPEC, num_classes=2, longest_key=4)
    data = encode_example(Record(b"abcdef", 1, 300, "k"), layout)
    with pytest.raises(ValueError, match="not laid out"):
        decode_example(data[:-1] + b"\x01", layout)
    with pytest.raises(ValueError, match="does not fit"):
        encode_example(Record(b"abcdef", 1, 300, "longer than four"), layout)

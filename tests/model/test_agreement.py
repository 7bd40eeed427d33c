"""The check of an export: what it counts, what it refuses, and the files it is made on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.agreement import measure_agreement
from model.samples import Sample, sample_files
from pipeline.errors import UsageError, WorkError
from pipeline.schema import ImageSpec

SPEC = ImageSpec(8, 8, 1)


class Otherwise(tf.Module):
    """A graph that gives black images and a score of one half, and refuses long files."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def preprocess(self, image_bytes):
        tf.debugging.assert_less(tf.strings.length(image_bytes), 1000)
        return {"image": tf.zeros([tf.size(image_bytes), 8, 8, 1], tf.uint8)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve(self, image_bytes):
        return {"score": tf.fill([tf.size(image_bytes)], 0.5)}


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("otherwise")
    served = Otherwise()
    signatures = {"serving_default": served.serve, "preprocess": served.preprocess}
    tf.saved_model.save(served, str(folder), signatures=signatures)
    return folder


def gray_png(level: int) -> bytes:
    return tf.io.encode_png(np.full((8, 8, 1), level, np.uint8)).numpy()


@pytest.mark.parametrize(
    ("level", "score", "expected"),
    [
        (1, 0.5099, None),
        (2, 0.5, "pixels of odd.png differ by 2 of 255 gray levels"),
        (0, 0.5101, "score of odd.png is 0.5101 in Keras and 0.5000 in saved_model"),
        (0, float("nan"), "score of odd.png is nan in Keras"),
    ],
)
def test_one_gray_level_and_a_hundredth_are_the_limits(otherwise, level, score, expected):
    files = [Sample(f"{number}.png", gray_png(0), ours=True) for number in range(64)]
    files.append(Sample("odd.png", gray_png(level), ours=True))

    def reference(images: np.ndarray) -> np.ndarray:
        """One half, of the 65th file `score`: it is alone in its batch."""
        return np.full(len(images), score if len(images) == 1 else 0.5)

    def measure():
        return measure_agreement(files, otherwise, spec=SPEC, reference=reference, others={})

    if expected is None:
        found = measure()
        assert (found.files, found.largest_pixel_difference) == (65, 1)
        assert found.mean_pixel_difference == pytest.approx(1 / 65)
        assert found.largest_score_difference == {"saved_model": pytest.approx(0.0099)}
    else:
        with pytest.raises(WorkError, match=expected):
            measure()


def test_files_that_one_side_does_not_take_are_counted(otherwise):
    good = [Sample("good", gray_png(0), ours=False)] * 64
    refused, rejected = (
        Sample("long", gray_png(0) + bytes(1000), ours=False),
        Sample("x", b"x", False),
    )

    def measure(*files: Sample):
        return measure_agreement(
            files, otherwise, spec=SPEC, reference=lambda i: np.full(len(i), 0.5), others={}
        )

    found = measure(*good, refused, rejected)
    assert (found.files, found.refused, found.rejected) == (64, 1, 1)
    with pytest.raises(UsageError, match="received 63"):
        measure(*good[1:], refused, rejected)
    with pytest.raises(WorkError, match="the graph refuses long"):
        measure(*good, refused._replace(ours=True))


def test_the_samples_are_many_different_and_always_the_same():
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 1)).astype(np.uint8)
    files = list(sample_files(images))
    assert len(files) == len({sample.data for sample in files}) >= 64
    assert files == list(sample_files(images))
    assert all(sample.ours for sample in files)
    wide = next(sample_files(np.zeros((1, 8, 4096, 3), np.uint8)))
    assert wide.name == "sample 0 (JPEG 4:2:0, 3000x5)"  # not larger than can be checked quickly

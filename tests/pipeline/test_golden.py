"""A data set that must come out the same, byte for byte, for as long as SCHEMA_VERSION is 1.

If this fails, every data set would be rebuilt otherwise. Where that is meant, raise SCHEMA_VERSION (or
schema.PREPROCESSING, if only pixels differ) and make the golden files anew, in the project's folder:

    python -m beam_jobs.build_records --input tests/golden/images --output tests/golden/tfrecords \
        --image_size 8x12 --shards 2 --max_rejects 1 --overwrite
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.manifest import load_manifest
from pipeline.reader import RecordReader
from tests.conftest import build

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    out = tmp_path_factory.mktemp("golden") / "tfrecords"
    options = ("--image_size", "8x12", "--shards", 2, "--max_rejects", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(GOLDEN.parents[1])  # the manifest names the source as it was written
        assert build("--input", "tests/golden/images", "--output", out, *options) == 0
    return out


def golden_files() -> list[str]:
    return sorted(path.name for path in (GOLDEN / "tfrecords").iterdir() if path.name != ".lock")


def test_every_file_is_there(rebuilt):
    assert sorted(path.name for path in rebuilt.iterdir() if path.name != ".lock") == golden_files()


@pytest.mark.parametrize("name", golden_files())
def test_every_byte_is_the_same(rebuilt, name):
    expected, found = (GOLDEN / "tfrecords" / name).read_bytes(), (rebuilt / name).read_bytes()
    if name == "manifest.json":  # it also tells the versions of this very machine
        expected, found = json.loads(expected), json.loads(found)
        assert expected.pop("versions").keys() == found.pop("versions").keys()
    assert found == expected


def test_the_golden_order_by_name():
    """What the order is, for eyes: from here a reader sees a shuffle of both classes."""
    manifest = load_manifest(GOLDEN / "tfrecords")
    with RecordReader(GOLDEN / "tfrecords", manifest, "train") as reader:
        numbers = np.arange(reader.records)
        assert reader.read_keys(numbers) == [
            "comics/000.jpg",
            "comics/005.jpg",
            "faces/001.jpg",
            "faces/003.jpg",
            "comics/007.gif",
            "comics/002.jpg",
            "faces/006.png",
            "comics/006.png",
            "faces/005.jpg",
            "faces/000.jpg",
            "comics/004.jpg",
            "faces/007.gif",
            "faces/004.jpg",
            "faces/002.jpg",
            "comics/001.jpg",
            "comics/003.jpg",
        ]

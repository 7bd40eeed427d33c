"""Many reads in one call of the system: the same as one by one, also for what cannot be read."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline import scattered
from pipeline.scattered import MOST_AT_ONCE, read_scattered


@pytest.fixture(params=["in one call", "one by one"])
def way(request, monkeypatch):
    if request.param == "one by one":
        monkeypatch.setattr(scattered, "_take_queue", lambda: None)
    elif scattered._take_queue() is None:
        pytest.skip("this system takes reads one by one only")


@pytest.fixture
def files(tmp_path):
    """Two open files: bytes 0, 1, 2, ... and their complements."""
    contents = np.arange(1000, dtype=np.int64).astype(np.uint8)
    paths = tmp_path / "one", tmp_path / "other"
    paths[0].write_bytes(contents.tobytes())
    paths[1].write_bytes((255 - contents).tobytes())
    found = [os.open(path, os.O_RDONLY) for path in paths]
    yield np.array(found)
    for file in found:
        os.close(file)


def test_rows_of_several_arrays_are_filled_one_after_the_other(way, files):
    one, two = np.zeros((3, 4), np.uint8), np.zeros((3, 2), np.uint8)
    found = read_scattered(files[[0, 1, 0]], np.array([10, 0, 255]), [one, two])
    assert found.tolist() == [6, 6, 6]
    assert one.tolist() == [[10, 11, 12, 13], [255, 254, 253, 252], [255, 0, 1, 2]]
    assert two.tolist() == [[14, 15], [251, 250], [3, 4]]


def test_as_many_as_one_call_takes_go_where_they_belong(way, files):
    offsets = np.random.default_rng(0).permutation(MOST_AT_ONCE)
    rows = np.zeros((MOST_AT_ONCE, 3), np.uint8)
    found = read_scattered(np.repeat(files[:1], MOST_AT_ONCE), offsets, [rows])
    assert (found == 3).all()
    assert (rows == (offsets[:, None] + [0, 1, 2]) % 256).all()


def test_what_cannot_be_read_is_told_row_by_row(way, files, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        rows = np.zeros((4, 8), np.uint8)
        descriptors = np.array([files[0], folder, files[1], files[0]])
        found = read_scattered(descriptors, np.array([0, 0, 2000, 996]), [rows])
    finally:
        os.close(folder)
    assert found[0] == 8
    assert found[1] in (-errno.EISDIR, -errno.EINVAL)
    assert found[2:].tolist() == [0, 4]


def test_nothing_is_nothing(way):
    nothing = np.zeros(0, np.int64)
    assert len(read_scattered(nothing, nothing, [np.zeros((0, 5), np.uint8)])) == 0


def test_a_forked_process_reads_on(files):
    rows = np.zeros((1, 2), np.uint8)
    read_scattered(files[:1], np.array([5]), [rows])
    child = os.fork()
    if child == 0:
        rows[:] = 0
        found = read_scattered(files[:1], np.array([7]), [rows])
        os._exit(0 if found.tolist() == [2] and rows.tolist() == [[7, 8]] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read_scattered(files[:1], np.array([5]), [rows]).tolist() == [2]


@pytest.mark.skipif(not Path("/proc/sys/fs/aio-nr").exists(), reason="Linux only")
def test_what_the_system_lent_is_given_back(files):
    def lent():
        return int(Path("/proc/sys/fs/aio-nr").read_text())

    if scattered._take_queue() is None:
        pytest.skip("this system takes reads one by one only")
    scattered._idle.clear()
    gc.collect()
    before = lent()
    read_scattered(files[:1], np.array([0]), [np.zeros((1, 2), np.uint8)])
    for _ in range(20):  # one after the other: one queue is enough
        read_scattered(files[:1], np.array([0]), [np.zeros((1, 2), np.uint8)])
    assert len(scattered._idle) == 1
    scattered._idle.clear()
    gc.collect()
    assert lent() == before

from __future__ import annotations

import os
import pickle
import zipfile

import pytest

from pipeline.errors import ImageRejected, UsageError, WorkError
from pipeline.sources import open_source


def open_it(path):
    """As a worker gets it: pickled."""
    return pickle.loads(pickle.dumps(open_source(str(path), seed=0)))


@pytest.fixture
def folder(tmp_path):
    for key in ("a/1.jpg", "b/deep/2.jpg"):
        (tmp_path / "data" / key).parent.mkdir(parents=True)
        (tmp_path / "data" / key).write_bytes(key.encode())
    (tmp_path / "data/empty").mkdir()
    return tmp_path / "data"


def test_a_folder_lists_its_files_and_its_empty_folders(folder):
    source = open_it(folder)
    assert sorted(source.list()) == [("a/1.jpg", 7), ("b/deep/2.jpg", 12), ("empty/", 0)]
    assert source.read("b/deep/2.jpg") == b"b/deep/2.jpg"


def test_loops_of_links_end(folder):
    (folder / "a/back").symlink_to(folder)
    (folder / "empty/self").symlink_to(folder / "empty")
    keys = [key for key, _ in open_it(folder).list()]
    assert len(keys) == len(set(keys)) == 2


def test_links_out_of_the_folder_are_followed_and_dead_ones_rejected(folder, tmp_path):
    (tmp_path / "outside.jpg").write_bytes(b"out")
    (folder / "a/link.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "a/dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = open_it(folder)
    assert {("a/link.jpg", 3), ("a/dead.jpg", 0)} <= set(source.list())
    assert source.read("a/link.jpg") == b"out"
    with pytest.raises(ImageRejected, match="points nowhere"):
        source.read("a/dead.jpg")


def test_a_name_that_is_not_utf8_is_rejected_and_a_fifo_never_opened(folder):
    os.mkfifo(folder / "a/pipe.jpg")
    with open(os.fsencode(folder / "a") + b"/\xff.jpg", "wb"):
        pass
    source = open_it(folder)
    keys = [key for key, _ in source.list()]
    assert "a/pipe.jpg" not in keys
    assert r"a/\xff.jpg" in keys
    with pytest.raises(ImageRejected, match="not UTF-8"):
        source.read(r"a/\xff.jpg")


def test_a_file_that_vanished_stops_the_build(folder):
    source = open_it(folder)
    (folder / "a/1.jpg").unlink()
    with pytest.raises(WorkError, match="a/1.jpg was listed and is gone"):
        source.read("a/1.jpg")


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as file:
        file.writestr("a/1.jpg", b"stored")
        file.writestr("b/2.jpg", b"deflated" * 100, zipfile.ZIP_DEFLATED)
        file.writestr("empty/", b"")
        file.writestr("../up.jpg", b"up")
        file.writestr("/abs.jpg", b"abs")
    return tmp_path / "data.zip"


def test_a_zip_is_read_member_by_member(archive, tmp_path):
    source = open_it(archive)
    assert dict(source.list())["b/2.jpg"] == 800
    assert source.read("a/1.jpg") == b"stored"
    assert source.read("b/2.jpg") == b"deflated" * 100
    assert list(tmp_path.iterdir()) == [archive]  # nothing was extracted


@pytest.mark.parametrize("key", ["../up.jpg", "/abs.jpg"])
def test_members_that_leave_the_archive_are_rejected(archive, key):
    with pytest.raises(ImageRejected, match="bad-name"):
        open_it(archive).read(key)


def test_a_member_with_a_wrong_crc_is_rejected(archive):
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"stored", b"STORED", 1))
    with pytest.raises(ImageRejected, match="CRC"):
        open_it(archive).read("a/1.jpg")


def test_a_cut_zip_is_refused(archive):
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(WorkError, match="no whole zip"):
        list(open_it(archive).list())


@pytest.mark.parametrize("uri", ["nowhere", "s3://bucket/folder", "sample:3", __file__])
def test_an_input_that_we_cannot_read_is_refused(uri):
    with pytest.raises(UsageError, match="--input"):
        open_source(uri, seed=0)

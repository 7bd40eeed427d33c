from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import ImageRejected, UsageError, WorkError
from pipeline.listing import list_images
from pipeline.sources import archive as archive_module
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


def zip_of(path, *members, **options):
    with zipfile.ZipFile(path, "w", **options) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate names are meant
        for name, data in members:
            file.writestr(name, data)
    return path


def test_an_encrypted_member_is_rejected(archive):
    """The flag is set by hand in both headers: that is all that tells."""
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(ImageRejected, match="password"):
        open_it(archive).read("a/1.jpg")


def test_a_name_that_stands_twice_counts_once(tmp_path):
    source = open_it(zip_of(tmp_path / "a.zip", ("a/1.jpg", b"old"), ("a/1.jpg", b"new")))
    assert [key for key, _ in source.list()] == ["a/1.jpg", "a/1.jpg"]  # the listing counts it
    assert source.read("a/1.jpg") == b"new"  # as unzip would leave it


def test_a_zip_in_a_zip_is_no_image_and_never_opened(tmp_path):
    inner = zip_of(tmp_path / "inner.zip", ("a/1.jpg", b"1")).read_bytes()
    members = (("a/1.jpg", b"1"), ("b/1.jpg", b"1"), ("b/inner.zip", inner))
    source = open_it(zip_of(tmp_path / "outer.zip", *members))
    found = list_images(source.list(), uri="outer.zip", classes=None)
    assert found.ignored == {".zip": 1}
    assert len(found.items) == 2


def test_names_in_odd_encodings_are_read(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("é/名前.jpg", b"utf-8"), ("a/caf?.jpg", b"cp437"))
    path.write_bytes(path.read_bytes().replace(b"caf?", b"caf\x82"))  # é in DOS's code page
    source = open_it(path)
    assert source.read("é/名前.jpg") == b"utf-8"
    assert source.read("a/café.jpg") == b"cp437"


def test_a_member_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_FILE_BYTES", 1000)
    bomb = zip_of(tmp_path / "a.zip", ("a/1.jpg", bytes(1001)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ImageRejected, match="too-large"):
        open_it(bomb).read("a/1.jpg")


def test_a_size_that_the_header_belies_is_rejected(tmp_path):
    """The directory says 5 bytes, the member unpacks to a megabyte."""
    path = zip_of(
        tmp_path / "a.zip", ("a/1.jpg", bytes(1_000_000)), compression=zipfile.ZIP_DEFLATED
    )
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (5).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageRejected, match="damaged in the zip"):
        open_it(path).read("a/1.jpg")


def test_zip64_with_100_000_members_is_read(tmp_path):
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", allowZip64=True) as file:
        for number in range(100_000):
            file.writestr(f"{'ab'[number % 2]}/{number}.jpg", b"%d" % number)
    source = open_it(path)
    found = list_images(source.list(), uri="large.zip", classes=None)
    assert len(found.items) == 100_000
    assert source.read("b/99999.jpg") == b"99999"
    assert source.read("a/0.jpg") == b"0"


def test_many_threads_may_read_one_archive(tmp_path):
    members = [(f"a/{number}.jpg", os.urandom(3000)) for number in range(200)]
    source = open_it(zip_of(tmp_path / "a.zip", *members, compression=zipfile.ZIP_DEFLATED))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.read, (name for name, _ in members)))
    assert found == [data for _, data in members]

"""Verifying names all damage; repairing makes the same bytes again and touches nothing else."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import verify as verify_module
from pipeline.example import decode_example, encode_example
from pipeline.files import file_sha256
from pipeline.manifest import load_manifest
from pipeline.publish import find_shards, locked_output
from pipeline.sources.folder import FolderSource
from pipeline.tfrecord import FOOTER_BYTES, HEADER_BYTES, frame, masked_crc
from pipeline.verify import main, verify_records, verify_shard
from tests.conftest import jpeg

NAME = "train-00003-of-00016.tfrecord"
OTHER = "test-00001-of-00004.tfrecord"


@pytest.fixture
def damaged(records, tmp_path):
    """A copy of `records`, to be damaged."""
    return shutil.copytree(records, tmp_path / "damaged")


def verify(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def shard_of(folder: Path, name: str = NAME):
    manifest = load_manifest(folder)
    return next(s for split in manifest.splits.values() for s in split.shards if s.file == name)


def stride(folder: Path) -> int:
    return load_manifest(folder).layout.record_bytes


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def rewrite(folder: Path, index: int, change, name: str = NAME) -> None:
    """Put `change(record)` in the place of a record, laid out and checksummed as it should be."""
    layout = load_manifest(folder).layout
    begin, end = index * layout.record_bytes, (index + 1) * layout.record_bytes
    data = (folder / name).read_bytes()
    record = decode_example(data[begin + HEADER_BYTES : end - FOOTER_BYTES], layout)
    framed = frame(encode_example(change(record), layout))
    assert len(framed) == end - begin
    (folder / name).write_bytes(data[:begin] + framed + data[end:])


def edit_manifest(folder: Path, change) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def findings(folder: Path, capsys) -> list[str]:
    """What a run that finds damage says on standard error, line by line."""
    assert verify(folder) == 1
    captured = capsys.readouterr()
    assert "all good" not in captured.out
    return captured.err.splitlines()


def test_a_good_data_set_is_good(records, capsys):
    before = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert verify(records) == 0
    captured = capsys.readouterr()
    megabytes = sum(path.stat().st_size for path in find_shards(records)) / 1e6
    assert captured.out == f"20 shards, 240 records, {megabytes:.1f} MB: all good\n"
    assert captured.err == ""
    assert before == {path: path.stat().st_mtime_ns for path in records.iterdir()}


@pytest.mark.parametrize(
    ("offset", "what"),
    [
        (0, "the length does not match its checksum"),  # the length
        (8, "the length does not match its checksum"),  # its checksum
        (HEADER_BYTES, "the data do not match their checksum"),  # the first byte of the data
        (500, "the data do not match their checksum"),  # a pixel
        (-1, "the data do not match their checksum"),  # the checksum of the data
    ],
)
def test_a_flipped_bit_is_named_by_file_and_record(damaged, capsys, offset, what):
    flip(damaged / NAME, 2 * stride(damaged) + offset % stride(damaged))
    assert findings(damaged, capsys) == [f"{NAME}: record 2: {what}"]


def test_the_summary_says_what_to_do(damaged, image_folder, capsys):
    flip(damaged / NAME, 500)
    (damaged / OTHER).unlink()
    assert verify(damaged) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"2 of 20 shards damaged: {NAME}, {OTHER}",
        f"rebuild only them: python -m pipeline.verify {damaged} --repair --input {image_folder}",
    ]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@given(place=st.integers(0, 2**32), bit=st.integers(0, 7))
def test_no_flipped_bit_is_overlooked(records, scratch, place, bit):
    manifest, shard = load_manifest(records), shard_of(records)
    shutil.copy(records / NAME, scratch / NAME)
    flip(scratch / NAME, place % shard.bytes, bit)
    (found,) = verify_shard(scratch, shard, manifest, advance=lambda count: None)
    number = place % shard.bytes // manifest.layout.record_bytes
    assert (found.file, found.records) == (NAME, (number, number))


def test_all_damage_of_a_shard_is_named_and_neighbours_alike_share_a_line(damaged, capsys):
    for record in (1, 4, 5, 6):
        flip(damaged / NAME, record * stride(damaged) + 500)
    flip(damaged / NAME, 8 * stride(damaged) + 2)
    flip(damaged / NAME, 8 * stride(damaged) + 500)
    length, data = (
        "the length does not match its checksum",
        "the data do not match their checksum",
    )
    assert findings(damaged, capsys) == [
        f"{NAME}: record 1: {data}",
        f"{NAME}: records 4-6: {data}",
        f"{NAME}: record 8: {length}; {data}",
    ]


@pytest.mark.parametrize("buffer_bytes", [1, 5000])
def test_findings_do_not_depend_on_the_size_of_blocks(damaged, monkeypatch, buffer_bytes):
    for offset in (500, 3 * stride(damaged), 4 * stride(damaged) + 500):
        flip(damaged / NAME, offset)
    (damaged / OTHER).write_bytes((damaged / OTHER).read_bytes()[:-700])
    manifest = load_manifest(damaged)
    in_one_block = verify_records(damaged, manifest)
    monkeypatch.setattr(verify_module, "BUFFER_BYTES", buffer_bytes)
    assert verify_records(damaged, manifest) == in_one_block
    assert len(in_one_block) == 4


def test_a_length_that_is_not_the_layouts_is_found_though_its_checksum_is_right(damaged, capsys):
    data = bytearray((damaged / NAME).read_bytes())
    length = struct.pack("<Q", 77)
    data[:HEADER_BYTES] = length + struct.pack("<I", masked_crc(length))
    (damaged / NAME).write_bytes(data)
    right = stride(damaged) - HEADER_BYTES - FOOTER_BYTES
    assert findings(damaged, capsys) == [
        f"{NAME}: record 0: the length is 77, the layout says {right:,}"
    ]


@pytest.mark.parametrize(
    ("kept", "first_lost"),
    [(2.5, 2), (3, 3), (0.001, 0), (0, 0)],  # in records
)
def test_a_truncated_file_names_the_records_that_are_lost(damaged, capsys, kept, first_lost):
    shard, size = shard_of(damaged), round(kept * stride(damaged))
    (damaged / NAME).write_bytes((damaged / NAME).read_bytes()[:size])
    assert findings(damaged, capsys) == [
        f"{NAME}: records {first_lost}-{shard.records - 1}: missing: "
        f"the file has {size:,} bytes, the manifest says {shard.bytes:,}"
    ]


def test_bytes_after_the_last_record_are_found(damaged, capsys):
    shard = shard_of(damaged)
    with open(damaged / NAME, "ab") as file:
        file.write(b"extra")
    assert findings(damaged, capsys) == [
        f"{NAME}: more than {shard.records} records: "
        f"the file has {shard.bytes + 5:,} bytes, the manifest says {shard.bytes:,}"
    ]


def test_a_sound_record_too_many_is_found(damaged, capsys):
    data = (damaged / NAME).read_bytes()
    (damaged / NAME).write_bytes(data + data[: stride(damaged)])
    lines = findings(damaged, capsys)
    assert lines[0].startswith(f"{NAME}: more than {shard_of(damaged).records} records")
    assert lines[1].startswith(f"{NAME}: records per class: ")


def test_a_missing_shard_and_a_folder_in_its_place_are_found(damaged, capsys):
    (damaged / NAME).unlink()
    (damaged / OTHER).unlink()
    (damaged / OTHER).mkdir()
    assert findings(damaged, capsys) == [f"{NAME}: is missing", f"{OTHER}: is no file"]


def test_a_label_out_of_range_is_named_with_its_key_which_cannot_steer_a_terminal(damaged, capsys):
    rewrite(damaged, 1, lambda record: replace(record, label=7, key="faces/\x1b[2J"))
    assert findings(damaged, capsys) == [
        f"{NAME}: record 1: faces/\\x1b[2J has label 7 of 2 classes"
    ]


def test_a_label_of_another_class_is_found_by_the_count(damaged, capsys):
    rewrite(damaged, 1, lambda record: replace(record, label=1 - record.label))
    (line,) = findings(damaged, capsys)
    faces, comics = shard_of(damaged).records_per_class
    counts = {f"{faces + d} faces (manifest: {faces}), {comics - d} comics (manifest: {comics})"
              for d in (1, -1)}  # fmt: skip
    assert line.removeprefix(f"{NAME}: records per class: ") in counts


def test_a_record_laid_out_otherwise_is_found(damaged, capsys):
    data = bytearray((damaged / NAME).read_bytes()[: stride(damaged)])
    data[-FOOTER_BYTES - 1] = 7  # the padding is zeros, its length is below that
    data[:] = frame(bytes(data[HEADER_BYTES:-FOOTER_BYTES]))
    whole = (damaged / NAME).read_bytes()
    (damaged / NAME).write_bytes(bytes(data) + whole[stride(damaged) :])
    assert findings(damaged, capsys) == [
        f"{NAME}: record 0: it is not laid out as the manifest says"
    ]


def test_another_pixel_under_a_right_checksum_is_found_by_the_sha256(damaged, capsys):
    rewrite(damaged, 0, lambda record: replace(record, image=bytes(len(record.image))))
    (line,) = findings(damaged, capsys)
    assert line.startswith(f"{NAME}: every record is sound, and they are not those that the build")
    assert file_sha256(damaged / NAME) in line
    assert shard_of(damaged).sha256 in line


def test_swapped_shards_are_both_named(damaged, capsys):
    first, second = damaged / NAME, damaged / OTHER
    first.rename(damaged / "aside")
    second.rename(first)
    (damaged / "aside").rename(second)
    assert {line.split(":")[0] for line in findings(damaged, capsys)} == {NAME, OTHER}


def test_a_stray_shard_is_named_and_left_alone_by_repair_too(damaged, capsys):
    stray = damaged / "train-00000-of-00099.tfrecord"
    stray.write_bytes(b"somebody's")
    line = f"{stray.name}: is named like a shard, and the manifest has none of it"
    assert findings(damaged, capsys) == [line]
    assert verify(damaged, "--repair") == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [line]
    assert "shards damaged" not in captured.out
    assert stray.read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    ("field", "wrong"), [("records", 5), ("bytes", 5), ("records_per_class", {"faces": 1})]
)
def test_a_sum_of_the_manifest_that_is_none_is_found(damaged, capsys, field, wrong):
    edit_manifest(damaged, lambda values: values["splits"]["train"].update({field: wrong}))
    (line,) = findings(damaged, capsys)
    assert line.startswith(f"manifest.json: train: {field} is {wrong}, its shards sum up to")


@pytest.mark.parametrize("field", ["records", "bytes"])
def test_a_count_that_a_good_file_belies_is_laid_to_the_manifest(damaged, capsys, field):
    def count_one_more(values):
        values["splits"]["train"]["shards"][3][field] += 1
        values["splits"]["train"][field] += 1

    edit_manifest(damaged, count_one_more)
    (line,) = findings(damaged, capsys)
    assert line.startswith(f"manifest.json: wrong about a good file: {NAME}: ")
    assert verify(damaged, "--repair") == 1
    assert "manifest.json is damaged" in capsys.readouterr().out


def test_classes_that_a_good_file_belies_are_laid_to_the_manifest(damaged, capsys):
    def one_face_less(values):
        values["splits"]["train"]["shards"][3]["records_per_class"][0] += 1
        values["splits"]["train"]["records_per_class"]["faces"] += 1

    edit_manifest(damaged, one_face_less)
    (line,) = findings(damaged, capsys)
    assert line.startswith(f"manifest.json: wrong about a good file: {NAME}: records per class")


def test_progress_is_told_every_byte(records):
    told: list[int] = []
    shard = shard_of(records)
    assert verify_shard(records, shard, load_manifest(records), advance=told.append) == []
    assert sum(told) == shard.bytes


def unbuilt(folder):
    (folder / "manifest.json").unlink()


def from_the_future(folder):
    edit_manifest(folder, lambda values: values.update(schema_version=99))


def with_another_layout(folder):
    edit_manifest(folder, lambda values: values["layout"].update(record_bytes=100))


def with_another_image(folder):
    edit_manifest(folder, lambda values: values["image"].update(height=31))


def without_a_split(folder):
    edit_manifest(folder, lambda values: values["splits"].pop("test"))


@pytest.mark.parametrize("repair", [(), ("--repair",)], ids=["verify", "repair"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unbuilt, "no finished data set"),
        (from_the_future, "schema version 99"),
        (with_another_layout, "do not go together"),
        (with_another_image, "do not go together"),
        (without_a_split, "do not go together"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_bad_usage(damaged, capsys, change, message, repair):
    change(damaged)
    assert verify(damaged, *repair) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no finished data set"),
        (["{}", "--reapir"], "did you mean --repair?"),
        (["{}", "--input", "here"], "goes with --repair"),
    ],
)
def test_a_mistake_gets_one_clear_line(records, capsys, arguments, message):
    assert verify(*(argument.replace("{}", str(records)) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_repair_makes_no_folder_where_there_is_no_data_set(tmp_path):
    assert verify(tmp_path / "nowhere", "--repair") == 2
    assert list(tmp_path.iterdir()) == []


def test_neither_verify_nor_repair_loads_tensorflow(damaged):
    (damaged / NAME).unlink()
    script = (
        "import sys; from pipeline.verify import main; status = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras', 'apache_beam'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}')"
    )
    command = [sys.executable, "-c", script, str(damaged), "--repair"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines() == [f"{NAME}: is missing", "0 set()"]


def states(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in folder.iterdir() if path.name != ".lock"}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def test_repair_restores_the_same_bytes_and_touches_nothing_else(
    records, damaged, monkeypatch, capsys
):
    flip(damaged / NAME, 500)
    (damaged / OTHER).unlink()
    before = states(damaged)
    opened: list[str] = []
    read = FolderSource.read
    monkeypatch.setattr(
        FolderSource, "read", lambda self, key: opened.append(key) or read(self, key)
    )
    assert verify(damaged, "--repair") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"{NAME}: record 0: the data do not match their checksum",
        f"{OTHER}: is missing",
    ]
    assert captured.out.splitlines()[-1].endswith("all good")
    assert {p.name: p.read_bytes() for p in records.iterdir()} == {
        p.name: p.read_bytes() for p in damaged.iterdir()
    }
    after = states(damaged)
    assert {name for name in after if after[name] != before.get(name)} == {NAME, OTHER}
    assert len(opened) == shard_of(records).records + shard_of(records, OTHER).records
    assert verify(damaged) == 0


def test_repair_of_a_good_data_set_opens_no_input(damaged, capsys):
    before = states(damaged)
    assert verify(damaged, "--repair", "--input", "nowhere") == 0
    assert "all good" in capsys.readouterr().out
    assert states(damaged) == before


def add_an_image(folder):
    (folder / "faces/900.jpg").write_bytes(jpeg(900))


def lose_an_image(folder):
    (folder / "comics/017.jpg").unlink()


@pytest.mark.parametrize("change", [add_an_image, lose_an_image])
def test_repair_refuses_an_input_that_the_data_set_was_not_built_from(
    damaged, image_folder, tmp_path, capsys, change
):
    other = shutil.copytree(image_folder, tmp_path / "other")
    change(other)
    flip(damaged / NAME, 500)
    before = states(damaged)
    assert verify(damaged, "--repair", "--input", other) == 2
    finding, error = capsys.readouterr().err.splitlines()
    assert finding.startswith(NAME)
    assert error.startswith(f"error: --input: {other} is not what {damaged} was built from")
    assert {name: state for name, state in states(damaged).items() if name in before} == before


def first_key(folder: Path, name: str) -> str:
    layout = load_manifest(folder).layout
    data = (folder / name).read_bytes()[HEADER_BYTES : layout.record_bytes - FOOTER_BYTES]
    return decode_example(data, layout).key


def test_an_image_changed_within_keeps_its_shard_out_and_the_others_are_repaired(
    records, damaged, image_folder, tmp_path, capsys
):
    other = shutil.copytree(image_folder, tmp_path / "other")
    changed = other / first_key(records, NAME)
    size = changed.stat().st_size
    changed.write_bytes(jpeg(0, size=(8, 8)).ljust(size, b"\0"))
    assert changed.stat().st_size == size
    for name in (NAME, OTHER):
        (damaged / name).unlink()
    assert verify(damaged, "--repair", "--input", other) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"in place: {NAME}; either a file of {other} has changed" in error
    assert not (damaged / NAME).exists()
    assert (damaged / OTHER).read_bytes() == (records / OTHER).read_bytes()
    assert verify(damaged, "--repair", "--input", image_folder) == 0  # the bad try is forgotten
    assert (damaged / NAME).read_bytes() == (records / NAME).read_bytes()


def test_repair_waits_for_no_build(damaged, capsys):
    (damaged / NAME).unlink()
    with locked_output(damaged):
        assert verify(damaged, "--repair") == 2
        assert "another build is writing" in capsys.readouterr().err
        assert verify(damaged) == 1  # reading does not ask for the lock


def test_a_shard_under_a_name_that_no_build_gives_is_not_repaired(damaged, capsys):
    def rename(values):
        values["splits"]["train"]["shards"][3]["file"] = "../elsewhere"

    edit_manifest(damaged, rename)
    assert verify(damaged, "--repair") == 2
    assert "no build names a shard ../elsewhere" in capsys.readouterr().err
    assert not (damaged.parent / "elsewhere").exists()

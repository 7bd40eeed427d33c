"""The build job as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import WorkError
from pipeline.files import file_sha256
from pipeline.manifest import load_manifest
from pipeline.publish import find_shards, locked_output
from pipeline.sources.folder import FolderSource
from tests.conftest import build, write_pairs

SIZE = ("--image_size", "32x40", "--classes", "faces,comics")


def shards(folder: Path) -> dict[str, str]:
    """sha256 by file, as the manifest has them and as the files are."""
    manifest = load_manifest(folder)
    known = {s.file: s.sha256 for split in manifest.splits.values() for s in split.shards}
    assert known == {p.name: file_sha256(p) for p in find_shards(folder)}
    return known


JOB = (sys.executable, "-m", "beam_jobs.build_records")


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(map(str, command), check=False, capture_output=True, text=True)


def test_a_data_set_is_complete_and_nothing_else_is_left(records):
    assert len(shards(records)) == 20
    others = {path.name for path in records.iterdir()} - set(shards(records))
    assert others == {
        *("manifest.json", "dataset_info.json", "features.json", "label.labels.txt"),
        *("rejects.jsonl", "duplicates.jsonl", ".lock"),
    }
    manifest = load_manifest(records)
    assert manifest.classes == ("faces", "comics")
    assert sum(split.records for split in manifest.splits.values()) == 240
    for split in manifest.splits.values():
        assert split.records_per_class[0] == split.records_per_class[1]  # pairs stay together
        assert 0 < split.pixel_std < split.pixel_mean < 255


@pytest.fixture(scope="module")
def image_zip(image_folder, tmp_path_factory):
    """`image_folder` as a zip."""
    return shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "a"), "zip", image_folder)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_every_shard_is_the_same_with_any_workers_in_any_mode(
    request, records, tmp_path, mode, workers
):
    source = request.getfixturevalue("image_zip" if workers == 2 else "image_folder")
    options = ("--direct_running_mode", mode, "--direct_num_workers", workers)
    assert build("--input", source, "--output", tmp_path / "out", *SIZE, *options) == 0
    assert shards(tmp_path / "out") == shards(records)


def test_every_shard_is_the_same_in_whatever_order_files_are_listed(
    image_folder, records, tmp_path, monkeypatch
):
    listed = FolderSource.list
    monkeypatch.setattr(FolderSource, "list", lambda self: reversed(list(listed(self))))
    assert build("--input", image_folder, "--output", tmp_path / "out", *SIZE) == 0
    assert shards(tmp_path / "out") == shards(records)


def test_another_seed_gives_other_shards(image_folder, records, tmp_path):
    assert build("--input", image_folder, "--output", tmp_path / "out", *SIZE, "--seed", 1) == 0
    assert not set(shards(tmp_path / "out").values()) & set(shards(records).values())


def test_the_job_never_loads_tensorflow(image_folder, tmp_path):
    script = (
        "import sys; from beam_jobs.build_records import main; status = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras'} & set(sys.modules); sys.exit(f'{status} {heavy}')"
    )
    arguments = ("--input", image_folder, "--output", tmp_path / "out", *SIZE)
    done = run(sys.executable, "-c", script, *arguments)
    assert done.stderr.splitlines()[-1] == "0 set()"


def test_the_screen_holds_the_summary_and_nothing_else(image_folder, tmp_path):
    done = run(*JOB, "--input", image_folder, "--output", tmp_path / "out", *SIZE)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["split", "faces", "comics", "records", "shards", "MB"]
    manifest = load_manifest(tmp_path / "out")
    train = manifest.splits["train"]
    assert lines[1][:5] == ["train", *map(str, (*train.records_per_class, train.records, 16))]


def test_a_second_run_finds_the_work_done(image_folder, records, capsys):
    before = {path: path.stat().st_mtime_ns for path in records.iterdir() if path.name != ".lock"}
    assert build("--input", image_folder, "--output", records, *SIZE) == 0
    assert "already complete" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    "change", [("--seed", 1), ("--image_size", "40x32"), ("--shards", 3), ("--test_fraction", 0.3)]
)
def test_another_build_is_refused_and_the_old_one_stays(image_folder, records, capsys, change):
    before = shards(records)
    assert build("--input", image_folder, "--output", records, *SIZE, *change) == 2
    assert "holds another build" in capsys.readouterr().err
    assert shards(records) == before


def test_overwrite_publishes_the_new_build_and_only_when_it_is_complete(
    records, blemished, tmp_path, capsys
):
    output = shutil.copytree(records, tmp_path / "out")
    other = ("--input", blemished, "--output", output, *SIZE, "--overwrite")
    assert build(*other, "--max_rejects", 0) == 1
    assert "2 of 60 images were refused" in capsys.readouterr().err
    assert shards(output) == shards(records)
    assert build(*other, "--max_rejects", 2, "--shards", 3) == 0
    assert len(shards(output)) == 4
    assert not (output / ".building").exists()


def test_records_of_somebody_else_are_not_replaced(image_folder, tmp_path, capsys):
    (tmp_path / "train-00000-of-00001.tfrecord").write_bytes(b"precious")
    assert build("--input", image_folder, "--output", tmp_path, *SIZE) == 2
    assert "not ours to replace" in capsys.readouterr().err
    assert (tmp_path / "train-00000-of-00001.tfrecord").read_bytes() == b"precious"


def test_a_build_killed_in_the_middle_is_finished_by_the_same_command(tmp_path):
    arguments = ("--input", "sample:120", "--image_size", "32x40", "--output")
    assert run(*JOB, *arguments, tmp_path / "whole").returncode == 0
    output = tmp_path / "killed"
    job = subprocess.Popen([*JOB, *arguments, str(output)], start_new_session=True)
    while not list(output.glob(".building/*/*.tfrecord.json")):
        time.sleep(0.02)
        assert job.poll() is None, "the build ended before it could be killed"
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (output / "manifest.json").exists()
    done = run(*JOB, *arguments, output)
    assert "shards kept from an unfinished run" in done.stdout
    assert shards(output) == shards(tmp_path / "whole")
    assert (output / "manifest.json").read_bytes() == (
        tmp_path / "whole/manifest.json"
    ).read_bytes()


def test_two_builds_into_one_output_do_not_mix(image_folder, tmp_path, capsys):
    with locked_output(tmp_path / "out"):
        assert build("--input", image_folder, "--output", tmp_path / "out", *SIZE) == 2
    assert "another build is writing" in capsys.readouterr().err


@pytest.fixture
def blemished(tmp_path):
    """60 images, two of them broken."""
    folder = write_pairs(tmp_path / "images", 30)
    (folder / "faces/003.jpg").write_bytes(b"")
    (folder / "comics/007.jpg").write_bytes((folder / "comics/007.jpg").read_bytes()[:-300])
    return folder


def test_bad_images_are_set_aside_and_the_good_ones_keep_their_places(
    blemished, tmp_path, image_folder
):
    out = tmp_path / "out"
    assert build("--input", blemished, "--output", out, *SIZE, "--max_rejects", 2) == 0
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == [
        ("comics/007.jpg", "truncated"),
        ("faces/003.jpg", "zero-bytes"),
    ]
    assert load_manifest(out).rejects == {"truncated": 1, "zero-bytes": 1}
    whole = write_pairs(tmp_path / "whole", 30)
    assert build("--input", whole, "--output", tmp_path / "all", *SIZE) == 0
    bad = {"comics/007.jpg", "faces/003.jpg"}
    assert keys_in_order(out) == [k for k in keys_in_order(tmp_path / "all") if k not in bad]


def test_what_decoders_say_of_broken_files_does_not_reach_the_screen(shared, tmp_path):
    """libtiff writes to standard error by itself, past everything that Python could catch."""
    folder = write_pairs(tmp_path / "images", 30)
    shutil.copy(next((shared / "odd").glob("Pillow__crash-*.tif")), folder / "faces")
    done = run(*JOB, "--input", folder, "--output", tmp_path / "out", *SIZE, "--max_rejects", 1)
    assert done.returncode == 0
    assert "1 unreadable" in done.stdout
    assert done.stderr == ""


def keys_in_order(folder: Path) -> list[str]:
    import numpy as np

    from pipeline.reader import RecordReader

    keys = []
    for split in ("train", "test"):
        with RecordReader(folder, load_manifest(folder), split) as reader:
            keys += reader.read_keys(np.arange(reader.records))
    return keys


def test_too_many_bad_images_fail_the_build_with_nothing_published(blemished, tmp_path, capsys):
    out = tmp_path / "out"
    assert build("--input", blemished, "--output", out, *SIZE, "--max_rejects", "3%") == 1
    error = capsys.readouterr().err
    assert "2 of 60 images were refused, --max_rejects allows 1: 1 truncated, 1 zero-bytes" in error
    assert "comics/007.jpg, faces/003.jpg" in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == []
    shutil.copy(blemished / "comics/008.jpg", blemished / "comics/007.jpg")  # mended
    assert build("--input", blemished, "--output", out, *SIZE, "--max_rejects", "3%") == 0


def test_the_same_picture_in_two_classes_or_two_splits_is_told(tmp_path, capsys):
    folder = write_pairs(tmp_path / "images", 30)
    shutil.copy(folder / "faces/001.jpg", folder / "comics/001.jpg")  # a wrong label
    for number in range(40):  # one picture under many names: it falls into both splits
        shutil.copy(folder / "faces/002.jpg", folder / f"faces/copy{number}.jpg")
    out = tmp_path / "out"
    assert build("--input", folder, "--output", out, *SIZE) == 0
    assert load_manifest(out).duplicates == {"over_classes": 1, "over_splits": 1}
    lines = [json.loads(line) for line in (out / "duplicates.jsonl").read_text().splitlines()]
    twins, copies = sorted(lines, key=lambda line: len(line["records"]))
    assert [(r["key"], r["class"]) for r in twins["records"]] == [
        ("comics/001.jpg", "comics"),
        ("faces/001.jpg", "faces"),
    ]
    assert (twins["over_classes"], twins["over_splits"]) == (True, False)
    assert len(copies["records"]) == 41
    assert {record["split"] for record in copies["records"]} == {"train", "test"}
    screen = capsys.readouterr().out
    assert "WARNING   1 pictures stand in several classes" in screen
    assert "WARNING   1 pictures stand in several splits" in screen


def test_an_input_that_changes_during_the_build_stops_it(image_folder, tmp_path, capsys):
    folder = shutil.copytree(image_folder, tmp_path / "images")

    def list_and_lose(self):
        yield from listed(self)
        (folder / "faces/005.jpg").unlink()

    listed = FolderSource.list
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderSource, "list", list_and_lose)
        assert build("--input", folder, "--output", tmp_path / "out", *SIZE) == 1
    assert "faces/005.jpg was listed and is gone" in capsys.readouterr().err
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--input", "{}/nowhere"], 2, "found nothing there"),
        (["--input", "{}/images/faces"], 2, "no class folders"),
        (["--input", "{}/one"], 2, "at least two classes, received 1: faces"),
        (["--input", "{}/hollow"], 2, "class folder comics"),
        (["--input", "{}/images", "--classes", "faces,comic"], 2, "did you mean comics?"),
        (["--input", "{}/images", "--image_size", "0x5"], 2, "received 0x5"),
        (["--input", "{}/images", "--image_size", "5"], 2, "received '5'"),
        (["--input", "{}/images", "--channels", "2"], 2, "received 2"),
        (["--input", "{}/images", "--test_fraction", "1"], 2, "received 1.0"),
        (["--input", "{}/images", "--shards", "0"], 2, "received 0"),
        (["--input", "{}/images", "--max_rejects", "many"], 2, "received 'many'"),
        (["--input", "{}/images", "--imgae_size", "5x5"], 2, "did you mean --image_size?"),
        (
            ["--input", "{}/images", "--direct_num_worker", "2"],
            2,
            "did you mean --direct_num_workers",
        ),
        (["--input", "{}/images", "--runner", "DirectRuner"], 2, "none of DirectRunner"),
        (["--input", "{}/images", "--output", "{}/a_file"], 2, "is a file"),
        (["--input", "{}/images", "--output", "gs://bucket/folder"], 2, "bucket"),
        (["--input", "{}/images", "--output", "/proc/nowhere"], 1, "/proc/nowhere"),
        (["--input", "sample:7"], 2, "even number"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_mistake_gets_one_clear_line(tmp_path, capsys, arguments, status, message):
    write_pairs(tmp_path / "images", 3)
    write_pairs(tmp_path / "one", 3)
    shutil.rmtree(tmp_path / "one/comics")
    shutil.copytree(tmp_path / "one", tmp_path / "hollow")
    (tmp_path / "hollow/comics").mkdir()
    (tmp_path / "a_file").touch()
    filled = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    assert build("--output", tmp_path / "out", *filled) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_auto_without_kaggle_falls_back_on_the_sample_and_says_so(tmp_path, monkeypatch, capsys):
    """KAGGLE_API_ENVIRONMENT=TEST sends the real client to a port where nobody listens."""
    for name, value in {"KAGGLE_API_ENVIRONMENT": "TEST", "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    import beam_jobs.build_records as job

    monkeypatch.setattr(job, "FALLBACK_SAMPLE", "sample:20")
    assert build("--output", tmp_path / "out", "--image_size", "32x40") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("NOTICE: --input auto could not have kaggle:defileroff/")
    assert "synthetic" in captured.out
    manifest = load_manifest(tmp_path / "out")
    assert manifest.classes == ("faces", "comics")
    assert "synthetic" in manifest.source["notice"]


def test_auto_on_another_runner_does_not_fall_back(tmp_path, monkeypatch, capsys):
    for name, value in {"KAGGLE_API_ENVIRONMENT": "TEST", "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert build("--runner", "FlinkRunner", "--output", tmp_path / "out") == 2
    assert "FlinkRunner does not fall back" in capsys.readouterr().err


def test_real_faces_and_drawings_of_them(shared, tmp_path):
    assert build("--input", shared / "images", "--output", tmp_path / "out") == 0
    manifest = load_manifest(tmp_path / "out")
    assert sum(split.records for split in manifest.splits.values()) == 200
    assert manifest.rejects == {}
    assert str(manifest.image) == "150x150x1"


def test_a_lost_worker_error_keeps_its_line():
    """What a worker raises arrives as text; its line is found in it."""
    from pipeline.errors import find_user_error

    text = "Traceback ...\n  File x\npipeline.errors.WorkError: disk full [while running 'W']\n"
    assert str(find_user_error(RuntimeError(text))) == str(
        WorkError("disk full [while running 'W']")
    )

"""Builds that are killed, or that run out of disk, lose nothing and publish nothing half."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.files import file_sha256
from pipeline.manifest import load_manifest
from pipeline.publish import find_shards
from tests.beam_jobs.ending import contents, killed_at_rename, published_twice
from tests.conftest import build, write_pairs

SIZE = ("--image_size", "32x40", "--classes", "faces,comics", "--shards", "6")
JOB = (sys.executable, "-m", "beam_jobs.build_records")
KILL_AT_RENAME = killed_at_rename("beam_jobs.build_records")
PUBLISH_TWICE = published_twice(
    "beam_jobs.build_records", steps="beam_jobs.transforms", publish="publish"
)


def assert_whole_or_none(folder: Path) -> None:
    """What a reader may find: a manifest with all its shards as they should be, or no manifest."""
    if (folder / "manifest.json").exists():
        manifest = load_manifest(folder)
        for split in manifest.splits.values():
            for shard in split.shards:
                assert file_sha256(folder / shard.file) == shard.sha256


@pytest.fixture(scope="module")
def two_builds(tmp_path_factory):
    """Two folders of images, and what an uninterrupted build makes of each."""
    root = tmp_path_factory.mktemp("two")
    made = []
    for name, pairs in (("old", 20), ("new", 40)):
        folder = write_pairs(root / name, pairs)
        (folder / "faces/005.jpg").write_bytes(b"")  # one reject each
        options = ("--max_rejects", 1, *SIZE)
        assert build("--input", folder, "--output", root / f"{name}-built", *options) == 0
        made.append((folder, contents(root / f"{name}-built")))
    return made


def test_a_worker_that_was_given_up_takes_nothing_away_that_its_successor_published(
    two_builds, tmp_path
):
    """Two attempts at the last step: the second is cut off at its first rename."""
    _, (new, expected) = two_builds
    arguments = ("--input", new, "--output", tmp_path / "out", "--max_rejects", 1, *SIZE)
    command = (sys.executable, "-c", PUBLISH_TWICE, *arguments)
    done = subprocess.run([str(part) for part in command], check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path / "out") == expected


# The names, 7 + 1 shards with their facts, 8 moves into place, 6 files about the whole: 31 renames
@pytest.mark.parametrize("renames", [0, 1, 2, 10, 17, 18, 24, 25, 29, 30])
@pytest.mark.parametrize("over_another", [False, True], ids=["fresh", "overwrite"])
def test_a_build_killed_at_a_rename_is_finished_by_the_same_command(
    two_builds, tmp_path, renames, over_another
):
    (old, _), (new, expected) = two_builds
    out = tmp_path / "out"
    common = ("--output", str(out), "--max_rejects", "1", *SIZE)
    if over_another:
        assert build("--input", old, *common) == 0
        common += ("--overwrite",)
    arguments = ("--input", str(new), *common)
    script = [sys.executable, "-c", KILL_AT_RENAME, str(renames)]
    killed = subprocess.run([*script, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert_whole_or_none(out)
    assert build(*arguments) == 0
    assert contents(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_twenty_kills_at_random_moments(tmp_path, mode):
    """SIGKILL to the whole process group, again and again, until a build gets through."""
    arguments = [*JOB, "--input", "sample:240", "--image_size", "32x40", "--output"]
    arguments += [str(tmp_path / "out"), "--direct_running_mode", mode]
    chance, kills = random.Random(20), 0
    while True:
        job = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.DEVNULL)
        wait = 60 if kills == 20 else chance.uniform(0.2, 4.5)
        try:
            assert job.wait(wait) == 0
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            kills += 1
            assert_whole_or_none(tmp_path / "out")
            continue
        if kills == 20:
            break
        shutil.rmtree(tmp_path / "out")  # it got through before the twentieth kill: once more
    whole = ("--input", "sample:240", "--image_size", "32x40", "--output", tmp_path / "whole")
    assert build(*whole) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_stops_the_build_with_one_line_and_nothing_published(
    two_builds, small_disk, capsys
):
    folder, expected = two_builds[1]
    disk = small_disk("size=64k")
    arguments = ("--input", folder, "--output", disk / "out", "--max_rejects", 1, *SIZE)
    assert build(*arguments) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "the same command goes on" in error
    assert len(error.splitlines()) == 1
    assert find_shards(disk / "out") == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert build(*arguments) == 0
    assert contents(disk / "out") == expected


def test_an_output_that_cannot_be_written_is_told_in_one_line(two_builds, small_disk, capsys):
    disk = small_disk("size=64k,ro")
    assert build("--input", two_builds[0][0], "--output", disk / "out", *SIZE) == 1
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert len(error.splitlines()) == 1


def test_an_input_that_vanishes_stops_the_build_with_one_line(tmp_path):
    folder = write_pairs(tmp_path / "images", 1500)
    arguments = ("--input", str(folder), "--output", str(tmp_path / "out"), *SIZE)
    job = subprocess.Popen([*JOB, *arguments], stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob(".building/*/*.tmp")):
        time.sleep(0.005)
        assert job.poll() is None, "the build ended before its input could vanish"
    folder.rename(tmp_path / "elsewhere")
    error = job.stderr.read()
    assert job.wait() == 1
    assert "was listed and is gone" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out/manifest.json").exists()

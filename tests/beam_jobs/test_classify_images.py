"""Batch prediction as a user runs it: the scores of `model.predict`, whatever happens on the way."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from beam_jobs.classify_images import main as classify_images
from model.export import main as export
from model.predict import main as predict
from pipeline.classify import Classification, deal_keys, default_shards, score_shard
from pipeline.files import file_sha256
from pipeline.predictions import Row, encode_rows, find_shards, load_predictions
from pipeline.publish import locked_output
from pipeline.schema import ImageSpec, Item
from pipeline.sources.folder import FolderSource
from tests.beam_jobs.ending import contents, killed_at_rename, published_twice
from tests.conftest import build, jpeg, write_pairs
from tests.model.conftest import trained  # noqa: F401 - a fixture

SPEC = ImageSpec(32, 40, 1)
KILL_AT_RENAME = killed_at_rename("beam_jobs.classify_images")
PUBLISH_TWICE = published_twice(
    "beam_jobs.classify_images", steps="beam_jobs.inference", publish="publish_predictions"
)


def classify(*arguments: object) -> int:
    """Run the job in this process; its exit status."""
    return classify_images([str(argument) for argument in arguments])


def read_rows(folder: Path) -> list[Row]:
    """Every prediction in `folder`, whose files are those that `predictions.json` tells of."""
    found = load_predictions(folder)
    assert {s.file: s.sha256 for s in found.shards} == {
        path.name: file_sha256(path) for path in find_shards(folder)
    }
    return [row for shard in found.shards for row in read_file(folder / shard.file)]


def read_file(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        return [Row(**values) for values in parquet.read_table(path).to_pylist()]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [Row(**json.loads(line)) for line in text.splitlines()]
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [Row(row["key"], row["label"], float(row["score"])) for row in rows]


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> Path:  # noqa: F811
    """The export of `trained`; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export(["--run", str(trained), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """80 images beside each other and deeper down, in no class folders; not to be changed."""
    folder = write_pairs(tmp_path_factory.mktemp("photos") / "all", 40)
    for path in (folder / "comics").iterdir():
        path.rename(folder / f"{path.stem}-light.jpg")
    shutil.move(folder / "faces", folder / "2025/may")
    (folder / "comics").rmdir()
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def predicted(photos, exported, tmp_path_factory) -> Path:
    """The predictions for `photos`, in three files of CSV; not to be changed."""
    folder = tmp_path_factory.mktemp("predicted") / "out"
    assert classify(*request(photos, exported, folder)) == 0
    return folder


@pytest.fixture(scope="module")
def job(photos, exported) -> Callable[..., int]:
    """Runs the job on `photos`, or on `images`, into a folder; its exit status."""

    def run(output: Path, *more: object, images: Path = photos) -> int:
        return classify(*request(images, exported, output), *more)

    return run


def request(images: Path, exported: Path, output: Path) -> tuple[object, ...]:
    places = ("--input", images, "--model", exported, "--output", output)
    return (*places, "--shards", 3, "--batch_size", 8)


def test_scores_are_those_of_model_predict(photos, exported, predicted, capsys):
    """To six digits, give or take one in the last: there other images share a batch."""
    assert predict(["--model", str(exported), "--json", str(photos)]) == 0
    expected = {
        os.path.relpath(one["file"], photos): (one["label"], one["score"])
        for one in map(json.loads, capsys.readouterr().out.splitlines())
    }
    rows = read_rows(predicted)
    assert len(rows) == len(expected) == 80
    assert {row.key: row.label for row in rows} == {k: label for k, (label, _) in expected.items()}
    for row in rows:
        assert row.score == pytest.approx(expected[row.key][1], abs=1.01e-6)
    assert {row.label for row in rows} == {"faces", "comics"}


def test_a_folder_of_predictions_is_complete_and_explains_itself(photos, exported, predicted):
    assert sorted(contents(predicted)) == [
        *(f"predictions-0000{shard}-of-00003.csv" for shard in range(3)),
        *("predictions.json", "rejects.jsonl"),
    ]
    facts = json.loads((predicted / "predictions.json").read_text())
    weights = file_sha256(exported / "model.keras")
    assert facts["model"] == {"name": "2-conv-16-nodes-1-dense", "sha256": weights}
    assert facts["source"] == {"uri": str(photos)}
    assert facts["classes"] == ["faces", "comics"]
    assert facts["image"] == {
        **{"height": 32, "width": 40, "channels": 1, "dtype": "uint8"},
        "digest": SPEC.digest,
    }
    assert facts["options"] == {"format": "csv", "shards": 3, "batch_size": 8}
    assert (facts["records"], facts["rejects"], facts["ignored"]) == (80, {}, {".txt": 1})
    assert sum(facts["records_per_class"].values()) == 80
    assert set(facts["versions"]) >= {"inkling", "python", "tensorflow", "keras", "pillow"}


def test_each_file_stands_in_the_order_of_its_keys(predicted):
    for path in find_shards(predicted):
        keys = [row.key for row in read_file(path)]
        assert keys == sorted(keys)
        assert keys


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_every_format_holds_the_same(job, predicted, tmp_path, form):
    assert job(tmp_path, "--format", form) == 0
    assert read_rows(tmp_path) == read_rows(predicted)


ROWS = [Row('a,"b"\nc.jpg', "faces", 0.12345678), Row("ü.jpg", "comics", 1.0)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("csv", 'key,label,score\n"a,""b""\nc.jpg",faces,0.123457\nü.jpg,comics,1.000000\n'),
        (
            "jsonl",
            '{"key": "a,\\"b\\"\\nc.jpg", "label": "faces", "score": 0.123457}\n'
            '{"key": "\\u00fc.jpg", "label": "comics", "score": 1.0}\n',
        ),
    ],
)
def test_a_file_as_it_is_written(form, expected):
    assert encode_rows(ROWS, form) == expected.encode()


def test_an_empty_file_has_its_columns_all_the_same():
    assert encode_rows([], "csv") == b"key,label,score\n"
    assert encode_rows([], "jsonl") == b""
    table = parquet.read_table(io.BytesIO(encode_rows([], "parquet")))
    assert (table.num_rows, table.column_names) == (0, ["key", "label", "score"])
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "double"]


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_every_byte_is_the_same_in_any_mode(job, predicted, tmp_path, mode):
    workers = ("--direct_running_mode", mode, "--direct_num_workers", 1 if mode[0] == "i" else 2)
    assert job(tmp_path, *workers) == 0
    assert contents(tmp_path) == contents(predicted)


def test_every_byte_is_the_same_in_whatever_order_files_are_listed(
    job, predicted, tmp_path, monkeypatch
):
    listed = FolderSource.list
    monkeypatch.setattr(FolderSource, "list", lambda self: reversed(list(listed(self))))
    assert job(tmp_path) == 0
    assert contents(tmp_path) == contents(predicted)


def test_a_zip_gives_the_same_predictions(job, photos, predicted, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", photos)
    assert job(tmp_path / "out", images=archive) == 0
    assert read_rows(tmp_path / "out") == read_rows(predicted)


# The names, 3 shards with their facts, 3 moves into place, rejects, predictions.json: 12 renames
@pytest.mark.parametrize("moment", [(5, 2), (11, 3)], ids=str)
def test_a_work_killed_at_a_rename_is_finished_by_the_same_command(
    photos, exported, predicted, tmp_path, moment
):
    renames, kept = moment
    out = tmp_path / "out"
    arguments = [*map(str, request(photos, exported, out)), "--direct_num_workers=1"]
    script = [sys.executable, "-c", KILL_AT_RENAME, str(renames)]
    killed = subprocess.run([*script, *arguments], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "predictions.json").exists()
    ready = {path.name.removesuffix(".json") for path in out.glob(".building/*/*.csv.json")}
    assert len(ready) == kept
    files = {path.name: path.stat().st_ino for path in out.rglob("*.csv") if path.name in ready}
    assert classify(*arguments) == 0
    assert contents(out) == contents(predicted)
    assert {name: (out / name).stat().st_ino for name in files} == files  # not made again


def test_a_worker_that_was_given_up_takes_nothing_away_that_its_successor_published(
    photos, exported, predicted, tmp_path
):
    """Two attempts at the last step: the second is cut off at its first rename."""
    arguments = map(str, request(photos, exported, tmp_path / "out"))
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH_TWICE, *arguments], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path / "out") == contents(predicted)


def test_a_second_run_finds_the_work_done(job, predicted, capsys):
    before = {path: path.stat().st_mtime_ns for path in predicted.glob("p*")}
    assert job(predicted) == 0
    assert "already complete" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_damaged_file_is_made_again(job, predicted, tmp_path):
    out = shutil.copytree(predicted, tmp_path / "out")
    (out / "predictions-00001-of-00003.csv").write_text("key,label,score\n")
    assert job(out) == 0
    assert contents(out) == contents(predicted)


@pytest.fixture
def blemished(photos, tmp_path) -> Path:
    """`photos`, three of them spoilt."""
    folder = shutil.copytree(photos, tmp_path / "blemished")
    (folder / "003-light.jpg").write_bytes(b"")
    (folder / "2025/may/007.jpg").write_bytes((folder / "2025/may/007.jpg").read_bytes()[:-300])
    (folder / "2025/may/008.jpg").write_text("no image")
    return folder


def test_bad_images_are_set_aside_and_change_no_other_score(
    job, blemished, predicted, tmp_path, capsys
):
    out = tmp_path / "out"
    assert job(out, images=blemished) == 0
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == [
        ("003-light.jpg", "zero-bytes"),
        ("2025/may/007.jpg", "truncated"),
        ("2025/may/008.jpg", "not-an-image"),
    ]
    assert load_predictions(out).rejects == {"not-an-image": 1, "truncated": 1, "zero-bytes": 1}
    assert "rejected  1 not-an-image, 1 truncated, 1 zero-bytes; see " in capsys.readouterr().out
    bad = {line["key"] for line in lines}
    assert read_rows(out) == [row for row in read_rows(predicted) if row.key not in bad]


def test_a_folder_of_bad_images_alone_fails_with_nothing_published(job, tmp_path, capsys):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(bytes(len(jpeg(0))))
    assert job(tmp_path / "out", images=folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "all 1 images were refused: 1 not-an-image; the first: a.jpg" in line
    assert find_shards(tmp_path / "out") == []
    (folder / "a.jpg").write_bytes(jpeg(0))  # mended, and of the same size
    assert job(tmp_path / "out", images=folder) == 0
    assert [row.key for row in read_rows(tmp_path / "out")] == ["a.jpg"]
    assert len(find_shards(tmp_path / "out")) == 3  # two of them empty


def test_strange_names_are_not_lost_and_steer_no_terminal(job, tmp_path, capsys):
    names = ['a\x1b[2J,"b"\n\u2028c.jpg', "=1+1.jpg", "ü.jpg"]
    folder = tmp_path / "strange"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(jpeg(0))
    Path(os.fsdecode(os.fsencode(folder) + b"/e\xff\x1b.jpg")).write_bytes(jpeg(0))
    for form in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"{form}\x1b[2J"
        assert job(out, "--format", form, images=folder) == 0
        assert {row.key for row in read_rows(out)} == set(names)
    (reject,) = (out / "rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["key"] == "e\\xff\x1b.jpg"
    assert json.loads(reject)["reason"] == "bad-name"
    assert "\x1b" not in "".join(capsys.readouterr())


def change_model(exported: Path, copy: Path, more: bytes, **facts: object) -> Path:
    """A copy of `exported`, its weights' file longer by `more`, and other facts in `model.json`."""
    shutil.copytree(exported, copy)
    weights = copy / "model.keras"
    weights.write_bytes(weights.read_bytes() + more)
    known = json.loads((copy / "model.json").read_text())
    known["files"]["model.keras"]["sha256"] = file_sha256(weights)
    (copy / "model.json").write_text(json.dumps(known | facts))
    return copy


def test_other_predictions_are_replaced_on_demand_only(job, exported, predicted, tmp_path, capsys):
    out = shutil.copytree(predicted, tmp_path / "out")
    other = write_pairs(tmp_path / "other", 3)
    renamed = change_model(exported, tmp_path / "renamed", b"", classes=["faces", "toons"])
    retrained = change_model(exported, tmp_path / "retrained", b"more")
    for change in (
        ("--input", other),
        ("--model", renamed),
        ("--model", retrained),
        ("--shards", 2),
        ("--format", "jsonl"),
        ("--batch_size", 9),
    ):
        assert job(out, *change) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds other predictions (" in line
        assert contents(out) == contents(predicted)
    assert job(out, "--format", "jsonl", "--shards", 2, "--overwrite") == 0
    assert len(find_shards(out)) == 2
    assert sorted(read_rows(out)) == sorted(read_rows(predicted))


def test_what_others_have_written_is_not_replaced(job, records, tmp_path, capsys):
    (tmp_path / "predictions-1-of-2.csv").write_text("precious")
    assert job(tmp_path) == 2
    assert "not ours to replace" in capsys.readouterr().err
    assert (tmp_path / "predictions-1-of-2.csv").read_text() == "precious"
    rejects = (records / "rejects.jsonl").stat().st_mtime_ns
    assert job(records, "--overwrite") == 2
    assert "holds a data set of records; give another folder" in capsys.readouterr().err
    assert (records / "rejects.jsonl").stat().st_mtime_ns == rejects


def test_a_build_does_not_replace_predictions(predicted, tmp_path, capsys):
    before, images = contents(predicted), write_pairs(tmp_path / "images", 4)
    for more in ((), ("--overwrite",)):
        assert build("--input", images, "--output", predicted, *more) == 2
        assert "holds predictions; give another folder" in capsys.readouterr().err
    assert contents(predicted) == before


def test_two_works_into_one_output_do_not_mix(job, tmp_path, capsys):
    with locked_output(tmp_path):
        assert job(tmp_path) == 2
    assert "another prediction is writing to" in capsys.readouterr().err


def test_an_input_that_changes_meanwhile_stops_it(job, photos, tmp_path, capsys):
    folder = shutil.copytree(photos, tmp_path / "images")

    def list_and_lose(self):
        yield from listed(self)
        (folder / "005-light.jpg").unlink()

    listed = FolderSource.list
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderSource, "list", list_and_lose)
        assert job(tmp_path / "out", images=folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "005-light.jpg was listed and is gone" in line
    assert not (tmp_path / "out/predictions.json").exists()


def test_a_notice_of_the_images_travels_with_the_predictions(exported, tmp_path, capsys):
    out = tmp_path / "out"
    assert classify("--input", "sample:4", "--model", exported, "--output", out) == 0
    assert capsys.readouterr().err.startswith("NOTICE: synthetic sample")
    assert "synthetic" in load_predictions(out).source["notice"]
    assert [path.name for path in find_shards(out)] == ["predictions-00000-of-00001.csv"]


@pytest.mark.parametrize(
    "mistake",
    [
        (["--input", "{}/nowhere"], 2, "found nothing there"),
        (["--input", "{}/empty"], 2, "it is empty; give a folder of images, or a .zip of one"),
        (["--model", "{}/nowhere"], 2, "has no model.json; give a folder that"),
        (["--model", "{}/spoilt"], 1, "is damaged: not the file that model.json names"),
        (["--model", "{}/misfit"], 1, "does not hold the weights of 2-conv-16-nodes-1-dense"),
        (["--shards", "0"], 2, "--shards: must be from 1 to 99999, received 0"),
        (["--batch_size", "0"], 2, "--batch_size: must be from 1 to 4096, received 0"),
        (["--batch_size", "many"], 2, "invalid int value: 'many'"),
        (["--format", "xls"], 2, "invalid choice: 'xls'"),
        (["--formt", "csv"], 2, "did you mean --format?"),
        (["--direct_num_worker", "2"], 2, "did you mean --direct_num_workers"),
        (["--runner", "DirectRuner"], 2, "none of DirectRunner"),
        (["--output", "{}/a_file"], 2, "is a file"),
        (["--output", "gs://bucket/folder"], 2, "bucket"),
        (["--output", "/proc/nowhere"], 1, "/proc/nowhere"),
        (["--output", "{}/damaged"], 2, "predictions.json is not ours or damaged"),
    ],
    ids=lambda mistake: " ".join(mistake[0]),
)
def test_a_mistake_gets_one_clear_line(job, exported, tmp_path, capsys, mistake):
    arguments, status, message = mistake
    for name in ("empty", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged/predictions.json").write_text("{}")
    (tmp_path / "a_file").touch()
    shutil.copytree(exported, tmp_path / "spoilt")
    (tmp_path / "spoilt/model.keras").write_bytes(b"PK")
    change_model(exported, tmp_path / "misfit", bytes(100_000))  # a zip no more
    filled = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    assert job(tmp_path / "out", *filled) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_what_can_be_refused_is_refused_before_tensorflow_loads(photos, exported, tmp_path):
    script = (
        "import sys; from beam_jobs.classify_images import main; status = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras'} & set(sys.modules); sys.exit(f'{status} {heavy}')"
    )
    (tmp_path / "predictions-1-of-2.csv").touch()
    command = [sys.executable, "-c", script, *map(str, request(photos, exported, tmp_path))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "not ours to replace" in done.stderr
    assert done.stderr.splitlines()[-1] == "2 set()"


def test_the_screen_holds_the_summary_and_nothing_else(photos, exported, tmp_path):
    command = [sys.executable, "-m", "beam_jobs.classify_images"]
    command += map(str, request(photos, exported, tmp_path / "out"))
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines if line] == [
        *("called", "faces", "comics", "model", "source", "rejected", "ignored", "scored"),
        "predictions",
    ]
    counts = load_predictions(tmp_path / "out").records_per_class
    assert [int(line[1]) for line in lines[1:3]] == list(counts.values())


def test_an_image_has_its_place_in_its_batch_whatever_stands_beside_it(tmp_path):
    """Every batch has one shape; a refused image leaves its place black, and the last one is filled."""
    for number in range(7):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number) if number != 1 else b"")
    source = FolderSource("here", str(tmp_path))
    work = Classification(
        source, tmp_path, {"name": "", "sha256": ""}, SPEC, ("a", "b"), "csv", 1, 4, 7, 0, {}
    )
    batches = []

    def score(pixels: np.ndarray) -> np.ndarray:
        batches.append(pixels)
        return 10 * len(batches) + np.arange(len(pixels), dtype=np.float32)

    scored = score_shard(work, 0, [f"{number}.jpg" for number in (6, 0, 3, 1, 5, 2, 4)], score)
    assert scored.keys == tuple(f"{number}.jpg" for number in (0, 2, 3, 4, 5, 6))
    assert scored.scores == (10, 12, 13, 20, 21, 22)
    assert [(reject.key, reject.reason) for reject in scored.rejects] == [("1.jpg", "zero-bytes")]
    assert [batch.shape for batch in batches] == [(4, 32, 40, 1)] * 2
    assert [bool(image.any()) for batch in batches for image in batch] == [
        *(True, False, True, True),
        *(True, True, True, False),
    ]


def test_adding_an_image_moves_no_other_between_shards():
    items = [Item(f"{number}.jpg", 0, 1) for number in range(300)]
    few, all_of_them = deal_keys(items[:200], 7), deal_keys(items, 7)
    assert sorted(all_of_them) == list(range(7))
    assert all(set(keys) <= set(all_of_them[shard]) for shard, keys in few.items())
    assert sum(map(len, all_of_them.values())) == 300


@pytest.mark.parametrize(
    ("total", "shards"),
    [
        (1, 1),
        (1000, 1),
        (1001, 2),
        (20_000, 20),
        (1_000_000, 256),  # 3,906 images each
        (2_000_000, 500),  # 4,000 each
        (10**9, 99_999),
    ],
)
def test_shards_are_neither_tiny_nor_without_end(total, shards):
    assert default_shards(total) == shards

"""The honest figure: right to the last file, the same as Keras', and every opening is recorded."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.config import NetworkConfig
from model.evaluate import main as evaluate
from model.openings import describe_opening, model_digest, record_opening
from pipeline.errors import WorkError
from pipeline.files import file_sha256
from pipeline.manifest import load_manifest
from pipeline.verify import main as verify
from tests.conftest import build, write_pairs


def test_evaluation_is_honest_to_the_last_file(run, capsys):
    assert run.evaluate() == 0
    screen = capsys.readouterr().out
    figures = run.figures()
    rows = list(csv.DictReader((run.folder / "predictions.csv").open()))
    test = load_manifest(run.records).splits["test"]
    assert figures["images"] == len(rows) == test.records
    for row in rows:
        assert row["key"].startswith(row["label"] + "/")
        assert row["predicted"] == ("comics" if float(row["score"]) > 0.5 else "faces")
    wrong = {row["key"] for row in rows if row["predicted"] != row["label"]}
    assert {file["key"] for file in figures["misclassified_files"]} == wrong
    assert figures["accuracy"] == pytest.approx(1 - len(wrong) / len(rows))
    assert figures["accuracy"] > 0.9  # light against dark: it has learnt
    low, high = figures["accuracy_interval"]
    assert low < figures["accuracy"] <= high
    assert f"{len(wrong)} of {len(rows)} images misclassified" in screen
    assert "opening 1 of this test split; no other model was tested on it before" in screen
    assert f"(95 % interval {low:.5f} to {high:.5f})" in screen
    assert "class   called faces  called comics" in screen
    assert f"report: {run.folder / 'report.html'}" in screen


def network_of(run):
    from model.network import build_network

    network = build_network(NetworkConfig(2, 16, 1), load_manifest(run.records).image)
    network.load_weights(run.folder / "best.weights.h5")
    return network


def sharpen(run, factor: float):
    """Multiply the logits of the run's network: below 0 its errors become its hits."""
    network = network_of(run)
    kernel, bias = network.get_layer("score").get_weights()
    network.get_layer("score").set_weights([kernel * factor, bias * factor])
    network.save_weights(run.folder / "best.weights.h5")


@pytest.mark.parametrize("factor", [1, -1, 0.01, 8, -8])
def test_loss_accuracy_and_auc_agree_with_keras(run, factor):
    """Also where a sigmoid in float32 is 0 or 1 and nothing is left of how sure an error was."""
    import keras

    from pipeline.dataset import evaluation_dataset

    sharpen(run, factor)
    assert run.evaluate() == 0
    figures = run.figures()
    network = network_of(run)
    metrics = ["accuracy", keras.metrics.AUC(num_thresholds=10_000)]
    network.compile(loss="binary_crossentropy", metrics=metrics)
    test = evaluation_dataset(run.records, split="test", batch_size=16)
    loss, accuracy, auc = network.evaluate(test, verbose=0)
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)
    assert figures["accuracy"] == pytest.approx(accuracy)
    assert figures["roc_auc"] == pytest.approx(auc, abs=2e-3)
    assert (figures["accuracy"] > 0.5) == (factor > 0)


def test_a_model_of_no_numbers_gets_one_clear_line(run, capsys):
    sharpen(run, float("nan"))
    assert run.evaluate() == 1
    error = capsys.readouterr().err
    assert "its score is no number (NaN) for 36 of 36 images" in error
    assert len(error.splitlines()) == 1
    assert not (run.folder / "evaluation.json").exists()
    assert len(run.openings()) == 1  # it has seen the test images all the same


def test_every_opening_is_recorded_with_its_model(run, capsys):
    digests = []
    for number, others in ((1, 0), (2, 0), (3, 1), (4, 1)):
        if number == 3:
            sharpen(run, 0.5)
        digests.append(file_sha256(run.folder / "best.weights.h5")[:16])
        assert run.evaluate() == 0
        assert describe_opening(number, others) in capsys.readouterr().out
        assert run.figures()["other_models"] == others
        assert run.figures()["opening"] == run.openings()[-1]
    assert [line["number"] for line in run.openings()] == [1, 2, 3, 4]
    assert [line["model"] for line in run.openings()] == digests
    assert {line["records_digest"] for line in run.openings()} == {
        load_manifest(run.records).digest
    }
    assert all(line["time"].endswith("+00:00") for line in run.openings())


@pytest.mark.parametrize(
    ("number", "others", "sentence"),
    [
        (1, 0, "opening 1 of this test split; no other model was tested on it before"),
        (3, 1, "opening 3 of this test split; 1 other model was tested on it before"),
        (1200, 2, "opening 1,200 of this test split; 2 other models were tested on it before"),
    ],
)
def test_which_opening_it_is_is_said_in_words(number, others, sentence):
    assert describe_opening(number, others) == sentence


def test_openings_at_the_same_time_get_different_numbers(tmp_path):
    def opening(model):
        return record_opening(tmp_path, records_digest="d", model=str(model % 3), run=tmp_path)[0]

    with ThreadPoolExecutor(16) as pool:
        numbers = [one.number for one in pool.map(opening, range(64))]
    assert sorted(numbers) == list(range(1, 65))
    lines = (tmp_path / "openings.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(1, 65))
    assert Counter(json.loads(line)["model"] for line in lines) == {"0": 22, "1": 21, "2": 21}


def test_another_build_of_the_data_set_is_counted_anew(tmp_path):
    given = [("old", "a"), ("old", "b"), ("new", "a"), ("old", "c"), ("new", "c")]
    found = [
        record_opening(tmp_path, records_digest=digest, model=model, run=tmp_path)
        for digest, model in given
    ]
    assert [one.number for one, _ in found] == [1, 2, 1, 3, 2]
    assert [others for _, others in found] == [0, 1, 0, 2, 1]


def test_a_damaged_line_is_named_and_nothing_is_counted(run, capsys):
    path = run.records / "openings.jsonl"
    assert run.evaluate() == 0
    good = path.read_text()
    for bad in ('{"time": "2026', "[]", '{"number": 1}', ""):
        path.write_text(good + bad + "\n")
        capsys.readouterr()
        assert run.evaluate() == 1
        assert f"{path}: line 2 is damaged" in capsys.readouterr().err
        assert path.read_text() == good + bad + "\n"
    path.write_text(good.rstrip("\n"))  # an editor that ends no last line
    assert run.evaluate() == 0
    assert [line["number"] for line in run.openings()] == [1, 2]


def test_the_test_split_stays_shut_where_its_opening_cannot_be_recorded(run, capsys):
    (run.records / "openings.jsonl").mkdir()
    flip(run.records)  # who reads a test image would complain of this
    assert run.evaluate() == 1
    error = capsys.readouterr().err
    assert "cannot be recorded" in error
    assert "openings.jsonl: Is a directory" in error
    assert len(error.splitlines()) == 1
    assert not (run.folder / "evaluation.json").exists()


def test_a_full_disk_leaves_no_half_line(tmp_path):
    record_opening(tmp_path, records_digest="d", model="m", run=tmp_path)
    before = (tmp_path / "openings.jsonl").read_text()
    script = (
        "import resource, sys; from pathlib import Path; from model.openings import record_opening;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2);"
        "record_opening(Path(sys.argv[1]), records_digest='d', model='m', run=Path('r'))"
    )
    room = len(before) + 20
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", script, str(tmp_path), str(room)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "WorkError: the opening of the test split cannot be recorded" in done.stderr
    assert (tmp_path / "openings.jsonl").read_text() == before


def flip(records):
    path = records / "test-00001-of-00004.tfrecord"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def test_an_opening_that_failed_counts(run, capsys):
    flip(run.records)
    assert run.evaluate() == 1
    error = capsys.readouterr().err
    assert "test-00001-of-00004.tfrecord: record 0: the data do not match" in error
    assert len(error.splitlines()) == 1
    assert [line["number"] for line in run.openings()] == [1]


def test_what_is_refused_opens_nothing(run, capsys):
    (run.folder / "best.weights.h5").write_bytes(b"no weights")
    assert run.evaluate() == 1
    error = capsys.readouterr().err
    assert "best.weights.h5 cannot be loaded" in error
    assert len(error.splitlines()) == 1
    assert evaluate(["--run", str(run.folder), "--record", "x"]) == 2
    assert not (run.records / "openings.jsonl").exists()


def test_a_data_set_with_openings_is_as_good_as_before(image_folder, run, capsys):
    given = ("--input", image_folder, "--classes", "faces,comics", "--image_size", "32x40")
    assert run.evaluate() == 0
    lines = run.openings()
    assert verify([str(run.records)]) == 0
    assert build(*given, "--output", run.records) == 0  # the same build: nothing to do
    assert run.openings() == lines
    assert build(*given, "--output", run.records, "--seed", 1, "--overwrite") == 0
    capsys.readouterr()
    assert run.evaluate() == 0
    assert "opening 1 of this test split" in capsys.readouterr().out
    assert run.openings()[:1] == lines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image_size", "40x32", "--classes", "faces,comics"), "holds images of 40x32x1"),
        (("--image_size", "32x40", "--classes", "comics,faces"), "the model knows faces, comics"),
        (
            ("--image_size", "32x40", "--classes", "faces,comics", "--test_fraction", 0),
            "has no test records",
        ),
    ],
)
def test_evaluation_refuses_records_of_another_kind(trained, tmp_path, capsys, options, message):
    folder = write_pairs(tmp_path / "images", 30)
    assert build("--input", folder, "--output", tmp_path / "out", *options) == 0
    capsys.readouterr()
    assert evaluate(["--run", str(trained), "--records", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/openings.jsonl").exists()


def test_evaluation_of_what_is_no_run_gets_one_clear_line(trained, tmp_path, capsys):
    assert evaluate(["--run", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    half = shutil.copytree(trained, tmp_path / "half")
    (half / "result.json").unlink()
    assert evaluate(["--run", str(half)]) == 2
    assert "did not finish" in capsys.readouterr().err


def test_names_from_strangers_cannot_steer_the_terminal(trained, tmp_path, capsys):
    """A file named with an escape sequence, and certainly misclassified."""
    folder = write_pairs(tmp_path / "images", 40)
    for number in range(40):
        light = folder / f"comics/{number:03d}.jpg"
        light.rename(folder / f"faces/\x1b[2J{number}.jpg")
        (folder / f"faces/{number:03d}.jpg").rename(light)
    options = ("--image_size", "32x40", "--classes", "faces,comics", "--test_fraction", 0.5)
    assert build("--input", folder, "--output", tmp_path / "out", *options) == 0
    run = shutil.copytree(trained, tmp_path / "run\x1b[2J\udcff")
    capsys.readouterr()
    assert evaluate(["--run", str(run), "--records", str(tmp_path / "out")]) == 0
    screen = capsys.readouterr().out
    assert "faces/\\x1b[2J" in screen
    assert "run\\x1b[2J\\xdcff/report.html" in screen
    assert "\x1b" not in screen + (tmp_path / "out/openings.jsonl").read_text()


def test_a_model_is_named_by_its_weights(run):
    before = model_digest(run.folder / "best.weights.h5")
    sharpen(run, 2)
    assert model_digest(run.folder / "best.weights.h5") != before
    with pytest.raises(WorkError):  # not a number of any opening
        record_opening(run.folder / "nowhere", records_digest="d", model=before, run=run.folder)

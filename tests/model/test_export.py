"""What leaves the house is what was tested, whole or not at all."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import agreement
from model.export import load_for_export
from model.export import main as export
from model.exported import load_exported, load_network, parameters
from model.network import NetworkConfig, build_network
from pipeline.images import decode_image
from pipeline.manifest import load_manifest
from pipeline.schema import ImageSpec

FORMATS = ["keras", "savedmodel", "tflite"]
if all(map(importlib.util.find_spec, ("tf2onnx", "onnxruntime"))):
    FORMATS.append("onnx")
MORE_FORMATS = set(FORMATS[2:])


def run_export(*arguments: object) -> int:
    return export([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tested, image_folder, tmp_path_factory) -> Path:
    """The export of `tested` in every format that can be written; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    options = ("--format", ",".join(FORMATS), "--samples", image_folder)
    assert run_export("--run", tested.folder, "--output", folder, *options) == 0
    return folder


@pytest.fixture(scope="module")
def facts(exported) -> dict:
    return json.loads((exported / "model.json").read_text())


def test_an_export_is_whole_and_alone(exported):
    names = {"model.json", "model.keras", "saved_model"} | {f"model.{f}" for f in MORE_FORMATS}
    assert {path.name for path in exported.iterdir()} == names
    assert (exported / "saved_model/saved_model.pb").exists()
    assert [path.name for path in exported.parent.iterdir()] == ["model"]


def test_model_json_says_what_was_trained_tested_and_checked(facts, tested, records):
    manifest = load_manifest(records)
    assert facts["classes"] == ["faces", "comics"]
    assert facts["image"]["digest"] == manifest.image.digest
    assert (facts["image"]["height"], facts["image"]["width"]) == (32, 40)
    assert facts["records_digest"] == manifest.digest
    assert facts["network"] == {"conv": 2, "units": 16, "dense": 1}
    figures = tested.figures()
    for name in ("images", "accuracy", "accuracy_interval", "loss", "misclassified"):
        assert facts["evaluation"][name] == figures[name]
    assert facts["evaluation"]["opening"] == 1
    assert set(facts["versions"]) == {"inkling", "keras", "pillow", "tensorflow"}
    assert any("CMYK" in refusal for refusal in facts["graph"]["refuses"])


def test_the_check_stands_in_model_json(facts):
    check = facts["check"]
    assert check["files"] >= 64 + 240
    assert check["refused"] == check["rejected"] == 0
    assert check["largest_pixel_difference"] == check["mean_pixel_difference"] == 0
    assert set(check["largest_score_difference"]) == {"saved_model"} | MORE_FORMATS
    assert all(0 <= largest < 1e-5 for largest in check["largest_score_difference"].values())
    assert check["limits"] == {"gray_levels": 1, "score": 0.01}


def test_the_saved_model_scores_files_as_the_test_did(exported, tested, image_folder):
    rows = list(csv.DictReader((tested.folder / "predictions.csv").open()))
    data = [(image_folder / row["key"]).read_bytes() for row in rows]
    signatures = tf.saved_model.load(str(exported / "saved_model")).signatures
    served = signatures["serving_default"](image_bytes=tf.constant(data))
    assert served["score"].numpy() == pytest.approx([float(row["score"]) for row in rows], abs=1e-5)
    assert [label.decode() for label in served["label"].numpy()] == [r["predicted"] for r in rows]
    images = signatures["preprocess"](image_bytes=tf.constant(data))["image"].numpy()
    spec = load_exported(exported).image
    assert np.array_equal(images, np.stack([decode_image(one, spec) for one in data]))


def test_keras_loads_the_model_in_safe_mode(exported):
    network = keras.saving.load_model(exported / "model.keras", safe_mode=True)
    ours = load_network(load_exported(exported))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 40, 1)).astype(np.uint8)
    assert np.array_equal(network.predict_on_batch(images), ours.predict_on_batch(images))


def test_without_what_writes_onnx_the_extra_is_named(tested, tmp_path, monkeypatch, capsys):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else there(name)
    )
    folder = tmp_path / "exported"
    assert run_export("--run", tested.folder, "--output", folder, "--format", "onnx") == 2
    assert "pip install -c constraints.txt '.[onnx]'" in capsys.readouterr().err
    assert not folder.exists()


def test_an_export_that_scores_otherwise_leaves_nothing(tested, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(agreement, "MAX_SCORE_DIFFERENCE", -1.0)
    assert run_export("--run", tested.folder, "--output", tmp_path / "exported") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: not exported: the score of sample 0 (JPEG 4:2:0, ")
    assert list(tmp_path.iterdir()) == []


def test_an_untested_run_without_records_replaces_an_export(
    exported, run, image_folder, tmp_path, capsys
):
    shutil.rmtree(run.records)
    output = shutil.copytree(exported, tmp_path / "exported")
    options = ("--run", run.folder, "--output", output, "--overwrite")
    assert run_export(*options) == 2  # no records, no files: nothing to check it on
    assert (output / "model.tflite").exists()
    assert run_export(*options, "--samples", image_folder / "faces") == 0
    assert "NOTICE: these weights were never tested" in capsys.readouterr().out
    facts = json.loads((output / "model.json").read_text())
    assert facts["evaluation"] is None
    assert facts["check"]["files"] == 120
    assert not (output / "model.tflite").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "exported"}


def test_figures_of_other_weights_are_not_exported(run):
    assert run.evaluate() == 0
    assert load_for_export(run.folder).evaluation["images"] == run.figures()["images"]
    with (run.folder / "best.weights.h5").open("ab") as file:
        file.write(b"\0")
    assert load_for_export(run.folder).evaluation is None


def test_nothing_but_an_export_is_replaced(exported, tested, tmp_path, capsys):
    file, foreign, ours = tmp_path / "file", tmp_path / "foreign", tmp_path / "ours"
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    shutil.copytree(exported, ours)
    mixed = shutil.copytree(exported, tmp_path / "mixed")
    (mixed / "notes.txt").write_text("mine")
    for output, options, expected in (
        (file, ("--overwrite",), "it is none of ours"),
        (foreign, ("--overwrite",), "it holds notes.txt"),
        (mixed, ("--overwrite",), "it holds notes.txt"),
        (ours, (), "--overwrite to replace it"),
    ):
        assert run_export("--run", tested.folder, "--output", output, *options) == 2
        assert expected in capsys.readouterr().err
    assert (mixed / "notes.txt").read_text() == file.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--format", "onnx,pmml"), "--format: must be of keras,savedmodel,onnx,tflite"),
        ((), "no manifest.json"),
        (("--samples", "nowhere"), "--samples: no image files in nowhere"),
        (("--ouput", "x"), "unknown option --ouput; did you mean --output?"),
    ],
)
def test_a_bad_request_is_one_line(options, expected, run, tmp_path, capsys):
    shutil.rmtree(run.records)
    output = tmp_path / "exported"
    assert run_export("--run", run.folder, "--output", output, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not output.exists()


@pytest.mark.parametrize("damage", ["{", '{"training": 1}', None])
def test_a_damaged_run_is_one_line(damage, run, tmp_path, capsys):
    if damage is None:
        (run.folder / "best.weights.h5").write_bytes(b"no weights")
    else:
        (run.folder / "config.json").write_text(damage)
    assert run_export("--run", run.folder, "--output", tmp_path / "exported") in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("network", "spec"),
    [
        (NetworkConfig(5, 32, 2), ImageSpec(150, 150, 1)),
        (NetworkConfig(1, 3, 0), ImageSpec(9, 4, 3)),
        (NetworkConfig(2, 5, 3), ImageSpec(33, 40, 3)),
        (NetworkConfig(3, 5, 2, dropout=0.3, growth=1.5), ImageSpec(33, 40, 1)),
    ],
)
def test_weights_are_counted_as_keras_counts_them(network, spec):
    assert parameters(network, spec) == build_network(network, spec).count_params()

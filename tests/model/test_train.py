"""Training, on a real data set that a small network can learn."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from model.config import NetworkConfig, max_convolutions
from model.train import main as train
from pipeline.manifest import load_manifest
from pipeline.schema import ImageSpec
from tests.conftest import build


def run_train(*arguments: object) -> int:
    return train([str(argument) for argument in arguments])


def test_a_run_folder_holds_all_that_was_promised(trained, records):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "best.weights.h5", "history.csv", "result.json", "tensorboard"} <= names
    result = json.loads((trained / "result.json").read_text())
    history = list(csv.DictReader((trained / "history.csv").open()))
    assert len(history) == result["epochs"] == 6
    losses = [float(row["val_loss"]) for row in history]
    assert result["best_epoch"] == 1 + losses.index(min(losses))
    assert result["val_loss"] == pytest.approx(min(losses))
    config = json.loads((trained / "config.json").read_text())
    assert config["trained_on"]["records_digest"] == load_manifest(records).digest
    assert config["training"]["network"] == {"conv": 2, "units": 16, "dense": 1}
    assert list((trained / "tensorboard").rglob("events.out.tfevents.*"))


def test_without_validation_the_best_epoch_is_the_one_of_lowest_loss(records, tmp_path):
    options = ("--conv", 1, "--units", 4, "--epochs", 1, "--validation_fraction", 0)
    assert run_train("--records", records, "--run", tmp_path / "run", *options) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert "val_loss" not in result
    assert (tmp_path / "run/best.weights.h5").exists()


def test_the_family_of_the_study():
    from model.network import build_network

    network = build_network(NetworkConfig(5, 32, 2), ImageSpec(150, 150, 1))
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == ["Rescaling", *["Conv2D", "MaxPooling2D"] * 5, "Flatten", *["Dense"] * 3]
    assert network.input_shape == (None, 150, 150, 1)
    assert str(network.inputs[0].dtype) == "uint8"
    assert network.layers[-1].get_config()["activation"] == "sigmoid"
    assert network.count_params() == 320 + 4 * 9248 + 4128 + 1056 + 33  # by hand


@pytest.mark.parametrize(
    ("height", "width", "largest"), [(150, 150, 5), (150, 10, 2), (4, 4, 1), (3, 9, 0), (22, 22, 3)]
)
def test_the_largest_possible_number_of_convolutions_is_the_one_that_fits(height, width, largest):
    from model.network import build_network

    spec = ImageSpec(height, width, 1)
    assert max_convolutions(spec) == largest
    if largest:
        assert build_network(NetworkConfig(largest, 2, 0), spec).output_shape == (None, 1)


@pytest.fixture
def broken(records, tmp_path):
    """A copy of `records` and what can be done to it."""
    return shutil.copytree(records, tmp_path / "broken")


def newer(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))


def cut(folder):
    path = folder / "train-00002-of-00016.tfrecord"
    path.write_bytes(path.read_bytes()[:-7])


def flip(folder):
    path = folder / "train-00002-of-00016.tfrecord"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), (2, "no finished data set")),
        (lambda folder: (folder / "manifest.json").write_text("{"), (2, "is damaged")),
        (lambda folder: (folder / "manifest.json").write_text("[]"), (2, "not a manifest")),
        (newer, (2, "has schema version 99; this Inkling reads up to 1")),
        (cut, (1, "train-00002-of-00016.tfrecord has")),
        (flip, (1, "train-00002-of-00016.tfrecord: record 0: the data do not match")),
    ],
    ids=["no manifest", "half a manifest", "a list", "newer", "truncated", "flipped bit"],
)
def test_training_on_broken_records_gets_one_clear_line(broken, tmp_path, capsys, damage, expected):
    status, message = expected
    damage(broken)
    options = ("--conv", 1, "--units", 4, "--epochs", 1, "--run", tmp_path / "run")
    assert run_train("--records", broken, *options) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_training_that_could_not_begin_leaves_its_folder_free(broken, records, tmp_path):
    cut(broken)
    options = ("--conv", 1, "--units", 4, "--epochs", 1, "--run", tmp_path / "run")
    assert run_train("--records", broken, *options) == 1
    assert list((tmp_path / "run").iterdir()) == []
    assert run_train("--records", records, *options) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--conv", 4), "at most 3 convolutions with pooling, received 4"),
        (("--conv", 0), "at least 1, received 0"),
        (("--dense", -1), "at least 0, received -1"),
        (("--units", 0), "at least 1, received 0"),
        (("--epochs", 0), "at least 1, received 0"),
        (("--epochs", "ten"), "invalid int value: 'ten'"),
        (("--conv", 1, "--examples", 10**6), "received 1000000"),
        (("--conv", 1, "--validation_fraction", 1), "below 1, received 1.0"),
        (("--epoch", 3), "did you mean --epochs?"),
        (("--seed", -1), "received -1"),
        (("--records", "nowhere"), "no finished data set"),
        (("--records", __file__), "is a file"),
    ],
    ids=str,
)
def test_a_mistake_in_the_options_gets_one_clear_line(records, tmp_path, capsys, option, message):
    assert run_train("--records", records, "--run", tmp_path / "run", *option) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_run_that_is_there_is_not_lost(trained, records, capsys):
    before = (trained / "result.json").read_text()
    assert run_train("--records", records, "--run", trained, "--conv", 1) == 2
    assert "is there already" in capsys.readouterr().err
    assert (trained / "result.json").read_text() == before


def test_three_classes_are_refused_by_a_network_with_one_unit(image_folder, tmp_path, capsys):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    shutil.copytree(folder / "faces", folder / "mice")
    assert build("--input", folder, "--output", tmp_path / "out", "--image_size", "8x8") == 0
    capsys.readouterr()
    assert run_train("--records", tmp_path / "out", "--conv", 1, "--run", tmp_path / "run") == 2
    assert "has 3 classes" in capsys.readouterr().err

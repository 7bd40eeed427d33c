"""Training and the honest figure, on a real data set that a small network can learn."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from model.config import NetworkConfig, max_convolutions
from model.evaluate import Predictions, measure, predictions_csv
from model.evaluate import main as evaluate
from model.train import main as train
from pipeline.manifest import load_manifest
from pipeline.schema import ImageSpec
from tests.conftest import build, write_pairs


def run_train(*arguments: object) -> int:
    return train([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """A run that has seen enough to tell light drawings from dark photographs."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    status = run_train(
        *("--records", records, "--run", folder, "--conv", 2, "--units", 16, "--dense", 1),
        *("--epochs", 6, "--batch_size", 16),
    )
    assert status == 0
    return folder


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


def test_evaluation_is_honest_to_the_last_file(trained, records, capsys):
    assert evaluate(["--run", str(trained)]) == 0
    screen = capsys.readouterr().out
    figures = json.loads((trained / "evaluation.json").read_text())
    rows = list(csv.DictReader((trained / "predictions.csv").open()))
    test = load_manifest(records).splits["test"]
    assert figures["images"] == len(rows) == test.records
    for row in rows:
        assert row["key"].startswith(row["label"] + "/")
        assert row["predicted"] == ("comics" if float(row["score"]) > 0.5 else "faces")
    wrong = {row["key"] for row in rows if row["predicted"] != row["label"]}
    assert {file["key"] for file in figures["misclassified_files"]} == wrong
    assert figures["accuracy"] == pytest.approx(1 - len(wrong) / len(rows))
    assert f"{len(wrong)} of {len(rows)} images misclassified" in screen
    assert figures["accuracy"] > 0.9  # light against dark: it has learnt


def test_loss_and_accuracy_agree_with_keras(trained, records):
    from model.network import build_network
    from pipeline.dataset import evaluation_dataset

    assert evaluate(["--run", str(trained)]) == 0
    figures = json.loads((trained / "evaluation.json").read_text())
    network = build_network(NetworkConfig(2, 16, 1), load_manifest(records).image)
    network.load_weights(trained / "best.weights.h5")
    network.compile(loss="binary_crossentropy", metrics=["accuracy"])
    loss, accuracy = network.evaluate(
        evaluation_dataset(records, split="test", batch_size=16), verbose=0
    )
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)
    assert figures["accuracy"] == pytest.approx(accuracy)


def test_the_same_seed_trains_the_same_network(records, tmp_path):
    for name in ("one", "two"):
        options = ("--conv", 1, "--units", 4, "--epochs", 2, "--seed", 7)
        assert run_train("--records", records, "--run", tmp_path / name, *options) == 0
    one, two = ((tmp_path / name / "history.csv").read_text() for name in ("one", "two"))
    assert one == two


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


def test_figures_by_hand():
    predictions = Predictions(
        keys=["a", "b", "c", "d"],
        labels=np.array([0, 0, 1, 1]),
        scores=np.array([0.25, 0.75, 0.4, 0.9]),
    )
    figures = measure(predictions, ("faces", "comics"))
    assert figures["accuracy"] == 0.5
    assert figures["loss"] == pytest.approx(-np.log([0.75, 0.25, 0.4, 0.9]).mean())
    assert figures["per_class"] == {
        "faces": {"images": 2, "misclassified": 1},
        "comics": {"images": 2, "misclassified": 1},
    }
    assert [file["key"] for file in figures["misclassified_files"]] == ["b", "c"]  # worst first
    assert predictions_csv(predictions, ("faces", "comics")).splitlines() == [
        "key,label,score,predicted,correct",
        "a,faces,0.250000,faces,1",
        "b,faces,0.750000,comics,0",
        "c,comics,0.400000,faces,0",
        "d,comics,0.900000,comics,1",
    ]


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image_size", "40x32", "--classes", "faces,comics"), "holds images of 40x32x1"),
        (("--image_size", "32x40", "--classes", "comics,faces"), "the model knows faces, comics"),
    ],
)
def test_evaluation_refuses_records_of_another_kind(trained, tmp_path, capsys, options, message):
    folder = write_pairs(tmp_path / "images", 30)
    assert build("--input", folder, "--output", tmp_path / "out", *options) == 0
    capsys.readouterr()
    assert evaluate(["--run", str(trained), "--records", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_evaluation_of_what_is_no_run_gets_one_clear_line(trained, tmp_path, capsys):
    assert evaluate(["--run", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    half = shutil.copytree(trained, tmp_path / "half")
    (half / "result.json").unlink()
    assert evaluate(["--run", str(half)]) == 2
    assert "did not finish" in capsys.readouterr().err
    damaged = shutil.copytree(trained, tmp_path / "damaged")
    (damaged / "best.weights.h5").write_bytes(b"no weights")
    assert evaluate(["--run", str(damaged)]) == 1
    error = capsys.readouterr().err
    assert "best.weights.h5 cannot be loaded" in error
    assert len(error.splitlines()) == 1


def test_names_from_strangers_cannot_steer_the_terminal(trained, tmp_path, capsys):
    """A file named with an escape sequence, and certainly misclassified."""
    folder = write_pairs(tmp_path / "images", 40)
    for number in range(40):
        light = folder / f"comics/{number:03d}.jpg"
        light.rename(folder / f"faces/\x1b[2J{number}.jpg")
        (folder / f"faces/{number:03d}.jpg").rename(light)
    options = ("--image_size", "32x40", "--classes", "faces,comics", "--test_fraction", 0.5)
    assert build("--input", folder, "--output", tmp_path / "out", *options) == 0
    capsys.readouterr()
    assert evaluate(["--run", str(trained), "--records", str(tmp_path / "out")]) == 0
    screen = capsys.readouterr().out
    assert "faces/\\x1b[2J" in screen
    assert "\x1b" not in screen

"""Prediction sees what training saw, names every file it cannot do, and runs nothing it is given."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from model.config import NetworkConfig
from model.export import main as export
from model.exported import load_exported, load_network
from model.inputs import find_images, read_image_file
from model.network import build_network
from model.predict import main as predict
from model.predict import predict_files
from pipeline.errors import ImageRejected
from pipeline.listing import MAX_FILE_BYTES, list_images
from pipeline.sources.folder import FolderSource
from tests.conftest import jpeg


def run_predict(*arguments: object) -> int:
    return predict([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tested, tmp_path_factory) -> Path:
    """The export of `tested`; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export(["--run", str(tested.folder), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def own(exported, tmp_path) -> Path:
    """A copy of `exported`, to be spoilt."""
    return shutil.copytree(exported, tmp_path / "own")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two faces, a broken file between them, and a comic."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(0))
    (folder / "b.jpg").write_bytes(jpeg(1)[:500])
    (folder / "c.png").write_bytes(jpeg(2))  # known by content
    (folder / "d.jpg").write_bytes(jpeg(3, light=90))
    return folder


def test_scores_of_files_are_those_of_the_test(exported, tested, image_folder, capsys):
    rows = list(csv.DictReader((tested.folder / "predictions.csv").open()))
    files = [image_folder / row["key"] for row in rows]
    assert run_predict("--model", exported, "--json", "--batch_size", 7, *files) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["file"] for one in found] == [str(file) for file in files]
    assert [one["label"] for one in found] == [row["predicted"] for row in rows]
    scores = [float(row["score"]) for row in rows]
    assert [one["score"] for one in found] == pytest.approx(scores, abs=2e-6)


def test_a_broken_file_is_named_and_the_others_are_done(exported, photos, capsys):
    assert run_predict("--model", exported, photos) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["faces", str(photos / "a.jpg")],
        ["faces", str(photos / "c.png")],
        ["comics", str(photos / "d.jpg")],
    ]
    assert all(re.fullmatch(r"[01]\.\d{4}  (faces |comics)  /.*", line) for line in lines)
    problem, end = err.splitlines()
    assert problem.startswith(f"{photos / 'b.jpg'}: truncated: ")
    assert end == "1 of 4 files failed"


def test_json_and_csv_hold_the_errors_too(exported, photos, capsys):
    assert run_predict("--model", exported, "--json", photos) == 1
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(one) for one in values] == [
        {"file", "label", "score"} if number != 1 else {"file", "error"} for number in range(4)
    ]
    assert values[1]["error"].startswith("truncated: ")
    assert run_predict("--model", exported, "--csv", photos) == 1
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["file", "label", "score", "error"]
    for row, value in zip(rows[1:], values, strict=True):
        score = f"{value['score']:.6f}" if "score" in value else ""
        assert row == [value["file"], value.get("label", ""), score, value.get("error", "")]


def test_a_missing_file_fails_and_the_others_are_done(exported, photos, capsys):
    assert run_predict("--model", exported, photos / "no.jpg", photos / "a.jpg") == 1
    out, err = capsys.readouterr()
    assert out.endswith(f"{photos / 'a.jpg'}\n")
    assert f"{photos / 'no.jpg'}: missing: there is no such file" in err


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "large.jpg").touch()
    os.truncate(tmp_path / "large.jpg", MAX_FILE_BYTES + 1)
    for name, reason in (
        ("pipe.jpg", "unreadable"),
        ("large.jpg", "too-large"),
        ("\0", "unreadable"),
    ):
        with pytest.raises(ImageRejected) as verdict:
            read_image_file(str(tmp_path / name))
        assert verdict.value.reason == reason


def test_folders_are_walked_as_the_build_walks_them(tmp_path):
    root = tmp_path / "root"
    for name in (
        *("x/b.jpg", "x/a.PNG", "x/.hidden.jpg", "x/Thumbs.db", "x/notes.txt", "y/deep/c.webp"),
        *("__MACOSX/x/b.jpg", ".git/d.jpg", "y/e.tiff", "y/no_suffix"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "x/loop").symlink_to(root)
    (root / "y/dead.jpg").symlink_to(root / "nowhere")
    names = [os.path.relpath(path, root) for path in find_images([str(root)])]
    assert names == ["x/a.PNG", "x/b.jpg", "y/dead.jpg", "y/deep/c.webp", "y/e.tiff"]
    listed = list_images(FolderSource(str(root), str(root)).list(), uri="root", classes=["x", "y"])
    assert {item.key for item in listed.items} == set(names)
    assert find_images([str(root / "x/notes.txt")]) == [str(root / "x/notes.txt")]  # as asked


def test_no_more_than_a_batch_is_read_ahead(exported, photos):
    """What is removed before its turn is missed: memory holds two batches, however many files."""
    model = load_exported(exported)
    files = [str(photos / f"{number}.jpg") for number in range(5)]
    for file in files:
        shutil.copy(photos / "a.jpg", file)
    verdicts = predict_files(
        files, load_network(model), classes=model.classes, spec=model.image, batch_size=1
    )
    first = next(verdicts)
    for file in files[2:]:
        os.unlink(file)
    rest = list(verdicts)
    assert first.score == rest[0].score
    assert [verdict.error[:7] for verdict in rest] == ["", "missing", "missing", "missing"]


def test_strange_names_are_not_lost(exported, tmp_path, capsys):
    names = [b"a\x1b[2Jb.jpg", b'c"\n,d.jpg', b"e\xff.jpg", "ü.jpg".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(jpeg(0))
    assert run_predict("--model", exported, "--json", tmp_path) == 0
    files = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert [os.fsencode(os.path.basename(file)) for file in files] == names
    command = [sys.executable, "-m", "model.predict", "--model", str(exported), str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}  # which none of them is
    done = subprocess.run([*command, "--csv"], check=True, capture_output=True, env=environment)
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode("ascii"))))
    found = [os.path.basename(row["file"]) for row in rows]
    assert found == ["a\x1b[2Jb.jpg", 'c"\n,d.jpg', "e\\udcff.jpg", "\\xfc.jpg"]


def test_the_screen_shows_strange_names_escaped(exported, tmp_path, capsys):
    (tmp_path / "a\x1b[2J\nb.jpg").write_bytes(jpeg(0))
    (tmp_path / "c\x1b.jpg").write_bytes(b"")
    assert run_predict("--model", exported, tmp_path) == 1
    out, err = capsys.readouterr()
    assert out.endswith("/a\\x1b[2J\\x0ab.jpg\n")
    assert "/c\\x1b.jpg: zero-bytes" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "the following arguments are required: files"),
        (("{empty}",), "no image files in "),
        (("x.jpg", "--batch_size", "0"), "--batch_size: must be at least 1, received 0"),
        (("x.jpg", "--json", "--csv"), "not allowed with argument"),
        (("x.jpg", "--jsn"), "unknown option --jsn; did you mean --json?"),
        (("x.jpg", "--model", "{empty}"), "has no model.json; give a folder that"),
        (("x.jpg", "--model", "{run}"), "is a run; export it first: python -m model.export --run"),
    ],
)
def test_a_bad_request_is_one_line(arguments, expected, exported, run, capsys):
    (run.folder / "empty").mkdir()
    places = {"empty": run.folder / "empty", "run": run.folder}
    assert run_predict("--model", exported, *(text.format(**places) for text in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


DAMAGES = [
    ("classes", ["faces"]),
    ("classes", ["faces", "comics", "more"]),
    ("classes", ["faces", "faces"]),
    ("classes", ["faces", 1]),
    ("classes", "ab"),
    ("image", {"height": 0, "width": 40, "channels": 1, "digest": "x"}),
    ("image", {"height": 32, "width": 40, "channels": 2, "digest": "x"}),
    ("image", {"height": "32", "width": 40, "channels": 1, "digest": "x"}),
    ("image", {"height": True, "width": 40, "channels": 1, "digest": "x"}),
    ("network", {"conv": 2, "units": 10**9, "dense": 1}),
    ("network", {"conv": 2, "units": 16.0, "dense": 1}),
    ("network", {"conv": True, "units": 16, "dense": 1}),
    ("network", {"conv": 9, "units": 16, "dense": 1}),
    ("network", {"conv": 2, "units": 16}),
    ("network", {"conv": 2, "units": 16, "dense": 1, "growth": "2"}),
    ("network", {"conv": 2, "units": 16, "dense": 1, "growth": 1e308}),
    ("network", {"conv": 2, "units": 16, "dense": 1, "dropout": True}),
    ("network", {"conv": 2, "units": 16, "dense": 1, "dropout": 2.0}),
    ("network", {"conv": 2, "units": 16, "dense": 1, "layers": 3.0}),
    ("network", None),
    ("files", {}),
    ("files", {"model.keras": {"sha256": 7}}),
    ("notice", 5),
]


@pytest.mark.parametrize(
    ("name", "value"), DAMAGES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(DAMAGES)]
)
def test_damaged_facts_are_one_line(name, value, own, photos, capsys):
    facts = json.loads((own / "model.json").read_text())
    (own / "model.json").write_text(json.dumps(facts | {name: value}))
    assert run_predict("--model", own, photos) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --model: {own / 'model.json'} is not ours or damaged")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"format_version": 2}, "has format version 2; this program reads 1"),
        ({"format_version": None}, "has format version None; this program reads 1"),
        (
            {"image": {"height": 32, "width": 40, "channels": 1, "digest": "0"}},
            "was trained on images prepared in another way (digest '0'",
        ),
    ],
)
def test_an_export_of_another_version_is_one_line(facts, expected, own, photos, capsys):
    known = json.loads((own / "model.json").read_text())
    (own / "model.json").write_text(json.dumps(known | facts))
    assert run_predict("--model", own, photos) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize("text", ["", "[]", "7", "\xff", "[" * 100_000])
def test_what_is_no_model_json_is_one_line(text, own, photos, capsys):
    (own / "model.json").write_bytes(text.encode("latin-1"))
    assert run_predict("--model", own, photos) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.json is not ours or damaged" in line


def claim(folder: Path) -> None:
    """Let `model.json` name `model.keras` as it now is."""
    facts = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    facts["files"]["model.keras"]["sha256"] = digest
    (folder / "model.json").write_text(json.dumps(facts))


def test_damaged_weights_are_one_line(own, photos, capsys):
    path = own / "model.keras"
    good = path.read_bytes()
    for data in (good[:-1], b"", b"PK\x03\x04" + bytes(100_000), good[:5000] + bytes(85_000)):
        path.write_bytes(data)
        assert run_predict("--model", own, photos) == 1
        assert "is damaged: not the file that model.json names" in capsys.readouterr().err
        claim(own)
        assert run_predict("--model", own, photos) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "does not hold the weights of 2-conv-16-nodes-1-dense" in line
    path.unlink()
    assert run_predict("--model", own, photos) == 1
    assert "is missing; export the run again" in capsys.readouterr().err


def test_a_network_larger_than_its_weights_is_never_built(own, photos, capsys):
    facts = json.loads((own / "model.json").read_text())
    facts["network"] = {"conv": 1, "units": 4096, "dense": 4000}  # 260 GB
    (own / "model.json").write_text(json.dumps(facts))
    assert run_predict("--model", own, photos) == 1
    assert "(too short)" in capsys.readouterr().err


def test_a_network_beyond_the_study_is_built_as_it_was(own):
    config = NetworkConfig(2, 4, 1, dropout=0.5, growth=1.5)
    network = build_network(config, load_exported(own).image)
    network.save(own / "model.keras")
    facts = json.loads((own / "model.json").read_text())
    (own / "model.json").write_text(json.dumps(facts | {"network": config.to_json()}))
    claim(own)
    model = load_exported(own)
    assert model.network == config
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 40, 1)).astype(np.uint8)
    found = load_network(model).predict_on_batch(images)
    assert np.array_equal(found, network.predict_on_batch(images))


def malicious(canary: Path) -> keras.Model:
    """A model whose lambda leaves `canary`."""
    code = f"(open({str(canary)!r}, 'w').close(), x)[1]"
    leave = eval(f"lambda x: {code}")
    image = keras.Input((32, 40, 1), dtype="uint8")
    hidden = keras.layers.Lambda(leave, output_shape=(32, 40, 1))(image)
    return keras.Model(image, keras.layers.Dense(1)(keras.layers.Flatten()(hidden)))


def test_a_lambda_in_the_keras_file_is_never_run(own, photos, tmp_path, capsys):
    canary = tmp_path / "canary"
    malicious(canary).save(own / "model.keras")
    canary.unlink(missing_ok=True)
    images = np.zeros((1, 32, 40, 1), np.uint8)
    keras.saving.load_model(own / "model.keras", safe_mode=False).predict_on_batch(images)
    assert canary.exists()  # it is dangerous
    canary.unlink()
    assert run_predict("--model", own, photos) == 1
    claim(own)
    assert run_predict("--model", own, photos) == 1
    assert "does not hold the weights" in capsys.readouterr().err
    with pytest.raises((ValueError, TypeError)):
        keras.saving.load_model(own / "model.keras", safe_mode=True)
    assert not canary.exists()


def test_the_layers_that_a_keras_file_describes_are_not_even_read(own, exported, photos, capsys):
    """A description of any evil beside the true weights: they are loaded, it is not."""
    assert run_predict("--model", exported, photos) == 1
    expected = capsys.readouterr().out
    with zipfile.ZipFile(exported / "model.keras") as old:
        weights = old.read("model.weights.h5")
    with zipfile.ZipFile(own / "model.keras", "w") as new:
        new.writestr("config.json", '{"module": "os", "class_name": "system", "config": "exit"}')
        new.writestr("metadata.json", "not even JSON")
        new.writestr("model.weights.h5", weights)
    claim(own)
    assert run_predict("--model", own, photos) == 1
    assert capsys.readouterr().out == expected

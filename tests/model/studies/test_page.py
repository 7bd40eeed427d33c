"""The report of a study: complete, true to its runs, readable at any moment, and safe to open."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from model.charts import Line, linked_chart, looks
from model.config import NetworkConfig
from model.parallel import Axis, measure_numbers, parallel_chart, place_values
from model.report import main as report
from model.studies.page import write_study_report
from model.train import main as train
from pipeline.manifest import load_manifest
from tests.chromium import Chromium
from tests.conftest import build, jpeg
from tests.model.conftest import Run
from tests.model.test_report import (
    MIDDLE,
    NASTY_CLASSES,
    NASTY_KEYS,
    Page,
    own,
    set_score,
    words,
)

PLAN = '# </pre><script>alert(5)</script>\n[[round]]\nname = "wide"\n\tconv = [1]\n'
ROUNDS = ("wide <i>grid</i>", "narrow")
FIGURES = ("parameters", "epochs", "best_epoch", "val_loss", "val_accuracy", "seconds")
RUINOUS = ("--learning_rate", "1e38", "--batch_size", 8)
WHY = "1-conv-4-nodes-0-dense has a lower loss <b>by far</b> than any other"


@dataclass(frozen=True)
class Study:
    """A study's folder and its records."""

    folder: Path
    records: Path

    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    def train(self, run: str, network: NetworkConfig, *options: object) -> int:
        """A real training in `rounds/`; its exit status."""
        given = ("--records", self.records, "--run", self.folder / "rounds" / run, *options)
        size = ("--conv", network.conv, "--units", network.units, "--dense", network.dense)
        return train([str(one) for one in (*given, *size)])

    def trial(self, run: str) -> dict:
        """What a search says of a finished run in its `result.json`."""
        folder = self.folder / "rounds" / run
        figures = json.loads((folder / "result.json").read_text())
        training = json.loads((folder / "config.json").read_text())["training"]
        return {
            **{"model": figures["model"], "run": f"rounds/{run}", "state": "complete", "why": ""},
            **{name: figures[name] for name in (*FIGURES, "images_per_second")},
            "params": training["network"],
        }


NETWORKS = [NetworkConfig(1, 2, 0), NetworkConfig(1, 4, 0), NetworkConfig(1, 2, 1)]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Two rounds of real trainings, one of them failed, and two finalists; not to be changed."""
    root = tmp_path_factory.mktemp("study")
    study = Study(root / "study", root / "records")
    write_images(root / "images")
    options = (
        "--classes",
        ",".join(NASTY_CLASSES),
        "--image_size",
        "12x12",
        "--test_fraction",
        0.5,
    )
    assert build("--input", root / "images", "--output", study.records, *options) == 0
    for network in NETWORKS:
        assert study.train(f"wide/{network.name}", network, "--epochs", 3) == 0
    failing = NetworkConfig(2, 2, 0)
    assert study.train(f"wide/{failing.name}", failing, *RUINOUS) == 1
    for network in NETWORKS[:2]:
        assert study.train(f"narrow/{network.name}", network, "--epochs", 2, "--seed", 1) == 0
    write_study(study, failing)
    for run, bias in (
        ("narrow/1-conv-4-nodes-0-dense", 2.0),
        ("narrow/1-conv-2-nodes-0-dense", -3.0),
    ):
        finalist = Run(study.folder / "rounds" / run, study.records)
        set_score(finalist, bias=bias)
        assert finalist.evaluate() == 0
    assert write_study_report(study.folder) == study.folder / "report.html"
    return study


def write_images(root: Path):
    for number in range(12):
        for name in NASTY_KEYS:
            file = root / NASTY_CLASSES[0] / f"{name}{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)  # </script> makes a folder
            file.write_bytes(jpeg(number))
        other = root / NASTY_CLASSES[1] / f"{number}.jpg"
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(jpeg(100 + number, light=90))


def write_study(study: Study, failing: NetworkConfig):
    manifest = load_manifest(study.records)
    about = {
        **{"plan": PLAN, "plan_name": "tiny<script>", "records": str(study.records)},
        **{"records_digest": manifest.digest, "classes": list(manifest.classes)},
        **{
            "image": vars(manifest.image),
            "notice": "",
            "scaled": {"available": 42, "factor": 0.25},
        },
        **{
            "options": {
                "seed": 7,
                "examples_scale": 1.0,
                "epochs_scale": 0.5,
                "repeats": 2,
                "precision": "auto",
                "augment": [],
            }
        },
        **{"versions": {"inkling": "1.2.3", "optuna": "4.5.6"}, "started": "2026-11-22T16:00:00Z"},
        "machine": {"cores": 2, "processor": "<u>quick</u>", "memory_gb": 8, "gpus": ["A", "B"]},
    }
    (study.folder / "study.json").write_text(json.dumps(about))
    wide = sorted(
        (study.trial(f"wide/{network.name}") for network in NETWORKS), key=lambda t: t["val_loss"]
    )
    failed = {
        **dict.fromkeys((*FIGURES, "images_per_second")),
        **{"model": failing.name, "run": f"rounds/wide/{failing.name}", "state": "failed"},
        **{"why": "the loss is <b>no</b> finite number", "params": vars(failing)},
    }
    narrow = [study.trial(f"narrow/{network.name}") for network in NETWORKS[:2]]
    narrow.sort(key=lambda trial: trial["val_loss"])
    names = [network.name for network in NETWORKS[:2]]
    rounds = [
        {"name": ROUNDS[0], "examples": 30, "epochs": 3, "validation_fraction": 0.2}
        | {"seconds": 61.4, "trials": [*wide, failed], "chosen": names},
        {"name": ROUNDS[1], "examples": None, "epochs": 2, "validation_fraction": 0.2}
        | {"seconds": 3600, "trials": narrow, "chosen": [names[1]]},
    ]
    finalists = [
        {"model": name, "run": f"rounds/narrow/{name}", "val_loss_mean": mean, "val_loss_std": std}
        | {"repeats": [f"rounds/narrow/{name}-seed-{seed}" for seed in (1, 2)]}
        for name, mean, std in ((names[1], 0.51234, 0.00321), (names[0], 0.61234, 0.01321))
    ]
    result = {"finished": True, "rounds": rounds, "finalists": finalists}
    write_result(study, result | {"winner": names[1], "why": WHY})


def write_result(study: Study, result: dict):
    (study.folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def copy(study, tmp_path) -> Study:
    """A copy of `study` to be changed."""
    return Study(shutil.copytree(study.folder, tmp_path / "study"), study.records)


def page_of(study: Study) -> Page:
    assert report(["--study", str(study.folder)]) == 0
    return Page(study.folder / "report.html")


def chart(study: Study, div_id: str) -> list[dict]:
    """The traces of a chart, as the page hands them to Plotly."""
    text = (study.folder / "report.html").read_text()
    start = text.index(
        "[", text.index(f'"{div_id}",', text.index("Plotly.newPlot(", text.index(f'id="{div_id}"')))
    )
    return json.JSONDecoder().raw_decode(text[start:])[0]


def charts(page: Page) -> list[str]:
    ids = [attributes.get("id", "") for tag, attributes in page.tags if tag == "div"]
    return [name for name in ids if name.startswith("chart-")]


def history(study: Study, run: str, column: str) -> list[float]:
    with (study.folder / run / "history.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def test_the_report_says_who_won_and_why(study):
    text = words(Page(study.folder / "report.html").text)
    winner = study.result()["finalists"][0]
    figures = Run(study.folder / winner["run"], study.records).figures()
    low, high = (f"{100 * end:.2f}%" for end in figures["accuracy_interval"])
    parameters = study.trial("narrow/1-conv-4-nodes-0-dense")["parameters"]
    for expected in (
        f"Why it won. {WHY}",
        "Validation loss 0.51234 ± 0.00321 over 3 seeds",
        f"Parameters {parameters} of the winner",
        f"Test accuracy {100 * figures['accuracy']:.2f}% 95% interval {low} to {high}",
        f"Misclassified {figures['misclassified']} of {figures['images']} images",
        f"Test loss {figures['loss']:.4f}",
        "6 trainings in 2 rounds",
        "The data set has 42 examples to train on, fewer than the plan asks for",
        "multiplied by 0.25",
        "asked to take 1 of the examples and 0.5 of the epochs",
    ):
        assert expected in text
    assert "Not finished" not in text


def test_the_best_of_each_round_and_the_finalists_stand_in_tables(study):
    text = words(Page(study.folder / "report.html").text)
    for number, (states, time) in enumerate(
        (("3 complete, 1 failed", "1:01"), ("2 complete", "1:00:00"))
    ):
        best = study.result()["rounds"][number]["trials"][0]
        figures = (
            f"{best['val_loss']:.5f} {100 * best['val_accuracy']:.2f}% {best['best_epoch']} of"
        )
        assert f"{ROUNDS[number]} {best['model']} {figures} {best['epochs']}" in text
        speed = f"{best['parameters']:,} {best['images_per_second']:,.0f} 0:"
        assert f"{speed}{round(best['seconds']):02d} {states} {time}" in text
    for number, finalist in enumerate(study.result()["finalists"]):
        figures = Run(study.folder / finalist["run"], study.records).figures()
        low, high = (f"{100 * end:.2f}%" for end in figures["accuracy_interval"])
        assert (
            f"{figures['loss']:.4f} {100 * figures['accuracy']:.2f}% {low} to {high} "
            f"{figures['misclassified']} of {figures['images']}"
        ) in text
        assert (
            f"Opening {number + 1} of this test split; "
            f"{('no other model was', '1 other model was')[number]} tested on it before. More of it in "
            f"{finalist['run']}"
        ) in text
        rows = zip(NASTY_CLASSES, figures["confusion_matrix"], strict=True)
        for name, (left, right) in rows:
            assert f"{printed(name)} {left} {right} {left + right}" in text


def printed(name: str) -> str:
    return name.replace("\x1b", "\\x1b").replace("\u202e", "\\x202e")


def test_the_curves_are_those_of_the_runs_the_best_first(study):
    for number, one in enumerate(study.result()["rounds"], 1):
        complete = [trial for trial in one["trials"] if trial["state"] == "complete"]
        for column in ("epoch", "seconds"):
            traces = chart(study, f"chart-{number}-{column}")
            assert [trace["name"] for trace in traces] == [trial["model"] for trial in complete]
            for trace, trial in zip(traces, complete, strict=True):
                assert trace["x"] == history(study, trial["run"], column)
                assert trace["y"] == history(study, trial["run"], "val_loss")
                assert min(trace["y"]) == trial["val_loss"]
                assert trace["text"][1].startswith("epoch 2, ")
    first, second = (chart(study, f"chart-{number}-epoch") for number in (1, 2))
    colour = {trace["name"]: trace["line"] for trace in first}
    assert len({line["color"] for line in colour.values()}) == 3
    assert all(trace["line"] == colour[trace["name"]] for trace in second)


def test_every_image_that_a_finalist_got_wrong_is_there_once_with_key_and_scores(study):
    """The winner takes all for class 1, the other finalist all for class 0."""
    page = Page(study.folder / "report.html")
    text = words(page.text)
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    wrong = [
        (place, file)
        for place, finalist in enumerate(study.result()["finalists"], 1)
        for file in Run(study.folder / finalist["run"], study.records).figures()[
            "misclassified_files"
        ]
    ]
    tests = load_manifest(study.records).splits["test"].records
    assert len(wrong) == tests == len(pictures) == len(set(pictures))
    for place, file in wrong:
        score = {1: "0.8808", 2: "0.0474"}[place]  # sigmoid of 2 and of -3
        assert words(f"{printed(file['key'])} {printed(file['label'])}, #{place} {score}") in text
        assert printed(file["key"]) in pictures


def test_what_most_finalists_got_wrong_comes_first(copy):
    first, second = (
        copy.folder / one["run"] / "evaluation.json" for one in copy.result()["finalists"]
    )
    figures = json.loads(second.read_text())
    files = json.loads(first.read_text())["misclassified_files"]
    own_mistake = {"key": "own", "label": "x", "score": 0.99}
    shared = [dict(files[5], score=0.6), dict(files[2], score=0.7)]
    figures["misclassified_files"] = [*shared, own_mistake]
    second.write_text(json.dumps(figures))
    page = page_of(copy)
    shown = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert shown[:3] == [printed(files[number]["key"]) for number in (2, 5, 0)]
    assert len(shown) == len(files)
    assert "#1 0.8808, #2 0.7000" in words(page.text)
    assert "1 more, without their pictures image class #1 #2 own x – 0.9900" in words(page.text)


def test_no_name_becomes_markup(study):
    page = Page(study.folder / "report.html")
    assert charts(page) == [
        *("chart-1-epoch", "chart-1-seconds", "chart-2-epoch", "chart-2-seconds"),
        "chart-parallel",
    ]
    assert page.count("script") == len(charts(page)) + 2  # Plotly, each chart, the page's own
    assert not any(tag in ("i", "u") for tag, _ in page.tags)
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(set(picture) == {"src", "alt", "decoding"} for picture in pictures)
    for text in (*NASTY_KEYS[:4], NASTY_KEYS[6], *ROUNDS, WHY, *PLAN.splitlines()[:3]):
        assert text in page.text
    assert "tiny<script>" in page.text
    assert "<u>quick</u>" in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def test_how_it_was_made_is_told(study):
    text = words(Page(study.folder / "report.html").text)
    for expected in (
        f"records {study.records}",
        f"digest {load_manifest(study.records).digest}",
        "image 12x12x1",
        "seed 7 examples_scale 1.0 epochs_scale 0.5 repeats 2 precision auto augment none",
        "cores 2 processor <u>quick</u> memory_gb 8 gpus A, B",
        "begun 2026-11-22T16:00:00Z all rounds 1:01:01",
        "inkling 1.2.3 optuna 4.5.6",
        'Plan tiny<script> # </pre><script>alert(5)</script> [[round]] name = "wide" conv = [1]',
    ):
        assert expected in text


def test_trainings_that_failed_are_named_with_the_reason(study):
    text = words(Page(study.folder / "report.html").text)
    assert f"{ROUNDS[0]} 2-conv-2-nodes-0-dense failed the loss is <b>no</b> finite number" in text


def test_a_study_that_has_only_begun_has_a_page_of_what_is_there(study, tmp_path):
    begun = Study(tmp_path / "begun", study.records)
    begun.folder.mkdir()
    shutil.copy(study.folder / "study.json", begun.folder)
    text = words(page_of(begun).text)
    assert "Not finished. This study is still running, or it was cut off" in text
    assert "No training has begun." in text
    assert "no training is complete" in text


def test_a_study_that_was_cut_off_in_its_first_round_is_read_from_its_runs(copy):
    (copy.folder / "result.json").unlink()
    shutil.rmtree(copy.folder / "rounds" / "narrow")
    cut_off, failed = NETWORKS[2].name, "2-conv-2-nodes-0-dense"
    (copy.folder / "rounds" / "wide" / cut_off / "result.json").unlink()
    page = page_of(copy)
    text = words(page.text)
    assert "Not finished." in text
    best, other = sorted(
        (copy.trial(f"wide/{one.name}") for one in NETWORKS[:2]), key=lambda t: t["val_loss"]
    )
    assert f"Best so far {best['model']}" in text
    assert "wide All examples, 3 epochs" in text
    assert "2 complete, 2 unfinished –" in text
    names = [trace["name"] for trace in chart(copy, "chart-1-epoch")]
    assert names == [best["model"], other["model"], cut_off]
    losses, accuracy = (
        history(copy, f"rounds/wide/{cut_off}", name) for name in ("val_loss", "val_accuracy")
    )
    at = losses.index(min(losses))
    assert f"{cut_off} {losses[at]:.5f} {100 * accuracy[at]:.2f}% {at + 1} 3 –" in text
    assert f"{failed} – – – – – – – unfinished" in text
    assert [trace["name"] for trace in chart(copy, "chart-parallel")[:-1]] == [
        other["model"],
        best["model"],
    ]


def test_a_round_that_is_running_stands_beside_those_that_are_over(copy):
    result = copy.result()
    running = copy.folder / "rounds" / "narrow" / NETWORKS[1].name
    (running / "result.json").unlink()
    (running / "evaluation.json").unlink()
    known = result["rounds"][:1]
    write_result(
        copy, {"finished": False, "rounds": known, "finalists": [], "winner": None, "why": ""}
    )
    page = page_of(copy)
    text = words(page.text)
    assert "Not finished." in text
    assert "Why it won" not in text
    assert "finalists" not in text
    assert "1 complete, 1 unfinished –" in text
    assert f"Best so far {NETWORKS[0].name}" in text
    assert charts(page)[2:4] == ["chart-2-epoch", "chart-2-seconds"]
    assert "3 complete, 1 failed 1:01" in text  # none of them twice


def test_finalists_that_wait_for_their_test_say_so(copy):
    for finalist in copy.result()["finalists"]:
        (copy.folder / finalist["run"] / "evaluation.json").unlink()
    page = page_of(copy)
    assert words(page.text).count("Not tested yet") == 2
    assert "Misclassified" not in page.text
    assert page.count("img") == 0


def test_a_model_that_a_round_has_twice_is_named_by_its_run(copy):
    shutil.copytree(
        copy.folder / "rounds/narrow" / NETWORKS[0].name, copy.folder / "rounds/narrow/again"
    )
    result = copy.result()
    trials = result["rounds"][1]["trials"]
    trials.append(dict(trials[0], model=NETWORKS[0].name, run="rounds/narrow/again"))
    write_result(copy, result)
    page_of(copy)
    names = {trace["name"] for trace in chart(copy, "chart-2-epoch")}
    assert names == {NETWORKS[0].name, NETWORKS[1].name, "again"}


def test_the_page_can_be_made_again_without_the_records(copy):
    before = page_of(copy).text
    about = (copy.folder / "study.json").read_text()
    (copy.folder / "study.json").write_text(about.replace(str(copy.records), "/gone"))
    assert page_of(copy).text == before.replace(str(copy.records), "/gone")


def replace_in(name, **values):
    def change(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | values))

    return change


def without(name, field):
    def change(folder):
        found = json.loads((folder / name).read_text())
        del found[field]
        (folder / name).write_text(json.dumps(found))

    return change


TESTED = "rounds/narrow/1-conv-4-nodes-0-dense"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "study.json").write_text("{"),
        lambda folder: (folder / "result.json").write_text("[]"),
        lambda folder: (folder / TESTED / "config.json").write_text("\xff"),
        lambda folder: (folder / TESTED / "gallery.json").write_text("{"),
        lambda folder: (folder / TESTED / "history.csv").write_text("epoch\n" + "9" * 200_000),
        without("study.json", "machine"),
        without("study.json", "plan"),
        without(f"{TESTED}/evaluation.json", "confusion_matrix"),
        without(f"{TESTED}/config.json", "training"),
        replace_in("study.json", classes=None),
        replace_in("result.json", rounds=[{}]),
        replace_in("result.json", rounds=7),
        replace_in("result.json", finalists=[{"model": "x"}]),
    ],
)
def test_damaged_files_get_one_clear_line(copy, capsys, change):
    change(copy.folder)
    assert report(["--study", str(copy.folder)]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error
    assert str(copy.folder) in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--study", "nowhere"], "nowhere has no study.json, so it is no study; make one"),
        (["--study", "a", "--run", "b"], "not allowed with argument --study"),
        ([], "one of the arguments --run --study is required"),
    ],
)
def test_what_cannot_be_reported_gets_one_clear_line(capsys, arguments, line):
    assert report(arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("x", "whole"), [([1, 2, 3], True), ([0.5, 1, 2], False), (range(99), False)]
)
def test_an_axis_of_epochs_has_no_half_ones(x, whole):
    drawn = linked_chart(
        "a", [Line("b", x, list(x))], x_label="c", y_label="d", div_id="e", logarithmic=False
    )
    assert ('"dtick":1' in drawn) == whole


@pytest.mark.parametrize(
    ("values", "places", "ticks"),
    [
        ([32, 64], [0.25, 0.75], [(0.25, "32"), (0.75, "64")]),
        ([64, 32, 32], [0.75, 0.2, 0.3], [(0.25, "32"), (0.75, "64")]),  # side by side
        (["b", 2, None], [0.75, 0.25, None], [(0.25, "2"), (0.75, "b")]),
        (list(range(9)), [step / 8 for step in range(9)], None),  # too many for places of their own
    ],
)
def test_an_axis_gives_few_values_a_place_each(values, places, ticks):
    scale = place_values(values, best_first=range(len(values)))
    assert scale.places == pytest.approx(places)
    if ticks:
        assert [text for _, text in scale.ticks] == [text for _, text in ticks]
        assert [place for place, _ in scale.ticks] == pytest.approx([place for place, _ in ticks])


@pytest.mark.parametrize(
    ("values", "places", "ticks"),
    [
        ([2, 1, 3, None], [0.5, 0, 1, None], ["1", "1.5", "2", "2.5", "3"]),
        ([1, 10, 100], [0, 0.5, 1], ["1", "3.16", "10", "31.6", "100"]),  # logarithmic
        ([0, 50, 100], [0, 0.5, 1], ["0", "25", "50", "75", "100"]),  # zero has no logarithm
        ([0.3, 0.3], [0, 0], ["0.3"]),
    ],
)
def test_numbers_are_measured(values, places, ticks):
    scale = measure_numbers(values)
    assert scale.places == pytest.approx(places)
    assert [text for _, text in scale.ticks] == ticks


def test_every_line_of_the_parallel_coordinates_has_a_loss():
    for loss in (None, math.nan, "x"):
        with pytest.raises(ValueError, match="loss: every line needs a finite number"):
            parallel_chart("t", ["a", "b"], [Axis("loss", [0.1, loss])], div_id="x")


def test_parallel_coordinates_show_what_was_varied_the_best_on_top_and_blue(study):
    *lines, _ = chart(study, "chart-parallel")
    losses = [float(line["text"][0].split("validation loss: ")[1]) for line in lines]
    assert len(lines) == 5
    assert losses == sorted(losses, reverse=True)
    assert lines[-1]["line"]["color"] == "rgb(59,130,246)"
    assert lines[0]["line"]["color"] == "rgb(249,115,22)"
    named = [part.split(":")[0] for part in lines[0]["text"][0].split("<br>")]
    assert named == ["round", "units", "dense", "validation loss"]  # conv is 1 in all


def test_a_chart_can_tell_more_than_27_lines_apart():
    assert len(set(looks(54))) == 54
    assert all(a.colour != b.colour for a, b in zip(looks(54), looks(54)[1:], strict=False))
    assert looks(60)[54:] == looks(6)


# From here on in a real browser.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def wide(study, tmp_path_factory) -> Study:
    """A study with 27 models in its one round: real histories, each raised a little."""
    wide = Study(tmp_path_factory.mktemp("wide") / "study", study.records)
    (wide.folder / "rounds" / "all").mkdir(parents=True)
    shutil.copy(study.folder / "study.json", wide.folder)
    one, *_ = study.result()["rounds"][0]["trials"]
    trials = []
    for number in range(27):
        network = NetworkConfig(number // 9 + 1, 32 * 2 ** (number // 3 % 3), number % 3)
        run = shutil.copytree(study.folder / one["run"], wide.folder / f"rounds/all/{network.name}")
        losses = raise_losses(run / "history.csv", number / 50)
        trials.append(
            one | {"model": network.name, "run": f"rounds/all/{network.name}"}
            | {"params": vars(network), "val_loss": min(losses)}
        )  # fmt: skip
    first = {"name": "all", "examples": 30, "epochs": 3, "validation_fraction": 0.2, "seconds": 9.0}
    result = {"finished": False, "rounds": [first | {"trials": trials, "chosen": []}]}
    write_result(wide, result)
    write_study_report(wide.folder)
    return wide


def raise_losses(path: Path, by: float) -> list[float]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["val_loss"] = str(float(row["val_loss"]) + by)
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [float(row["val_loss"]) for row in rows]


@pytest.fixture
def opened(chromium, study) -> Chromium:
    chromium.show_as(width=1200, height=900)
    chromium.open(study.folder / "report.html")
    return chromium


BY_EPOCH, BY_TIME, PARALLEL = (
    f"document.getElementById('chart-{name}')" for name in ("1-epoch", "1-seconds", "parallel")
)
ROWS = "[...document.querySelector('.linked').querySelectorAll('[data-line]')]"


def count_lines(browser: Chromium) -> list[int]:
    """How many lines the two charts of the first round show."""
    counted = [
        f"{one}.querySelectorAll('.scatterlayer .trace').length" for one in (BY_EPOCH, BY_TIME)
    ]
    return browser.run(f"[{', '.join(counted)}]")


def go_to(browser: Chromium, element: str) -> Sequence[float]:
    browser.run(f"{element}.scrollIntoView({{block: 'center'}})")
    return browser.run(f"{MIDDLE}({element})")


def test_the_page_works_offline_and_without_complaint(opened, study):
    assert opened.requests()[0] == (study.folder / "report.html").as_uri()
    assert all(map(own, opened.requests()))
    assert opened.complaints() == []
    assert not any(event["method"] == "Page.javascriptDialogOpening" for event in opened.events)
    assert opened.run("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    text = opened.run("document.body.textContent")
    for name in NASTY_KEYS[:4]:
        assert name in text


def test_curves_are_drawn_within_their_charts(opened):
    drawn = opened.run(
        "[...document.querySelectorAll('.js-plotly-plot')].map((chart) => ["
        "[...chart.querySelectorAll('.scatterlayer .js-line')]"
        ".filter((line) => line.getTotalLength() > 50 && parseFloat(line.style.strokeWidth) > 0)"
        ".length, chart.querySelector('svg').getBoundingClientRect().width <= chart.clientWidth + 1,"
        "chart.getBoundingClientRect().right <= document.documentElement.clientWidth])"
    )
    assert drawn == [[lines, True, True] for lines in (3, 3, 2, 2, 5)]


def test_hovering_names_the_model_and_lets_its_line_stand_out(opened, study):
    x, y = go_to(opened, f"{BY_TIME}.querySelectorAll('.trace')[1].querySelectorAll('.point')[1]")
    opened.point_at(x, y)
    trial = study.result()["rounds"][0]["trials"][1]
    hover = opened.run(f"{BY_TIME}.querySelector('.hoverlayer').textContent")
    assert hover.startswith(trial["model"])
    assert "epoch 2, " in hover
    shown = f"[...{BY_EPOCH}.querySelectorAll('.trace')].map((one) => one.style.opacity)"
    assert opened.run(shown) == ["0.12", "", "0.12"]
    assert opened.run(f"{ROWS}.map((row) => row.classList.contains('focus'))") == [
        False,
        True,
        False,
    ]
    opened.point_at(5, 5)
    assert opened.run(shown) == ["", "", ""]


def test_a_click_on_a_model_hides_it_in_both_charts_and_another_brings_it_back(opened):
    button = f"{ROWS}[0].querySelector('button')"
    x, y = go_to(opened, button)
    assert count_lines(opened) == [3, 3]
    opened.point_at(x, y, click=True)
    assert count_lines(opened) == [2, 2]
    assert opened.run(f"{button}.getAttribute('aria-pressed')") == "false"
    opened.point_at(x, y, click=True)
    assert count_lines(opened) == [3, 3]
    assert opened.complaints() == []


def test_a_hidden_line_does_not_mix_up_which_one_stands_out(opened):
    opened.run(f"{ROWS}[0].querySelector('button').click()")
    opened.settle()
    x, y = go_to(opened, f"{ROWS}[2].querySelector('button')")
    opened.point_at(x, y)
    shown = f"[...{BY_EPOCH}.querySelectorAll('.trace')].map((one) => one.style.opacity)"
    assert opened.run(shown) == ["0.12", ""]


def test_the_buttons_show_all_none_or_one_and_change_the_scale(opened):
    def press(selector: str) -> list[int]:
        opened.run(f"document.querySelector('.linked').querySelector('{selector}').click()")
        opened.settle()
        return count_lines(opened)

    assert press("[data-show=none]") == [0, 0]
    assert press("[data-show=all]") == [3, 3]
    opened.run(f"{ROWS}[1].querySelector('button').dispatchEvent(new Event('dblclick'))")
    opened.settle()
    assert count_lines(opened) == [1, 1]
    assert opened.run(f"{BY_EPOCH}.data.map((one) => one.visible)") == [False, True, False]
    press("[data-scale]")
    assert opened.run(f"[{BY_EPOCH}, {BY_TIME}].map((one) => one.layout.yaxis.type)") == ["log"] * 2
    press("[data-scale]")
    assert opened.run(f"{BY_EPOCH}.layout.yaxis.type") == "linear"
    assert opened.complaints() == []


def test_hovering_over_the_parallel_coordinates_names_the_model(opened):
    x, y = go_to(opened, f"{PARALLEL}.querySelectorAll('.trace')[4].querySelectorAll('.point')[3]")
    opened.point_at(x, y)
    name = opened.run(f"{PARALLEL}.data[4].name")
    hover = opened.run(f"{PARALLEL}.querySelector('.hoverlayer').textContent")
    assert hover.startswith(name)
    assert "validation loss: " in hover
    opacity = f"[...{PARALLEL}.querySelectorAll('.trace')].map((one) => one.style.opacity)"
    assert opened.run(opacity) == ["0.12"] * 4 + ["", ""]  # the last are the texts of the axes


def test_27_lines_have_a_legend_that_can_be_read(chromium, wide):
    chromium.show_as(width=1200, height=900)
    chromium.open(wide.folder / "report.html")
    assert chromium.complaints() == []
    assert count_lines(chromium) == [27, 27]
    swatches = chromium.run(
        f"{ROWS}.map((row) => row.querySelector('svg line'))"
        ".map((line) => [line.getAttribute('stroke'), line.getAttribute('stroke-dasharray')])"
    )
    assert len({tuple(swatch) for swatch in swatches}) == 27
    drawn = chromium.run(f"{BY_EPOCH}.data.map((one) => [one.line.color, one.line.dash])")
    assert drawn == [[colour, dash or "solid"] for colour, dash in swatches]
    painted = chromium.run(
        f"[...{BY_EPOCH}.querySelectorAll('.js-line')].map((line) => line.style.strokeDasharray)"
    )
    assert [dash.replace("px", "").replace(" ", "") for dash in painted] == [
        dash for _, dash in swatches
    ]
    chromium.run("document.querySelector('[data-show=best]').click()")
    chromium.settle()
    assert count_lines(chromium) == [5, 5]


def test_colours_follow_the_readers_scheme(chromium, study):
    text = f"getComputedStyle({PARALLEL}.querySelector('.textpoint text')).fill"
    for dark in (False, True):
        chromium.show_as(width=1200, height=900, dark=dark)
        if not dark:
            chromium.open(study.folder / "report.html")
        chromium.settle()
        ink = {False: "rgb(28, 36, 48)", True: "rgb(228, 232, 238)"}[dark]
        assert chromium.run("getComputedStyle(document.body).color") == ink
        assert chromium.run(text) == ink


def test_the_page_fits_a_phone(chromium, study, wide):
    for one in (study, wide):
        chromium.show_as(width=390, height=844)
        chromium.open(one.folder / "report.html")
        assert chromium.run("document.documentElement.scrollWidth") == 390
        assert chromium.run(f"{BY_EPOCH}.getBoundingClientRect().right <= 390")

"""The report as a reader sees it: complete, offline, and not to be steered by any name."""

from __future__ import annotations

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from model.charts import Line, line_chart
from model.gallery import GALLERY_FILE, png_uri
from model.report import main as report
from model.train import main as train
from pipeline.manifest import load_manifest
from pipeline.reader import RecordReader
from tests.chromium import Chromium
from tests.conftest import build, jpeg
from tests.model.conftest import Run

NASTY_KEYS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>.jpg',
    "' onmouseover='alert(3)",
    "a&amp;b &lt;",
    "\x1b[2Jcleared",
    "\u202egpj.exe",
    "{{ 7*7 }}{% raw %}",
)
NASTY_CLASSES = ("<img src=x onerror=alert(4)>", "%{x} & <b>comics<\u2215b>\x1b[2J")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory) -> Run:
    """A tested run that takes everything for class 1, and so misclassifies every file of class 0."""
    root = tmp_path_factory.mktemp("nasty")
    for number in range(12):
        for name in NASTY_KEYS:
            file = root / "images" / NASTY_CLASSES[0] / f"{name}{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)  # </script> makes a folder
            file.write_bytes(jpeg(number))
        other = root / "images" / NASTY_CLASSES[1] / f"{number}.jpg"
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(jpeg(100 + number, light=90))
    run = Run(root / "run", root / "records")
    options = ("--classes", ",".join(NASTY_CLASSES), "--image_size", "8x8", "--test_fraction", 0.5)
    assert build("--input", root / "images", "--output", run.records, *options) == 0
    small = ("--conv", "1", "--units", "2", "--dense", "0", "--epochs", "2")
    assert train(["--records", str(run.records), "--run", str(run.folder), *small]) == 0
    set_score(run, bias=2.0)
    assert run.evaluate() == 0
    return run


def set_score(run: Run, *, bias: float):
    """Make the network say sigmoid(bias) to every image."""
    from model.network import build_network
    from model.runs import load_run

    network = build_network(load_run(run.folder)[0].network, load_manifest(run.records).image)
    score = network.get_layer("score")
    score.set_weights([score.get_weights()[0] * 0, np.array([bias])])
    network.save_weights(run.folder / "best.weights.h5")


class Page(HTMLParser):
    """What an HTML parser makes of a page: its tags with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.text += " "

    def handle_data(self, data):
        if self.tags[-1:] and self.tags[-1][0] not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_report_says_all_that_the_evaluation_found(tested):
    figures = tested.figures()
    text = words(Page(tested.folder / "report.html").text)
    low, high = (f"{100 * end:.2f}%" for end in figures["accuracy_interval"])
    for expected in (
        f"Test accuracy {100 * figures['accuracy']:.2f}% 95% interval {low} to {high}",
        f"Misclassified {figures['misclassified']} of {figures['images']} images",
        f"Loss {figures['loss']:.4f}",
        f"Calibration error {figures['calibration_error']:.4f}",
        "This was opening 1 of this test split; no other model was tested on it before.",
        "batch_size 16",
        "seed 0",
        f"digest {load_manifest(tested.records).digest}",
        f"source {load_manifest(tested.records).source['uri']}",
        "image 32x40x1",
    ):
        assert expected in text
    assert "NOTICE" not in text
    for name, version in json.loads((tested.folder / "config.json").read_text())[
        "versions"
    ].items():
        assert f"{name} {version}" in text


def test_the_tables_of_the_report_are_those_of_the_evaluation(nasty):
    """Every image of class 0 is taken for class 1, by this run."""
    first, second = load_manifest(nasty.records).splits["test"].records_per_class
    figures = nasty.figures()
    assert figures["confusion_matrix"] == [[0, first], [0, second]]
    text = words(Page(nasty.folder / "report.html").text)
    assert f"{NASTY_CLASSES[0]} 0 {first} {first} – 0.00%" in text
    share = f"{100 * second / (first + second):.2f}%"
    assert f"0.50 {share} {share} 100.00% {first} 0" in text
    assert f"0.95 {100 * first / (first + second):.2f}% – 0.00% 0 {second}" in text  # above 0.88


def test_no_name_becomes_markup(nasty):
    shown = [file["key"] for file in nasty.figures()["misclassified_files"]]
    for name in NASTY_KEYS:
        assert any(name in key for key in shown), name
    page = Page(nasty.folder / "report.html")
    charts = len(page_charts(nasty))
    assert page.count("script") == charts + 2  # Plotly, each chart, the colours
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(shown) + len(nasty.figures()["least_certain_files"])
    assert all(set(picture) == {"src", "alt", "decoding"} for picture in pictures)
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    for name in (*NASTY_KEYS[:4], NASTY_KEYS[6], "\\x1b[2Jcleared", "\\x202egpj.exe"):
        assert name in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def page_charts(run: Run) -> list[str]:
    """Titles of the charts that the run's history and its evaluation ask for."""
    (header, *_) = csv.reader((run.folder / "history.csv").open())
    wanted = {
        **{"Loss by epoch": "loss", "Loss by time": "loss"},
        **{"Accuracy by epoch": "accuracy", "Accuracy by time": "accuracy"},
        **{"Speed": "images_per_second", "Waiting for input": "input_wait"},
    }
    found = [title for title, column in wanted.items() if column in header]
    return [*found, "Reliability"] if (run.folder / "evaluation.json").exists() else found


def test_the_gallery_shows_the_pixels_of_the_records(tested):
    import base64
    import io

    from PIL import Image

    shown = json.loads((tested.folder / GALLERY_FILE).read_text())
    with RecordReader(tested.records, load_manifest(tested.records), "test") as reader:
        numbers = np.arange(reader.records)
        images, _ = reader.read(numbers)
        pixels = dict(zip(reader.read_keys(numbers), images, strict=True))
    named = tested.figures()["misclassified_files"] + tested.figures()["least_certain_files"]
    assert set(shown) == {file["key"] for file in named}
    for key, uri in shown.items():
        png = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
        assert np.array_equal(np.asarray(png), pixels[key][..., 0])
    large = png_uri(np.zeros((1024, 512, 3), np.uint8)).removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(large))).size == (128, 256)


def test_a_long_gallery_is_cut_and_says_so(tested, tmp_path):
    folder = shutil.copytree(tested.folder, tmp_path / "run")
    figures = tested.figures()
    one = {"key": "faces/x.jpg", "label": "faces", "score": 0.9}
    figures["misclassified_files"] = [dict(one, key=f"faces/{n}.jpg") for n in range(1234)]
    figures["misclassified"] = 1234
    (folder / "evaluation.json").write_text(json.dumps(figures))
    assert report(["--run", str(folder)]) == 0
    page = Page(folder / "report.html")
    assert "1,034 more stand in evaluation.json" in words(page.text)
    assert "faces/199.jpg" in page.text
    assert "faces/200.jpg" not in page.text


def test_a_run_that_was_not_tested_has_its_curves_and_says_so(run, capsys):
    assert report(["--run", str(run.folder)]) == 0
    assert capsys.readouterr().out == f"report: {run.folder / 'report.html'}\n"
    page = Page(run.folder / "report.html")
    assert "Not tested yet. What follows comes from training" in words(page.text)
    assert f"python -m model.evaluate --run {run.folder}" in page.text
    assert page.count("script") == len(page_charts(run)) + 2
    assert "Misclassified" not in page.text
    assert not (run.records / "openings.jsonl").exists()


def test_the_report_can_be_made_again_without_the_records(tested, tmp_path):
    folder = shutil.copytree(tested.folder, tmp_path / "run")
    config = (folder / "config.json").read_text().replace(str(tested.records), "/gone")
    (folder / "config.json").write_text(config)
    before = (folder / "report.html").read_text()
    assert report(["--run", str(folder)]) == 0
    after = (folder / "report.html").read_text().replace("/gone", str(tested.records))
    assert after.replace(str(folder), str(tested.folder)) == before


def test_what_makes_the_figures_worth_less_is_said_first(run, image_folder):
    other = run.folder.parent / "other"
    given = ("--input", image_folder, "--classes", "faces,comics", "--image_size", "32x40")
    assert build(*given, "--output", other, "--seed", 5) == 0
    run.records.rename(run.folder.parent / "old")
    other.rename(run.records)
    assert run.evaluate() == 0
    set_score(run, bias=1.0)
    result = json.loads((run.folder / "result.json").read_text())
    (run.folder / "result.json").write_text(json.dumps(dict(result, notice="only a sample")))
    assert report(["--run", str(run.folder)]) == 0
    notices = words(Page(run.folder / "report.html").text)
    assert "NOTICE only a sample" in notices
    assert "NOTICE Tested on other records than it was trained on" in notices
    assert "NOTICE The weights of this run have changed since they were tested" in notices


def keep_columns(*columns):
    def change(folder):
        with (folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        lines = [columns, *([row[name] for name in columns] for row in rows)]
        (folder / "history.csv").write_text("".join(",".join(line) + "\n" for line in lines))

    return change


@pytest.mark.parametrize(
    ("change", "charts"),
    [
        (keep_columns("epoch", "loss", "val_loss"), ["loss-by-epoch"]),
        (keep_columns("epoch", "accuracy"), ["accuracy-by-epoch"]),
        (keep_columns("loss", "accuracy"), []),
        (lambda folder: (folder / "history.csv").write_text("epoch,loss\n"), []),
        (lambda folder: (folder / "history.csv").write_text(""), []),
        (lambda folder: (folder / "history.csv").unlink(), []),
    ],
    ids=["loss", "accuracy", "no x", "no epochs", "empty", "none"],
)
def test_the_curves_that_are_there_are_drawn(run, change, charts):
    change(run.folder)
    assert report(["--run", str(run.folder)]) == 0
    page = Page(run.folder / "report.html")
    found = [
        a["id"] for tag, a in page.tags if tag == "div" and a.get("id", "").startswith("chart-")
    ]
    assert found == [f"chart-{name}" for name in charts]
    assert ("The run has no history" in page.text) == (not charts)


def test_a_gap_in_the_history_is_a_gap_in_the_curve(run):
    (run.folder / "history.csv").write_text("epoch,loss\n1,nan\n2,inf\n3,x\n4\n5,0.5\n")
    assert report(["--run", str(run.folder)]) == 0
    page = (run.folder / "report.html").read_text()
    assert '"x":[1.0,2.0,3.0,4.0,5.0],"y":[null,null,null,null,0.5]' in page


def without(name):
    def change(folder):
        values = json.loads((folder / "evaluation.json").read_text())
        del values[name]
        (folder / "evaluation.json").write_text(json.dumps(values))

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "evaluation.json").write_text("{"),
        lambda folder: (folder / "evaluation.json").write_text("[]"),
        lambda folder: (folder / "result.json").write_text("{}"),
        lambda folder: (folder / GALLERY_FILE).write_text("{"),
        lambda folder: (folder / "history.csv").write_text("epoch,loss\n1," + "9" * 200_000),
        without("opening"),
        without("confusion_matrix"),
        without("calibration_bins"),
    ],
)
def test_damaged_files_get_one_clear_line(tested, tmp_path, capsys, change):
    folder = shutil.copytree(tested.folder, tmp_path / "run")
    change(folder)
    assert report(["--run", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error
    assert f"python -m model.evaluate --run {folder}" in error
    assert len(error.splitlines()) == 1


def test_what_is_no_run_gets_one_clear_line(tmp_path, capsys):
    assert report(["--run", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert report(["--runs", "x"]) == 2


# From here on in a real browser.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    browser.show_as(width=1200, height=900)
    yield browser
    browser.close()


@pytest.fixture
def opened(chromium, tested):
    """The browser with the report of `tested` in it."""
    chromium.show_as(width=1200, height=900)
    chromium.open(tested.folder / "report.html")
    return chromium


def own(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


def test_the_page_works_offline_and_without_complaint(opened, tested):
    assert opened.requests()[0] == (tested.folder / "report.html").as_uri()
    assert [url for url in opened.requests()[1:] if not url.startswith(("data:", "blob:"))] == []
    assert opened.complaints() == []
    assert opened.run("[...document.images].length") > 0
    assert opened.run("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")


def test_the_policy_of_the_page_lets_nothing_out(opened):
    """What would a name have to do? It cannot: the page may not fetch, whatever runs in it."""
    script = "fetch('https://example.com/').then(() => 'fetched', () => 'refused')"
    assert opened.run(script) == "refused"
    assert any("Content Security Policy" in json.dumps(one) for one in opened.complaints())


def test_curves_are_drawn_within_their_charts(opened, tested):
    drawn = opened.run(
        "[...document.querySelectorAll('.js-plotly-plot')].map((chart) => ["
        "chart.querySelector('.gtitle').textContent,"
        "[...chart.querySelectorAll('.scatterlayer .js-line')]"
        ".every((line) => line.getTotalLength() > 50 && parseFloat(line.style.strokeWidth) > 0),"
        "chart.querySelector('svg').getBoundingClientRect().width <= chart.clientWidth + 1,"
        "chart.getBoundingClientRect().right <= document.documentElement.clientWidth])"
    )
    assert drawn == [[title, True, True, True] for title in page_charts(tested)]


LOSS = "document.getElementById('chart-loss-by-epoch')"
MIDDLE = (  # of an element, in CSS pixels
    "((one) => { const box = one.getBoundingClientRect();"
    " return [box.x + box.width / 2, box.y + box.height / 2]; })"
)


def test_hovering_names_the_point_and_a_click_on_the_legend_hides_a_line(opened):
    opened.run(f"{LOSS}.scrollIntoView()")
    x, y = opened.run(
        f"{MIDDLE}({LOSS}.querySelectorAll('.trace')[1].querySelectorAll('.point')[2])"
    )
    opened.point_at(x, y)
    hover = opened.run(f"{LOSS}.querySelector('.hoverlayer').textContent")
    assert "validation" in hover
    assert "epoch: 3" in hover
    assert opened.run(f"{LOSS}.querySelectorAll('.scatterlayer .trace').length") == 2
    x, y = opened.run(f"{MIDDLE}({LOSS}.querySelector('.legendtoggle'))")
    opened.point_at(x, y, click=True)
    opened.settle()  # Plotly waits whether a second click follows
    assert opened.run(f"{LOSS}.querySelectorAll('.scatterlayer .trace').length") == 1
    assert opened.complaints() == []


def test_colours_follow_the_readers_scheme(chromium, tested):
    tick = f"getComputedStyle({LOSS}.querySelector('.xtick text')).fill"
    colours = {}
    for dark in (False, True):
        chromium.show_as(width=1200, height=900, dark=dark)
        if not dark:
            chromium.open(tested.folder / "report.html")
        chromium.settle()
        colours[dark] = (
            chromium.run("getComputedStyle(document.body).backgroundColor"),
            chromium.run("getComputedStyle(document.body).color"),
        )
        assert chromium.run(tick) == colours[dark][1]  # a chart has the page's colour
    assert colours == {
        False: ("rgb(255, 255, 255)", "rgb(28, 36, 48)"),
        True: ("rgb(20, 24, 31)", "rgb(228, 232, 238)"),
    }


def test_the_page_fits_a_phone(chromium, tested, nasty):
    for run in (tested, nasty):
        chromium.show_as(width=390, height=844)
        chromium.open(run.folder / "report.html")
        assert chromium.run("document.documentElement.scrollWidth") == 390
        assert chromium.run(
            "[...document.querySelectorAll('.js-plotly-plot')].every((chart) => "
            "chart.getBoundingClientRect().right <= 390)"
        )


def test_nasty_names_do_nothing_in_a_browser(chromium, nasty):
    chromium.show_as(width=1200, height=900)
    chromium.open(nasty.folder / "report.html")
    assert chromium.complaints() == []
    assert all(map(own, chromium.requests()))
    assert not any(event["method"] == "Page.javascriptDialogOpening" for event in chromium.events)
    text = chromium.run("document.body.textContent")
    for name in NASTY_KEYS[:4]:
        assert name in text
    label = "document.getElementById('chart-reliability').querySelector('.ytitle').textContent"
    assert chromium.run(label) == "share of %{x} & <b>comics<\u2215b>\\x1b[2J"


def test_a_chart_shows_names_as_they_are(chromium, tmp_path):
    from plotly.offline import get_plotlyjs

    names = ["</script><script>alert(1)</script>", "%{x}<b>bold</b>", "a &amp; b", "<!-- ]]> -->"]
    lines = [Line(name, [1, 2], [index, index]) for index, name in enumerate(names)]
    chart = line_chart("<i>t</i>", lines, x_label="x</sub>", y_label="<br>%{x}")
    page = tmp_path / "chart.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><script>{get_plotlyjs()}</script>{chart}")
    chromium.show_as(width=1200, height=900)
    chromium.open(page)
    assert chromium.complaints() == []
    assert chromium.run("document.scripts.length") == 2
    texts = "[...document.querySelectorAll('.legendtext')].map((one) => one.textContent)"
    assert chromium.run(texts) == names
    titles = (
        "['.gtitle', '.xtitle', '.ytitle'].map((one) => document.querySelector(one).textContent)"
    )
    assert chromium.run(titles) == ["<i>t</i>", "x</sub>", "<br>%{x}"]
    x, y = chromium.run(f"{MIDDLE}(document.querySelectorAll('.trace')[1].querySelector('.point'))")
    chromium.point_at(x, y)
    hover = chromium.run("document.querySelector('.hoverlayer').textContent")
    assert hover == "%{x}<b>bold</b>x</sub>: 1<br>%{x}: 1"

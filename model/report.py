"""`report.html` of a run or a study: `python -m model.report --run runs/NAME` or `--study runs/study`.

`model.evaluate` makes that of a run too, `model.search` that of a study. Made from the folder alone: it
can be made again after the records have gone, and it never opens the test split. A run that was trained
and not yet tested has curves only, and the page says so.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from model.charts import Line, line_chart
from model.gallery import load_gallery
from model.history import read_history
from model.openings import describe_opening, model_digest
from model.pages import REPORT_FILE, render_page
from model.runs import CONFIG_FILE, EVALUATION_FILE, RESULT_FILE, WEIGHTS_FILE, load_run
from model.studies.page import write_study_report
from pipeline.console import Parser
from pipeline.errors import UsageError, command, printable
from pipeline.files import write_text

SHOWN_MISCLASSIFIED = 200
"""So many misclassified images are shown, the surest errors first; the page says how many more."""

_LOSS = {"loss": "training", "val_loss": "validation"}
_ACCURACY = {"accuracy": "training", "val_accuracy": "validation"}
_CURVES = (  # title, column of x, column or unit of y, columns that are drawn and their names
    ("Loss by epoch", "epoch", "loss", _LOSS),
    ("Loss by time", "seconds", "loss", _LOSS),
    ("Accuracy by epoch", "epoch", "accuracy", _ACCURACY),
    ("Accuracy by time", "seconds", "accuracy", _ACCURACY),
    ("Speed", "epoch", "images per second", {"images_per_second": "training"}),
    ("Waiting for input", "epoch", "share of the time", {"input_wait": "training"}),
)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of the run or the study that `argv` names."""
    parser = Parser("python -m model.report", "Make report.html of a trained model or a study.")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--run", help="folder that model.train made")
    asked.add_argument("--study", help="folder that model.search made")
    given = parser.parse_strictly(argv)
    if given.study is not None:
        path = write_study_report(Path(given.study))
    else:
        path = write_report(Path(given.run))
    print(printable(f"report: {path}"))
    return 0


def write_report(folder: Path) -> Path:
    """Make the report of the run in `folder`; its path.

    Raises UsageError if it is no finished run, or if its files are not what this Inkling writes.
    """
    load_run(folder)  # says what is missing
    try:
        page = render_page("run.html", _values(folder))
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise UsageError(
            f"--run: the files of {folder} are damaged, or from another version of Inkling "
            f"({type(error).__name__}: {error}); test again: python -m model.evaluate --run {folder}"
        ) from error
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def _values(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / CONFIG_FILE)
    values = {
        "run": str(folder),
        "config": config,
        "options": _options(config["training"]),
        "result": _read_json(folder / RESULT_FILE),
        "curves": list(_curves(read_history(folder))),
        "tested": None,
    }
    if not (folder / EVALUATION_FILE).exists():
        return values
    tested = _read_json(folder / EVALUATION_FILE)
    opening = tested["opening"]
    return values | {
        "tested": tested,
        "opening": describe_opening(opening["number"], tested["other_models"]),
        "tested_another": opening["model"] != model_digest(folder / WEIGHTS_FILE),
        "reliability": _reliability_diagram(
            tested["calibration_bins"], config["trained_on"]["classes"][1]
        ),
        "shown": tested["misclassified_files"][:SHOWN_MISCLASSIFIED],
        "pictures": load_gallery(folder),
    }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _options(training: dict[str, Any]) -> dict[str, Any]:
    """Name and value of each option, those of the network among them."""
    flat = {**training["network"], **training}
    del flat["network"]
    return flat


def _curves(history: dict[str, list[float]]) -> Iterator[Markup]:
    for title, x, y_label, columns in _CURVES:
        lines = [
            Line(name, history[x], history[column])
            for column, name in columns.items()
            if {x, column} <= set(history)
        ]
        if lines:
            yield line_chart(title, lines, x_label=x, y_label=y_label)


def _reliability_diagram(bins: Sequence[dict[str, Any]], name: str) -> Markup:
    """Share of class 1, `name`, against score, bin by bin: a calibrated model is on the diagonal."""
    model = Line(
        "this model",
        [one["mean_score"] for one in bins],
        [one["share"] for one in bins],
        notes=[f"{one['images']:,} images" for one in bins],
    )
    perfect = Line("perfectly calibrated", [0, 1], [0, 1], dashed=True)
    return line_chart(
        "Reliability", [model, perfect], x_label="mean score", y_label=f"share of {name}"
    )


if __name__ == "__main__":
    sys.exit(main())

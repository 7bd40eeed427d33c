"""`report.html` of a study: who won and why, how every model learnt, and what the finalists got wrong.

Made from the study's folder alone, at any moment: a study that is running, or that was cut off, gets a
page of what is there. It never opens the test split; that is done by the search, when all is chosen.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup

from model.charts import Line, Look, linked_chart, looks
from model.openings import describe_opening
from model.pages import REPORT_FILE, render_page
from model.parallel import Axis, parallel_chart
from model.studies.folder import COMPLETE
from model.studies.reading import UNFINISHED, Finalist, Round, Study, Trial, load_study
from pipeline.errors import UsageError
from pipeline.files import write_text

_CURVES = (  # title, column of x, its name
    ("Validation loss by epoch", "epoch", "epoch"),
    ("Validation loss by time", "seconds", "seconds"),
)

_WIDE_RANGE = 5  # highest loss by median, from which on the axis is logarithmic


@dataclass(frozen=True)
class Entry:
    """A trial as a page shows it, under a `label` that is its own in its round.

    line: its number in the charts of its round, None if it has no curve; look: the same in every round.
    """

    trial: Trial
    label: str
    line: int | None
    look: Look


@dataclass(frozen=True)
class Mistake:
    """An image that finalists misclassified: their places among the finalists, and their scores."""

    key: str
    label: str
    scores: dict[int, float] = field(default_factory=dict)


def write_study_report(folder: Path) -> Path:
    """Make the report of the study in `folder`; its path.

    Raises UsageError if it is no study, or if its files are not what this Inkling writes.
    """
    try:
        page = render_page("study.html", _values(folder, load_study(folder)))
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise UsageError(
            f"--study: the files of {folder} are damaged, or from another version of Inkling "
            f"({type(error).__name__}: {error}); run the same search again, it keeps what is whole"
        ) from error
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def _values(folder: Path, study: Study) -> dict[str, Any]:
    rounds = _entries(study.rounds)
    mistakes = _mistakes(study.finalists)
    pictures = {key: uri for one in study.finalists for key, uri in one.pictures.items()}
    return {
        "study": study,
        "folder": str(folder),
        "rounds": [
            {
                **{"round": one, "entries": entries, "logarithmic": _ranges_widely(entries)},
                "charts": list(_charts(number, entries)),
            }
            for number, (one, entries) in enumerate(zip(study.rounds, rounds, strict=True), 1)
        ],
        "leader": _leader(study),
        "winner": next((one for one in study.finalists if one.model == study.winner), None),
        "ended_early": [
            (one.name, entry)
            for one, entries in zip(study.rounds, rounds, strict=True)
            for entry in entries
            if entry.trial.state not in (COMPLETE, UNFINISHED)
        ],
        "parallel": _parallel(rounds),
        "openings": [_opening(one) for one in study.finalists],
        "pictured": [one for one in mistakes if one.key in pictures],
        "not_pictured": [one for one in mistakes if one.key not in pictures],
        "pictures": pictures,
    }


def _entries(rounds: Sequence[Round]) -> list[list[Entry]]:
    """For each round its trials, looking the same in every round."""
    names = sorted({_label(trial) for one in rounds for trial in one.trials}, key=_by_number)
    look = dict(zip(names, looks(len(names)), strict=True))
    return [list(_round_entries(one.trials, look)) for one in rounds]


def _round_entries(trials: Sequence[Trial], look: Mapping[str, Look]) -> Iterator[Entry]:
    lines = count()
    for trial in trials:
        label, drawn = _label(trial), bool(trial.history.get("val_loss"))
        yield Entry(trial, label, next(lines) if drawn else None, look[label])


def _label(trial: Trial) -> str:
    """The name of its folder: its model's, and its seed where the model is trained with several."""
    return Path(trial.run).name if trial.run else trial.model


def _by_number(name: str) -> list[str | int]:
    """Sorts `2-conv` before `10-conv`."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _charts(number: int, entries: Sequence[Entry]) -> Iterator[Markup]:
    """Each with the same lines in the same order, so that the page can link them."""
    drawn = [entry for entry in entries if entry.line is not None]
    for title, column, name in _CURVES:
        if any(column in entry.trial.history for entry in drawn):
            yield linked_chart(
                *(title, [_curve(entry, column) for entry in drawn]),
                x_label=name,
                y_label="validation loss",
                div_id=f"chart-{number}-{column}",
                logarithmic=_ranges_widely(entries),
            )


def _ranges_widely(entries: Sequence[Entry]) -> bool:
    """Whether the highest losses would press the others down to a line."""
    losses = [loss for entry in entries for loss in entry.trial.history.get("val_loss", ())]
    sound = [loss for loss in losses if math.isfinite(loss) and loss > 0]
    return bool(sound) and max(sound) > _WIDE_RANGE * statistics.median(sound)


def _curve(entry: Entry, column: str) -> Line:
    history = entry.trial.history
    losses = history["val_loss"]
    told = [f"epoch {epoch}" for epoch in range(1, len(losses) + 1)]
    for name, form in (("seconds", "{:,.1f} s"), ("val_accuracy", "accuracy {:.2%}")):
        if name in history:
            told = [f"{a}, {form.format(b)}" for a, b in zip(told, history[name], strict=True)]
    x = history.get(column) or [math.nan] * len(losses)
    return Line(entry.label, x, losses, notes=told, look=entry.look)


def _leader(study: Study) -> Trial | None:
    """The best trial of the last round that has a complete one."""
    complete = [
        trial for one in study.rounds for trial in one.trials[:1] if trial.state == COMPLETE
    ]
    return complete[-1] if complete else None


def _parallel(rounds: Sequence[Sequence[Entry]]) -> Markup | None:
    """Every trial with a validation loss; None where nothing was varied."""
    lines = [
        (number, entry)
        for number, entries in enumerate(rounds, 1)
        for entry in entries
        if entry.trial.state == COMPLETE and entry.trial.val_loss is not None
    ]
    names = dict.fromkeys(name for _, entry in lines for name in entry.trial.params)
    axes = [
        Axis(name, [_comparable(entry.trial.params.get(name)) for _, entry in lines])
        for name in names
    ]
    varied = [axis for axis in axes if len(set(axis.values)) > 1]
    if not varied:
        return None
    rounds_axis = [Axis("round", [number for number, _ in lines])] if len(rounds) > 1 else []
    loss = Axis("validation loss", [entry.trial.val_loss for _, entry in lines])
    return parallel_chart(
        "What was tried, and what came of it",
        [entry.label for _, entry in lines],
        [*rounds_axis, *varied, loss],
        div_id="chart-parallel",
    )


def _comparable(value: Any) -> float | str | None:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return value if value is None or is_number else str(value)


def _opening(finalist: Finalist) -> str:
    if finalist.tested is None:
        return "not tested yet"
    return describe_opening(finalist.tested["opening"]["number"], finalist.tested["other_models"])


def _mistakes(finalists: Sequence[Finalist]) -> list[Mistake]:
    """Each image once: first those that most of the finalists got wrong, the surest errors first."""
    mistakes: dict[str, Mistake] = {}
    for place, finalist in enumerate(finalists, 1):
        for file in (finalist.tested or {}).get("misclassified_files", ()):
            mistake = mistakes.setdefault(file["key"], Mistake(file["key"], file["label"]))
            mistake.scores[place] = file["score"]

    def order(mistake: Mistake) -> tuple[float, float]:
        return -len(mistake.scores), -max(abs(score - 0.5) for score in mistake.scores.values())

    return sorted(mistakes.values(), key=order)

"""`history.csv` of a run, read for drawing: a column for each figure, a row for each epoch."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from model.runs import HISTORY_FILE


def read_history(folder: Path) -> dict[str, list[float]]:
    """The columns of the history of the run in `folder`; NaN where there is no number.

    Nothing if there is no history yet. Raises csv.Error if the file is no table.
    """
    path = folder / HISTORY_FILE
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan

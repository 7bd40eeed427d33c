"""`history.csv` of a run, read: a row for each epoch, a column for each figure."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from model.runs import HISTORY_FILE


def read_epochs(folder: Path) -> list[dict[str, float]]:
    """The epochs of the run in `folder`, figures by name; NaN where there is no number.

    Nothing if there is no history yet. Raises csv.Error if the file is no table.
    """
    path = folder / HISTORY_FILE
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0] if rows else ()
    return [{name: _number(row[name]) for name in names} for row in rows]


def read_history(folder: Path) -> dict[str, list[float]]:
    """The same by columns. Raises csv.Error if the file is no table."""
    epochs = read_epochs(folder)
    return {name: [epoch[name] for epoch in epochs] for name in (epochs[0] if epochs else ())}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan

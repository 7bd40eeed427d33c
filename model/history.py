"""`history.csv` of a run, read: a row for each epoch, a column for each figure."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
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


def best_of(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a training that was validated came to so far, as `result.json` says it; {} for nothing.

    The figures of the epoch with the lowest validation loss, and the speed and time of them all.
    """
    sound = [epoch for epoch in epochs if math.isfinite(epoch.get("val_loss", math.nan))]
    if not sound:
        return {}
    best = min(sound, key=lambda epoch: epoch["val_loss"])
    return {
        **{name: best[name] for name in ("val_loss", "val_accuracy") if name in best},
        **{"best_epoch": int(best["epoch"]), "epochs": len(epochs)},
        **{"seconds": epochs[-1]["seconds"], "images_per_second": typical_speed(epochs)},
    }


def typical_speed(epochs: Sequence[Mapping[str, float]]) -> float:
    """Median images per second, without the first epoch, which compiles, where there are others."""
    return statistics.median(epoch["images_per_second"] for epoch in epochs[1:] or epochs)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan

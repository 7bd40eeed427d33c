"""Where an unfinished training stands: one file, written aside and renamed, numbers only.

    checkpoint.npz    variables/0, variables/1, …   network, optimizer, metrics of the begun epoch
                      best/0, best/1, …             weights of the best epoch so far
                      progress                      JSON: steps, seconds, the finished epochs

The best weights travel with the rest, so that they cannot be of another moment than the history.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.errors import WorkError, describe_os_error
from pipeline.files import write_aside


@dataclass
class TrainingState:
    """How far a training has come.

    step: steps done, over all epochs; seconds: spent training, resumptions together; epochs: a row
    of `history.csv` for each finished epoch; best: weights of the epoch with the lowest `monitored`.
    """

    step: int = 0
    seconds: float = 0.0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)

    def best_epoch(self, monitored: str) -> int:
        """Index of the finished epoch with the lowest `monitored`, the first of equals."""
        values = [row[monitored] for row in self.epochs]
        return values.index(min(values))


def save_checkpoint(path: Path, state: TrainingState, variables: Sequence[np.ndarray]) -> None:
    """Write `path`; what was there before stays until all is written. Raises WorkError."""
    progress = {"step": state.step, "seconds": state.seconds, "epochs": state.epochs}
    arrays = {f"variables/{i}": value for i, value in enumerate(variables)}
    arrays |= {f"best/{i}": value for i, value in enumerate(state.best)}
    packed = io.BytesIO()
    np.savez(packed, progress=np.array(json.dumps(progress)), **arrays)
    try:
        with write_aside(path) as file:
            file.write(packed.getbuffer())
    except OSError as error:
        raise WorkError(
            f"cannot write a checkpoint: {describe_os_error(error)}; the last one is kept: make room, "
            f"then python -m model.train --run {path.parent} --resume"
        ) from error


def load_checkpoint(path: Path) -> tuple[TrainingState, list[np.ndarray]] | None:
    """What `save_checkpoint` wrote; None if there is no file. Raises WorkError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            progress = json.loads(str(stored["progress"]))
            best = _in_turn(stored, "best/")
            return TrainingState(**progress, best=best), _in_turn(stored, "variables/")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise WorkError(
            f"{path} is damaged ({type(error).__name__}); train again: "
            f"python -m model.train --run {path.parent} --overwrite"
        ) from error


def _in_turn(stored: np.lib.npyio.NpzFile, prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in stored.files)
    return [stored[f"{prefix}{i}"] for i in range(count)]

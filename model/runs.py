"""The folder of one run: what was asked, what came of it, the best weights, the curves.

config.json       options, image spec, classes, digest of the records, versions
best.weights.h5   weights of the epoch with the lowest validation loss
history.csv       a line for each epoch: seconds, images per second, loss and accuracy
result.json       the best epoch in figures; written last: a run without one is not finished
checkpoint.npz    where an unfinished training stands (`model.checkpoint`)
tensorboard/      curves
evaluation.json, predictions.csv, gallery.json   from `model.evaluate`
report.html       from `model.evaluate` or `model.report`
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.manifest import Manifest

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
CHECKPOINT_FILE = "checkpoint.npz"
WEIGHTS_FILE = "best.weights.h5"
HISTORY_FILE = "history.csv"
EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.csv"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class TrainedOn:
    """What a model knows of its data: it must not judge records that differ in any of these."""

    image_digest: str
    classes: tuple[str, ...]
    records_digest: str

    @classmethod
    def of(cls, manifest: Manifest) -> TrainedOn:
        """The facts of one data set."""
        return cls(manifest.image.digest, manifest.classes, manifest.digest)


def create_run_folder(asked: Path | None, *, default_name: str, overwrite: bool) -> Path:
    """A new, empty folder. Raises UsageError if `asked` is taken and not to be overwritten."""
    folder = asked or _first_free(Path("runs") / default_name)
    if _is_taken(folder):
        if not overwrite:
            unfinished = (folder / CONFIG_FILE).exists() and not (folder / RESULT_FILE).exists()
            how = "--resume to go on with its training, " if unfinished else ""
            raise UsageError(
                f"--run: {folder} is there already; give another name, {how}or --overwrite to "
                "replace it"
            )
        if not (folder / CONFIG_FILE).exists():
            raise UsageError(f"--run: {folder} is no run of ours, not replaced; give another name")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _first_free(folder: Path) -> Path:
    candidate, number = folder, 1
    while _is_taken(candidate):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def load_config(file: Path) -> tuple[TrainConfig, TrainedOn]:
    """How a run was to be trained, and on what, from its `config.json`.

    Raises UsageError if there is none, or if it is damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        trained_on = dict(values["trained_on"], classes=tuple(values["trained_on"]["classes"]))
        return TrainConfig.from_json(values["training"]), TrainedOn(**trained_on)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{file.parent} has no {file.name}; train first: python -m model.train --run {file.parent}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} is not ours or damaged ({type(error).__name__}: {error})"
        ) from error


def load_run(folder: Path) -> tuple[TrainConfig, TrainedOn]:
    """What a finished run was trained on and how. Raises UsageError if it is none."""
    config, trained_on = load_config(folder / CONFIG_FILE)
    if not (folder / RESULT_FILE).exists():
        raise UsageError(
            f"--run: the training in {folder} did not finish (no {RESULT_FILE}); go on with it: "
            f"python -m model.train --run {folder} --resume"
        )
    return config, trained_on


def finished_result(folder: Path) -> dict[str, Any] | None:
    """What `result.json` holds; None while the run is not finished. Raises UsageError if damaged."""
    try:
        return json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{folder / RESULT_FILE} is damaged ({error}); train again") from error


def check_same_data(trained_on: TrainedOn, manifest: Manifest, records: Path) -> None:
    """Raise UsageError unless `records` have the image spec and the classes the model knows."""
    if trained_on.image_digest != manifest.image.digest:
        raise UsageError(
            f"--records: {records} holds images of {manifest.image} (digest "
            f"{manifest.image.digest}); the model was trained on others (digest "
            f"{trained_on.image_digest}): build the records with the options of its data set"
        )
    if trained_on.classes != manifest.classes:
        raise UsageError(
            f"--records: {records} has the classes {', '.join(manifest.classes)}; the model knows "
            f"{', '.join(trained_on.classes)}: build the records with --classes "
            f"{','.join(trained_on.classes)}"
        )


def config_json(
    config: TrainConfig, manifest: Manifest, versions: dict[str, str]
) -> dict[str, Any]:
    """The contents of `config.json`."""
    return {
        "training": config.to_json(),
        "trained_on": vars(TrainedOn.of(manifest)),
        "image": vars(manifest.image),
        "versions": versions,
    }

"""What stands in the folder of a study, at any moment of it: its rounds, their trials, the finalists.

`result.json` tells of what is over. The run folders below `rounds/` tell of the rest, so that a study
that is running, or that was cut off, can be looked at. Nothing is written here, no record is opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.gallery import load_gallery
from model.history import best_of, read_epochs, read_history
from model.runs import CONFIG_FILE, EVALUATION_FILE, finished_result, load_config
from model.studies.folder import (
    COMPLETE,
    ROUNDS_FOLDER,
    STUDY_FILE,
    read_object,
    read_result,
    read_study,
)
from pipeline.errors import UsageError

UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Trial:
    """One training; a figure is None where it is not known.

    run: its folder within the study, empty if it has none; state: COMPLETE, `failed`, `pruned`, or
    UNFINISHED: running, or cut off; why: it failed; params: its hyper-parameters by name; figures:
    those of its best epoch, as in `result.json`.
    """

    model: str
    run: str
    state: str
    why: str
    params: dict[str, Any]
    val_loss: float | None
    val_accuracy: float | None
    parameters: float | None
    epochs: float | None
    best_epoch: float | None
    seconds: float | None
    images_per_second: float | None
    history: dict[str, list[float]]


@dataclass(frozen=True)
class Round:
    """One round, its trials the best first; chosen: the models that went on to the next."""

    name: str
    examples: int | None
    epochs: int | None
    validation_fraction: float | None
    seconds: float | None
    trials: tuple[Trial, ...]
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Finalist:
    """One of the best models, trained with several seeds; tested: None until it was.

    tested: what `evaluation.json` of its `run` holds; pictures: the gallery of that run.
    """

    model: str
    run: str
    val_loss_mean: float | None
    val_loss_std: float | None
    seeds: int
    parameters: float | None
    tested: dict[str, Any] | None
    pictures: dict[str, str]


@dataclass(frozen=True)
class Study:
    """about: what `study.json` holds; winner and why: empty until there is one."""

    about: dict[str, Any]
    finished: bool
    rounds: tuple[Round, ...]
    finalists: tuple[Finalist, ...]
    winner: str
    why: str


def load_study(folder: Path) -> Study:
    """Everything that is known of the study in `folder`.

    Raises UsageError if it is no study, or if a file of it is damaged; ValueError, LookupError,
    TypeError, AttributeError or csv.Error if a file holds something else than a search writes.
    """
    about = read_study(folder)
    if about is None:
        raise UsageError(
            f"--study: {folder} has no {STUDY_FILE}, so it is no study; make one: "
            f"python -m model.search --records tfrecords/ --study {folder}"
        )
    result = read_result(folder) or {}
    finished, finalists = bool(result.get("finished")), result.get("finalists") or ()
    found = _runs_by_round(folder)
    rounds = [_told_round(folder, one, found) for one in result.get("rounds") or ()]
    if not finished:
        finals = {run for one in finalists for run in (one["run"], *one["repeats"])}
        rounds += _begun_rounds(folder, found, besides=finals)
    return Study(
        about=about,
        finished=finished,
        rounds=tuple(rounds),
        finalists=tuple(_finalist(folder, one) for one in finalists),
        winner=result.get("winner") or "",
        why=result.get("why") or "",
    )


def _runs_by_round(folder: Path) -> dict[str, list[str]]:
    """The runs below `rounds/`, by the name of the folder of their round."""
    found: dict[str, list[str]] = {}
    for config in sorted((folder / ROUNDS_FOLDER).glob(f"*/*/{CONFIG_FILE}")):
        run = config.parent.relative_to(folder).as_posix()
        found.setdefault(config.parent.parent.name, []).append(run)
    return found


def _told_round(folder: Path, values: dict[str, Any], found: dict[str, list[str]]) -> Round:
    """A round of `result.json`; takes the runs of its folder out of `found`."""
    trials = [_told_trial(folder, one) for one in values["trials"]]
    told = {trial.run for trial in trials}
    homes = {Path(run).parent.name for run in told if run}
    runs = [run for home in homes for run in found.pop(home, ()) if run not in told]
    return Round(
        name=values["name"],
        examples=values["examples"],
        epochs=values["epochs"],
        validation_fraction=values["validation_fraction"],
        seconds=_finite(values["seconds"]),
        trials=_best_first([*trials, *(_trial_on_disk(folder, run) for run in runs)]),
        chosen=tuple(values["chosen"]),
    )


def _begun_rounds(folder: Path, found: dict[str, list[str]], *, besides: set[str]) -> list[Round]:
    """The rounds of which only runs are there, the oldest first; runs of `besides` are no trials."""
    rounds = []
    for name, runs in sorted(found.items(), key=lambda item: _begun_at(folder, item[1])):
        trials = [_trial_on_disk(folder, run) for run in runs if run not in besides]
        if not trials:
            continue
        config, _ = load_config(folder / trials[0].run / CONFIG_FILE)
        asked = (config.examples, config.epochs, config.validation_fraction)
        rounds.append(Round(name, *asked, seconds=None, trials=_best_first(trials), chosen=()))
    return rounds


def _begun_at(folder: Path, runs: Iterable[str]) -> float:
    return min((folder / run / CONFIG_FILE).stat().st_mtime for run in runs)


def _best_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    def order(trial: Trial) -> tuple[bool, float]:
        return trial.state != COMPLETE, math.inf if trial.val_loss is None else trial.val_loss

    return tuple(sorted(trials, key=order))


def _told_trial(folder: Path, values: dict[str, Any]) -> Trial:
    run = values["run"] or ""
    return _trial(
        *(folder, run, values["model"], values["state"]),
        why=values["why"] or "",
        figures=values,
        params=values["params"],
        history=read_history(folder / run) if run else {},
    )


def _trial_on_disk(folder: Path, run: str) -> Trial:
    """A run of which `result.json` does not tell: of this moment, or cut off, or finished since."""
    result, history = finished_result(folder / run), read_history(folder / run)
    return _trial(
        *(folder, run, Path(run).name, COMPLETE if result else UNFINISHED),
        why="",
        figures=result or best_of(read_epochs(folder / run)),
        params={},
        history=history,
    )


def _trial(
    folder: Path, run: str, model: str, state: str, *,
    why: str, figures: dict[str, Any], params: dict[str, Any], history: dict[str, list[float]],
) -> Trial:  # fmt: skip
    names = ("val_loss", "val_accuracy", "parameters", "epochs", "best_epoch", "seconds")
    numbers = {name: _finite(figures.get(name)) for name in (*names, "images_per_second")}
    asked = _hyper_parameters(folder / run) if run else {}
    return Trial(model, run, state, why, params=asked | params, history=history, **numbers)


def _finite(value: float | None) -> float | None:
    """None for what is no finite number. Raises TypeError if it is no number at all."""
    return value if value is not None and math.isfinite(value) else None


def _hyper_parameters(run: Path) -> dict[str, Any]:
    """What a search varies, from the configuration of a run."""
    if not (run / CONFIG_FILE).exists():
        return {}
    config, _ = load_config(run / CONFIG_FILE)
    more = {"learning_rate": config.learning_rate, "batch_size": config.batch_size}
    return vars(config.network) | more


def _finalist(folder: Path, values: dict[str, Any]) -> Finalist:
    run = folder / values["run"]
    return Finalist(
        model=values["model"],
        run=values["run"],
        val_loss_mean=_finite(values["val_loss_mean"]),
        val_loss_std=_finite(values["val_loss_std"]),
        seeds=len({values["run"], *values["repeats"]}),
        parameters=(finished_result(run) or {}).get("parameters"),
        tested=read_object(run / EVALUATION_FILE),
        pictures=load_gallery(run),
    )

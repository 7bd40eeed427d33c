"""One training from its first step, or from where it was cut off, to its last.

Keras trains; what is written here is what it leaves open: a stream that can begin at any step, a
checkpoint that holds all that decides what comes next, and figures that do not depend on whether
the training was cut off on the way.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from model.config import TrainConfig
from model.curves import Curves
from model.hardware import compile_options, resolve_precision, strategy_for, to_device
from model.history import typical_speed
from model.network import build_network
from model.runs import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HISTORY_FILE,
    RESULT_FILE,
    TENSORBOARD_FOLDER,
    WEIGHTS_FILE,
    config_json,
)
from model.watch import InputMeter, SoundSteps, StepWatch
from pipeline import __version__
from pipeline.batches import Batches, evaluation_batches, join_small_last, training_batches
from pipeline.console import Progress
from pipeline.dataset import stream
from pipeline.errors import WorkError
from pipeline.files import write_json, write_text
from pipeline.manifest import Manifest
from pipeline.schema import ImageSpec

_POINTS_PER_EPOCH = 100  # of the curves by step


@dataclass(frozen=True)
class _Training:
    """What a training works with, all of it made from its configuration."""

    config: TrainConfig
    folder: Path
    batches: Batches
    validation: tf.data.Dataset | None
    network: keras.Model
    metrics: list[keras.Variable]
    curves: Curves
    checkpoint_every: int | None

    @property
    def variables(self) -> list[keras.Variable]:
        """All that decides what comes next, the metrics of the begun epoch last."""
        return [*self.network.variables, *self.network.optimizer.variables, *self.metrics]


def fit(
    config: TrainConfig, folder: Path, manifest: Manifest, *,
    checkpoint_every: int | None = None, say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Train, or go on from the checkpoint in `folder`; return what `result.json` holds.

    checkpoint_every: steps, beside the one after each epoch; say: takes a line for each epoch.
    Raises UsageError or WorkError; a damaged record raises tf.errors.OpError.
    """
    config = replace(config, precision=resolve_precision(config.precision))
    state, stored = load_checkpoint(folder / CHECKPOINT_FILE) or (TrainingState(), [])
    training = _prepare(config, folder, manifest.image, checkpoint_every)
    _restore(training, stored)
    write_json(folder / CONFIG_FILE, config_json(config, manifest, _versions()))
    if not state.step:
        training.curves.add_images(training.batches.read(0)[0])
    begun = state.step % training.batches.steps_per_epoch
    in_epoch = stored[-len(training.metrics) :] if begun else []
    while not _is_done(config, state):
        row = _train_epoch(training, state, in_epoch)
        in_epoch = []
        _end_epoch(training, state, row)
        say(_epoch_line(row, config.epochs))
    training.curves.close()
    return _finish(training, state, notice=manifest.source.get("notice", ""))


def _prepare(
    config: TrainConfig, folder: Path, image: ImageSpec, checkpoint_every: int | None
) -> _Training:
    part = {
        "batch_size": config.batch_size,
        "examples": config.examples,
        "validation_fraction": config.validation_fraction,
    }
    strategy = strategy_for(config.devices)
    devices = strategy.num_replicas_in_sync
    batches = training_batches(
        config.records, seed=config.seed, epochs=config.epochs, augment=config.augment, **part
    )
    batches = join_small_last(batches, least=devices)
    validation = None
    if config.validation_fraction:
        held_out = evaluation_batches(config.records, split="validation", **part)
        validation = stream(join_small_last(held_out, least=devices))
    network, metrics = _compile(config, image, strategy, batches.steps_per_epoch)
    curves = Curves(folder / TENSORBOARD_FOLDER)
    return _Training(
        config, folder, batches, validation, network, metrics, curves, checkpoint_every
    )


def _compile(
    config: TrainConfig, image: ImageSpec, strategy: tf.distribute.Strategy, steps_per_epoch: int
) -> tuple[keras.Model, list[keras.Variable]]:
    """The network, all its variables made, and those of them that belong to its metrics."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    options = compile_options(steps_per_epoch, deterministic=config.deterministic)
    with strategy.scope():
        network = build_network(config.network, image, precision=config.precision)
        watched = [keras.metrics.BinaryAccuracy(name="accuracy"), SoundSteps()]
        network.compile(
            optimizer=keras.optimizers.Adam(config.learning_rate),
            loss="binary_crossentropy",
            metrics=watched,
            **options,
        )
        network.optimizer.build(network.trainable_variables)
    return network, [v for metric in (network.metrics[0], *watched) for v in metric.variables]


def _restore(training: _Training, stored: list[np.ndarray]) -> None:
    """Raises WorkError if the checkpoint is of another network or another version of Keras."""
    variables = training.variables
    if not stored:
        return
    if [value.shape for value in stored] != [tuple(variable.shape) for variable in variables]:
        raise WorkError(
            f"{training.folder / CHECKPOINT_FILE} does not fit the network of {CONFIG_FILE}; train "
            f"again: python -m model.train --run {training.folder} --overwrite"
        )
    lasting = len(variables) - len(training.metrics)  # those are put back within their epoch
    for variable, value in zip(variables[:lasting], stored[:lasting], strict=True):
        variable.assign(value)


def _is_done(config: TrainConfig, state: TrainingState) -> bool:
    if len(state.epochs) >= config.epochs:
        return True
    if config.patience is None or not state.epochs:
        return False
    return len(state.epochs) - 1 - state.best_epoch(config.monitored) >= config.patience


def _train_epoch(
    training: _Training, state: TrainingState, in_epoch: list[np.ndarray]
) -> dict[str, float]:
    """Do the steps of an epoch that are still to do; its row of `history.csv`.

    in_epoch: what the metrics had gathered when the epoch was cut off, empty for a whole epoch.
    """
    config, batches = training.config, training.batches
    epoch, first = len(state.epochs), state.step
    last = (epoch + 1) * batches.steps_per_epoch
    images = (last - first - 1) * config.batch_size + len(batches.numbers(last - 1))
    follow = _Follower(training, state, last)
    meter = InputMeter()
    piece = meter.watch(stream(batches, first_step=first, last_step=last))
    with Progress(lambda: state.step * config.batch_size, unit="images",
                  total=config.epochs * batches.steps_per_epoch * config.batch_size):  # fmt: skip
        logs = training.network.fit(
            to_device(piece, devices=config.devices),
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,  # the stream is shuffled
            callbacks=[StepWatch(training.metrics, restored=in_epoch, on_steps=follow.steps_done)],
            verbose=0,
        ).history
        seconds = follow.seconds()
        validated = _validate(training)
    state.seconds = follow.spent + follow.seconds()
    return {
        "epoch": epoch + 1,
        "seconds": round(state.seconds, 3),
        "images_per_second": round(images / seconds, 1),
        "input_wait": round(meter.seconds / seconds, 4),
        "loss": logs["loss"][0],
        "accuracy": logs["accuracy"][0],
        **validated,
    }


class _Follower:
    """Told of every call of the device in one epoch: counts, checks, draws the curves, saves."""

    def __init__(self, training: _Training, state: TrainingState, last: int) -> None:
        self.spent = state.seconds
        self._training, self._state = training, state
        self._first, self._last, self._saved = state.step, last, state.step
        self._epoch_start = last - training.batches.steps_per_epoch
        self._begun = time.monotonic()
        self._drawn = {"steps": 0, "loss": 0.0, "accuracy": 0.0}  # sums over the epoch

    def seconds(self) -> float:
        """Since the epoch was begun or taken up again."""
        return time.monotonic() - self._begun

    def steps_done(self, steps: int, logs: dict[str, float]) -> None:
        """`steps` since the beginning of this fit; `logs`: means since that of the epoch."""
        state = self._state
        # Keras counts a last, shorter call as a full one
        state.step = min(self._first + steps, self._last)
        state.seconds = self.spent + self.seconds()
        _check_loss(self._training, state.step, logs)
        self._draw(state.step - self._epoch_start, logs)
        every = self._training.checkpoint_every
        if every and self._last > state.step >= self._saved + every:
            self._saved = state.step
            _save(self._training, state)

    def _draw(self, steps: int, logs: dict[str, float]) -> None:
        """A point of the curves by step: the mean since the last point."""
        drawn = self._drawn
        taken = steps - drawn["steps"]
        if taken < self._training.batches.steps_per_epoch / _POINTS_PER_EPOCH:
            return
        sums = {name: logs[name] * steps for name in ("loss", "accuracy")}
        means = {name: (total - drawn[name]) / taken for name, total in sums.items()}
        self._training.curves.add_step(self._state.step, **means)
        self._drawn = {"steps": steps, **sums}


def _validate(training: _Training) -> dict[str, float]:
    if training.validation is None:
        return {}
    logs = training.network.evaluate(training.validation, verbose=0, return_dict=True)
    return {f"val_{name}": logs[name] for name in ("loss", "accuracy")}


def _end_epoch(training: _Training, state: TrainingState, row: dict[str, float]) -> None:
    """Keep the weights if they are the best so far, and write down where the training stands."""
    state.epochs.append(row)
    if state.best_epoch(training.config.monitored) == len(state.epochs) - 1:
        state.best = [np.array(weight) for weight in training.network.get_weights()]
    _save(training, state)
    write_text(training.folder / HISTORY_FILE, _history_csv(state.epochs))
    training.curves.add_epoch(row)


def _finish(training: _Training, state: TrainingState, *, notice: str) -> dict[str, Any]:
    network, folder, config = training.network, training.folder, training.config
    network.set_weights(state.best)
    aside = folder / f"aside.{WEIGHTS_FILE}"  # Keras insists on the ending
    network.save_weights(aside)
    os.replace(aside, folder / WEIGHTS_FILE)
    best = state.epochs[state.best_epoch(config.monitored)]
    figures = {name: value for name, value in best.items() if name not in ("epoch", "seconds")}
    result = {
        "model": config.network.name,
        "parameters": network.count_params(),
        "epochs": len(state.epochs),
        "best_epoch": int(best["epoch"]),
        "stopped_early": len(state.epochs) < config.epochs,
        **figures,
        "images_per_second": typical_speed(state.epochs),
        "precision": config.precision,
        "seconds": round(state.seconds, 3),
        "notice": notice,
    }
    write_json(folder / RESULT_FILE, result)
    (folder / CHECKPOINT_FILE).unlink()
    return result


def _check_loss(training: _Training, step: int, logs: dict[str, float]) -> None:
    """Raise WorkError if the loss has become NaN or infinite, naming the first such batch."""
    batches = training.batches
    epoch, in_epoch = divmod(step - 1, batches.steps_per_epoch)
    sound = int(logs["sound_steps"])
    if sound > in_epoch and np.isfinite(logs["loss"]):
        return
    first_bad = epoch * batches.steps_per_epoch + min(sound, in_epoch)
    keys = ", ".join(batches.keys(first_bad))
    raise WorkError(
        f"the loss is no finite number from step {first_bad + 1} on (epoch {epoch + 1}): lower "
        f"--learning_rate, now {training.config.learning_rate:g}, or try --precision float32; the "
        f"images of that step: {keys}"
    )


def _save(training: _Training, state: TrainingState) -> None:
    values = [np.asarray(keras.ops.convert_to_numpy(v)) for v in training.variables]
    save_checkpoint(training.folder / CHECKPOINT_FILE, state, values)


def _history_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _epoch_line(row: dict[str, float], epochs: int) -> str:
    names = [name for name in ("loss", "accuracy", "val_loss", "val_accuracy") if name in row]
    figures = "  ".join(f"{name} {row[name]:.4f}" for name in names)
    rate = f"{row['images_per_second']:,.0f} images/s"
    return f"epoch {int(row['epoch'])}/{epochs}  {figures}  {rate}"


def _versions() -> dict[str, str]:
    return {"inkling": __version__, "keras": keras.__version__, "tensorflow": tf.__version__}

"""Train one network: `python -m model.train --records tfrecords/`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import TrainConfig, parse_train_options
from model.runs import (
    CONFIG_FILE,
    HISTORY_FILE,
    RESULT_FILE,
    TENSORBOARD_FOLDER,
    WEIGHTS_FILE,
    config_json,
    create_run_folder,
)
from pipeline import __version__
from pipeline.console import clock
from pipeline.errors import UsageError, command
from pipeline.files import write_json
from pipeline.manifest import Manifest, load_manifest

if TYPE_CHECKING:
    import keras


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train what `argv` asks for; 0 if the run folder holds a finished run in the end."""
    options = parse_train_options(argv)
    manifest = load_manifest(options.config.records)
    check_trainable(options.config, manifest)
    folder = create_run_folder(
        options.run, default_name=options.config.network.name, overwrite=options.overwrite
    )
    result = train(options.config, folder)
    print(_summary(result, folder, manifest))
    return 0


def check_trainable(config: TrainConfig, manifest: Manifest) -> None:
    """Raise UsageError if this network cannot learn these records."""
    config.network.check_fits(manifest.image)
    if len(manifest.classes) != 2:
        raise UsageError(
            f"--records: {config.records} has {len(manifest.classes)} classes; the network has one "
            "sigmoid unit, for two: build the records with --classes A,B"
        )


def train(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train, leave everything in the run folder `folder`, and return what `result.json` holds.

    Raises UsageError or WorkError; a damaged record raises tf.errors.OpError.
    """
    import keras  # TensorFlow takes seconds to load: a mistyped option is answered before that

    from model.network import build_network
    from pipeline.dataset import evaluation_dataset, training_dataset

    manifest = load_manifest(config.records)
    keras.utils.set_random_seed(config.seed)
    network = build_network(config.network, manifest.image)
    network.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    part = {
        "batch_size": config.batch_size,
        "examples": config.examples,
        "validation_fraction": config.validation_fraction,
    }
    stream = training_dataset(config.records, seed=config.seed, epochs=config.epochs, **part)
    validation = None
    if config.validation_fraction:
        validation = evaluation_dataset(config.records, split="validation", **part)
    write_json(folder / CONFIG_FILE, config_json(config, manifest, _versions()))
    start = time.monotonic()
    history = network.fit(
        stream,
        epochs=config.epochs,
        steps_per_epoch=int(stream.cardinality()) // config.epochs,
        validation_data=validation,
        shuffle=False,  # the stream is shuffled
        callbacks=_callbacks(folder, monitor=_monitored(config)),
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    result = _result(config, history, seconds=time.monotonic() - start)
    result |= {"parameters": network.count_params(), "notice": manifest.source.get("notice", "")}
    write_json(folder / RESULT_FILE, result)
    return result


def _monitored(config: TrainConfig) -> str:
    return "val_loss" if config.validation_fraction else "loss"


def _callbacks(folder: Path, *, monitor: str) -> list[keras.callbacks.Callback]:
    from keras import callbacks

    return [
        callbacks.ModelCheckpoint(
            str(folder / WEIGHTS_FILE), monitor=monitor, save_best_only=True, save_weights_only=True
        ),
        callbacks.CSVLogger(str(folder / HISTORY_FILE)),
        callbacks.TensorBoard(str(folder / TENSORBOARD_FOLDER), write_graph=False),
    ]


def _result(
    config: TrainConfig, history: dict[str, list[float]], *, seconds: float
) -> dict[str, Any]:
    losses = history[_monitored(config)]
    best = losses.index(min(losses))
    return {
        "model": config.network.name,
        "epochs": len(losses),
        "best_epoch": best + 1,
        **{name: values[best] for name, values in history.items()},
        "seconds": round(seconds, 3),
    }


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    return {"inkling": __version__, "keras": keras.__version__, "tensorflow": tf.__version__}


def _summary(result: dict[str, Any], folder: Path, manifest: Manifest) -> str:
    figures = [
        f"{label} {result[name]:.5f}"
        for name, label in (
            ("val_loss", "validation loss"),
            ("val_accuracy", "validation accuracy"),
            ("loss", "loss"),
            ("accuracy", "accuracy"),
        )
        if name in result
    ]
    lines = [
        f"{result['model']} ({result['parameters']:,} parameters): best epoch "
        f"{result['best_epoch']} of {result['epochs']}, {', '.join(figures)}",
        f"trained in {clock(result['seconds'])}; results in {folder}; curves: tensorboard --logdir "
        f"{folder}",
        f"next: python -m model.evaluate --run {folder}",
    ]
    if manifest.source.get("notice"):
        lines.insert(0, f"NOTICE: {manifest.source['notice']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Train one network: `python -m model.train --records tfrecords/`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from model.options import parse_train_options
from model.runs import TrainedOn, create_run_folder, finished_result
from pipeline.console import clock
from pipeline.errors import UsageError, command
from pipeline.manifest import Manifest, load_manifest


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train what `argv` asks for; 0 if the run folder holds a finished run in the end."""
    options = parse_train_options(argv)
    config = options.config
    manifest = load_manifest(config.records)
    check_trainable(config, manifest)
    check_expected(options.expected, manifest, config.records)
    folder = options.run
    if not options.resume:
        folder = create_run_folder(
            folder, default_name=config.network.name, overwrite=options.overwrite
        )
    result = finished_result(folder) if options.resume else None
    if not result:
        from model.fit import fit  # TensorFlow takes seconds: mistakes are answered before that

        result = fit(config, folder, manifest, checkpoint_every=options.checkpoint_every)
    print(_summary(result, folder, manifest))
    return 0


def check_trainable(config: TrainConfig, manifest: Manifest) -> None:
    """Raise UsageError if this network cannot learn these records."""
    config.network.check_fits(manifest.image)
    check_two_classes(config.records, manifest)


def check_two_classes(records: Path, manifest: Manifest) -> None:
    """Raise UsageError if the records are of more than two classes, or of one."""
    if len(manifest.classes) != 2:
        raise UsageError(
            f"--records: {records} has {len(manifest.classes)} classes; the network has one "
            "sigmoid unit, for two: build the records with --classes A,B"
        )


def check_expected(expected: TrainedOn | None, manifest: Manifest, records: Path) -> None:
    """Raise UsageError if the options were written for other records than these."""
    if expected and expected.records_digest != manifest.digest:
        raise UsageError(
            f"--records: {records} has digest {manifest.digest}; the options were written for records "
            f"of digest {expected.records_digest}: build those again, or give the options one by one"
        )


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

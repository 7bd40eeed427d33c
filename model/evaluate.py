"""The honest figure: `python -m model.evaluate --run runs/NAME` opens the test split, and says so.

Every opening is recorded (`model.openings`), also one that fails; testing is always in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.gallery import write_gallery
from model.metrics import Predictions, measure, predictions_csv
from model.openings import Opening, describe_opening, model_digest, record_opening
from model.report import SHOWN_MISCLASSIFIED, write_report
from model.runs import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    WEIGHTS_FILE,
    check_same_data,
    load_run,
)
from pipeline.console import Parser, Progress, table
from pipeline.errors import UsageError, command, printable
from pipeline.files import write_json, write_text
from pipeline.manifest import Manifest, load_manifest
from pipeline.reader import RecordReader

if TYPE_CHECKING:
    import keras

    from model.config import TrainConfig

_SHOWN_FILES = 10


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate the run that `argv` names; 0 if its figures were written."""
    parser = Parser("python -m model.evaluate", "Test a trained model on the test split.")
    parser.add_argument("--run", required=True, help="folder that model.train made")
    parser.add_argument("--records", help="folder of records; default: those it was trained on")
    given = parser.parse_strictly(argv)
    folder = Path(given.run)
    config, trained_on = load_run(folder)
    records = Path(given.records) if given.records else config.records
    manifest = load_manifest(records)
    check_same_data(trained_on, manifest, records)
    figures = evaluate(folder, config, records, manifest)
    report = write_report(folder)
    print(_summary(figures, manifest.classes))
    print(printable(f"report: {report}; all scores: {folder / PREDICTIONS_FILE}"))
    return 0


def evaluate(
    folder: Path, config: TrainConfig, records: Path, manifest: Manifest
) -> dict[str, Any]:
    """Test the run in `folder` on the test split of `records`; what `evaluation.json` then holds.

    Leaves `evaluation.json`, `predictions.csv` and the gallery of the report in `folder`. Raises
    UsageError (no test records) or WorkError; a damaged record raises tf.errors.OpError.
    """
    if not manifest.splits["test"].records:
        raise UsageError(
            f"--records: {records} has no test records; build with a larger --test_fraction"
        )
    with RecordReader(records, manifest, "test") as reader:
        network = _load_network(folder, config, manifest)
        opening, other_models = record_opening(
            records,
            records_digest=manifest.digest,
            model=model_digest(folder / WEIGHTS_FILE),
            run=folder,
        )
        predictions = _predict(network, records, reader, batch_size=config.batch_size)
        shown = np.concatenate([predictions.worst[:SHOWN_MISCLASSIFIED], predictions.least_certain])
        write_gallery(folder, reader, shown)
    figures = measure(predictions, manifest.classes) | _facts(
        opening, other_models, records, manifest
    )
    write_text(folder / PREDICTIONS_FILE, predictions_csv(predictions, manifest.classes))
    write_json(folder / EVALUATION_FILE, figures)
    return figures


def _load_network(folder: Path, config: TrainConfig, manifest: Manifest) -> keras.Model:
    """The trained network, less its sigmoid: float32[B, 1], logits."""
    import keras  # TensorFlow takes seconds: all that can be refused was

    from model.network import load_trained

    network = load_trained(config.network, manifest.image, folder / WEIGHTS_FILE)
    # In float32 a sigmoid is 1 from a logit of 17 on: all sure errors would weigh the same.
    network.get_layer("score").activation = keras.activations.linear
    return network


def _predict(
    network: keras.Model, records: Path, reader: RecordReader, *, batch_size: int
) -> Predictions:
    from scipy.special import expit

    from pipeline.dataset import evaluation_dataset

    logits, labels = [], []
    with Progress(lambda: sum(map(len, logits)), total=reader.records, unit="images"):
        for images, batch_labels in evaluation_dataset(
            records, split="test", batch_size=batch_size
        ):
            logits.append(network.predict_on_batch(images)[:, 0])
            labels.append(batch_labels.numpy())
    scores = expit(np.concatenate(logits).astype(np.float64))
    keys = reader.read_keys(np.arange(reader.records))
    return Predictions(keys, np.concatenate(labels), scores)


def _facts(
    opening: Opening, other_models: int, records: Path, manifest: Manifest
) -> dict[str, Any]:
    """What `evaluation.json` says of the test itself."""
    return {
        "notice": manifest.source.get("notice", ""),
        "records": printable(str(records.absolute())),
        "records_digest": manifest.digest,
        "source": manifest.source["uri"],
        "opening": asdict(opening),
        "other_models": other_models,
    }


def _summary(figures: dict[str, Any], classes: tuple[str, ...]) -> str:
    low, high = figures["accuracy_interval"]
    rows: list[tuple[object, ...]] = [("class", *(f"called {name}" for name in classes))]
    rows += zip(classes, *zip(*figures["confusion_matrix"], strict=True), strict=True)
    lines = [
        describe_opening(figures["opening"]["number"], figures["other_models"]),
        f"test accuracy {figures['accuracy']:.5f} (95 % interval {low:.5f} to {high:.5f}), loss "
        f"{figures['loss']:.5f}: {figures['misclassified']:,} of {figures['images']:,} images "
        "misclassified",
        "",
        table(rows),
        "",
    ]
    shown = figures["misclassified_files"][:_SHOWN_FILES]
    if shown:
        ends = f"0 is {classes[0]}, 1 is {classes[1]}"
        lines.append(printable(f"misclassified (score: {ends}; worst first):"))
        lines += [f"  {printable(file['key'])}  {file['score']:.4f}" for file in shown]
        if len(shown) < figures["misclassified"]:
            lines.append(f"  … and {figures['misclassified'] - len(shown):,} more")
    if figures["notice"]:
        lines.insert(0, printable(f"NOTICE: {figures['notice']}"))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

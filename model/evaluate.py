"""The honest figure: `python -m model.evaluate --run runs/NAME` opens the test split, once."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.runs import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    WEIGHTS_FILE,
    check_same_data,
    load_run,
)
from pipeline.console import Parser, table
from pipeline.errors import UsageError, WorkError, command, printable
from pipeline.files import write_json, write_text
from pipeline.manifest import load_manifest
from pipeline.reader import RecordReader

_SHOWN_FILES = 20
_SMALLEST = 1e-7  # Keras clips probabilities to this before the logarithm


@dataclass(frozen=True)
class Predictions:
    """keys, labels int64[N] and scores float64[N] (of class 1) of the test split, in its order."""

    keys: list[str]
    labels: np.ndarray
    scores: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """int64[N]: 1 where the score is above one half, as Keras' accuracy has it."""
        return (self.scores > 0.5).astype(np.int64)

    @property
    def wrong(self) -> np.ndarray:
        """bool[N]: where the prediction is not the label."""
        return self.predicted != self.labels


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate the run that `argv` names; 0 if its figures were written."""
    parser = Parser("python -m model.evaluate", "Test a trained model on the test split.")
    parser.add_argument("--run", required=True, help="folder that model.train made")
    parser.add_argument("--records", help="folder of records; default: those it was trained on")
    given = parser.parse_strictly(argv)
    folder = Path(given.run)
    predictions, classes, notice = predict_test_split(
        folder, Path(given.records) if given.records else None
    )
    figures = measure(predictions, classes) | {"notice": notice}
    write_text(folder / PREDICTIONS_FILE, predictions_csv(predictions, classes))
    write_json(folder / EVALUATION_FILE, figures)
    print(_summary(figures, predictions, classes, folder))
    return 0


def predict_test_split(
    folder: Path, records: Path | None
) -> tuple[Predictions, tuple[str, ...], str]:
    """Scores of the run in `folder` on the test split of `records`, the classes, and the notice.

    Raises UsageError (no such run, records that do not fit the model, no test records) or WorkError.
    """
    config, trained_on = load_run(folder)
    records = records or config.records
    manifest = load_manifest(records)
    check_same_data(trained_on, manifest, records)
    with RecordReader(records, manifest, "test") as reader:
        if not reader.records:
            raise UsageError(
                f"--records: {records} has no test records; build with a larger --test_fraction"
            )
        keys = reader.read_keys(np.arange(reader.records))

    from model.network import build_network  # loads TensorFlow: after all that can be refused
    from pipeline.dataset import evaluation_dataset

    network = build_network(config.network, manifest.image)
    try:
        network.load_weights(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError) as error:
        raise WorkError(
            f"{folder / WEIGHTS_FILE} cannot be loaded ({type(error).__name__}); train again: "
            f"python -m model.train --run {folder} --overwrite"
        ) from error
    scores, labels = [], []
    for images, batch_labels in evaluation_dataset(
        records, split="test", batch_size=config.batch_size
    ):
        scores.append(network.predict_on_batch(images)[:, 0])
        labels.append(batch_labels.numpy())
    predictions = Predictions(
        keys, np.concatenate(labels), np.concatenate(scores).astype(np.float64)
    )
    return predictions, manifest.classes, manifest.source.get("notice", "")


def measure(predictions: Predictions, classes: tuple[str, ...]) -> dict[str, Any]:
    """Loss, accuracy, and per class how many were misclassified; and which, surest error first."""
    labels, scores, wrong = predictions.labels, predictions.scores, predictions.wrong
    clipped = np.clip(scores, _SMALLEST, 1 - _SMALLEST)
    losses = -np.where(labels == 1, np.log(clipped), np.log(1 - clipped))
    return {
        "images": len(labels),
        "loss": float(losses.mean()),
        "accuracy": float(1 - wrong.mean()),
        "misclassified": int(wrong.sum()),
        "per_class": {
            name: {
                "images": int((labels == label).sum()),
                "misclassified": int(wrong[labels == label].sum()),
            }
            for label, name in enumerate(classes)
        },
        "misclassified_files": [
            {
                "key": predictions.keys[index],
                "label": classes[labels[index]],
                "score": float(scores[index]),
            }
            for index in np.argsort(-losses, kind="stable")
            if wrong[index]
        ],
    }


def predictions_csv(predictions: Predictions, classes: tuple[str, ...]) -> str:
    """A line for each test image: key, label, score of class 1, predicted label, correct."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "label", "score", "predicted", "correct"])
    columns = (predictions.keys, predictions.labels, predictions.scores, predictions.predicted)
    for key, label, score, predicted in zip(*columns, strict=True):
        correct = int(label == predicted)
        writer.writerow([key, classes[label], f"{score:.6f}", classes[predicted], correct])
    return text.getvalue()


def _summary(
    figures: dict[str, Any], predictions: Predictions, classes: tuple[str, ...], folder: Path
) -> str:
    rows: list[tuple[object, ...]] = [("class", "images", "misclassified")]
    for name, counts in figures["per_class"].items():
        rows.append((name, counts["images"], counts["misclassified"]))
    lines = [
        f"test accuracy {figures['accuracy']:.5f}, loss {figures['loss']:.5f}: "
        f"{figures['misclassified']} of {figures['images']:,} images misclassified",
        "",
        table(rows),
        "",
    ]
    shown = figures["misclassified_files"][:_SHOWN_FILES]
    if shown:
        lines.append(f"misclassified (score: 0 is {classes[0]}, 1 is {classes[1]}; worst first):")
        lines += [f"  {printable(file['key'])}  {file['score']:.4f}" for file in shown]
        if len(shown) < figures["misclassified"]:
            lines.append(f"  … and {figures['misclassified'] - len(shown)} more")
    lines.append(f"all scores: {folder / PREDICTIONS_FILE}; figures: {folder / EVALUATION_FILE}")
    if figures["notice"]:
        lines.insert(0, f"NOTICE: {figures['notice']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

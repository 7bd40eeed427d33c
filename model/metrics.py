"""How good a model with one score is: every figure comes from labels and scores and nothing else.

Label and score of class 1 are all that is known of an image; above one half, class 1 is predicted.
What is not defined (the precision of a class that was never predicted) is None, so that the figures
are valid JSON.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import WorkError

CALIBRATION_BINS = 15
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""0.05, 0.10 … 0.95: where else than at one half a score could be cut."""
LEAST_CERTAIN = 24
"""So many of the images whose score is nearest to one half are named."""


@dataclass(frozen=True)
class Predictions:
    """keys, labels int64[N] and scores float64[N] (of class 1) of the test split, in its order.

    Raises WorkError if a score is no number.
    """

    keys: list[str]
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        broken = int(np.isnan(self.scores).sum())
        if broken:
            raise WorkError(
                f"the model is broken: its score is no number (NaN) for {broken:,} of "
                f"{len(self.scores):,} images; train it anew: python -m model.train"
            )

    @property
    def predicted(self) -> np.ndarray:
        """int64[N]: 1 where the score is above one half, as Keras' accuracy has it."""
        return (self.scores > 0.5).astype(np.int64)

    @property
    def wrong(self) -> np.ndarray:
        """bool[N]: where the prediction is not the label."""
        return self.predicted != self.labels

    @property
    def worst(self) -> np.ndarray:
        """int64[misclassified]: numbers of the misclassified images, the surest error first."""
        order = np.argsort(-np.abs(self.labels - self.scores), kind="stable")
        return order[self.wrong[order]]

    @property
    def least_certain(self) -> np.ndarray:
        """int64[≤ LEAST_CERTAIN]: numbers of the images whose score is nearest to one half."""
        return np.argsort(np.abs(self.scores - 0.5), kind="stable")[:LEAST_CERTAIN]


def measure(predictions: Predictions, classes: tuple[str, ...]) -> dict[str, Any]:
    """Every figure of `evaluation.json` that the predictions decide, for two `classes`.

    `confusion_matrix` has a row for each true class and a column for each predicted one.
    """
    labels, scores, wrong = predictions.labels, predictions.scores, predictions.wrong
    error, bins = calibration(labels, scores)
    return {
        "images": len(labels),
        "loss": cross_entropy(labels, scores),
        "accuracy": float(1 - wrong.mean()),
        "accuracy_interval": list(wilson_interval(int((~wrong).sum()), len(wrong))),
        "misclassified": int(wrong.sum()),
        "roc_auc": roc_auc(labels, scores),
        "calibration_error": error,
        "confusion_matrix": confusion(labels, predictions.predicted).tolist(),
        "per_class": _per_class(predictions, classes),
        "calibration_bins": bins,
        "thresholds": [_at_threshold(labels, scores, threshold) for threshold in THRESHOLDS],
        "misclassified_files": _files(predictions, predictions.worst, classes),
        "least_certain_files": _files(predictions, predictions.least_certain, classes),
    }


def cross_entropy(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean binary cross-entropy, natural logarithm; of one image at most 36 (2.2e-16 from 0 or 1)."""
    from sklearn.metrics import log_loss  # slow to load, as all of scikit-learn and SciPy

    return float(log_loss(labels, scores, labels=[0, 1]))


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """95 % interval of the accuracy of which `right` of `images` are a sample.

    E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
    It takes the images for independent of each other.
    """
    from scipy.stats import binomtest

    interval = binomtest(right, images).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """How often an image of class 1 has a higher score than one of class 0; None if one is absent."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) > 1 else None


def calibration(labels: np.ndarray, scores: np.ndarray) -> tuple[float, list[dict[str, Any]]]:
    """The expected calibration error, and the bins of the reliability diagram that hold images.

    ECE = Σ over bins of (images in the bin / all images) · |share of class 1 − mean score|, in 15 bins
    of equal width, each without its lower end: Guo et al., On Calibration of Modern Neural Networks,
    ICML 2017, equation 3. As usual with two classes it is taken of the score of class 1, so that
    errors of one class do not make up for those of the other.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    places = np.digitize(scores, edges[1:-1], right=True)
    bins = [
        {
            "above": float(edges[place]),
            "up_to": float(edges[place + 1]),
            "images": int((places == place).sum()),
            "mean_score": float(scores[places == place].mean()),
            "share": float(labels[places == place].mean()),
        }
        for place in np.unique(places)
    ]
    gaps = (one["images"] * abs(one["share"] - one["mean_score"]) for one in bins)
    return sum(gaps) / len(labels), bins


def confusion(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """int64[2, 2]: how many images of the class of the row are taken for the class of the column."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predicted, labels=[0, 1])


def _per_class(predictions: Predictions, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    matrix = confusion(predictions.labels, predictions.predicted)
    return {
        name: {
            "images": int(matrix[label].sum()),
            "misclassified": int(matrix[label].sum() - matrix[label, label]),
            "precision": _share(matrix[label, label], matrix[:, label].sum()),
            "recall": _share(matrix[label, label], matrix[label].sum()),
        }
        for label, name in enumerate(classes)
    }


def _at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """What came of predicting class 1 above `threshold`; precision and recall are those of class 1."""
    matrix = confusion(labels, scores > threshold)
    return {
        "threshold": threshold,
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "precision": _share(matrix[1, 1], matrix[:, 1].sum()),
        "recall": _share(matrix[1, 1], matrix[1].sum()),
        "false_positives": int(matrix[0, 1]),
        "false_negatives": int(matrix[1, 0]),
    }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _files(
    predictions: Predictions, numbers: np.ndarray, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    return [
        {
            "key": predictions.keys[number],
            "label": classes[predictions.labels[number]],
            "score": float(predictions.scores[number]),
        }
        for number in numbers
    ]


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

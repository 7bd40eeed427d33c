"""Figures by hand: every metric on data small enough to work it out on paper."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model.metrics import Predictions, calibration, measure, predictions_csv, wilson_interval
from pipeline.errors import WorkError

FACES, COMICS = "faces", "comics"


def predictions(pairs: dict[str, tuple[int, float]]) -> Predictions:
    """From key → (label, score)."""
    labels, scores = zip(*pairs.values(), strict=True)
    return Predictions(list(pairs), np.array(labels), np.array(scores, np.float64))


def figures(pairs: dict[str, tuple[int, float]]) -> dict:
    found = measure(predictions(pairs), (FACES, COMICS))
    assert json.loads(json.dumps(found, allow_nan=False)) == found  # valid JSON, always
    return found


FOUR = {"a": (0, 0.25), "b": (0, 0.75), "c": (1, 0.4), "d": (1, 0.9)}


def test_figures_by_hand():
    found = figures(FOUR)
    assert found["images"] == 4
    assert found["accuracy"] == 0.5
    assert found["misclassified"] == 2
    assert found["loss"] == pytest.approx(-np.log([0.75, 0.25, 0.4, 0.9]).mean())
    assert found["confusion_matrix"] == [[1, 1], [1, 1]]
    assert (
        found["roc_auc"] == 0.75
    )  # of the pairs (a,c) (a,d) (b,c) (b,d) one is the wrong way round
    assert found["per_class"] == {
        FACES: {"images": 2, "misclassified": 1, "precision": 0.5, "recall": 0.5},
        COMICS: {"images": 2, "misclassified": 1, "precision": 0.5, "recall": 0.5},
    }
    assert found["misclassified_files"] == [  # the surest error first
        {"key": "b", "label": FACES, "score": 0.75},
        {"key": "c", "label": COMICS, "score": 0.4},
    ]
    assert [file["key"] for file in found["least_certain_files"]] == ["c", "a", "b", "d"]


def test_precision_and_recall_are_told_apart():
    found = figures({"a": (0, 0.1), "b": (0, 0.8), "c": (0, 0.2), "d": (1, 0.9)})
    assert found["confusion_matrix"] == [[2, 1], [0, 1]]
    assert found["per_class"][FACES]["precision"] == 1.0
    assert found["per_class"][FACES]["recall"] == pytest.approx(2 / 3)
    assert found["per_class"][COMICS]["precision"] == 0.5
    assert found["per_class"][COMICS]["recall"] == 1.0


def test_a_score_of_one_half_is_class_0_as_in_keras():
    assert figures({"a": (0, 0.5), "b": (1, 0.5)})["confusion_matrix"] == [[1, 0], [1, 0]]


def test_what_is_not_defined_is_none():
    found = figures({"a": (0, 0.1), "b": (0, 0.2)})
    assert found["roc_auc"] is None
    assert found["per_class"][COMICS] == {
        **{"images": 0, "misclassified": 0, "precision": None, "recall": None}
    }
    assert found["thresholds"][-1]["precision"] is None
    assert found["thresholds"][-1]["recall"] is None


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 100, 0.7222, 0.8749),  # Wilson's formula by hand, z = 1.95996
        (4, 4, 0.5101, 1.0),  # not the whole truth, though every image is right
        (0, 4, 0.0, 0.4899),
        (3999, 4000, 0.99859, 0.99996),  # the figure of the study
    ],
)
def test_the_interval_is_wilsons(right, images, low, high):
    z, p = 1.959964, right / images
    middle, half = (
        p + z * z / (2 * images),
        z * np.sqrt(p * (1 - p) / images + (z / images / 2) ** 2),
    )
    by_hand = [(middle + sign * half) / (1 + z * z / images) for sign in (-1, 1)]
    assert wilson_interval(right, images) == pytest.approx(by_hand, abs=1e-6)
    assert wilson_interval(right, images) == pytest.approx((low, high), abs=6e-5)


def test_calibration_by_hand():
    labels = np.array([0, 1, 1, 1, 0])
    scores = np.array([0.02, 0.04, 0.9, 0.92, 0.0])
    error, bins = calibration(labels, scores)
    first, last = bins
    assert (first["above"], first["up_to"], first["images"]) == (0.0, pytest.approx(1 / 15), 3)
    assert first["mean_score"] == pytest.approx(0.02)
    assert first["share"] == pytest.approx(1 / 3)
    assert (last["above"], last["images"], last["share"]) == (pytest.approx(13 / 15), 2, 1.0)
    assert error == pytest.approx(3 / 5 * (1 / 3 - 0.02) + 2 / 5 * (1 - 0.91))


@pytest.mark.parametrize(
    ("score", "above", "up_to"),
    [(0.0, 0, 1), (1 / 15, 0, 1), (0.067, 1, 2), (0.2, 2, 3), (1.0, 14, 15)],
)
def test_a_bin_is_without_its_lower_end(score, above, up_to):
    _, (one,) = calibration(np.array([1]), np.array([score]))
    assert (one["above"], one["up_to"]) == pytest.approx((above / 15, up_to / 15))


def test_a_perfectly_calibrated_model_has_no_calibration_error():
    scores = np.repeat([0.1, 0.5, 0.9], 10)
    labels = np.concatenate([np.arange(10) < 10 * share for share in (0.1, 0.5, 0.9)]).astype(int)
    assert calibration(labels, scores)[0] == pytest.approx(0)


def test_the_table_of_thresholds_holds_both_kinds_of_error():
    rows = {row["threshold"]: row for row in figures(FOUR)["thresholds"]}
    assert list(rows) == [round(0.05 * step, 2) for step in range(1, 20)]
    assert rows[0.8] == {
        **{"threshold": 0.8, "accuracy": 0.75, "precision": 1.0, "recall": 0.5},
        **{"false_positives": 0, "false_negatives": 1},
    }
    assert (rows[0.3]["false_positives"], rows[0.3]["false_negatives"]) == (1, 0)
    assert (rows[0.5]["false_positives"], rows[0.5]["false_negatives"]) == (1, 1)
    assert rows[0.5]["accuracy"] == figures(FOUR)["accuracy"]
    assert rows[0.75]["false_positives"] == 0  # above the threshold, not on it


def test_only_the_least_certain_are_named():
    pairs = {str(number): (0, number / 100) for number in range(50)}
    named = figures(pairs)["least_certain_files"]
    assert [file["key"] for file in named] == [str(number) for number in range(49, 25, -1)]


def test_a_sure_error_weighs_more_than_a_nearly_sure_one():
    sure = figures({"a": (1, 1e-12), "b": (0, 0.1)})
    assert sure["loss"] == pytest.approx((12 * np.log(10) - np.log(0.9)) / 2)
    assert np.isfinite(figures({"a": (1, 0.0), "b": (0, 1.0)})["loss"])
    ordered = figures({"a": (1, 1e-9), "b": (1, 1e-12), "c": (0, 1.0)})["misclassified_files"]
    assert [file["key"] for file in ordered] == ["c", "b", "a"]


def test_a_broken_model_gets_a_clear_line():
    with pytest.raises(WorkError, match=r"no number \(NaN\) for 1 of 2 images"):
        predictions({"a": (0, float("nan")), "b": (1, 0.5)})


def test_the_predictions_are_written_for_every_image():
    assert predictions_csv(predictions(FOUR), (FACES, COMICS)).splitlines() == [
        "key,label,score,predicted,correct",
        "a,faces,0.250000,faces,1",
        "b,faces,0.750000,comics,0",
        "c,comics,0.400000,faces,0",
        "d,comics,0.900000,comics,1",
    ]

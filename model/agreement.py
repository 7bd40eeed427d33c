"""Whether an exported model does what the tested one did: the same files through both, in figures.

One way is the build's: `pipeline.images.decode_image`, then the Keras network. The other is the
SavedModel, from the files' bytes; and each further form of the network, from the build's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.converters import Scorer
from model.samples import Sample
from pipeline.errors import ImageRejected, UsageError, WorkError
from pipeline.images import decode_image
from pipeline.schema import ImageSpec

MAX_GRAY_LEVELS = 1
MAX_SCORE_DIFFERENCE = 0.01
MIN_FILES = 64

_BATCH = 32


@dataclass
class Agreement:
    """files: how many were compared; rejected, refused: how many the build or the graph did not take;
    pixels: the largest and the mean difference, in gray levels; scores: the largest, by form.
    """

    files: int = 0
    rejected: int = 0
    refused: int = 0
    largest_pixel_difference: int = 0
    mean_pixel_difference: float = 0.0
    largest_score_difference: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `model.json`, with the limits."""
        limits = {"gray_levels": MAX_GRAY_LEVELS, "score": MAX_SCORE_DIFFERENCE}
        return {**vars(self), "limits": limits}


def measure_agreement(
    samples: Iterable[Sample],
    saved_model: Path,
    *,
    spec: ImageSpec,
    reference: Scorer,
    others: dict[str, Scorer],
) -> Agreement:
    """Compare the SavedModel, and `others`, with the build's preprocessing and `reference`.

    Raises WorkError, naming the file, where pixels differ by more than MAX_GRAY_LEVELS or scores by
    more than MAX_SCORE_DIFFERENCE; UsageError where fewer than MIN_FILES could be compared.
    """
    signatures = tf.saved_model.load(str(saved_model)).signatures
    agreement = Agreement()
    remaining = iter(samples)
    while batch := list(islice(remaining, _BATCH)):
        taken = list(_decode_both_ways(batch, signatures["preprocess"], spec, agreement))
        if not taken:
            continue
        kept, images = [sample for sample, _ in taken], np.stack([image for _, image in taken])
        expected = reference(images)
        data = tf.constant([sample.data for sample in kept])
        served = signatures["serving_default"](image_bytes=data)["score"].numpy()
        scores = {"saved_model": served} | {name: other(images) for name, other in others.items()}
        for name, found in scores.items():
            _compare_scores(name, expected, found, kept, agreement)
    if agreement.files < MIN_FILES:
        raise UsageError(
            f"--samples: an export is checked on at least {MIN_FILES} files, received "
            f"{agreement.files} that can be compared; give more, or the run's --records"
        )
    return agreement


def _decode_both_ways(
    batch: list[Sample], preprocess: Callable[..., Any], spec: ImageSpec, agreement: Agreement
) -> Iterator[tuple[Sample, np.ndarray]]:
    """Each sample that both take, and the build's pixels; `agreement` is brought up to date."""
    for sample in batch:
        try:
            expected = decode_image(sample.data, spec)
        except ImageRejected:
            agreement.rejected += 1
            continue
        try:
            found = preprocess(image_bytes=tf.constant([sample.data]))["image"][0].numpy()
        except tf.errors.InvalidArgumentError as error:
            if sample.ours:
                raise WorkError(f"the graph refuses {sample.name}: {error}") from error
            agreement.refused += 1
            continue
        _compare_pixels(expected, found, sample, agreement)
        yield sample, expected


def _compare_pixels(
    expected: np.ndarray, found: np.ndarray, sample: Sample, agreement: Agreement
) -> None:
    difference = np.abs(found.astype(int) - expected)
    largest = int(difference.max())
    if largest > MAX_GRAY_LEVELS:
        raise _too_different(
            f"the pixels of {sample.name} differ by {largest} of 255 gray levels between the build's "
            f"preprocessing and the graph's; at most {MAX_GRAY_LEVELS} is allowed"
        )
    agreement.files += 1
    agreement.largest_pixel_difference = max(agreement.largest_pixel_difference, largest)
    step = float(difference.mean()) - agreement.mean_pixel_difference
    agreement.mean_pixel_difference += step / agreement.files


def _compare_scores(
    name: str, expected: np.ndarray, found: np.ndarray, kept: list[Sample], agreement: Agreement
) -> None:
    differences = np.abs(found.astype(np.float64) - expected)
    worst = int(differences.argmax())
    if not differences.max() <= MAX_SCORE_DIFFERENCE:  # not >: of NaN neither holds
        raise _too_different(
            f"the score of {kept[worst].name} is {expected[worst]:.4f} in Keras and "
            f"{found[worst]:.4f} in {name}; at most {MAX_SCORE_DIFFERENCE} apart is allowed"
        )
    largest = agreement.largest_score_difference
    largest[name] = max(largest.get(name, 0.0), float(differences.max()))


def _too_different(what: str) -> WorkError:
    return WorkError(f"not exported: {what}; the versions in constraints.txt were tried together")

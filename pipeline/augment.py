"""Augmentation without hidden state: what happens to an image is decided by (seed, epoch, its key).

So it does not depend on the batch that the image is in, on the order, the host or the thread; a run
that is resumed sees the same images, and two epochs show the same one differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import UsageError
from pipeline.hashing import stable_hash

AUGMENTATIONS = ("flip", "shift", "brightness")
"""In the order in which they are applied."""

_MOST_SHIFT = 0.1  # of the height, of the width
_MOST_BRIGHTNESS = 0.1 * 255  # gray levels


def check_augmentations(names: Sequence[str]) -> tuple[str, ...]:
    """`names` in the order in which they are applied. Raises UsageError: unknown, or named twice."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(
                f"--augment: {name!r} is unknown; give some of {','.join(AUGMENTATIONS)}"
            )
        if list(names).count(name) > 1:
            raise UsageError(f"--augment: {name} is named twice, received {','.join(names)}")
    return tuple(name for name in AUGMENTATIONS if name in names)


def augment(
    images: np.ndarray, keys: Sequence[str], names: Sequence[str], *, seed: int, epoch: int
) -> np.ndarray:
    """uint8[B, H, W, C] → the same shape, a new array; one key for each image.

    flip: left to right, every second image. shift: up to 10 % of the height and of the width, either
    way; pixels of the edge are repeated. brightness: up to 10 % of the range of gray levels is added
    or taken away, and what leaves the range is clipped.
    """
    draws = draw(keys, seed=seed, epoch=epoch)
    if "flip" in names:
        images = _flip(images, draws[:, 0])
    if "shift" in names:
        images = _shift(images, draws[:, 1], draws[:, 2])
    if "brightness" in names:
        images = _brighten(images, draws[:, 3])
    return images


def draw(keys: Sequence[str], *, seed: int, epoch: int) -> np.ndarray:
    """float64[B, 4], each uniform in (0, 1): for flip (below one half), shift down, shift to the right,
    brightness; one half of the last three changes nothing.
    """
    hashes = [stable_hash(seed, "augment", f"{epoch} {key}") for key in keys]
    words = np.array(hashes, "<u8").view("<u2").reshape(-1, 4)
    return (words + 0.5) / 2**16


def _flip(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    return np.where((draws < 0.5)[:, None, None, None], images[:, :, ::-1], images)


def _shift(images: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray) -> np.ndarray:
    """Cut from images with a wide edge, which costs less than to look up every pixel."""
    _, height, width, _ = images.shape
    tall, wide = int(height * _MOST_SHIFT), int(width * _MOST_SHIFT)
    padded = np.pad(images, ((0, 0), (tall, tall), (wide, wide), (0, 0)), mode="edge")
    tops, lefts = tall - _whole_number(vertical, tall), wide - _whole_number(horizontal, wide)
    shifted = np.empty_like(images)
    for target, image, top, left in zip(shifted, padded, tops, lefts, strict=True):
        target[:] = image[top : top + height, left : left + width]
    return shifted


def _whole_number(draws: np.ndarray, most: int) -> np.ndarray:
    """int64: -most … most, each as often as any other."""
    return np.floor(draws * (2 * most + 1)).astype(np.int64) - most


def _brighten(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """In uint8 throughout, of which a processor adds many at once: first make room, then add."""
    change = np.rint((2 * draws - 1) * _MOST_BRIGHTNESS).astype(np.int64)[:, None, None, None]
    more, less = np.maximum(change, 0).astype(np.uint8), np.maximum(-change, 0).astype(np.uint8)
    brighter = np.minimum(images, 255 - more) + more
    return np.maximum(brighter, less) - less

"""Augmentation: what becomes of each pixel, and that nothing but (seed, epoch, key) decides it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.augment import AUGMENTATIONS, augment, check_augmentations, draw
from pipeline.errors import UsageError

KEYS = [f"faces/{number:05d}.jpg" for number in range(20_000)]
DRAWS = draw(KEYS, seed=0, epoch=0)


def key_drawing(*, flip=None, down=None, right=None, brightness=None):
    """The first key whose draws come within 0.01 of those given."""
    wanted = [(i, v) for i, v in enumerate((flip, down, right, brightness)) if v is not None]
    near = [np.abs(DRAWS[:, column] - value) < 0.01 for column, value in wanted]
    return KEYS[int(np.flatnonzero(np.logical_and.reduce(near))[0])]


def changed(image, key, *names):
    images = np.array(image, np.uint8)[None, :, :, None]
    return augment(images, [key], names, seed=0, epoch=0)[0, :, :, 0].tolist()


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (0.25, [[3, 2, 1], [6, 5, 4]]),
        (0.75, [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_flip_is_left_to_right(drawn, expected):
    assert changed([[1, 2, 3], [4, 5, 6]], key_drawing(flip=drawn), "flip") == expected


COUNTED = np.arange(100).reshape(10, 10)  # 10 % of it is one row, one column


@pytest.mark.parametrize(
    ("down", "right", "rows", "columns"),
    [
        (0.5, 0.5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.98, 0.5, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.02, 0.5, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.5, 0.98, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (0.02, 0.02, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]),
    ],
)
def test_shift_repeats_the_edge(down, right, rows, columns):
    key = key_drawing(down=down, right=right)
    assert changed(COUNTED, key, "shift") == COUNTED[np.ix_(rows, columns)].tolist()


def test_an_image_of_less_than_ten_pixels_stays_where_it_is():
    image = np.arange(81).reshape(9, 9)
    assert all(changed(image, key, "shift") == image.tolist() for key in KEYS[:50])


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (0.5, [0, 1, 100, 254, 255]),
        (0.6, [5, 6, 105, 255, 255]),  # 0.1 of the way to 51 gray levels: 5.1
        (0.995, [25, 26, 125, 255, 255]),
        (0.005, [0, 0, 75, 229, 230]),
    ],
)
def test_brightness_is_added_and_clipped(drawn, expected):
    key = key_drawing(brightness=drawn)
    row = np.array(changed([[0, 1, 100, 254, 255]], key, "brightness")[0])
    off = round((DRAWS[KEYS.index(key), 3] - drawn) * 51)  # the draw is near, not equal
    inside = (np.array(expected) > 0) & (np.array(expected) < 255)
    assert row[inside].tolist() == (np.array(expected)[inside] + off).tolist()
    assert row[~inside].tolist() == np.array(expected)[~inside].tolist()


def test_the_draws_are_golden():
    """If this fails, no augmented run can be repeated any more."""
    found = draw(["faces/1.jpg", "é"], seed=-3, epoch=7)
    assert np.round(found, 5).tolist() == [
        [0.78205, 0.55926, 0.88021, 0.72948],
        [0.15282, 0.12623, 0.44492, 0.3821],
    ]


@pytest.mark.parametrize(("bins", "most"), [(2, 10.83), (31, 59.7)])
def test_draws_are_uniform(bins, most):
    """Chi-squared, exceeded by one column in a thousand: 1 and 30 degrees of freedom."""
    for column in DRAWS.T:
        counts = np.bincount((column * bins).astype(int), minlength=bins)
        expected = len(column) / bins
        assert ((counts - expected) ** 2 / expected).sum() < most


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}])
def test_epochs_seeds_and_the_four_draws_are_independent(other):
    others = draw(KEYS, **{"seed": 0, "epoch": 0, **other})
    correlations = np.corrcoef(np.hstack([DRAWS, others]).T) - np.eye(8)
    assert np.abs(correlations).max() < 4 / len(KEYS) ** 0.5


images = st.tuples(st.integers(1, 25), st.integers(1, 25), st.sampled_from([1, 3]))


@given(images, st.sets(st.sampled_from(AUGMENTATIONS)), st.integers(0, 2**31))
def test_an_image_does_not_feel_its_batch(shape, names, seed):
    batch = np.random.default_rng(seed).integers(0, 256, (4, *shape), np.uint8)
    before = batch.copy()
    together = augment(batch, KEYS[:4], names, seed=seed, epoch=2)
    alone = [
        augment(batch[i : i + 1], KEYS[i : i + 1], names, seed=seed, epoch=2) for i in range(4)
    ]
    assert together.dtype == np.uint8
    assert together.shape == batch.shape
    assert (together == np.concatenate(alone)).all()
    assert (batch == before).all()


def test_one_augmentation_does_not_move_another():
    batch = np.random.default_rng(0).integers(30, 220, (50, 20, 20, 1), np.uint8)
    flipped = augment(batch, KEYS[:50], ("flip",), seed=0, epoch=0)
    both = augment(batch, KEYS[:50], ("brightness", "flip"), seed=0, epoch=0)
    difference = both.astype(int) - flipped
    assert (difference == difference[:, :1, :1]).all()  # one constant for each image
    assert len(np.unique(difference)) > 10


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ()),
        (["brightness", "flip"], ("flip", "brightness")),
        (AUGMENTATIONS, AUGMENTATIONS),
    ],
)
def test_names_come_in_the_order_of_application(names, expected):
    assert check_augmentations(names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["flip", "turn"], "--augment: 'turn' is unknown; give some of flip,shift,brightness"),
        ([""], "'' is unknown"),
        (["flip", "shift", "flip"], "flip is named twice, received flip,shift,flip"),
    ],
)
def test_other_names_are_refused(names, message):
    with pytest.raises(UsageError, match=message):
        check_augmentations(names)

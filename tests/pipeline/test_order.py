from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import batch_positions, epoch_order, steps_per_epoch


def whole(records, seed=0, epoch=0):
    return epoch_order(np.arange(records), records=records, seed=seed, epoch=epoch)


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_an_epoch_is_a_permutation(records, seed, epoch):
    assert sorted(whole(records, seed, epoch)) == list(range(records))


def test_any_position_can_be_asked_for_alone():
    order = whole(1000, seed=5, epoch=7)
    picked = np.array([999, 0, 500])
    assert (epoch_order(picked, records=1000, seed=5, epoch=7) == order[picked]).all()


def test_the_order_is_golden():
    """If this fails, no run can be resumed or repeated any more."""
    assert whole(10, seed=1, epoch=2).tolist() == [5, 4, 3, 9, 1, 0, 7, 6, 8, 2]
    assert whole(10**6, seed=-3)[[0, 1, 999_999]].tolist() == [158319, 979425, 781580]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"epoch": 1}),
        ({}, {"epoch": 2}),
        ({"epoch": 1}, {"epoch": 2}),
        ({"epoch": 99}, {"epoch": 100}),
        ({}, {"seed": 1}),
        ({"seed": 1}, {"seed": 2, "epoch": 1}),
        ({"seed": 2**62, "epoch": 7}, {"seed": 2**62, "epoch": 8}),
    ],
)
def test_two_orders_are_uncorrelated(one, other):
    one, other = whole(20_000, **one), whole(20_000, **other)
    # Ranks: numbers and positions are both 0..n-1.
    assert abs(np.corrcoef(np.argsort(one), np.argsort(other))[0, 1]) < 0.02
    assert abs(np.corrcoef(one, np.arange(20_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.02  # neighbours tell nothing either


CLASSES = {  # of record i; in a data set classes are mixed, but the order must not rely on it
    "one class first": lambda numbers: numbers < 8_000,
    "every third": lambda numbers: numbers % 3 == 0,
    "in runs of 100": lambda numbers: numbers // 100 % 2 == 0,
}


@pytest.mark.parametrize("members", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("batch_size", [32, 256])
def test_classes_are_balanced_in_batches_as_in_random_samples(members, batch_size):
    """Mean and variance of a class's count in a batch are those of the hypergeometric distribution."""
    total, batches = 20_000, 20_000 // batch_size
    share = members(np.arange(total)).mean()
    counts = np.concatenate(
        [
            members(whole(total, epoch=epoch)[: batches * batch_size])
            .reshape(batches, batch_size)
            .sum(axis=1)
            for epoch in range(20)
        ]
    )
    expected = batch_size * share * (1 - share) * (total - batch_size) / (total - 1)
    assert abs(counts.var() / expected - 1) < 4 * (2 / len(counts)) ** 0.5
    assert abs(counts.mean() - batch_size * share) < 4 * (expected / len(counts)) ** 0.5


def test_first_records_are_spread_evenly():
    """Where record 0 stands is uniform over epochs: a chi-squared test, seeded, 19 degrees."""
    at = [int(np.flatnonzero(whole(400, epoch=epoch) == 0)[0]) for epoch in range(2000)]
    counts = np.bincount(np.array(at) // 20, minlength=20)
    assert ((counts - 100) ** 2 / 100).sum() < 43.8  # exceeded once in a thousand seeds


@given(st.integers(1, 500), st.integers(1, 70), st.integers(1, 9), st.integers(0, 2**31))
def test_hosts_share_an_epoch_exactly(records, batch_size, num_workers, seed):
    """Any number of hosts, also more of them than records: none lost, none twice."""
    seen = []
    for host in range(num_workers):
        share = {"batch_size": batch_size, "worker_index": host, "num_workers": num_workers}
        for step in range(steps_per_epoch(records, **share)):
            positions = batch_positions(step, records=records, **share)
            assert 1 <= len(positions) <= batch_size
            seen += epoch_order(positions, records=records, seed=seed, epoch=0).tolist()
    assert sorted(seen) == list(range(records))

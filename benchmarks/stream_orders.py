"""How well the two readers shuffle: figures over 20,000 records."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.records import make_records, numbers_of
from pipeline.manifest import load_manifest
from pipeline.order import epoch_order
from pipeline.schema import ImageSpec
from pipeline.sequential import SHUFFLE_BYTES, sequential_training_dataset

RECORDS = 20_000
SEEDS = range(5)
EPOCHS = 4
BATCH = 64
RECORD_BYTES = 22_650  # of an image of 150x150 gray pixels: what the buffer is measured in


def order_table(work: Path) -> str:
    """The figures of both readers, over five seeds of four epochs each, as markdown."""
    folder = make_records(work / "records-tiny", RECORDS, ImageSpec(3, 3, 1))
    buffered = SHUFFLE_BYTES // RECORD_BYTES
    readers = {
        "positioned": _positioned_orders,
        f"sequential, {buffered:,} records buffered": lambda seed: _sequential_orders(
            folder, seed, buffered=buffered
        ),
    }
    columns = {name: _figures(orders) for name, orders in readers.items()}
    rows = zip(*(figures.values() for figures in columns.values()), strict=True)
    names = next(iter(columns.values()))
    lines = [f"| | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in zip(names, rows, strict=True)]
    return "\n".join([*lines, "", _reach(folder, buffered)])


def _reach(folder: Path, buffered: int) -> str:
    """How far the buffer moves a record from its turn in the order of reading."""
    reading, shuffled = (_sequential_orders(folder, 0, buffered=n)[0] for n in (1, buffered))
    moved = np.argsort(shuffled) - np.argsort(reading)
    return (
        f"The buffer moves a record by {np.abs(moved).mean() / buffered:.2f} buffers (mean) and "
        f"{np.percentile(np.abs(moved), 95) / buffered:.2f} (95 %), forward by "
        f"{-moved.min() / buffered:.2f} at most."
    )


def _positioned_orders(seed: int) -> list[np.ndarray]:
    everything = np.arange(RECORDS)
    return [
        epoch_order(everything, records=RECORDS, seed=seed, epoch=epoch) for epoch in range(EPOCHS)
    ]


def _sequential_orders(folder: Path, seed: int, *, buffered: int) -> list[np.ndarray]:
    size = load_manifest(folder).layout.record_bytes
    data = sequential_training_dataset(
        folder, batch_size=500, seed=seed, epochs=EPOCHS, shuffle_bytes=buffered * size
    )
    numbers = np.concatenate([numbers_of(images) for images, _ in data.as_numpy_iterator()])
    return list(numbers.reshape(EPOCHS, RECORDS))


def _figures(orders: Callable[[int], list[np.ndarray]]) -> dict[str, str]:
    """By name; ranks[i] is the place of record i in an epoch."""
    stored, epochs, moved, balance = [], [], [], []
    for seed in SEEDS:
        found = orders(seed)
        ranks = [np.argsort(order) for order in found]
        stored += [_correlation(rank, np.arange(RECORDS)) for rank in ranks]
        epochs += [_correlation(one, two) for one, two in combinations(ranks, 2)]
        moved += [np.abs(one - two) for one, two in combinations(ranks, 2)]
        balance += [_balance(order) for order in found]
    distances = np.concatenate(moved)
    return {
        "rank correlation with the stored order, mean (largest)": _mean_and_largest(stored),
        "rank correlation of two epochs, mean (largest)": _mean_and_largest(epochs),
        "places a record moves between two epochs, mean": f"{distances.mean():,.0f}",
        "the same, 5th percentile": f"{np.percentile(distances, 5):,.0f}",
        "class balance of batches: variance by that of random sampling": f"{np.mean(balance):.3f}",
    }


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(one, two)[0, 1])


def _mean_and_largest(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ({max(map(abs, values)):.4f})"


def _balance(order: np.ndarray) -> float:
    """Variance of the count of one of two equal classes in a batch, by the hypergeometric one."""
    one_class = np.random.default_rng(0).permutation(RECORDS) < RECORDS // 2
    whole = order[: RECORDS // BATCH * BATCH].reshape(-1, BATCH)
    expected = BATCH / 4 * (RECORDS - BATCH) / (RECORDS - 1)
    return float(one_class[whole].sum(axis=1).var() / expected)

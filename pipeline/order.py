"""The order of an epoch: which record stands at which position, computed point by point.

A permutation of n records is a keyed scrambling of a grid of a·b ≥ n cells: a position is a row and
a column; each round moves the row by a hash of the column, or the column by a hash of the row, so
every round can be undone and no two positions meet. Positions that land on the few cells beyond n
are scrambled again until they do not. Nothing is stored, so a host, a batch or a resumed run asks
for just the positions it needs.

Changing a number here changes the order of every epoch; runs could no longer be resumed or repeated.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.errors import UsageError
from pipeline.hashing import stable_hash

_ROUNDS = 8


def epoch_order(positions: np.ndarray, *, records: int, seed: int, epoch: int) -> np.ndarray:
    """Record numbers at `positions` of the epoch.

    positions: int64[any shape], each in [0, records). Returns int64 of the same shape; over all
    positions, each record number in [0, records) exactly once.
    """
    positions = np.asarray(positions, np.uint64)
    rows = math.isqrt(max(records - 1, 0)) + 1
    columns = -(-records // rows)
    keys = [stable_hash(seed, "epoch", f"{epoch} {turn}") for turn in range(_ROUNDS)]
    numbers = _scramble(positions, rows, columns, keys)
    while (beyond := numbers >= records).any():
        numbers[beyond] = _scramble(numbers[beyond], rows, columns, keys)
    return numbers.astype(np.int64)


def _scramble(cells: np.ndarray, rows: int, columns: int, keys: list[int]) -> np.ndarray:
    row, column = np.divmod(cells, np.uint64(columns))
    for turn, key in enumerate(keys):
        if turn % 2:
            column = (column + _mix(row, key) % np.uint64(columns)) % np.uint64(columns)
        else:
            row = (row + _mix(column, key) % np.uint64(rows)) % np.uint64(rows)
    return row * np.uint64(columns) + column


def _mix(values: np.ndarray, key: int) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), keyed; wraps at 64 bits."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def check_share(*, batch_size: int, worker_index: int = 0, num_workers: int = 1) -> None:
    """Raise UsageError unless there is such a batch and such a host."""
    if batch_size < 1:
        raise UsageError(f"--batch_size: must be at least 1, received {batch_size}")
    if not 0 <= worker_index < num_workers:
        raise UsageError(
            "worker_index must be from 0 to num_workers - 1, received "
            f"worker_index {worker_index} and num_workers {num_workers}"
        )


def steps_per_epoch(
    records: int, *, batch_size: int, worker_index: int = 0, num_workers: int = 1
) -> int:
    """Batches that one host takes from an epoch; the last may be smaller."""
    own = max(0, -(-(records - worker_index) // num_workers))
    return -(-own // batch_size)


def batch_positions(
    step: int, *, records: int, batch_size: int, worker_index: int = 0, num_workers: int = 1
) -> np.ndarray:
    """Positions int64[≤ batch_size] of one host's batch: host h of H takes h, h + H, h + 2H, …"""
    first = worker_index + step * batch_size * num_workers
    last = min(records, first + batch_size * num_workers)
    return np.arange(first, last, num_workers, dtype=np.int64)

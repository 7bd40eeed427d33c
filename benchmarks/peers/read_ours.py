"""Our three readers: positioned reads as numpy batches and through tf.data, and the sequential one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from benchmarks.peers.reading import main


def as_numpy(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """Positioned reads, numpy batches."""
    from pipeline.batches import training_batches

    return training_batches(folder, batch_size=batch_size, seed=0, epochs=epochs).iterate()


def through_tf_data(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """Positioned reads, through tf.data."""
    from pipeline.dataset import training_dataset

    return training_dataset(folder, batch_size=batch_size, seed=0, epochs=epochs)


def sequential(folder: Path, batch_size: int, epochs: int) -> Iterable[tuple]:
    """From front to back, through tf.data."""
    from pipeline.sequential import sequential_training_dataset

    return sequential_training_dataset(folder, batch_size=batch_size, seed=0, epochs=epochs)


def read_through_tensorflow(batches: Callable[[Path, int, int], Iterable[tuple]]) -> None:
    """`main` for what tf.data gives."""
    from benchmarks.peers.in_graph import counting

    main(batches, counting=counting)


WAYS = {
    "numpy": partial(main, as_numpy),
    "tf-data": partial(read_through_tensorflow, through_tf_data),
    "sequential": partial(read_through_tensorflow, sequential),
}

if __name__ == "__main__":
    WAYS[sys.argv.pop(1)]()

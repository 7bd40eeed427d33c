"""Many image files → batches of pixels, decoded a batch ahead of whoever takes them.

Decoding lets go of the interpreter lock, so threads keep all cores busy, and a slow disk or network is
waited for while the batch before is used. Memory holds two batches, however many files there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.errors import ImageRejected
from pipeline.images import decode_image
from pipeline.schema import ImageSpec

Decoded = tuple[str, np.ndarray | ImageRejected]
"""The name of a file with its pixels, uint8[H, W, C], or the reason why there are none."""


def decoded_batches(
    names: Sequence[str], read: Callable[[str], bytes], spec: ImageSpec, *,
    batch_size: int, threads: int,
) -> Iterator[list[Decoded]]:  # fmt: skip
    """`names` in their order, `batch_size` at a time; the next batch is under way.

    What `read` raises goes through, but for ImageRejected, which is a file's result.
    """

    def decode(name: str) -> Decoded:
        try:
            return name, decode_image(read(name), spec)
        except ImageRejected as rejected:
            return name, rejected

    ahead: deque[Iterator[Decoded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(names), batch_size):
            ahead.append(pool.map(decode, names[start : start + batch_size]))
            if len(ahead) > 1:
                yield list(ahead.popleft())
        yield from map(list, ahead)

"""The only source of order: a keyed hash that is the same on every machine, forever."""

from __future__ import annotations

import hashlib

HASH_BITS = 64


def stable_hash(seed: int, purpose: str, text: str) -> int:
    """A number in [0, 2**64) that depends on its arguments and on nothing else.

    `purpose` (at most 16 ASCII characters) keeps the streams apart: the hash that decides a split
    tells nothing about the one that decides an order. Changing this function re-orders every data
    set and moves images between splits: all of them must be rebuilt, all models tested anew. The
    golden values in tests/pipeline/test_hashing.py hold it.
    """
    key = seed.to_bytes(16, "little", signed=True)
    digest = hashlib.blake2b(
        text.encode(), digest_size=HASH_BITS // 8, key=key, person=purpose.encode()
    ).digest()
    return int.from_bytes(digest, "little")

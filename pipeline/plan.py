"""Item → (split, shard, order): the whole shuffle, as pure functions of (seed, key, group).

No function here sees more than one item, so the answer cannot depend on how many items there are,
in which order they were listed, or on which machine somebody asks.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from pipeline.errors import UsageError
from pipeline.hashing import HASH_BITS, stable_hash
from pipeline.schema import BUCKETS, SCHEMA_VERSION, ImageSpec, Item

GROUP_BY = ("stem", "path")
MIN_TRAIN_SHARDS = 16
MAX_SHARDS = 99_999
MAX_SHARD_BYTES = 128_000_000


class Placement(NamedTuple):
    """Where an item goes: its split, the shard's number in it, and a 64-bit rank within the shard."""

    split: str
    shard: int
    order: int


@dataclass(frozen=True)
class Plan:
    """Everything that decides where an item goes. `train_shards`, `test_shards`: files per split."""

    seed: int
    test_fraction: float
    group_by: str
    train_shards: int
    test_shards: int

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UsageError(
                f"--test_fraction: must be at least 0 and below 1, received {self.test_fraction}"
            )
        if self.group_by not in GROUP_BY:
            raise UsageError(
                f"--group_by: must be one of {', '.join(GROUP_BY)}, received {self.group_by!r}"
            )
        for shards in (self.train_shards, self.test_shards):
            if not 1 <= shards <= MAX_SHARDS:
                raise UsageError(f"--shards: must be from 1 to {MAX_SHARDS}, received {shards}")

    def shards(self, split: str) -> int:
        """How many files `split` has."""
        return self.train_shards if split == "train" else self.test_shards


def group_of(key: str, group_by: str) -> str:
    """What must stay together: the file name without folder and suffix, or the whole path."""
    return posixpath.splitext(key.rpartition("/")[2])[0] if group_by == "stem" else key


def split_of(seed: int, group: str, test_fraction: float) -> str:
    """`test` for about `test_fraction` of all groups: adding images moves no old one (law 3)."""
    threshold = int(test_fraction * 2**HASH_BITS)
    return "test" if stable_hash(seed, "split", group) < threshold else "train"


def bucket_of(seed: int, group: str) -> int:
    """A number in [0, BUCKETS) for the group; validation takes the buckets below its fraction."""
    return stable_hash(seed, "bucket", group) * BUCKETS >> HASH_BITS


def order_of(seed: int, key: str) -> int:
    """The 64-bit rank of an item in its split."""
    return stable_hash(seed, "order", key)


def shard_of(order: int, shards: int) -> int:
    """The shard, of `shards`, for a 64-bit rank: its high part, so shards in turn give the order."""
    return order * shards >> HASH_BITS


def place(item: Item, plan: Plan) -> Placement:
    """Where `item` goes."""
    split = split_of(plan.seed, group_of(item.key, plan.group_by), plan.test_fraction)
    order = order_of(plan.seed, item.key)
    return Placement(split, shard_of(order, plan.shards(split)), order)


def make_plan(
    *, seed: int, test_fraction: float, group_by: str, total: int, record_bytes: int,
    train_shards: int | None = None,
) -> Plan:  # fmt: skip
    """The plan for `total` images; `train_shards` None for the default. Raises UsageError."""
    one = Plan(seed, test_fraction, group_by, train_shards=1, test_shards=1)  # checks the options
    if train_shards is None:
        train_shards = default_shards(round(total * (1 - test_fraction)), record_bytes)
    alike_in_size = round(train_shards * test_fraction / (1 - test_fraction))
    return replace(one, train_shards=train_shards, test_shards=max(1, alike_in_size))


def default_shards(records: int, record_bytes: int) -> int:
    """Shards for `records` of `record_bytes`: at least 16, each under 128 MB.

    Hashing fills shards unevenly: six standard deviations of room keep the fullest under the limit.
    """
    limit = max(1, MAX_SHARD_BYTES // record_bytes)
    filling = max(1, math.floor(limit - 6 * math.sqrt(limit)))
    return min(MAX_SHARDS, max(MIN_TRAIN_SHARDS, math.ceil(records / filling)))


class Survey(NamedTuple):
    """What one pass over all items tells.

    longest_key: in UTF-8 bytes; digest: 128 bits over keys, labels and sizes, the same in whatever
    order the items come.
    """

    longest_key: int
    digest: int


def survey(items: Iterable[Item]) -> Survey:
    """Measure and digest `items` in one pass, in memory that does not grow with them."""
    longest = digest = 0
    for item in items:
        key = item.key.encode()
        longest = max(longest, len(key))
        line = b"%d %d %s" % (item.label, item.size, key)
        digest += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")
    return Survey(longest, digest % 2**128)


def plan_digest(
    plan: Plan, *, spec: ImageSpec, classes: tuple[str, ...], max_pixels: int, items_digest: int
) -> str:
    """Names one build: equal digests mean equal bytes. 16 hexadecimal digits."""
    parts = [SCHEMA_VERSION, asdict(plan), spec.digest, classes, max_pixels, f"{items_digest:032x}"]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

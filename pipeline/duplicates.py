"""Pictures that stand on both sides of a border, found without bringing all pictures together.

Records with the same pixels under two labels: one label must be wrong. In two splits: the test holds
what the training has seen. Twenty bytes stand for the pixels, and records meet by those: checksum, sum
and sum of squares, which cost a tenth of a cryptographic hash and are never all the same by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import google_crc32c

from pipeline.blocks import pack, unpack


class Fingerprint(NamedTuple):
    """What stands for one record's pixels, and whose they are."""

    mark: str
    key: str
    label: int
    split: str


@dataclass(frozen=True)
class Duplicate:
    """Records with the same pixels on both sides of a border.

    records: key, label and split of each, sorted by key.
    """

    mark: str
    over_classes: bool
    over_splits: bool
    records: tuple[tuple[str, int, str], ...]

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """A line of `duplicates.jsonl`, the labels as names."""
        records = [
            {"key": key, "class": classes[label], "split": split}
            for key, label, split in self.records
        ]
        return asdict(self) | {"records": records}


def mark_of(pixels: bytes, *, pixel_sum: int, pixel_square_sum: int) -> str:
    """What stands for `pixels`, uint8: CRC-32C, sum and sum of squares, 20 bytes in hexadecimal."""
    return f"{google_crc32c.value(pixels):08x}{pixel_sum:016x}{pixel_square_sum:016x}"


def deal_fingerprints(
    fingerprints: Iterable[Fingerprint], hands: int
) -> Iterator[tuple[int, bytes]]:
    """`fingerprints` dealt into `hands` blocks by their marks: like ones get into one hand."""
    dealt: dict[int, list[Fingerprint]] = {}
    for fingerprint in fingerprints:
        hand = int(fingerprint.mark[:8], 16) * hands >> 32
        dealt.setdefault(hand, []).append(fingerprint)
    for hand, held in dealt.items():
        yield hand, pack(held)


def crossing_duplicates(
    hand: tuple[int, Iterable[bytes]],
) -> Iterator[Duplicate]:
    """Those duplicates of one hand, (number, blocks of fingerprints), that cross a border."""
    _, blocks = hand
    by_mark: dict[str, list[tuple[str, int, str]]] = {}
    for block in blocks:
        for mark, *record in unpack(block):
            by_mark.setdefault(mark, []).append(tuple(record))
    for mark, records in by_mark.items():
        over_classes = len({label for _, label, _ in records}) > 1
        over_splits = len({split for _, _, split in records}) > 1
        if over_classes or over_splits:
            yield Duplicate(mark, over_classes, over_splits, tuple(sorted(records)))

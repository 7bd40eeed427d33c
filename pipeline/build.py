"""One build: what it makes, and one shard of it.

    <output>/.building/<digest>/names         what is to be built: blocks of keys and labels
    <output>/.building/<digest>/<shard>       a shard and, beside it,
    <output>/.building/<digest>/<shard>.json  what is known of it

A build that was killed is begun again by the same command: `write_shard` keeps what is finished,
known by its sha256, and makes the rest. Nothing here knows Beam, so a shard can also be made alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.blocks import pack, unpack
from pipeline.duplicates import Fingerprint, mark_of
from pipeline.errors import ImageRejected, WorkError, describe_os_error
from pipeline.example import Layout, decode_example, encode_example, make_layout
from pipeline.files import file_sha256, write_aside, write_text
from pipeline.images import DEFAULT_MAX_PIXELS, decode_image
from pipeline.listing import Listing
from pipeline.manifest import Shard
from pipeline.plan import Plan, Survey, bucket_of, group_of, order_of, place, plan_digest
from pipeline.schema import ImageSpec, Item, Record
from pipeline.sources import Source
from pipeline.tfrecord import read_records, write_records

STAGING_FOLDER = ".building"
_NAMES_FILE = "names"
_BLOCK_ITEMS = 4096

Span = tuple[int, int]
"""A block of the names file: offset and length, bytes."""

Place = tuple[str, int]
"""A shard: its split and its number in it."""

Member = tuple[str, int]
"""An item in its shard: key and label."""


@dataclass(frozen=True)
class Build:
    """Everything a worker needs to know; small, and the same for all of them.

    total: images in the source; max_rejects: how many of them may be refused; notice: a warning
    about the data that travels with them.
    """

    source: Source
    output: Path
    plan: Plan
    spec: ImageSpec
    classes: tuple[str, ...]
    layout: Layout
    digest: str
    total: int
    max_rejects: int
    max_pixels: int = DEFAULT_MAX_PIXELS
    notice: str = ""
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def staging(self) -> Path:
        """Where this build keeps its shards until all are done."""
        return self.output / STAGING_FOLDER / self.digest

    def shard_name(self, split: str, shard: int) -> str:
        """`train-00003-of-00016.tfrecord`."""
        return f"{split}-{shard:05d}-of-{self.plan.shards(split):05d}.tfrecord"


class Staged(Protocol):
    """A work that keeps what is not yet complete in a folder of its own."""

    @property
    def staging(self) -> Path:
        """That folder."""


@dataclass(frozen=True)
class Reject:
    """One refused image: key, a reason to count by, a detail to read."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ShardResult:
    """One finished shard: the file, its refused images, the sums of its pixels and their squares.

    kept: whether an earlier run of the same build had finished it.
    """

    shard: Shard
    rejects: tuple[Reject, ...]
    pixel_sum: int
    pixel_square_sum: int
    kept: bool = False

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ShardResult:
        """The inverse of `dataclasses.asdict`, as it comes back from JSON."""
        shard = values["shard"]
        counts = tuple(shard["records_per_class"])
        rejects = tuple(Reject(**reject) for reject in values["rejects"])
        return cls(
            Shard(**{**shard, "records_per_class": counts}),
            rejects,
            values["pixel_sum"],
            values["pixel_square_sum"],
        )


def plan_build(
    source: Source, listing: Listing, found: Survey, *, output: Path, plan: Plan, spec: ImageSpec,
    max_rejects: int, max_pixels: int = DEFAULT_MAX_PIXELS, notice: str = "",
) -> Build:  # fmt: skip
    """The build of `listing`, of which `found` tells, under `plan`."""
    return Build(
        source=source,
        output=output,
        plan=plan,
        spec=spec,
        classes=listing.classes,
        layout=make_layout(spec, num_classes=len(listing.classes), longest_key=found.longest_key),
        digest=plan_digest(
            plan,
            spec=spec,
            classes=listing.classes,
            max_pixels=max_pixels,
            items_digest=found.digest,
        ),
        total=len(listing.items),
        max_rejects=max_rejects,
        max_pixels=max_pixels,
        notice=notice,
        ignored=listing.ignored,
    )


def write_names(work: Staged, items: Sequence[Item]) -> list[Span]:
    """Write `items` where all workers can read them; a span for each block of them.

    So names take no room in the pipeline itself: a runner keeps what it is told several times over.
    """
    work.staging.mkdir(parents=True, exist_ok=True)
    spans = []
    with write_aside(work.staging / _NAMES_FILE) as file:
        for start in range(0, len(items), _BLOCK_ITEMS):
            block = pack(items[start : start + _BLOCK_ITEMS])
            spans.append((file.tell(), len(block)))
            file.write(block)
    return spans


def read_names(work: Staged, span: Span) -> list[Item]:
    """The items of one block that `write_names` wrote. Raises OSError."""
    offset, length = span
    with open(work.staging / _NAMES_FILE, "rb") as file:
        file.seek(offset)
        block = file.read(length)
    return [Item(*values) for values in unpack(block)]


def place_items(items: Iterable[Item], plan: Plan) -> dict[Place, list[Member]]:
    """Those shards that any of `items` belongs to, with their members among them."""
    shards: dict[Place, list[Member]] = {}
    for item in items:
        split, shard, _ = place(item, plan)
        shards.setdefault((split, shard), []).append((item.key, item.label))
    return shards


def write_shard(
    build: Build, split: str, shard: int, members: Iterable[Member]
) -> tuple[ShardResult, list[Fingerprint]]:
    """Make one shard of its members, in whatever order they come, or keep it if it is finished.

    Raises WorkError if the input vanishes or the output cannot be written.
    """
    name = build.shard_name(split, shard)
    try:
        finished = _finished_shard(build, name)
        if finished:
            return finished, _read_fingerprints(build, split, name)
        build.staging.mkdir(parents=True, exist_ok=True)
        tally = _Tally(split, len(build.classes), build.spec.num_bytes)
        ordered = sorted(members, key=lambda m: (order_of(build.plan.seed, m[0]), m[0]))
        written = write_records(build.staging / name, _examples(build, ordered, tally))
        made = Shard(name, *written, tuple(tally.records_per_class))
        result = ShardResult(made, tuple(tally.rejects), tally.pixel_sum, tally.pixel_square_sum)
        write_text(_facts_path(build, name), json.dumps(asdict(result)))
        return result, tally.fingerprints
    except OSError as error:
        raise WorkError(
            f"cannot write {name}: {describe_os_error(error)}; "
            "the finished shards are kept, the same command goes on from them"
        ) from error


@dataclass
class _Tally:
    """What is counted while a shard is written."""

    split: str
    num_classes: int
    image_bytes: int
    rejects: list[Reject] = field(default_factory=list)
    fingerprints: list[Fingerprint] = field(default_factory=list)
    pixel_sum: int = 0
    pixel_square_sum: int = 0

    def __post_init__(self) -> None:
        self.records_per_class = [0] * self.num_classes
        self._levels = np.empty(self.image_bytes)

    def add(self, record: Record) -> None:
        levels = self._levels  # float64: sums of integers are exact below 2**53
        np.copyto(levels, np.frombuffer(record.image, np.uint8))
        total, squares = int(levels.sum()), int(levels @ levels)
        self.pixel_sum += total
        self.pixel_square_sum += squares
        self.records_per_class[record.label] += 1
        mark = mark_of(record.image, pixel_sum=total, pixel_square_sum=squares)
        self.fingerprints.append(Fingerprint(mark, record.key, record.label, self.split))


def _examples(build: Build, members: Iterable[Member], tally: _Tally) -> Iterator[bytes]:
    for key, label in members:
        try:
            data = build.source.read(key)
            pixels = decode_image(data, build.spec, max_pixels=build.max_pixels)
        except ImageRejected as verdict:
            tally.rejects.append(Reject(key, verdict.reason, verdict.detail))
            continue
        bucket = bucket_of(build.plan.seed, group_of(key, build.plan.group_by))
        record = Record(pixels.tobytes(), label, bucket, key)
        tally.add(record)
        yield encode_example(record, build.layout)


def _facts_path(build: Build, name: str) -> Path:
    return build.staging / f"{name}.json"


def _finished_shard(build: Build, name: str) -> ShardResult | None:
    """What an earlier run of the same build knew of this shard, if the file still is what it was."""
    try:
        result = ShardResult.from_json(json.loads(_facts_path(build, name).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if result.rejects:  # the files may have been mended since
        return None
    folders = (build.staging, build.output)  # a kill while publishing leaves shards in both
    whole = any(is_whole(folder / name, result.shard) for folder in folders)
    return replace(result, kept=True) if whole else None


def _read_fingerprints(build: Build, split: str, name: str) -> list[Fingerprint]:
    staged = build.staging / name
    tally = _Tally(split, len(build.classes), build.spec.num_bytes)
    for data in read_records(staged if staged.exists() else build.output / name):
        tally.add(decode_example(data, build.layout))
    return tally.fingerprints


def is_whole(path: Path, shard: Shard) -> bool:
    """Whether the file at `path` is the one that `shard` tells of, to the last bit."""
    return path.is_file() and file_sha256(path) == shard.sha256


def written_bytes(build: Build) -> int:
    """Bytes of the build's shards so far, half-written ones too: what a progress line goes by."""
    paths = (path for path in build.staging.glob("*.tfrecord*") if path.suffix != ".json")
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # renamed while we looked
            total += path.stat().st_size
    return total

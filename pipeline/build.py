"""One build: what it makes, one shard of it, and the moment at which it becomes a data set.

    <output>/.building/<digest>/   shards and, beside each, what is known of it: <shard>.json
    <output>/                      the shards, moved there when all are done; manifest.json last

A build that was killed is begun again by the same command: `write_shard` keeps what is finished,
known by its sha256, and makes the rest. Nothing here knows Beam, so a shard can also be made alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from pipeline import __version__
from pipeline.errors import ImageRejected, UsageError, WorkError, describe_os_error
from pipeline.example import Layout, decode_example, encode_example, make_layout
from pipeline.files import file_sha256, remove_leftovers, write_text
from pipeline.images import DEFAULT_MAX_PIXELS, decode_image
from pipeline.listing import Listing
from pipeline.manifest import (
    DUPLICATES_FILE,
    MANIFEST_FILE,
    REJECTS_FILE,
    Manifest,
    Shard,
    Split,
    load_manifest,
    save_manifest,
)
from pipeline.plan import Plan, bucket_of, group_of, place, plan_digest, survey
from pipeline.schema import SPLITS, ImageSpec, Item, Record
from pipeline.sources import Source
from pipeline.tfrecord import read_records, write_records

STAGING_FOLDER = ".building"


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


@dataclass(frozen=True)
class Reject:
    """One refused image: key, a reason to count by, a detail to read."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Duplicate:
    """Records with the same pixels (hexadecimal fingerprint) on both sides of a border.

    records: key, label and split of each, sorted by key.
    """

    pixels: str
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


class Fingerprint(NamedTuple):
    """Sixteen bytes that stand for one record's pixels, and whose they are."""

    pixels: bytes
    key: str
    label: int
    split: str


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
    source: Source, listing: Listing, *, output: Path, plan: Plan, spec: ImageSpec, max_rejects: int,
    max_pixels: int = DEFAULT_MAX_PIXELS, notice: str = "",
) -> Build:  # fmt: skip
    """The build of `listing` under `plan`."""
    found = survey(
        listing.items,
        num_classes=len(listing.classes),
        seed=plan.seed,
        test_fraction=plan.test_fraction,
        group_by=plan.group_by,
    )
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


def place_item(item: Item, build: Build) -> tuple[tuple[str, int], tuple[int, Item]]:
    """((split, shard), (order, item)): the shard that `item` belongs to, and its rank there."""
    placement = place(item, build.plan)
    return (placement.split, placement.shard), (placement.order, item)


def write_shard(
    build: Build, split: str, shard: int, members: Iterable[tuple[int, Item]]
) -> tuple[ShardResult, list[Fingerprint]]:
    """Make one shard from its (order, item) pairs, or keep it if it is finished.

    Raises WorkError if the input vanishes or the output cannot be written.
    """
    name = build.shard_name(split, shard)
    try:
        finished = _finished_shard(build, name)
        if finished:
            return finished, _read_fingerprints(build, split, name)
        build.staging.mkdir(parents=True, exist_ok=True)
        tally = _Tally(split, len(build.classes))
        ordered = [Item(*item) for _, item in sorted(members)]
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
    rejects: list[Reject] = field(default_factory=list)
    fingerprints: list[Fingerprint] = field(default_factory=list)
    pixel_sum: int = 0
    pixel_square_sum: int = 0

    def __post_init__(self) -> None:
        self.records_per_class = [0] * self.num_classes

    def add(self, pixels: np.ndarray, item: Item) -> None:
        levels = np.bincount(pixels.ravel(), minlength=256)
        values = np.arange(256)
        self.pixel_sum += int(levels @ values)
        self.pixel_square_sum += int(levels @ values**2)
        self.records_per_class[item.label] += 1
        mark = _mark(pixels.tobytes())
        self.fingerprints.append(Fingerprint(mark, item.key, item.label, self.split))


def _examples(build: Build, items: list[Item], tally: _Tally) -> Iterator[bytes]:
    for item in items:
        try:
            data = build.source.read(item.key)
            pixels = decode_image(data, build.spec, max_pixels=build.max_pixels)
        except ImageRejected as verdict:
            tally.rejects.append(Reject(item.key, verdict.reason, verdict.detail))
            continue
        tally.add(pixels, item)
        bucket = bucket_of(build.plan.seed, group_of(item.key, build.plan.group_by))
        record = Record(pixels.tobytes(), item.label, bucket, item.key)
        yield encode_example(record, build.layout)


def _mark(pixels: bytes) -> bytes:
    return hashlib.sha256(pixels).digest()[:16]


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
    whole = any(_is_whole(folder / name, result.shard) for folder in folders)
    return replace(result, kept=True) if whole else None


def _read_fingerprints(build: Build, split: str, name: str) -> list[Fingerprint]:
    staged = build.staging / name
    records = read_records(staged if staged.exists() else build.output / name)
    found = (decode_example(data, build.layout) for data in records)
    return [Fingerprint(_mark(r.image), r.key, r.label, split) for r in found]


def _is_whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and file_sha256(path) == shard.sha256


def crossing_duplicates(marked: tuple[bytes, Iterable[Fingerprint]]) -> Iterator[Duplicate]:
    """The records of one pixel fingerprint, if they lie on both sides of a border: a class's, where
    one label must be wrong, or a split's, where the test holds what the training has seen.
    """
    pixels, members = marked
    found = sorted((Fingerprint(*member) for member in members), key=lambda member: member.key)
    labels, splits = {member.label for member in found}, {member.split for member in found}
    if len(labels) > 1 or len(splits) > 1:
        records = tuple((member.key, member.label, member.split) for member in found)
        yield Duplicate(pixels.hex(), len(labels) > 1, len(splits) > 1, records)


def publish(
    build: Build, results: Iterable[ShardResult], duplicates: Iterable[Duplicate]
) -> Manifest:
    """Turn finished shards into a data set: check, move the shards into place, write the manifest.

    Raises WorkError if too many images were refused, or if nothing is left; then what was there
    before stays as it was.
    """
    by_name = {result.shard.file: result for result in results}
    for split in SPLITS:
        for shard in range(build.plan.shards(split)):
            name = build.shard_name(split, shard)
            if name not in by_name:  # no image fell here
                by_name[name], _ = write_shard(build, split, shard, ())
    rejects = sorted(
        (reject for result in by_name.values() for reject in result.rejects), key=lambda r: r.key
    )
    _check_rejects(build, rejects)
    copies = sorted(duplicates, key=lambda duplicate: duplicate.records)
    manifest = _make_manifest(build, by_name, rejects, copies)
    try:
        _move_into_place(build, sorted(by_name))
        _write_lines(build.output / REJECTS_FILE, map(asdict, rejects))
        lines = (copy.to_json(build.classes) for copy in copies)
        _write_lines(build.output / DUPLICATES_FILE, lines)
        save_manifest(build.output, manifest)
    except OSError as error:
        raise WorkError(f"cannot publish the data set: {describe_os_error(error)}") from error
    shutil.rmtree(build.output / STAGING_FOLDER, ignore_errors=True)
    return manifest


def _check_rejects(build: Build, rejects: list[Reject]) -> None:
    if len(rejects) <= build.max_rejects and len(rejects) < build.total:
        return
    reasons = Counter(reject.reason for reject in rejects)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    keys = ", ".join(reject.key for reject in rejects[:10])
    raise WorkError(
        f"{len(rejects)} of {build.total} images were refused, --max_rejects allows "
        f"{build.max_rejects}: {counts}; the first: {keys}; nothing was published: mend the files, "
        "or raise --max_rejects"
    )


def _make_manifest(
    build: Build,
    by_name: dict[str, ShardResult],
    rejects: list[Reject],
    copies: list[Duplicate],
) -> Manifest:
    splits = {}
    for split in SPLITS:
        names = [build.shard_name(split, i) for i in range(build.plan.shards(split))]
        splits[split] = _sum_split([by_name[name] for name in names], build.spec)
    options = asdict(build.plan) | {"max_pixels": build.max_pixels}
    source = {"uri": build.source.uri}
    return Manifest(
        digest=build.digest,
        source=source | {"notice": build.notice} if build.notice else source,
        seed=options.pop("seed"),
        image=build.spec,
        classes=build.classes,
        options=options,
        layout=build.layout,
        splits=splits,
        rejects=dict(sorted(Counter(reject.reason for reject in rejects).items())),
        ignored=build.ignored,
        duplicates={
            "over_classes": sum(copy.over_classes for copy in copies),
            "over_splits": sum(copy.over_splits for copy in copies),
        },
        versions={
            "inkling": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    )


def _sum_split(results: list[ShardResult], spec: ImageSpec) -> Split:
    shards = tuple(result.shard for result in results)
    pixels = max(1, sum(shard.records for shard in shards) * spec.num_bytes)
    mean = sum(result.pixel_sum for result in results) / pixels
    square = sum(result.pixel_square_sum for result in results) / pixels
    return Split(shards, round(mean, 6), round(math.sqrt(max(0.0, square - mean**2)), 6))


def _move_into_place(build: Build, names: list[str]) -> None:
    """From here on the old data set, if there is one, is gone; a rerun finishes what is cut off."""
    (build.output / MANIFEST_FILE).unlink(missing_ok=True)
    for stale in find_shards(build.output):
        if stale.name not in names or (build.staging / stale.name).exists():
            stale.unlink()
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # moved by the run that was cut off
            os.replace(build.staging / name, build.output / name)


def written_bytes(build: Build) -> int:
    """Bytes of the build's shards so far, half-written ones too: what a progress line goes by."""
    paths = (path for path in build.staging.glob("*") if path.suffix != ".json")
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # renamed while we looked
            total += path.stat().st_size
    return total


def find_shards(folder: Path) -> list[Path]:
    """Files in `folder` that are named like our shards."""
    return [path for split in SPLITS for path in folder.glob(f"{split}-*-of-*.tfrecord")]


def _write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values))


@contextlib.contextmanager
def locked_output(output: Path) -> Iterator[None]:
    """Hold `output` for this process, so that no second build mixes with this one.

    Clears away what builds that were killed left half-written. Raises UsageError if another build
    holds it, OSError if it cannot be written.
    """
    staging = output / STAGING_FOLDER
    staging.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another build is writing to {output}; wait for it, or give another folder"
            ) from None
        remove_leftovers(output)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                staging.rmdir()  # only if nothing is left to go on from


def find_finished(build: Build, *, overwrite: bool) -> Manifest | None:
    """The manifest, if the output already holds this very build; None if it is still to be made.

    Raises UsageError where the output holds something else, and `overwrite` does not allow it.
    """
    if overwrite:
        return None
    if not (build.output / MANIFEST_FILE).exists():
        if find_shards(build.output) and not build.staging.exists():
            raise UsageError(
                f"--output: {build.output} holds TFRecords without a {MANIFEST_FILE}: not ours to "
                "replace; give another folder, or --overwrite"
            )
        return None
    manifest = load_manifest(build.output)
    if manifest.digest != build.digest:
        raise UsageError(
            f"--output: {build.output} holds another build (digest {manifest.digest}, from "
            f"{manifest.source['uri']}; this one is {build.digest}, from {build.source.uri}); give "
            "another folder, or --overwrite to replace it once this one is complete"
        )
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    whole = all(_is_whole(build.output / shard.file, shard) for shard in shards)
    return manifest if whole else None

"""The moment at which shards become a data set: checked, moved into place together, manifest last.

A reader sees a whole data set or none; what was there before stays until the new one is complete; and
a publication that was cut off is finished by the same command.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL

from pipeline import __version__
from pipeline.build import STAGING_FOLDER, Build, Reject, ShardResult, is_whole, write_shard
from pipeline.duplicates import Duplicate
from pipeline.errors import UsageError, WorkError, describe_os_error
from pipeline.files import remove_leftovers, write_lines
from pipeline.manifest import (
    DUPLICATES_FILE,
    MANIFEST_FILE,
    REJECTS_FILE,
    Manifest,
    Split,
    load_manifest,
    save_manifest,
)
from pipeline.predictions import PREDICTIONS_FILE
from pipeline.schema import SPLITS, ImageSpec


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
        names, old = sorted(by_name), find_shards(build.output)
        if not _stands(build.output, manifest):
            (build.output / MANIFEST_FILE).unlink(missing_ok=True)
        move_into_place(build.staging, build.output, names, old=old)
        write_lines(build.output / REJECTS_FILE, map(asdict, rejects))
        lines = (copy.to_json(build.classes) for copy in copies)
        write_lines(build.output / DUPLICATES_FILE, lines)
        save_manifest(build.output, manifest)
    except OSError as error:
        raise WorkError(f"cannot publish the data set: {describe_os_error(error)}") from error
    shutil.rmtree(build.output / STAGING_FOLDER, ignore_errors=True)
    return manifest


def _check_rejects(build: Build, rejects: list[Reject]) -> None:
    if len(rejects) <= build.max_rejects and len(rejects) < build.total:
        return
    allowed = f"--max_rejects allows {build.max_rejects}"
    if len(rejects) == build.total:
        allowed = "none is left"
    reasons = Counter(reject.reason for reject in rejects)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    keys = ", ".join(reject.key for reject in rejects[:10])
    raise WorkError(
        f"{len(rejects)} of {build.total} images were refused, {allowed}: {counts}; the first: {keys}; "
        "nothing was published: mend the files, or raise --max_rejects"
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


def move_into_place(
    staging: Path, output: Path, names: Sequence[str], *, old: Iterable[Path]
) -> None:
    """Put `names` into `output`, in place of the `old` files; a rerun finishes what is cut off.

    A worker that its runner gave up may do this beside its successor, or after it: what they have
    published already stays where it is. Raises OSError.
    """
    for stale in old:
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # moved by the run that was cut off
            os.replace(staging / name, output / name)


def _stands(output: Path, manifest: Manifest) -> bool:
    """Whether this very data set is published already; an old one is gone from here on."""
    with contextlib.suppress(UsageError):  # none, or none that we can read
        return load_manifest(output) == manifest
    return False


def find_shards(folder: Path) -> list[Path]:
    """Files in `folder` that are named like our shards."""
    return [path for split in SPLITS for path in folder.glob(f"{split}-*-of-*.tfrecord")]


@contextlib.contextmanager
def locked_output(output: Path, *, work: str = "build") -> Iterator[None]:
    """Hold `output` for this process, so that no second build mixes with this one.

    Clears away what builds that were killed left half-written. Raises UsageError if another build
    holds it, OSError if it cannot be written. work: what is done there, for that message.
    """
    staging = output / STAGING_FOLDER
    staging.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another {work} is writing to {output}; wait for it, or give another folder"
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
    if (build.output / PREDICTIONS_FILE).exists():
        raise UsageError(f"--output: {build.output} holds predictions; give another folder")
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
    whole = all(is_whole(build.output / shard.file, shard) for shard in shards)
    return manifest if whole else None

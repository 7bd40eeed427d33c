"""Shards rebuilt one by one from the input that a data set was made of: `verify --repair`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL

from pipeline.build import (
    Build,
    Member,
    Place,
    ShardResult,
    place_items,
    plan_build,
    write_shard,
    written_bytes,
)
from pipeline.console import Progress, name_some
from pipeline.errors import UsageError, WorkError
from pipeline.listing import list_images
from pipeline.manifest import MANIFEST_FILE, Manifest
from pipeline.plan import Plan, survey
from pipeline.schema import SPLITS, Item
from pipeline.sources import open_source


def repair_shards(folder: Path, manifest: Manifest, *, files: Sequence[str], uri: str) -> None:
    """Rebuild the shards `files` from `uri` and put each in its place; touch no other.

    The caller holds `locked_output`. Only the images of these shards are decoded. Raises UsageError
    if `uri` is not what the data set was built from, WorkError if a shard comes out different.
    """
    build, items = _plan_again(folder, manifest, uri)
    places = {
        build.shard_name(split, shard): (split, shard)
        for split in SPLITS
        for shard in range(build.plan.shards(split))
    }
    foreign = [file for file in files if file not in places]
    if foreign:
        raise UsageError(
            f"{folder / MANIFEST_FILE} is damaged: no build names a shard {name_some(foreign)}; "
            "build again"
        )
    placed = place_items(items, build.plan)
    members = {places[file]: placed.get(places[file], []) for file in files}
    _move_into_place(build, manifest, _write_shards(build, members))


def _plan_again(folder: Path, manifest: Manifest, uri: str) -> tuple[Build, list[Item]]:
    """The build that made the data set, and all its items. Raises UsageError if it is another."""
    source = open_source(uri, seed=manifest.seed)
    listing = list_images(source.list(), uri=uri, classes=manifest.classes)
    options = dict(manifest.options)
    max_pixels = options.pop("max_pixels", 0)
    try:
        plan = Plan(seed=manifest.seed, **options)
        build = plan_build(
            source,
            listing,
            survey(listing.items),
            output=folder,
            plan=plan,
            spec=manifest.image,
            max_rejects=0,
            max_pixels=max_pixels,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{folder / MANIFEST_FILE}: no build has these options: {error}"
        ) from error
    if build.digest != manifest.digest:
        raise UsageError(
            f"--input: {uri} is not what {folder} was built from, {manifest.source['uri']} as it was "
            f"then: its {len(listing.items):,} images, their names and sizes give digest "
            f"{build.digest}, the manifest has {manifest.digest}; give the input as it was"
        )
    return build, listing.items


def _write_shards(build: Build, members: dict[Place, list[Member]]) -> list[ShardResult]:
    total = sum(map(len, members.values()))
    record_bytes = build.layout.record_bytes
    with (
        Progress(lambda: written_bytes(build) // record_bytes, total=total, unit="images"),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        return list(pool.map(lambda place: write_shard(build, *place, members[place])[0], members))


def _move_into_place(build: Build, manifest: Manifest, results: Iterable[ShardResult]) -> None:
    """Move the shards that came out as the manifest says. Raises WorkError if any did not."""
    shards = (shard for split in manifest.splits.values() for shard in split.shards)
    stated = {shard.file: shard.sha256 for shard in shards}
    different = []
    for result in results:
        file = result.shard.file
        if result.shard.sha256 == stated[file]:
            os.replace(build.staging / file, build.output / file)
        else:
            different.append(file)
    shutil.rmtree(build.staging)
    if different:
        there = _versions(manifest.versions)
        here = _versions({"pillow": PIL.__version__, "numpy": np.__version__})
        raise WorkError(
            f"{len(different):,} shards came out other than the manifest says and were not put in "
            f"place: {name_some(different)}; either a file of {build.source.uri} has changed "
            f"within, or this machine decodes differently (the build had {there}, here is {here})"
        )


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {versions.get(name, 'unknown')}" for name in ("pillow", "numpy"))

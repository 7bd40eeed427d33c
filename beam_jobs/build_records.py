"""The build job: `python -m beam_jobs.build_records --runner DirectRunner`.

List the source, plan the build, let Beam write the shards and publish them, say what came of it.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam

from beam_jobs.options import BuildOptions, allowed_rejects, parse_build_options
from beam_jobs.runners import counter_value, make_pipeline, quiet_workers, run_pipeline
from beam_jobs.transforms import KEPT_SHARDS, BuildRecords
from pipeline.build import Build, Span, plan_build, write_names, written_bytes
from pipeline.console import Progress, table
from pipeline.errors import UsageError, command, leave
from pipeline.example import make_layout
from pipeline.files import BUFFER_BYTES, write_aside
from pipeline.listing import Listing, list_images
from pipeline.manifest import DUPLICATES_FILE, REJECTS_FILE, Manifest, load_manifest
from pipeline.plan import make_plan, survey
from pipeline.publish import find_finished, locked_output
from pipeline.sources import Source, open_source
from pipeline.sources.archive import ZipSource
from pipeline.sources.kaggle import KaggleUnavailable
from pipeline.sources.sample import NOTICE

COMICS_FACES = "kaggle:defileroff/comic-faces-paired-synthetic-v2"
COMICS_CLASSES = ("faces", "comics")
FALLBACK_SAMPLE = "sample:2000"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Build the records that `argv` asks for; 0 if they lie there, complete, in the end."""
    options = parse_build_options(argv)
    source, notice = choose_source(options)
    if notice:
        print(f"NOTICE: {notice}", file=sys.stderr)
    listing = list_images(source.list(), uri=source.uri, classes=_classes(options, source))
    build = _plan(options, source, listing, notice)
    with locked_output(options.output):
        start = time.monotonic()
        finished = find_finished(build, overwrite=options.overwrite)
        kept = 0
        if not finished:
            spans = write_names(build, listing.items)
            del listing  # a build of millions has better use for the memory
            kept = _run(options, build, spans)
        manifest = finished or load_manifest(options.output)
    print(summary(manifest, options.output, seconds=time.monotonic() - start, kept=kept,
                  nothing_to_do=bool(finished)))  # fmt: skip
    return 0


def choose_source(options: BuildOptions) -> tuple[Source, str]:
    """The source that --input names, and a notice if it is not what the user may think.

    `auto` takes the Comics faces set from Kaggle; where that cannot be had a local runner falls back
    on the built-in sample. Raises UsageError or WorkError.
    """
    if options.input != "auto":
        return _open(options.input, options), notice_of(options.input)
    try:
        return _open(COMICS_FACES, options), ""
    except KaggleUnavailable as error:
        if not options.is_local:
            raise UsageError(
                f"--input auto: {error}; {options.runner} does not fall back on the sample: name the "
                "input"
            ) from error
        why = f"--input auto could not have {COMICS_FACES} ({error})"
        notice = f"{why}; built from {FALLBACK_SAMPLE} instead: {notice_of(FALLBACK_SAMPLE)}"
        return _open(FALLBACK_SAMPLE, options), notice


def _open(uri: str, options: BuildOptions) -> Source:
    source = open_source(uri, seed=options.seed)
    return source if options.is_local else within_reach(source, options.temp_location)


def within_reach(source: Source, temp_location: str | None) -> Source:
    """`source` where workers on other machines can read it: what lies in our cache is copied.

    Raises UsageError or OSError.
    """
    if isinstance(source, ZipSource) and source.uri.startswith("kaggle:"):
        return stage_archive(source, temp_location)
    return source


def stage_archive(source: ZipSource, temp_location: str | None) -> ZipSource:
    """`source` as a copy in `temp_location`, where workers on other machines can read it.

    The copy is made once: one of the same size is taken as it is. Raises UsageError or OSError.
    """
    if not temp_location or "://" in temp_location:
        raise UsageError(
            f"--temp_location: {source.uri} is copied there for the workers to read; give a folder "
            f"that all of them see, received {temp_location}"
        )
    size = Path(source.path).stat().st_size
    copy = Path(temp_location).absolute() / f"{source.uri.replace(':', '-').replace('/', '-')}.zip"
    if not copy.is_file() or copy.stat().st_size != size:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(copy) as target, open(source.path, "rb") as original:
            shutil.copyfileobj(original, target, BUFFER_BYTES)
    return ZipSource(source.uri, str(copy))


def notice_of(uri: str) -> str:
    """A warning about the images of `uri` that must travel with whatever is made of them."""
    return NOTICE if uri.startswith("sample:") else ""


def _classes(options: BuildOptions, source: Source) -> tuple[str, ...] | None:
    if options.classes is None and source.uri.startswith(("sample:", COMICS_FACES)):
        return COMICS_CLASSES
    return options.classes


def _plan(options: BuildOptions, source: Source, listing: Listing, notice: str) -> Build:
    total = len(listing.items)
    found = survey(listing.items)
    layout = make_layout(
        options.spec, num_classes=len(listing.classes), longest_key=found.longest_key
    )
    plan = make_plan(
        seed=options.seed,
        test_fraction=options.test_fraction,
        group_by=options.group_by,
        total=total,
        record_bytes=layout.record_bytes,
        train_shards=options.shards,
    )
    return plan_build(
        source,
        listing,
        found,
        output=options.output,
        plan=plan,
        spec=options.spec,
        max_rejects=allowed_rejects(options.max_rejects, total),
        max_pixels=options.max_pixels,
        notice=notice,
    )


def _run(options: BuildOptions, build: Build, spans: list[Span]) -> int:
    """Run the pipeline; how many shards an earlier, unfinished run had left ready."""
    pipeline = make_pipeline(options.runner, options.beam)
    pipeline | "Names" >> beam.Create(spans, reshuffle=False) | BuildRecords(build)
    record_bytes = build.layout.record_bytes

    def images_done() -> int:
        return written_bytes(build) // record_bytes

    with (
        quiet_workers(options.runner) as screen,
        Progress(images_done, total=build.total, unit="images", stream=screen),
    ):
        result = run_pipeline(pipeline, options.runner)
    return counter_value(result, KEPT_SHARDS)


def summary(
    manifest: Manifest, output: Path, *, seconds: float, kept: int, nothing_to_do: bool
) -> str:
    """What the build made, as a table and a few lines."""
    rows: list[tuple[object, ...]] = [("split", *manifest.classes, "records", "shards", "MB")]
    for name, split in manifest.splits.items():
        megabytes = f"{split.bytes / 1e6:.1f}"
        rows.append((name, *split.records_per_class, split.records, len(split.shards), megabytes))
    records = sum(split.records for split in manifest.splits.values())
    lines = [table(rows), ""]
    lines.append(f"source    {manifest.source['uri']}")
    lines.append(f"rejected  {say_counts(manifest.rejects, output / REJECTS_FILE)}")
    if manifest.ignored:
        lines.append(f"ignored   {say_counts(manifest.ignored, None)}")
    if nothing_to_do:
        lines.append("already complete: every shard matches its sha256, nothing was done")
    else:
        ready = f", {kept} shards kept from an unfinished run" if kept else ""
        rate = f"{records / seconds:,.0f} images/s"
        lines.append(f"written   {records:,} records in {seconds:.1f} s, {rate}{ready}")
    for border, count in manifest.duplicates.items():
        if count:
            what = f"{count:,} pictures stand in several {border.removeprefix('over_')}"
            lines.append(f"WARNING   {what}, pixel for pixel; see {output / DUPLICATES_FILE}")
    if manifest.source.get("notice"):
        lines.append(f"NOTICE    {manifest.source['notice']}")
    lines.append(
        f"{manifest.image} records in {output}; next: python -m model.train --records {output}"
    )
    return "\n".join(lines)


def say_counts(counts: dict[str, int], where: Path | None) -> str:
    """`3 truncated, 1 zero-bytes; see where`, or `none`."""
    if not counts:
        return "none"
    text = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    return f"{text}; see {where}" if where else text


if __name__ == "__main__":
    from beam_jobs.build_records import main  # Beam pickles by module: never from __main__

    leave(main())

"""Batch prediction: `python -m beam_jobs.classify_images --input photos/ --model exported/`.

List the source, deal its images to shards, let Beam score, write and publish them, say what came of it.
TensorFlow is loaded by the workers alone, after all that can be refused was.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam

from beam_jobs.build_records import notice_of, say_counts, within_reach
from beam_jobs.inference import ClassifyImages
from beam_jobs.options import LOCAL_RUNNERS, check_runner, local_folder, parse_beside_beam
from beam_jobs.runners import counter_value, make_pipeline, quiet_workers, run_pipeline
from beam_jobs.transforms import KEPT_SHARDS
from model.exported import Exported, check_weights, load_exported
from pipeline import __version__
from pipeline.build import Span, write_names
from pipeline.classify import MAX_BATCH, Classification, default_shards, finished_shards
from pipeline.console import Parser, Progress, table
from pipeline.errors import UsageError, command, leave, printable
from pipeline.listing import Listing, list_unlabelled
from pipeline.manifest import REJECTS_FILE
from pipeline.plan import survey
from pipeline.predictions import FORMATS, Predictions, load_predictions
from pipeline.publish import locked_output
from pipeline.publish_predictions import find_predicted
from pipeline.sources import Source, open_source

_PACKAGES = ("keras", "numpy", "pillow", "pyarrow", "tensorflow")


@dataclass(frozen=True)
class ClassifyOptions:
    """What the user asks of a batch prediction; see `python -m beam_jobs.classify_images --help`.

    shards: None for the default; temp_location: of Beam's, as far as we use it; beam: the arguments
    that are Beam's own, the runner among them.
    """

    input: str
    model: Path
    output: Path
    form: str
    shards: int | None
    batch_size: int
    overwrite: bool
    runner: str
    temp_location: str | None
    beam: tuple[str, ...]

    def __post_init__(self) -> None:
        check_runner(self.runner)
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise UsageError(
                f"--batch_size: must be from 1 to {MAX_BATCH}, received {self.batch_size}"
            )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Predict what `argv` asks for; 0 if the predictions lie there, complete, in the end."""
    options = parse_classify_options(argv)
    exported = load_exported(options.model)
    check_weights(exported)
    source = open_source(options.input, seed=0)
    if options.runner not in LOCAL_RUNNERS:
        source = within_reach(source, options.temp_location)
    listing = list_unlabelled(source.list(), uri=source.uri)
    work = plan_classification(options, exported, source, listing)
    for notice in filter(None, (work.notice, exported.notice)):
        print(printable(f"NOTICE: {notice}"), file=sys.stderr)
    with locked_output(options.output, work="prediction"):
        start = time.monotonic()
        finished = find_predicted(work, overwrite=options.overwrite)
        kept = 0
        if not finished:
            spans = write_names(work, listing.items)
            del listing  # millions of names have no business in memory while TensorFlow runs
            kept = _run(options, work, exported, spans)
        predictions = finished or load_predictions(options.output)
    print(summary(predictions, options.output, seconds=time.monotonic() - start, kept=kept,
                  nothing_to_do=bool(finished)))  # fmt: skip
    return 0


def parse_classify_options(argv: Sequence[str] | None) -> ClassifyOptions:
    """The options in `argv` (default: the command line). Raises UsageError."""
    given, beams, beams_own = parse_beside_beam(_parser(), argv)
    return ClassifyOptions(
        input=given.input,
        model=Path(given.model).absolute(),
        output=local_folder(given.output),
        form=given.format,
        shards=given.shards,
        batch_size=given.batch_size,
        overwrite=given.overwrite,
        runner=given.runner,
        temp_location=beams.temp_location,
        beam=("--runner", given.runner, *beams_own),
    )


def _parser() -> Parser:
    parser = Parser(
        "python -m beam_jobs.classify_images",
        "Label and score all images of a source with an exported model and Apache Beam. "
        "Beam's own options (--direct_num_workers, --temp_location, ...) are passed on to it.",
    )
    add = parser.add_argument
    add("--runner", default="DirectRunner", help="Beam runner; DirectRunner uses all local cores")
    add("--input", required=True, help="folder of images, .zip of one, sample:N, "
        "kaggle:owner/dataset; no class folders are needed")  # fmt: skip
    add("--model", required=True, help="folder that model.export made")
    add("--output", default="predictions/", help="folder for the predictions")
    add("--format", choices=FORMATS, default="csv", help="of the files")
    add("--shards", type=int, help="how many files; default: one for about 1,000 images")
    add("--batch_size", type=int, default=64, help="images per step of the network")
    add("--overwrite", action="store_true", help="replace other predictions in the output folder")
    return parser  # fmt: skip


def plan_classification(
    options: ClassifyOptions, exported: Exported, source: Source, listing: Listing
) -> Classification:
    """What `options` ask for. Raises UsageError."""
    total = len(listing.items)
    model = {"name": exported.network.name, "sha256": exported.keras_sha256}
    return Classification(
        source=source,
        output=options.output,
        model=model | {"notice": exported.notice} if exported.notice else model,
        spec=exported.image,
        classes=exported.classes,
        form=options.form,
        shards=default_shards(total) if options.shards is None else options.shards,
        batch_size=options.batch_size,
        total=total,
        items_digest=survey(listing.items).digest,
        versions={
            "inkling": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        notice=notice_of(options.input),
        ignored=listing.ignored,
    )


def _run(
    options: ClassifyOptions, work: Classification, exported: Exported, spans: list[Span]
) -> int:
    """Run the pipeline; how many shards an earlier, unfinished run had left ready."""
    pipeline = make_pipeline(options.runner, options.beam)
    pipeline | "Names" >> beam.Create(spans, reshuffle=False) | ClassifyImages(work, exported)
    with (
        quiet_workers(options.runner) as screen,
        Progress(lambda: finished_shards(work), total=work.shards, unit="shards", stream=screen),
    ):
        result = run_pipeline(pipeline, options.runner)
    return counter_value(result, KEPT_SHARDS)


def summary(
    predictions: Predictions, output: Path, *, seconds: float, kept: int, nothing_to_do: bool
) -> str:
    """What was predicted, as a table and a few lines."""
    counts = predictions.records_per_class
    lines = [table([("called", "images"), *counts.items()]), ""]
    model = predictions.model
    lines.append(f"model     {model['name']}, {model['sha256'][:8]}")
    lines.append(f"source    {predictions.source['uri']}")
    lines.append(f"rejected  {say_counts(predictions.rejects, output / REJECTS_FILE)}")
    if predictions.ignored:
        lines.append(f"ignored   {say_counts(predictions.ignored, None)}")
    if nothing_to_do:
        lines.append("already complete: every shard matches its sha256, nothing was done")
    else:
        rate = f"{predictions.records / seconds:,.0f} images/s"
        how = f"{kept} shards kept from an unfinished run" if kept else rate
        lines.append(f"scored    {predictions.records:,} images in {seconds:.1f} s, {how}")
    first, *others = (shard.file for shard in predictions.shards)
    more = f" and {len(others)} more" if others else ""
    lines.append(f"predictions in {output}: {first}{more}")
    return "\n".join(map(printable, "\n".join(lines).split("\n")))


if __name__ == "__main__":
    from beam_jobs.classify_images import main  # Beam pickles by module: never from __main__

    leave(main())

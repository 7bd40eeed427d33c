"""The options of the build job: parsed, checked and frozen before anything is opened."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.console import Parser
from pipeline.errors import UsageError
from pipeline.images import DEFAULT_MAX_PIXELS
from pipeline.plan import GROUP_BY
from pipeline.schema import ImageSpec, check_class_names

LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner", "PrismRunner")
REMOTE_RUNNERS = ("DataflowRunner", "FlinkRunner", "PortableRunner", "SparkRunner")


@dataclass(frozen=True)
class BuildOptions:
    """What the user asks of a build; see `python -m beam_jobs.build_records --help`.

    shards: of the training split, None for the default; max_rejects: `N` or `P%`; temp_location: of
    Beam's, as far as we use it; beam: the arguments that are Beam's own, the runner among them.
    """

    input: str
    output: Path
    classes: tuple[str, ...] | None
    spec: ImageSpec
    test_fraction: float
    group_by: str
    seed: int
    shards: int | None
    max_rejects: str
    max_pixels: int
    overwrite: bool
    runner: str
    temp_location: str | None
    beam: tuple[str, ...]

    def __post_init__(self) -> None:
        check_runner(self.runner)
        if self.max_pixels < 1:
            raise UsageError(f"--max_pixels: must be positive, received {self.max_pixels}")
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"--seed: must fit 64 bits, received {self.seed}")
        allowed_rejects(self.max_rejects, 0)

    @property
    def is_local(self) -> bool:
        """Whether the runner works on this machine."""
        return self.runner in LOCAL_RUNNERS


def parse_build_options(argv: Sequence[str] | None) -> BuildOptions:
    """The options in `argv` (default: the command line). Raises UsageError."""
    given, beams, beams_own = parse_beside_beam(_parser(), argv)
    return BuildOptions(
        input=given.input,
        output=local_folder(given.output),
        classes=check_class_names(given.classes.split(",")) if given.classes else None,
        spec=ImageSpec.parse(given.image_size, given.channels),
        test_fraction=given.test_fraction,
        group_by=given.group_by,
        seed=given.seed,
        shards=given.shards,
        max_rejects=given.max_rejects,
        max_pixels=given.max_pixels,
        overwrite=given.overwrite,
        runner=given.runner,
        temp_location=beams.temp_location,
        beam=("--runner", given.runner, *beams_own),
    )


def check_runner(runner: str) -> None:
    """Raise UsageError if we know no `runner` of that name."""
    known = LOCAL_RUNNERS + REMOTE_RUNNERS
    if runner not in known:
        raise UsageError(f"--runner: {runner} is none of {', '.join(known)}")


def parse_beside_beam(
    parser: Parser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, argparse.Namespace, list[str]]:
    """What `argv` gives to `parser`, what it gives to Beam, and those arguments that are Beam's own.

    Raises UsageError for an argument that neither of them knows.
    """
    given, beams_own = parser.parse_known_args(argv)
    beam_parser = _beam_parser(parser.prog)
    beams, unknown = beam_parser.parse_known_args(beams_own)
    parser.refuse(unknown, also_known=beam_parser)
    return given, beams, beams_own


def allowed_rejects(limit: str, total: int) -> int:
    """How many of `total` images may be refused: `limit` is a number, or a percentage like `1%`."""
    match = re.fullmatch(r"(\d{1,12})|(\d{1,3}(?:\.\d{1,6})?)%", limit)
    if not match or (match[2] and float(match[2]) > 100):
        raise UsageError(
            f"--max_rejects: expected a number or a percentage, as 10 or 1%, received {limit!r}"
        )
    return int(match[1]) if match[1] else int(total * float(match[2]) / 100)


def _parser() -> Parser:
    parser = Parser(
        "python -m beam_jobs.build_records",
        "Turn labelled images into sharded, globally shuffled TFRecords with Apache Beam. "
        "Beam's own options (--direct_num_workers, --temp_location, ...) are passed on to it.",
    )
    add = parser.add_argument
    add("--runner", default="DirectRunner", help="Beam runner; DirectRunner uses all local cores")
    add(
        "--input",
        default="auto",
        help="folder with one sub-folder per class, .zip of one, sample:N (drawn by the program), "
        "kaggle:owner/dataset; auto is the Comics faces set from Kaggle or else the sample",
    )
    add("--output", default="tfrecords/", help="folder for the records")
    add("--classes", metavar="A,B", help="class folders in label order; default: as found, sorted")
    add("--image_size", default="150x150", metavar="HxW", help="height x width of each record")
    add("--channels", type=int, default=1, help="1 for gray, 3 for RGB")
    add("--test_fraction", type=float, default=0.2, help="share of the groups kept for the test")
    add(
        "--group_by",
        default="stem",
        choices=GROUP_BY,
        help="what never falls into two splits: files of one name (stem), or each file alone (path)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="decides splits and order; the same seed, the same bytes",
    )
    add("--shards", type=int, help="files of the training split; default: at least 16, each under "
        "128 MB")  # fmt: skip
    add(
        "--max_rejects",
        default="1%",
        help="more refused images than this (N or P%%) fail the build",
    )
    add("--max_pixels", type=int, default=DEFAULT_MAX_PIXELS, help="larger images are refused")
    add("--overwrite", action="store_true", help="replace another data set in the output folder")
    return parser  # fmt: skip


def _beam_parser(prog: str) -> Parser:
    """Knows every option of Beam, so that a misspelt one is told from one to pass on."""
    parser = Parser(prog, "", add_help=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)  # Beam's own way to let options be declared
    return parser


def local_folder(output: str) -> Path:
    """The absolute path of an --output. Raises UsageError for a bucket and for a file."""
    if "://" in output:
        raise UsageError(
            f"--output: cannot write to a bucket yet, received {output}; give a folder"
        )
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--output: {output} is a file; give a folder")
    return path.absolute()

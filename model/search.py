"""Choose a model by a plan of rounds: `python -m model.search --records tfrecords/ --plan report`.

It may be killed at any moment and goes on by the same command; the same command on other machines,
with the same --storage, shares the work.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import PRECISIONS
from model.studies.board import Board
from model.studies.engine import Search, run_search
from model.studies.folder import (
    COMPLETE,
    JOURNAL_FILE,
    StudyOptions,
    begin_study,
    read_result,
    study_id,
    versions,
)
from model.studies.forecast import (
    Expected,
    describe_plan,
    estimate_seconds,
    expect_rounds,
    measure_speed,
)
from model.studies.page import write_study_report
from model.studies.plan_files import check_fits, known_plans, load_plan
from model.studies.plans import Plan, scale_plan
from model.studies.rounds import Choosing
from model.studies.storages import check_address, explained, open_storage, public_address
from model.studies.trials import CHILD, Workplace, worker_environments
from model.train import check_two_classes
from pipeline.console import Parser, clock, table
from pipeline.errors import UsageError, command, printable
from pipeline.manifest import Manifest, load_manifest


@dataclass(frozen=True)
class _Asked:
    """A request that was found sound. scaled: the plan as it will be done; factor: see `scale_plan`."""

    given: argparse.Namespace
    plan: Plan
    scaled: Plan
    factor: float
    options: StudyOptions
    records: Path
    manifest: Manifest

    @property
    def available(self) -> int:
        """Records to train on."""
        return self.manifest.splits["train"].records

    @property
    def expected(self) -> list[Expected]:
        """What the rounds will hold, as far as is known."""
        choosing = Choosing(self.options.seed, self.options.batch_size)
        return expect_rounds(self.scaled, choosing, self.manifest, repeats=self.options.repeats)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Do the study that `argv` asks for; 0 if its winner is known in the end."""
    asked = _ask(argv)
    given, folder = asked.given, Path(asked.given.study)
    if given.dry_run:
        print(_introduction(asked))
        print(_estimate(asked))
        return 0
    begin_study(
        folder, asked.plan, asked.records, asked.manifest, asked.options,
        storage=public_address(given.storage) if given.storage else None,
        scaled={"available": asked.available, "factor": asked.factor},
    )  # fmt: skip
    result = read_result(folder)
    if not (result and result["finished"]):
        if not given.quiet:
            print(_introduction(asked), flush=True)
        result = _search(asked, folder)
    report = write_study_report(folder)
    print(_lines(_summary(result, asked.manifest)))
    print(printable(f"report: {report}; curves: tensorboard --logdir {folder}"))
    return 0


def _ask(argv: Sequence[str] | None) -> _Asked:
    """What `argv` asks for. Raises UsageError for all that can be known to be wrong beforehand."""
    given = _parser().parse_strictly(argv)
    _check(given)
    plan = load_plan(given.plan)
    options = StudyOptions(
        seed=given.seed,
        repeats=plan.final.repeats if given.repeats is None else given.repeats,
        examples_scale=given.examples_scale,
        epochs_scale=given.epochs_scale,
        deterministic=given.deterministic,
        precision=given.precision,
        batch_size=given.batch_size,
    )
    records = Path(given.records)
    manifest = load_manifest(records)
    check_two_classes(records, manifest)
    check_fits(plan, manifest.image)
    scaled, factor = scale_plan(
        plan,
        available=manifest.splits["train"].records,
        examples_scale=options.examples_scale,
        epochs_scale=options.epochs_scale,
    )
    return _Asked(given, plan, scaled, factor, options, records, manifest)


def _parser() -> Parser:
    parser = Parser("python -m model.search", "Choose a model by a plan of rounds, and test it.")
    add = parser.add_argument
    add("--records", default="tfrecords/", help="folder that build_records made")
    add("--plan", default="report", help=f"{', '.join(known_plans())}, or a file.toml")
    add("--study", default="runs/study", help="folder of the study; shared by all machines")
    add("--storage", help="postgresql://…, sqlite:///… or a journal file; default: in the study")
    add("--workers", type=int, default=1, help="trainings at a time on this machine")
    add("--heartbeat", type=float, default=60.0,
        help="seconds of silence after which a worker's training is given to another")  # fmt: skip
    add("--seed", type=int, default=0, help="decides initial weights, orders and samples")
    add("--repeats", type=int, help="further trainings of each finalist; default: the plan's")
    add("--batch_size", type=int, default=64, help="images per step where the plan says nothing")
    add("--precision", default="auto", choices=PRECISIONS, help="as in model.train")
    add("--deterministic", action="store_true", help="the same bits again at each run, if slower")
    add(
        "--examples_scale",
        type=float,
        default=1.0,
        help="share of the plan's examples, for a trial",
    )
    add("--epochs_scale", type=float, default=1.0, help="share of the plan's epochs, for a trial")
    add("--dry_run", action="store_true", help="say what would be done and how long it may take")
    add("--quiet", action="store_true", help="print the result only")
    return parser


def _check(given: argparse.Namespace) -> None:
    if given.workers < 1:
        raise UsageError(f"--workers: must be at least 1, received {given.workers}")
    if not 1 <= given.heartbeat < math.inf:
        raise UsageError(f"--heartbeat: must be at least 1, received {given.heartbeat:g}")
    if given.storage is not None:
        check_address(given.storage)


def _introduction(asked: _Asked) -> str:
    lines = [f"plan {asked.plan.name}"]
    if asked.manifest.source.get("notice"):
        lines.insert(0, f"NOTICE: {asked.manifest.source['notice']}")
    if asked.factor < 1:
        largest = max(one.examples or 0 for one in asked.plan.rounds)
        lines.append(
            f"scaled: the plan asks for {largest:,} examples and there are {asked.available:,}: all "
            f"rounds have {asked.factor:.3f} times the plan's"
        )
    choosing = Choosing(asked.options.seed, asked.options.batch_size)
    lines += describe_plan(
        asked.scaled, asked.expected, choosing, asked.manifest, repeats=asked.options.repeats
    )
    return _lines("\n".join(lines))


def _lines(text: str) -> str:
    """`printable`, line by line."""
    return "\n".join(map(printable, text.split("\n")))


def _estimate(asked: _Asked) -> str:
    expected = asked.expected
    speed = measure_speed(
        expected, asked.options, asked.records, asked.manifest, environment=os.environ
    )
    seconds = estimate_seconds(expected, speed, asked.manifest)
    rows = [
        (one.round.name, len(one.models), clock(time))
        for one, time in zip(expected, seconds, strict=True)
    ]
    rows.append(("all", sum(count for _, count, _ in rows), clock(sum(seconds))))
    return (
        f"{table([('round', 'trainings', 'estimate'), *rows])}\nan estimate: the cheapest and the "
        "costliest network were trained for a moment on this machine; one training at a time; where "
        "models depend on results, for the costliest"
    )


def _search(asked: _Asked, folder: Path) -> dict[str, Any]:
    given = asked.given
    address = given.storage or str(folder / JOURNAL_FILE)
    stop = threading.Event()
    environments = worker_environments(given.workers, given=os.environ)
    search = Search(
        folder=folder,
        plan=asked.scaled,
        options=asked.options,
        records=asked.records,
        manifest=asked.manifest,
        storage=open_storage(address),
        name=study_id(folder, asked.plan, asked.manifest, asked.options),
        workplaces=[Workplace(CHILD, one, given.heartbeat, stop) for one in environments],
        versions=versions(),
        board=Board(quiet=given.quiet),
        expected=asked.expected,
    )
    with explained(address), _ended_by_signals():
        return run_search(search)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a search as Ctrl-C does: its trainings end with it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _summary(result: Mapping[str, Any], manifest: Manifest) -> str:
    rows: list[tuple[object, ...]] = [
        ("finalist", "validation loss", "± seeds", "parameters", "accuracy", "loss of the test")
    ]
    for one in result["finalists"]:
        std = one["val_loss_std"]
        rows.append(
            (
                one["model"],
                f"{one['val_loss_mean']:.5f}",
                "" if std is None else f"{std:.5f}",
                one["parameters"],
                f"{one['test_accuracy']:.5f}",
                f"{one['test_loss']:.5f}",
            )
        )
    best = [
        (one["name"], trial["model"], f"{trial['val_loss']:.5f}", f"{trial['val_accuracy']:.5f}")
        for one in result["rounds"]
        for trial in one["trials"][:1]
        if trial["state"] == COMPLETE
    ]
    headings = ("round", "best model", "validation loss", "accuracy")
    parts = [table([headings, *best]), table(rows), f"winner: {result['why']}"]
    if manifest.source.get("notice"):
        parts.insert(0, f"NOTICE: {manifest.source['notice']}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())

"""What `stream.py` measured, as tables of markdown: medians, ratios within a round, goals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.report import Goal, describe_noise, goal_table, heading

ROWS = {
    "numpy": "**positioned reads, numpy batches**",
    "tf-data": "**positioned reads, through tf.data**",
    "sequential": "**sequential, through tf.data**",
    "raw": "TFRecordDataset, raw records, file order, not parsed",
    "tuned": "TFRecordDataset: interleave, shuffle, batched parse, all AUTOTUNE",
    "tutorial": "TFRecordDataset: map one by one, cast, shuffle, batch",
    "grain": "Grain, array-record",
    "mosaic": "MosaicML Streaming",
    "webdataset": "WebDataset",
    "ffcv": "FFCV",
}
PEERS = ("grain", "mosaic", "webdataset", "ffcv")


@dataclass(frozen=True)
class StreamRun:
    """One program, once.

    peak_mb: VmHWM of the process that gets the batches; all_mb: the largest sum of PSS seen over all
    its processes; foreign_cores: processor cores that other programs kept busy meanwhile.
    """

    name: str
    count: int
    batch_size: int
    round: int
    cold: bool
    images_per_second: float
    peak_mb: float
    all_mb: float
    foreign_cores: float


@dataclass(frozen=True)
class StreamResult:
    """Everything that a benchmark found out."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    count: int
    large: int
    skipped: dict[str, str]
    runs: list[StreamRun]


def report(result: StreamResult) -> str:
    """The whole report as markdown."""
    warm = _warm(result, result.count)
    parts = [
        *heading(result.date, result.machine, result.versions),
        *(_speed_table(result, size) for size in sorted({run.batch_size for run in warm})),
        _memory_table(result),
        *(f"SKIPPED {name}: {why}" for name, why in result.skipped.items()),
        describe_noise([run.foreign_cores for run in warm]),
        goal_table(goals(result), of="the stream"),
    ]
    return "\n\n".join(parts)


def goals(result: StreamResult) -> list[Goal]:
    """The goals of the stream, each with what was measured."""
    found = []
    for size in sorted({run.batch_size for run in _warm(result, result.count)}):
        for name, other, least in (
            ("tf-data", "tuned", 2.5),
            ("tf-data", "ffcv", 0.6),
            ("numpy", "ffcv", 1.0),
            ("sequential", "tuned", 0.9),
            *(("tf-data", other, 1.0) for other in ("raw", "tutorial", *PEERS[:-1])),
        ):
            times = _ratio(result, name, other, size)
            wanted = f"{name} at least {least} of {other}, batches of {size}"
            found.append(
                Goal(wanted) if times is None else Goal(wanted, f"{times:.2f}", times >= least)
            )
    for name in ("numpy", "tf-data", "sequential"):
        found.append(_memory_goal(result, name, most=1.05))
    return found


def _warm(result: StreamResult, count: int) -> list[StreamRun]:
    return [run for run in result.runs if run.count == count and not run.cold]


def _rates(result: StreamResult, name: str, size: int) -> list[float]:
    """Images per second by round."""
    runs = [
        run for run in _warm(result, result.count) if (run.name, run.batch_size) == (name, size)
    ]
    return [run.images_per_second for run in sorted(runs, key=lambda run: run.round)]


def _ratio(result: StreamResult, name: str, other: str, size: int) -> float | None:
    """How many times as fast as `other` is `name`: the median over the rounds."""
    pairs = list(zip(_rates(result, name, size), _rates(result, other, size), strict=False))
    return median(one / two for one, two in pairs) if pairs else None


def _speed_table(result: StreamResult, size: int) -> str:
    lines = [
        f"### Batches of {size}",
        "",
        "| | images/s (least to most) | times tuned | of FFCV | cold: first epoch, images/s |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, label in ROWS.items():
        if rates := _rates(result, name, size):
            ratios = [_ratio(result, name, other, size) for other in ("tuned", "ffcv")]
            shown = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            cold = [
                f"{run.images_per_second:,.0f}"
                for run in result.runs
                if run.cold and (run.name, run.batch_size) == (name, size)
            ]
            rate = f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            lines.append(f"| {label} | {rate} | {shown[0]} | {shown[1]} | {(cold or ['-'])[0]} |")
    return "\n".join(lines)


def _peaks(result: StreamResult, name: str, count: int) -> list[StreamRun]:
    """The runs with the largest batches."""
    size = max(run.batch_size for run in result.runs)
    runs = _warm(result, count)
    return [run for run in runs if run.name == name and run.batch_size == size]


def _memory_table(result: StreamResult) -> str:
    small, large = f"{result.count:,}", f"{result.large:,}"
    lines = [
        "### Peak memory in MB, largest batches",
        "",
        f"| | {small} records | {large} records | ratio | all processes, {large} records |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, label in ROWS.items():
        few, many = _peaks(result, name, result.count), _peaks(result, name, result.large)
        if few and many:
            one, two = median(run.peak_mb for run in few), median(run.peak_mb for run in many)
            rest = f"{two / one:.2f} | {many[0].all_mb:,.0f}"
            lines.append(f"| {label} | {one:,.0f} | {two:,.0f} | {rest} |")
    return "\n".join(lines)


def _memory_goal(result: StreamResult, name: str, *, most: float) -> Goal:
    few, many = _peaks(result, name, result.count), _peaks(result, name, result.large)
    wanted = f"{name}: peak memory with {result.large:,} records at most {most} times"
    if not few or not many:
        return Goal(wanted)
    found = median(run.peak_mb for run in many) / median(run.peak_mb for run in few)
    return Goal(wanted, f"{found:.2f}", found <= most)

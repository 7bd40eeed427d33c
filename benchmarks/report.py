"""What was measured, as tables of markdown: medians, ratios within a round, goals kept or missed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

SMALL, LARGE = 4_000, 20_000
"""The goals are set for these numbers of images."""

ROWS = {
    "limit": "limit: decode and resize only, one process per core",
    "limit-threads": "the same in threads, for information",
    "ours": "**build_records**",
    "keras": "Keras image_dataset_from_directory, one epoch, no records",
    "naive-beam": "Beam job with images as elements, one process per core",
    "tfds": "TFDS builder, one process",
    "tfds-beam": "TFDS builder on Beam, one process per core",
}
OURS = ("limit", "limit-threads", "ours")
PEERS = tuple(name for name in ROWS if name not in OURS)

QUIET_CORES = 0.1
"""Up to this much work of other programs, in processor cores, a run counts as undisturbed."""


@dataclass(frozen=True)
class Run:
    """One program, once. See `measure.Measured` for the units."""

    name: str
    count: int
    round: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    foreign_cores: float


@dataclass(frozen=True)
class Result:
    """Everything that a benchmark found out; by count of images: photos, shuffled."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    photos: dict[int, dict[str, Any]]
    skipped: dict[str, str]
    shuffled: dict[int, dict[str, int]]
    runs: list[Run]


class Goal(NamedTuple):
    """What is wanted, what was found, whether that is enough; None if it was not measured."""

    wanted: str
    found: str = "not measured"
    passed: bool | None = None


def report(result: Result) -> str:
    """The whole report, ready to print."""
    parts = [
        *heading(result.date, result.machine, result.versions),
        *(_count_report(result, count) for count in result.photos),
        *(f"**SKIPPED {name}: {why}**" for name, why in result.skipped.items()),
        describe_noise([run.foreign_cores for run in result.runs]),
        goal_table(goals(result), of="build_records"),
    ]
    return "\n\n".join(parts)


def _count_report(result: Result, count: int) -> str:
    facts = result.photos[count]
    lines = [
        f"### {count:,} images of {facts['mean_bytes'] / 1e3:.0f} kB",
        "",
        "| | images/s | of the limit | seconds (least to most) | processor s | peak MB |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, title in ROWS.items():
        runs = _of(result.runs, name, count)
        if runs:
            lines.append(_row(title, runs, ratio(result.runs, name, "limit", count)))
    return "\n".join(lines)


def _row(title: str, runs: list[Run], share: float) -> str:
    seconds = sorted(run.seconds for run in runs)
    spread = f"{median(seconds):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
    rate = f"{runs[0].count / median(seconds):,.0f}"
    cpu = f"{median(run.cpu_seconds for run in runs):.1f}"
    peak = f"{max(run.peak_mb for run in runs):,.0f}"
    return f"| {title} | {rate} | {share:.2f} | {spread} | {cpu} | {peak} |"


def ratio(runs: list[Run], name: str, base: str, count: int) -> float:
    """How many times as fast as `base` is `name`: the median over the rounds of one count."""
    pairs = zip(_of(runs, base, count), _of(runs, name, count), strict=True)
    return median(one.seconds / other.seconds for one, other in pairs)


def _of(runs: list[Run], name: str, count: int) -> list[Run]:
    """The runs of one program at one count, by round."""
    found = [run for run in runs if run.name == name and run.count == count]
    return sorted(found, key=lambda run: run.round)


def goals(result: Result) -> list[Goal]:
    """The goals of the build job, each with what was measured."""
    runs = result.runs
    return [
        _speed_goal(runs, LARGE, least=0.90),
        _speed_goal(runs, SMALL, least=0.75),
        _memory_goal(runs, most_mb=600),
        _growth_goal(runs, most=1.1),
        _shuffle_goal(result.shuffled, most=0.01),
        *_peer_goals(runs),
    ]


def _speed_goal(runs: list[Run], count: int, *, least: float) -> Goal:
    wanted = f"at least {least:.2f} of the limit at {count:,} images"
    if not _of(runs, "ours", count):
        return Goal(wanted)
    found = ratio(runs, "ours", "limit", count)
    return Goal(wanted, f"{found:.3f}", found >= least)


def _memory_goal(runs: list[Run], *, most_mb: float) -> Goal:
    found = max(run.peak_mb for run in runs if run.name == "ours")
    return Goal(f"peak memory under {most_mb:.0f} MB", f"{found:.0f} MB", found < most_mb)


def _growth_goal(runs: list[Run], *, most: float) -> Goal:
    wanted = f"peak memory at {LARGE:,} images at most {most} times that at {SMALL:,}"
    large, small = _of(runs, "ours", LARGE), _of(runs, "ours", SMALL)
    if not large or not small:
        return Goal(wanted)
    found = median(run.peak_mb for run in large) / median(run.peak_mb for run in small)
    return Goal(wanted, f"{found:.2f}", found <= most)


def _shuffle_goal(shuffled: dict[int, dict[str, int]], *, most: float) -> Goal:
    found = max(one["shuffled_bytes"] / one["output_bytes"] for one in shuffled.values())
    wanted = f"bytes through the shuffle under {most:.0%} of the output"
    return Goal(wanted, f"{found:.2%}", found < most)


def _peer_goals(runs: list[Run]) -> list[Goal]:
    measured = sorted({(run.count, run.name) for run in runs if run.name in PEERS})
    ahead = [(count, name, ratio(runs, "ours", name, count)) for count, name in measured]
    return [
        Goal(f"ahead of {name} at {count:,} images", f"{times:.1f} times as fast", times > 1)
        for count, name, times in ahead
    ] or [Goal("ahead of every peer")]


def goal_table(found: list[Goal], *, of: str) -> str:
    """The goals `of` a program as a table of markdown."""
    verdicts = {True: "pass", False: "**FAIL**", None: "-"}
    rows = [f"| {goal.wanted} | {goal.found} | {verdicts[goal.passed]} |" for goal in found]
    return "\n".join([f"| goal of {of} | measured | |", "| --- | --- | --- |", *rows])


def describe_noise(busy: list[float]) -> str:
    """What other programs did meanwhile; busy: the `foreign_cores` of each run."""
    loud = sum(cores > QUIET_CORES for cores in busy)
    text = (
        f"Other programs kept {median(busy):.2f} cores busy (median of runs; most {max(busy):.2f})."
    )
    if loud:
        text += f" **NOISY: above {QUIET_CORES} cores in {loud} of {len(busy)} runs.**"
    return text


def heading(date: str, machine: dict[str, Any], versions: dict[str, str]) -> list[str]:
    """When, on what machine and with which versions: two paragraphs."""
    cores = f"{machine['cores']} cores of {machine['processor']}"
    return [
        f"{date}, {cores}, {machine['memory_gb']} GB, Linux {machine['kernel']}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]

"""Throughput and memory of build_records beside the limit and its peers: `python benchmarks/build.py`.

Every program runs as a whole process on the same files, in rounds (A B C, A B C, ...), so that
whatever else happens on the machine meets all of them. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import Measured, RunFailed, run  # noqa: E402 - the project need not be installed
from benchmarks.photos import make_photos, read_all  # noqa: E402
from benchmarks.report import OURS, PEERS, Result, Run, goals, report  # noqa: E402

WARM_UP_IMAGES = 100
PIXELS = 150 * 150
TFDS = ("tensorflow-datasets==4.9.10", "tensorflow-metadata<1.18")  # the last for protobuf 4
SHARED_VERSIONS = ("apache-beam", "numpy", "pillow", "protobuf", "tensorflow")
VERSIONS = (*SHARED_VERSIONS, "google-crc32c", "keras")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what `argv` asks for, print the report, write it as JSON if asked to."""
    options = parse_options(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    photos = {count: _prepare(options.work, count) for count in options.counts}
    warm_up = _prepare(options.work, WARM_UP_IMAGES)
    programs, skipped = find_programs(options.peers, options.work)
    say("warm-up, not counted")
    run_round(programs, skipped, warm_up[0], options.work, count=WARM_UP_IMAGES, number=0)
    runs: list[Run] = []
    for count, (folder, _) in photos.items():
        names = programs if count in options.peer_counts else OURS
        chosen = {name: programs[name] for name in names}
        for number in range(options.runs):
            runs += run_round(chosen, skipped, folder, options.work, count=count, number=number)
    result = Result(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=find_versions(programs),
        photos={count: facts for count, (_, facts) in photos.items()},
        skipped=skipped,
        shuffled={n: measure_shuffle(folder, options.work) for n, (folder, _) in photos.items()},
        runs=[run for run in runs if run.name not in skipped],
    )
    print(report(result))
    if options.json:
        values = {**asdict(result), "goals": [goal._asdict() for goal in goals(result)]}
        options.json.write_text(json.dumps(values, indent=2) + "\n")
    return 0


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options in `argv`; --peer_counts defaults to the smallest of --counts."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--counts",
        type=parse_numbers,
        default=[4000, 20000],
        help="images per data set, as 4000,20000",
    )
    add("--runs", type=int, default=5, help="rounds for each count")
    add("--peers", type=parse_peers, default=PEERS, help=f"all, none, or some of {','.join(PEERS)}")
    add("--peer_counts", type=parse_numbers, help="counts that peers run at; default: the smallest")
    add("--work", type=Path, default=Path("/tmp/inkling-benchmarks"), help="images, environments")
    add("--json", type=Path, help="file for every single value")
    options = parser.parse_args(argv)
    options.work = options.work.absolute()
    options.peer_counts = options.peer_counts or [min(options.counts)]
    return options


def parse_numbers(text: str) -> list[int]:
    """`4000,20000`."""
    return [int(number) for number in text.split(",")]


def parse_peers(text: str, *, known: Sequence[str] = PEERS) -> tuple[str, ...]:
    """`all`, `none`, or names from `known`. Raises ArgumentTypeError for another."""
    names = {"all": tuple(known), "none": ()}.get(text, tuple(text.split(",")))
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def _prepare(work: Path, count: int) -> tuple[Path, dict[str, Any]]:
    say(f"{count:,} images in {work}")
    folder, facts = make_photos(work, count)
    read_all(folder)
    return folder, facts


def find_programs(peers: Sequence[str], work: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Command lines without --input and --output, by name; and why some are missing."""
    ours = [sys.executable, "-m"]
    programs = {
        "limit": [*ours, "benchmarks.peers.limit"],
        "limit-threads": [*ours, "benchmarks.peers.limit", "--threads"],
        "ours": [*ours, "beam_jobs.build_records"],
        "keras": [*ours, "benchmarks.peers.keras_directory"],
        "naive-beam": [*ours, "benchmarks.peers.naive_beam"],
    }
    skipped = {}
    wanted = [name for name in peers if name.startswith("tfds")]
    try:
        tfds = [str(_tfds_python(work)), "-m", "benchmarks.peers.tfds_builder"] if wanted else []
        programs |= {"tfds": tfds, "tfds-beam": [*tfds, "--beam"]}
    except subprocess.CalledProcessError as error:
        reason = str(error.stderr or error).strip().splitlines()[-1]
        skipped = {name: _skip(name, f"cannot be installed: {reason}") for name in wanted}
    chosen = {name: p for name, p in programs.items() if name in OURS or name in peers}
    return chosen, skipped


def _tfds_python(work: Path) -> Path:
    """The interpreter of an environment with TFDS, and what it shares with ours in our versions."""
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in SHARED_VERSIONS]
    return make_environment(work / "tfds-environment", (*TFDS, *pinned))


def make_environment(folder: Path, packages: Sequence[str]) -> Path:
    """The interpreter of an environment with `packages`, made if it is not there in full.

    Raises CalledProcessError if pip cannot install them.
    """
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        say(f"installing {', '.join(packages)} in {folder}")
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, capture_output=True, text=True)
        complete.touch()
    return python


def run_round(
    programs: dict[str, list[str]], skipped: dict[str, str], photos: Path, work: Path, *,
    count: int, number: int,
) -> list[Run]:  # fmt: skip
    """Every program once, in turn; a peer that fails goes to `skipped`. Raises RunFailed for ours."""
    runs = []
    for name, program in programs.items():
        if name in skipped:
            continue
        try:
            measured = _run_one(name, program, photos, work, count=count)
        except RunFailed as error:
            if name in OURS:
                raise
            skipped[name] = _skip(name, f"does not run: {error}")
            continue
        rate = f"{count / measured.seconds:,.0f} images/s, {measured.peak_mb:,.0f} MB"
        say(f"{count:,} images: {name} {measured.seconds:.2f} s, {rate}")
        runs.append(Run(name, count, number, **asdict(measured)))
    return runs


def _skip(name: str, why: str) -> str:
    say(f"SKIPPED {name}: {why}")
    return why


def _run_one(name: str, program: list[str], photos: Path, work: Path, *, count: int) -> Measured:
    output = work / "output"
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # or the disk would still write what the program before has left behind
    command = [*program, "--input", str(photos), "--output", str(output)]
    measured = run(command, cwd=ROOT, log=work / f"{name}.log")
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    if name != "keras" and written < count * PIXELS:
        raise RunFailed(f"{name} wrote {written:,} bytes for {count:,} images")
    return measured


def measure_shuffle(photos: Path, work: Path) -> dict[str, int]:
    """Elements and bytes into our job's GroupByKey, and the bytes of the shards that it makes."""
    output = work / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.shuffle_bytes", str(photos), str(output)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    elements, size = map(int, done.stdout.split()[-2:])
    shards = sum(path.stat().st_size for path in output.glob("*.tfrecord"))
    shutil.rmtree(output)
    return {"elements": elements, "shuffled_bytes": size, "output_bytes": shards}


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory in GB, kernel."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 1e9, 1),
        "kernel": platform.release(),
    }


def find_versions(programs: dict[str, list[str]]) -> dict[str, str]:
    """Versions of Python and of the packages that were measured."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in VERSIONS}
    if "tfds" in programs or "tfds-beam" in programs:
        name, _, version = TFDS[0].partition("==")
        versions[name] = version
    return versions


def say(text: str) -> None:
    """To standard error, at once."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

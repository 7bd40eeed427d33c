"""Images per second and peak memory of our readers beside their peers: `python benchmarks/stream.py`.

Every program runs as a whole process and times itself once it is warm, in rounds (A B C, A B C, ...).
`--orders` prints how well the readers shuffle. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.build import (  # noqa: E402 - the project need not be installed
    describe_machine,
    make_environment,
    parse_numbers,
    parse_peers,
    say,
)
from benchmarks.measure import RunFailed, run  # noqa: E402
from benchmarks.records import make_records  # noqa: E402
from benchmarks.stream_report import PEERS, ROWS, StreamResult, StreamRun, report  # noqa: E402
from pipeline.schema import ImageSpec  # noqa: E402

SPEC = ImageSpec(150, 150, 1)
ENVIRONMENTS = {
    "grain": ("grain==0.2.18", "array-record==0.8.6", "numpy==2.4.6"),
    "torch": (
        *("torch==2.15.0", "torchvision==0.29.2", "numpy==2.1.3"),
        *("mosaicml-streaming==0.13.0", "webdataset==1.0.2"),
    ),
    "ffcv": (
        *("torch==2.15.0", "torchvision==0.29.2", "numpy==2.1.3"),
        *("ffcv==1.0.2", "numba==0.68.1", "opencv-python==5.0.0.93"),
    ),
}
CHECKSUMS = "google-crc32c==1.9.0"  # all that our reader of records needs beside numpy
PROGRAMS = {  # name: (environment or None for ours, module, way)
    "numpy": (None, "read_ours", "numpy"),
    "tf-data": (None, "read_ours", "tf-data"),
    "sequential": (None, "read_ours", "sequential"),
    "raw": (None, "read_tfrecords", "raw"),
    "tuned": (None, "read_tfrecords", "tuned"),
    "tutorial": (None, "read_tfrecords", "tutorial"),
    "grain": ("grain", "read_grain", None),
    "mosaic": ("torch", "read_mosaic", None),
    "webdataset": ("torch", "read_webdataset", None),
    "ffcv": ("ffcv", "read_ffcv", None),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what `argv` asks for, print the report, write it as JSON if asked to."""
    options = _parse_options(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.orders:
        from benchmarks.stream_orders import order_table  # loads TensorFlow

        print(order_table(options.work))
        return 0
    skipped: dict[str, str] = {}
    names = [name for name in ROWS if name not in PEERS or name in options.peers]
    pythons = _find_pythons(names, options.work, skipped)
    runs: list[StreamRun] = []
    for count in (options.count, options.large):
        say(f"{count:,} records in {options.work}")
        make_records(options.work / f"records-{count}", count, SPEC)
        for name in names:
            given = {"count": count, "batch_size": 256, "epochs": 0}
            _run_one(name, pythons, skipped, options.work, **given)
    for name in names:
        _settle(_files(name, options.work, options.count))
    for number in range(options.runs):
        for batch_size in options.batch_sizes:
            for name in names:
                given = {"count": options.count, "batch_size": batch_size, "epochs": options.epochs}
                runs += _run_one(name, pythons, skipped, options.work, round_=number, **given)
    for name in names:
        given = {"batch_size": max(options.batch_sizes), "epochs": 1}
        runs += _run_one(name, pythons, skipped, options.work, count=options.large, **given)
        given |= {"count": options.count, "cold": True}
        runs += _run_one(name, pythons, skipped, options.work, **given)
    result = StreamResult(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=_versions(pythons),
        count=options.count,
        large=options.large,
        skipped=skipped,
        runs=[one for one in runs if one.name not in skipped],
    )
    print(report(result))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    return 0


def _parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--count", type=int, default=20_000, help="records to measure the speed with")
    add("--large", type=int, default=200_000, help="records to compare the memory with")
    add("--batch_sizes", type=parse_numbers, default=[64, 256], help="as 64,256")
    add("--runs", type=int, default=5, help="rounds")
    add("--epochs", type=int, default=10, help="timed in each run, after one that is not")
    add(
        "--peers",
        type=functools.partial(parse_peers, known=PEERS),
        default=PEERS,
        help=f"all, none, or some of {','.join(PEERS)}",
    )
    add("--work", type=Path, default=Path("/tmp/inkling-benchmarks"), help="records, environments")
    add("--json", type=Path, help="file for every single value")
    add("--orders", action="store_true", help="only print how well the readers shuffle")
    options = parser.parse_args(argv)
    options.work = options.work.absolute()
    return options


def _find_pythons(
    names: Sequence[str], work: Path, skipped: dict[str, str]
) -> dict[str | None, Path]:
    """An interpreter for each environment that is needed; programs without one go to `skipped`."""
    pythons: dict[str | None, Path] = {None: Path(sys.executable)}
    for name in names:
        environment = PROGRAMS[name][0]
        if environment in pythons:
            continue
        try:
            pythons[environment] = make_environment(
                work / f"{environment}-environment", (*ENVIRONMENTS[environment], CHECKSUMS)
            )
        except subprocess.CalledProcessError as error:
            reason = str(error.stderr or error).strip().splitlines()[-1]
            _skip(skipped, name, f"cannot be installed: {reason}")
    return pythons


def _files(name: str, work: Path, count: int) -> list[Path]:
    own = f"records-{count}" if PROGRAMS[name][0] is None else f"{name}-{count}"
    return sorted(path for path in (work / own).rglob("*") if path.is_file())


def _drop_from_cache(files: Sequence[Path]) -> None:
    """Write what is not yet on the disk, and let the page cache forget the files."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _settle(files: Sequence[Path]) -> None:
    """Bring `files` into the page cache from the disk, in turn, as after a start of the machine.

    Linux keeps what was read so in larger pieces than what was just written: reading it costs less.
    """
    _drop_from_cache(files)
    for path in files:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass


def _run_one(
    name: str, pythons: dict[str | None, Path], skipped: dict[str, str], work: Path, *, count: int,
    batch_size: int, epochs: int, round_: int = 0, cold: bool = False,
) -> list[StreamRun]:  # fmt: skip
    """One run of one program, or none if it does not work; a peer's failure goes to `skipped`."""
    if name in skipped:
        return []
    environment, module, way = PROGRAMS[name]
    command = [
        str(pythons[environment]),
        "-m",
        f"benchmarks.peers.{module}",
        *([way] if way else []),
    ]
    command += ["--records", str(work / f"records-{count}"), "--own", str(work / f"{name}-{count}")]
    command += ["--batch_size", str(batch_size), "--epochs", str(epochs)]
    if cold:
        _drop_from_cache(_files(name, work, count))
        command.append("--cold")
    log = work / f"{name}.log"
    try:
        measured = run(command, cwd=ROOT, log=log)
    except RunFailed as error:
        if name not in PEERS:
            raise
        _skip(skipped, name, f"does not run: {error}")
        return []
    if not epochs:
        return []
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("{")]
    found = json.loads(lines[-1])
    rate = found["images"] / found["seconds"]
    what = f"{name}, {count:,} records, batches of {batch_size}{', cold' if cold else ''}"
    say(f"{what}: {rate:,.0f} images/s, {found['peak_mb']:,.0f} MB")
    run_ = StreamRun(
        name,
        count,
        batch_size,
        round_,
        cold,
        rate,
        found["peak_mb"],
        measured.peak_mb,
        measured.foreign_cores,
    )
    return [run_]


def _skip(skipped: dict[str, str], name: str, why: str) -> None:
    say(f"SKIPPED {name}: {why}")
    skipped[name] = why


def _versions(pythons: dict[str | None, Path]) -> dict[str, str]:
    """Of Python, of TensorFlow and of what was installed for the peers."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", "tensorflow")}
    for environment in filter(None, pythons):
        versions = dict(pinned.split("==") for pinned in ENVIRONMENTS[environment]) | versions
    return versions


if __name__ == "__main__":
    sys.exit(main())

"""How fast many images are scored: `python benchmarks/classify.py --model exported/`.

`beam_jobs.classify_images` in each of its running modes beside `model.predict`, on the same JPEGs of
1024x1024 pixels, about 150 kB each; whole processes, start-up and loading of TensorFlow included,
interleaved in rounds. That all of them give the same scores is checked on the way.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.build import say  # noqa: E402 - the project need not be installed
from benchmarks.measure import Measured, run  # noqa: E402
from benchmarks.photos import make_photos, read_all  # noqa: E402

CLOSE = 1.01e-6  # one in the sixth digit: other images share a batch
NOISY = 0.1  # cores kept busy by others


def main() -> None:
    """Measure what the command line asks for and print a table of markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder that model.export made")
    parser.add_argument("--count", type=int, default=4000, help="images")
    parser.add_argument("--runs", type=int, default=3, help="rounds")
    parser.add_argument("--work", type=Path, default=Path("/tmp/inkling-benchmarks"))
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    say(f"{options.count:,} images in {work}")
    photos, _ = make_photos(work, options.count)
    read_all(photos)
    programs = commands(options.model.absolute(), photos, work / "predictions")
    measured: dict[str, list[Measured]] = {name: [] for name in programs}
    for _ in range(options.runs):
        scores = {}
        for name, command in programs.items():
            shutil.rmtree(work / "predictions", ignore_errors=True)
            measured[name].append(run(command, cwd=ROOT, log=work / "classify.log"))
            scores[name] = read_scores(work, photos)
            say(f"{name}: {measured[name][-1].seconds:.1f} s")
        check_alike(scores, options.count)
    print(report(measured, options.count))


def commands(model: Path, photos: Path, output: Path) -> dict[str, list[str]]:
    """The programs to compare, by name; the first is what the others are measured by."""
    python = [sys.executable, "-m"]
    predict = [*python, "model.predict", "--csv", "--model", str(model), str(photos)]
    job = [*python, "beam_jobs.classify_images", "--model", str(model), "--input", str(photos)]
    job += ["--output", str(output)]
    return {
        "model.predict": predict,
        "classify_images": job,
        "classify_images, in processes": [*job, "--direct_running_mode", "multi_processing"],
    }


def read_scores(work: Path, photos: Path) -> dict[str, float]:
    """Score by key, from the files of a job, or from what model.predict has printed."""
    files = sorted((work / "predictions").glob("predictions-*.csv"))
    scores = {}
    for path in files or [work / "classify.log"]:
        lines = path.read_text().splitlines()
        heading = next(n for n, line in enumerate(lines) if ",label,score" in line)
        for name, _, score, *_ in csv.reader(lines[heading + 1 :]):
            scores[name if files else os.path.relpath(name, photos)] = float(score)
    return scores


def check_alike(scores: dict[str, dict[str, float]], count: int) -> None:
    """Raise SystemExit if a program has left an image out, or scored it differently."""
    first, *others = scores.values()
    if len(first) != count or any(other.keys() != first.keys() for other in others):
        raise SystemExit(f"not the same images: {[len(found) for found in scores.values()]}")
    apart = max(abs(other[key] - first[key]) for other in others for key in first)
    if apart > CLOSE:
        raise SystemExit(f"scores differ by {apart}")


def report(measured: dict[str, list[Measured]], count: int) -> str:
    """The table: medians, ratios taken within rounds, least and most seconds, peak memory."""
    base = next(iter(measured.values()))
    lines = [
        f"{count:,} images, {len(base)} rounds, {os.cpu_count()} cores",
        "",
        "| | images/s | by model.predict | seconds | processor s | peak MB |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, runs in measured.items():
        seconds = [one.seconds for one in runs]
        middle = statistics.median(seconds)
        ratio = statistics.median(
            b.seconds / one.seconds for b, one in zip(base, runs, strict=True)
        )
        cpu = statistics.median(one.cpu_seconds for one in runs)
        lines.append(
            f"| {name} | {count / middle:,.0f} | {ratio:.2f} | {middle:.1f} ({min(seconds):.1f}-"
            f"{max(seconds):.1f}) | {cpu:.1f} | {max(one.peak_mb for one in runs):,.0f} |"
        )
    foreign = max(one.foreign_cores for runs in measured.values() for one in runs)
    noisy = "; NOISY, not to be published" if foreign > NOISY else ""
    return "\n".join([*lines, "", f"Other programs kept at most {foreign:.2f} cores busy{noisy}."])


if __name__ == "__main__":
    main()

"""How long the study's first round takes: `python benchmarks/search.py --records tfrecords/`.

Each of the 27 networks is trained for two epochs on 1,000 examples, in a process of its own as in a
study, and its second epoch is timed; the first one compiles. Beside it stands what `--dry_run` of
`model.search` would say, which trains two of them only. `--whole` trains some networks as the plan
has it, to see whether the short measurement tells the truth.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.build import say  # noqa: E402 - the project need not be installed
from model.history import read_epochs  # noqa: E402
from model.studies.costs import Speed, count_parameters  # noqa: E402
from model.studies.folder import StudyOptions  # noqa: E402
from model.studies.forecast import Expected, measure_speed  # noqa: E402
from model.studies.plan_files import load_plan  # noqa: E402
from model.studies.plans import Round  # noqa: E402
from model.studies.rounds import Choosing, network_of  # noqa: E402
from pipeline.manifest import Manifest, load_manifest  # noqa: E402

EXAMPLES = 1000
EPOCHS = 2


def main() -> None:
    """Measure what the command line asks for and print tables of markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="a data set of 150x150x1")
    parser.add_argument("--precision", default="auto", help="as of model.train")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--whole", default="", help="networks to train in full: 3x32x2,1x32x0")
    options = parser.parse_args()
    options.records = options.records.absolute()
    manifest = load_manifest(options.records)
    one = load_plan("report").rounds[0]
    assert manifest.splits["train"].records >= (one.examples if options.whole else EXAMPLES)
    speed = estimated_speed(one, options, manifest)
    seconds = time_networks(one, options, manifest, speed)
    if options.whole:
        train_wholly(one, options, manifest, seconds)


def estimated_speed(one: Round, options: argparse.Namespace, manifest: Manifest) -> Speed:
    """What `--dry_run` measures."""
    study = StudyOptions(
        seed=0, repeats=0, examples_scale=1.0, epochs_scale=1.0, deterministic=False,
        precision=options.precision, batch_size=options.batch_size,
    )  # fmt: skip
    choosing = Choosing(0, options.batch_size)
    expected = [Expected(one, tuple(choosing.complete(values) for values in one.models))]
    say("measuring as --dry_run does")
    return measure_speed(expected, study, options.records, manifest, environment=os.environ)


def time_networks(
    one: Round, options: argparse.Namespace, manifest: Manifest, speed: Speed
) -> dict[str, float]:
    """Seconds of an epoch on 1,000 examples, by network, each printed with its estimate."""
    print(f"| network | parameters | seconds an epoch on {EXAMPLES:,} | images/s | estimate |")
    print("| --- | --: | --: | --: | --: |", flush=True)
    found, estimates = {}, []
    choosing = Choosing(0, options.batch_size)
    for values in one.models:
        network = network_of(choosing.complete(values))
        say(network.name)
        _, epochs = train(values, one, options, examples=EXAMPLES, epochs=EPOCHS)
        found[short(values)] = epochs[1]["seconds"] - epochs[0]["seconds"]
        estimates.append(
            speed.seconds(network, manifest.image, examples=EXAMPLES, epochs=1,
                          validation=one.validation_fraction) - speed.start
        )  # fmt: skip
        print(
            f"| {network.name} | {count_parameters(network, manifest.image):,} "
            f"| {found[short(values)]:.1f} | {epochs[1]['images_per_second']:,.0f} "
            f"| {estimates[-1]:.1f} |",
            flush=True,
        )
    measured, estimated = sum(found.values()), sum(estimates)
    print(f"| all {len(found)} | | {measured:.1f} | | {estimated:.1f} |\n")
    scale = one.examples / EXAMPLES * one.epochs / 3600
    print(
        f"Round 1 of the report plan ({one.examples:,} examples, {one.epochs} epochs, "
        f"{len(found)} networks), one training at a time: {measured * scale:.1f} hours by these "
        f"times, {estimated * scale + len(found) * speed.start / 3600:.1f} hours as `--dry_run` "
        "estimates it."
    )
    return found


def train_wholly(
    one: Round, options: argparse.Namespace, manifest: Manifest, seconds: dict[str, float]
) -> None:
    """Train some networks as the round has it, and compare with what the short times promise."""
    print("\n| network, trained in full | seconds, start included | by its short time | ratio |")
    print("| --- | --: | --: | --: |", flush=True)
    by_name = {short(values): values for values in one.models}
    for name in options.whole.split(","):
        say(f"{name} in full")
        whole, _ = train(by_name[name], one, options, examples=one.examples, epochs=one.epochs)
        promised = seconds[name] * one.examples / EXAMPLES * one.epochs
        print(f"| {name} | {whole:.0f} | {promised:.0f} | {whole / promised:.2f} |", flush=True)


def train(
    values: dict[str, float], one: Round, options: argparse.Namespace, *, examples: int, epochs: int
) -> tuple[float, list[dict[str, float]]]:
    """Wall seconds of the process, and its epochs."""
    size = {name: values[name] for name in ("conv", "units", "dense")}
    more = {
        "records": options.records, "precision": options.precision, "examples": examples,
        "epochs": epochs, "batch_size": options.batch_size,
        "validation_fraction": one.validation_fraction,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        given = {**size, **more, "run": f"{folder}/run"}
        command = [sys.executable, "-m", "model.train"]
        command += [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        begun = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        return time.monotonic() - begun, read_epochs(Path(folder) / "run")


def short(values: dict[str, float]) -> str:
    """`3x32x2`."""
    return "x".join(f"{values[name]:g}" for name in ("conv", "units", "dense"))


if __name__ == "__main__":
    main()

"""What a plan will do, before it is done: its models, and the time from a short measurement."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import NetworkConfig, TrainConfig
from model.history import read_epochs
from model.runs import CONFIG_FILE, config_json
from model.studies.claims import Standing
from model.studies.costs import Speed, count_multiplications, count_parameters, trial_work
from model.studies.folder import StudyOptions
from model.studies.plans import Plan, Round, combinations
from model.studies.rounds import LEARNING_RATE, Choosing, network_of, repeats_round
from model.studies.trials import CHILD, Workplace, run_child
from pipeline.errors import WorkError
from pipeline.files import write_json
from pipeline.manifest import Manifest

_MEASURED_EXAMPLES = 256
_MEASURED_EPOCHS = 2  # the first holds the making of the graph
_MEASURED_VALIDATION = 0.2

Params = Mapping[str, float]


@dataclass(frozen=True)
class Expected:
    """A round as far as it is known beforehand.

    Where its models depend on results, the costliest that may come stand in their place.
    """

    round: Round
    models: tuple[Params, ...]


def expect_rounds(
    plan: Plan, choosing: Choosing, manifest: Manifest, *, repeats: int
) -> list[Expected]:
    """What each round will or may hold; last the `repeats` further trainings of each finalist."""
    found: list[Expected] = []
    for one in plan.rounds:
        if one.sample:
            models = _examples_of_space(one, choosing)
        else:
            taken = _costliest(found[-1].models, one.take, manifest) if one.take else []
            varied = [{**model, **more} for model in taken for more in combinations(one.vary or {})]
            models = [choosing.complete(values) for values in [*varied, *one.models]]
        found.append(Expected(one, tuple(models)))
    compared = [one for one in found if one.round.name in plan.final.rounds]
    models = [params for one in compared for params in one.models]
    again = _costliest(models, plan.final.take, manifest) * repeats
    return [*found, Expected(repeats_round(plan), tuple(again))] if again else found


def _examples_of_space(one: Round, choosing: Choosing) -> list[Params]:
    return [dict(choosing.sampled_candidate(one, number, ()).params) for number in range(one.size)]


def _costliest(models: Sequence[Params], count: int, manifest: Manifest) -> list[Params]:
    def cost(params: Params) -> int:
        return count_multiplications(network_of(params), manifest.image)

    return sorted(models, key=cost, reverse=True)[:count]


def describe_plan(
    plan: Plan, expected: Sequence[Expected], choosing: Choosing, manifest: Manifest, *,
    repeats: int,
) -> list[str]:  # fmt: skip
    """Rounds and models, in lines for a person."""
    lines = []
    for index, one in enumerate(expected[: len(plan.rounds)]):
        examples = one.round.examples or manifest.splits["train"].records
        lines.append(
            f"{one.round.name}: {len(one.models)} models, {examples:,} examples, "
            f"{one.round.epochs} epochs, {one.round.validation_fraction:.0%} of them to validate"
        )
        if one.round.sample:
            lines.append(
                f"  {one.round.size} out of the space, by the sampler {one.round.sample.sampler}"
            )
        if one.round.take:
            changed = "".join(f", each with {name} {', '.join(map(str, values))}"
                              for name, values in (one.round.vary or {}).items())  # fmt: skip
            lines.append(
                f"  the best {one.round.take} of {expected[index - 1].round.name}{changed}"
            )
        for values in one.round.models:
            params = choosing.complete(values)
            parameters = count_parameters(network_of(params), manifest.image)
            lines.append(f"  {choosing.model_name(params):34} {parameters:>12,} parameters")
    final = plan.final
    lines.append(
        f"final: the best {final.take} of {', '.join(final.rounds)}, {repeats} further "
        f"training{'' if repeats == 1 else 's'} of each with other seeds; then tested"
    )
    return lines


def measure_speed(
    expected: Sequence[Expected], options: StudyOptions, records: Path, manifest: Manifest, *,
    environment: Mapping[str, str],
) -> Speed:  # fmt: skip
    """Train the cheapest and the costliest network for a moment. Raises WorkError."""
    networks = [network_of(params) for one in expected for params in one.models]
    networks.sort(key=lambda network: count_multiplications(network, manifest.image))
    points, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, network in enumerate((networks[0], networks[-1])):
            config = _measured(network, options, records, manifest)
            run = Path(folder) / str(number)
            seconds, start = _measure_one(run, config, manifest, environment)
            points.append((count_multiplications(network, manifest.image), seconds))
            starts.append(start)
    return Speed.through(points, start=sum(starts) / len(starts))


def _measured(
    network: NetworkConfig, options: StudyOptions, records: Path, manifest: Manifest
) -> TrainConfig:
    return TrainConfig(
        records=records.absolute(),
        network=network,
        epochs=_MEASURED_EPOCHS,
        batch_size=options.batch_size,
        validation_fraction=_MEASURED_VALIDATION,
        examples=min(_MEASURED_EXAMPLES, manifest.splits["train"].records),
        seed=0,
        learning_rate=LEARNING_RATE,
        patience=None,
        augment=(),
        precision=options.precision,
        devices="one",
        deterministic=options.deterministic,
    )


def _measure_one(
    run: Path, config: TrainConfig, manifest: Manifest, environment: Mapping[str, str]
) -> tuple[float, float]:
    """Seconds per training image, and seconds that a training takes beside its images."""
    run.mkdir()
    write_json(run / CONFIG_FILE, config_json(config, manifest, {}))
    place = Workplace(CHILD, environment, 60.0, threading.Event())
    arguments = ("train", "--run", str(run), "--resume")
    begun = time.monotonic()
    status, reason = run_child(arguments, folder=run, workplace=place)
    if status:
        raise WorkError(f"the measurement failed: {reason}")
    passed = time.monotonic() - begun
    seconds = 1 / read_epochs(run)[-1]["images_per_second"]
    images = _MEASURED_EPOCHS * config.examples * (1 - _MEASURED_VALIDATION)
    return seconds, max(0.0, passed - images * seconds)


def estimate_seconds(expected: Sequence[Expected], speed: Speed, manifest: Manifest) -> list[float]:
    """Seconds of each round, one training at a time."""
    return [
        sum(
            speed.seconds(network_of(params), manifest.image, **_size(one.round, manifest))
            for params in one.models
        )
        for one in expected
    ]


def seconds_left(
    expected: Sequence[Expected], here: str, done: Mapping[str, Sequence[Standing]],
    begun: Sequence[tuple[Params, float]], manifest: Manifest,
) -> tuple[float, float]:  # fmt: skip
    """Of the round `here` and of the whole study, one training at a time, by the pace so far.

    done: settled trainings by round; begun: hyper-parameters of a running training of `here`, and the
    share of it that is over. NaN while nothing is known of the pace.
    """

    def work(one: Expected, params: Params) -> float:
        return trial_work(network_of(params), manifest.image, **_size(one.round, manifest))

    left, later, spent, worked = 0.0, 0.0, 0.0, 0.0
    for one in expected:
        settled = done.get(one.round.name, ())
        worth = [work(one, standing.candidate.params) for standing in settled]
        measured = [(w, s.figures) for w, s in zip(worth, settled, strict=True) if s.figures]
        spent += sum(figures["seconds"] for _, figures in measured)
        worked += sum(some for some, _ in measured)
        rest = sum(work(one, params) for params in one.models) - sum(worth)
        if one.round.name == here:
            left = rest - sum(share * work(one, params) for params, share in begun)
        elif one.round.name not in done:
            later += rest
    pace = spent / worked if worked else math.nan
    return pace * max(0.0, left), pace * max(0.0, left + later)


def _size(one: Round, manifest: Manifest) -> dict[str, Any]:
    """What a training of that round has to do, as `model.studies.costs` counts it."""
    return {
        "examples": one.examples or manifest.splits["train"].records,
        "epochs": one.epochs,
        "validation": one.validation_fraction,
    }

"""What a study decides: which models a round has, in which order they come out, and who wins.

Pure functions of the plan and of the results, so that every worker decides the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.config import NetworkConfig
from model.studies.claims import Candidate, Standing
from model.studies.folder import COMPLETE, PRUNED, ROUNDS_FOLDER
from model.studies.plans import (
    HYPERPARAMETERS,
    REPEATS_ROUND,
    Final,
    Plan,
    Round,
    Sample,
    Span,
    combinations,
    slug,
)
from pipeline.hashing import stable_hash

LEARNING_RATE = 0.001
"""Where a plan says nothing, and as `model.train` has it."""

_DIGITS = 3  # to which a sampled number is rounded: it becomes part of a name
_ATTEMPTS = 1000

Values = Mapping[str, float]


def network_of(params: Values) -> NetworkConfig:
    """The network among the hyper-parameters."""
    return NetworkConfig(
        conv=int(params["conv"]),
        units=int(params["units"]),
        dense=int(params["dense"]),
        dropout=params["dropout"],
        growth=params["growth"],
    )


@dataclass(frozen=True)
class Choosing:
    """What all rounds of a study have in common: its seed, and the batch where a plan names none."""

    seed: int
    batch_size: int

    def complete(self, values: Values) -> dict[str, float]:
        """`values` with what a plan may leave out."""
        usual = {"dropout": 0.0, "growth": 1.0, "learning_rate": LEARNING_RATE}
        return usual | {"batch_size": self.batch_size} | dict(values)

    def model_name(self, params: Values) -> str:
        """The network's name, and what else is not as usual: different params, different names."""
        name = network_of(params).name
        if params["learning_rate"] != LEARNING_RATE:
            name += f"-{params['learning_rate']:.12g}-rate"
        if params["batch_size"] != self.batch_size:
            name += f"-{params['batch_size']}-batch"
        return name

    def candidate(self, one: Round, number: int, params: Values) -> Candidate:
        """One model of a round."""
        model = self.model_name(params)
        run = f"{ROUNDS_FOLDER}/{one.slug}/{model}"
        return Candidate(number, model, dict(params), self.seed, run)

    def candidates(self, one: Round, before: Sequence[Standing]) -> list[Candidate]:
        """The models of a round without a sample, each once; `before`: the round before, best first."""
        taken = [
            {**standing.candidate.params, **changed}
            for standing in best(before, one.take)
            for changed in combinations(one.vary or {})
        ]
        found: dict[str, Candidate] = {}
        for values in [*taken, *one.models]:
            params = self.complete(values)
            name = self.model_name(params)
            found.setdefault(name, self.candidate(one, len(found), params))
        return list(found.values())

    def sampled_candidate(self, one: Round, number: int, known: Sequence[Standing]) -> Candidate:
        """Model `number` of a sampled round: another than those in `known`, which it may learn from."""
        assert one.sample
        names = {standing.candidate.model for standing in known}
        for attempt in range(_ATTEMPTS):
            seed = stable_hash(self.seed, "sample", f"{one.name} {number} {attempt}") % 2**32
            # One that proposes what was there already has learnt enough.
            learning = one.sample.sampler == "tpe" and attempt < 3
            history = [s for s in known if s.state in (COMPLETE, PRUNED)] if learning else []
            params = self.complete(_propose(one.sample, seed, history))
            if self.model_name(params) not in names:
                break
        return self.candidate(one, number, params)

    def repeats(self, finalists: Sequence[Standing], repeats: int) -> list[Candidate]:
        """Each finalist's further trainings, with the seeds that follow the study's."""
        found = []
        for standing in finalists:
            for further in range(1, repeats + 1):
                first, seed = standing.candidate, (self.seed + further) % 2**32
                run = f"{ROUNDS_FOLDER}/{slug(REPEATS_ROUND)}/{first.model}-seed-{seed}"
                found.append(Candidate(len(found), first.model, first.params, seed, run))
        return found


def repeats_round(plan: Plan) -> Round:
    """The round of the finalists' further trainings, alike to the one they come from."""
    return replace(
        plan.compared, name=REPEATS_ROUND, prune=False, sample=None, models=(), take=0, vary=None
    )


def _propose(sample: Sample, seed: int, history: Iterable[Standing]) -> dict[str, float]:
    """One point of the space: what Optuna's sampler asks for after `history`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study = optuna.create_study(sampler=kinds[sample.sampler](seed=seed))
    space = {name: _distribution_of(name, some) for name, some in sample.space.items()}
    for standing in history:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: standing.candidate.params[name] for name in space},
                distributions=space,
                value=standing.figures["val_loss"],
            )
        )
    proposed = study.ask(space).params
    return {name: _rounded(sample.space[name], value) for name, value in proposed.items()}


def _distribution_of(name: str, some: tuple[float, ...] | Span) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(some, Span):
        return CategoricalDistribution(some)
    if HYPERPARAMETERS[name].kind is int:
        return IntDistribution(int(some.low), int(some.high), log=some.log)
    return FloatDistribution(some.low, some.high, log=some.log)


def _rounded(some: tuple[float, ...] | Span, value: float) -> float:
    if not isinstance(some, Span) or isinstance(value, int):
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), some.low), some.high)


def ranked(standings: Iterable[Standing]) -> list[Standing]:
    """Best first: complete ones by validation loss, then those ended early, then the failed."""
    order = {COMPLETE: 0, PRUNED: 1}

    def key(standing: Standing) -> tuple[float, float, float, str]:
        figures = standing.figures
        loss = figures.get("val_loss", math.inf)
        cost = figures.get("parameters", 0)
        return (order.get(standing.state or "", 2), loss, cost, standing.candidate.run)

    return sorted(standings, key=key)


def best(standings: Iterable[Standing], count: int) -> list[Standing]:
    """The `count` best of those that completed, or all of them if there are fewer."""
    return [one for one in ranked(standings) if one.state == COMPLETE][:count]


def finalists(final: Final, rounds: Mapping[str, Sequence[Standing]]) -> list[Standing]:
    """The best of the rounds that the plan compares, each model once."""
    found: dict[str, Standing] = {}
    for standing in ranked(one for name in final.rounds for one in rounds[name]):
        if standing.state == COMPLETE:
            found.setdefault(standing.candidate.model, standing)
    return list(found.values())[: final.take]


@dataclass(frozen=True)
class Finalist:
    """A finalist: its first training, those with other seeds, and what all of them came to.

    std: None where there is one training only.
    """

    first: Standing
    repeats: tuple[Standing, ...]

    @property
    def losses(self) -> list[float]:
        """Validation losses of all its trainings."""
        return [one.figures["val_loss"] for one in (self.first, *self.repeats)]

    @property
    def mean(self) -> float:
        """Mean validation loss."""
        return statistics.fmean(self.losses)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1) of the validation loss."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 where nothing is known of it."""
        return (self.std or 0.0) / math.sqrt(len(self.losses))


def with_repeats(finalists: Iterable[Standing], repeats: Iterable[Standing]) -> list[Finalist]:
    """Finalists in order of their mean validation loss; repeats that failed are left out."""
    done = [one for one in repeats if one.state == COMPLETE]
    together = [
        Finalist(one, tuple(r for r in done if r.candidate.model == one.candidate.model))
        for one in finalists
    ]
    return sorted(together, key=lambda one: (one.mean, one.first.figures["parameters"]))


def choose_winner(finalists: Sequence[Finalist]) -> tuple[Finalist, str]:
    """The winner and why, `finalists` in order of their mean validation loss.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984): of those
    within one standard error of the best, the one with the fewest parameters.
    """
    first = finalists[0]
    limit = first.mean + first.standard_error
    near = [one for one in finalists if one.mean <= limit]
    winner = min(near, key=lambda one: (one.first.figures["parameters"], one.mean))
    model, parameters = winner.first.candidate.model, winner.first.figures["parameters"]
    if len(finalists) == 1:
        return winner, f"{model} is the only finalist: validation loss {_loss(winner)}."
    if winner is first and len(near) == 1:
        second = finalists[1]
        return winner, (
            f"{model} has the lowest validation loss, {_loss(winner)}; the next, "
            f"{second.first.candidate.model}, has {_loss(second)}."
        )
    if winner is first:
        return winner, (
            f"{model} has the lowest validation loss, {_loss(winner)}, and the fewest parameters, "
            f"{parameters:,}, of the {len(near)} within one standard error of it."
        )
    return winner, (
        f"{model} has the fewest parameters, {parameters:,}, of the {len(near)} finalists whose "
        f"validation loss is within one standard error of the lowest: {_loss(winner)}, against "
        f"{_loss(first)} of {first.first.candidate.model}."
    )


def _loss(one: Finalist) -> str:
    if one.std is None:
        return f"{one.mean:.5f}"
    return f"{one.mean:.5f} ± {one.std:.5f} over {len(one.losses)} seeds"

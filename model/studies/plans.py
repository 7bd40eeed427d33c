"""What a plan of a study is: rounds of models, and what comes after them. Files: `plan_files`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

REPEATS_ROUND = "repeats"


class Hyperparameter(NamedTuple):
    """What a value may be: int or float, from `least` to `most`; `log`: judged by its magnitude."""

    kind: type
    least: float
    most: float
    log: bool = False


HYPERPARAMETERS = {
    "conv": Hyperparameter(int, 1, 64),
    "units": Hyperparameter(int, 1, 65_536),
    "dense": Hyperparameter(int, 0, 64),
    "dropout": Hyperparameter(float, 0.0, 0.99),
    "growth": Hyperparameter(float, 1.0, 8.0),
    "learning_rate": Hyperparameter(float, 1e-9, 10.0, log=True),
    "batch_size": Hyperparameter(int, 1, 65_536),
}
Values = Mapping[str, float]


class Span(NamedTuple):
    """A range to sample from, both ends included."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Sample:
    """`trials` models out of `space`: name → choices or Span."""

    trials: int
    sampler: str
    space: Mapping[str, tuple[float, ...] | Span]


@dataclass(frozen=True)
class Round:
    """Models that are trained alike and compared.

    examples: None for all; take: how many of the round before, each with every combination of `vary`;
    models: beside those, as hyper-parameters by name; sample: instead of all of them.
    """

    name: str
    examples: int | None
    epochs: int
    validation_fraction: float
    prune: bool = False
    models: tuple[Values, ...] = ()
    take: int = 0
    vary: Mapping[str, tuple[float, ...]] | None = None
    sample: Sample | None = None

    @property
    def slug(self) -> str:
        """The name as a folder."""
        return slug(self.name)

    @property
    def size(self) -> int:
        """How many models it has at most: taken ones may coincide with others."""
        if self.sample:
            return self.sample.trials
        return self.take * len(combinations(self.vary or {})) + len(self.models)


@dataclass(frozen=True)
class Final:
    """What comes after the last round."""

    take: int
    repeats: int
    rounds: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A checked plan; `text` is what stood in `file`."""

    name: str
    file: Path
    text: str
    rounds: tuple[Round, ...]
    final: Final

    @property
    def compared(self) -> Round:
        """The round that finalists come from; where there are several, they train alike."""
        return next(one for one in self.rounds if one.name == self.final.rounds[0])


def slug(name: str) -> str:
    """`name` as part of a path: lower case letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def combinations(values: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every choice of one value for each name; the last name changes fastest."""
    return [
        dict(zip(values, choice, strict=True)) for choice in itertools.product(*values.values())
    ]


def scale_plan(
    plan: Plan, *, available: int, examples_scale: float, epochs_scale: float
) -> tuple[Plan, float]:
    """`plan` for a data set of `available` training records; the factor that made its examples fit.

    Where a round asks for more than there are, the examples of all rounds shrink by one factor, so
    that their proportions stay. The two scales make any plan smaller, for a trial.
    """
    largest = max((one.examples or 0 for one in plan.rounds), default=0)
    factor = min(1.0, available / largest) if largest else 1.0

    def scaled(one: Round) -> Round:
        examples = one.examples and max(1, round(one.examples * factor * examples_scale))
        if not examples and examples_scale < 1:
            examples = max(1, round(available * examples_scale))
        return replace(one, examples=examples, epochs=max(1, round(one.epochs * epochs_scale)))

    return replace(plan, rounds=tuple(map(scaled, plan.rounds))), factor

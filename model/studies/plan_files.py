"""Plans as files: TOML, read and checked here.

    [[round]]
    name = "round 1"            # default: "round N"
    examples = 4800             # training records, the first ones; default: "all"
    epochs = 10
    validation_fraction = 0.3   # default: 0.2
    prune = false               # true: end trials that do worse than the median
    [round.grid]                # every combination of these
    conv = [1, 2, 3]
    units = [32, 64, 128]
    dense = [0, 1, 2]

    [[round]]
    epochs = 10
    take = 4                    # the best of the round before …
    vary = { conv = [4, 5] }    # … with each of these in place of their own
    models = [{ conv = 5, units = 32, dense = 2 }]  # and these beside

    [[round]]
    epochs = 1
    [round.sample]              # instead: `trials` models out of a space
    trials = 27
    sampler = "random"          # or "tpe"
    [round.sample.space]
    conv = [2, 3, 4]            # one of these, or a range
    learning_rate = { from = 1e-4, to = 1e-2, log = true }

    [final]
    take = 3                    # so many are tested …
    rounds = ["round 3"]        # … of these rounds; default: the last
    repeats = 2                 # further trainings of each, with other seeds

A mistake is answered with file, line and field. What is here knows nothing of records or storages.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from model.config import max_convolutions
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
from pipeline.errors import UsageError, describe_os_error
from pipeline.schema import ImageSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLANS_FOLDER = Path(__file__).parents[1] / "plans"
SAMPLERS = ("random", "tpe")

_NEEDED = ("conv", "units", "dense")
_MOST_MODELS = 10_000


def known_plans() -> list[str]:
    """Names of the plans that come with Inkling."""
    return sorted(path.stem for path in PLANS_FOLDER.glob("*.toml"))


def load_plan(name: str) -> Plan:
    """A plan of ours by its name, or one of the user's by its file. Raises UsageError."""
    if name in known_plans():
        file = PLANS_FOLDER / f"{name}.toml"
    elif name.endswith(".toml"):
        file = Path(name)
    else:
        raise UsageError(
            f"--plan: must be one of {', '.join(known_plans())}, or a file that ends in .toml, "
            f"received {name}"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"--plan: {file} is no text in UTF-8") from None
    except OSError as error:
        raise UsageError(f"--plan: {describe_os_error(error)}") from error
    return parse_plan(file, text)


def parse_plan(file: Path, text: str) -> Plan:
    """The plan that `text` describes. Raises UsageError with file, line and field."""
    source = _Source(file, text)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: {error}") from error
    source.check_names((), values, ("round", "final"))
    tables = values.get("round", [])
    if not isinstance(tables, list) or not tables:
        source.fail((), "a plan needs at least one [[round]]")
    rounds = [_round(source, index, table) for index, table in enumerate(tables)]
    _check_rounds(source, rounds)
    final = _final(source, values.get("final", {}), rounds)
    return Plan(slug(file.stem) or "plan", file, text, tuple(rounds), final)


def check_fits(plan: Plan, image: ImageSpec) -> None:
    """Raise UsageError if a network of `plan` uses up an image."""
    largest = max_convolutions(image)
    source = _Source(plan.file, plan.text)
    for index, one in enumerate(plan.rounds):
        for where, conv in _convolutions(one, source.has(("round", index, "grid"))):
            if conv > largest:
                source.fail(
                    ("round", index, *where),
                    f"images of {image.height}x{image.width} leave room for at most {largest} "
                    f"convolutions with pooling, received {conv:g}",
                )


class _Source:
    """The text of a plan, to say where a mistake is."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = _find_lines(text)

    def has(self, where: tuple[str | int, ...]) -> bool:
        """Whether that field or table is there."""
        return where in self._lines

    def fail(self, where: tuple[str | int, ...], problem: str) -> NoReturn:
        """Raise UsageError with the line of the field, or of the table that lacks it."""
        known = next(where[:end] for end in range(len(where), -1, -1) if where[:end] in self._lines)
        field = ".".join(str(part) for part in where if isinstance(part, str))
        named = f"{field}: " if field else ""
        raise UsageError(f"{self._file}: line {self._lines[known]}: {named}{problem}")

    def check_names(
        self, where: tuple[str | int, ...], values: Any, known: Sequence[str]
    ) -> dict[str, Any]:
        """`values`, which must be a table of `known` fields."""
        if not isinstance(values, dict):
            self.fail(where, f"must be a table, received {values!r}")
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                self.fail((*where, name), f"unknown field; {hint}")
        return values

    def whole(self, where: tuple[str | int, ...], value: Any, *, least: int) -> int:
        """`value`, which must be a whole number."""
        if type(value) is not int or value < least:
            self.fail(where, f"must be a whole number of at least {least}, received {value!r}")
        return value

    def hyperparameter(self, where: tuple[str | int, ...], name: str, value: Any) -> float:
        """`value`, which must suit the hyper-parameter `name`."""
        kind, least, most, _ = HYPERPARAMETERS[name]
        kinds = (int,) if kind is int else (int, float)
        if type(value) not in kinds or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            self.fail(where, f"must be {what} from {least:g} to {most:g}, received {value!r}")
        return kind(value)

    def choices(self, where: tuple[str | int, ...], name: str, values: Any) -> tuple[float, ...]:
        """`values`, which must be a list of values of the hyper-parameter `name`."""
        if not isinstance(values, list) or not values:
            self.fail(where, f"must be a list of values, received {values!r}")
        found = tuple(self.hyperparameter(where, name, value) for value in values)
        if len(set(found)) < len(found):
            self.fail(where, f"holds a value twice: {values!r}")
        return found


def _find_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Line of each field and table header: () → 1, ("round", 0, "grid", "conv") → 12."""
    found: dict[tuple[str | int, ...], int] = {(): 1}
    table: tuple[str | int, ...] = ()
    rounds = 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.]+)\s*\]\]?\s*(#.*)?$", line)
        field = re.match(r"""\s*["']?([\w-]+)["']?\s*=""", line)
        if header:
            rounds += line.lstrip().startswith("[[")
            name, *below = header[1].split(".")
            table = (name, rounds - 1, *below) if name == "round" else (name, *below)
            found.setdefault(table, number)
        elif field:
            found.setdefault((*table, field[1]), number)
    return found


def _round(source: _Source, index: int, values: Any) -> Round:
    here = ("round", index)
    known = ("name", "examples", "epochs", "validation_fraction", "prune", "grid", "models", "take")
    source.check_names(here, values, (*known, "vary", "sample"))
    name = values.get("name", f"round {index + 1}")
    if not isinstance(name, str) or not slug(name) or slug(name) == REPEATS_ROUND:
        source.fail(
            (*here, "name"),
            f"must be a text with letters, not {REPEATS_ROUND!r}, received {name!r}",
        )
    if "epochs" not in values:
        source.fail(here, "needs the field epochs")
    fraction = values.get("validation_fraction", 0.2)
    if type(fraction) is not float or not 0 < fraction < 1:
        source.fail(
            (*here, "validation_fraction"), f"must be above 0 and below 1, received {fraction!r}"
        )
    prune = values.get("prune", False)
    if type(prune) is not bool:
        source.fail((*here, "prune"), f"must be true or false, received {prune!r}")
    return Round(
        name=name,
        examples=_examples(source, (*here, "examples"), values.get("examples", "all")),
        epochs=source.whole((*here, "epochs"), values["epochs"], least=1),
        validation_fraction=fraction,
        prune=prune,
        **_models(source, here, values),
    )


def _examples(source: _Source, where: tuple[str | int, ...], value: Any) -> int | None:
    if value == "all":
        return None
    if type(value) is not int or value < 2:
        source.fail(where, f'must be a whole number of at least 2, or "all", received {value!r}')
    return value


def _models(source: _Source, here: tuple[str | int, ...], values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Round that say which models it has."""
    if not {"grid", "models", "take", "sample"} & set(values):
        source.fail(here, "needs models: a grid, models, a sample, or take")
    if "sample" in values:
        for name in ("grid", "models", "take", "vary"):
            if name in values:
                source.fail((*here, name), "cannot stand beside a sample")
        return {"sample": _sample(source, (*here, "sample"), values["sample"])}
    models = []
    if "grid" in values:
        models += _grid(source, (*here, "grid"), values["grid"])
    listed = values.get("models", [])
    if not isinstance(listed, list):
        source.fail((*here, "models"), f"must be a list of tables, received {listed!r}")
    models += [_model(source, (*here, "models"), model) for model in listed]
    take, vary = values.get("take", 0), None
    if "take" in values:
        source.whole((*here, "take"), take, least=1)
    if "vary" in values:
        if not take:
            source.fail((*here, "vary"), "stands beside take only")
        vary = _choices(source, (*here, "vary"), values["vary"])
    return {"models": tuple(models), "take": take, "vary": vary}


def _choices(
    source: _Source, where: tuple[str | int, ...], values: Any
) -> dict[str, tuple[float, ...]]:
    source.check_names(where, values, tuple(HYPERPARAMETERS))
    return {name: source.choices((*where, name), name, some) for name, some in values.items()}


def _grid(source: _Source, where: tuple[str | int, ...], values: Any) -> list[dict[str, float]]:
    choices = _choices(source, where, values)
    _check_needed(source, where, choices)
    if math.prod(map(len, choices.values())) > _MOST_MODELS:
        source.fail(where, f"has more than {_MOST_MODELS:,} models")
    return combinations(choices)


def _model(source: _Source, where: tuple[str | int, ...], values: Any) -> dict[str, float]:
    source.check_names(where, values, tuple(HYPERPARAMETERS))
    _check_needed(source, where, values)
    return {
        name: source.hyperparameter((*where, name), name, value) for name, value in values.items()
    }


def _check_needed(source: _Source, where: tuple[str | int, ...], values: Mapping[str, Any]) -> None:
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        source.fail(where, f"needs {', '.join(missing)}")


def _sample(source: _Source, here: tuple[str | int, ...], values: Any) -> Sample:
    source.check_names(here, values, ("trials", "sampler", "space"))
    trials = source.whole((*here, "trials"), values.get("trials"), least=1)
    sampler = values.get("sampler", "random")
    if sampler not in SAMPLERS:
        source.fail(
            (*here, "sampler"), f"must be one of {', '.join(SAMPLERS)}, received {sampler!r}"
        )
    where = (*here, "space")
    table = source.check_names(where, values.get("space", {}), tuple(HYPERPARAMETERS))
    _check_needed(source, where, table)
    space = {name: _span_or_choices(source, (*where, name), name, table[name]) for name in table}
    sizes = [len(one) if not isinstance(one, Span) else _span_size(name, one)
             for name, one in space.items()]  # fmt: skip
    if trials > math.prod(sizes):
        source.fail((*here, "trials"), f"the space has {math.prod(sizes):,} models, asked {trials}")
    return Sample(trials, sampler, space)


def _span_size(name: str, span: Span) -> float:
    if HYPERPARAMETERS[name].kind is int or span.low == span.high:
        return span.high - span.low + 1
    return 100  # a real number is kept to three digits


def _span_or_choices(
    source: _Source, where: tuple[str | int, ...], name: str, value: Any
) -> tuple[float, ...] | Span:
    if not isinstance(value, dict):
        return source.choices(where, name, value)
    source.check_names(where, value, ("from", "to", "log"))
    low, high = (source.hyperparameter(where, name, value.get(end)) for end in ("from", "to"))
    log = value.get("log", False)
    if low > high or type(log) is not bool or (log and low <= 0):
        source.fail(where, f"must be a range like {{ from = 1, to = 8, log = true }}: {value!r}")
    return Span(low, high, log)


def _check_rounds(source: _Source, rounds: Sequence[Round]) -> None:
    """Raise UsageError for names that stand twice, and for more taken than there is."""
    for index, one in enumerate(rounds):
        if one.slug in {earlier.slug for earlier in rounds[:index]}:
            source.fail(("round", index, "name"), f"{one.name!r} is the name of two rounds")
        there = rounds[index - 1].size if index else 0
        if one.take > there:
            before = f"the round before has {there} models" if index else "no round is before"
            source.fail(("round", index, "take"), f"{before}, received {one.take}")


def _final(source: _Source, values: Any, rounds: Sequence[Round]) -> Final:
    source.check_names(("final",), values, ("take", "repeats", "rounds"))
    names = values.get("rounds", [rounds[-1].name])
    by_name = {one.name: one for one in rounds}
    if not isinstance(names, list) or not names or any(name not in by_name for name in names):
        source.fail(
            ("final", "rounds"), f"must be names out of {', '.join(by_name)}, received {names!r}"
        )
    chosen = [by_name[name] for name in names]
    if len({(one.examples, one.epochs, one.validation_fraction) for one in chosen}) > 1:
        source.fail(
            ("final", "rounds"),
            "rounds are compared only if examples, epochs and validation_fraction are the same",
        )
    take = source.whole(("final", "take"), values.get("take", 1), least=1)
    there = sum(one.size for one in chosen)
    if take > there:
        source.fail(("final", "take"), f"{', '.join(names)} have {there} models, received {take}")
    repeats = source.whole(("final", "repeats"), values.get("repeats", 0), least=0)
    return Final(take, repeats, tuple(names))


def _convolutions(one: Round, has_grid: bool) -> list[tuple[tuple[str, ...], float]]:
    """Every number of convolutions that a round names, and in which field."""
    home = "grid" if has_grid else "models"
    found = [((home, "conv"), model["conv"]) for model in one.models]
    found += [(("vary", "conv"), conv) for conv in (one.vary or {}).get("conv", ())]
    if one.sample:
        conv = one.sample.space["conv"]
        most = conv.high if isinstance(conv, Span) else max(conv)
        found.append((("sample", "space", "conv"), most))
    return found

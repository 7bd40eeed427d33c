"""Plans as text: what they mean, how they shrink, and how a mistake in one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.studies.plan_files import check_fits, known_plans, load_plan, parse_plan
from model.studies.plans import Span, scale_plan
from model.studies.rounds import Choosing
from pipeline.errors import UsageError
from pipeline.schema import ImageSpec

CHOOSING = Choosing(seed=0, batch_size=64)

SOUND = """\
[[round]]
name = "first"
examples = 100
epochs = 2
validation_fraction = 0.3
[round.grid]
conv = [1, 2]
units = [8]
dense = [0, 1]

[[round]]
epochs = 3
take = 2
vary = { conv = [3] }
models = [{ conv = 1, units = 4, dense = 0 }]

[[round]]
epochs = 3
[round.sample]
trials = 5
[round.sample.space]
conv = { from = 1, to = 3 }
units = [4, 8]
dense = [0]

[final]
rounds = ["round 2", "round 3"]
take = 3
repeats = 1
"""


def parse(text: str):
    return parse_plan(Path("my.toml"), text)


def names(one) -> list[str]:
    return [candidate.model for candidate in CHOOSING.candidates(one, ())]


def test_the_report_plan_is_the_study_s():
    first, second, third, fourth = load_plan("report").rounds
    assert [one.examples for one in (first, second, third, fourth)] == [4800, 10_800, None, None]
    assert [one.epochs for one in (first, second, third, fourth)] == [10, 8, 10, 10]
    assert (first.validation_fraction, second.validation_fraction) == (0.3, 0.2)
    assert names(first) == [
        f"{conv}-conv-{units}-nodes-{dense}-dense"
        for conv in (1, 2, 3)
        for units in (32, 64, 128)
        for dense in (0, 1, 2)
    ]
    assert names(second) == [
        f"3-conv-{units}-nodes-{dense}-dense" for units in (32, 64, 128) for dense in (1, 2)
    ]
    assert (third.take, third.models) == (4, ())
    assert (fourth.take, fourth.vary) == (1, {"conv": (4, 5)})
    assert fourth.models == ({"conv": 5, "units": 32, "dense": 2},)
    assert load_plan("report").final.take == 3
    assert not any(one.prune for one in load_plan("report").rounds)


def test_halving_keeps_a_third_and_trains_it_three_times_as_long():
    rounds = load_plan("halving").rounds
    assert [one.size for one in rounds] == [27, 9, 3]
    assert [one.epochs for one in rounds] == [1, 3, 9]
    space = rounds[0].sample.space
    assert set(space) == {
        "conv",
        "units",
        "growth",
        "dense",
        "dropout",
        "learning_rate",
        "batch_size",
    }
    assert space["learning_rate"].log


@pytest.mark.parametrize("name", ["halving", "quick", "report"])
def test_our_own_plans_are_sound(name):
    assert name in known_plans()
    check_fits(load_plan(name), ImageSpec(150, 150, 1))


def test_a_sound_plan_says_all_of_this():
    plan = parse(SOUND)
    assert [one.name for one in plan.rounds] == ["first", "round 2", "round 3"]
    assert [one.size for one in plan.rounds] == [4, 3, 5]
    assert names(plan.rounds[0])[:2] == ["1-conv-8-nodes-0-dense", "1-conv-8-nodes-1-dense"]
    assert plan.rounds[2].sample.space["conv"] == Span(1, 3, False)
    assert plan.rounds[2].sample.sampler == "random"
    assert (plan.final.rounds, plan.final.take) == (("round 2", "round 3"), 3)


MISTAKES = [  # what is replaced, by what, the line that is named, what is said
    ("epochs = 2", "epoch = 2", 4, "round.epoch: unknown field; did you mean epochs?"),
    ("epochs = 2", 'epochs = "2"', 4, "round.epochs: must be a whole number of at least 1"),
    ("epochs = 2", "epochs = true", 4, "received True"),
    ("epochs = 2\n", "", 1, "needs the field epochs"),
    ("examples = 100", "examples = 1", 3, "at least 2, or \"all\", received 1"),
    ("examples = 100", 'examples = "some"', 3, "received 'some'"),
    ("fraction = 0.3", "fraction = 1.0", 5, "above 0 and below 1, received 1.0"),
    ("fraction = 0.3", "fraction = 0.3\nprune = 1", 6, "prune: must be true or false"),
    ("units = [8]", "units = [8, 8]", 8, "round.grid.units: holds a value twice"),
    ("units = [8]", "units = 8", 8, "must be a list of values, received 8"),
    ("units = [8]", "units = [0]", 8, "whole number from 1 to 65536, received 0"),
    ("units = [8]", "units = [8.5]", 8, "received 8.5"),
    ("units = [8]\n", "", 6, "round.grid: needs units"),
    ("units = [8]", "unit = [8]", 8, "round.grid.unit: unknown field; did you mean units?"),
    ("dense = [0, 1]", "dense = [0, 1]\ndropout = [1.0]", 10, "from 0 to 0.99, received 1.0"),
    ("take = 2", "take = 5", 13, "round.take: the round before has 4 models, received 5"),
    ("take = 2", "take = 0", 13, "at least 1, received 0"),
    ("take = 2\n", "", 13, "round.vary: stands beside take only"),
    ("vary = { conv = [3] }", "vary = { layers = [3] }", 14, "vary.layers: unknown field; known"),
    ("dense = 0 }", "dens = 0 }", 15, "round.models.dens: unknown field"),
    ("[round.sample]", "take = 1\n[round.sample]", 19, "cannot stand beside a sample"),
    ("trials = 5", "trials = 7", 20, "the space has 6 models, asked 7"),
    ("trials = 5", "", 19, "must be a whole number of at least 1, received None"),
    ("trials = 5", 'trials = 5\nsampler = "grid"', 21, "one of random, tpe, received 'grid'"),
    ("to = 3 }", "to = 0 }", 22, "from 1 to 64, received 0"),
    ("to = 3 }", "to = 3, log = 1 }", 22, "must be a range like"),
    ("from = 1, to = 3", "from = 3, to = 2", 22, "must be a range like"),
    ('"round 3"]', '"round 9"]', 27, "names out of first, round 2, round 3"),
    ('"round 2", "round 3"', '"first", "round 2"', 27, "compared only if examples, epochs"),
    ("take = 3", "take = 9", 28, "have 8 models, received 9"),
    ("repeats = 1", "repeats = -1", 29, "final.repeats: must be a whole number of at least 0"),
    ("[final]", "[finale]", 26, "finale: unknown field; did you mean final?"),
    ('name = "first"', 'name = "round 2"', 11, "'round 2' is the name of two rounds"),
    ('name = "first"', 'name = "repeats"', 2, "not 'repeats'"),
    ('name = "first"', 'name = "?"', 2, "must be a text with letters"),
    ("[[round]]\nepochs = 3\ntake", "[[round]]\nepochs = 3\ntakes", 13, "did you mean take?"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "problem"), MISTAKES, ids=str)
def test_a_mistake_is_named_with_file_line_and_field(old, new, line, problem):
    assert old in SOUND
    with pytest.raises(UsageError) as caught:
        parse(SOUND.replace(old, new, 1))
    assert str(caught.value).startswith(f"my.toml: line {line}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "my.toml: line 1: a plan needs at least one [[round]]"),
        ("round = 3", "my.toml: line 1: a plan needs at least one [[round]]"),
        ("[[round]\n", "my.toml: "),
        ("[[round]]\nepochs = 1\n", "my.toml: line 1: round: needs models"),
        ("[[round]]\nepochs = 1\ntake = 1", "line 3: round.take: no round is before, received 1"),
        ("[[round]]\nepochs = 1\ngrid = 3", "line 3: round.grid: must be a table, received 3"),
        ("[[round]]\nepochs = 1\nmodels = 3", "line 3: round.models: must be a list of tables"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_one_line(text, problem):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("conv = [1, 2]", "conv = [1, 9]", 7, "round.grid.conv"),
        ("vary = { conv = [3] }", "vary = { conv = [9] }", 14, "round.vary"),
        ("from = 1, to = 3", "from = 1, to = 9", 22, "round.sample.space.conv"),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_named(old, new, line, field):
    plan = parse(SOUND.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        check_fits(plan, ImageSpec(32, 40, 1))
    assert f"my.toml: line {line}: {field}" in str(caught.value)
    assert "at most 3 convolutions with pooling, received 9" in str(caught.value)


@pytest.mark.parametrize(
    ("available", "scale", "factor", "examples"),
    [
        (16_000, 1.0, 1.0, [4800, 10_800, None, None]),
        (10_800, 1.0, 1.0, [4800, 10_800, None, None]),
        (1080, 1.0, 0.1, [480, 1080, None, None]),
        (1080, 0.5, 0.1, [240, 540, 540, 540]),
        (16_000, 0.1, 1.0, [480, 1080, 1600, 1600]),
    ],
)
def test_all_rounds_shrink_by_one_factor_if_one_asks_for_too_much(
    available, scale, factor, examples
):
    scaled, found = scale_plan(
        load_plan("report"), available=available, examples_scale=scale, epochs_scale=0.2
    )
    assert found == pytest.approx(factor)
    assert [one.examples for one in scaled.rounds] == examples
    assert [one.epochs for one in scaled.rounds] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("reprot", "must be one of halving, quick, report, or a file"),
        ("nowhere.toml", "nowhere.toml: No such file"),
    ],
)
def test_a_plan_that_is_not_there_is_refused(name, problem):
    with pytest.raises(UsageError, match=problem):
        load_plan(name)

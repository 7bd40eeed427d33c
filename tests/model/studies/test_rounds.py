"""What a study decides: order, who goes on, samples, the winner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.studies.claims import Candidate, Standing
from model.studies.plan_files import load_plan, parse_plan
from model.studies.plans import Final
from model.studies.rounds import (
    Choosing,
    choose_winner,
    finalists,
    ranked,
    with_repeats,
)

CHOOSING = Choosing(seed=3, batch_size=64)
USUAL = {"dropout": 0.0, "growth": 1.0, "learning_rate": 0.001, "batch_size": 64}


def standing(model: str, loss: float | None, *, parameters: int = 100, run: str = "") -> Standing:
    candidate = Candidate(0, model, {"conv": 1, "units": 2, "dense": 0} | USUAL, 3, run or model)
    if loss is None:
        return Standing(candidate, "failed", "NaN", {})
    figures = {"val_loss": loss, "parameters": parameters}
    return Standing(candidate, "complete", "", figures)


def test_the_best_come_first_and_the_failed_last():
    pruned = replace(standing("pruned", 0.1), state="pruned")
    found = ranked(
        [standing("failed", None), pruned, standing("b", 0.5), standing("a", 0.4),
         standing("cheap", 0.5, parameters=9)]
    )  # fmt: skip
    assert [one.candidate.model for one in found] == ["a", "cheap", "b", "pruned", "failed"]


def test_the_next_round_takes_the_best_with_their_changes_each_model_once():
    third, fourth = load_plan("report").rounds[2:]
    best = Candidate(0, "", {"conv": 3, "units": 32, "dense": 2} | USUAL, 3, "a")
    other = Candidate(1, "", {"conv": 3, "units": 64, "dense": 1} | USUAL, 3, "b")
    before = [
        Standing(other, "complete", "", {"val_loss": 0.2, "parameters": 1}),
        Standing(best, "complete", "", {"val_loss": 0.1, "parameters": 1}),
    ]
    assert [one.model for one in CHOOSING.candidates(third, before)] == [
        "3-conv-32-nodes-2-dense",
        "3-conv-64-nodes-1-dense",
    ]
    last = CHOOSING.candidates(fourth, before)
    assert [one.model for one in last] == ["4-conv-32-nodes-2-dense", "5-conv-32-nodes-2-dense"]
    assert [one.number for one in last] == [0, 1]
    assert last[0].run == "rounds/round-4/4-conv-32-nodes-2-dense"
    assert last[0].params == {"conv": 4, "units": 32, "dense": 2} | USUAL


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "5-conv-32-nodes-2-dense"),
        ({"dropout": 0.25, "growth": 1.5}, "5-conv-32-nodes-2-dense-1.5-growth-0.25-dropout"),
        ({"learning_rate": 0.01, "batch_size": 32}, "5-conv-32-nodes-2-dense-0.01-rate-32-batch"),
    ],
)
def test_a_name_tells_all_that_is_not_as_usual(values, name):
    params = CHOOSING.complete({"conv": 5, "units": 32, "dense": 2} | values)
    assert CHOOSING.model_name(params) == name


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_sample_depends_on_seed_number_and_results_alone(sampler):
    text = f"""
[[round]]
epochs = 1
[round.sample]
trials = 24
sampler = "{sampler}"
[round.sample.space]
conv = {{ from = 1, to = 3 }}
units = {{ from = 4, to = 64, log = true }}
dense = [0, 1]
learning_rate = {{ from = 1e-4, to = 1e-2, log = true }}
"""
    one = parse_plan(Path("p.toml"), text).rounds[0]
    known: list[Standing] = []
    for number in range(24):
        candidate = CHOOSING.sampled_candidate(one, number, known)
        assert candidate == CHOOSING.sampled_candidate(one, number, known)
        figures = {"val_loss": abs(candidate.params["units"] - 30), "parameters": 1}
        known.append(Standing(candidate, "complete", "", figures))
    assert len({one.candidate.run for one in known}) == 24
    assert all(1e-4 <= one.candidate.params["learning_rate"] <= 1e-2 for one in known)
    assert {one.candidate.params["conv"] for one in known} == {1, 2, 3}
    other = Choosing(seed=4, batch_size=64).sampled_candidate(one, 0, ())
    assert other.params != known[0].candidate.params


def test_a_small_space_is_sampled_to_its_last_model():
    text = """
[[round]]
epochs = 1
[round.sample]
trials = 6
sampler = "tpe"
[round.sample.space]
conv = { from = 1, to = 3 }
units = [4, 8]
dense = [0]
"""
    one = parse_plan(Path("p.toml"), text).rounds[0]
    known: list[Standing] = []
    for number in range(6):
        candidate = CHOOSING.sampled_candidate(one, number, known)
        known.append(Standing(candidate, "complete", "", {"val_loss": 1.0, "parameters": 1}))
    assert len({one.candidate.model for one in known}) == 6


def test_finalists_are_the_best_of_the_named_rounds_each_once():
    final = Final(take=2, repeats=0, rounds=("r3", "r4"))
    rounds = {
        "r2": [standing("z", 0.01)],
        "r3": [standing("a", 0.3, run="r3/a"), standing("b", 0.2, run="r3/b")],
        "r4": [standing("a", 0.1, run="r4/a"), standing("c", None)],
    }
    assert [one.candidate.run for one in finalists(final, rounds)] == ["r4/a", "r3/b"]


def test_repeats_have_the_seeds_that_follow():
    found = CHOOSING.repeats([standing("a", 0.1), standing("b", 0.2)], 2)
    assert [(one.number, one.seed, one.run) for one in found] == [
        (0, 4, "rounds/repeats/a-seed-4"),
        (1, 5, "rounds/repeats/a-seed-5"),
        (2, 4, "rounds/repeats/b-seed-4"),
        (3, 5, "rounds/repeats/b-seed-5"),
    ]


@pytest.mark.parametrize(
    ("losses", "parameters", "winner", "why"),
    [
        ({"a": [0.1], "b": [0.2]}, {"a": 9, "b": 1}, "a", "a has the lowest validation loss, 0.10000"),
        ({"a": [0.1], "b": [0.1]}, {"a": 9, "b": 1}, "b", "the lowest"),  # equal: the cheaper
        # a: mean 0.12, std 0.0283, standard error 0.02
        ({"a": [0.1, 0.14], "b": [0.13, 0.138]}, {"a": 9, "b": 1}, "b", "b has the fewest"),
        ({"a": [0.1, 0.14], "b": [0.14, 0.15]}, {"a": 9, "b": 1}, "a", "; the next, b"),
        ({"a": [0.1, 0.14], "b": [0.13, 0.138]}, {"a": 1, "b": 9}, "a", "of the 2 within one"),
        ({"a": [0.1]}, {"a": 9}, "a", "a is the only finalist"),
    ],
)  # fmt: skip
def test_the_winner_is_the_cheapest_within_one_standard_error(losses, parameters, winner, why):
    first = [standing(name, some[0], parameters=parameters[name]) for name, some in losses.items()]
    again = [
        standing(name, loss, parameters=parameters[name], run=f"{name}-{i}")
        for name, some in losses.items()
        for i, loss in enumerate(some[1:])
    ]
    found, said = choose_winner(with_repeats(first, again))
    assert found.first.candidate.model == winner
    assert why in said


def test_a_repeat_that_failed_is_left_out_of_the_mean():
    one = with_repeats([standing("a", 0.1)], [standing("a", None), standing("a", 0.3)])[0]
    assert (one.mean, one.std) == (pytest.approx(0.2), pytest.approx(0.1414213562))

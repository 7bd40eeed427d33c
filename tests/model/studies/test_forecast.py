"""What a plan will cost: counted as Keras counts, and estimated by what was measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from model.config import NetworkConfig
from model.studies.claims import Candidate, Standing
from model.studies.costs import Speed, count_multiplications, count_parameters
from model.studies.forecast import Expected, expect_rounds, seconds_left
from model.studies.plan_files import load_plan, parse_plan
from model.studies.rounds import Choosing
from pipeline.manifest import Manifest, load_manifest
from pipeline.schema import ImageSpec

CHOOSING = Choosing(0, 64)
TWO_ROUNDS = """
[[round]]
epochs = 2
[round.grid]
conv = [1]
units = [2, 4]
dense = [0]

[[round]]
name = "longer"
epochs = 6
take = 1

[final]
take = 1
"""


@pytest.fixture
def manifest(records) -> Manifest:
    return load_manifest(records)


def models(one: Expected) -> list[str]:
    return [CHOOSING.model_name(params) for params in one.models]


def test_where_models_depend_on_results_the_costliest_are_expected(manifest):
    grid, second, third, fourth, repeats = expect_rounds(
        load_plan("report"), CHOOSING, manifest, repeats=2
    )
    assert (len(grid.models), len(second.models)) == (27, 6)
    assert models(third)[0] == "3-conv-128-nodes-2-dense"
    assert models(fourth) == [
        "4-conv-128-nodes-2-dense",
        "5-conv-128-nodes-2-dense",
        "5-conv-32-nodes-2-dense",
    ]
    assert (repeats.round.name, len(repeats.models)) == ("repeats", 3 * 2)
    assert len(expect_rounds(load_plan("report"), CHOOSING, manifest, repeats=0)) == 4


def test_the_time_left_follows_the_pace_of_what_is_done(manifest):
    plan = parse_plan(Path("plan.toml"), TWO_ROUNDS)
    expected = expect_rounds(plan, CHOOSING, manifest, repeats=1)
    small, large = expected[0].models
    nothing = seconds_left(expected, "round 1", {"round 1": []}, [], manifest)
    assert all(map(math.isnan, nothing))

    def done(params, seconds):
        return Standing(Candidate(0, "a", params, 0, "a"), "complete", "", {"seconds": seconds})

    # One unit of work is the small model's two epochs; the large one's are nearly two of them.
    left = seconds_left(expected, "round 1", {"round 1": [done(small, 10)]}, [], manifest)
    assert left[0] == pytest.approx(20, rel=0.05)
    assert left[1] == pytest.approx(20 + 60 + 60, rel=0.05)  # longer, and its repetition
    half = seconds_left(
        expected, "round 1", {"round 1": [done(small, 10)]}, [(large, 0.5)], manifest
    )
    assert half == pytest.approx((left[0] / 2, left[1] - left[0] / 2))
    over = {"round 1": [done(small, 10), done(large, 20)], "longer": []}
    assert seconds_left(expected, "longer", over, [], manifest)[0] == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize(
    ("network", "image", "parameters"),
    [
        (NetworkConfig(5, 32, 2), ImageSpec(150, 150, 1), 42_529),  # as the README has it
        (NetworkConfig(1, 2, 0), ImageSpec(6, 6, 3), (27 * 2 + 2) + 2 * 2 * 2 + 1),
        (NetworkConfig(2, 4, 1, 0.5, 1.5), ImageSpec(10, 14, 1),
         (9 * 4 + 4) + (9 * 4 * 6 + 6) + (1 * 2 * 6 * 4 + 4) + 5),
    ],
)  # fmt: skip
def test_parameters_are_counted_as_keras_counts_them(network, image, parameters):
    from model.network import build_network

    assert count_parameters(network, image) == parameters
    assert build_network(network, image).count_params() == parameters


def test_multiplications_by_hand():
    assert count_multiplications(NetworkConfig(1, 2, 1), ImageSpec(6, 6, 1)) == (
        4 * 4 * 9 * 2 + 8 * 2 + 2
    )


def test_an_estimate_goes_through_what_was_measured():
    image, network = ImageSpec(6, 6, 1), NetworkConfig(1, 2, 1)
    each = count_multiplications(network, image)
    speed = Speed.through([(each, 0.01), (2 * each, 0.015)], start=4.0)
    assert speed.seconds(network, image, examples=100, epochs=3, validation=0.4) == pytest.approx(
        4 + 3 * (60 + 40 / 3) * 0.01
    )
    assert Speed.through([(each, 0.01), (2 * each, 0.009)], start=0.0).fixed == 0

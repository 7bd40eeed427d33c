"""`python -m model.search` with real trainings: the plan's rounds, the finalists' test, resumption."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model.search import main as search
from model.studies.plan_files import load_plan
from pipeline.manifest import load_manifest
from tests.model.studies.tables import final_table

PLAN = """
[[round]]
epochs = 1
[round.grid]
conv = [1]
units = [2, 3]
dense = [0]
dropout = [0.2]

[final]
take = 1
"""
MODELS = ["1-conv-2-nodes-0-dense-0.2-dropout", "1-conv-3-nodes-0-dense-0.2-dropout"]


def run_search(*arguments: object) -> int:
    return search([str(argument) for argument in arguments])


def result_of(study: Path) -> dict:
    return json.loads((study / "result.json").read_text())


@pytest.fixture(scope="module")
def own_records(records, tmp_path_factory) -> Path:
    """A copy of `records`, to be spoilt and mended."""
    return shutil.copytree(records, tmp_path_factory.mktemp("own") / "tfrecords")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "tiny.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def tiny(records, plan) -> tuple:
    """Options of a sound request."""
    return ("--records", records, "--plan", plan)


@pytest.fixture(scope="module")
def study(own_records, plan, tmp_path_factory) -> Path:
    """A finished study, all of it but the final test done while no test shard could be read."""
    folder = tmp_path_factory.mktemp("studies") / "tiny"
    shards = sorted(own_records.glob("test-*.tfrecord"))
    kept = [shard.read_bytes() for shard in shards]
    for shard in shards:
        shard.write_bytes(b"")
    options = ("--records", own_records, "--plan", plan, "--study", folder, "--batch_size", 32)
    assert run_search(*options) == 1
    spoilt = result_of(folder)
    assert spoilt["winner"] in MODELS and not spoilt["finished"]
    assert [trial["state"] for trial in spoilt["rounds"][0]["trials"]] == ["complete"] * 2
    assert not (own_records / "openings.jsonl").exists()
    for shard, data in zip(shards, kept, strict=True):
        shard.write_bytes(data)
    assert run_search(*options) == 0
    return folder


def test_selection_never_opens_the_test_split(study, own_records):
    """`study` says it: its models were chosen while the test shards were empty files."""
    result = result_of(study)
    assert result["finished"]
    openings = (own_records / "openings.jsonl").read_text().splitlines()
    assert len(openings) == len(result["finalists"]) == 1


def test_a_study_folder_holds_all_that_was_promised(study, own_records):
    asked = json.loads((study / "study.json").read_text())
    assert asked["plan"] == PLAN
    assert asked["plan_name"] == "tiny"
    assert asked["records"] == str(own_records)
    assert asked["classes"] == ["faces", "comics"]
    assert asked["options"]["batch_size"] == 32
    assert asked["machine"]["cores"] >= 1
    assert (study / "storage.journal").exists()
    assert "<html" in (study / "report.html").read_text()
    result = result_of(study)
    trial = result["rounds"][0]["trials"][0]
    ours = json.loads((study / trial["run"] / "result.json").read_text())
    for name in ("val_loss", "val_accuracy", "best_epoch", "epochs", "parameters", "seconds"):
        assert trial[name] == ours[name]
    assert trial["params"]["dropout"] == 0.2
    assert result["finalists"][0]["run"] == trial["run"]
    tested = json.loads((study / trial["run"] / "evaluation.json").read_text())
    assert result["finalists"][0]["test_accuracy"] == tested["accuracy"]


def test_the_hparams_tab_is_filled(study):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import metadata

    runs = EventMultiplexer().AddRunsFromDirectory(str(study)).Reload()
    found = {}
    for name in runs.Runs():
        tags = runs.SummaryMetadata
        try:
            content = tags(name, metadata.SESSION_START_INFO_TAG).plugin_data.content
        except KeyError:
            continue
        start = metadata.parse_session_start_info_plugin_data(content)
        found[name] = {key: value.number_value for key, value in start.hparams.items()}
    assert {one["units"] for one in found.values()} == {2, 3}
    assert all(one["batch_size"] == 32 and one["dropout"] == 0.2 for one in found.values())
    sessions = {f"rounds/round-1/{model}/tensorboard" for model in MODELS}
    assert set(found) == sessions
    assert {f"{one}/validation" for one in sessions} <= set(runs.Runs())


def test_the_same_command_again_prints_the_table_and_does_nothing(study, own_records, plan, capsys):
    before = (study / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    again = ("--records", own_records, "--plan", plan, "--study", study, "--batch_size", 32)
    assert run_search(*again) == 0
    shown = capsys.readouterr().out
    assert "winner: 1-conv-" in shown and "validation loss" in shown
    assert (study / "result.json").stat().st_mtime_ns == before


def test_a_study_folder_takes_one_study_only(study, own_records, plan, tmp_path, capsys):
    other = tmp_path / "other.toml"
    other.write_text(PLAN + "\n# another\n")
    base = ("--study", study, "--batch_size", 32)
    cases = [
        ((*base, "--records", own_records, "--plan", other), "a study with another plan"),
        (("--study", study, "--records", own_records, "--plan", plan), "--batch_size 32, received 64"),
        ((*base, "--records", own_records, "--plan", plan, "--seed", 1), "--seed 0, received 1"),
        ((*base, "--records", own_records, "--plan", plan, "--storage", tmp_path / "j"),
         "a study with another --storage"),
        (("--study", own_records, "--records", own_records, "--plan", plan), "is there and no study"),
    ]  # fmt: skip
    capsys.readouterr()
    for arguments, problem in cases:
        assert run_search(*arguments) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--plan", "reports"), "must be one of halving, quick, report"),
        (
            ("--plan", "report"),
            "report.toml: line 38: round.models.conv: images of 32x40 leave room for at",
        ),
        (("--workers", 0), "--workers: must be at least 1, received 0"),
        (("--heartbeat", 0), "--heartbeat: must be at least 1, received 0"),
        (("--heartbeat", "nan"), "--heartbeat: must be at least 1, received nan"),
        (("--repeats", -1), "--repeats: must be at least 0, received -1"),
        (("--examples_scale", 0), "--examples_scale: must be above 0 and at most 1"),
        (("--epochs_scale", 2), "--epochs_scale: must be above 0 and at most 1"),
        (("--batch_size", 0), "--batch_size: must be at least 1"),
        (("--seed", -1), "--seed: must be from 0"),
        (("--storage", "mysql://me:secret@host/db"), "must be postgresql://"),
        (("--storage", "."), "is a folder"),
        (("--records", "nowhere"), "no finished data set"),
        (("--worker", 2), "did you mean --workers?"),
    ],
    ids=str,
)
def test_a_mistake_in_the_options_gets_one_clear_line(tiny, tmp_path, capsys, option, message):
    study = tmp_path / "study"
    assert run_search(*tiny, "--study", study, *option) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1
    assert not study.exists()


def test_a_dry_run_says_what_would_be_done_and_makes_nothing(records, tmp_path, capsys):
    there = load_manifest(records).splits["train"].records
    path = tmp_path / "plan.toml"
    text = load_plan("quick").text
    path.write_text(text.replace("examples = 300", f"examples = {2 * there}"))
    options = ("--records", records, "--plan", path, "--study", tmp_path / "study")
    assert run_search(*options, "--dry_run") == 0
    shown = capsys.readouterr().out
    assert f"asks for {2 * there} examples and there are {there}: all rounds have 0.500" in shown
    assert f"round 1: 8 models, {there} examples, 2 epochs, 30% of them to validate" in shown
    assert "2-conv-8-nodes-0-dense" in shown and "parameters" in shown
    assert "the best 2 of round 1" in shown
    assert "an estimate" in shown
    assert not (tmp_path / "study").exists()


# --- minutes -----------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "model.search", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def whole(own_records, tmp_path_factory) -> Callable[[int], tuple[tuple, Path]]:
    """The options of the quick plan for so many workers, and that study uninterrupted."""

    @functools.cache
    def run(workers: int) -> tuple[tuple, Path]:
        folder = tmp_path_factory.mktemp("whole")
        options = ("--records", own_records, "--plan", "quick", "--workers", workers,
                   "--deterministic", "--precision", "float32")  # fmt: skip
        assert run_search(*options, "--study", folder / "study", "--quiet") == 0
        return options, folder / "study"

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "storage"), [(1, None), (2, "postgresql")])
def test_the_quick_plan_killed_ten_times_comes_to_the_same_table(
    whole, tmp_path, request, workers, storage
):
    options, expected = whole(workers)
    if storage:
        options = (*options, "--storage", request.getfixturevalue(storage))
    chance, kills = random.Random(3), 0
    while True:
        running = start(*options, "--study", tmp_path / "study")
        try:
            limit = chance.uniform(3, 8) if kills < 10 else 300
            output, _ = running.communicate(timeout=limit)
            break
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            kills += 1
    assert running.returncode == 0, output
    assert kills == 10
    assert final_table(result_of(tmp_path / "study")) == final_table(result_of(expected))


@pytest.mark.slow
def test_two_workers_train_the_models_of_one(whole):
    alone, shared = (result_of(whole(workers)[1])["rounds"][0] for workers in (1, 2))
    assert {one["model"] for one in shared["trials"]} == {one["model"] for one in alone["trials"]}
    assert [one["state"] for one in shared["trials"]] == ["complete"] * 8


@pytest.mark.slow
def test_a_dropout_training_is_resumed_to_the_same_bits(records, tmp_path):
    """The state of dropout's random numbers travels with the checkpoint."""
    from tests.model.test_fit import KILL_AT_STEP, figures, run_script

    options = ("--records", records, "--conv", 1, "--units", 4, "--dense", 1, "--dropout", 0.5,
               "--batch_size", 16, "--epochs", 3, "--deterministic")  # fmt: skip
    whole = run_script(KILL_AT_STEP, 0, *options, "--run", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    every = ("--checkpoint_every", 2)
    killed = run_script(KILL_AT_STEP, 16, *options, "--run", tmp_path / "cut", *every)
    assert killed.returncode == -signal.SIGKILL
    done = run_script(KILL_AT_STEP, 0, "--run", tmp_path / "cut", "--resume", *every)
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")

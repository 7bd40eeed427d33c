"""Whole studies with a real small command for a training: killed, shared, gone wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from model.studies.board import Board
from model.studies.engine import Search, run_search
from model.studies.folder import StudyOptions, study_id
from model.studies.forecast import expect_rounds
from model.studies.plan_files import load_plan
from model.studies.plans import scale_plan
from model.studies.rounds import Choosing
from model.studies.storages import open_storage
from model.studies.trials import Workplace, worker_environments
from pipeline.errors import WorkError
from pipeline.manifest import load_manifest
from tests.model.studies.tables import final_table

ROOT = Path(__file__).parents[3]
TINY = (sys.executable, "-u", "-m", "tests.model.studies.tiny_child")

PLAN = """
[[round]]
name = "round 1"
examples = 50
epochs = 2
[round.grid]
conv = [1, 2]
units = [2, 4]
dense = [0]

[[round]]
epochs = 3
take = 2
models = [{ conv = 1, units = 8, dense = 1 }]

[final]
take = 2
repeats = 2
"""

SEARCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it
from tests.model.studies.test_engine import Asked
Asked.from_command_line(sys.argv).run()
"""


@dataclass
class Asked:
    """A study that is run here, or in a process that can be killed."""

    folder: Path
    records: Path
    plan: Path
    storage: str
    workers: int = 1
    heartbeat: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)
    quiet: bool = True

    @classmethod
    def from_command_line(cls, argv: list[str]) -> Asked:
        folder, records, plan, storage, workers, heartbeat = argv[1:7]
        paths = (Path(folder), Path(records), Path(plan))
        return cls(*paths, storage, int(workers), float(heartbeat), {})

    def run(self) -> dict:
        options = StudyOptions(
            seed=3, repeats=2, examples_scale=1.0, epochs_scale=1.0,
            deterministic=False, precision="float32", batch_size=16,
        )  # fmt: skip
        manifest = load_manifest(self.records)
        plan = load_plan(str(self.plan))
        scaled, _ = scale_plan(plan, available=192, examples_scale=1.0, epochs_scale=1.0)
        stop = threading.Event()
        given = {**os.environ, **self.environment}
        places = worker_environments(self.workers, given=given)
        self.folder.mkdir(exist_ok=True)
        return run_search(
            Search(
                folder=self.folder, plan=scaled, options=options, records=self.records,
                manifest=manifest, storage=open_storage(self.storage),
                name=study_id(self.folder, plan, manifest, options),
                workplaces=[Workplace(TINY, one, self.heartbeat, stop) for one in places],
                versions={}, board=Board(quiet=self.quiet),
                expected=expect_rounds(scaled, Choosing(3, 16), manifest, repeats=2),
            )
        )  # fmt: skip

    def start(self) -> subprocess.Popen:
        arguments = (self.folder, self.records, self.plan, self.storage, self.workers)
        return subprocess.Popen(
            [sys.executable, "-c", SEARCH, *map(str, arguments), str(self.heartbeat)],
            env={**os.environ, **self.environment}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    def log(self) -> list[list[str]]:
        return [
            line.split() for line in Path(self.environment["TINY_LOG"]).read_text().splitlines()
        ]


@pytest.fixture
def asked(records, tmp_path) -> Asked:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    journal = str(tmp_path / "study" / "storage.journal")
    environment = {"TINY_LOG": str(tmp_path / "log")}
    return Asked(tmp_path / "study", records, plan, journal, environment=environment)


def test_a_study_from_its_first_round_to_its_winner(asked):
    result = asked.run()
    assert result == asked.result()
    assert result["finished"]
    first, second, repeats = result["rounds"]
    assert [one["model"] for one in first["trials"]] == [
        "2-conv-4-nodes-0-dense",
        "1-conv-4-nodes-0-dense",
        "2-conv-2-nodes-0-dense",
        "1-conv-2-nodes-0-dense",
    ]
    assert first["chosen"] == ["2-conv-4-nodes-0-dense", "1-conv-4-nodes-0-dense"]
    assert (first["examples"], first["epochs"], first["validation_fraction"]) == (50, 2, 0.2)
    assert [one["model"] for one in second["trials"]] == [
        "1-conv-8-nodes-1-dense",
        "2-conv-4-nodes-0-dense",
        "1-conv-4-nodes-0-dense",
    ]
    assert second["examples"] == load_manifest(asked.records).splits["train"].records
    assert repeats["name"] == "repeats"
    assert {one["seed"] for one in repeats["trials"]} == {4, 5}
    # 1/9 + 1/3 + (3 + 4 + 5) / 3 / 1000, for both: the cheaper by parameters, here all 7
    assert result["winner"] == "1-conv-8-nodes-1-dense"
    finalist = result["finalists"][0]
    assert finalist["val_loss_mean"] == pytest.approx(1 / 9 + 1 / 3 + 0.004)
    assert finalist["val_loss_std"] == pytest.approx(0.001)
    assert finalist["test_accuracy"] == 0.75
    assert finalist["repeats"] == [
        "rounds/repeats/1-conv-8-nodes-1-dense-seed-4",
        "rounds/repeats/1-conv-8-nodes-1-dense-seed-5",
    ]
    begun = [words[1] for words in asked.log() if words[0] == "begin"]
    assert len(begun) == 4 + 3 + 4
    assert [words[0] for words in asked.log()][-2:] == ["evaluate"] * 2


def test_each_run_folder_is_one_of_model_train_with_hparams(asked):
    asked.run()
    run = asked.folder / "rounds/round-1/2-conv-4-nodes-0-dense"
    config = json.loads((run / "config.json").read_text())["training"]
    assert config["network"] == {"conv": 2, "units": 4, "dense": 0}
    assert (config["examples"], config["epochs"], config["seed"]) == (50, 2, 3)
    assert (config["validation_fraction"], config["batch_size"]) == (0.2, 16)
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


def test_once_finished_nothing_is_trained_or_tested_again(asked):
    before = asked.run()
    lines = len(asked.log())
    assert final_table(asked.run()) == final_table(before)
    assert len(asked.log()) == lines


FAULTS = [
    ("nan", "failed", "the loss is no finite number from step 7 on", 1),
    ("crash", "failed", "RuntimeError: something is wrong", 1),
    ("killed", "failed", "given up after 3 attempts, the last: killed by SIGKILL, as by a system "
     "that is out of memory", 3),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "state", "why", "attempts"), FAULTS, ids=lambda v: str(v)[:8])
def test_a_training_that_goes_wrong_is_recorded_and_stops_nothing(
    asked, fault, state, why, attempts
):
    asked.environment["TINY_FAULTS"] = json.dumps({"2-conv-4-nodes-0-dense": fault})
    result = asked.run()
    last = result["rounds"][0]["trials"][-1]
    assert (last["model"], last["state"], last["why"]) == ("2-conv-4-nodes-0-dense", state, why)
    assert last["val_loss"] is None
    begun = [words[1] for words in asked.log() if words[0] == "begin"]
    assert begun.count("round-1/2-conv-4-nodes-0-dense") == attempts
    assert result["finished"]
    assert "2-conv-4-nodes-0-dense" not in result["rounds"][0]["chosen"]


def test_each_end_of_a_training_is_told_with_its_reason(asked, capsys):
    asked.quiet = False
    asked.environment["TINY_FAULTS"] = json.dumps({"2-conv-4-nodes-0-dense": "killed"})
    asked.run()
    lines = capsys.readouterr().out.splitlines()
    killed = [line for line in lines if line.startswith("round 1") and "2-conv-4-nodes" in line]
    again = "2-conv-4-nodes-0-dense  will be tried again:  killed by SIGKILL, as by a system that"
    assert [again in line for line in killed] == [True, True, False]
    assert "4 of 4  2-conv-4-nodes-0-dense  failed  given up after 3 attempts" in killed[-1]
    assert "round 1  1 of 4  1-conv-2-nodes-0-dense  val_loss 0.8" in lines[0]


def test_a_round_without_a_result_ends_the_study_with_a_reason(asked):
    asked.plan.write_text(PLAN.replace("conv = [1, 2]", "conv = [1]").replace("[2, 4]", "[2]"))
    asked.plan.write_text(asked.plan.read_text().replace("take = 2", "take = 1"))
    asked.environment["TINY_FAULTS"] = json.dumps({"1-conv-2-nodes-0-dense": "nan"})
    with pytest.raises(
        WorkError, match="round 1: none of its 1 trainings came to a result.*step 7"
    ):
        asked.run()
    assert not asked.result()["finished"]


def test_a_finalist_that_cannot_be_tested_is_tested_by_the_next_command(asked):
    asked.environment["TINY_EVALUATION_FAILS"] = "1"
    with pytest.raises(WorkError, match="could not be tested: a record is damaged"):
        asked.run()
    assert asked.result()["winner"] and not asked.result()["finished"]
    del asked.environment["TINY_EVALUATION_FAILS"]
    assert asked.run()["finished"]
    begun = [words[1] for words in asked.log() if words[0] == "begin"]
    assert len(begun) == 11


def test_a_bad_trial_is_ended_early_if_the_plan_says_so(asked):
    text = PLAN.replace("epochs = 2", "epochs = 5\nprune = true")
    asked.plan.write_text(text.replace("units = [2, 4]", "units = [2, 4, 8, 16]"))
    found = asked.run()["rounds"][0]["trials"]
    # By number: conv 1 x units 2, 4, 8, 16 first; 2 x 2 is like 1 x 4, worse than the median.
    pruned = [one for one in found if one["state"] == "pruned"]
    assert [one["model"] for one in pruned] == ["2-conv-2-nodes-0-dense"]
    assert pruned[0]["why"] == "worse than the median after epoch 2"
    assert (pruned[0]["epochs"], pruned[0]["best_epoch"]) == (2, 2)
    assert found[-1]["state"] == "pruned"


def test_a_sampled_round_has_the_models_asked_for(asked):
    asked.plan.write_text("""
[[round]]
epochs = 1
[round.sample]
trials = 6
sampler = "tpe"
[round.sample.space]
conv = { from = 1, to = 3 }
units = { from = 2, to = 32, log = true }
dense = [0]
learning_rate = { from = 1e-4, to = 1e-2, log = true }
""")
    asked.workers = 2
    found = asked.run()["rounds"][0]["trials"]
    assert [one["state"] for one in found] == ["complete"] * 6
    assert len({one["run"] for one in found}) == 6


def test_killed_a_dozen_times_it_comes_to_the_same(asked, tmp_path):
    whole = Asked(tmp_path / "whole", asked.records, asked.plan, str(tmp_path / "whole.journal"))
    expected = whole.run()
    chance, kills = random.Random(7), 0
    asked.environment["TINY_SECONDS"] = "0.4"
    while True:
        search = asked.start()
        try:
            output, _ = search.communicate(timeout=chance.uniform(0.9, 2.0) if kills < 12 else 60)
            break
        except subprocess.TimeoutExpired:
            os.killpg(search.pid, signal.SIGKILL)
            search.communicate()
            kills += 1
    assert search.returncode == 0, output
    assert kills >= 10
    assert final_table(asked.result()) == final_table(expected)
    ended = [words[1] for words in asked.log() if words[0] == "end"]
    assert len(ended) == len(set(ended)) == 11


def running(log: list[list[str]]) -> set[int]:
    """Trainings that began and did not end."""
    ended = {words[2] for words in log if words[0] == "end"}
    return {int(words[2]) for words in log if words[0] == "begin" and words[2] not in ended}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_training_outlives_the_search(asked, how):
    asked.environment["TINY_SECONDS"] = "30"
    asked.workers = 2
    search = asked.start()
    wait_for(lambda: Path(asked.environment["TINY_LOG"]).exists() and len(asked.log()) == 2)
    os.kill(search.pid, how)
    search.communicate(timeout=10)
    wait_for(lambda: not any(map(is_alive, running(asked.log()))), seconds=5)


def wait_for(condition, seconds: float = 20) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "waited too long"
        time.sleep(0.05)


def test_workers_share_a_study_and_do_nothing_twice(asked, tmp_path):
    whole = Asked(tmp_path / "whole", asked.records, asked.plan, str(tmp_path / "whole.journal"))
    asked.environment["TINY_SECONDS"] = "0.2"
    asked.workers = 2
    searches = [asked.start(), asked.start()]  # two machines with two workers each
    outputs = [search.communicate(timeout=60)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], outputs
    begun = [words[1] for words in asked.log() if words[0] == "begin"]
    assert len(begun) == len(set(begun)) == 11
    assert sum(words[0] == "evaluate" for words in asked.log()) == 2
    assert final_table(asked.result()) == final_table(whole.run())


def test_machines_without_a_shared_disk_test_what_they_trained(asked, tmp_path):
    """Each has folders of its own, and all have the storage: no test split is opened twice."""
    asked.environment["TINY_SECONDS"] = "0.2"
    hosts = [replace(asked, folder=tmp_path / host / "study") for host in ("a", "b")]
    asked.storage = hosts[0].storage = hosts[1].storage = str(tmp_path / "journal")
    for host in hosts:
        host.folder.mkdir(parents=True)
    searches = [host.start() for host in hosts]
    outputs = [search.communicate(timeout=60)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], outputs
    begun = [words[1] for words in asked.log() if words[0] == "begin"]
    assert len(begun) == len(set(begun)) == 11
    assert sum(words[0] == "evaluate" for words in asked.log()) == 2
    assert final_table(hosts[0].result()) == final_table(hosts[1].result())


def test_what_another_machine_has_tested_is_not_tested_again(asked, tmp_path):
    """It was given up and trained again elsewhere, so two machines have the weights of a finalist."""
    asked.storage = str(tmp_path / "journal")
    expected = asked.run()
    other = replace(asked, folder=tmp_path / "other" / "study")
    shutil.copytree(asked.folder, other.folder)
    for tested in other.folder.rglob("evaluation.json"):
        tested.unlink()
    assert final_table(other.run()) == final_table(expected)
    assert sum(words[0] == "evaluate" for words in asked.log()) == 2


def test_weights_that_stay_away_are_asked_for(asked, tmp_path):
    """The machine that trained the finalists is not there any more when they are to be tested."""
    asked.environment["TINY_EVALUATION_FAILS"] = "1"
    asked.storage = str(tmp_path / "journal")
    with pytest.raises(WorkError, match="could not be tested"):
        asked.run()
    other = replace(asked, folder=tmp_path / "other" / "study", heartbeat=1.5)
    other.folder.parent.mkdir()
    with pytest.raises(WorkError, match="give the same command on the machine that trained it"):
        other.run()


def test_the_work_of_a_killed_worker_is_taken_up_by_another(asked):
    asked.environment["TINY_SECONDS"] = "0.3"
    victim, other = asked.start(), asked.start()
    wait_for(lambda: Path(asked.environment["TINY_LOG"]).exists() and len(asked.log()) >= 2)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    output, _ = other.communicate(timeout=60)
    assert other.returncode == 0, output
    assert asked.result()["finished"]
    ended = [words[1] for words in asked.log() if words[0] == "end"]
    assert len(ended) == len(set(ended)) == 11


def test_a_stopped_worker_that_wakes_up_finds_its_trial_gone(asked):
    """It hangs for longer than the heartbeat: the others go on, and it does no harm afterwards."""
    asked.environment["TINY_SECONDS"] = "0.3"
    asked.heartbeat = 1.5
    sleeper = asked.start()
    wait_for(lambda: Path(asked.environment["TINY_LOG"]).exists() and asked.log())
    os.kill(sleeper.pid, signal.SIGSTOP)
    pid = int(asked.log()[0][2])
    os.kill(pid, signal.SIGSTOP)
    other = asked.start()
    output, _ = other.communicate(timeout=60)
    assert other.returncode == 0, output
    os.kill(pid, signal.SIGCONT)
    os.kill(sleeper.pid, signal.SIGCONT)
    output, _ = sleeper.communicate(timeout=30)
    assert sleeper.returncode == 0, output
    assert asked.result()["finished"]


MEASURED = """
import sys, threading, time
from tests.model.studies.test_engine import Asked

megabytes = []

def watch():
    while True:
        pages = int(open("/proc/self/statm").read().split()[1])
        megabytes.append(pages * 4096 / 1e6)
        time.sleep(0.2)

threading.Thread(target=watch, daemon=True).start()
Asked.from_command_line(sys.argv).run()
quarter = len(megabytes) // 4
print(max(megabytes[quarter : 2 * quarter]), max(megabytes[3 * quarter :]))
"""


@pytest.mark.slow
def test_memory_stays_flat_over_two_hundred_trials(asked):
    units = ", ".join(str(one) for one in range(2, 102))
    asked.plan.write_text(PLAN.replace("[2, 4]", f"[{units}]").replace("epochs = 2", "epochs = 1"))
    arguments = (asked.folder, asked.records, asked.plan, asked.storage, 2, 60)
    search = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        env={**os.environ, **asked.environment}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert search.returncode == 0, search.stderr
    assert len(asked.result()["rounds"][0]["trials"]) == 200
    before, after = map(float, search.stdout.split())
    assert after - before < 10
    assert after < 400

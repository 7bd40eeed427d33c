"""The rules that let any number of workers share a round, on real storages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from model.studies.claims import (
    MOST_FRUITLESS,
    Candidate,
    ClaimLost,
    StoredRound,
    Watch,
    _waiting_trial,
    claim,
    offer,
    standings,
)
from model.studies.owners import Owner
from model.studies.storages import open_storage, public_address
from pipeline.errors import UsageError, WorkError

PARAMS = {"conv": 1, "units": 2, "dense": 0, "dropout": 0.0, "growth": 1.0}
PARAMS |= {"learning_rate": 0.001, "batch_size": 16}
FIGURES = {"val_loss": 0.25, "parameters": 7}

CANDIDATES = [
    Candidate(number, f"model-{number}", {**PARAMS, "units": 2 + number}, 0, f"rounds/r/{number}")
    for number in range(3)
]

DIE_IN_A_CLAIM = """
import json, os, signal, sys
from model.studies.claims import StoredRound, claim
from model.studies.owners import Owner
from model.studies.storages import open_storage

stored = StoredRound.open(open_storage(sys.argv[1]), "s/r")
if sys.argv[2] == "between":
    set_attr = stored.storage.set_trial_user_attr
    def stop_at_owner(trial_id, key, value):
        if key == "owner":
            os.kill(os.getpid(), signal.SIGKILL)
        set_attr(trial_id, key, value)
    stored.storage.set_trial_user_attr = stop_at_owner
assert claim(stored, Owner.here())
os.kill(os.getpid(), signal.SIGKILL)
"""

CLAIM_ALL = """
import sys
from model.studies.claims import Candidate, StoredRound, claim, offer
from model.studies.owners import Owner
from model.studies.storages import open_storage
from tests.model.studies.test_claims import FIGURES, PARAMS

stored = StoredRound.open(open_storage(sys.argv[1]), "s/r")
candidates = [Candidate(i, f"m{i}", {**PARAMS, "units": 2 + i}, 0, f"rounds/r/{i}") for i in range(20)]
owner, mine = Owner.here(), []
while True:
    offer(stored, candidates)
    claimed = claim(stored, owner)
    if not claimed:
        break
    mine.append(claimed.candidate.number)
    claimed.complete(FIGURES)
print(*mine)
"""


@pytest.fixture(params=["journal", "sqlite"])
def address(request, tmp_path) -> str:
    if request.param == "journal":
        return str(tmp_path / "storage.journal")
    return f"sqlite:///{tmp_path / 'storage.db'}"


@pytest.fixture
def stored(address) -> StoredRound:
    return StoredRound.open(open_storage(address), "s/r")


def states(stored: StoredRound) -> list[str]:
    return [trial.state.name for trial in stored.trials()]


def test_offering_again_adds_nothing(stored):
    offer(stored, CANDIDATES)
    offer(stored, CANDIDATES)
    assert states(stored) == ["WAITING"] * 3
    assert [one.candidate for one in standings(stored.trials()).values()] == CANDIDATES


def test_a_trial_has_one_owner(stored, address):
    offer(stored, CANDIDATES)
    other = StoredRound.open(open_storage(address), "s/r")
    claims = [claim(stored, Owner.here()), claim(other, Owner.here()), claim(stored, Owner.here())]
    assert [one.candidate.number for one in claims] == [0, 1, 2]
    assert claim(other, Owner.here()) is None


def test_what_is_settled_is_not_offered_again(stored):
    offer(stored, CANDIDATES)
    claim(stored, Owner.here()).complete(FIGURES)
    claim(stored, Owner.here()).fail("NaN")
    claim(stored, Owner.here()).prune(FIGURES, "worse")
    offer(stored, CANDIDATES)
    assert states(stored) == ["COMPLETE", "FAIL", "PRUNED"]
    found = standings(stored.trials()).values()
    assert [(one.state, one.why) for one in found] == [
        ("complete", ""), ("failed", "NaN"), ("pruned", "worse"),
    ]  # fmt: skip
    assert next(iter(found)).figures == FIGURES
    assert stored.study.best_value == 0.25


@pytest.mark.parametrize("first", ["waiting", "running", "complete", "failed"])
def test_a_candidate_offered_twice_is_done_once(stored, first):
    for _ in range(2):  # as two workers do at the same moment
        stored.study.add_trial(_waiting_trial(CANDIDATES[0]))
    if first == "waiting":
        done = [claim(stored, Owner.here())]
    else:
        done = [claim(stored, Owner.here())]
        if first == "complete":
            done[0].complete(FIGURES)
        if first == "failed":
            done[0].fail("NaN")
    assert claim(stored, Owner.here()) is None
    assert stored.trials()[1].user_attrs["outcome"] == "duplicate"
    offer(stored, CANDIDATES[:1])
    assert len(stored.trials()) == 2


def test_an_attempt_after_a_lost_one_is_no_duplicate(stored):
    offer(stored, CANDIDATES[:1])
    claim(stored, Owner.here()).lose("killed")
    offer(stored, CANDIDATES[:1])
    again = claim(stored, Owner.here())
    assert again.candidate == CANDIDATES[0]
    again.complete(FIGURES)
    assert standings(stored.trials())[0].state == "complete"


def test_three_fruitless_attempts_are_a_failure_and_those_with_an_epoch_do_not_count(stored):
    for attempt in range(MOST_FRUITLESS + 2):
        assert standings(stored.trials()).get(0) is None or not standings(stored.trials())[0].state
        offer(stored, CANDIDATES[:1])
        claimed = claim(stored, Owner.here())
        if attempt < 2:
            claimed.advance(1)
        claimed.lose("killed by SIGKILL")
    found = standings(stored.trials())[0]
    assert found.state == "failed"
    assert found.why == "given up after 3 attempts, the last: killed by SIGKILL"
    offer(stored, CANDIDATES[:1])
    assert len(stored.trials()) == MOST_FRUITLESS + 2


@pytest.mark.parametrize("moment", ["after", "between"])
def test_a_dead_owner_on_this_machine_is_noticed_at_once(stored, address, moment):
    offer(stored, CANDIDATES[:1])
    killed = subprocess.run([sys.executable, "-c", DIE_IN_A_CLAIM, address, moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert states(stored) == ["RUNNING"]
    for _ in range(MOST_FRUITLESS + 1):  # however often: it was not the training's fault
        Watch(3600).free_the_lost(stored)
    assert states(stored) == ["FAIL"]
    assert standings(stored.trials())[0].state is None


def test_a_living_owner_is_left_alone(stored):
    offer(stored, CANDIDATES)
    claim(stored, Owner.here()).beat(1)
    Watch(3600).free_the_lost(stored)
    assert states(stored)[0] == "RUNNING"


def test_an_owner_elsewhere_is_given_up_when_its_beat_stands_still(stored):
    offer(stored, CANDIDATES[:2])
    elsewhere = replace(Owner.here(), machine="another", pid=1)
    silent, loud = claim(stored, elsewhere), claim(stored, elsewhere)
    watch = Watch(0.4)
    begun = time.monotonic()
    while time.monotonic() - begun < 1.0:
        loud.beat(int(100 * (time.monotonic() - begun)))
        watch.free_the_lost(stored)
        if time.monotonic() - begun < 0.3:
            assert states(stored) == ["RUNNING", "RUNNING"]
        time.sleep(0.05)
    assert states(stored) == ["FAIL", "RUNNING"]
    assert "not heard of for 0.4 seconds" in stored.trials()[0].user_attrs["why"]
    with pytest.raises(ClaimLost):
        silent.beat(2)
    with pytest.raises(ClaimLost):
        silent.complete(FIGURES)
    assert standings(stored.trials())[0].state is None


def test_four_processes_do_each_candidate_once(tmp_path):
    address = str(tmp_path / "storage.journal")  # SQLite is for one machine that is not in a hurry
    command = [sys.executable, "-c", CLAIM_ALL, address]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    done = [int(number) for one in running for number in one.communicate()[0].split()]
    assert [one.returncode for one in running] == [0] * 4
    assert sorted(done) == list(range(20))


def test_a_half_written_line_costs_itself_only(tmp_path):
    path = tmp_path / "storage.journal"
    stored = StoredRound.open(open_storage(str(path)), "s/r")
    offer(stored, CANDIDATES)
    with path.open("a") as file:
        file.write('{"op_code": 8, "worker_id": "x", "tri')
    again = StoredRound.open(open_storage(str(path)), "s/r")
    claim(again, Owner.here()).complete(FIGURES)
    assert states(stored) == ["COMPLETE", "WAITING", "WAITING"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/db?password=x", "postgresql://host:5432/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("sqlite:////data/study.db", "sqlite:////data/study.db"),
    ],
)
def test_an_address_is_shown_without_user_and_password(address, shown):
    assert public_address(address) == shown


@pytest.mark.parametrize("secret", ["se%2Fcret", "plainsecret"])
def test_no_error_repeats_the_password(secret):
    with pytest.raises(WorkError) as caught:
        open_storage(f"postgresql://me:{secret}@127.0.0.1:9/db?connect_timeout=2")
    text = str(caught.value)
    assert "127.0.0.1:9/db" in text
    assert secret not in text and "se/cret" not in text
    assert caught.value.__cause__ is None


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("one line without an end")
    with pytest.raises(UsageError, match="is no journal"):
        open_storage(str(path))
    assert path.read_text() == "one line without an end"

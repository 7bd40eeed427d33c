"""The rounds of a study, by any number of workers that know each other through the storage only.

Each worker goes the same way: it offers what is missing, takes up what others have lost, does one
trial after another, and leaves a round when every candidate of it is settled. What comes next is a
pure function of what is stored (`model.studies.rounds`), so there is nobody to ask and nothing to lose.
"""

from __future__ import annotations

import fcntl
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import TrainConfig
from model.openings import model_digest
from model.runs import EVALUATION_FILE, WEIGHTS_FILE
from model.studies.board import Board
from model.studies.claims import (
    Candidate,
    Claim,
    ClaimLost,
    Standing,
    StoredRound,
    Watch,
    claim,
    offer,
    standings,
)
from model.studies.costs import count_parameters
from model.studies.folder import COMPLETE, FINAL_LOCK_FILE, RESULT_FILE, StudyOptions
from model.studies.forecast import Expected, seconds_left
from model.studies.owners import Owner
from model.studies.plans import Plan, Round
from model.studies.rounds import (
    Choosing,
    Finalist,
    best,
    choose_winner,
    finalists,
    network_of,
    ranked,
    repeats_round,
    with_repeats,
)
from model.studies.trials import FIGURES, Stopped, Workplace, run_child, run_trial, text_figures
from pipeline.console import clock
from pipeline.errors import WorkError
from pipeline.files import write_json
from pipeline.manifest import Manifest

if TYPE_CHECKING:
    import optuna

_POLL_SECONDS = 1.0
_DRAW_SECONDS = 0.5
_TESTED_KEY = "tested {}"
_TESTED = ("accuracy", "accuracy_interval", "loss", "misclassified", "images")


@dataclass(frozen=True)
class Search:
    """A study that is worked on: what it is, where it is kept, and by which workers of ours."""

    folder: Path
    plan: Plan
    options: StudyOptions
    records: Path
    manifest: Manifest
    storage: optuna.storages.BaseStorage
    name: str
    workplaces: Sequence[Workplace]
    versions: Mapping[str, str]
    board: Board
    expected: Sequence[Expected]
    done: dict[str, list[Standing]] = field(default_factory=dict)

    @property
    def choosing(self) -> Choosing:
        """What all rounds have in common."""
        return Choosing(self.options.seed, self.options.batch_size)

    @property
    def stop(self) -> threading.Event:
        """Set when all workers are to end."""
        return self.workplaces[0].stop

    def open_round(self, one: Round) -> StoredRound:
        """The round in the storage."""
        return StoredRound.open(self.storage, f"{self.name}/{one.slug}")


def run_search(search: Search) -> dict[str, Any]:
    """Do what is still to do of the study; what `result.json` holds in the end.

    Raises WorkError where a round has no result at all, or a finalist cannot be tested.
    """
    before: list[Standing] = []
    rounds = []
    for one in search.plan.rounds:
        before = ranked(_run_round(search, one, before))
        search.done[one.name] = before
        rounds.append(_round_json(search, one, before))
        _mark_chosen(search, rounds)
        _write(search, rounds, {})
        _check_any(one, before)
    chosen = finalists(search.plan.final, search.done)
    repeats = _run_repeats(search, chosen, rounds)
    final = with_repeats(chosen, repeats)
    winner, why = choose_winner(final)
    ending = {"winner": winner.first.candidate.model, "why": why}
    _write(search, rounds, {"finalists": [_finalist_json(one) for one in final], **ending})
    tested = _test(search, final)
    with_tests = [
        _finalist_json(one) | {f"test_{name}": values[name] for name in _TESTED}
        for one, values in zip(final, tested, strict=True)
    ]
    return _write(search, rounds, {"finalists": with_tests, **ending}, finished=True)


def _run_repeats(
    search: Search, chosen: Sequence[Standing], rounds: list[dict[str, Any]]
) -> list[Standing]:
    if not search.options.repeats:
        return []
    again = repeats_round(search.plan)
    candidates = search.choosing.repeats(chosen, search.options.repeats)
    found = ranked(_run_round(search, again, (), candidates))
    rounds.append(_round_json(search, again, found))
    return found


def _check_any(one: Round, found: Sequence[Standing]) -> None:
    if any(standing.state == COMPLETE for standing in found):
        return
    reasons = sorted({standing.why for standing in found})
    raise WorkError(
        f"{one.name}: none of its {len(found)} trainings came to a result; the first reason: "
        f"{reasons[0]}; mend that and begin a new study (--study with another name)"
    )


def _run_round(
    search: Search, one: Round, before: Sequence[Standing],
    candidates: Sequence[Candidate] | None = None,
) -> list[Standing]:  # fmt: skip
    """Work on a round until every candidate is settled, by us or by others."""
    stored = search.open_round(one)
    if candidates is None and not one.sample:
        candidates = search.choosing.candidates(one, before)
    work = _Work(search, one, stored, candidates)
    if not work.is_settled():
        _with_all_workers(search, work)
    return list(standings(stored.trials()).values())


def _with_all_workers(search: Search, work: _Work) -> None:
    """One thread for each worker; the first error, or an interruption, ends them all."""
    with ThreadPoolExecutor(len(search.workplaces), thread_name_prefix="worker") as pool:
        futures = [
            pool.submit(work.go_on, number, place) for number, place in enumerate(search.workplaces)
        ]
        try:
            _wait(futures, search, work)
        except BaseException:
            search.stop.set()
            raise
        finally:
            search.board.clear()
    for future in futures:
        future.result()


def _wait(futures: list[Future[None]], search: Search, work: _Work) -> None:
    while True:
        done, running = wait(futures, timeout=_DRAW_SECONDS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if not running:
            return
        search.board.draw(work.describe)


@dataclass(frozen=True)
class _Work:
    """One round and how far it is. candidates: None where they are sampled."""

    search: Search
    round: Round
    stored: StoredRound
    candidates: Sequence[Candidate] | None

    @property
    def expected(self) -> int:
        """Candidates that it has in the end."""
        return self.round.size if self.candidates is None else len(self.candidates)

    def settled(self) -> int:
        """Candidates that are settled."""
        return sum(bool(one.state) for one in standings(self.stored.trials()).values())

    def is_settled(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return self.settled() >= self.expected

    def describe(self) -> str:
        """A line for the screen."""
        now, study = (seconds / len(self.search.workplaces) for seconds in self._seconds_left())
        return (
            f"{self.round.name}: {self.settled()} of {self.expected} models done, {_clock(now)} left; "
            f"study: {_clock(study)} left"
        )

    def _seconds_left(self) -> tuple[float, float]:
        search, trials = self.search, self.stored.trials()
        settled = [one for one in standings(trials).values() if one.state]
        begun = [
            (trial.params, trial.user_attrs.get("epoch", 0) / self.round.epochs)
            for trial in trials
            if trial.state.name == "RUNNING"
        ]
        done = {**search.done, self.round.name: settled}
        return seconds_left(self._known(), self.round.name, done, begun, search.manifest)

    def _known(self) -> list[Expected]:
        """What was expected, and of this round what is known by now."""
        if self.candidates is None:
            return list(self.search.expected)
        models = tuple(candidate.params for candidate in self.candidates)
        return [
            Expected(one.round, models) if one.round.name == self.round.name else one
            for one in self.search.expected
        ]

    def go_on(self, number: int, place: Workplace) -> None:
        """What one worker does until the round is over."""
        owner, watch = Owner.here(), Watch(place.heartbeat)
        while not place.stop.is_set():
            watch.free_the_lost(self.stored)
            self._offer()
            claimed = claim(self.stored, owner)
            if claimed:
                try:
                    self._train(claimed, str(number), place)
                except Stopped:
                    return
            elif self.is_settled():
                return
            else:
                place.stop.wait(_POLL_SECONDS)

    def _offer(self) -> None:
        if self.candidates is not None:
            offer(self.stored, self.candidates)
            return
        choosing = self.search.choosing
        trials = self.stored.trials()
        known = standings(trials)
        offer(self.stored, [standing.candidate for standing in known.values()])
        missing = [number for number in range(self.round.size) if number not in known]
        if self.round.sample.sampler == "tpe":  # it learns: one at a time
            waiting = any(trial.state.name == "WAITING" for trial in trials)
            missing = [] if waiting else missing[:1]
        for number in missing:
            known_now = list(standings(self.stored.trials()).values())
            offer(self.stored, [choosing.sampled_candidate(self.round, number, known_now)])

    def _train(self, claimed: Claim, worker: str, place: Workplace) -> None:
        search, candidate, one = self.search, claimed.candidate, self.round
        config = _config(search, one, candidate)
        title = f"{one.name}  {candidate.model}"

        def show(row: Mapping[str, float]) -> None:
            search.board.show(
                worker,
                f"{candidate.model}  epoch {int(row['epoch'])}/{one.epochs}  loss {row['loss']:.4f}  "
                f"val_loss {row['val_loss']:.4f}  {row['images_per_second']:,.0f} images/s",
            )

        search.board.show(worker, f"{candidate.model}  starting")
        try:
            run_trial(
                claimed, search.folder / candidate.run, config, search.manifest,
                workplace=place, versions=search.versions, prune=one.prune, epoch_done=show,
            )  # fmt: skip
        except ClaimLost:
            search.board.say(f"{title}: was taken for dead and given to another worker")
            return
        finally:
            search.board.show(worker, "")
        self._say_result(claimed)

    def _name_width(self) -> int:
        """So that figures stand below each other, as far as models are known."""
        known = self.candidates or [
            one.candidate for one in standings(self.stored.trials()).values()
        ]
        return max(len(one.run.rpartition("/")[2]) for one in known)

    def _say_result(self, claimed: Claim) -> None:
        known, candidate = standings(self.stored.trials()), claimed.candidate
        standing = known[candidate.number]
        settled = sum(bool(one.state) for one in known.values())
        what = text_figures(standing.figures) if standing.figures else standing.why or claimed.why()
        state = {None: "will be tried again:", COMPLETE: ""}.get(standing.state, standing.state)
        name = candidate.run.rpartition("/")[2]
        count = f"{settled:>{len(str(self.expected))}} of {self.expected}"
        parts = (self.round.name, count, f"{name:{self._name_width()}}")
        self.search.board.say("  ".join(part for part in (*parts, state, what) if part))


def _clock(seconds: float) -> str:
    return "?" if math.isnan(seconds) else clock(seconds)


def _config(search: Search, one: Round, candidate: Candidate) -> TrainConfig:
    params = candidate.params
    return TrainConfig(
        records=search.records.absolute(),
        network=network_of(params),
        epochs=one.epochs,
        batch_size=int(params["batch_size"]),
        validation_fraction=one.validation_fraction,
        examples=one.examples,
        seed=candidate.seed,
        learning_rate=params["learning_rate"],
        patience=None,
        augment=(),
        precision=search.options.precision,
        devices="one",
        deterministic=search.options.deterministic,
    )


def _test(search: Search, final: Sequence[Finalist]) -> list[dict[str, Any]]:
    """The figures of each finalist on the test split, each opened once: where its weights are.

    They go to the storage, for workers on machines that do not have the folder.
    """
    stored = search.open_round(search.plan.compared)
    with open(search.folder / FINAL_LOCK_FILE, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for one in final:
            if (search.folder / one.first.candidate.run / WEIGHTS_FILE).exists():
                _test_one(search, stored, one.first.candidate)
    return _await_tests(search, stored, [one.first.candidate for one in final])


def _test_one(search: Search, stored: StoredRound, candidate: Candidate) -> None:
    run, share = search.folder / candidate.run, stored.study.set_user_attr
    key = _TESTED_KEY.format(candidate.run)
    # Another machine may have its weights too, and have tested them.
    known = _tested(run) or stored.study.user_attrs.get(key)
    if not known:
        search.board.say(f"testing {candidate.model}")
        status, reason = run_child(
            ("evaluate", "--run", str(run)),
            folder=run,
            workplace=search.workplaces[0],
            beat=lambda count: share(f"testing {candidate.run}", count),
        )
        known = _tested(run)
        if status or not known:
            raise WorkError(
                f"{candidate.model} could not be tested: {reason}; mend that and give the same "
                "command again"
            )
    share(key, known)


def _await_tests(
    search: Search, stored: StoredRound, candidates: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """What all tests came to; those whose weights are on other machines are waited for."""
    heard, since = None, time.monotonic()
    heartbeat = search.workplaces[0].heartbeat
    while True:
        attrs = stored.study.user_attrs
        missing = [one for one in candidates if _TESTED_KEY.format(one.run) not in attrs]
        if not missing:
            return [attrs[_TESTED_KEY.format(one.run)] for one in candidates]
        if attrs != heard:
            heard, since = attrs, time.monotonic()
        if time.monotonic() - since >= heartbeat:
            one = missing[0]
            raise WorkError(
                f"{one.model} is to be tested, its weights are not in {search.folder / one.run}, and "
                f"no other worker was heard of for {heartbeat:g} seconds: give the same command on "
                "the machine that trained it, or put all workers' --study on a shared disk"
            )
        search.stop.wait(_POLL_SECONDS)


def _tested(run: Path) -> dict[str, Any] | None:
    """What the test of this very model came to; None if there was none."""
    try:
        figures = json.loads((run / EVALUATION_FILE).read_text(encoding="utf-8"))
        if figures["opening"]["model"] != model_digest(run / WEIGHTS_FILE):
            return None
        return {name: figures[name] for name in _TESTED}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _round_json(search: Search, one: Round, found: Sequence[Standing]) -> dict[str, Any]:
    trials = search.open_round(one).trials()
    begun = [trial.datetime_start for trial in trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    seconds = (max(ended) - min(begun)).total_seconds() if begun and ended else 0.0
    return {
        "name": one.name,
        "examples": one.examples or search.manifest.splits["train"].records,
        "epochs": one.epochs,
        "validation_fraction": one.validation_fraction,
        "seconds": round(seconds, 1),
        "trials": [_trial_json(search, standing) for standing in found],
        "chosen": [],
    }


def _trial_json(search: Search, standing: Standing) -> dict[str, Any]:
    candidate = standing.candidate
    parameters = count_parameters(network_of(candidate.params), search.manifest.image)
    return {
        "model": candidate.model,
        "run": candidate.run,
        "state": standing.state,
        "why": standing.why,
        **{name: standing.figures.get(name) for name in FIGURES},
        "parameters": parameters,
        "params": dict(candidate.params),
        "seed": candidate.seed,
    }


def _mark_chosen(search: Search, rounds: Sequence[dict[str, Any]]) -> None:
    """Say in each round which of its models went on: into the next round, or into the final."""
    plan = search.plan
    last = len(rounds) == len(plan.rounds)
    final = finalists(plan.final, search.done) if last else []
    for index, values in enumerate(rounds):
        one, found = plan.rounds[index], search.done[values["name"]]
        following = plan.rounds[index + 1].take if index + 1 < len(plan.rounds) else 0
        chosen = [standing.candidate.model for standing in best(found, following)]
        if one.name in plan.final.rounds:
            runs = {standing.candidate.run for standing in final}
            chosen += [s.candidate.model for s in found if s.candidate.run in runs]
        values["chosen"] = list(dict.fromkeys(chosen))


def _finalist_json(one: Finalist) -> dict[str, Any]:
    candidate = one.first.candidate
    return {
        "model": candidate.model,
        "run": candidate.run,
        "parameters": one.first.figures["parameters"],
        "val_loss_mean": one.mean,
        "val_loss_std": one.std,
        "repeats": [repeat.candidate.run for repeat in one.repeats],
        "params": dict(candidate.params),
    }


def _write(
    search: Search, rounds: Sequence[dict[str, Any]], ending: Mapping[str, Any], *,
    finished: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write `result.json`: of what is known."""
    result = {"finished": finished, "rounds": list(rounds), "finalists": [], "winner": None}
    result |= {"why": "", **ending}
    write_json(search.folder / RESULT_FILE, result)
    return result

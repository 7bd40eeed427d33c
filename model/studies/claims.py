"""Which trials of a round are to do, in hand, or done: any number of workers, none of them in charge.

A round is an Optuna study; what is to be trained is a *candidate*, known by its number. A candidate
may have several trials in the storage, one for each attempt; these rules make it come out once:

- every worker offers what is missing (a trial in the state WAITING). Two may do so at once, so a
  claimed trial whose candidate has an earlier one that did not fail is told to be a duplicate;
- who changes a trial from WAITING to RUNNING owns it: the storage lets one only;
- the owner counts up a beat. A trial whose owner is dead, or whose beat stands still, is set to
  FAIL, and so its candidate is offered again. The former owner, should it wake up, is refused;
- an attempt that was lost without finishing an epoch counts; after `MOST_FRUITLESS` of them the
  candidate has failed. A training that ends itself with an error has failed at once. An attempt whose
  owner died on this machine does not count: whoever is here has begun the work again on purpose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model.studies.folder import COMPLETE, FAILED, PRUNED
from model.studies.owners import Owner
from model.studies.plans import HYPERPARAMETERS

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

MOST_FRUITLESS = 3

_LOST, _DUPLICATE, _STOPPED = "lost", "duplicate", "stopped"
_ASKED_BY = "asked by "


@dataclass(frozen=True)
class Candidate:
    """One training of a round: its number there, what is trained, and its folder within the study."""

    number: int
    model: str
    params: Mapping[str, float]
    seed: int
    run: str


@dataclass(frozen=True)
class StoredRound:
    """A round in the storage."""

    storage: optuna.storages.BaseStorage
    study: optuna.Study
    study_id: int

    @classmethod
    def open(cls, storage: optuna.storages.BaseStorage, name: str) -> StoredRound:
        """The round of that name, made if need be; workers may do so at once."""
        import optuna

        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: we say what is tried
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
        )
        return cls(storage, study, storage.get_study_id_from_name(name))

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number. Not to be changed."""
        return self.storage.get_all_trials(self.study_id, deepcopy=False)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker owns. Every method raises `ClaimLost` if others have given it away."""

    round: StoredRound
    candidate: Candidate
    trial_id: int

    def _take(self, owner: Owner) -> bool:
        """Whether `owner` is now the owner."""
        from optuna.trial import TrialState

        set_attr = self.round.storage.set_trial_user_attr
        # Before, as a worker may be killed between the two: so its death can be seen.
        set_attr(self.trial_id, f"{_ASKED_BY}{owner.id}", owner.to_json())
        if not self.round.storage.set_trial_state_values(self.trial_id, TrialState.RUNNING):
            return False
        set_attr(self.trial_id, "owner", owner.id)
        return True

    def _end_if_duplicate(self, number: int) -> bool:
        """End it if its candidate is settled, or has an earlier attempt that may settle it."""
        trials = self.round.trials()
        settled = standings(trials)[self.candidate.number].state
        earlier = any(
            trial.user_attrs["candidate"] == self.candidate.number
            and not trial.state.is_finished()
            and trial.number < number
            for trial in trials
        )
        if settled or earlier:
            self._end(_DUPLICATE, "duplicate")
        return bool(settled or earlier)

    def beat(self, count: int) -> None:
        """Say that the work goes on."""
        self._update(lambda: self.round.storage.set_trial_user_attr(self.trial_id, "beat", count))

    def report(self, epoch: int, value: float) -> None:
        """The validation loss after an epoch, counted from 1."""
        self._update(
            lambda: self.round.storage.set_trial_intermediate_value(self.trial_id, epoch, value)
        )

    def advance(self, epoch: int) -> None:
        """An epoch, counted from 1, was finished in this attempt."""
        self._update(lambda: self.round.storage.set_trial_user_attr(self.trial_id, "epoch", epoch))

    def should_prune(self) -> bool:
        """Whether the trial does worse than the median of the others at the same epoch."""
        trial = self.round.storage.get_trial(self.trial_id)
        return self.round.study.pruner.prune(self.round.study, trial)

    def complete(self, figures: Mapping[str, Any]) -> None:
        """It is trained; `figures` have a `val_loss`."""
        self._end(COMPLETE, "", figures, [figures["val_loss"]])

    def prune(self, figures: Mapping[str, Any], why: str) -> None:
        """It was ended early."""
        self._end(PRUNED, why, figures, [figures["val_loss"]])

    def fail(self, why: str) -> None:
        """It cannot be trained."""
        self._end(FAILED, why)

    def lose(self, why: str) -> None:
        """The attempt came to nothing; another may do better."""
        self._end(_LOST, why)

    def give_up(self) -> None:
        """The worker is being stopped; the attempt does not count."""
        self._end(_STOPPED, "stopped")

    def why(self) -> str:
        """Why this attempt came to nothing; empty if it did not."""
        return self.round.storage.get_trial(self.trial_id).user_attrs.get("why", "")

    def _end(
        self, outcome: str, why: str, figures: Mapping[str, Any] | None = None,
        values: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        set_attr = self.round.storage.set_trial_user_attr
        self._update(lambda: set_attr(self.trial_id, "figures", dict(figures or {})))
        self._update(lambda: set_attr(self.trial_id, "why", why))
        self._update(lambda: set_attr(self.trial_id, "outcome", outcome))
        state = _state_of(outcome)
        self._update(
            lambda: self.round.storage.set_trial_state_values(self.trial_id, state, values)
        )

    def _update(self, update: Callable[[], object]) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            update()
        except UpdateFinishedTrialError:
            raise ClaimLost(self.candidate.run) from None


class ClaimLost(Exception):
    """Another worker took this one for dead and has given its trial to somebody else."""


@dataclass(frozen=True)
class Standing:
    """How it stands with one candidate: `state` None while it is still to do or in hand."""

    candidate: Candidate
    state: str | None
    why: str
    figures: Mapping[str, Any]


def standings(trials: Iterable[FrozenTrial]) -> dict[int, Standing]:
    """Each candidate that was ever offered, by number."""
    by_candidate: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        by_candidate.setdefault(trial.user_attrs["candidate"], []).append(trial)
    return {number: _standing(some) for number, some in sorted(by_candidate.items())}


def _standing(trials: Sequence[FrozenTrial]) -> Standing:
    """Of one candidate, its trials in order."""
    candidate = candidate_of(trials[0])
    for trial in trials:
        outcome = trial.user_attrs.get("outcome")
        if trial.state.is_finished() and outcome in (COMPLETE, PRUNED, FAILED):
            attrs = trial.user_attrs
            return Standing(candidate_of(trial), outcome, attrs["why"], attrs["figures"])
    fruitless = [trial for trial in trials if _is_fruitless(trial)]
    if len(fruitless) >= MOST_FRUITLESS and all(trial.state.is_finished() for trial in trials):
        why = (
            f"given up after {len(fruitless)} attempts, the last: {fruitless[-1].user_attrs['why']}"
        )
        return Standing(candidate, FAILED, why, {})
    return Standing(candidate, None, "", {})


def _is_fruitless(trial: FrozenTrial) -> bool:
    """Whether an attempt was lost, by no choice of a person, before it had finished an epoch."""
    attrs = trial.user_attrs
    return attrs.get("outcome") == _LOST and "epoch" not in attrs


def candidate_of(trial: FrozenTrial) -> Candidate:
    """The candidate that a trial is an attempt at."""
    attrs = trial.user_attrs
    return Candidate(
        attrs["candidate"], attrs["model"], dict(trial.params), attrs["seed"], attrs["run"]
    )


def offer(stored: StoredRound, candidates: Iterable[Candidate]) -> None:
    """Make a waiting trial of each candidate that has neither a result nor an attempt under way."""
    trials = stored.trials()
    known = standings(trials)
    in_hand = {trial.user_attrs["candidate"] for trial in trials if not trial.state.is_finished()}
    for candidate in candidates:
        settled = candidate.number in known and known[candidate.number].state
        if not settled and candidate.number not in in_hand:
            stored.study.add_trial(_waiting_trial(candidate))


def _waiting_trial(candidate: Candidate) -> FrozenTrial:
    import optuna

    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.WAITING,
        params=dict(candidate.params),
        distributions={name: distribution(name) for name in candidate.params},
        user_attrs={
            "candidate": candidate.number,
            "model": candidate.model,
            "seed": candidate.seed,
            "run": candidate.run,
        },
    )


def distribution(name: str) -> BaseDistribution:
    """All that a hyper-parameter may be: the same for every trial, so that all go into one study."""
    from optuna.distributions import FloatDistribution, IntDistribution

    kind, least, most, log = HYPERPARAMETERS[name]
    if kind is int:
        return IntDistribution(int(least), int(most))
    return FloatDistribution(least, most, log=log)


def claim(stored: StoredRound, owner: Owner) -> Claim | None:
    """The first waiting trial that is no duplicate, now owned by `owner`; None if there is none."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    for trial in stored.trials():
        if trial.state != TrialState.WAITING:
            continue
        with suppress(UpdateFinishedTrialError, ClaimLost):  # others were quicker
            claimed = Claim(stored, candidate_of(trial), trial._trial_id)
            if claimed._take(owner) and not claimed._end_if_duplicate(trial.number):
                return claimed
    return None


@dataclass
class Watch:
    """Sees when the owners of other trials fall silent, by this process's own clock."""

    heartbeat: float
    _heard: dict[int, tuple[Any, float]] = field(default_factory=dict)

    def free_the_lost(self, stored: StoredRound) -> None:
        """Set every running trial to FAIL whose owner is dead, or silent for `heartbeat` seconds."""
        from optuna.trial import TrialState

        for trial in stored.trials():
            if trial.state != TrialState.RUNNING:
                self._heard.pop(trial._trial_id, None)
                continue
            abandoned = Claim(stored, candidate_of(trial), trial._trial_id)
            with suppress(ClaimLost):  # another worker was quicker
                if _owners_are_dead(trial):
                    abandoned._end(_STOPPED, "its worker was killed")
                elif self._is_silent(trial):
                    abandoned.lose(f"its worker was not heard of for {self.heartbeat:g} seconds")

    def _is_silent(self, trial: FrozenTrial) -> bool:
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        last, since = self._heard.get(trial._trial_id, (None, 0.0))
        if trial._trial_id not in self._heard or last != beat:
            self._heard[trial._trial_id] = (beat, now)
            return False
        return now - since >= self.heartbeat


def _owners_are_dead(trial: FrozenTrial) -> bool:
    attrs = trial.user_attrs
    asked = [Owner(**value) for key, value in attrs.items() if key.startswith(_ASKED_BY)]
    owners = [one for one in asked if one.id == attrs.get("owner")] or asked
    return bool(owners) and all(one.is_dead() for one in owners)


def _state_of(outcome: str) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    return {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}.get(outcome, TrialState.FAIL)

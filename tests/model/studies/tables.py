"""What several tests say of studies."""

from __future__ import annotations

from typing import Any

_OF_A_TRIAL = ("model", "run", "state", "why", "val_loss", "val_accuracy", "params", "seed")


def final_table(result: dict[str, Any]) -> list[Any]:
    """What must be the same however often a study was killed: all but the times."""
    rounds = [
        (one["name"], one["chosen"], [[t[name] for name in _OF_A_TRIAL] for t in one["trials"]])
        for one in result["rounds"]
    ]
    return [rounds, result["finalists"], result["winner"], result["why"], result["finished"]]

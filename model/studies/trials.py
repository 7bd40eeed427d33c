"""One trial: a training in a process of its own, followed epoch by epoch, and what came of it.

The run folder is an ordinary one of `model.train`. A training that was cut off goes on from its
checkpoint there, whoever takes it up. Nothing a training does, crash or exhaust the memory, reaches
the search.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from model.history import best_of, read_epochs
from model.runs import (
    CONFIG_FILE,
    TENSORBOARD_FOLDER,
    config_json,
    finished_result,
)
from model.studies.claims import Claim, ClaimLost
from model.studies.costs import count_parameters
from model.studies.folder import usable_cores
from model.studies.hparams import write_hparams
from pipeline.errors import WorkError, printable
from pipeline.files import write_json
from pipeline.manifest import Manifest

CHILD = (sys.executable, "-u", "-m", "model.studies.child")
LOG_FILE = "trial.log"
FIGURES = (
    *("parameters", "epochs", "best_epoch", "val_loss", "val_accuracy", "seconds"),
    "images_per_second",
)

_BEATS_PER_HEARTBEAT = 6
_LONGEST_REASON = 300
_ASKED_TO_STOP = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 130)


def _ignore(_: object) -> None:
    """Nothing to do."""


class Stopped(Exception):
    """The search is being stopped: what runs is left as it is."""


@dataclass(frozen=True)
class Workplace:
    """What a worker works with.

    child: the command that does the work, arguments follow; heartbeat: seconds of silence after which
    others take a worker for dead; stop: set when all is to end.
    """

    child: Sequence[str]
    environment: Mapping[str, str]
    heartbeat: float
    stop: threading.Event


def run_trial(
    claim: Claim, folder: Path, config: TrainConfig, manifest: Manifest, *,
    workplace: Workplace, versions: Mapping[str, str], prune: bool,
    epoch_done: Callable[[dict[str, float]], None],
) -> None:  # fmt: skip
    """Train what `claim` holds in `folder`, and settle the claim.

    epoch_done: takes a row of `history.csv` after each epoch. Raises Stopped; ClaimLost where another
    worker has taken the trial; OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG_FILE).exists():
        write_json(folder / CONFIG_FILE, config_json(config, manifest, dict(versions)))
    params = claim.candidate.params
    write_hparams(folder / TENSORBOARD_FOLDER, params, name=claim.candidate.run)
    follower = _Follower(claim, folder, prune=prune, epoch_done=epoch_done)
    status, reason = 0, ""
    if finished_result(folder) is None:
        arguments = ("train", "--run", str(folder), "--resume")
        try:
            status, reason = run_child(
                arguments, folder=folder, workplace=workplace, line=follower.line, beat=claim.beat
            )
        except _Pruned as pruned:
            parameters = count_parameters(config.network, manifest.image)
            claim.prune(follower.figures(parameters), str(pruned))
            return
        except ClaimLost:
            raise
        except Exception:  # whoever goes on may have the trial at once
            claim.give_up()
            raise
    _settle(claim, status, reason, folder)


def run_child(
    arguments: Sequence[str], *, folder: Path, workplace: Workplace,
    line: Callable[[str], None] = _ignore, beat: Callable[[int], None] = _ignore,
) -> tuple[int, str]:  # fmt: skip
    """Do the work in a process of its own; its exit status, and its reason if that is not 0.

    line: takes each line of its output; beat: called now and then with a growing number. What either
    raises ends the process. Raises Stopped.
    """
    log = folder / LOG_FILE
    before = log.stat().st_size if log.exists() else 0
    with _started([*workplace.child, *arguments], log, workplace.environment) as process:
        status = _follow(process, workplace, line=line, beat=beat)
    return status, _reason(status, log, before) if status else ""


@contextmanager
def _started(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen]:
    """A process that is killed if the block ends before it; it cannot outlive us (see `child`)."""
    with (
        open(log, "ab") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for us: a training is ended, not told to end
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _follow(
    process: subprocess.Popen, workplace: Workplace, *,
    line: Callable[[str], None], beat: Callable[[int], None],
) -> int:  # fmt: skip
    count, due, rest = 0, time.monotonic(), b""
    while True:
        if workplace.stop.is_set():
            raise Stopped
        if time.monotonic() >= due:
            count += 1
            beat(count)
            due = time.monotonic() + workplace.heartbeat / _BEATS_PER_HEARTBEAT
        if not select.select([process.stdout], [], [], 0.2)[0]:
            continue
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            return process.wait()
        *lines, rest = (rest + data).split(b"\n")
        for text in lines:
            line(text.decode(errors="replace"))


def _reason(status: int, log: Path, start: int) -> str:
    """Why a process failed, in a line: what it said, or what ended it."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as by a system that is out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    with open(log, "rb") as file:
        file.seek(start)
        lines = [one for one in file.read().decode(errors="replace").splitlines() if one.strip()]
    said = [one.removeprefix("error: ") for one in lines if one.startswith("error: ")]
    raised = [one for one in lines if re.match(r"[\w.]+(Error|Exception)\b", one)]
    last = (said or raised or lines or [f"ended with exit status {status}, without a word"])[-1]
    return printable(last)[:_LONGEST_REASON]


class _Pruned(Exception):
    """The training does worse than the median of the others."""


class _Follower:
    """Reads `history.csv` after each epoch that a training says it has finished."""

    def __init__(
        self, claim: Claim, folder: Path, *, prune: bool,
        epoch_done: Callable[[dict[str, float]], None],
    ) -> None:  # fmt: skip
        self._claim, self._prune, self._epoch_done = claim, prune, epoch_done
        self._folder = folder
        self._rows: list[dict[str, float]] = []

    def line(self, text: str) -> None:
        """A line of the training's output. Raises _Pruned."""
        if not text.startswith("epoch "):
            return
        rows = read_epochs(self._folder)
        self._claim.advance(len(rows))
        for row in rows[len(self._rows) :]:  # after a resumption: those of before as well
            self._rows.append(row)
            self._claim.report(int(row["epoch"]), row["val_loss"])
            if self._prune and self._claim.should_prune():
                raise _Pruned(f"worse than the median after epoch {len(self._rows)}")
        self._epoch_done(self._rows[-1])

    def figures(self, parameters: int) -> dict[str, float]:
        """What the epochs so far came to."""
        return {"parameters": parameters, **best_of(self._rows)}


def _settle(claim: Claim, status: int, reason: str, folder: Path) -> None:
    if status in _ASKED_TO_STOP:
        claim.give_up()
    elif status < 0:
        claim.lose(reason)
    elif status:
        claim.fail(reason)
    else:
        result = finished_result(folder)
        if result is None:
            raise WorkError(f"{folder}: the training ended without a result")
        claim.complete({name: result[name] for name in FIGURES})


def worker_environments(workers: int, *, given: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment of each worker's trainings: cores shared evenly, GPUs in turn.

    One worker alone gets `given` as it is, but for what makes its output readable.
    """
    gpus = _visible_gpus(given)
    threads = str(max(1, usable_cores() // workers))
    environments = []
    for worker in range(workers):
        environment = dict(given)
        if workers > 1:
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
                environment.setdefault(name, threads)
        if workers > 1 and gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # two may meet on one GPU
        environments.append(environment)
    return environments


def _visible_gpus(given: Mapping[str, str]) -> list[str]:
    """Numbers of the GPUs that a training would see; found without TensorFlow."""
    if "CUDA_VISIBLE_DEVICES" in given:
        return [one for one in given["CUDA_VISIBLE_DEVICES"].split(",") if one and one != "-1"]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def text_figures(figures: Mapping[str, Any]) -> str:
    """A finished trial's figures for a line on a screen."""
    return (
        f"val_loss {figures['val_loss']:.5f}  val_accuracy {figures['val_accuracy']:.5f}  "
        f"best epoch {figures['best_epoch']} of {figures['epochs']}  {figures['seconds']:.1f} s  "
        f"{figures['images_per_second']:,.0f} images/s"
    )

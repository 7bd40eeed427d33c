"""The folder of a study: what was asked, what is known so far, and where the runs are.

study.json        plan, options, records, versions, machine; written first
storage.journal   trials, for Optuna and its dashboard, unless --storage names another place
rounds/ROUND/MODEL[-seed-N]/   run folders of `model.train`
result.json       rounds, trials, finalists, winner: written after each round and at the end
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from model.config import PRECISIONS
from model.studies.plans import Plan, slug
from pipeline import __version__
from pipeline.errors import UsageError
from pipeline.files import write_json
from pipeline.manifest import Manifest

STUDY_FILE = "study.json"
RESULT_FILE = "result.json"
JOURNAL_FILE = "storage.journal"
FINAL_LOCK_FILE = "final.lock"
ROUNDS_FOLDER = "rounds"

_MEND = "remove it and run the same search again"

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
"""What became of a trial, in `result.json`."""


@dataclass(frozen=True)
class StudyOptions:
    """What decides the result of a study, beside its plan and its records."""

    seed: int
    repeats: int
    examples_scale: float
    epochs_scale: float
    deterministic: bool
    precision: str
    batch_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed: must be from 0 to {2**32 - 1}, received {self.seed}")
        if self.repeats < 0:
            raise UsageError(f"--repeats: must be at least 0, received {self.repeats}")
        if self.batch_size < 1:
            raise UsageError(f"--batch_size: must be at least 1, received {self.batch_size}")
        for name in ("examples_scale", "epochs_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(
                    f"--{name}: must be above 0 and at most 1, received {getattr(self, name)}"
                )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"--precision: must be one of {', '.join(PRECISIONS)}, received {self.precision!r}"
            )


def study_id(folder: Path, plan: Plan, manifest: Manifest, options: StudyOptions) -> str:
    """The study's name in a storage: the same on every machine that runs the same command.

    It changes with everything that decides the result, so that no storage mixes two studies.
    """
    decisive = [plan.text, manifest.digest, asdict(options)]
    digest = hashlib.blake2b(json.dumps(decisive).encode(), digest_size=6).hexdigest()
    return f"{slug(folder.absolute().name) or 'study'}-{digest}"


def begin_study(
    folder: Path, plan: Plan, records: Path, manifest: Manifest, options: StudyOptions, *,
    storage: str | None, scaled: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What `study.json` holds, written now if it is not there.

    storage: its public address, None for the journal in the folder. Raises UsageError if the folder
    holds another study, or something else.
    """
    asked = {
        "plan": plan.text,
        "records_digest": manifest.digest,
        "options": asdict(options),
        "storage": storage,
    }
    there = read_study(folder)
    if there is not None:
        _check_same(folder, there, asked)
        return there
    if folder.exists() and not _is_free(folder):
        raise UsageError(f"--study: {folder} is there and no study; give another name")
    image = {**asdict(manifest.image), "digest": manifest.image.digest}
    study = {
        **asked,
        "plan_name": plan.name,
        "records": str(records.absolute()),
        "classes": list(manifest.classes),
        "image": image,
        "notice": manifest.source.get("notice", ""),
        "scaled": dict(scaled),
        "versions": versions(),
        "machine": machine(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STUDY_FILE, study)
    return study


def _is_free(folder: Path) -> bool:
    """Whether nothing is in it but what a killed process had begun to write."""
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def read_study(folder: Path) -> dict[str, Any] | None:
    """What `study.json` holds; None if there is none. Raises UsageError if it is damaged."""
    return read_object(folder / STUDY_FILE)


def read_result(folder: Path) -> dict[str, Any] | None:
    """What `result.json` holds; None if there is none. Raises UsageError if it is damaged."""
    return read_object(folder / RESULT_FILE)


def read_object(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if there is none. Raises UsageError if it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UsageError(f"--study: {path} is damaged ({error}); {_MEND}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--study: {path} is damaged (no JSON object); {_MEND}")
    return values


def _check_same(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UsageError unless the study in `folder` is the one that is asked for."""
    what = {
        "plan": "another plan",
        "records_digest": "other records",
        "storage": "another --storage",
    }
    for name, meaning in what.items():
        if there.get(name) != asked[name]:
            shown = "" if name == "plan" else f": {there.get(name)}, received {asked[name]}"
            raise UsageError(
                f"--study: {folder} holds a study with {meaning}{shown}; give the same again to go "
                "on with it, or another folder"
            )
    before, now = there.get("options") or {}, asked["options"]
    for name in now:
        if before.get(name) != now[name]:
            raise UsageError(
                f"--study: {folder} holds a study with --{name} {before.get(name)}, received "
                f"{now[name]}; give the same again to go on with it, or another folder"
            )


def versions() -> dict[str, str]:
    """Versions that a result may depend on; none of the packages is loaded for that."""
    found = {"inkling": __version__, "python": platform.python_version()}
    for name in ("keras", "tensorflow", "optuna", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine we are on: cores to use, processor, memory in GB, GPUs."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": usable_cores(),
        "processor": _processor(),
        "memory_gb": round(pages / 1e9, 1),
        "gpus": _gpus(),
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]

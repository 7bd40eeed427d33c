"""`openings.jsonl` in the folder of a data set: how often its test split has been opened, and by whom.

A figure from the test split is worth the less, the more models were tried on it. So `model.evaluate`
adds a line before it reads the first test image: an opening that failed counts. An opening belongs to
one build of the data set; where another build has taken the folder, counting begins anew, and the old
lines stay.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import WorkError, describe_os_error, printable
from pipeline.files import file_sha256

OPENINGS_FILE = "openings.jsonl"


@dataclass(frozen=True)
class Opening:
    """One line of the file.

    time: UTC, ISO 8601; records_digest: of the data set; number: counted from 1 for that data set;
    model: see `model_digest`; run: its folder.
    """

    time: str
    records_digest: str
    number: int
    model: str
    run: str


def record_opening(
    records: Path, *, records_digest: str, model: str, run: Path
) -> tuple[Opening, int]:
    """Record that `model` is about to be tested; the opening, and how many other models were before.

    Openings at the same time get different numbers. Raises WorkError where it cannot be recorded.
    """
    path = records / OPENINGS_FILE
    try:
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            file.seek(0)
            text = file.read()
            earlier = [one for one in _parse(text, path) if one.records_digest == records_digest]
            opening = Opening(
                time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                records_digest=records_digest,
                number=len(earlier) + 1,
                model=model,
                run=printable(str(run)),
            )
            line = json.dumps(asdict(opening), ensure_ascii=False) + "\n"
            new_line = "" if text.endswith(b"\n") or not text else "\n"
            _append(file, (new_line + line).encode())
    except OSError as error:
        raise WorkError(
            f"the opening of the test split cannot be recorded: {describe_os_error(error)}; it is "
            f"opened only where that can be: make {records} writable, or test on a copy of it"
        ) from error
    return opening, len({one.model for one in earlier} - {model})


def _parse(text: bytes, path: Path) -> list[Opening]:
    openings = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            openings.append(Opening(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise WorkError(
                f"{path}: line {number} is damaged, so the openings cannot be counted; mend the line"
            ) from error
    return openings


def _append(file: BinaryIO, line: bytes) -> None:
    """Add `line`, all of it or nothing: a disk that fills up takes the first part of it."""
    end = file.seek(0, os.SEEK_END)
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


def model_digest(weights: Path) -> str:
    """Names a model: the first 16 hexadecimal digits of the sha256 of its weights. Raises OSError."""
    return file_sha256(weights)[:16]


def describe_opening(number: int, other_models: int) -> str:
    """`opening 3 of this test split; 2 other models were tested on it before`."""
    others = {0: "no other model was", 1: "1 other model was"}
    were = others.get(other_models, f"{other_models:,} other models were")
    return f"opening {number:,} of this test split; {were} tested on it before"

"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

BUFFER_BYTES = 1 << 20


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends, and vanishes if it raises.

    Two attempts at one file may run at once: each has a temporary name of its own.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb", buffering=BUFFER_BYTES) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written by `write_aside`, in `folder` and below."""
    for leftover in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{32}\.tmp", leftover.name):
            leftover.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8. Raises OSError."""
    with write_aside(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON. Raises OSError."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write `values` as JSON Lines. Raises OSError."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def file_sha256(path: Path) -> str:
    """sha256 of a file, hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
    return digest.hexdigest()

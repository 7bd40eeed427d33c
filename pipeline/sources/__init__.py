"""Where images come from. A source lists its files and reads one of them; it never decodes.

`open_source` is the one place that knows which `--input` is which.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pipeline.console import Progress
from pipeline.errors import UsageError


class Source(Protocol):
    """A frozen dataclass, so that it can travel to a worker."""

    @property
    def uri(self) -> str:
        """What the user wrote, for messages and the manifest."""

    def list(self) -> Iterator[tuple[str, int]]:
        """(key, bytes) of every file, in any order; a folder without files as (`path/`, 0)."""

    def read(self, key: str) -> bytes:
        """One file. Raises ImageRejected (this file is bad) or WorkError (the input is)."""


def open_source(uri: str, *, seed: int) -> Source:
    """The source that `uri` names: a folder, a .zip, `sample:N`, or `kaggle:owner/dataset`.

    A Kaggle archive is downloaded first, unless it lies in the cache. Raises UsageError, or WorkError
    where it cannot be had.
    """
    from pipeline.sources.archive import ZipSource
    from pipeline.sources.folder import FolderSource
    from pipeline.sources.sample import parse_sample

    if uri.startswith("sample:"):
        return parse_sample(uri, seed)
    if uri.startswith("kaggle:"):
        return ZipSource(uri, str(_fetch_from_kaggle(uri)))
    if "://" in uri:
        raise UsageError(
            f"--input: cannot read {uri.split('://', maxsplit=1)[0]}:// yet, received {uri}; "
            "give a folder, a .zip, sample:N or kaggle:owner/dataset"
        )
    path = Path(os.path.abspath(os.path.expanduser(uri)))
    if path.is_dir():
        return FolderSource(uri, str(path))
    if path.is_file() and path.suffix.lower() == ".zip":
        return ZipSource(uri, str(path))
    found = "a file that is no .zip" if path.exists() else "nothing there"
    raise UsageError(
        f"--input: expected a folder of images, or a .zip of one; found {found}: {uri}"
    )


def _fetch_from_kaggle(uri: str) -> Path:
    from pipeline.sources.kaggle import fetch, parse_kaggle

    state = {"done": 0, "total": 0}  # bytes

    def note(done: int, total: int | None) -> None:
        state.update(done=done, total=total or 0)

    dataset = parse_kaggle(uri)
    done, total = (lambda: state["done"] // 10**6), (lambda: state["total"] // 10**6)
    with Progress(done, total=total, unit="MB"):
        return fetch(dataset, progress=note)

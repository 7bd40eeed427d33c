"""A folder of images on a disk that can be walked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import ImageRejected, WorkError, describe_os_error
from pipeline.listing import MAX_FILE_BYTES


@dataclass(frozen=True)
class FolderSource:
    """`uri` as the user wrote it; `root` absolute, so that a worker elsewhere finds it."""

    uri: str
    root: str

    def list(self) -> Iterator[tuple[str, int]]:
        """Every regular file below the folder, links followed, loops ended; empty folders too."""
        yield from self._walk("", frozenset())

    def _walk(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
        path = os.path.join(self.root, folder)
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link back to a folder that we stand in
            return
        empty = True
        with os.scandir(path) as entries:
            for entry in entries:
                empty = False
                name = folder + _text(entry.name)
                if entry.is_dir():
                    yield from self._walk(folder + entry.name + "/", above | {here})
                elif entry.is_file():
                    yield name, entry.stat().st_size
                elif entry.is_symlink():  # it points nowhere: let `read` say so
                    yield name, 0
        if empty and folder:
            yield _text(folder), 0

    def read(self, key: str) -> bytes:
        """The bytes of one file. Raises ImageRejected, or WorkError if a listed file is gone."""
        path = os.path.join(self.root, key)
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size  # reading up to a limit would map that much
                data = file.readall() if size <= MAX_FILE_BYTES else None
        except FileNotFoundError:
            if os.path.islink(path):
                raise ImageRejected("unreadable", "a link that points nowhere") from None
            if "\\x" in key:
                raise ImageRejected("bad-name", "the file's name is not UTF-8") from None
            raise WorkError(
                f"the input changed during the build: {key} was listed and is gone from "
                f"{self.uri}; restore it, or build again from what is there"
            ) from None
        except OSError as error:
            raise ImageRejected("unreadable", describe_os_error(error)) from error
        if data is None:
            raise ImageRejected("too-large", f"the file has {size} bytes")
        return data


def _text(name: str) -> str:
    """`name` as UTF-8 can hold it, bytes that are none escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

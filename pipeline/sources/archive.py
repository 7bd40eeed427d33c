"""A .zip read member by member; nothing is ever extracted."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.errors import ImageRejected, WorkError, describe_os_error
from pipeline.listing import MAX_FILE_BYTES

_ENCRYPTED = 0x1


@dataclass(frozen=True)
class ZipSource:
    """`uri` as the user wrote it; `path` absolute, so that a worker elsewhere finds it."""

    uri: str
    path: str

    def list(self) -> Iterator[tuple[str, int]]:
        """Every member; a name that stands twice comes twice. WorkError if this is no whole zip."""
        for member in self._open().infolist():
            yield member.filename, member.file_size

    def read(self, key: str) -> bytes:
        """The bytes of one member, its CRC checked. Raises ImageRejected or WorkError."""
        archive = self._open()
        try:
            member = archive.getinfo(key)
        except KeyError:
            raise WorkError(
                f"the input changed during the build: {key} is no longer in {self.uri}"
            ) from None
        _check_member(member)
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ImageRejected("unreadable", f"damaged in the zip: {error}") from error
        except (NotImplementedError, RuntimeError) as error:
            raise ImageRejected("unsupported", f"in the zip: {error}") from error
        except OSError as error:
            raise ImageRejected("unreadable", describe_os_error(error)) from error

    def _open(self) -> zipfile.ZipFile:
        try:
            status = os.stat(self.path)
            return _open_archive(self.path, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            raise WorkError(f"the input vanished during the build: {self.uri}") from None
        except zipfile.BadZipFile as error:
            raise WorkError(
                f"--input: {self.uri} is no whole zip ({error}); download or pack it again"
            ) from error


@functools.lru_cache(maxsize=4)  # one open archive serves every thread of a worker
def _open_archive(path: str, mtime_ns: int, size: int) -> zipfile.ZipFile:
    del mtime_ns, size  # they only tell one state of the file from another
    return zipfile.ZipFile(path)


def _check_member(member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
        raise ImageRejected("bad-name", "the member's name leaves the archive")
    if member.flag_bits & _ENCRYPTED:
        raise ImageRejected("encrypted", "the member needs a password")
    if member.file_size > MAX_FILE_BYTES:
        raise ImageRejected("too-large", f"the member has {member.file_size} bytes")

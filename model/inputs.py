"""The image files that a person names: files, and folders walked as the build walks them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from pipeline.errors import ImageRejected
from pipeline.listing import IMAGE_SUFFIXES, MAX_FILE_BYTES, is_junk


def find_images(named: Iterable[str]) -> list[str]:
    """Paths of image files: each file of `named` as it is, each folder's images in sorted order.

    In folders, hidden and system files and other suffixes are passed over; links are followed, loops
    ended. Raises OSError for a folder that cannot be listed.
    """
    paths = []
    for path in named:
        paths += _walk(path, frozenset()) if os.path.isdir(path) else [path]
    return paths


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link back to a folder that we stand in
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if is_junk(name):
            continue
        if os.path.isdir(path):
            yield from _walk(path, above | {here})
        elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            yield path


def read_image_file(path: str) -> bytes:
    """The bytes of one file. Raises ImageRejected with reason missing, unreadable or too-large."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise ImageRejected("unreadable", "not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageRejected("too-large", f"the file has {status.st_size:,} bytes")
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        raise ImageRejected("missing", "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageRejected("unreadable", what or type(error).__name__) from error

"""Which files of a source are images, and of which class: names only, nothing is opened."""

from __future__ import annotations

import difflib
import functools
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.schema import Item, check_class_names

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)
MAX_FILE_BYTES = 256 << 20
"""A file above this is refused unread: no image that we decode is as large."""

_JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class Listing:
    """The labelled images of a source.

    items: one for each image, any order; classes: names in label order; ignored: how many files
    were passed over, by suffix or reason.
    """

    items: list[Item]
    classes: tuple[str, ...]
    ignored: dict[str, int]


def list_images(
    files: Iterable[tuple[str, int]], *, uri: str, classes: Sequence[str] | None
) -> Listing:
    """Label `files` by folder: the nearest folder named in `classes`, or, without `classes`, the
    folder that the image lies in; then the classes are those folders' names, sorted.

    Raises UsageError: no images, no class folders, fewer than two classes, a class not found or
    without images.
    """
    ignored: Counter[str] = Counter()
    images, empty = _sift(files, ignored)
    if not images:
        hint = _ignored_hint(ignored, "a folder with one sub-folder of images per class")
        raise UsageError(f"--input: no images under {uri}{hint}")
    if classes is None:
        names = check_class_names(_infer_classes(images, empty, uri))
    else:
        names = check_class_names(classes)
    items = _label(images, names, explicit=classes is not None, ignored=ignored)
    _check_all_found(items, names, images, uri)
    return Listing(items, names, dict(sorted(ignored.items())))


def list_unlabelled(files: Iterable[tuple[str, int]], *, uri: str) -> Listing:
    """All images among `files`, wherever they lie: label 0, and no classes.

    Raises UsageError if there are none.
    """
    ignored: Counter[str] = Counter()
    images, _ = _sift(files, ignored)
    if not images:
        hint = _ignored_hint(ignored, "a folder of images, or a .zip of one")
        raise UsageError(f"--input: no images under {uri}{hint}")
    items = [Item(key, 0, size) for key, size in images.items()]
    return Listing(items, (), dict(sorted(ignored.items())))


def _sift(
    files: Iterable[tuple[str, int]], ignored: Counter[str]
) -> tuple[dict[str, int], set[str]]:
    """Images by key, and folders in which nothing lies but junk."""
    images: dict[str, int] = {}
    filled: set[str] = set()
    hollow: set[str] = set()
    for key, size in files:
        folder, _, name = key.rpartition("/")
        suffix = posixpath.splitext(name)[1].lower()
        if not name or is_junk(name) or _in_junk(folder):
            hollow.add(folder)
            if name:
                ignored[suffix or name] += 1
            continue
        filled.add(folder)
        if suffix not in IMAGE_SUFFIXES:
            ignored[suffix or "no suffix"] += 1
        elif key in images:
            ignored["name stands twice"] += 1
        else:
            images[key] = size
    above = {upper for folder in filled for upper in _and_above(folder)}
    return images, {folder for folder in hollow - above if not _in_junk(folder)}


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or the system's own."""
    return (name.startswith(".") and name != "..") or name.lower() in _JUNK_NAMES


@functools.lru_cache(maxsize=65_536)
def _in_junk(folder: str) -> bool:
    return any(is_junk(name) for name in folder.split("/") if name != ".")


def _and_above(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _infer_classes(images: dict[str, int], empty: set[str], uri: str) -> list[str]:
    folders = {key.rpartition("/")[0] for key in images} - {""}
    if not folders:
        raise UsageError(
            f"--input: no class folders under {uri}: all images found ({len(images)}) lie directly in "
            "it; put them into one sub-folder per class"
        )
    beside = {folder.rpartition("/")[0] for folder in folders}
    for folder in sorted(empty):
        if folder.rpartition("/")[0] in beside:
            raise UsageError(
                f"--input: class folder {folder} under {uri} has no images; fill or remove it, or "
                "name the classes with --classes"
            )
    return sorted({folder.rpartition("/")[2] for folder in folders})


def _label(
    images: dict[str, int], classes: tuple[str, ...], *, explicit: bool, ignored: Counter[str]
) -> list[Item]:
    labels = {name: label for label, name in enumerate(classes)}

    @functools.cache
    def label_of(folder: str) -> int | None:
        nearest = folder.split("/")[::-1]
        return next((labels[n] for n in nearest[: None if explicit else 1] if n in labels), None)

    items = []
    for key, size in images.items():
        label = label_of(key.rpartition("/")[0])
        if label is None:
            ignored["in no class folder"] += 1
        else:
            items.append(Item(key, label, size))
    return items


def _check_all_found(
    items: list[Item], classes: tuple[str, ...], images: dict[str, int], uri: str
) -> None:
    found = {item.label for item in items}
    if len(found) == len(classes):
        return
    paths = {key.rpartition("/")[0] for key in images}
    folders = sorted({name for path in paths for name in path.split("/") if name})
    for label, name in enumerate(classes):
        if label in found:
            continue
        close = difflib.get_close_matches(name, folders, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        some = ", ".join(folders[:8]) or "none"
        raise UsageError(
            f"--classes: no images of class {name} under {uri}; folders with images: {some}{hint}"
        )


def _ignored_hint(ignored: Counter[str], wanted: str) -> str:
    if not ignored:
        return f": it is empty; give {wanted}"
    what = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(5))
    return f": only {what}; give {wanted}"

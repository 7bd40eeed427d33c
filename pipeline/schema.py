"""The words of the house: an image's shape, the classes, one record, and the schema's version."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pipeline.errors import UsageError

SCHEMA_VERSION = 1
"""Version of `manifest.json` and of the record layout. A reader refuses a newer one."""

PREPROCESSING = "luma, antialiased bilinear, alpha over white; 1"
"""Names what `pipeline.images.decode_image` does. Change it whenever a pixel can come out
differently: models trained on the old pixels then refuse the new records."""

BUCKETS = 1000
"""Groups fall into this many buckets; validation takes `bucket < BUCKETS * fraction`."""

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageSpec:
    """The shape of every image of a data set: uint8[height, width, channels], row-major."""

    height: int
    width: int
    channels: int

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= 4096:
                raise UsageError(
                    f"--image_size: {name} must be from 1 to 4096 pixels, received "
                    f"{self.height}x{self.width}; give HEIGHTxWIDTH, for example 150x150"
                )
        if self.channels not in (1, 3):
            raise UsageError(f"--channels: must be 1 (gray) or 3 (RGB), received {self.channels}")

    @classmethod
    def parse(cls, size: str, channels: int) -> ImageSpec:
        """`150x200` → height 150, width 200. Raises UsageError."""
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
        if not match:
            raise UsageError(
                f"--image_size: expected HEIGHTxWIDTH, for example 150x150, received {size!r}"
            )
        return cls(height=int(match[1]), width=int(match[2]), channels=channels)

    @property
    def num_bytes(self) -> int:
        """Bytes of one image's pixels."""
        return self.height * self.width * self.channels

    @property
    def digest(self) -> str:
        """Tells two preprocessings apart: 16 hexadecimal digits over shape and method."""
        text = json.dumps([asdict(self), PREPROCESSING], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """`names` in label order, or UsageError: at least two, none empty, none twice."""
    if len(names) < 2:
        raise UsageError(
            f"a data set needs at least two classes, received {len(names)}: {', '.join(names)}; "
            "give a folder with one sub-folder per class"
        )
    for name in names:
        if not name or "/" in name or "\n" in name:
            raise UsageError(f"--classes: {name!r} is no folder name, received {','.join(names)}")
        if names.count(name) > 1:
            raise UsageError(f"--classes: {name!r} is named twice, received {','.join(names)}")
    return tuple(names)


class Item(NamedTuple):
    """One image file of the source: path within the collection, label, bytes of the file."""

    key: str
    label: int
    size: int


@dataclass(frozen=True)
class Record:
    """One labelled image as it stands in a shard.

    image: uint8 pixels, row-major H·W·C; label: index into the class names; bucket: 0-999, from the
    group; key: path of the source file within its collection.
    """

    image: bytes
    label: int
    bucket: int
    key: str

"""The test images that a report shows, kept in the run: pages are made without opening the test split.

`gallery.json` maps the key of an image to a `data:` URI of it as PNG.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import UsageError
from pipeline.files import write_json
from pipeline.reader import RecordReader

GALLERY_FILE = "gallery.json"
_LONGEST_SIDE = 256  # of a shown image, in pixels: larger ones are scaled down
_BATCH_IMAGES = 16  # in memory at a time


def write_gallery(folder: Path, reader: RecordReader, numbers: np.ndarray) -> None:
    """Keep the records `numbers`, int64[N], of `reader` in the run `folder`. Raises WorkError."""
    shown = {}
    for start in range(0, len(numbers), _BATCH_IMAGES):
        batch = numbers[start : start + _BATCH_IMAGES]
        images, _ = reader.read(batch)
        shown |= zip(reader.read_keys(batch), map(png_uri, images), strict=True)
    write_json(folder / GALLERY_FILE, shown)


def load_gallery(folder: Path) -> dict[str, str]:
    """What `write_gallery` kept; nothing if there is no gallery. Raises UsageError if it is damaged."""
    path = folder / GALLERY_FILE
    try:
        shown = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError(
            f"{path} is damaged ({error}); test again: python -m model.evaluate --run {folder}"
        ) from error
    return shown


def png_uri(pixels: np.ndarray) -> str:
    """uint8[H, W, C], gray or RGB, as `data:image/png;base64,…`, scaled down if it is large."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")

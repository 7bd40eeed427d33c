"""The images that everything in a benchmark reads: N JPEGs of 1024x1024 pixels, about 150 kB each.

A few hundred are drawn by `pipeline.sources.sample` and encoded at the quality that comes nearest to
150 kB. Each of them then stands for many: moved round by whole JPEG blocks and mirrored, so every
file is another one, and costs as much to decode as the first.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

from benchmarks.peers.shrink import shrink
from pipeline.sources.sample import SampleSource

CLASSES = ("faces", "comics")
DRAWN_PAIRS = 100
FILE_BYTES = 150_000
GRAIN = 4.0  # gray levels, standard deviation
_BLOCK, _BLOCKS = 16, 64  # pixels of a block of 4:2:0 JPEG, blocks along a side of the image


def make_photos(work: Path, count: int) -> tuple[Path, dict[str, Any]]:
    """The folder of `count` images in `work`, half of them per class, and what is known of them.

    Made once: the description beside the folder is written last and says that it is complete.
    """
    folder, facts = work / f"photos-{count}", work / f"photos-{count}.json"
    if not facts.exists():
        for name in CLASSES:
            (folder / name).mkdir(parents=True, exist_ok=True)
        pairs = count // 2
        jobs = [
            (folder, name, n, pairs) for n in range(min(pairs, DRAWN_PAIRS)) for name in CLASSES
        ]
        with multiprocessing.Pool(os.cpu_count()) as pool:
            sizes = [size for written in pool.imap_unordered(_write, jobs) for size in written]
        facts.write_text(json.dumps(_describe(folder, sizes), indent=2))
    return folder, json.loads(facts.read_text())


def _write(job: tuple[Path, str, int, int]) -> list[int]:
    """Draw image `drawn` of class `name` and write all the files that come of it; their bytes."""
    folder, name, drawn, pairs = job
    with Image.open(
        io.BytesIO(SampleSource(2 * DRAWN_PAIRS, 0).read(f"{name}/{drawn:06d}.jpg"))
    ) as file:
        file.draft("YCbCr", file.size)  # no way to RGB and back
        image = _grained(file.copy(), seed=drawn)
    quality = _quality_for(image, FILE_BYTES)
    sizes = []
    for variant, number in enumerate(range(drawn, pairs, DRAWN_PAIRS)):
        data = _encode(_varied(image, variant), quality)
        (folder / name / f"{number:06d}.jpg").write_bytes(data)
        sizes.append(len(data))
    return sizes


def _grained(image: Image.Image, seed: int) -> Image.Image:
    """`image` with the grain of a camera, or there are drawings too plain to fill 150 kB."""
    luma, *chroma = image.split()
    grain = np.random.default_rng(seed).normal(0, GRAIN, (image.height, image.width))
    luma = Image.fromarray(np.clip(np.asarray(luma) + grain, 0, 255).astype(np.uint8))
    return Image.merge("YCbCr", [luma, *chroma])


def _varied(image: Image.Image, variant: int) -> Image.Image:
    row, column = divmod(variant // 2, _BLOCKS)
    moved = ImageChops.offset(image, column * _BLOCK, row * _BLOCK)
    return ImageOps.mirror(moved) if variant % 2 else moved


def _quality_for(image: Image.Image, size: int) -> int:
    """The JPEG quality at which `image` takes the most bytes up to `size`."""
    low, high = 20, 98
    while low < high:
        middle = (low + high + 1) // 2
        if len(_encode(image, middle)) <= size:
            low = middle
        else:
            high = middle - 1
    return low


def _encode(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _describe(folder: Path, sizes: list[int]) -> dict[str, Any]:
    paths = sorted(folder.rglob("*.jpg"), key=lambda path: path.name)
    drawn, varied = paths[: 2 * DRAWN_PAIRS], paths[-2 * DRAWN_PAIRS :]
    passes = [(decode_milliseconds(drawn), decode_milliseconds(varied)) for _ in range(3)]
    first, last = map(min, zip(*passes, strict=True))
    return {
        "images": len(sizes),
        "mean_bytes": round(sum(sizes) / len(sizes)),
        "smallest_bytes": min(sizes),
        "largest_bytes": max(sizes),
        "decode_ms_first_200": round(first, 3),
        "decode_ms_last_200": round(last, 3),
    }


def decode_milliseconds(paths: Sequence[Path]) -> float:
    """Processor time to read and shrink one of `paths`, on average, in milliseconds."""
    start = time.process_time()
    for path in paths:
        shrink(path)
    return (time.process_time() - start) / len(paths) * 1e3


def read_all(folder: Path) -> None:
    """Read every file once, so that no run waits for the disk where another finds it in memory."""
    for path in folder.rglob("*.jpg"):
        path.read_bytes()

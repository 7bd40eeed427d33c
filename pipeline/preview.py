"""Look at a data set: `python -m pipeline.preview tfrecords/`

Writes a picture with some images of every class of every split, so that a glance tells whether labels
and pixels are right, and prints what a sample of each class says about its brightness. Which images
are taken depends on `--seed` and on nothing else.
"""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.console import Parser, Progress, table
from pipeline.errors import UsageError, WorkError, command, printable
from pipeline.files import write_aside
from pipeline.hashing import stable_hash
from pipeline.manifest import Manifest, load_manifest
from pipeline.order import epoch_order
from pipeline.reader import RecordReader

THUMB_HEIGHT, THUMB_WIDTH = 128, 192
"""A thumbnail is made to fit into this box, in pixels."""
MIN_THUMB_SIDE = 8  # an image of one row is still to be seen
MIN_CELL_WIDTH = 128  # room for a key
MARGIN, GAP = 16, 8
TITLE_HEIGHT, HEADING_HEIGHT, KEY_HEIGHT = 34, 30, 22
BARS = "▁▂▃▄▅▆▇█"
BINS = 16
MIN_SHEET_WIDTH = 640  # room for the headings
_BATCH_BYTES = 16 << 20  # of pixels in memory at a time
_LEVELS = 256


@dataclass
class ClassSample:
    """Records of one class of one split, drawn at random.

    records: how many there are; sampled: how many of them were looked at; levels: int64[256], how
    often each gray level (of any channel) occurs in those; pictures: key and thumbnail of the first.
    """

    split: str
    name: str
    label: int
    records: int
    sampled: int = 0
    levels: np.ndarray = field(default_factory=lambda: np.zeros(_LEVELS, np.int64))
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)

    def add(self, pixels: np.ndarray) -> None:
        """Count the levels of one image, uint8[H, W, C]."""
        self.sampled += 1
        self.levels += np.bincount(pixels.ravel(), minlength=_LEVELS)

    @property
    def mean(self) -> float:
        """Mean of the pixels looked at, in gray levels."""
        return float(self.levels @ np.arange(_LEVELS) / self.levels.sum())

    @property
    def std(self) -> float:
        """Standard deviation of the pixels looked at, in gray levels."""
        square = float(self.levels @ np.arange(_LEVELS) ** 2 / self.levels.sum())
        return max(0.0, square - self.mean**2) ** 0.5

    @property
    def histogram(self) -> np.ndarray:
        """int64[16]: pixels in each sixteenth of the gray levels, dark ones first."""
        return self.levels.reshape(BINS, -1).sum(axis=1)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Draw and describe the data set that `argv` names."""
    options = _parse(argv)
    folder, output = Path(options.folder), Path(options.output)
    manifest = load_manifest(folder)
    samples = draw_samples(
        folder, manifest, per_class=options.per_class, sample=options.sample, seed=options.seed
    )
    title = f"{folder}   {manifest.image}   from {manifest.source.get('uri')}   seed {options.seed}"
    sheet = contact_sheet(samples, title=title)
    with write_aside(output) as file:
        sheet.save(file, "PNG")
    print(describe(samples))
    print(printable(f"{output}: images of each class and split; another --seed shows others"))
    return 0


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = Parser(
        "python -m pipeline.preview",
        "Draw some images of every class into one picture, and print statistics of each class.",
    )
    add = parser.add_argument
    add("folder", nargs="?", default="tfrecords/", help="folder that holds manifest.json")
    add("--output", default="preview.png", help="the picture, a .png")
    add("--per_class", type=int, default=8, help="images of each class and split in the picture")
    add("--sample", type=int, default=2000, help="records of each for the statistics, at most")
    add("--seed", type=int, default=0, help="decides which images are taken")
    options = parser.parse_strictly(argv)
    if not 1 <= options.per_class <= 100:
        raise UsageError(f"--per_class: must be from 1 to 100, received {options.per_class}")
    if options.sample < options.per_class:
        raise UsageError(
            f"--sample: must be at least --per_class, {options.per_class}, received {options.sample}"
        )
    if not -(2**63) <= options.seed < 2**63:
        raise UsageError(f"--seed: must fit 64 bits, received {options.seed}")
    output = Path(options.output)
    if output.suffix.lower() != ".png" or output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(
            f"--output: must be a .png file in a folder that is there, received {output}"
        )
    return options


def draw_samples(
    folder: Path, manifest: Manifest, *, per_class: int, sample: int, seed: int
) -> list[ClassSample]:
    """A sample of each class of each split, up to `sample` records, `per_class` of them as pictures.

    Raises WorkError for records that are damaged.
    """
    drawn = []
    batch = max(1, _BATCH_BYTES // manifest.image.num_bytes)
    for split, facts in manifest.splits.items():
        classes = zip(manifest.classes, facts.records_per_class, strict=True)
        samples = [
            ClassSample(split, name, label, records)
            for label, (name, records) in enumerate(classes)
        ]
        with RecordReader(folder, manifest, split) as reader:
            _draw_split(reader, samples, batch=batch, per_class=per_class, sample=sample, seed=seed)
        drawn += samples
    return drawn


def _draw_split(
    reader: RecordReader,
    samples: Sequence[ClassSample],
    *,
    batch: int,
    per_class: int,
    sample: int,
    seed: int,
) -> None:
    """Go through the split in a seeded order until every class has its sample."""
    key = stable_hash(seed, "preview", samples[0].split)
    wanted = sum(min(sample, one.records) for one in samples)
    with Progress(lambda: sum(one.sampled for one in samples), total=wanted, unit="images"):
        for start in range(0, reader.records, batch):
            if all(one.sampled >= min(sample, one.records) for one in samples):
                return
            positions = np.arange(start, min(start + batch, reader.records))
            numbers = epoch_order(positions, records=reader.records, seed=key, epoch=0)
            _draw_batch(reader, samples, numbers, per_class=per_class, sample=sample)


def _draw_batch(
    reader: RecordReader,
    samples: Sequence[ClassSample],
    numbers: np.ndarray,
    *,
    per_class: int,
    sample: int,
) -> None:
    images, labels = reader.read(numbers)
    if labels.max() >= len(samples):
        raise WorkError(f"a record has label {labels.max()}; find it: python -m pipeline.verify")
    for row, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        one = samples[label]
        if one.sampled < sample:
            one.add(pixels)
        if len(one.pictures) < per_class:
            (key,) = reader.read_keys(numbers[row : row + 1])
            one.pictures.append((key, thumbnail(pixels)))


def thumbnail(pixels: np.ndarray) -> Image.Image:
    """uint8[H, W, C] as a picture that fits the box; a tiny image is enlarged to clear squares."""
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    scale = min(THUMB_HEIGHT / height, THUMB_WIDTH / width)
    enlarge = scale >= 1
    factor = int(scale) if enlarge else scale
    size = [max(MIN_THUMB_SIDE, round(side * factor)) for side in (width, height)]
    return image.resize(size, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def contact_sheet(samples: Sequence[ClassSample], *, title: str) -> Image.Image:
    """A row for each of `samples`: what they are, then the pictures, each above its key."""
    pictures = [picture for one in samples for _, picture in one.pictures]
    cell = max([MIN_CELL_WIDTH, *(picture.width for picture in pictures)])
    columns = max(len(one.pictures) for one in samples)
    width = max(MIN_SHEET_WIDTH, 2 * MARGIN + columns * (cell + GAP) - GAP)
    height = TITLE_HEIGHT + sum(map(row_height, samples)) + MARGIN
    sheet = Image.new(pictures[0].mode if pictures else "L", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, 8), title, size=15, room=width - 2 * MARGIN)
    top = TITLE_HEIGHT
    for one in samples:
        _draw_row(sheet, draw, one, top=top, cell=cell)
        top += row_height(one)
    return sheet


def row_height(one: ClassSample) -> int:
    """Pixels that the row of `one` takes; only its heading where there are no pictures."""
    tallest = max((picture.height for _, picture in one.pictures), default=0)
    return HEADING_HEIGHT + (GAP + tallest + KEY_HEIGHT + GAP if tallest else 0)


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, one: ClassSample, *, top: int, cell: int
) -> None:
    draw.rectangle((0, top, sheet.width, top + HEADING_HEIGHT - 6), fill="#e4e4e4")
    heading = f"{one.split} / {one.name}   label {one.label}   {one.records:,} records"
    _write(draw, (MARGIN, top + 3), heading, size=16, room=sheet.width - 2 * MARGIN)
    top += HEADING_HEIGHT + GAP
    for column, (key, picture) in enumerate(one.pictures):
        left = MARGIN + column * (cell + GAP)
        sheet.paste(picture, (left, top))
        _write(draw, (left, top + picture.height + 3), key, size=12, room=cell)


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, *, size: int, room: int
) -> None:
    """Draw `text` in at most `room` pixels."""
    font = _font(size)
    text = "".join(char if _has_glyph(char) else ascii(char)[1:-1] for char in printable(text))
    draw.text(place, _clip(text, font, room), fill="black", font=font)


def _clip(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """`text` with its middle left out, as much as it takes to fit `room` pixels."""
    keep, shown = min(len(text), room), text  # no letter is narrower than a pixel
    while len(shown) > room or font.getlength(shown) > room:
        keep -= 1
        shown = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
    return shown


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@functools.cache
def _has_glyph(char: str) -> bool:
    """Whether the font can draw `char`: what it cannot looks like a character that is none."""
    return bytes(_font(12).getmask(char)) != bytes(_font(12).getmask("\uffff"))


def describe(samples: Sequence[ClassSample]) -> str:
    """A table of `samples`: how many, how bright; a bar for each sixteenth of the gray levels."""
    rows: list[Sequence[object]] = [
        ("split", "class", "label", "records", "share %", "sampled", "mean", "std", "dark … bright")
    ]
    totals = Counter[str]()
    for one in samples:
        totals[one.split] += one.records
    rows += [_row(one, totals[one.split]) for one in samples if one.sampled]
    lines = [table(rows)]
    empty = [f"{one.split}/{one.name}" for one in samples if not one.sampled]
    if empty:
        lines.append(printable(f"no records: {', '.join(empty)}"))
    lines.append(
        "mean, std, histogram: gray levels 0-255 of the sampled records, all channels alike"
    )
    return "\n".join(lines)


def _row(one: ClassSample, total: int) -> Sequence[object]:
    share = f"{100 * one.records / total:.1f}"
    light = f"{one.mean:.1f}", f"{one.std:.1f}", bars(one.histogram)
    return (one.split, one.name, one.label, one.records, share, one.sampled, *light)


def bars(counts: np.ndarray) -> str:
    """`counts` as a row of block characters, the tallest for the largest."""
    heights = np.rint(counts / max(1, counts.max()) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


if __name__ == "__main__":
    sys.exit(main())

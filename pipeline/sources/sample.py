"""The built-in collection `sample:N`: N/2 invented people, each as a photograph and as a drawing.

It lets anyone build records and train on a machine with no network. Every image is synthetic, drawn
when it is read, from (seed, subject number, kind) alone, so any worker in any order makes the same
bytes: all randomness is raw generator bits, all arithmetic is + - * / sqrt and Pillow's, never sin,
pow or a numpy distribution, which differ between machines and versions. (Another release of Pillow
may still round a pixel differently.) Changing a draw or the order of draws changes every image.

A subject becomes a list of shapes in the unit square, x to the right and y down. Photograph and
drawing are two renderings of that one list: what a network can learn is how it was made, not who.
Both end in YCbCr, as JPEG does: grain, blur and ink then touch one full-size plane and not three.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import UsageError, WorkError
from pipeline.sources.sample_images import drawing, photograph
from pipeline.sources.sample_subject import Dice, cast_subject

NOTICE = (
    "synthetic sample: drawn by the program, no real faces; "
    "good for trying the tool, not for judging a model"
)


@dataclass(frozen=True)
class SampleSource:
    """`count` images of `count / 2` subjects: `faces/000017.jpg` and `comics/000017.jpg` are one.

    Raises UsageError unless `count` is an even number from 2 to 1,000,000.
    """

    count: int
    seed: int

    def __post_init__(self) -> None:
        if not 2 <= self.count <= 1_000_000 or self.count % 2:
            raise _bad_count(str(self.count))

    @property
    def uri(self) -> str:
        """What the user wrote."""
        return f"sample:{self.count}"

    def list(self) -> Iterator[tuple[str, int]]:
        """Every (key, size); the size is 0: nobody knows it before the image is drawn."""
        for kind in ("faces", "comics"):
            for number in range(self.count // 2):
                yield f"{kind}/{number:06d}.jpg", 0

    def read(self, key: str) -> bytes:
        """The JPEG file `key`: 1024x1024 RGB, NOTICE as its comment. Raises WorkError."""
        match = re.fullmatch(r"(faces|comics)/([0-9]{6})\.jpg", key)
        if not match or int(match[2]) >= self.count // 2:
            last = f"{self.count // 2 - 1:06d}.jpg"
            raise WorkError(
                f"{self.uri} has no image {key!r}; its keys run from faces/000000.jpg to "
                f"faces/{last} and from comics/000000.jpg to comics/{last}"
            )
        kind, number = match[1], int(match[2])
        render = photograph if kind == "faces" else drawing
        dice = Dice(self.seed, f"sample {kind}", str(number))
        file = io.BytesIO()
        image = render(cast_subject(self.seed, number), dice)
        image.save(file, "JPEG", quality=88, subsampling="4:2:0", comment=NOTICE)
        return file.getvalue()


def parse_sample(text: str, seed: int) -> SampleSource:
    """`sample:2000` → 1,000 photographs and 1,000 drawings. Raises UsageError."""
    count = text.removeprefix("sample:")
    if not re.fullmatch(r"[0-9]{1,7}", count):
        raise _bad_count(count)
    return SampleSource(int(count), seed)


def _bad_count(received: str) -> UsageError:
    return UsageError(
        f"--input sample:N: N must be an even number from 2 to 1000000, received {received!r}; "
        "for example sample:2000"
    )

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
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.errors import UsageError, WorkError
from pipeline.hashing import stable_hash

NOTICE = (
    "synthetic sample: drawn by the program, no real faces; "
    "good for trying the tool, not for judging a model"
)

SIDE = 1024
"""Height and width of every image in pixels, as in the collection that this one stands in for."""

T = TypeVar("T")
Point = tuple[float, float]
Rgb = tuple[int, int, int]


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
        render = _photograph if kind == "faces" else _drawing
        dice = _Dice(self.seed, f"sample {kind}", str(number))
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


class _Dice:
    """Throws that depend on (seed, purpose, text) and on the throws before; nothing is global."""

    def __init__(self, seed: int, purpose: str, text: str) -> None:
        self._bits = np.random.PCG64(stable_hash(seed, purpose, text))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * ((self._bits.random_raw() >> 11) / 2**53)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.between(0, len(options)))]

    def colour(self, low: int, high: int) -> Rgb:
        return tuple(int(self.between(low, high)) for _ in range(3))

    def noise(self, side: int, strength: float) -> Image.Image:
        """Independent pixels around 128, uint8[side, side]; `side` is a multiple of 4."""
        words = self._bits.random_raw(side * side // 8)
        image = Image.frombytes("L", (side, side), words.astype("<u8", copy=False).tobytes())
        return image.point(_table(lambda value: 128 + (value - 128) * strength))


def _table(function: Callable[[int], float]) -> list[int]:
    """`function` of every gray value, cut to gray values."""
    return [max(0, min(255, int(function(value)))) for value in range(256)]


@dataclass(frozen=True)
class Subject:
    """One invented person. `x`, `y`, `size` are shares of the image; a head is 2 `size` high.

    `tilt` is the tangent of half the angle. All other lengths are in units of `size`.
    """

    x: float
    y: float
    size: float
    tilt: float
    width: float
    jaw: float
    skin: Rgb
    hair: Rgb
    cut: str
    length: float
    volume: float
    forehead: float
    parting: float
    eye_gap: float
    eye_size: float
    eye_open: float
    iris: Rgb
    brow: float
    brow_slope: float
    nose: float
    nose_width: float
    mouth: float
    smile: float
    teeth: bool
    glasses: bool
    beard: str
    hat: str
    shoulders: float
    neckline: float
    clothes: Rgb
    background: Rgb


_SKINS = ((240, 208, 184), (226, 184, 154), (204, 156, 122), (172, 122, 88), (128, 86, 62))
_HAIRS = ((40, 33, 32), (72, 48, 36), (118, 76, 44), (186, 150, 96), (146, 72, 44), (168, 164, 160))
_IRISES = ((70, 44, 28), (86, 112, 140), (84, 104, 70), (48, 34, 30))


def cast_subject(seed: int, number: int) -> Subject:
    """The subject `number` of `seed`: the same for its photograph and for its drawing."""
    dice = _Dice(seed, "sample subject", str(number))
    return Subject(
        x=dice.between(0.42, 0.58),
        y=dice.between(0.44, 0.52),
        size=dice.between(0.26, 0.35),
        tilt=dice.between(-0.09, 0.09),
        width=dice.between(0.66, 0.8),
        jaw=dice.between(0.14, 0.38),
        skin=_scaled(dice.pick(_SKINS), dice.between(0.88, 1.06)),
        hair=_scaled(dice.pick(_HAIRS), dice.between(0.85, 1.2)),
        cut=dice.pick(("short", "short", "curly", "long", "long", "bald")),
        length=dice.between(0.6, 1.7),
        volume=dice.between(0.06, 0.2),
        forehead=dice.between(0.42, 0.62),
        parting=dice.between(-0.7, 0.7),
        eye_gap=dice.between(0.4, 0.5),
        eye_size=dice.between(0.15, 0.21),
        eye_open=dice.between(0.38, 0.6),
        iris=dice.pick(_IRISES),
        brow=dice.between(0.04, 0.09),
        brow_slope=dice.between(-0.06, 0.06),
        nose=dice.between(0.24, 0.36),
        nose_width=dice.between(0.11, 0.18),
        mouth=dice.between(0.2, 0.34),
        smile=dice.between(-0.04, 0.12),
        teeth=dice.pick((False, False, True)),
        glasses=dice.pick((False, False, False, True)),
        beard=dice.pick(("none", "none", "none", "full", "moustache")),
        hat=dice.pick(("none", "none", "none", "none", "beanie", "cap")),
        shoulders=dice.between(1.35, 1.9),
        neckline=dice.between(0.1, 0.6),
        clothes=_scaled(dice.colour(90, 250), dice.between(0.25, 1)),
        background=_scaled(dice.colour(130, 250), dice.between(0.3, 1)),
    )


def _scaled(colour: Rgb, factor: float) -> Rgb:
    return tuple(min(255, int(value * factor)) for value in colour)


@dataclass(frozen=True)
class _Shape:
    """A filled outline in the unit square. Without a colour it is a line for drawings alone.

    `depth`: how far in from its edge a rounded thing is shaded; 0 for a flat detail.
    `ink`: width of its outline in a drawing, relative to the pen.
    """

    points: list[Point]
    colour: Rgb | None
    depth: float = 0.0
    ink: float = 1.0
    texture: str = "skin"


def _place(s: Subject, points: Sequence[Point], *, upright: bool = False) -> list[Point]:
    """Points of the head's own frame (centre 0, half height 1) in the unit square."""
    t = 0.0 if upright else s.tilt
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    return [
        (s.x + s.size * (cos * u - sin * v), s.y + s.size * (sin * u + cos * v)) for u, v in points
    ]


_TENTHS = [i / 10 for i in range(10)]
_QUARTER = [((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)) for t in _TENTHS]
_LOWER = _QUARTER + [(-v, u) for u, v in _QUARTER]
_UPPER = [(-u, -v) for u, v in _LOWER]
_CIRCLE = _LOWER + _UPPER
"""40 points: from the right over the bottom and the left to the top."""
_CROWN = [_CIRCLE[19], *_UPPER, *_CIRCLE[:2]]
"""From ear to ear over the top."""


def _ring(u: float, v: float, width: float, height: float) -> list[Point]:
    return [(u + width * c, v + height * s) for c, s in _CIRCLE]


def _curve(start: Point, bend: Point, end: Point) -> list[Point]:
    """Thirteen points from `start` to `end`; `bend` is the quadratic control point."""
    points = []
    for t in (i / 12 for i in range(13)):
        a, b, c = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
        points.append(
            (a * start[0] + b * bend[0] + c * end[0], a * start[1] + b * bend[1] + c * end[1])
        )
    return points


def _smooth(points: list[Point], rounds: int = 3) -> list[Point]:
    """A closed outline with its corners cut `rounds` times over."""
    for _ in range(rounds):
        sides = zip(points, [*points[1:], points[0]], strict=True)
        points = [
            (u * a + x * (1 - a), v * a + y * (1 - a))
            for (u, v), (x, y) in sides
            for a in (0.75, 0.25)
        ]
    return points


def _stroke(points: Sequence[Point], widths: Sequence[float]) -> list[Point]:
    """The outline of a brush stroke along `points`, `widths[i]` broad at point i."""
    left, right = [], []
    for i, (u, v) in enumerate(points):
        (a, b), (c, d) = points[max(i - 1, 0)], points[min(i + 1, len(points) - 1)]
        half = widths[i] / 2 / (math.sqrt((c - a) * (c - a) + (d - b) * (d - b)) + 1e-9)
        left.append((u - (d - b) * half, v + (c - a) * half))
        right.append((u + (d - b) * half, v - (c - a) * half))
    return left + right[::-1]


def _tapered(points: Sequence[Point], width: float) -> list[Point]:
    """A stroke that begins and ends thin."""
    shares = (i / (len(points) - 1) for i in range(len(points)))
    return _stroke(points, [width * (0.2 + 3.2 * t * (1 - t)) for t in shares])


def _body(s: Subject) -> list[_Shape]:
    """The large shapes of a subject, back to front."""
    w, out, low = s.width, s.shoulders, 1.3 + s.neckline
    torso = [(-0.3, 1.15), (-out, 1.4), (-out * 1.2, 7), (out * 1.2, 7), (out, 1.4), (0.3, 1.15)]
    neck = [(-w / 2, 0.3), (w / 2, 0.3), (w * 0.62, 1.3), (0, low), (-w * 0.62, 1.3)]
    head = [(w * c * (1 - s.jaw * v * v if v > 0 else 1), v) for c, v in _CIRCLE]
    ears = [_ring(side * w, 0.08, 0.1, 0.19) for side in (-1, 1)]
    shapes = [_Shape(_place(s, _smooth(torso), upright=True), s.clothes, 0.12, texture="cloth")]
    shapes += [_Shape(_place(s, _smooth(neck)), _scaled(s.skin, 0.88), 0.06)]
    shapes += [_Shape(_place(s, ear), _scaled(s.skin, 0.92), 0.02) for ear in ears]
    shapes += [_Shape(_place(s, head), s.skin, 0.13)]
    shapes += [_Shape(_place(s, points), s.hair, 0.05, texture="hair") for points in _hair(s)]
    felt = s.clothes[::-1]  # a second colour from the same draw
    shapes += [_Shape(_place(s, points), felt, 0.06, texture="cloth") for points in _hat(s)]
    if s.cut == "long":
        back = _Shape(_place(s, _long_hair(s)), _scaled(s.hair, 0.8), 0.1, texture="hair")
        shapes.insert(0, back)
    return shapes


def _long_hair(s: Subject) -> list[Point]:
    wide, top, end = s.width * 1.15 + s.volume, 1.1 + s.volume, s.length
    sides = [(wide * 1.15, end / 2), (wide, end), (-wide, end), (-wide * 1.15, end / 2)]
    return _smooth([(-wide, -0.3), (-wide * 0.8, -top), (wide * 0.8, -top), (wide, -0.3), *sides])


def _hair(s: Subject) -> list[list[Point]]:
    """What grows on the head: beard, moustache, and the hair from ear to ear."""
    w, shapes = s.width, []
    if s.beard == "full":
        cheek = [(w * 1.02 * c * (1 - s.jaw * v * v), v * 1.04) for c, v in _CIRCLE[2:19]]
        shapes.append([*cheek, (-w * 0.62, 0.42), (0, 0.36), (w * 0.62, 0.42)])
    if s.beard != "none":
        ends = [(s.mouth * 1.3, 0.55), (0, s.nose + 0.2), (-s.mouth * 1.3, 0.55)]
        shapes.append(_smooth([(0.1, s.nose + 0.08), *ends, (-0.1, s.nose + 0.08)]))
    if s.cut != "bald":
        curl = 0.07 if s.cut == "curly" else 0.0
        grow = [1 + s.volume + (curl if i % 3 else -curl) for i in range(len(_CROWN))]
        outer = [(w * 1.06 * g * c, v * g) for (c, v), g in zip(_CROWN, grow, strict=True)]
        away = [c - s.parting for c, _ in _CROWN]
        lift = [s.forehead + 0.22 * (1 - a * a / 2) for a in away]
        inner = [(w * 0.94 * c, v * n) for (c, v), n in zip(_CROWN, lift, strict=True)]
        shapes.append(_smooth(outer + inner[::-1], rounds=1))
    return shapes


def _hat(s: Subject) -> list[list[Point]]:
    if s.hat == "none":
        return []
    wide, brim = s.width * 1.12 + s.volume / 2, (0.14 if s.parting > 0 else -0.14)
    crown = [(wide * c, -0.42 + (0.74 + s.volume) * v) for c, v in [*_UPPER, _CIRCLE[0]]]
    if s.hat == "cap":
        return [crown, _ring(brim, -0.42, wide * 1.1, 0.1)]
    corners = ((-1.05, -0.64), (0, -0.66), (1.05, -0.64), (1.05, -0.32), (0, -0.36), (-1.05, -0.32))
    return [crown, _smooth([(wide * u, v) for u, v in corners])]


def _face(s: Subject) -> list[_Shape]:
    """The details of a face, back to front."""
    shapes = [*_mouth(s), *_nose(s), *_eye(s, -1), *_eye(s, 1)]
    if s.glasses:
        shapes += _glasses(s)
    return [_Shape(_place(s, shape.points), shape.colour, ink=shape.ink) for shape in shapes]


def _eye(s: Subject, side: int) -> list[_Shape]:
    x, r = side * s.eye_gap * s.width, s.eye_size
    ball, iris = _ring(x, 0.0, r, r * s.eye_open), r * min(0.5, s.eye_open)
    inner, outer = (x - side * r, -0.2 - s.brow_slope), (x + side * r * 1.4, -0.16 + s.brow_slope)
    return [
        _Shape(ball, (222, 216, 210), ink=0.5),
        _Shape(_ring(x, 0.0, iris, iris), s.iris, ink=0.4),
        _Shape(_ring(x, 0.0, iris / 2, iris / 2), (18, 14, 14), ink=0.0),
        _Shape(_ring(x - iris / 3, -iris / 3, iris / 5, iris / 5), (250, 250, 250), ink=0.0),
        _Shape(_tapered(ball[19:], 0.06), (40, 28, 26), ink=0.3),
        _Shape(_tapered(_curve(inner, (x, -0.3), outer), s.brow), _scaled(s.hair, 0.7), ink=0.3),
    ]


def _nose(s: Subject) -> list[_Shape]:
    w, low, side = s.nose_width, s.nose, (1 if s.parting > 0 else -1)
    bridge = _curve((side * 0.06, 0.0), (side * w * 0.6, low * 0.7), (side * w, low))
    wing = _curve((side * w, low), (side * w * 0.4, low + 0.12), (-side * w * 0.5, low + 0.02))
    holes = [_ring(x, low + 0.02, w * 0.24, 0.02) for x in (-w * 0.5, w * 0.5)]
    dark = [_Shape(hole, _scaled(s.skin, 0.55), ink=0.4) for hole in holes]
    return [_Shape(_tapered(bridge + wing[1:], 0.035), None), *dark]


def _mouth(s: Subject) -> list[_Shape]:
    mid, gape = 0.54, (0.17 if s.teeth else 0.03)
    left, right = (-s.mouth, mid - s.smile), (s.mouth, mid - s.smile)
    colour = tuple((2 * a + b) // 3 for a, b in zip(s.skin, (150, 40, 50), strict=True))
    upper = _curve(left, (0, mid + s.smile - 0.05), right)
    lower = _curve(right, (0, mid + s.smile + gape), left)
    below = _curve(right, (0, mid + s.smile + gape + 0.15), left)
    lips = _curve(left, (0, mid - 0.14), right) + below
    shapes = [_Shape(lips, colour, ink=0.5), _Shape(upper + lower, (64, 26, 28), ink=0.6)]
    if s.teeth:
        edge = _curve(upper[-2], (0, mid + s.smile + 0.08), upper[1])
        shapes.append(_Shape(upper[1:-1] + edge, (228, 222, 210), ink=0.4))
    return shapes


def _glasses(s: Subject) -> list[_Shape]:
    x, r = s.eye_gap * s.width, s.eye_size * 1.4
    lines = [[(x - r, 0.0), (0.0, -0.04), (r - x, 0.0)]]
    for side in (-1, 1):
        rim = _ring(side * x, 0.03, r, r * 0.85)
        lines += [[*rim, rim[0]], [(side * (x + r), -0.02), (side * s.width, -0.04)]]
    return [_Shape(_stroke(line, [0.035] * len(line)), (36, 32, 34), ink=0.3) for line in lines]


def _strands(s: Subject, dice: _Dice, count: int) -> list[list[Point]]:
    """Hairs that fall from the parting to both sides."""
    lines = []
    for _ in range(count):
        side, top = dice.pick((-1, 1)), -1.2 - s.volume
        wide = side * (s.width * dice.between(0.5, 1.5) + s.volume)
        start = (s.parting * s.width * 0.6 + dice.between(-0.3, 0.3), top)
        end = (wide * dice.between(0.7, 1.1), dice.between(-0.3, 1.7))
        lines.append(_place(s, _curve(start, (wide, dice.between(-1.3, -0.6)), end)))
    return lines


@dataclass(frozen=True)
class _Light:
    """Where the light comes from (above, from a random side) and how hard it is, from 0 to 1."""

    u: float
    v: float
    contrast: float

    @classmethod
    def cast(cls, dice: _Dice) -> _Light:
        side = dice.pick((-1, 1))
        return cls(side * dice.between(0.5, 1), -dice.between(0.2, 0.8), dice.between(0.35, 0.8))

    def toward(self, points: Sequence[Point], distance: float) -> list[Point]:
        return [(u + self.u * distance, v + self.v * distance) for u, v in points]


_SMALL, _COARSE, _FINE = 64, 192, 512
"""Pixels of a side. What is soft needs few, the details of a face need more."""


def _photograph(s: Subject, dice: _Dice) -> Image.Image:
    """Soft shading, blur, texture and noise: YCbCr, SIDE x SIDE."""
    light, body = _Light.cast(dice), _body(s)
    flats = _backdrop(s.background, dice)
    pen = ImageDraw.Draw(flats)
    for shape in [*body, *_face(s)]:
        if shape.colour is not None:
            pen.polygon(_pixels(shape.points, _FINE), shape.colour)
    shade = dice.noise(dice.pick((8, 16, 32)), dice.pick((0.1, 0.2, 0.35)))  # clutter behind
    shade, textures = _enlarged(shade, _COARSE), _textures(s, dice)
    for shape in body:
        _model(shade, shape, light, textures[shape.texture])
    shade = ImageChops.add(shade, _relief(s, light), 1, -128)
    return _develop(flats, shade, light.contrast, dice)


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)


def _pixels(points: Sequence[Point], side: int) -> list[Point]:
    return [(u * side, v * side) for u, v in points]


def _backdrop(colour: Rgb, dice: _Dice) -> Image.Image:
    """An unsharp background, a gradient and discs out of focus: RGB, _FINE x _FINE."""
    image = Image.new("RGB", (128, 128), colour)
    ramp = Image.linear_gradient("L").rotate(dice.pick((0, 90, 180, 270))).reduce(2)
    image.paste(_scaled(colour, dice.between(0.4, 1.3)), mask=ramp)
    pen = ImageDraw.Draw(image)
    for _ in range(dice.pick((0, 0, 12, 25, 50))):
        x, y, r = dice.between(0, 128), dice.between(0, 128), dice.between(2, 13)
        pen.ellipse((x - r, y - r, x + r, y + r), _scaled(colour, dice.between(0.5, 1.5)))
    return _enlarged(image.filter(ImageFilter.BoxBlur(dice.between(0.8, 3))), _FINE)


def _textures(s: Subject, dice: _Dice) -> dict[str, Image.Image]:
    """What is added to the shading, by kind of surface: uint8[_COARSE, _COARSE] around 128."""
    hair, strength = Image.new("L", (_COARSE, _COARSE), 128), dice.between(20, 80)
    for line in _strands(s, dice, 50):
        shade = int(128 + dice.between(-strength, strength))
        ImageDraw.Draw(hair).line(_pixels(line, _COARSE), shade, 2)
    skin = _enlarged(dice.noise(96, dice.between(0.02, 0.15)), _COARSE)
    cloth = _enlarged(dice.noise(64, dice.between(0.02, 0.4)), _COARSE)
    return {"hair": hair, "cloth": cloth, "skin": skin}


def _model(shade: Image.Image, shape: _Shape, light: _Light, texture: Image.Image) -> None:
    """Lay the shading of a rounded `shape` on `shade`, and its soft shadow on what lies behind."""
    near, far = _sides([shape.points], light, shape.depth)
    shade.paste(20, mask=_enlarged(far.point(_FAINT), _COARSE))
    slope = _enlarged(ImageChops.subtract(near, far, 1, 128), _COARSE)
    mask = _mask([shape.points], _COARSE * 2).reduce(2)
    shade.paste(ImageChops.add(slope, texture, 1, -128), mask=mask)


_FAINT = _table(lambda value: value * 0.4)


def _mask(outlines: Sequence[list[Point]], side: int) -> Image.Image:
    """255 inside of any outline, else 0: uint8[side, side]."""
    mask = Image.new("L", (side, side))
    for points in outlines:
        ImageDraw.Draw(mask).polygon(_pixels(points, side), 255)
    return mask


def _sides(outlines: Sequence[list[Point]], light: _Light, depth: float) -> list[Image.Image]:
    """Blurred masks moved toward and away from the light: uint8[_SMALL, _SMALL] each.

    A blurred mask serves as the height of a rounded thing. So the difference of the two is its
    slope along the light: bright where it faces the light, dark where it turns from it.
    """
    blur = ImageFilter.GaussianBlur(depth * _SMALL)
    moved = ([light.toward(p, step * depth / 2) for p in outlines] for step in (1, -1))
    return [_mask(points, _SMALL).filter(blur) for points in moved]


def _relief(s: Subject, light: _Light) -> Image.Image:
    """The forms of a face: uint8[_COARSE, _COARSE] around 128.

    Nose, cheeks and chin catch the light, the eyes lie in the dark.
    """
    nose = [(0.03, -0.05), (s.nose_width, s.nose), (-s.nose_width, s.nose), (-0.03, -0.05)]
    cheeks = [_ring(side * s.width * 0.54, 0.32, 0.16, 0.15) for side in (-1, 1)]
    high = [_place(s, points) for points in (nose, *cheeks, _ring(0, 0.84, 0.18, 0.1))]
    near, far = _sides(high, light, 0.022)
    relief = ImageChops.subtract(near, far, 3, 128)
    sockets = [_ring(side * s.eye_gap * s.width, -0.05, 0.2, 0.14) for side in (-1, 1)]
    mask, _ = _sides([_place(s, points) for points in sockets], light, 0.02)
    relief.paste(40, mask=mask.point(_FAINT))
    return _enlarged(relief, _COARSE)


def _develop(flats: Image.Image, shade: Image.Image, contrast: float, dice: _Dice) -> Image.Image:
    """Lens and sensor: contrast, vignette, sharpness, exposure, grain coarse and fine."""
    fall, gain, lift = dice.between(0.1, 0.5), dice.between(0.85, 1.3), dice.between(-8, 25)
    shade = shade.point(_table(lambda v: 128 + (v - 128) * contrast))
    rim = Image.radial_gradient("L").point(_table(lambda v: 255 - v * v / 255 * fall))
    shade = ImageChops.multiply(shade, rim.resize(shade.size))
    grain = dice.noise(_COARSE, dice.between(0.01, 0.15))
    shade = _enlarged(ImageChops.add(shade, grain, 1, -128), _FINE)
    luma, *chroma = flats.convert("YCbCr").split()
    luma = luma.filter(ImageFilter.BoxBlur(dice.between(0.6, 2)))
    luma = ImageChops.multiply(luma, shade).point(_table(lambda v: 2 * v * gain + lift))
    pale = shade.point(_table(lambda v: abs(v - 128) * 1.5 - 10))
    for band in chroma:  # both shadow and gloss have little colour
        band.paste(128, mask=pale)
    noise = dice.noise(SIDE, dice.between(0.01, 0.08))
    return _join(ImageChops.add(_enlarged(luma, SIDE), noise, 1, -128), chroma)


def _join(luma: Image.Image, chroma: Sequence[Image.Image]) -> Image.Image:
    """Chroma at half the size is all that a JPEG keeps, so doubling its pixels loses nothing."""
    doubled = [band.resize(luma.size, Image.Resampling.NEAREST) for band in chroma]
    return Image.merge("YCbCr", [luma, *doubled])


def _drawing(s: Subject, dice: _Dice) -> Image.Image:
    """Flat colours, hard shadows, ink lines: YCbCr, SIDE x SIDE."""
    light, pen, crisp = _Light.cast(dice), dice.between(0.002, 0.006), dice.pick((True, False))
    flats = Image.new("RGB", (_FINE, _FINE), _poster(s.background))
    shadow, hair = Image.new("L", (256, 256)), Image.new("L", (256, 256))
    ink = _mask([], SIDE * 2 if crisp else SIDE)  # halved in the end, for smooth lines
    for shape in _body(s):
        _cast_shadow(shadow, shape, light)
        ImageDraw.Draw(hair).polygon(_pixels(shape.points, 256), 255 * (shape.texture == "hair"))
        _draw(flats, ink, shape, _line(shape, light, pen))
    for line in _strands(s, dice, int(dice.between(5, 45))):
        for lock in _within(hair, line):
            stroke = _tapered(lock, pen * dice.between(0.4, 1.2))
            ImageDraw.Draw(ink).polygon(_pixels(stroke, ink.width), 255)
    for shape in _face(s):
        _draw(flats, ink, shape, _line(shape, light, pen))
    return _print(flats, ink, shadow, dice)


def _poster(colour: Rgb) -> Rgb:
    """The colour on one of few levels of brightness, its hue kept and made stronger."""
    most = max(colour)
    level = max(48, (most + 24) // 48 * 48)
    return tuple(max(0, level - (most - value) * 6 // 5 * level // most) for value in colour)


def _cast_shadow(shadow: Image.Image, shape: _Shape, light: _Light) -> None:
    """Mark the side of `shape` that is turned from the light, clear the rest of it."""
    mask = _mask([shape.points], shadow.width)
    dark = mask.copy()
    lit = light.toward(shape.points, shape.depth * 0.4)
    ImageDraw.Draw(dark).polygon(_pixels(lit, shadow.width), 0)
    shadow.paste(dark, mask=mask)


def _line(shape: _Shape, light: _Light, pen: float) -> list[Point]:
    """The ink line round `shape`, broad where it is turned from the light."""
    if shape.colour is None:
        return shape.points
    around, widths = [*shape.points, shape.points[0]], []
    for (u, v), (x, y) in zip(around, [*around[1:], around[1]], strict=True):
        length = math.sqrt((x - u) * (x - u) + (y - v) * (y - v)) + 1e-9
        facing = ((y - v) * light.u - (x - u) * light.v) / length
        widths.append(pen * shape.ink * (1.1 - 0.8 * facing))
    return _stroke(around, widths)


def _draw(flats: Image.Image, ink: Image.Image, shape: _Shape, line: list[Point]) -> None:
    """Fill `shape`, which hides the lines behind it, and draw its own line."""
    pen = ImageDraw.Draw(ink)
    if shape.colour is not None:
        ImageDraw.Draw(flats).polygon(_pixels(shape.points, flats.width), _poster(shape.colour))
        pen.polygon(_pixels(shape.points, ink.width), 0)
    if shape.ink:
        pen.polygon(_pixels(line, ink.width), 255)


def _within(mask: Image.Image, line: list[Point]) -> Iterator[list[Point]]:
    """The pieces of `line` that run over white, of three points or more."""
    piece = []
    for u, v in [*line, (-1.0, -1.0)]:  # a point outside ends the last piece
        if 0 <= u < 1 and 0 <= v < 1 and mask.getpixel((int(u * mask.width), int(v * mask.height))):
            piece.append((u, v))
            continue
        if len(piece) > 2:
            yield piece
        piece = []


def _print(flats: Image.Image, ink: Image.Image, shadow: Image.Image, dice: _Dice) -> Image.Image:
    """Colours, shadows and ink on paper: faded, crisp or smeared, sometimes fibrous."""
    ink = ink.reduce(2) if ink.width > SIDE else _enlarged(ink.reduce(2), SIDE)
    style = dice.pick(("none", "tone", "tone", "hatch", "dots"))
    if style == "tone":
        depth = dice.between(0.5, 0.85)
        flats.paste(flats.point(_table(lambda v: v * depth) * 3), mask=_enlarged(shadow, _FINE))
    elif style != "none":
        screen = _screen(style, int(dice.between(8, 20)), dice.between(0.15, 0.4))
        ink = ImageChops.lighter(ink, ImageChops.multiply(screen, _enlarged(shadow, SIDE)))
    luma, *chroma = flats.convert("YCbCr").split()
    lift, gain = dice.between(-15, 35), dice.between(0.75, 1.1)
    luma = _enlarged(luma.point(_table(lambda v: lift + v * gain)), SIDE)
    luma.paste(int(dice.between(0, 60)), mask=ink)
    for band in chroma:
        band.paste(128, mask=ink.reduce(2))
    if dice.pick((True, False, False)):
        paper = _enlarged(dice.noise(256, dice.between(0.03, 0.2)), SIDE)
        luma = ImageChops.add(luma, paper, 1, -128)
    return _join(luma, chroma)


def _screen(style: str, pitch: int, share: float) -> Image.Image:
    """Slanted lines or dots, `pitch` pixels apart: uint8[SIDE, SIDE]."""
    if style == "hatch":
        screen = Image.new("L", (SIDE, SIDE))
        for x in range(-SIDE, SIDE, pitch):
            ImageDraw.Draw(screen).line((x, SIDE, x + SIDE, 0), 255, max(1, int(pitch * share)))
        return screen
    dot = _mask([_ring(0.5, 0.5, share, share)], pitch * 4).reduce(4)
    rows = -(-SIDE // pitch)
    return Image.fromarray(np.tile(np.asarray(dot), (rows, rows))[:SIDE, :SIDE])

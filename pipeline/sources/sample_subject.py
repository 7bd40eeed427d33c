"""An invented person of the built-in sample, as a list of shapes in the unit square.

All arithmetic is + - * / sqrt and all randomness raw generator bits: the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from pipeline.hashing import stable_hash

T = TypeVar("T")
Point = tuple[float, float]
Rgb = tuple[int, int, int]


class Dice:
    """Throws that depend on (seed, purpose, text) and on the throws before; nothing is global."""

    def __init__(self, seed: int, purpose: str, text: str) -> None:
        self._bits = np.random.PCG64(stable_hash(seed, purpose, text))

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return low + (high - low) * ((self._bits.random_raw() >> 11) / 2**53)

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`, each as likely as the others."""
        return options[int(self.between(0, len(options)))]

    def colour(self, low: int, high: int) -> Rgb:
        """A colour, each channel from `low` to `high`."""
        return tuple(int(self.between(low, high)) for _ in range(3))

    def noise(self, side: int, strength: float) -> Image.Image:
        """Independent pixels around 128, uint8[side, side]; `side` is a multiple of 4."""
        words = self._bits.random_raw(side * side // 8)
        image = Image.frombytes("L", (side, side), words.astype("<u8", copy=False).tobytes())
        return image.point(lookup(lambda value: 128 + (value - 128) * strength))


def lookup(function: Callable[[int], float]) -> list[int]:
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
    dice = Dice(seed, "sample subject", str(number))
    return Subject(
        x=dice.between(0.42, 0.58),
        y=dice.between(0.44, 0.52),
        size=dice.between(0.26, 0.35),
        tilt=dice.between(-0.09, 0.09),
        width=dice.between(0.66, 0.8),
        jaw=dice.between(0.14, 0.38),
        skin=scaled(dice.pick(_SKINS), dice.between(0.88, 1.06)),
        hair=scaled(dice.pick(_HAIRS), dice.between(0.85, 1.2)),
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
        clothes=scaled(dice.colour(90, 250), dice.between(0.25, 1)),
        background=scaled(dice.colour(130, 250), dice.between(0.3, 1)),
    )


def scaled(colour: Rgb, factor: float) -> Rgb:
    """`colour`, brighter or darker by `factor`."""
    return tuple(min(255, int(value * factor)) for value in colour)


@dataclass(frozen=True)
class Shape:
    """A filled outline in the unit square. Without a colour it is a line for drawings alone.

    `depth`: how far in from its edge a rounded thing is shaded; 0 for a flat detail.
    `ink`: width of its outline in a drawing, relative to the pen.
    """

    points: list[Point]
    colour: Rgb | None
    depth: float = 0.0
    ink: float = 1.0
    texture: str = "skin"


def placed(s: Subject, points: Sequence[Point], *, upright: bool = False) -> list[Point]:
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


def ring(u: float, v: float, width: float, height: float) -> list[Point]:
    """The points of an ellipse around (u, v)."""
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


def stroke(points: Sequence[Point], widths: Sequence[float]) -> list[Point]:
    """The outline of a brush stroke along `points`, `widths[i]` broad at point i."""
    left, right = [], []
    for i, (u, v) in enumerate(points):
        (a, b), (c, d) = points[max(i - 1, 0)], points[min(i + 1, len(points) - 1)]
        half = widths[i] / 2 / (math.sqrt((c - a) * (c - a) + (d - b) * (d - b)) + 1e-9)
        left.append((u - (d - b) * half, v + (c - a) * half))
        right.append((u + (d - b) * half, v - (c - a) * half))
    return left + right[::-1]


def tapered(points: Sequence[Point], width: float) -> list[Point]:
    """A stroke that begins and ends thin."""
    shares = (i / (len(points) - 1) for i in range(len(points)))
    return stroke(points, [width * (0.2 + 3.2 * t * (1 - t)) for t in shares])


def body_shapes(s: Subject) -> list[Shape]:
    """The large shapes of a subject, back to front."""
    w, out, low = s.width, s.shoulders, 1.3 + s.neckline
    torso = [(-0.3, 1.15), (-out, 1.4), (-out * 1.2, 7), (out * 1.2, 7), (out, 1.4), (0.3, 1.15)]
    neck = [(-w / 2, 0.3), (w / 2, 0.3), (w * 0.62, 1.3), (0, low), (-w * 0.62, 1.3)]
    head = [(w * c * (1 - s.jaw * v * v if v > 0 else 1), v) for c, v in _CIRCLE]
    ears = [ring(side * w, 0.08, 0.1, 0.19) for side in (-1, 1)]
    shapes = [Shape(placed(s, _smooth(torso), upright=True), s.clothes, 0.12, texture="cloth")]
    shapes += [Shape(placed(s, _smooth(neck)), scaled(s.skin, 0.88), 0.06)]
    shapes += [Shape(placed(s, ear), scaled(s.skin, 0.92), 0.02) for ear in ears]
    shapes += [Shape(placed(s, head), s.skin, 0.13)]
    shapes += [Shape(placed(s, points), s.hair, 0.05, texture="hair") for points in _hair(s)]
    felt = s.clothes[::-1]  # a second colour from the same draw
    shapes += [Shape(placed(s, points), felt, 0.06, texture="cloth") for points in _hat(s)]
    if s.cut == "long":
        back = Shape(placed(s, _long_hair(s)), scaled(s.hair, 0.8), 0.1, texture="hair")
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
        return [crown, ring(brim, -0.42, wide * 1.1, 0.1)]
    corners = ((-1.05, -0.64), (0, -0.66), (1.05, -0.64), (1.05, -0.32), (0, -0.36), (-1.05, -0.32))
    return [crown, _smooth([(wide * u, v) for u, v in corners])]


def face_shapes(s: Subject) -> list[Shape]:
    """The details of a face, back to front."""
    shapes = [*_mouth(s), *_nose(s), *_eye(s, -1), *_eye(s, 1)]
    if s.glasses:
        shapes += _glasses(s)
    return [Shape(placed(s, shape.points), shape.colour, ink=shape.ink) for shape in shapes]


def _eye(s: Subject, side: int) -> list[Shape]:
    x, r = side * s.eye_gap * s.width, s.eye_size
    ball, iris = ring(x, 0.0, r, r * s.eye_open), r * min(0.5, s.eye_open)
    inner, outer = (x - side * r, -0.2 - s.brow_slope), (x + side * r * 1.4, -0.16 + s.brow_slope)
    return [
        Shape(ball, (222, 216, 210), ink=0.5),
        Shape(ring(x, 0.0, iris, iris), s.iris, ink=0.4),
        Shape(ring(x, 0.0, iris / 2, iris / 2), (18, 14, 14), ink=0.0),
        Shape(ring(x - iris / 3, -iris / 3, iris / 5, iris / 5), (250, 250, 250), ink=0.0),
        Shape(tapered(ball[19:], 0.06), (40, 28, 26), ink=0.3),
        Shape(tapered(_curve(inner, (x, -0.3), outer), s.brow), scaled(s.hair, 0.7), ink=0.3),
    ]


def _nose(s: Subject) -> list[Shape]:
    w, low, side = s.nose_width, s.nose, (1 if s.parting > 0 else -1)
    bridge = _curve((side * 0.06, 0.0), (side * w * 0.6, low * 0.7), (side * w, low))
    wing = _curve((side * w, low), (side * w * 0.4, low + 0.12), (-side * w * 0.5, low + 0.02))
    holes = [ring(x, low + 0.02, w * 0.24, 0.02) for x in (-w * 0.5, w * 0.5)]
    dark = [Shape(hole, scaled(s.skin, 0.55), ink=0.4) for hole in holes]
    return [Shape(tapered(bridge + wing[1:], 0.035), None), *dark]


def _mouth(s: Subject) -> list[Shape]:
    mid, gape = 0.54, (0.17 if s.teeth else 0.03)
    left, right = (-s.mouth, mid - s.smile), (s.mouth, mid - s.smile)
    colour = tuple((2 * a + b) // 3 for a, b in zip(s.skin, (150, 40, 50), strict=True))
    upper = _curve(left, (0, mid + s.smile - 0.05), right)
    lower = _curve(right, (0, mid + s.smile + gape), left)
    below = _curve(right, (0, mid + s.smile + gape + 0.15), left)
    lips = _curve(left, (0, mid - 0.14), right) + below
    shapes = [Shape(lips, colour, ink=0.5), Shape(upper + lower, (64, 26, 28), ink=0.6)]
    if s.teeth:
        edge = _curve(upper[-2], (0, mid + s.smile + 0.08), upper[1])
        shapes.append(Shape(upper[1:-1] + edge, (228, 222, 210), ink=0.4))
    return shapes


def _glasses(s: Subject) -> list[Shape]:
    x, r = s.eye_gap * s.width, s.eye_size * 1.4
    lines = [[(x - r, 0.0), (0.0, -0.04), (r - x, 0.0)]]
    for side in (-1, 1):
        rim = ring(side * x, 0.03, r, r * 0.85)
        lines += [[*rim, rim[0]], [(side * (x + r), -0.02), (side * s.width, -0.04)]]
    return [Shape(stroke(line, [0.035] * len(line)), (36, 32, 34), ink=0.3) for line in lines]


def hair_strands(s: Subject, dice: Dice, count: int) -> list[list[Point]]:
    """Hairs that fall from the parting to both sides."""
    lines = []
    for _ in range(count):
        side, top = dice.pick((-1, 1)), -1.2 - s.volume
        wide = side * (s.width * dice.between(0.5, 1.5) + s.volume)
        start = (s.parting * s.width * 0.6 + dice.between(-0.3, 0.3), top)
        end = (wide * dice.between(0.7, 1.1), dice.between(-0.3, 1.7))
        lines.append(placed(s, _curve(start, (wide, dice.between(-1.3, -0.6)), end)))
    return lines

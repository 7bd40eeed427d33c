"""A person of the built-in sample, as a photograph and as a drawing: one list of shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.sources.sample_subject import (
    Dice,
    Point,
    Rgb,
    Shape,
    Subject,
    body_shapes,
    face_shapes,
    hair_strands,
    lookup,
    placed,
    ring,
    scaled,
    stroke,
    tapered,
)

SIDE = 1024
"""Height and width of every image in pixels, as in the collection that this one stands in for."""


@dataclass(frozen=True)
class _Light:
    """Where the light comes from (above, from a random side) and how hard it is, from 0 to 1."""

    u: float
    v: float
    contrast: float

    @classmethod
    def cast(cls, dice: Dice) -> _Light:
        side = dice.pick((-1, 1))
        return cls(side * dice.between(0.5, 1), -dice.between(0.2, 0.8), dice.between(0.35, 0.8))

    def toward(self, points: Sequence[Point], distance: float) -> list[Point]:
        return [(u + self.u * distance, v + self.v * distance) for u, v in points]


_SMALL, _COARSE, _FINE = 64, 192, 512
"""Pixels of a side. What is soft needs few, the details of a face need more."""


def photograph(s: Subject, dice: Dice) -> Image.Image:
    """Soft shading, blur, texture and noise: YCbCr, SIDE x SIDE."""
    light, body = _Light.cast(dice), body_shapes(s)
    flats = _backdrop(s.background, dice)
    pen = ImageDraw.Draw(flats)
    for shape in [*body, *face_shapes(s)]:
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


def _backdrop(colour: Rgb, dice: Dice) -> Image.Image:
    """An unsharp background, a gradient and discs out of focus: RGB, _FINE x _FINE."""
    image = Image.new("RGB", (128, 128), colour)
    ramp = Image.linear_gradient("L").rotate(dice.pick((0, 90, 180, 270))).reduce(2)
    image.paste(scaled(colour, dice.between(0.4, 1.3)), mask=ramp)
    pen = ImageDraw.Draw(image)
    for _ in range(dice.pick((0, 0, 12, 25, 50))):
        x, y, r = dice.between(0, 128), dice.between(0, 128), dice.between(2, 13)
        pen.ellipse((x - r, y - r, x + r, y + r), scaled(colour, dice.between(0.5, 1.5)))
    return _enlarged(image.filter(ImageFilter.BoxBlur(dice.between(0.8, 3))), _FINE)


def _textures(s: Subject, dice: Dice) -> dict[str, Image.Image]:
    """What is added to the shading, by kind of surface: uint8[_COARSE, _COARSE] around 128."""
    hair, strength = Image.new("L", (_COARSE, _COARSE), 128), dice.between(20, 80)
    for line in hair_strands(s, dice, 50):
        shade = int(128 + dice.between(-strength, strength))
        ImageDraw.Draw(hair).line(_pixels(line, _COARSE), shade, 2)
    skin = _enlarged(dice.noise(96, dice.between(0.02, 0.15)), _COARSE)
    cloth = _enlarged(dice.noise(64, dice.between(0.02, 0.4)), _COARSE)
    return {"hair": hair, "cloth": cloth, "skin": skin}


def _model(shade: Image.Image, shape: Shape, light: _Light, texture: Image.Image) -> None:
    """Lay the shading of a rounded `shape` on `shade`, and its soft shadow on what lies behind."""
    near, far = _sides([shape.points], light, shape.depth)
    shade.paste(20, mask=_enlarged(far.point(_FAINT), _COARSE))
    slope = _enlarged(ImageChops.subtract(near, far, 1, 128), _COARSE)
    mask = _mask([shape.points], _COARSE * 2).reduce(2)
    shade.paste(ImageChops.add(slope, texture, 1, -128), mask=mask)


_FAINT = lookup(lambda value: value * 0.4)


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
    cheeks = [ring(side * s.width * 0.54, 0.32, 0.16, 0.15) for side in (-1, 1)]
    high = [placed(s, points) for points in (nose, *cheeks, ring(0, 0.84, 0.18, 0.1))]
    near, far = _sides(high, light, 0.022)
    relief = ImageChops.subtract(near, far, 3, 128)
    sockets = [ring(side * s.eye_gap * s.width, -0.05, 0.2, 0.14) for side in (-1, 1)]
    mask, _ = _sides([placed(s, points) for points in sockets], light, 0.02)
    relief.paste(40, mask=mask.point(_FAINT))
    return _enlarged(relief, _COARSE)


def _develop(flats: Image.Image, shade: Image.Image, contrast: float, dice: Dice) -> Image.Image:
    """Lens and sensor: contrast, vignette, sharpness, exposure, grain coarse and fine."""
    fall, gain, lift = dice.between(0.1, 0.5), dice.between(0.85, 1.3), dice.between(-8, 25)
    shade = shade.point(lookup(lambda v: 128 + (v - 128) * contrast))
    rim = Image.radial_gradient("L").point(lookup(lambda v: 255 - v * v / 255 * fall))
    shade = ImageChops.multiply(shade, rim.resize(shade.size))
    grain = dice.noise(_COARSE, dice.between(0.01, 0.15))
    shade = _enlarged(ImageChops.add(shade, grain, 1, -128), _FINE)
    luma, *chroma = flats.convert("YCbCr").split()
    luma = luma.filter(ImageFilter.BoxBlur(dice.between(0.6, 2)))
    luma = ImageChops.multiply(luma, shade).point(lookup(lambda v: 2 * v * gain + lift))
    pale = shade.point(lookup(lambda v: abs(v - 128) * 1.5 - 10))
    for band in chroma:  # both shadow and gloss have little colour
        band.paste(128, mask=pale)
    noise = dice.noise(SIDE, dice.between(0.01, 0.08))
    return _join(ImageChops.add(_enlarged(luma, SIDE), noise, 1, -128), chroma)


def _join(luma: Image.Image, chroma: Sequence[Image.Image]) -> Image.Image:
    """Chroma at half the size is all that a JPEG keeps, so doubling its pixels loses nothing."""
    doubled = [band.resize(luma.size, Image.Resampling.NEAREST) for band in chroma]
    return Image.merge("YCbCr", [luma, *doubled])


def drawing(s: Subject, dice: Dice) -> Image.Image:
    """Flat colours, hard shadows, ink lines: YCbCr, SIDE x SIDE."""
    light, pen, crisp = _Light.cast(dice), dice.between(0.002, 0.006), dice.pick((True, False))
    flats = Image.new("RGB", (_FINE, _FINE), _poster(s.background))
    shadow, hair = Image.new("L", (256, 256)), Image.new("L", (256, 256))
    ink = _mask([], SIDE * 2 if crisp else SIDE)  # halved in the end, for smooth lines
    for shape in body_shapes(s):
        _cast_shadow(shadow, shape, light)
        ImageDraw.Draw(hair).polygon(_pixels(shape.points, 256), 255 * (shape.texture == "hair"))
        _draw(flats, ink, shape, _line(shape, light, pen))
    for line in hair_strands(s, dice, int(dice.between(5, 45))):
        for lock in _within(hair, line):
            stroke = tapered(lock, pen * dice.between(0.4, 1.2))
            ImageDraw.Draw(ink).polygon(_pixels(stroke, ink.width), 255)
    for shape in face_shapes(s):
        _draw(flats, ink, shape, _line(shape, light, pen))
    return _print(flats, ink, shadow, dice)


def _poster(colour: Rgb) -> Rgb:
    """The colour on one of few levels of brightness, its hue kept and made stronger."""
    most = max(colour)
    level = max(48, (most + 24) // 48 * 48)
    return tuple(max(0, level - (most - value) * 6 // 5 * level // most) for value in colour)


def _cast_shadow(shadow: Image.Image, shape: Shape, light: _Light) -> None:
    """Mark the side of `shape` that is turned from the light, clear the rest of it."""
    mask = _mask([shape.points], shadow.width)
    dark = mask.copy()
    lit = light.toward(shape.points, shape.depth * 0.4)
    ImageDraw.Draw(dark).polygon(_pixels(lit, shadow.width), 0)
    shadow.paste(dark, mask=mask)


def _line(shape: Shape, light: _Light, pen: float) -> list[Point]:
    """The ink line round `shape`, broad where it is turned from the light."""
    if shape.colour is None:
        return shape.points
    around, widths = [*shape.points, shape.points[0]], []
    for (u, v), (x, y) in zip(around, [*around[1:], around[1]], strict=True):
        length = math.sqrt((x - u) * (x - u) + (y - v) * (y - v)) + 1e-9
        facing = ((y - v) * light.u - (x - u) * light.v) / length
        widths.append(pen * shape.ink * (1.1 - 0.8 * facing))
    return stroke(around, widths)


def _draw(flats: Image.Image, ink: Image.Image, shape: Shape, line: list[Point]) -> None:
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


def _print(flats: Image.Image, ink: Image.Image, shadow: Image.Image, dice: Dice) -> Image.Image:
    """Colours, shadows and ink on paper: faded, crisp or smeared, sometimes fibrous."""
    ink = ink.reduce(2) if ink.width > SIDE else _enlarged(ink.reduce(2), SIDE)
    style = dice.pick(("none", "tone", "tone", "hatch", "dots"))
    if style == "tone":
        depth = dice.between(0.5, 0.85)
        flats.paste(flats.point(lookup(lambda v: v * depth) * 3), mask=_enlarged(shadow, _FINE))
    elif style != "none":
        screen = _screen(style, int(dice.between(8, 20)), dice.between(0.15, 0.4))
        ink = ImageChops.lighter(ink, ImageChops.multiply(screen, _enlarged(shadow, SIDE)))
    luma, *chroma = flats.convert("YCbCr").split()
    lift, gain = dice.between(-15, 35), dice.between(0.75, 1.1)
    luma = _enlarged(luma.point(lookup(lambda v: lift + v * gain)), SIDE)
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
    dot = _mask([ring(0.5, 0.5, share, share)], pitch * 4).reduce(4)
    rows = -(-SIDE // pitch)
    return Image.fromarray(np.tile(np.asarray(dot), (rows, rows))[:SIDE, :SIDE])

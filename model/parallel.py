"""Parallel coordinates: a line for each training across axes for what it was given and what came of it.

Made of plain lines: Plotly's own kind of such charts needs WebGL and cannot name a line. The last axis
is a loss, and decides the colour of a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from model.charts import draw_chart, plain

Value = float | str | None

_BEST_TO_WORST = ((59, 130, 246), (168, 85, 247), (249, 115, 22))
"""Red, green and blue for the lowest loss, the middle and the highest: to be seen on white and on
black, and told apart by those who cannot tell red from green."""
_FEW_VALUES = 8  # up to so many different ones, each has a place of its own
_WIDE_RANGE = 20  # highest by lowest number from which on an axis is logarithmic
_SPREAD = 0.4  # lines through one place share so much of the room about it


@dataclass(frozen=True)
class Axis:
    """One axis: its value for each line; None leaves a gap."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True)
class Scale:
    """Where the values of an axis stand on it, from 0 to 1, and what is written beside it where."""

    places: Sequence[float | None]
    ticks: Sequence[tuple[float, str]]


def parallel_chart(
    title: str, names: Sequence[str], axes: Sequence[Axis], *, div_id: str
) -> Markup:
    """A line for each of `names`, the best on top, as a fragment of HTML.

    The last of `axes` holds a loss for each line. Raises ValueError if one is no finite number.
    """
    losses = axes[-1].values
    if not all(isinstance(loss, float | int) and math.isfinite(loss) for loss in losses):
        raise ValueError(f"{axes[-1].name}: every line needs a finite number, received {losses}")
    best_first = sorted(range(len(names)), key=losses.__getitem__)
    scales = [
        *(place_values(axis.values, best_first) for axis in axes[:-1]),
        measure_numbers(losses),
    ]
    lines = [_line(names[one], one, axes, scales) for one in reversed(best_first)]
    return draw_chart(
        title, [*lines, _tick_texts(scales)], _layout(axes), div_id=div_id, height=420
    )


def place_values(values: Sequence[Value], best_first: Sequence[int]) -> Scale:
    """A few values get a place each, in their order; many numbers are measured.

    Lines that share a place lie side by side there, in the order of `best_first`.
    """
    there = {value for value in values if value is not None}
    if len(there) > _FEW_VALUES and not any(isinstance(value, str) for value in there):
        return measure_numbers(values)
    kinds = sorted(there, key=lambda value: (isinstance(value, str), value))
    places: list[float | None] = [None] * len(values)
    for number, kind in enumerate(kinds):
        sharing = [line for line in best_first if values[line] == kind]
        for position, line in enumerate(sharing):
            aside = (position + 0.5) / len(sharing) - 0.5
            places[line] = (number + 0.5 + _SPREAD * aside) / len(kinds)
    return Scale(
        places, [((n + 0.5) / len(kinds), show_value(kind)) for n, kind in enumerate(kinds)]
    )


def measure_numbers(values: Sequence[float | None]) -> Scale:
    """Numbers stand by their size, by its logarithm where they range widely."""
    there = [value for value in values if value is not None]
    low, high = min(there), max(there)
    wide = low > 0 and high / low >= _WIDE_RANGE
    to, back = (math.log, math.exp) if wide else (float, float)
    width = (to(high) - to(low)) or 1.0
    places = [None if value is None else (to(value) - to(low)) / width for value in values]
    steps = (0, 0.25, 0.5, 0.75, 1) if high > low else (0,)
    return Scale(places, [(step, f"{back(to(low) + step * width):.3g}") for step in steps])


def show_value(value: Value) -> str:
    """`0.001`, `64`, `flip`; a dash for None."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.6g}"


def _line(name: str, number: int, axes: Sequence[Axis], scales: Sequence[Scale]) -> dict[str, Any]:
    told = "<br>".join(plain(f"{axis.name}: {show_value(axis.values[number])}") for axis in axes)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": list(range(len(axes))),
        "y": [scale.places[number] for scale in scales],
        "text": [told] * len(axes),
        "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        "line": {"width": 2, "color": _colour(scales[-1].places[number])},
        "marker": {"size": 6},
    }


def _colour(place: float) -> str:
    """Between the colours of `_BEST_TO_WORST`, for `place` from 0 to 1."""
    first = min(int(place * 2), 1)
    share = place * 2 - first
    pairs = zip(_BEST_TO_WORST[first], _BEST_TO_WORST[first + 1], strict=True)
    return "rgb({},{},{})".format(*(round(a + share * (b - a)) for a, b in pairs))


def _tick_texts(scales: Sequence[Scale]) -> dict[str, Any]:
    """What is written beside the axes: on the left, and right of the last, where no line comes."""
    ticks = [(x, place, text) for x, scale in enumerate(scales) for place, text in scale.ticks]
    last = len(scales) - 1
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x for x, _, _ in ticks],
        "y": [place for _, place, _ in ticks],
        "text": [f" {plain(text)} " for _, _, text in ticks],
        "textposition": ["middle right" if x == last else "middle left" for x, _, _ in ticks],
        "textfont": {"size": 11},
        "hoverinfo": "skip",
    }


def _layout(axes: Sequence[Axis]) -> dict[str, Any]:
    return {
        "showlegend": False,
        "hoverdistance": 40,
        "xaxis": {
            **{"tickvals": list(range(len(axes))), "ticktext": [plain(a.name) for a in axes]},
            **{"side": "top", "gridwidth": 2, "zeroline": False, "fixedrange": True},
            "range": [-0.5, len(axes) - 0.5],
        },
        "yaxis": {"visible": False, "fixedrange": True, "range": [-0.05, 1.05]},
        "margin": {"l": 8, "r": 8, "t": 76, "b": 8},
    }

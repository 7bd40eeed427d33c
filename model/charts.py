"""Interactive charts for a page, as HTML: hover names a point, a click on the legend hides a line.

Drawn by Plotly, whose script the page holds once (`model.pages`). Nothing is fetched from anywhere.
Colours of text and grid are the page's business: they follow its light or dark scheme. So is the
legend of a `linked_chart`: one legend for lines that stand in several charts.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.errors import printable

_COLOURS = ("#3b82f6", "#f97316", "#16a34a", "#a855f7", "#e11d48", "#0891b2", "#ca8a04", "#64748b")
_MORE_COLOURS = (*_COLOURS, "#f472b6")
_DASHES = ("", "7,3", "2,3", "11,3,2,3", "4,7", "16,4")
_FAINT = "#94a3b8"
_FEW_TICKS = 12
_HOVER = (  # names are looked up, not written in: they could hold a %{…} of their own
    "<b>%{fullData.name}</b><br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y:.5~g}"
)


@dataclass(frozen=True)
class Look:
    """What tells a line from others: its colour, and the lengths of its dashes and gaps in pixels."""

    colour: str
    dash: str = ""


@dataclass(frozen=True)
class Line:
    """One line: its points in order; NaN in `y` leaves a gap.

    notes: a text for each point, to be read on hovering; dashed: for what is there to compare with;
    look: where it is not to come from the order of the lines.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    notes: Sequence[str] = ()
    dashed: bool = False
    look: Look | None = None


def looks(count: int) -> list[Look]:
    """A look for each of `count` lines: 54 of them differ, neighbours in their colour."""
    return [
        Look(_MORE_COLOURS[place], _DASHES[turn % len(_DASHES)])
        for turn, place in (divmod(number, len(_MORE_COLOURS)) for number in range(count))
    ]


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str) -> Markup:
    """A chart of `lines` as a fragment of HTML; `title` must be the only one such on its page."""
    layout = _axes(lines, x_label, y_label) | {"colorway": _COLOURS, "showlegend": len(lines) > 1}
    name = "chart-" + re.sub(r"\W+", "-", title.lower())
    return draw_chart(title, [_trace(line) for line in lines], layout, div_id=name, height=320)


def linked_chart(
    title: str, lines: Sequence[Line], *, x_label: str, y_label: str, div_id: str, logarithmic: bool
) -> Markup:
    """A chart of many `lines` as a fragment of HTML, without a legend: the page links several.

    logarithmic: whether `y` is shown so.
    """
    layout = _axes(lines, x_label, y_label) | {"showlegend": False}
    layout["yaxis"]["type"] = "log" if logarithmic else "linear"
    return draw_chart(title, [_trace(line) for line in lines], layout, div_id=div_id, height=400)


def draw_chart(
    title: str,
    traces: Sequence[dict[str, Any]],
    layout: dict[str, Any],
    *,
    div_id: str,
    height: int,
) -> Markup:
    """Plotly's `traces` as a fragment of HTML, so many pixels high; `layout` is added to ours."""
    import plotly.graph_objects as go  # slow to load
    from plotly.io import to_html

    frame = {
        "template": "none",
        "title": {
            **{"text": plain(title), "font": {"size": 15}, "x": 0, "xref": "paper"},
            **{"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 8}},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 56, "b": 48},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        "hoverlabel": {"namelength": -1, "align": "left"},
    }
    fragment = to_html(
        go.Figure(list(traces), frame | layout),
        config={"displayModeBar": False, "responsive": True},  # its buttons can send data away
        include_plotlyjs=False,
        full_html=False,
        default_height=f"{height}px",
        div_id=div_id,
    )
    return Markup(fragment)


def _axes(lines: Sequence[Line], x_label: str, y_label: str) -> dict[str, Any]:
    x = {value for line in lines for value in line.x}
    counted = len(x) <= _FEW_TICKS and all(float(value).is_integer() for value in x)
    return {
        "xaxis": {"title": {"text": plain(x_label)}, "zeroline": False}
        | ({"dtick": 1} if counted else {}),  # there is no half an epoch
        "yaxis": {"title": {"text": plain(y_label)}, "zeroline": False, "automargin": True},
    }


def _trace(line: Line) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if line.dashed else "lines+markers",
        "name": plain(line.name),
        "x": list(line.x),
        "y": list(line.y),
        "text": [plain(note) for note in line.notes],
        "hovertemplate": _HOVER + ("<br>%{text}" if line.notes else "") + "<extra></extra>",
        "line": {"width": 2} | _line_style(line),
        "marker": {"size": 5},
    }


def _line_style(line: Line) -> dict[str, str]:
    if line.dashed:
        return {"dash": "dash", "color": _FAINT}
    if line.look is None:
        return {}
    return {"color": line.look.colour, "dash": line.look.dash or "solid"}


def plain(text: str) -> str:
    """`text` to be shown as it is: Plotly takes some HTML in its texts for markup."""
    return html.escape(printable(text), quote=False)

"""Interactive charts for a page, as HTML: hover names a point, a click on the legend hides a line.

Drawn by Plotly, whose script the page holds once (`model.pages`). Nothing is fetched from anywhere.
Colours of text and grid are the page's business: they follow its light or dark scheme.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.errors import printable

_COLOURS = ("#3b82f6", "#f97316", "#16a34a", "#a855f7", "#e11d48", "#0891b2", "#ca8a04", "#64748b")
_FAINT = "#94a3b8"
_HEIGHT = "320px"
_HOVER = (  # names are looked up, not written in: they could hold a %{…} of their own
    "<b>%{fullData.name}</b><br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y:.5~g}"
)


@dataclass(frozen=True)
class Line:
    """One line: its points in order; NaN in `y` leaves a gap.

    notes: a text for each point, to be read on hovering; dashed: for what is there to compare with.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    notes: Sequence[str] = ()
    dashed: bool = False


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str) -> Markup:
    """A chart of `lines` as a fragment of HTML; `title` must be the only one such on its page."""
    import plotly.graph_objects as go  # slow to load
    from plotly.io import to_html

    figure = go.Figure(
        [_trace(line) for line in lines],
        {
            "template": "none",
            "title": {
                **{"text": _plain(title), "font": {"size": 15}, "x": 0, "xref": "paper"},
                **{"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 8}},
            },
            "xaxis": {"title": {"text": _plain(x_label)}, "zeroline": False},
            "yaxis": {"title": {"text": _plain(y_label)}, "zeroline": False, "automargin": True},
            "colorway": _COLOURS,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 56, "r": 12, "t": 56, "b": 48},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right"},
            "showlegend": len(lines) > 1,
            "hoverlabel": {"namelength": -1, "align": "left"},
        },
    )
    fragment = to_html(
        figure,
        config={"displayModeBar": False, "responsive": True},  # its buttons can send data away
        include_plotlyjs=False,
        full_html=False,
        default_height=_HEIGHT,
        div_id="chart-" + re.sub(r"\W+", "-", title.lower()),
    )
    return Markup(fragment)


def _trace(line: Line) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines" if line.dashed else "lines+markers",
        "name": _plain(line.name),
        "x": list(line.x),
        "y": list(line.y),
        "text": [_plain(note) for note in line.notes],
        "hovertemplate": _HOVER + ("<br>%{text}" if line.notes else "") + "<extra></extra>",
        "line": {"width": 2} | ({"dash": "dash", "color": _FAINT} if line.dashed else {}),
        "marker": {"size": 5},
    }


def _plain(text: str) -> str:
    """`text` to be shown as it is: Plotly takes some HTML in its texts for markup."""
    return html.escape(printable(text), quote=False)

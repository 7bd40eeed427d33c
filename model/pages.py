"""Pages to be read offline: one HTML file with its style, its script and its images in it.

Templates stand in `model/templates/`. Whatever a template is given is text: escaped, and with
everything that could turn a line around made visible. Only `Markup` is taken for HTML.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipeline.console import clock
from pipeline.errors import printable

REPORT_FILE = "report.html"
_NONE = "–"  # where there is no figure


def render_page(template: str, values: dict[str, Any]) -> str:
    """The page that `template` makes of `values`; Plotly's script is `plotly_script` in it.

    Raises LookupError if `values` lack what the template shows.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("model"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        **{"percent": percent, "decimals": decimals, "thousands": thousands},
        **{"duration": duration, "shown": shown},
    }
    script = Markup(get_plotlyjs())
    try:
        return environment.get_template(template).render(values, plotly_script=script)
    except jinja2.UndefinedError as error:
        raise LookupError(str(error)) from error


def _readable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float | None) -> str:
    """`98.27%`; a dash where there is no figure."""
    return _NONE if share is None else f"{100 * share:.2f}%"


def decimals(value: float | None, places: int) -> str:
    """`0.1365` with four `places`; a dash where there is no figure."""
    return _NONE if value is None else f"{value:,.{places}f}"


def thousands(number: float | None) -> str:
    """`42,529`; a dash where there is no figure."""
    return _NONE if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """`1:02:03`; a dash where there is no figure."""
    return _NONE if seconds is None else clock(seconds)


def shown(value: Any) -> str:
    """The value of an option to be read: `flip, shift`; `none` where nothing was given."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

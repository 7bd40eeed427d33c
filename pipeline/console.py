"""What a command shows a person: its options, a progress line on a terminal, a table at the end."""

from __future__ import annotations

import argparse
import difflib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TextIO

from pipeline.errors import UsageError, printable


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and raises UsageError instead of exiting."""

    def __init__(self, prog: str, description: str, *, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse `argv`; an unknown argument raises UsageError."""
        options, unknown = self.parse_known_args(argv)
        self.refuse(unknown)
        return options

    def refuse(
        self, unknown: Sequence[str], also_known: argparse.ArgumentParser | None = None
    ) -> None:
        """Raise UsageError for the first of `unknown` arguments; name the option nearest to it."""
        if not unknown:
            return
        flag = unknown[0].split("=")[0]
        parsers = (self, also_known) if also_known else (self,)
        known = [name for p in parsers for action in p._actions for name in action.option_strings]
        close = difflib.get_close_matches(flag, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        raise UsageError(f"unknown option {flag}{hint} see {self.prog} --help")


class Progress:
    """A line on a terminal, rewritten as `done` grows; silent where `stream` is no terminal.

    `done` is asked twice a second, from a thread of its own, and returns how many of `total`, which
    may be a function where it is learnt on the way.
    """

    def __init__(
        self,
        done: Callable[[], int],
        *,
        total: int | Callable[[], int],
        unit: str,
        stream: TextIO | None = None,
    ) -> None:
        self._done, self._total, self._unit = done, total, unit
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._start, self._first = time.monotonic(), self._done()
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread.ident:
            self._thread.join()
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _show(self) -> None:
        while not self._stop.wait(0.5):
            line = progress_line(
                self._done(),
                total=self._total() if callable(self._total) else self._total,
                first=self._first,
                seconds=time.monotonic() - self._start,
                unit=self._unit,
            )
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()


def progress_line(done: int, *, total: int, first: int, seconds: float, unit: str) -> str:
    """`1,200 of 20,000 images (6 %)  850 images/s  0:22 left`; `first` were done at the start."""
    rate = (done - first) / seconds if seconds > 0 else 0.0
    left = clock((total - done) / rate) if rate > 0 else "?"
    percent = 100 * done // total if total else 100
    return f"{done:,} of {total:,} {unit} ({percent} %)  {rate:,.0f} {unit}/s  {left} left"


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def name_some(names: Sequence[str], limit: int = 8) -> str:
    """The first `limit` of `names`, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def table(rows: Iterable[Sequence[object]]) -> str:
    """`rows`, the first of them the headings, in aligned columns; numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(cell) for cell in column) for column in zip(*cells[1:], strict=True)]
    lines = []
    for row in cells:
        columns = zip(row, widths, numeric, strict=True)
        lines.append("  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in columns).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()

"""What a search shows while it works: a line for each running trial, and one when a trial is done."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from pipeline.errors import printable


class Board:
    """Lines that are rewritten on a terminal; elsewhere, and if `quiet`, they are not shown.

    Finished things are said on standard output, unless `quiet`. Threads may share it.
    """

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live = not quiet and self._stream.isatty()
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}
        self._drawn = 0

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._quiet:
            return
        with self._lock:
            self._erase()
            print(printable(line), flush=True)

    def show(self, worker: str, line: str) -> None:
        """What a worker does now; an empty line for nothing."""
        with self._lock:
            self._running.pop(worker, None)
            if line:
                self._running[worker] = line

    def draw(self, last: Callable[[], str]) -> None:
        """Bring the terminal up to date; `last`: the line below all."""
        if not self._live:
            return
        with self._lock:
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            lines = [*self._running.values(), last()]
            self._stream.write("".join(f"{printable(line)[:width]}\n" for line in lines))
            self._stream.flush()
            self._drawn = len(lines)

    def clear(self) -> None:
        """Leave the terminal clean."""
        with self._lock:
            self._erase()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._stream.flush()
            self._drawn = 0

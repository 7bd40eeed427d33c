"""One program run to its end: wall time, processor time, and the peak memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.2
LIMIT_SECONDS = 1800.0
_TICKS = os.sysconf("SC_CLK_TCK")  # per second, in /proc/stat


@dataclass(frozen=True)
class Measured:
    """What one run cost.

    seconds: from start to exit, start-up included; cpu_seconds: user and system, of the process and
    all the children it waited for; peak_mb: the largest sum of PSS seen over all its processes;
    foreign_cores: how many processor cores other programs kept busy meanwhile, on average.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    foreign_cores: float


class RunFailed(Exception):
    """The program did not end well; the message is the last line that it wrote."""


def run(command: Sequence[str], *, cwd: Path, log: Path) -> Measured:
    """Run `command`, all that it writes goes to `log`. Raises RunFailed."""
    own, busy = time.process_time(), _busy_seconds()
    with open(log, "wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        memory = _PeakMemory(session=process.pid, deadline=start + LIMIT_SECONDS)
        memory.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    memory.stop()
    cpu = usage.ru_utime + usage.ru_stime
    foreign = _busy_seconds() - busy - cpu - (time.process_time() - own)
    if process.returncode:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        raise RunFailed(f"exit status {process.returncode}: {last.strip()[:300]}")
    return Measured(seconds, cpu, memory.peak / 1e6, max(0.0, foreign / seconds))


class _PeakMemory(threading.Thread):
    """Watches the processes of a session (the program and all that it started).

    PSS counts a page that n processes share as 1/n in each, so the sum counts no page twice, and
    workers that were forked are not charged for what they share with their parent.
    """

    def __init__(self, session: int, deadline: float) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._session, self._deadline = session, deadline
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            self.peak = max(self.peak, sum(map(_pss, _processes(self._session))))
            if time.perf_counter() > self._deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._session, signal.SIGKILL)
            self._done.wait(SAMPLE_SECONDS)

    def stop(self) -> None:
        self._done.set()
        self.join()


def _processes(session: int) -> Iterator[int]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended while we looked
            stat = Path("/proc", name, "stat").read_text()
            if int(stat.rpartition(")")[2].split()[3]) == session:
                yield int(name)


def _pss(process: int) -> int:
    """Bytes of memory of one process, its share of what is shared; 0 if it is gone."""
    try:
        rollup = Path("/proc", str(process), "smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _busy_seconds() -> float:
    """Seconds that all cores of this machine together have been busy since it started."""
    user, nice, system, _idle, _iowait, *interrupts_and_steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts_and_steal)) / _TICKS

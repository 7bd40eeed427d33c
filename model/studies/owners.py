"""Who works on a trial: a process that any other can look for, if it is on the same machine."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Owner:
    """A worker. `machine` names host, boot and process namespace: only there `pid` means something.

    started: clock ticks since the boot, as a number is given to another process some day; id: of this
    one worker, as a process may hold several.
    """

    id: str
    host: str
    machine: str
    pid: int
    started: int

    @classmethod
    def here(cls) -> Owner:
        """A new worker of this process."""
        pid = os.getpid()
        return cls(uuid4().hex, socket.gethostname(), _machine(), pid, _started(pid) or 0)

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def is_dead(self) -> bool:
        """Whether it is known to have ended: False where that cannot be seen from here."""
        return (
            bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started
        )


def _machine() -> str:
    """Empty where the system does not tell (it is no Linux): then nobody is known to be dead."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process began; None if there is none, or if it has ended and was not yet waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if fields[0] in "ZX" else int(fields[19])

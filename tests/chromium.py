"""A real, headless Chromium that opens a page: driven through its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT = 60  # seconds for any one answer
_FIRST_FREE = 10  # Chromium reads from file descriptor 3 and writes to 4: ours must be others


def find_chromium() -> str:
    """The program; without one the test is skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium: apt-get install chromium")
    return found


class Chromium:
    """One browser with one tab; `events` holds what it reported, oldest first."""

    def __init__(self, profile: Path) -> None:
        program = find_chromium()
        ours_in, theirs_out = _pipe()
        theirs_in, ours_out = _pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs_in, 3),
            (os.POSIX_SPAWN_DUP2, theirs_out, 4),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--remote-debugging-pipe"),
            f"--user-data-dir={profile}",
        ]
        self._process = os.posix_spawn(
            program, [program, *options], os.environ, file_actions=actions, setsid=True
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._buffer = ours_in, ours_out, b""
        self._numbers, self._session = itertools.count(1), None
        self.events: list[dict[str, Any]] = []
        tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol; its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            assert data, "Chromium has gone, or does not answer"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(self, page: Path) -> None:
        """Load `page`, and wait until its scripts have run and it has been drawn."""
        self.events.clear()
        self.ask("Page.navigate", url=page.absolute().as_uri())
        while not self._saw("Page.loadEventFired"):
            self.events.append(self._receive())
        self.settle()

    def _saw(self, method: str) -> bool:
        return any(event.get("method") == method for event in self.events)

    def settle(self) -> None:
        """Wait until what was begun has been drawn."""
        frame = "new Promise((go) => requestAnimationFrame(go))"
        self.run(
            f"{frame}.then(() => new Promise((go) => setTimeout(go, 300))).then(() => {frame})"
        )

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it promises."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def point_at(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place of the window, in CSS pixels."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x - 2, y=y - 2)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def show_as(self, *, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window in CSS pixels and the scheme that its user prefers."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        window = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.ask("Emulation.setDeviceMetricsOverride", **window, mobile=width < 600)

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def requests(self) -> list[str]:
        """Every address that was asked for since `open`, the page's own first."""
        wanted = "Network.requestWillBeSent"
        events = [event["params"] for event in self.events if event.get("method") == wanted]
        return [event["request"]["url"] for event in events]

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings on the console since `open`, exceptions and refused contents included."""
        return [
            event
            for event in self.events
            if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
            or (
                event.get("method") == "Runtime.consoleAPICalled"
                and event["params"]["type"] in ("error", "warning", "assert")
            )
        ]

    def close(self) -> None:
        """End the browser and all its processes."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)


def _pipe() -> tuple[int, int]:
    """Both ends of a pipe, for reading and for writing, neither of them inherited."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for end in ends)
    for end in ends:
        os.close(end)
    return moved

"""A stand-in for Kaggle on loopback: an API server that redirects to a storage server.

The API listens where Kaggle's client looks for it under KAGGLE_API_ENVIRONMENT=TEST. Storage is
another origin, as in real life, and answers Range, If-Range and ETag as Google's does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API_PORT = 7777  # fixed in kagglesdk/kaggle_env.py
API_PATH = "/api/v1/datasets.DatasetApiService/DownloadDataset"
SIGNATURE = "X-Goog-Signature=5167AA7E"


@dataclass
class Seen:
    """One request as it arrived."""

    server: str
    method: str
    headers: dict[str, str]
    body: dict[str, object] | None = None


@dataclass
class StandIn:
    """What the two servers give, and what they were asked. A test changes it as it goes."""

    content: bytes
    etag: str | None = None
    promised: int | None = None  # a Content-Length that is not the content's
    cuts: list[int] = field(default_factory=list)  # bytes after which each next answer breaks off
    knows_ranges: bool = True
    longest_range: int | None = None  # gives no more than this of the rest that is asked for
    later: bytes | None = None  # what takes the content's place after the next answer
    api_answers: list[tuple[int, bytes]] = field(default_factory=list)  # instead of redirects
    seconds_before_bytes: float = 0
    storage_port: int = 0
    seen: list[Seen] = field(default_factory=list)

    def asked(self, server: str) -> list[Seen]:
        """The requests that reached `server`, "api" or "storage"."""
        return [request for request in self.seen if request.server == server]

    def ranges(self) -> list[str | None]:
        """The Range header of every request to storage."""
        return [request.headers.get("Range") for request in self.asked("storage")]

    @property
    def current_etag(self) -> str:
        return self.etag or f'"{hashlib.sha256(self.content).hexdigest()}"'


@contextlib.contextmanager
def serve(standin: StandIn) -> Iterator[StandIn]:
    """Both servers, up while the block runs. OSError if the API's port is taken."""
    handlers = {"api": (_Api, API_PORT), "storage": (_Storage, 0)}
    with contextlib.ExitStack() as stack:
        for name, (handler, port) in handlers.items():
            bound = type(name, (handler,), {"standin": standin, "name": name})
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", port), bound))
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            standin.storage_port = server.server_address[1]  # the last one's
        yield standin


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    standin: StandIn
    name: str

    def log_message(self, *args: object) -> None:
        """Silent: tests look at what is printed."""

    def note(self, body: dict[str, object] | None = None) -> None:
        self.standin.seen.append(Seen(self.name, self.command, dict(self.headers), body))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class _Api(_Handler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.note(body)
        if self.path != API_PATH:
            self.answer(404, b"", Content_Length="0")
        elif self.standin.api_answers:
            status, text = self.standin.api_answers.pop(0)
            kind = "application/json" if text.startswith(b"{") else "text/html"
            self.answer(status, text, Content_Length=str(len(text)), Content_Type=kind)
        else:
            place = f"http://127.0.0.1:{self.standin.storage_port}/sets/93/13206/archive.zip"
            self.answer(302, b"", Content_Length="0", Location=f"{place}?{SIGNATURE}")


class _Storage(_Handler):
    def do_GET(self) -> None:
        self.note()
        standin, content, start = self.standin, self.standin.content, self.wanted_start()
        if start >= len(content):
            self.answer(416, b"", Content_Length="0", Content_Range=f"bytes */{len(content)}")
            return
        etag, body = standin.current_etag, content[start:]
        if start:
            body = body[: standin.longest_range]
            self.head(206, etag, len(body), f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        else:
            self.head(200, etag, standin.promised or len(body))
        if standin.later is not None:
            standin.content, standin.later = standin.later, None
        self.give(body)

    def head(self, status: int, etag: str, length: int, span: str | None = None) -> None:
        headers = {"Content_Range": span} if span else {}
        self.answer(status, b"", Content_Length=str(length), ETag=etag, **headers)

    def give(self, body: bytes) -> None:
        time.sleep(self.standin.seconds_before_bytes)
        cut = self.standin.cuts.pop(0) if self.standin.cuts else None
        self.close_connection = cut is not None or self.standin.promised is not None
        with contextlib.suppress(ConnectionError):  # who had the head may leave before the body
            self.wfile.write(body[:cut])

    def wanted_start(self) -> int:
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", self.standin.current_etag) == self.standin.current_etag
        return int(span[1]) if span and same and self.standin.knows_ranges else 0

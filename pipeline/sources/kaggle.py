"""A public Kaggle data set as one local zip: downloaded once, resumed after a break, checked.

Kaggle's own API client, `kagglesdk`, signs in and asks for the archive; the bytes are streamed
here. The `kaggle` package around it is not imported: with a token its import goes to the network
without a time limit, and without one, which a public data set does not need, its sign-in exits.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import queue
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

from pipeline.errors import UsageError, WorkError, describe_os_error

if TYPE_CHECKING:
    from kagglesdk import KaggleClient

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

# No network must be told within 20 s: three tries of 5 s and their pauses.
_CONNECT_SECONDS = 5
_SILENT_SECONDS = 30
_TRIES_WITHOUT_A_BYTE = 3
_TRIES_AFTER_A_CUT = 6  # in a row, none of which brought a byte: about 16 s of pauses
_FIRST_PAUSE = 0.5  # doubled from try to try
_CHUNK = 1 << 16  # what a cut can cost: the client drops a chunk that did not come whole

_TOKEN = (
    "a token from https://www.kaggle.com/settings/api goes into the environment variable "
    "KAGGLE_API_TOKEN or the file ~/.kaggle/access_token"
)


class KaggleUnavailable(WorkError):
    """The data set cannot be had: no network, not permitted, not there, cut off, damaged."""


@dataclass(frozen=True)
class KaggleDataset:
    """A data set on Kaggle. Its fields become part of a path, so they check themselves."""

    owner: str
    name: str
    version: int | None = None

    def __post_init__(self) -> None:
        slugs = all(re.fullmatch(r"[A-Za-z0-9_-]+", slug) for slug in (self.owner, self.name))
        if not slugs or (self.version is not None and self.version < 1):
            raise UsageError(_usage(self.uri))

    @property
    def uri(self) -> str:
        """What the user writes for it."""
        version = "" if self.version is None else f"/{self.version}"
        return f"kaggle:{self.owner}/{self.name}{version}"


def parse_kaggle(text: str) -> KaggleDataset:
    """The data set that `text`, kaggle:owner/dataset[/version], names; UsageError otherwise."""
    match = re.fullmatch(r"kaggle:([^/]+)/([^/]+)(?:/([1-9][0-9]{0,8}))?", text)
    if not match:
        raise UsageError(_usage(text))
    return KaggleDataset(match[1], match[2], int(match[3]) if match[3] else None)


def _usage(text: str) -> str:
    return (
        f"a Kaggle data set is written kaggle:owner/dataset or kaggle:owner/dataset/3 (letters, "
        f"digits, - and _; the version from 1 up), got {text!r}; its page's address has both names"
    )


def fetch(
    dataset: KaggleDataset, *, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The local zip of `dataset`, whole and checked; `progress(done, total)` counts its bytes.

    It lies at <cache>/<owner>/<name>/<version or latest>.zip; the default cache is
    ~/.cache/inkling, or inkling in XDG_CACHE_HOME. A zip that lies there is used without any
    network, "latest" too: delete the file to have it downloaded anew. Until it is whole it is named
    .zip.part, and the same call resumes it. A second process waits for the first (.zip.lock).

    Raises KaggleUnavailable when Kaggle or the network does not give it, and WorkError when this
    machine cannot keep it (disk full, no permission).
    """
    folder = (cache or _default_cache()) / dataset.owner / dataset.name
    target = folder / f"{dataset.version or 'latest'}.zip"
    download = _Download(dataset, target, progress)
    try:
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(target):
                if not target.is_file():  # another process may have brought it while we waited
                    download.run()
        return target
    except OSError as error:
        reason = describe_os_error(error)
    raise WorkError(
        f"{dataset.uri}: the download cannot be kept at {download.part}: {reason}; make room or "
        f"set XDG_CACHE_HOME to another disk; the same command resumes what lies there"
    )


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "inkling"


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold `target` alone among processes; the system lets go of it when this one dies."""
    with _beside(target, ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process is downloading %s: waiting for it", target)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@dataclass(frozen=True)
class _Download:
    """One data set on its way to `target`, as a part file and a note on which object it is of."""

    dataset: KaggleDataset
    target: Path
    progress: Progress | None

    @property
    def part(self) -> Path:
        return _beside(self.target, ".part")

    @property
    def note(self) -> Path:
        return _beside(self.target, ".json")

    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self) -> None:
        """Try until every byte is here, then check the zip and give it its name."""
        begun = most = self.size()
        idle = 0  # tries in a row that brought nothing new
        while reason := self.attempt():
            idle = 0 if self.size() > most else idle + 1
            most = max(most, self.size())
            if idle >= (_TRIES_AFTER_A_CUT if most > begun else _TRIES_WITHOUT_A_BYTE):
                raise KaggleUnavailable(self.given_up(reason))
            time.sleep(_FIRST_PAUSE * 2 ** (idle - 1))
        self.check_zip()
        self.part.replace(self.target)

    def given_up(self, reason: str) -> str:
        if not self.size():
            return (
                f"{self.dataset.uri} cannot be downloaded: {reason}; check the network, or try the "
                f"same command later"
            )
        total = self.noted().get("size") or "an unknown number of"
        return (
            f"{self.dataset.uri} is cut off: {reason}; {self.size()} of {total} bytes lie in "
            f"{self.part} and the same command resumes there"
        )

    def attempt(self) -> str | None:
        """Why this attempt fell short and another is worth it; None when all bytes are here.

        Library errors quote addresses with signatures, and headers with tokens. So they are put in
        our own words, and ours are raised outside `except`: none of theirs hangs on as context.
        """
        try:
            return self.receive(_ask(self.dataset))
        except requests.HTTPError as error:
            host, status = urlsplit(error.response.url).hostname, _status(error.response)
        except (requests.RequestException, ConnectionError, TimeoutError) as error:
            return _in_words(error)
        if status == 429 or status >= 500:
            return f"{host} answers HTTP {status}"
        raise KaggleUnavailable(
            f"{self.dataset.uri}: {host} answers HTTP {status}: {self.advice(status)}"
        )

    def advice(self, status: int) -> str:
        page = f"https://www.kaggle.com/datasets/{self.dataset.owner}/{self.dataset.name}"
        if status == 401:
            return f"your Kaggle token is not accepted; renew or remove it ({_TOKEN})"
        if status == 403:
            return (
                f"not permitted; open {page}: if it is there, accept its licence and set a token "
                f"({_TOKEN})"
            )
        if status == 404:
            return f"no such data set or version; look for it at {page}"
        return f"look at {page}, or try the same command later"

    def receive(self, response: requests.Response) -> str | None:
        """Append what is missing of the object that `response` begins to give."""
        found = self.identify(response)
        start = self.kept(found) if response.request.method == "GET" else 0
        if start:
            response.close()
        if 0 < start < (found["size"] or 0):
            response = _ask_rest(response.url, start, found)
            if response.status_code == 200:  # it changed since, or the server knows no ranges
                found, start = self.identify(response), 0
            elif not _continues(response, start, found):
                if response.status_code in (206, 416):
                    self.part.unlink()
                return f"HTTP {response.status_code} was the answer to a request for the rest"
        if not start:
            self.begin(found)
        if start != found["size"]:
            self.append(response, start, found["size"])
        return self.shortfall(found["size"])

    def identify(self, response: requests.Response) -> dict[str, Any]:
        """What tells this object from any other. The address names Kaggle's resolved version."""
        url, length = urlsplit(response.url), response.headers.get("Content-Length")
        return {
            "uri": self.dataset.uri,
            "object": f"{url.netloc}{url.path}",  # never the query: it holds the signature
            "etag": response.headers.get("ETag"),
            "last_modified": response.headers.get("Last-Modified"),
            "size": int(length) if length else None,
        }

    def kept(self, found: dict[str, Any]) -> int:
        """How many bytes of exactly the object `found` lie here already."""
        same = self.noted() == found and found["size"] and _validator(found)
        return self.size() if same and self.size() <= found["size"] else 0

    def noted(self) -> dict[str, Any]:
        try:
            return json.loads(self.note.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def begin(self, found: dict[str, Any]) -> None:
        # Emptied before noted: a note must never stand beside bytes of another object.
        self.part.write_bytes(b"")
        self.note.write_text(json.dumps(found))

    def append(self, response: requests.Response, start: int, total: int | None) -> None:
        done = start
        with self.part.open("ab") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if self.progress:
                    self.progress(done, total)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with no bytes

    def shortfall(self, total: int | None) -> str | None:
        if total is None or self.size() == total:
            return None
        if self.size() < total:
            return "the connection was closed too early"
        got = self.size()
        self.part.unlink()
        raise KaggleUnavailable(
            f"{self.dataset.uri} has the wrong size: {got} bytes came, {total} were announced; "
            f"they are removed and the same command downloads it anew"
        )

    def check_zip(self) -> None:
        try:
            with zipfile.ZipFile(self.part):
                return
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            reason = str(error)
        got = self.size()
        self.part.unlink()
        raise KaggleUnavailable(
            f"{self.dataset.uri} is not a readable zip ({reason}; {got} bytes came); it is removed "
            f"and the same command downloads it anew"
        )


def _ask(dataset: KaggleDataset) -> requests.Response:
    """What Kaggle's storage answers to a request for the archive; its body is still to be read."""
    if not importlib.util.find_spec("kagglesdk"):
        raise KaggleUnavailable(
            f"{dataset.uri}: Kaggle's client is not installed, it needs Python 3.11 or newer; "
            "download the archive by hand and give the .zip as --input"
        )
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    request = ApiDownloadDatasetRequest()
    request.owner_slug = dataset.owner
    request.dataset_slug = dataset.name
    request.dataset_version_number = dataset.version
    try:
        with _sign_in() as client:
            return client.datasets.dataset_api_client.download_dataset(request)
    except requests.RequestException:
        raise
    except ValueError:  # quotes the token, which no header can carry
        pass
    raise KaggleUnavailable(f"your Kaggle token has characters that no token has: {_TOKEN}")


def _sign_in() -> KaggleClient:
    """Kaggle's client, signed in if there is a token where Kaggle's own command finds one."""
    from kagglesdk import KaggleCredentials

    try:
        username, key = _legacy_key()
        client = _opened(username=username, password=key)
        if client.http_client()._session.auth is None:
            login = KaggleCredentials.load(client)  # of `kaggle auth login`
            client = _opened(api_token=login.get_access_token()) if login else client
        return client
    except requests.RequestException:
        raise
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # unnamed: it may quote the token, which kagglesdk also tries as a file's name
    raise KaggleUnavailable(
        f"your Kaggle token cannot be read; look at the KAGGLE_ variables and the files in "
        f"~/.kaggle and ~/.config/kaggle: {_TOKEN}"
    )


def _legacy_key() -> tuple[str | None, str | None]:
    """Name and key from the places that kagglesdk leaves to the kaggle command."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "kaggle"
    file = Path(os.environ.get("KAGGLE_CONFIG_DIR") or config) / "kaggle.json"
    saved = json.loads(file.read_text()) if file.is_file() else {}
    return (
        os.environ.get("KAGGLE_USERNAME") or saved.get("username"),
        os.environ.get("KAGGLE_KEY") or saved.get("key"),
    )


def _opened(**credentials: str | None) -> KaggleClient:
    from kagglesdk import KaggleClient

    client = KaggleClient(user_agent="inkling", **credentials).__enter__()  # _ask closes it
    session = client.http_client()._session  # no public way leads to its time limits
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges count the file's own bytes
    session.mount("https://", _Impatient())
    session.mount("http://", _Impatient())
    return client


class _Impatient(HTTPAdapter):
    """Connects in seconds or not at all, where Kaggle's client by itself waits without end."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if not select_proxy(request.url, options.get("proxies")):
            url = urlsplit(request.url)
            _check_reachable(url.hostname, url.port or (443 if url.scheme == "https" else 80))
        options["timeout"] = (_CONNECT_SECONDS, _SILENT_SECONDS)
        return super().send(request, **options)


class _Unreachable(requests.ConnectionError):
    """Its text is ours, and safe to show."""


def _check_reachable(host: str, port: int) -> None:
    """Raise _Unreachable unless a connection opens in time.

    In a thread, for a name's look-up knows no time limit, and a host with many addresses takes the
    limit of a connection once for each.
    """
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_CONNECT_SECONDS / 2).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=_CONNECT_SECONDS)
    except queue.Empty:
        error = TimeoutError(f"nothing answers within {_CONNECT_SECONDS} s")
    if error:
        raise _Unreachable(f"no connection to {host}:{port} ({describe_os_error(error)})")


def _ask_rest(url: str, start: int, found: dict[str, Any]) -> requests.Response:
    """Storage's answer to a request for the bytes from `start`, sent without any sign-in."""
    headers = {
        "Accept-Encoding": "identity",
        "Range": f"bytes={start}-",
        "If-Range": _validator(found),
    }
    return requests.get(
        url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, _SILENT_SECONDS)
    )


def _validator(found: dict[str, Any]) -> str | None:
    """What may stand in If-Range: a weak ETag does not promise the same bytes."""
    etag = found["etag"]
    return etag if etag and not etag.startswith("W/") else found["last_modified"]


def _continues(response: requests.Response, start: int, found: dict[str, Any]) -> bool:
    span = response.headers.get("Content-Range", "")
    return (
        response.status_code == 206
        and span.startswith(f"bytes {start}-")
        and span.endswith(f"/{found['size']}")
        and response.headers.get("ETag", found["etag"]) == found["etag"]
    )


def _status(response: requests.Response) -> int:
    """The HTTP status; Kaggle also sends errors as 200 with a code in the body."""
    return response.status_code if response.status_code >= 400 else int(response.json()["code"])


def _in_words(error: Exception) -> str:
    """What went wrong, of which the error's own text would show too much."""
    if isinstance(error, _Unreachable):
        return str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not let the connection through"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not accepted"
    if isinstance(error, (requests.Timeout, TimeoutError)):
        return f"the server is silent for {_SILENT_SECONDS} s"
    return "the connection broke"

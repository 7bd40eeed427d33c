"""Where the trials of a study are kept: an Optuna storage, opened by its address.

A journal file (the default) needs a disk only, also a shared one; `postgresql://` and `sqlite:///`
go to a database. An address may hold a password, which no message of ours repeats.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError, WorkError, describe_os_error

if TYPE_CHECKING:
    import optuna

_DATABASES = ("postgresql", "sqlite")
_OPENING_ATTEMPTS = 5
_LINE_BEGINS = b'{"op_code"'


def open_storage(address: str) -> optuna.storages.BaseStorage:
    """The storage at `address`, made if need be. Raises UsageError or WorkError."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in address:
        return _open_journal(Path(address))
    try:
        with explained(address):
            return optuna.storages.get_storage(_open_database(address))
    except ImportError as error:
        raise UsageError(
            f"--storage: {public_address(address)} needs a package that is not installed "
            f"({error.__cause__ or error}): pip install 'inkling[postgresql]'"
        ) from error


def check_address(address: str) -> None:
    """Raise UsageError unless `address` is of a kind that `open_storage` knows."""
    scheme, is_url, _ = address.partition("://")
    if is_url and scheme.partition("+")[0] not in _DATABASES:
        raise UsageError(
            f"--storage: must be postgresql://…, sqlite:///… or a file, received {scheme}://…"
        )
    if not is_url and Path(address).is_dir():
        raise UsageError(f"--storage: {address} is a folder; give a file, or leave it out")


def public_address(address: str) -> str:
    """`address` without user, password and options."""
    if "://" not in address:
        return str(Path(address).absolute())
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turns what a database raises into one line, without the password: WorkError or UsageError."""
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        kind = UsageError if isinstance(error, ArgumentError) else WorkError
        reason = _without_secrets(str(error).split("\n(Background")[0], address)
        raise kind(
            f"--storage: {public_address(address)}: {reason[:300]}; what was finished is kept: give "
            "the same command again once it can be reached"
        ) from None  # its text holds the address


def _without_secrets(text: str, address: str) -> str:
    text = text.replace(address, public_address(address))
    secret = urlsplit(address).password or ""
    for known in {secret, unquote(secret)} - {""}:
        text = text.replace(known, "***")
    return re.sub(r"://[^/\s@]*@", "://", text)


def _open_journal(path: Path) -> optuna.storages.JournalStorage:
    import optuna

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _begins_as_journal(path):
            raise ValueError("another kind of file")
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_JournalLock(path))
        return optuna.storages.JournalStorage(backend)
    except OSError as error:
        raise WorkError(f"--storage: {describe_os_error(error)}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UsageError(
            f"--storage: {path} is no journal of Optuna, or damaged ({type(error).__name__})"
        ) from error


def _begins_as_journal(path: Path) -> bool:
    with open(path, "rb") as file:
        return _LINE_BEGINS.startswith(file.read(len(_LINE_BEGINS)))


def _open_database(address: str) -> optuna.storages.RDBStorage:
    import optuna
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    url = re.sub(r"^postgresql://", "postgresql+psycopg://", address)
    for attempt in range(1, _OPENING_ATTEMPTS + 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            # Another worker is making the tables at this moment.
            made_twice = re.search("already exists|duplicate key|UNIQUE", str(error))
            if not made_twice or attempt == _OPENING_ATTEMPTS:
                raise
            time.sleep(0.5 * attempt)
    raise AssertionError("unreachable")


class _JournalLock:
    """Held while a line is added to a journal; the system frees it when its holder is killed.

    Optuna's own locks outlive a killed holder by 30 seconds. Whoever gets the lock removes the half
    line that a full disk or a crash may have left: every later line would be lost behind it.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = journal.with_name(journal.name + ".lock")
        self._held = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        _remove_half_line(self._journal)
        return True

    def release(self) -> None:
        """Free the lock."""
        held, self._held = self._held, -1
        os.close(held)


def _remove_half_line(path: Path) -> None:
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)

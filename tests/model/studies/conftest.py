"""What tests of studies share: a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return found[-1].parent


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a database of a real server, started as an unprivileged user on a free port."""
    programs = postgres_programs()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "password").write_text("not/for:eyes")
    for path in (folder, folder / "password"):
        if as_user:
            shutil.chown(path, "postgres")
    data = folder / "data"
    subprocess.run(
        [*as_user, programs / "initdb", "-D", data, "-U", "inkling", "-A", "scram-sha-256",
         "--pwfile", folder / "password"], check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    control = [*as_user, programs / "pg_ctl", "-D", data, "-w"]
    # Its output goes to a file: the server would keep a pipe open.
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"],
                   check=True, cwd=folder, stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        yield f"postgresql://inkling:not%2Ffor%3Aeyes@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, cwd=folder,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)

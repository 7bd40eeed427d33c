"""Studies in a real PostgreSQL, started here as an unprivileged user on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.studies.tables import final_table
from tests.model.studies.test_engine import PLAN, Asked

pytestmark = pytest.mark.slow

PASSWORD = "not/for:eyes"


def postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return found[-1].parent


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a database, password and all."""
    programs = postgres_programs()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "password").write_text(PASSWORD)
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


@pytest.fixture
def asked(server, records, tmp_path) -> Asked:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    environment = {"TINY_LOG": str(tmp_path / "log"), "TINY_SECONDS": "0.2"}
    return Asked(tmp_path / tmp_path.name, records, plan, server, environment=environment)


def test_two_machines_share_a_study_and_come_to_what_one_comes_to(asked, tmp_path):
    searches = [asked.start(), asked.start()]  # both make the tables at once
    outputs = [search.communicate(timeout=120)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], outputs
    begun = [words[1] for words in asked.log() if words[0] == "begin"]
    assert len(begun) == len(set(begun)) == 11
    alone = replace(asked, folder=tmp_path / "alone", storage=str(tmp_path / "alone.journal"))
    assert final_table(asked.result()) == final_table(alone.run())


def test_killed_it_goes_on(asked, tmp_path):
    for _ in range(4):
        search = asked.start()
        try:
            search.communicate(timeout=2.5)
        except subprocess.TimeoutExpired:
            os.killpg(search.pid, 9)
            search.communicate()
    search = asked.start()
    output, _ = search.communicate(timeout=120)
    assert search.returncode == 0, output
    ended = [words[1] for words in asked.log() if words[0] == "end"]
    assert len(ended) == len(set(ended)) == 11


def test_no_file_and_no_line_holds_the_password(asked, records, tmp_path, capsys):
    from model.search import main as search

    arguments = [
        "--records",
        str(records),
        "--study",
        str(tmp_path / "s"),
        "--plan",
        str(asked.plan),
    ]
    wrong = asked.storage.replace("eyes", "ears")
    assert search([*arguments, "--storage", wrong]) == 1
    shown = capsys.readouterr()
    assert "password authentication failed" in shown.err
    texts = [shown.err, shown.out]
    texts += [path.read_text() for path in (tmp_path / "s").rglob("*.json")]
    assert not any("for%3Aears" in text or "for:ears" in text for text in texts)

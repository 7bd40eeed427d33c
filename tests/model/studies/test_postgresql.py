"""Studies in a real PostgreSQL, which the fixture `postgresql` starts."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from tests.model.studies.tables import final_table
from tests.model.studies.test_engine import PLAN, Asked

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(postgresql, records, tmp_path) -> Asked:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    environment = {"TINY_LOG": str(tmp_path / "log"), "TINY_SECONDS": "0.2"}
    return Asked(tmp_path / tmp_path.name, records, plan, postgresql, environment=environment)


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

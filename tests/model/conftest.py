"""A small trained run, made once, and copies of it to be tested and to be spoilt."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from model.evaluate import main as evaluate
from model.train import main as train


@dataclass(frozen=True)
class Run:
    """A run and the records it was trained on, both one's own."""

    folder: Path
    records: Path

    def evaluate(self) -> int:
        return evaluate(["--run", str(self.folder)])

    def figures(self) -> dict:
        return json.loads((self.folder / "evaluation.json").read_text())

    def openings(self) -> list[dict]:
        lines = (self.records / "openings.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def copy_run(run: Path, records: Path, to: Path) -> Run:
    copy = Run(shutil.copytree(run, to / "run"), shutil.copytree(records, to / "records"))
    config = json.loads((copy.folder / "config.json").read_text())
    config["training"]["records"] = str(copy.records)
    (copy.folder / "config.json").write_text(json.dumps(config))
    return copy


@pytest.fixture(scope="session")
def trained(records, tmp_path_factory) -> Path:
    """A run that has seen enough to tell light drawings from dark photographs; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    options = ("--conv", "2", "--units", "16", "--dense", "1", "--epochs", "6")
    size = ("--batch_size", "16")
    assert train(["--records", str(records), "--run", str(folder), *options, *size]) == 0
    return folder


@pytest.fixture
def run(trained, records, tmp_path) -> Run:
    """Copies of `trained` and of its records."""
    return copy_run(trained, records, tmp_path)


@pytest.fixture(scope="session")
def tested(trained, records, tmp_path_factory) -> Run:
    """`trained`, tested once; not to be changed."""
    copy = copy_run(trained, records, tmp_path_factory.mktemp("tested"))
    assert copy.evaluate() == 0
    return copy

"""What a runner needs to start our workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def worker(tmp_path_factory) -> Path:
    """`inkling-worker` as pip would write it, for this interpreter and this checkout."""
    script = tmp_path_factory.mktemp("bin") / "inkling-worker"
    lines = (f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(ROOT)!r})")
    script.write_text("\n".join([*lines, "from beam_jobs.boot import run", "run()", ""]))
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def as_process(worker) -> tuple[str, ...]:
    """The options that make a runner start `worker` on its hosts."""
    config = json.dumps({"command": str(worker)})
    return ("--environment_type", "PROCESS", "--environment_config", config)

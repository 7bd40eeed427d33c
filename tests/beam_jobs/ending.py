"""Jobs that end in the middle: programs for a Python of their own, and what is left after them."""

from __future__ import annotations

from pathlib import Path

_AT_RENAME = """
import os, signal, sys
from {job} import main

real, left = os.replace, int(sys.argv[1])

def replace(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = replace
sys.exit(main(sys.argv[2:]))
"""

_TWICE = """
import os, signal, sys
import {steps}
from {job} import main

publish = {steps}.{publish}

def twice(*arguments):
    publish(*arguments)
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    publish(*arguments)

{steps}.{publish} = twice
main(sys.argv[1:])
"""


def killed_at_rename(job: str) -> str:
    """A program that does `job` and kills itself at the rename after so many, its first argument."""
    return _AT_RENAME.format(job=job)


def published_twice(job: str, *, steps: str, publish: str) -> str:
    """A program that does `job` and publishes once more, until it kills itself at the first rename.

    publish: the function of the module `steps` that does it.
    """
    return _TWICE.format(job=job, steps=steps, publish=publish)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a finished output, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}

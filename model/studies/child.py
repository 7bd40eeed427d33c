"""A training or a test as a process of a search: `python -m model.studies.child train --run DIR …`.

It ends when its parent does, however that ended: the parent holds the other end of standard input and
never writes to it, so that the end of the input is the end of the parent.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says as the command of that name would."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work, *arguments = argv
    if work == "train":
        from model.train import main as train

        return train(arguments)
    from model.evaluate import main as evaluate

    return evaluate(arguments)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

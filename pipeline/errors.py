"""What can go wrong, and how a command says it: one line on standard error and an exit status.

Work runs in Beam workers and in tf.data threads, which hand an exception back as a page of text.
`say` finds the one line that a person needs in it.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class InklingError(Exception):
    """An error whose message is written for the user: the rule, what was received, what to do next."""

    exit_status = 1


class UsageError(InklingError):
    """The command was asked for something it cannot do: exit status 2."""

    exit_status = 2


class WorkError(InklingError):
    """The command was right and the work failed: exit status 1."""


class ImageRejected(Exception):
    """One image cannot become a record: `reason` is a word to count by, `detail` a line to read."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal escaped: names come from strangers."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


_CARRIED = re.compile(r"\b(UsageError|WorkError): (.*)")


def find_user_error(error: BaseException) -> InklingError | None:
    """The `InklingError` inside `error`: itself, a cause of it, or one quoted in its text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InklingError):
            return seen
        quoted = _CARRIED.search(str(seen))
        if quoted:
            kind = UsageError if quoted[1] == "UsageError" else WorkError
            return kind(quoted[2].split("\\n")[0].strip())
        seen = seen.__cause__ or seen.__context__
    return None


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """Make `main` answer every foreseen error with one line on standard error and its exit status.

    2 for bad usage, 1 for failed work, 130 when interrupted. An unforeseen error is a bug and keeps
    its traceback.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output (head, less) has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            found = find_user_error(error)
            if found is None and isinstance(error, OSError):
                found = WorkError(describe_os_error(error))
            if found is None:
                raise
            line = " ".join(str(found).split())
            print(f"error: {printable(line)}", file=sys.stderr)
            return found.exit_status

    return wrapped


def leave(status: int) -> NoReturn:
    """End this process at once: what Beam's threads would still do takes time and helps nobody.

    What is registered for the end is done: Beam's job servers, programs of their own, are ended so.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def describe_os_error(error: OSError) -> str:
    """`error` as one line: where, and what the system said."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what

"""Label and score image files: `python -m model.predict --model exported/ photos/`.

The files are decoded by the function that built the records, so a model sees in use what it saw in
training. A file that cannot be decoded is named with the reason, and the others are done. Memory does
not grow with the number of files: they are decoded a batch ahead, and each batch is printed at once.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.exported import load_exported, load_network
from model.inputs import find_images, read_image_file
from pipeline.console import Parser, Progress
from pipeline.decoding import decoded_batches
from pipeline.errors import UsageError, command, printable
from pipeline.schema import ImageSpec

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Verdict:
    """On one file: its label and its score of class 1, or why there is none."""

    file: str
    label: str = ""
    score: float | None = None
    error: str = ""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Predict what `argv` asks for; 1 if a file could not be decoded, else 0."""
    parser = Parser("python -m model.predict", "Label and score image files.")
    parser.add_argument("files", nargs="+", help="image files, and folders of them")
    parser.add_argument("--model", required=True, help="folder that model.export made")
    parser.add_argument("--batch_size", type=int, default=64, help="images per step")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="one JSON object a line")
    forms.add_argument("--csv", action="store_true", help="comma-separated, with a heading")
    given = parser.parse_strictly(argv)
    if given.batch_size < 1:
        raise UsageError(f"--batch_size: must be at least 1, received {given.batch_size}")
    exported = load_exported(Path(given.model))
    files = find_images(given.files)
    if not files:
        raise UsageError(f"no image files in {', '.join(given.files)}")
    network = load_network(exported)
    verdicts = predict_files(
        files, network, classes=exported.classes, spec=exported.image, batch_size=given.batch_size
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may be in no encoding at all
    if exported.notice:
        print(printable(f"NOTICE: {exported.notice}"), file=sys.stderr)
    if given.csv:
        sys.stdout.write(_csv_row("file", "label", "score", "error"))
    line_of = json_line if given.json else csv_line if given.csv else _text_lines(exported.classes)
    return _print_all(verdicts, line_of, total=len(files))


def _print_all(
    verdicts: Iterator[Verdict], line_of: Callable[[Verdict], str], *, total: int
) -> int:
    """Write each verdict as it comes; 1 if one of them is an error, else 0."""
    done = failed = 0
    progress = Progress(lambda: done, total=total, unit="images")
    with contextlib.nullcontext() if sys.stdout.isatty() else progress:
        for verdict in verdicts:
            done += 1
            if verdict.error:
                failed += 1
                print(printable(f"{verdict.file}: {verdict.error}"), file=sys.stderr)
            sys.stdout.write(line_of(verdict))
    if failed:
        print(f"{failed:,} of {total:,} files failed", file=sys.stderr)
    return 1 if failed else 0


def predict_files(
    files: Sequence[str],
    network: keras.Model,
    *,
    classes: Sequence[str],
    spec: ImageSpec,
    batch_size: int,
) -> Iterator[Verdict]:
    """A verdict for each of `files`, in their order."""
    threads = os.cpu_count() or 1
    for batch in decoded_batches(
        files, read_image_file, spec, batch_size=batch_size, threads=threads
    ):
        images = [image for _, image in batch if isinstance(image, np.ndarray)]
        scores = iter(network.predict_on_batch(np.stack(images))[:, 0].tolist() if images else ())
        for file, image in batch:
            if isinstance(image, np.ndarray):
                score = next(scores)
                yield Verdict(file, classes[score > 0.5], score)
            else:
                yield Verdict(file, error=f"{image.reason}: {image.detail}")


def _text_lines(classes: Sequence[str]) -> Callable[[Verdict], str]:
    """`0.9987  comics  path`; nothing for an error, which stands on standard error."""
    width = max(len(printable(name)) for name in classes)

    def line(verdict: Verdict) -> str:
        if verdict.score is None:
            return ""
        label = printable(verdict.label).ljust(width)
        return f"{verdict.score:.4f}  {label}  {printable(verdict.file)}\n"

    return line


def json_line(verdict: Verdict) -> str:
    """`{"file": …, "label": …, "score": …}`, or `{"file": …, "error": …}`; ASCII."""
    if verdict.score is None:
        return json.dumps({"file": verdict.file, "error": verdict.error}) + "\n"
    values = {"file": verdict.file, "label": verdict.label, "score": round(verdict.score, 6)}
    return json.dumps(values) + "\n"


def csv_line(verdict: Verdict) -> str:
    """file, label, score, error: the last is empty, or the two before it are."""
    score = "" if verdict.score is None else f"{verdict.score:.6f}"
    return _csv_row(verdict.file, verdict.label, score, verdict.error)


def _csv_row(*values: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())

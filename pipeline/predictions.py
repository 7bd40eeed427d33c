"""A folder of predictions: shards of key, label and score, and `predictions.json`, written last.

A folder without `predictions.json` is not finished. What stands in it is a pure function of images,
model and options: no time, no machine, no runner.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UsageError
from pipeline.manifest import Shard
from pipeline.schema import ImageSpec

PREDICTIONS_FILE = "predictions.json"
FORMATS = ("csv", "jsonl", "parquet")

FORMAT_VERSION = 1
"""Version of `predictions.json`. A reader refuses any other."""


class Row(NamedTuple):
    """One prediction: the image's key, its class, and the score of the second class, 0 to 1."""

    key: str
    label: str
    score: float


def encode_rows(rows: Iterable[Row], form: str) -> bytes:
    """`rows` as the contents of a file in one of FORMATS; scores with six digits, in each the same."""
    rounded = (row._replace(score=round(row.score, 6)) for row in rows)
    return {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[form](rounded)


def _csv(rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows((row.key, row.label, f"{row.score:.6f}") for row in rows)
    return text.getvalue().encode()


def _jsonl(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows).encode()


def _parquet(rows: Iterable[Row]) -> bytes:
    import pyarrow  # which no other format needs
    from pyarrow import parquet

    types = (pyarrow.string(), pyarrow.string(), pyarrow.float64())
    schema = pyarrow.schema(list(zip(Row._fields, types, strict=True)))
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    arrays = [pyarrow.array(c, kind) for c, kind in zip(columns, types, strict=True)]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), sink)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class Predictions:
    """What a folder of predictions is: `predictions.json`.

    digest: names the work; source: uri, and a notice where the images are not what they seem; model:
    name, sha256 of its weights' file, and its notice; rejects, ignored: how many files were refused,
    by reason, or passed over, by suffix.
    """

    digest: str
    source: dict[str, str]
    model: dict[str, str]
    image: ImageSpec
    classes: tuple[str, ...]
    options: dict[str, Any]
    shards: tuple[Shard, ...]
    rejects: dict[str, int]
    ignored: dict[str, int]
    versions: dict[str, str]

    @property
    def records(self) -> int:
        """Images with a prediction."""
        return sum(shard.records for shard in self.shards)

    @property
    def records_per_class(self) -> dict[str, int]:
        """How many images were called what, in label order."""
        counts = zip(*(shard.records_per_class for shard in self.shards), strict=True)
        return dict(zip(self.classes, map(sum, counts), strict=True))

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values, with sums for people to read."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["image"] = {**asdict(self.image), "dtype": "uint8", "digest": self.image.digest}
        values["shards"] = [asdict(shard) for shard in self.shards]
        sums = {"records": self.records, "records_per_class": self.records_per_class}
        return {"format_version": FORMAT_VERSION, **sums, **values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Predictions:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {values['format_version']!r}, not {FORMAT_VERSION}")
        image = values["image"]
        known = {field.name: values[field.name] for field in fields(cls)}
        known |= {
            "image": ImageSpec(image["height"], image["width"], image["channels"]),
            "classes": tuple(values["classes"]),
            "shards": tuple(map(shard_from_json, values["shards"])),
        }
        return cls(**known)


def shard_from_json(values: dict[str, Any]) -> Shard:
    """A `Shard` from what `dataclasses.asdict` made of it and JSON gave back."""
    return Shard(**{**values, "records_per_class": tuple(values["records_per_class"])})


def load_predictions(folder: Path) -> Predictions:
    """`predictions.json` of `folder`. Raises UsageError if there is none that we can read."""
    path = folder / PREDICTIONS_FILE
    try:
        return Predictions.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder} holds no predictions: it has no {PREDICTIONS_FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is not ours or damaged ({type(error).__name__}: {error}); predict again, with "
            "--overwrite"
        ) from error


def find_shards(folder: Path) -> list[Path]:
    """Files in `folder` that are named like our shards."""
    return [path for form in FORMATS for path in folder.glob(f"predictions-*-of-*.{form}")]

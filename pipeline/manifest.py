"""`manifest.json`, the last file of a data set to be written, and the same facts in TFDS's form.

A folder without a manifest is no data set. Its contents are a pure function of the build: no time,
no machine, no runner.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.example import Layout
from pipeline.files import write_json, write_text
from pipeline.schema import SCHEMA_VERSION, ImageSpec

MANIFEST_FILE = "manifest.json"
REJECTS_FILE = "rejects.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
LABELS_FILE = "label.labels.txt"


@dataclass(frozen=True)
class Shard:
    """One file: name, records, bytes, sha256 (hexadecimal), records per class in label order."""

    file: str
    records: int
    bytes: int
    sha256: str
    records_per_class: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """One split: its shards in order; mean and standard deviation of its pixels, in gray levels."""

    shards: tuple[Shard, ...]
    pixel_mean: float
    pixel_std: float

    @property
    def records(self) -> int:
        """Records in all shards."""
        return sum(shard.records for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def records_per_class(self) -> tuple[int, ...]:
        """Records of each class, in label order."""
        return tuple(map(sum, zip(*(s.records_per_class for s in self.shards), strict=True)))


@dataclass(frozen=True)
class Manifest:
    """What a data set is: see the README's table of `manifest.json`.

    digest: names the build; source: uri, and a notice where the data are not what they seem;
    rejects, ignored: how many files were refused, by reason, or passed over, by suffix; duplicates:
    how many pictures (pixel for pixel) stand in several classes or several splits.
    """

    digest: str
    source: dict[str, str]
    seed: int
    image: ImageSpec
    classes: tuple[str, ...]
    options: dict[str, Any]
    layout: Layout
    splits: dict[str, Split]
    rejects: dict[str, int]
    ignored: dict[str, int]
    duplicates: dict[str, int]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, with sums beside the shards for people to read."""
        splits = {
            name: {
                "records": split.records,
                "bytes": split.bytes,
                "records_per_class": dict(zip(self.classes, split.records_per_class, strict=True)),
                **asdict(split),
            }
            for name, split in self.splits.items()
        }
        image = {**asdict(self.image), "dtype": "uint8", "digest": self.image.digest}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"image": image, "layout": asdict(self.layout), "splits": splits}
        return {"schema_version": SCHEMA_VERSION, **values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Manifest:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        image = values["image"]
        known = {field.name: values[field.name] for field in fields(cls)}
        known |= {
            "image": ImageSpec(image["height"], image["width"], image["channels"]),
            "classes": tuple(values["classes"]),
            "layout": Layout(**values["layout"]),
            "splits": {name: _split(split) for name, split in values["splits"].items()},
        }
        return cls(**known)


def _split(values: dict[str, Any]) -> Split:
    shards = tuple(
        Shard(**{**shard, "records_per_class": tuple(shard["records_per_class"])})
        for shard in values["shards"]
    )
    return Split(shards, values["pixel_mean"], values["pixel_std"])


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the data set in `folder`. Raises UsageError if there is none that we can read."""
    path = folder / MANIFEST_FILE
    build_it = "python -m beam_jobs.build_records --output " + str(folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is no finished data set: it has no {MANIFEST_FILE}; make it with {build_it}"
        ) from None
    except NotADirectoryError:
        raise UsageError(
            f"{folder} is a file; give the folder that holds {MANIFEST_FILE}"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{path} is damaged ({error}); build again: {build_it} --overwrite"
        ) from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {version}; this Inkling reads up to {SCHEMA_VERSION}: "
            "update Inkling, or build the records again with this one"
        )
    try:
        return Manifest.from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is not a manifest of Inkling ({type(error).__name__}: {error}); "
            f"build again: {build_it} --overwrite"
        ) from error


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write TFDS's files and, last, the manifest; each appears whole."""
    write_json(folder / "features.json", _tfds_features(manifest))
    write_json(folder / "dataset_info.json", _tfds_info(manifest))
    write_text(folder / LABELS_FILE, "".join(f"{name}\n" for name in manifest.classes))
    write_json(folder / MANIFEST_FILE, manifest.to_json())


def _tfds_info(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": "inkling",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "description": f"Labelled images from {manifest.source['uri']}, built by Inkling.",
        "splits": [
            {
                "name": name,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "numBytes": str(split.bytes),
                "shardLengths": [str(shard.records) for shard in split.shards],
            }
            for name, split in manifest.splits.items()
        ],
    }


def _tfds_features(manifest: Manifest) -> dict[str, Any]:
    def feature(kind: str, **content: Any) -> dict[str, Any]:
        name = "tensorflow_datasets.core.features." + kind
        return {"pythonClassName": name, **content}

    spec = manifest.image
    shape = {"dimensions": [str(spec.height), str(spec.width), str(spec.channels)]}
    image = {"shape": shape, "dtype": "uint8", "encoding": "bytes"}
    scalar = {"shape": {}, "dtype": "int64", "encoding": "none"}
    features = {
        "image": feature("tensor_feature.Tensor", tensor=image),
        "label": feature(
            "class_label_feature.ClassLabel",
            classLabel={"numClasses": str(len(manifest.classes))},
        ),
        "bucket": feature("scalar.Scalar", tensor=scalar),
        "key": feature("text_feature.Text", text={}),
    }
    return feature("features_dict.FeaturesDict", featuresDict={"features": features})

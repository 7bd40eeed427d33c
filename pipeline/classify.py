"""Scores for all images of a source: what is to be done, and one shard of it.

    <output>/.building/<digest>/names         what is to be classified: blocks of keys
    <output>/.building/<digest>/<shard>       a shard and, beside it,
    <output>/.building/<digest>/<shard>.json  what is known of it

The shard of an image is a pure function of its key; within a shard images stand, and are scored, in
the order of their keys. So a batch holds the same images however many workers there are, and a work
that was killed is finished by the same command. Nothing here knows Beam, or any network: what scores
is passed in.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.build import STAGING_FOLDER, Reject, is_whole
from pipeline.decoding import decoded_batches
from pipeline.errors import UsageError, WorkError, describe_os_error
from pipeline.files import write_aside, write_text
from pipeline.manifest import Shard
from pipeline.plan import MAX_SHARDS, order_of, shard_of
from pipeline.predictions import FORMAT_VERSION, Row, encode_rows, shard_from_json
from pipeline.schema import ImageSpec, Item
from pipeline.sources import Source

MAX_BATCH = 4096

_SEED = 0  # of the hash that deals images to shards
_THREADS = 2  # decode ahead in each worker, of which there is one for each core
_SMALL_SHARD, _LARGE_SHARD, _MANY_SHARDS = 1000, 4000, 256

Score = Callable[[np.ndarray], np.ndarray]
"""uint8[B, H, W, C] → float32[B], the score of class 1 of each image."""


@dataclass(frozen=True)
class Classification:
    """Everything a worker needs to know; small, and the same for all of them.

    model, versions, ignored: as in `Predictions`; total: images in the source; notice: a warning about
    the images; digest: names the work.
    """

    source: Source
    output: Path
    model: dict[str, str]
    spec: ImageSpec
    classes: tuple[str, ...]
    form: str
    shards: int
    batch_size: int
    total: int
    items_digest: int
    versions: dict[str, str]
    notice: str = ""
    ignored: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= MAX_SHARDS:
            raise UsageError(f"--shards: must be from 1 to {MAX_SHARDS}, received {self.shards}")

    @property
    def digest(self) -> str:
        """Names this work: equal digests mean equal predictions. 16 hexadecimal digits."""
        model = [self.model["sha256"], self.spec.digest, self.classes]
        options = [self.form, self.shards, self.batch_size]
        text = json.dumps([FORMAT_VERSION, model, options, f"{self.items_digest:032x}"])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def staging(self) -> Path:
        """Where the shards are kept until all are done."""
        return self.output / STAGING_FOLDER / self.digest

    def shard_name(self, shard: int) -> str:
        """`predictions-00003-of-00016.csv`."""
        return f"predictions-{shard:05d}-of-{self.shards:05d}.{self.form}"


@dataclass(frozen=True)
class Scored:
    """One shard: the keys of its images in order, their scores of class 1, and those refused."""

    shard: int
    keys: tuple[str, ...]
    scores: tuple[float, ...]
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class Classified:
    """One finished shard: its file and its refused images.

    kept: whether an earlier run of the same work had finished it.
    """

    shard: Shard
    rejects: tuple[Reject, ...]
    kept: bool = False


def default_shards(total: int) -> int:
    """Shards for `total` images: of about 1,000 each, from 256 shards on of more, up to about 4,000.

    A shard is the work of one core, and is done again where it was broken off.
    """
    few = min(_MANY_SHARDS, math.ceil(total / _SMALL_SHARD))
    return min(MAX_SHARDS, max(few, math.ceil(total / _LARGE_SHARD)))


def deal_keys(items: Iterable[Item], shards: int) -> dict[int, list[str]]:
    """Those of the `shards` that any of `items` belongs to, with their keys."""
    dealt: dict[int, list[str]] = {}
    for item in items:
        dealt.setdefault(shard_of(order_of(_SEED, item.key), shards), []).append(item.key)
    return dealt


def score_shard(work: Classification, shard: int, keys: Iterable[str], score: Score) -> Scored:
    """Read, decode and score one shard, whatever order its `keys` come in.

    Each batch has `work.batch_size` places, filled in the order of the keys; the place of a refused
    image, and places left over, are black. So `score` sees one shape only, and what an image gets does
    not depend on its neighbours being good. Raises WorkError if the input vanishes.
    """
    kept: list[str] = []
    scores: list[float] = []
    rejects: list[Reject] = []
    spec, size = work.spec, work.batch_size
    for batch in decoded_batches(
        sorted(keys), work.source.read, spec, batch_size=size, threads=_THREADS
    ):
        pixels = np.zeros((size, spec.height, spec.width, spec.channels), np.uint8)
        good = []
        for place, (key, image) in enumerate(batch):
            if isinstance(image, np.ndarray):
                pixels[place] = image
                good.append(place)
                kept.append(key)
            else:
                rejects.append(Reject(key, image.reason, image.detail))
        if good:
            scores += score(pixels)[good].tolist()
    return Scored(shard, tuple(kept), tuple(scores), tuple(rejects))


def write_scored(scored: Scored, work: Classification) -> Classified:
    """Write one shard, aside and then renamed. Raises WorkError if it cannot be written."""
    name = work.shard_name(scored.shard)
    labels = [int(score > 0.5) for score in scored.scores]
    rows = (
        Row(key, work.classes[label], score)
        for key, label, score in zip(scored.keys, labels, scored.scores, strict=True)
    )
    data = encode_rows(rows, work.form)
    counts = tuple(labels.count(label) for label in range(len(work.classes)))
    sha256 = hashlib.sha256(data).hexdigest()
    result = Classified(Shard(name, len(labels), len(data), sha256, counts), scored.rejects)
    try:
        work.staging.mkdir(parents=True, exist_ok=True)
        with write_aside(work.staging / name) as file:
            file.write(data)
        write_text(_facts_path(work, name), json.dumps(asdict(result)))
    except OSError as error:
        raise WorkError(
            f"cannot write {name}: {describe_os_error(error)}; "
            "the finished shards are kept, the same command goes on from them"
        ) from error
    return result


def finished_shard(work: Classification, shard: int) -> Classified | None:
    """What an earlier run of the same work knew of this shard, if the file still is what it was.

    None where images were refused: they may have been mended since.
    """
    name = work.shard_name(shard)
    try:
        result = _from_json(json.loads(_facts_path(work, name).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    folders = (work.staging, work.output)  # a kill while publishing leaves shards in both
    whole = any(is_whole(folder / name, result.shard) for folder in folders)
    return replace(result, kept=True) if whole and not result.rejects else None


def _from_json(values: dict[str, Any]) -> Classified:
    rejects = tuple(Reject(**reject) for reject in values["rejects"])
    return Classified(shard_from_json(values["shard"]), rejects)


def _facts_path(work: Classification, name: str) -> Path:
    return work.staging / f"{name}.json"


def finished_shards(work: Classification) -> int:
    """How many shards are written: what a progress line goes by."""
    return sum(1 for _ in work.staging.glob(f"predictions-*.{work.form}.json"))

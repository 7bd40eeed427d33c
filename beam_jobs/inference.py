"""Classification as Beam transforms: names are dealt to shards, RunInference scores each shard whole.

An element of RunInference is one shard, its keys, never an image: the shard makes its own batches, so
which images share a batch does not depend on how a runner cuts its work; and as nothing is grouped
after the scores, a shard is written as soon as it is scored, which is what a rerun goes on from.

Beam writes notes of its own into a transform, so these dataclasses cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from beam_jobs.transforms import KEPT_SHARDS
from model.exported import Exported, load_network
from pipeline.blocks import pack, unpack
from pipeline.build import Span, read_names
from pipeline.classify import (
    Classification,
    Classified,
    Score,
    Scored,
    deal_keys,
    finished_shard,
    score_shard,
    write_scored,
)
from pipeline.predictions import Predictions
from pipeline.publish_predictions import publish_predictions

_FINISHED = "finished"

ShardKeys = tuple[int, list[str]]
"""The number of a shard, and the keys of its images in any order."""


@dataclass(eq=False)
class ClassifyImages(beam.PTransform):
    """Spans of the names file → published predictions. Names are shuffled, never pixels."""

    work: Classification
    exported: Exported

    def expand(self, spans: beam.PCollection) -> beam.PCollection:
        """Wire the steps; the result is one `Predictions`."""
        sifted = (
            spans  # (offset, length)
            | "Deal" >> beam.FlatMap(deal_span, self.work)  # shard, block of keys
            | "GroupByShard" >> beam.GroupByKey()  # shard, iterable of such blocks
            | "Sift" >> beam.FlatMap(sift_finished, self.work).with_outputs(_FINISHED)
        )
        written = (
            sifted[None]  # shard, keys
            | "Score" >> RunInference(ShardScorer(self.work, self.exported))  # Scored
            | "Write" >> beam.Map(write_scored, self.work)  # Classified
        )
        return (
            (written, sifted[_FINISHED])
            | "AllShards" >> beam.Flatten()  # Classified
            | "Collect" >> beam.GroupBy(lambda shard: None)  # None, iterable of all of them
            | "Publish" >> beam.Map(publish_collected, self.work)  # Predictions
        )


class ShardScorer(ModelHandler[ShardKeys, Scored, Score]):
    """Scores whole shards with the network of an export, loaded once in each worker process.

    Nothing that stands in an export is run: see `model.exported`.
    """

    def __init__(self, work: Classification, exported: Exported) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)  # of shards
        self._work, self._exported = work, exported

    def load_model(self) -> Score:
        """The network as a function that several threads may call. Raises WorkError."""
        network = load_network(self._exported)
        spec = self._work.spec
        shape = (self._work.batch_size, spec.height, spec.width, spec.channels)

        def score(pixels: np.ndarray) -> np.ndarray:
            return network.predict_on_batch(pixels)[:, 0]

        score(np.zeros(shape, np.uint8))  # traced once, before threads share it
        return score

    def run_inference(
        self,
        batch: Sequence[ShardKeys],
        model: Score,
        inference_args: dict[str, Any] | None = None,
    ) -> list[Scored]:
        """`score_shard` for each of `batch`."""
        return [score_shard(self._work, shard, keys, model) for shard, keys in batch]


def deal_span(span: Span, work: Classification) -> Iterator[tuple[int, bytes]]:
    """`deal_keys` for the items that a span stands for, the keys of each shard as a block."""
    for shard, keys in deal_keys(read_names(work, span), work.shards).items():
        yield shard, pack(keys)


def sift_finished(
    grouped: tuple[int, Iterable[bytes]], work: Classification
) -> Iterator[ShardKeys | beam.pvalue.TaggedOutput]:
    """A shard with its keys; or, beside, what is known of it where an earlier run has finished it."""
    shard, blocks = grouped
    finished = finished_shard(work, shard)
    if finished:
        Metrics.counter("inkling", KEPT_SHARDS).inc()
        yield beam.pvalue.TaggedOutput(_FINISHED, finished)
    else:
        yield shard, [key for block in blocks for key in unpack(block)]


def publish_collected(
    collected: tuple[None, Iterable[Classified]], work: Classification
) -> Predictions:
    """`publish_predictions` with all that the workers made."""
    _, results = collected
    return publish_predictions(work, results)

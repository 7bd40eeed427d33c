"""The build as Beam transforms: each wires a plain function of `pipeline.build` into a pipeline.

Beam writes notes of its own into a transform, so these dataclasses cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipeline.blocks import pack, unpack
from pipeline.build import Build, Place, ShardResult, Span, place_items, read_names, write_shard
from pipeline.duplicates import Duplicate, crossing_duplicates, deal_fingerprints
from pipeline.manifest import Manifest
from pipeline.publish import publish

KEPT_SHARDS = "kept_shards"
_FINGERPRINTS = "fingerprints"


@dataclass(eq=False)
class BuildRecords(beam.PTransform):
    """Spans of the names file → a published data set. Names are shuffled, never pixels."""

    build: Build

    def expand(self, spans: beam.PCollection) -> beam.PCollection:
        """Wire the steps; the result is one manifest."""
        written = (
            spans  # (offset, length)
            | "Place" >> beam.FlatMap(place_span, self.build)  # (split, shard), block of members
            | "GroupByShard" >> beam.GroupByKey()  # (split, shard), iterable of such blocks
            | WriteShards(self.build)  # ShardResult, and beside it fingerprints
        )
        duplicates = written[_FINGERPRINTS] | FindDuplicates()  # Duplicate
        return (
            (written[None], duplicates)
            | "AllThatIsKnown" >> beam.Flatten()  # ShardResult or Duplicate
            | "Collect" >> beam.GroupBy(lambda known: None)  # None, iterable of all of them
            | "Publish" >> beam.Map(publish_known, self.build)  # Manifest
        )


@dataclass(eq=False)
class WriteShards(beam.PTransform):
    """(split, shard) with its members → a finished file, what is known of it, its fingerprints."""

    build: Build

    def expand(self, grouped: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Wire `write_grouped`: the main output is one ShardResult per shard."""
        return grouped | beam.FlatMap(write_grouped, self.build).with_outputs(_FINGERPRINTS)


class FindDuplicates(beam.PTransform):
    """(hand, block of fingerprints) → those pictures that stand on both sides of a border."""

    def expand(self, dealt: beam.PCollection) -> beam.PCollection:
        """Wire `crossing_duplicates`."""
        return (
            dealt
            | "GroupByMark" >> beam.GroupByKey()  # hand, iterable of blocks of fingerprints
            | "Crossing" >> beam.FlatMap(crossing_duplicates)  # Duplicate
        )


def place_span(span: Span, build: Build) -> Iterator[tuple[Place, bytes]]:
    """`place_items` for the items that a span stands for, the members of each shard as a block."""
    for shard, members in place_items(read_names(build, span), build.plan).items():
        yield shard, pack(members)


def write_grouped(
    grouped: tuple[Place, Iterable[bytes]], build: Build
) -> Iterator[ShardResult | beam.pvalue.TaggedOutput]:
    """`write_shard` for one group; counts the shards that an earlier run had finished."""
    (split, shard), blocks = grouped
    members = ((key, label) for block in blocks for key, label in unpack(block))
    result, fingerprints = write_shard(build, split, shard, members)
    Metrics.counter("inkling", KEPT_SHARDS).inc(int(result.kept))
    yield result
    for hand in deal_fingerprints(fingerprints, build.plan.train_shards):
        yield beam.pvalue.TaggedOutput(_FINGERPRINTS, hand)


def publish_known(
    collected: tuple[None, Iterable[ShardResult | Duplicate]], build: Build
) -> Manifest:
    """`publish` with all that the workers found out."""
    _, known = collected
    results, duplicates = [], []
    for fact in known:
        (results if isinstance(fact, ShardResult) else duplicates).append(fact)
    return publish(build, results, duplicates)

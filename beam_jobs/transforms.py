"""The build as Beam transforms: each wires a plain function of `pipeline.build` into a pipeline.

Beam writes notes of its own into a transform, so these dataclasses cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipeline.build import (
    Build,
    Duplicate,
    ShardResult,
    crossing_duplicates,
    place_item,
    publish,
    write_shard,
)
from pipeline.manifest import Manifest
from pipeline.schema import Item

KEPT_SHARDS = "kept_shards"
_FINGERPRINTS = "fingerprints"


@dataclass(eq=False)
class BuildRecords(beam.PTransform):
    """Items → a published data set. Only names go through the shuffle, never pixels."""

    build: Build

    def expand(self, items: beam.PCollection) -> beam.PCollection:
        """Wire the steps; the result is one manifest."""
        written = (
            items  # Item
            | "Place" >> beam.Map(place_item, self.build)  # (split, shard), (order, Item)
            | "GroupByShard" >> beam.GroupByKey()  # (split, shard), iterable of (order, Item)
            | WriteShards(self.build)  # ShardResult, and beside it (pixels, Fingerprint)
        )
        duplicates = written[_FINGERPRINTS] | FindDuplicates()  # Duplicate
        return (
            written[None]  # ShardResult
            | "Collect" >> beam.combiners.ToList()  # list of ShardResult
            | "Publish"
            >> beam.Map(publish_results, self.build, beam.pvalue.AsList(duplicates))  # Manifest
        )


@dataclass(eq=False)
class WriteShards(beam.PTransform):
    """(split, shard) with its items → a finished file, what is known of it, its fingerprints."""

    build: Build

    def expand(self, grouped: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Wire `write_grouped`: the main output is one ShardResult per shard."""
        write = beam.FlatMap(write_grouped, self.build)
        return grouped | write.with_outputs(_FINGERPRINTS)


class FindDuplicates(beam.PTransform):
    """(pixels, Fingerprint) → those pictures that stand on both sides of a border."""

    def expand(self, fingerprints: beam.PCollection) -> beam.PCollection:
        """Wire `crossing_duplicates`."""
        return (
            fingerprints
            | "GroupByPixels" >> beam.GroupByKey()  # pixels, iterable of Fingerprint
            | "Crossing" >> beam.FlatMap(crossing_duplicates)  # Duplicate
        )


def write_grouped(
    grouped: tuple[tuple[str, int], Iterable[tuple[int, Item]]], build: Build
) -> Iterator[ShardResult | beam.pvalue.TaggedOutput]:
    """`write_shard` for one group; counts the shards that an earlier run had finished."""
    (split, shard), members = grouped
    result, fingerprints = write_shard(build, split, shard, members)
    Metrics.counter("inkling", KEPT_SHARDS).inc(int(result.kept))
    yield result
    for fingerprint in fingerprints:
        yield beam.pvalue.TaggedOutput(_FINGERPRINTS, (fingerprint.pixels, fingerprint))


def publish_results(
    results: Iterable[ShardResult], build: Build, duplicates: Iterable[Duplicate]
) -> Manifest:
    """`publish`, with the arguments in Beam's order."""
    return publish(build, results, duplicates)

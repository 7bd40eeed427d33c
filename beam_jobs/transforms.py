"""The build as Beam transforms: each wires a plain function of `pipeline.build` into a pipeline.

Beam writes notes of its own into a transform, so these dataclasses cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipeline.build import Build, ShardResult, place_item, publish, write_shard
from pipeline.schema import Item

KEPT_SHARDS = "kept_shards"


@dataclass(eq=False)
class BuildRecords(beam.PTransform):
    """Items → a published data set. Only names go through the shuffle, never pixels."""

    build: Build

    def expand(self, items: beam.PCollection) -> beam.PCollection:
        """Wire the steps; the result is one manifest."""
        return (
            items  # Item
            | "Place" >> beam.Map(place_item, self.build)  # (split, shard), (order, Item)
            | "GroupByShard" >> beam.GroupByKey()  # (split, shard), iterable of (order, Item)
            | WriteShards(self.build)  # ShardResult
            | "Collect" >> beam.combiners.ToList()  # list of ShardResult
            | "Publish" >> beam.Map(publish_results, self.build)  # Manifest
        )


@dataclass(eq=False)
class WriteShards(beam.PTransform):
    """(split, shard) with its items → a finished file and what is known of it."""

    build: Build

    def expand(self, grouped: beam.PCollection) -> beam.PCollection:
        """Wire `write_grouped`; the result is one ShardResult per shard."""
        return grouped | beam.Map(write_grouped, self.build)


def write_grouped(
    grouped: tuple[tuple[str, int], Iterable[tuple[int, Item]]], build: Build
) -> ShardResult:
    """`write_shard` for one group; counts the shards that an earlier run had finished."""
    (split, shard), members = grouped
    result = write_shard(build, split, shard, members)
    Metrics.counter("inkling", KEPT_SHARDS).inc(int(result.kept))
    return result


def publish_results(results: Iterable[ShardResult], build: Build) -> object:
    """`publish`, with the arguments in Beam's order."""
    return publish(build, results)

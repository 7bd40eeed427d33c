"""The Beam job that one writes first: every image travels as an element, Beam writes the shards."""

from __future__ import annotations

import argparse
import os

import apache_beam as beam
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.peers.shrink import labelled_files, shrink


def to_example(labelled: tuple[str, int]) -> bytes:
    """(path, label) → a serialized tf.train.Example."""
    path, label = labelled
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[shrink(path)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()


def main() -> None:
    """Build records of all images below --input in --output, one worker process per core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    options = PipelineOptions(
        runner="FnApiRunner",  # DirectRunner would first try to download another runner
        direct_running_mode="multi_processing",
        direct_num_workers=os.cpu_count(),
    )
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | beam.Create(labelled_files(given.input))
            | beam.Reshuffle()
            | beam.Map(to_example)
            | beam.io.WriteToTFRecord(os.path.join(given.output, "all"), num_shards=20)
        )


if __name__ == "__main__":
    main()

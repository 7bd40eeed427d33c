"""How many bytes our job sends through its shuffle: `python -m benchmarks.shuffle_bytes IN OUT`.

Runs the whole job in this process, with a step before GroupByKey that encodes each (key, value) with
the coder that Beam uses for the collection, timestamp and window included. Untimed: it costs time.
"""

from __future__ import annotations

import sys
from typing import Any

import apache_beam as beam
from apache_beam.coders.coders import Coder, GlobalWindowCoder, WindowedValueCoder
from apache_beam.transforms.window import GlobalWindows

GroupByKey = beam.GroupByKey
encoded_sizes: list[int] = []  # the job's workers are threads of this process


class MeasuredGroupByKey(beam.PTransform):
    """GroupByKey that notes the size of every element on its way in."""

    def expand(self, pairs: beam.PCollection) -> beam.PCollection:
        """Wire the note in front of Beam's own transform, the element type unchanged."""
        coder = WindowedValueCoder(
            beam.coders.registry.get_coder(pairs.element_type), GlobalWindowCoder()
        )
        noted = pairs | beam.Map(note, coder).with_output_types(pairs.element_type)
        return noted | GroupByKey()


def note(pair: Any, coder: Coder) -> Any:
    """`pair`, unchanged; its encoded size goes to `encoded_sizes`."""
    encoded_sizes.append(len(coder.encode(GlobalWindows.windowed_value(pair))))
    return pair


def main(photos: str, output: str) -> None:
    """Build `photos` into `output` and print the elements and the bytes that entered the shuffle."""
    from beam_jobs.build_records import main as build_records

    beam.GroupByKey = MeasuredGroupByKey
    if build_records(["--input", photos, "--output", output]):
        raise SystemExit("the build failed")
    if not encoded_sizes:
        raise SystemExit("the job used no beam.GroupByKey: nothing was measured")
    print(len(encoded_sizes), sum(encoded_sizes))


if __name__ == "__main__":
    from benchmarks.shuffle_bytes import main  # the list must be the one that Beam's threads see

    main(*sys.argv[1:])

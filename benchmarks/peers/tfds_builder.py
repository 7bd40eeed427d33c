"""TensorFlow Datasets' way: a GeneratorBasedBuilder, in one process or as a Beam pipeline."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.peers.shrink import SIDE, labelled_files, shrink


def to_features(labelled: tuple[str, int]) -> tuple[str, dict[str, Any]]:
    """(path, label) → the key and the features of one example."""
    path, label = labelled
    pixels = np.frombuffer(shrink(path), np.uint8).reshape(SIDE, SIDE, 1)
    return path, {"image": pixels, "label": label}


class FacesAndComics(tfds.core.GeneratorBasedBuilder):
    """All images of a folder as one split; `source` and `on_beam` are set by `main`."""

    VERSION = tfds.core.Version("1.0.0")
    source = ""
    on_beam = False

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(shape=(SIDE, SIDE, 1), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(num_classes=2)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]] | object:
        labelled = labelled_files(self.source)
        if not self.on_beam:
            return map(to_features, labelled)
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create(labelled) | beam.Map(to_features)


def main() -> None:
    """Prepare the data set of --input in --output; --beam: one worker process per core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--beam", action="store_true")
    given = parser.parse_args()
    FacesAndComics.source, FacesAndComics.on_beam = given.input, given.beam
    options = PipelineOptions(
        direct_running_mode="multi_processing", direct_num_workers=os.cpu_count()
    )
    config = tfds.download.DownloadConfig(beam_runner="FnApiRunner", beam_options=options)
    builder = FacesAndComics(data_dir=given.output)
    builder.download_and_prepare(download_config=config)


if __name__ == "__main__":
    main()

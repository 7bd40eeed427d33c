"""Keras' way: no records at all, each epoch decodes every image again. This is one epoch."""

from __future__ import annotations

import argparse

import keras

from benchmarks.peers.shrink import SIDE, labelled_files


def main() -> None:
    """Go once through all images below --input; --output is not used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output")
    folder = parser.parse_args().input
    batches = keras.utils.image_dataset_from_directory(
        folder, color_mode="grayscale", image_size=(SIDE, SIDE), batch_size=64
    )
    seen = sum(int(images.shape[0]) for images, _ in batches)
    if seen != len(labelled_files(folder)):
        raise SystemExit(f"saw {seen} images")


if __name__ == "__main__":
    main()

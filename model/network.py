"""The study's family of networks."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from model.config import NetworkConfig
from pipeline.errors import WorkError
from pipeline.schema import ImageSpec


def build_network(
    config: NetworkConfig, spec: ImageSpec, *, precision: str = "float32"
) -> keras.Model:
    """An untrained network: uint8[B, H, W, C] → float32[B, 1], the score of class 1.

    Scaling to [0, 1] is its first layer. precision: `float32`, or `mixed_bfloat16` to compute all but
    the last layer in bfloat16; the weights are float32 in either. Raises UsageError if the image is
    too small for the convolutions.
    """
    config.check_fits(spec)
    network = keras.Sequential(name="inkling")
    network.add(keras.Input((spec.height, spec.width, spec.channels), dtype="uint8", name="image"))
    network.add(layers.Rescaling(1 / 255, dtype=precision))
    for kernels in config.kernels:
        network.add(layers.Conv2D(kernels, 3, activation="relu", dtype=precision))
        network.add(layers.MaxPooling2D(2, dtype=precision))
    network.add(layers.Flatten(dtype=precision))
    for _ in range(config.dense):
        network.add(layers.Dense(config.units, activation="relu", dtype=precision))
        _add_dropout(network, config.dropout, precision)
    if not config.dense:
        _add_dropout(network, config.dropout, precision)
    network.add(layers.Dense(1, activation="sigmoid", dtype="float32", name="score"))
    return network


def load_trained(config: NetworkConfig, spec: ImageSpec, weights: Path) -> keras.Model:
    """`build_network` in float32 with the weights that a run has left in the file `weights`.

    Raises WorkError if they cannot be read or are of another network.
    """
    network = build_network(config, spec)
    try:
        network.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise WorkError(
            f"{weights} cannot be loaded ({type(error).__name__}); train again: "
            f"python -m model.train --run {weights.parent} --overwrite"
        ) from error
    return network


def _add_dropout(network: keras.Sequential, share: float, precision: str) -> None:
    if share:
        network.add(layers.Dropout(share, dtype=precision))

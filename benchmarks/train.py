"""Training speed and accuracy beside stock Keras: `python benchmarks/train.py --records tfrecords/`.

Three ways to train the same network on the same images: stock Keras (float32, its defaults, scaled
numpy arrays in memory), ours from uint8 numpy arrays in memory, and ours from the stream. Each runs
in a process of its own, in rounds; the first epoch, which compiles, is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

WAYS = ("stock", "arrays", "stream")


def main() -> None:
    """Measure what the command line asks for and print tables of markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="a data set of 150x150x1")
    parser.add_argument("--examples", type=int, default=1000, help="images an epoch, for the speed")
    parser.add_argument("--epochs", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5, help="rounds of the speed")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the accuracy; 0: none")
    parser.add_argument("--accuracy_epochs", type=int, default=10)
    parser.add_argument("--precision", default="auto", help="of our networks, as of model.train")
    parser.add_argument(
        "--networks", default="3x32x2,5x32x2,5x64x2", help="to measure the speed of"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # JSON: one measurement, in this process
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.records, **json.loads(options.one))))
        return
    if options.networks:
        measure_speed(options)
    if options.seeds:
        measure_accuracy(options)


def measure_speed(options: argparse.Namespace) -> None:
    """Images per second of each network in each way; medians, ratios within rounds."""
    print("| network | way | images/s (least to most) | of stock | of arrays | peak MB |")
    print("| --- | --- | --: | --: | --: | --: |", flush=True)
    asked = {"examples": options.examples, "epochs": options.epochs, "seed": 0, "validate": False}
    for name in options.networks.split(","):
        network = tuple(map(int, name.split("x")))
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way in WAYS:
                found[way].append(in_own_process(options, way=way, network=network, **asked))
        for way in WAYS:
            rates = sorted(one["rate"] for one in found[way])
            ratios = [
                median(a["rate"] / b["rate"] for a, b in zip(found[way], found[base], strict=True))
                for base in ("stock", "arrays")
            ]
            peak = max(one["peak_mb"] for one in found[way])
            print(
                f"| {name} | {way} | {median(rates):,.0f} ({rates[0]:,.0f} to "
                f"{rates[-1]:,.0f}) | {ratios[0]:.2f} | {ratios[1]:.3f} | {peak:,.0f} |",
                flush=True,
            )


def measure_accuracy(options: argparse.Namespace) -> None:
    """Validation accuracy after the last epoch, stock and ours, seed by seed."""
    print("\nValidation accuracy after the last epoch, 5x32x2:\n\n| seed | stock | ours |")
    print("| --- | --: | --: |", flush=True)
    asked = {"examples": None, "epochs": options.accuracy_epochs, "validate": True}
    found: dict[str, list[float]] = {"stock": [], "stream": []}
    for seed in range(options.seeds):
        for way, values in found.items():
            one = in_own_process(options, way=way, network=(5, 32, 2), seed=seed, **asked)
            values.append(one["accuracy"])
        print(f"| {seed} | {found['stock'][-1]:.4f} | {found['stream'][-1]:.4f} |", flush=True)
    columns = (f"{mean(values):.4f} ± {stdev(values):.4f}" for values in found.values())
    print(f"| mean ± standard deviation | {' | '.join(columns)} |")


def in_own_process(options: argparse.Namespace, **asked: object) -> dict[str, Any]:
    """`measure_one` in a new process."""
    asked |= {"batch_size": options.batch_size, "precision": options.precision}
    command = [sys.executable, __file__, "--records", options.records, "--one", json.dumps(asked)]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_one(
    records: Path, *, way: str, network: list[int], examples: int | None, epochs: int,
    batch_size: int, seed: int, validate: bool, precision: str,
) -> dict[str, Any]:  # fmt: skip
    """Train once: images per second after the first epoch, accuracy, peak memory."""
    import keras
    import tensorflow as tf

    from pipeline.batches import evaluation_batches, training_batches
    from pipeline.dataset import stream

    keras.utils.set_random_seed(seed)
    part = {"batch_size": batch_size, "examples": examples, "validation_fraction": 0.2}
    batches = training_batches(records, seed=seed, epochs=epochs, **part)
    held_out = evaluation_batches(records, split="validation", **part)
    model = stock_network(network) if way == "stock" else our_network(network, batches, precision)
    per_epoch = batches.steps_per_epoch
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.monotonic()))
    if way == "stream":
        for epoch in range(epochs):  # as model.fit does it
            piece = stream(batches, first_step=epoch * per_epoch, last_step=(epoch + 1) * per_epoch)
            model.fit(piece, shuffle=False, verbose=0, callbacks=[clock])
    else:
        pieces = [batches.read(step) for step in range(per_epoch)]
        images, labels = (np.concatenate(part) for part in zip(*pieces, strict=True))
        if way == "stock":
            images = images.astype(np.float32) / 255
        model.fit(
            images, labels, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[clock]
        )
    count = sum(len(batches.numbers(step)) for step in range(per_epoch))
    rate = count * (epochs - 1) / (ends[-1] - ends[0])
    accuracy = None
    if validate:
        scale = 255 if way == "stock" else 1
        data = stream(held_out).map(lambda x, y: (tf.cast(x, tf.float32) / scale, y))
        data = data if way == "stock" else stream(held_out)
        accuracy = model.evaluate(data, verbose=0, return_dict=True)["accuracy"]
    return {"rate": rate, "accuracy": accuracy, "peak_mb": peak_mb()}


def stock_network(network: list[int]) -> keras.Model:
    """The study's network as a tutorial writes it, with Keras' defaults."""
    import keras
    from keras import layers

    conv, units, dense = network
    model = keras.Sequential([keras.Input((150, 150, 1))])
    for _ in range(conv):
        model.add(layers.Conv2D(units, 3, activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    for _ in range(dense):
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def our_network(network: list[int], batches: Any, precision: str) -> keras.Model:
    """The network as `model.fit` compiles it."""
    import keras

    from model.config import NetworkConfig
    from model.hardware import compile_options, resolve_precision
    from model.network import build_network

    resolved = resolve_precision(precision)
    model = build_network(NetworkConfig(*network), batches.image, precision=resolved)
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        **compile_options(batches.steps_per_epoch, deterministic=False),
    )
    return model


def peak_mb() -> float:
    """Peak memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()

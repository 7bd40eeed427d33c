"""What is trained and how: frozen, self-checking, and written to a run's `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import Parser
from pipeline.errors import UsageError
from pipeline.schema import ImageSpec


@dataclass(frozen=True)
class NetworkConfig:
    """One member of the study's family.

    conv: 3x3 convolutions, each followed by 2x2 max pooling; units: kernels of each convolution and
    units of each dense layer; dense: dense layers before the output.
    """

    conv: int
    units: int
    dense: int

    def __post_init__(self) -> None:
        for name, least in (("conv", 1), ("units", 1), ("dense", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"--{name}: must be at least {least}, received {getattr(self, name)}"
                )

    @property
    def name(self) -> str:
        """The study's name of the model, `5-conv-32-nodes-2-dense`."""
        return f"{self.conv}-conv-{self.units}-nodes-{self.dense}-dense"

    def check_fits(self, spec: ImageSpec) -> None:
        """Raise UsageError if the convolutions use up an image of `spec`."""
        largest = max_convolutions(spec)
        if self.conv > largest:
            raise UsageError(
                f"--conv: images of {spec.height}x{spec.width} leave room for at most {largest} "
                f"convolutions with pooling, received {self.conv}"
            )


def max_convolutions(spec: ImageSpec) -> int:
    """How many times a 3x3 convolution (no padding) and a 2x2 pooling fit into an image."""
    side, count = min(spec.height, spec.width), 0
    while side >= 4:
        side, count = (side - 2) // 2, count + 1
    return count


@dataclass(frozen=True)
class TrainConfig:
    """One training: the records, the network, and everything that decides the result."""

    records: Path
    network: NetworkConfig
    epochs: int
    batch_size: int
    validation_fraction: float
    examples: int | None
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name}: must be at least 1, received {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed: must be from 0 to {2**32 - 1}, received {self.seed}")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """From the `training` entry of `config.json`. Raises KeyError or TypeError."""
        known = dict(values, network=NetworkConfig(**values["network"]))
        return cls(**dict(known, records=Path(known["records"])))


@dataclass(frozen=True)
class TrainOptions:
    """A training and where it goes; run: None for `runs/<model's name>`, numbered if taken."""

    config: TrainConfig
    run: Path | None
    overwrite: bool


def parse_train_options(argv: Sequence[str] | None) -> TrainOptions:
    """The options in `argv` (default: the command line). Raises UsageError."""
    parser = Parser("python -m model.train", "Train a CNN of the study's family on records.")
    add = parser.add_argument
    add("--records", default="tfrecords/", help="folder that build_records made")
    add("--conv", type=int, default=5, help="3x3 convolutions, each with 2x2 max pooling")
    add("--units", type=int, default=32, help="kernels per convolution, units per dense layer")
    add("--dense", type=int, default=2, help="dense layers before the output")
    add("--epochs", type=int, default=10, help="passes over the training examples")
    add("--batch_size", type=int, default=64, help="images per step")
    add("--validation_fraction", type=float, default=0.2, help="share of the groups to validate on")
    add("--examples", type=int, help="use the first N training records only; default: all")
    add("--seed", type=int, default=0, help="decides initial weights and the order of the epochs")
    add("--run", help="folder for the results; default: runs/<name of the model>")
    add("--overwrite", action="store_true", help="replace what is in the folder of --run")
    given = parser.parse_strictly(argv)
    network = NetworkConfig(given.conv, given.units, given.dense)
    config = TrainConfig(
        records=Path(given.records),
        network=network,
        epochs=given.epochs,
        batch_size=given.batch_size,
        validation_fraction=given.validation_fraction,
        examples=given.examples,
        seed=given.seed,
    )
    return TrainOptions(config, Path(given.run) if given.run else None, given.overwrite)

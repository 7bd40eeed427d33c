"""What is trained and how: frozen, self-checking, and written to a run's `config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.augment import check_augmentations
from pipeline.errors import UsageError
from pipeline.schema import ImageSpec

PRECISIONS = ("auto", "float32", "mixed_bfloat16")
DEVICES = ("one", "all")


@dataclass(frozen=True)
class NetworkConfig:
    """One member of the study's family.

    conv: 3x3 convolutions, each followed by 2x2 max pooling; units: kernels of the first convolution
    and units of each dense layer; dense: dense layers before the output; dropout: share of the values
    that is dropped after each dense layer, without one before the output; growth: a convolution has
    so many times the kernels of the one before.
    """

    conv: int
    units: int
    dense: int
    dropout: float = 0.0
    growth: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("conv", 1), ("units", 1), ("dense", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"--{name}: must be at least {least}, received {getattr(self, name)}"
                )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout: must be from 0 to below 1, received {self.dropout}")
        if not 1 <= self.growth <= 8:
            raise UsageError(f"--growth: must be from 1 to 8, received {self.growth}")

    @property
    def name(self) -> str:
        """The study's name of the model, `5-conv-32-nodes-2-dense`; what it has not is appended."""
        beyond = (("growth", self.growth, 1), ("dropout", self.dropout, 0))
        more = "".join(f"-{value:.12g}-{name}" for name, value, usual in beyond if value != usual)
        return f"{self.conv}-conv-{self.units}-nodes-{self.dense}-dense{more}"

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernels of each convolution."""
        return tuple(round(self.units * self.growth**i) for i in range(self.conv))

    def to_json(self) -> dict[str, Any]:
        """The fields; without those beyond the study's where they are as in the study."""
        beyond = {"dropout": 0, "growth": 1}
        return {k: v for k, v in vars(self).items() if k not in beyond or v != beyond[k]}

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
    """One training: the records, the network, and everything that decides the result.

    learning_rate: of Adam; patience: epochs without a lower validation loss before training stops,
    None for never; precision: one of PRECISIONS; devices: `one`, or `all` of this machine's GPUs.
    """

    records: Path
    network: NetworkConfig
    epochs: int
    batch_size: int
    validation_fraction: float
    examples: int | None
    seed: int
    learning_rate: float
    patience: int | None
    augment: tuple[str, ...]
    precision: str
    devices: str
    deterministic: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name}: must be at least 1, received {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed: must be from 0 to {2**32 - 1}, received {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning_rate: must be above 0, received {self.learning_rate}")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"--patience: must be at least 1, received {self.patience}")
        for name, known in (("precision", PRECISIONS), ("devices", DEVICES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"--{name}: must be one of {', '.join(known)}, received {getattr(self, name)!r}"
                )
        check_augmentations(self.augment)

    @property
    def monitored(self) -> str:
        """The figure of an epoch by which the best one is chosen."""
        return "val_loss" if self.validation_fraction else "loss"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """From the `training` entry of `config.json`. Raises KeyError, TypeError or UsageError."""
        known = dict(values, network=NetworkConfig(**values["network"]))
        return cls(**dict(known, records=Path(known["records"]), augment=tuple(known["augment"])))

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`; the path of the records absolute."""
        return dict(
            vars(self), records=str(self.records.absolute()), network=self.network.to_json()
        )

"""What a network costs, by counting: parameters, multiplications, and an estimate of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import NetworkConfig
from pipeline.schema import ImageSpec

_KERNEL = 3 * 3
_TRAINING = 3  # a step back costs about two steps forward


def count_parameters(network: NetworkConfig, image: ImageSpec) -> int:
    """Weights and biases of the network that `build_network` makes."""
    channels = (image.channels, *network.kernels)
    total = sum(
        (_KERNEL * before + 1) * after
        for before, after in zip(channels, network.kernels, strict=False)
    )
    inputs = _flat_values(network, image)
    for _ in range(network.dense):
        total += (inputs + 1) * network.units
        inputs = network.units
    return total + inputs + 1


def count_multiplications(network: NetworkConfig, image: ImageSpec) -> int:
    """Multiplications of one image's way forward through the network."""
    total, channels = 0, image.channels
    height, width = image.height, image.width
    for kernels in network.kernels:
        height, width = height - 2, width - 2
        total += height * width * _KERNEL * channels * kernels
        height, width, channels = height // 2, width // 2, kernels
    inputs = _flat_values(network, image)
    for _ in range(network.dense):
        total += inputs * network.units
        inputs = network.units
    return total + inputs


def _flat_values(network: NetworkConfig, image: ImageSpec) -> int:
    height, width = image.height, image.width
    for _ in network.kernels:
        height, width = (height - 2) // 2, (width - 2) // 2
    return height * width * network.kernels[-1]


def trial_work(
    network: NetworkConfig, image: ImageSpec, *, examples: int, epochs: int, validation: float
) -> float:
    """Multiplications of a whole training: forward and back, and forward again to validate."""
    images = examples * (_TRAINING * (1 - validation) + validation)
    return epochs * images * count_multiplications(network, image)


@dataclass(frozen=True)
class Speed:
    """Seconds of trainings: `start` for each, and for an image `fixed` and `per_multiplication`."""

    start: float
    fixed: float
    per_multiplication: float

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]], *, start: float) -> Speed:
        """The line through two measured (multiplications, seconds per training image).

        One point alone, or two that contradict it: through the origin, by the larger network.
        """
        (small, fast), (large, slow) = min(points), max(points)
        slope = (slow - fast) / (large - small) if large > small else 0.0
        fixed = slow - slope * large
        if slope <= 0 or fixed < 0:
            return cls(start, 0.0, slow / large)
        return cls(start, fixed, slope)

    def seconds(
        self, network: NetworkConfig, image: ImageSpec, *, examples: int, epochs: int,
        validation: float,
    ) -> float:  # fmt: skip
        """An estimate for one training; validating an image is taken for a third of training it."""
        images = examples * (1 - validation + validation / _TRAINING)
        each = self.fixed + self.per_multiplication * count_multiplications(network, image)
        return self.start + epochs * images * each

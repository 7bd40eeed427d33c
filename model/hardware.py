"""What this machine computes with, and what follows from it for a training.

Keras compiles with XLA wherever it can. On a CPU that gains a third at best where nothing else runs
and falls to a seventh where something does (`benchmarks/RESULTS.md`), so only GPUs get it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipeline.errors import UsageError

# Not avx512_bf16 alone: there the 5x32x2 network trained at 0.9 of its speed in float32 (RESULTS.md).
_BFLOAT16_FLAG = "amx_bf16"
_BFLOAT16_CAPABILITY = 8.0  # NVIDIA's Ampere, the first that multiplies bfloat16
_GPU_STEPS_PER_EXECUTION = 32  # a small network takes a GPU a millisecond, about what Python takes


def gpu_capabilities() -> list[float]:
    """Compute capability of each GPU that Keras' backend sees; 0 where it tells none."""
    if keras.backend.backend() == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        return [float(getattr(gpu, "compute_capability", 0)) for gpu in gpus]
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    versions = (known.get("compute_capability", (0, 0)) for known in details)
    return [float(f"{major}.{minor}") for major, minor in versions]


def resolve_precision(asked: str) -> str:
    """`auto` → `mixed_bfloat16` if all that computes here is faster with it, else `float32`."""
    if asked != "auto":
        return asked
    capabilities = gpu_capabilities()
    on_gpu = bool(capabilities) and min(capabilities) >= _BFLOAT16_CAPABILITY
    on_cpu = not capabilities and _BFLOAT16_FLAG in cpu_flags()
    return "mixed_bfloat16" if on_gpu or on_cpu else "float32"


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The flags of the first processor, as Linux names them; none on other systems."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def compile_options(steps_per_epoch: int, *, deterministic: bool) -> dict[str, Any]:
    """Arguments for `compile` of a network: XLA and several steps a call where there is a GPU."""
    if not gpu_capabilities():
        jit = keras.backend.backend() == "jax"  # which knows no other way
        return {"jit_compile": jit, "steps_per_execution": 1}
    steps = max(1, min(_GPU_STEPS_PER_EXECUTION, steps_per_epoch))
    return {"jit_compile": not deterministic, "steps_per_execution": steps}


def strategy_for(devices: str) -> tf.distribute.Strategy:
    """How a network is spread: for `all`, a copy on each GPU (or each logical CPU), else none.

    Raises UsageError if the backend cannot.
    """
    if devices == "one":
        return tf.distribute.get_strategy()
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"--devices all: needs Keras on TensorFlow, received KERAS_BACKEND="
            f"{keras.backend.backend()}"
        )
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in found])


def to_device(dataset: tf.data.Dataset, *, devices: str) -> tf.data.Dataset:
    """`dataset`, its batches copied to the GPU ahead of time if there is exactly one to use."""
    gpus = tf.config.list_logical_devices("GPU")
    if devices == "all" or not gpus:
        return dataset
    return dataset.apply(tf.data.experimental.prefetch_to_device(gpus[0].name))

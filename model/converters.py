"""The network in the forms of other runtimes: ONNX and TensorFlow Lite.

These decode no files: they take what the build's preprocessing gives, uint8[B, H, W, C].
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UsageError

if TYPE_CHECKING:
    import keras

Scorer = Callable[[np.ndarray], np.ndarray]
"""Images uint8[B, H, W, C] → scores of class 1, float32[B]."""


def check_onnx_is_there() -> None:
    """Raise UsageError if what writes and checks ONNX files is not installed."""
    missing = [
        name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UsageError(
            f"--format onnx: {' and '.join(missing)} not installed; install the extra: pip install "
            "-c constraints.txt '.[onnx]'"
        )


def write_onnx(network: keras.Model, path: Path) -> Scorer:
    """Write an ONNX file, input `image`, output `score` float32[B]; what the file then computes."""
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    @tf.function(input_signature=[tf.TensorSpec(network.input_shape, tf.uint8, "image")])
    def score(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"score": network(image, training=False)[:, 0]}

    tf2onnx.convert.from_function(score, score.input_signature, output_path=str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["score"], {"image": images})[0]


def write_tflite(network: keras.Model, path: Path) -> Scorer:
    """Write a TensorFlow Lite file, input `image`, output float32[B, 1]; what it then computes."""
    import tensorflow as tf

    with contextlib.redirect_stdout(io.StringIO()):  # the converter describes what it saves
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    run = tf.lite.Interpreter(str(path)).get_signature_runner()

    def score(images: np.ndarray) -> np.ndarray:
        (scores,) = run(image=images).values()
        return scores[:, 0]

    return score

"""What is watched while a network trains: time lost to input, the first step gone wrong, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops


class InputMeter:
    """Adds up how long the consumer of a dataset waited for its batches: `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._asked = 0.0

    def watch(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """`dataset`, unchanged but for the watch. Only prefetching to a device may stand behind it.

        The parts of a zipped element are fetched from left to right, so the clock is read when a
        batch is asked for and when it is there. No step here runs ahead or in parallel.
        """
        asked = tf.data.Dataset.counter().map(lambda _: tf.numpy_function(self._ask, [], tf.int64))

        def note(_asked: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            with tf.control_dependencies([tf.numpy_function(self._get, [], tf.int64)]):
                return tf.nest.map_structure(tf.identity, batch)

        return tf.data.Dataset.zip((asked, dataset)).map(note).with_options(_in_turn())

    def _ask(self) -> np.int64:
        self._asked = time.monotonic()
        return np.int64(0)

    def _get(self) -> np.int64:
        self.seconds += time.monotonic() - self._asked
        return np.int64(0)


def _in_turn() -> tf.data.Options:
    options = tf.data.Options()
    options.experimental_optimization.map_parallelization = False
    options.experimental_optimization.inject_prefetch = False
    return options


@keras.saving.register_keras_serializable("inkling")
class SoundSteps(keras.metrics.Metric):
    """How many batches of the epoch had a finite loss, up to the first that had not.

    With several steps in one call of the device, this still tells which of them went wrong.
    """

    def __init__(self, name: str = "sound_steps") -> None:
        super().__init__(name=name, dtype="float32")
        self._steps = self.add_variable((), "zeros", name="steps")
        self._failed = self.add_variable((), "zeros", name="failed")  # several devices: sums add up

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """y_true: int[B]; y_pred: float[B, 1]."""
        labels = ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred))
        losses = ops.binary_crossentropy(labels, y_pred)
        finite = ops.cast(ops.all(ops.isfinite(losses)), "float32")
        self._failed.assign(ops.maximum(self._failed, 1 - finite))
        self._steps.assign(self._steps + 1 - self._failed)

    def result(self) -> tf.Tensor:
        """float32 scalar."""
        return ops.convert_to_tensor(self._steps)

    def reset_state(self) -> None:
        """Begin an epoch."""
        self._steps.assign(0.0)
        self._failed.assign(0.0)


class StepWatch(keras.callbacks.Callback):
    """Puts back the figures of an epoch that was cut off, then reports each call of the device.

    restored: values for `variables`, the network's metrics, put back after Keras has reset them;
    on_steps(steps of this fit so far, logs).
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        *,
        restored: Sequence[np.ndarray],
        on_steps: Callable[[int, dict[str, float]], None],
    ) -> None:
        super().__init__()
        self._variables, self._restored, self._on_steps = variables, restored, on_steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keras has just reset the metrics."""
        for variable, value in zip(self._variables, self._restored, strict=bool(self._restored)):
            variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """`batch` is the number, from 0, of the last step that was done."""
        self._on_steps(batch + 1, logs or {})

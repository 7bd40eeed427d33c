"""A run's TensorBoard: figures by step and by epoch (TensorBoard itself shows either by time)."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

_SAMPLE_IMAGES = 16


class Curves:
    """Writes `folder/train` and `folder/validation`; several processes may add to them in turn."""

    def __init__(self, folder: Path) -> None:
        self._train = tf.summary.create_file_writer(str(folder / "train"))
        self._validation = tf.summary.create_file_writer(str(folder / "validation"))

    def add_step(self, step: int, *, loss: float, accuracy: float) -> None:
        """Training figures after `step` steps, each the mean since the last call."""
        with self._train.as_default(step):
            tf.summary.scalar("step_loss", loss)
            tf.summary.scalar("step_accuracy", accuracy)

    def add_epoch(self, row: dict[str, float]) -> None:
        """The figures of a finished epoch, a row of `history.csv`."""
        figures = dict(row)
        epoch = int(figures.pop("epoch"))
        for name, value in figures.items():
            writer = self._validation if name.startswith("val_") else self._train
            with writer.as_default(epoch):
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value)
        self._train.flush()
        self._validation.flush()

    def add_images(self, images: tf.Tensor) -> None:
        """uint8[B, H, W, C]: the first of a training batch, as the network sees them."""
        with self._train.as_default(0):
            tf.summary.image("training images", images[:_SAMPLE_IMAGES], max_outputs=_SAMPLE_IMAGES)

    def close(self) -> None:
        """Write what is still in memory."""
        self._train.close()
        self._validation.close()

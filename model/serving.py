"""`pipeline.images.decode_image` once more, as a TensorFlow graph, and the SavedModel around it.

The same steps in the same order: JPEG decoded at 1/2, 1/4 or 1/8 where that is no smaller than the
result; the high byte of 16 bits; what is transparent over white; luma; bilinear resizing with
antialiasing, first along the rows; then the turn that Exif asks for. Each step in Pillow's own
whole-number arithmetic, so the pixels are the build's to the last bit. What a graph cannot do exactly
it refuses (`model.headers`). `model.export` holds the graph against the build's function.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from model.headers import BMP, JPEG, PNG, Header, read_header
from pipeline.schema import ImageSpec

_LUMA = (19595, 38470, 7471)  # of 65536: ITU-R 601 as Pillow computes it


def save_serving_graph(
    network: keras.Model,
    folder: Path,
    *,
    spec: ImageSpec,
    classes: Sequence[str],
    max_pixels: int,
) -> None:
    """Write the SavedModel of `network` to `folder`, with two signatures for bytes of image files.

    serving_default: image_bytes string[B] → score float32[B] of class 1, label string[B];
    preprocess: image_bytes string[B] → image uint8[B, H, W, C], what the network is given.
    """
    served = _Served(network, spec, classes, max_pixels)
    signatures = {"serving_default": served.serve, "preprocess": served.preprocess}
    tf.saved_model.save(served, str(folder), signatures=signatures)


class _Served(tf.Module):
    def __init__(
        self, network: keras.Model, spec: ImageSpec, classes: Sequence[str], max_pixels: int
    ) -> None:
        super().__init__()
        self._network = network
        self._spec = spec
        self._classes = tuple(classes)
        self._max_pixels = max_pixels

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = self.preprocess(image_bytes)["image"]
        scores = self._network(images, training=False)[:, 0]
        labels = tf.gather(tf.constant(self._classes), tf.cast(scores > 0.5, tf.int32))
        return {"score": scores, "label": labels}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def preprocess(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": decode_images(image_bytes, self._spec, max_pixels=self._max_pixels)}


def decode_images(image_bytes: tf.Tensor, spec: ImageSpec, *, max_pixels: int) -> tf.Tensor:
    """uint8[B, H, W, C] from the bytes of image files, string[B].

    Raises InvalidArgumentError for the batch if one of them is damaged, or of a kind in
    `headers.REFUSALS`: the message names its place in the batch.
    """

    def decode(numbered: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        number, data = numbered
        header = read_header(data, max_pixels=max_pixels)
        sound = tf.debugging.Assert(
            header.problem == "", ["image", number, "of the batch is refused:", header.problem]
        )
        with tf.control_dependencies([sound]):
            header = header._replace(data=tf.identity(header.data))
        return _decode(header, spec)

    numbers = tf.range(tf.size(image_bytes))
    signature = tf.TensorSpec([spec.height, spec.width, spec.channels], tf.uint8)
    return tf.map_fn(decode, (numbers, image_bytes), fn_output_signature=signature)


def _decode(header: Header, spec: ImageSpec) -> tf.Tensor:
    size = tf.constant([spec.height, spec.width], tf.int64)
    if header.orientation >= 5:  # the camera lay on its side
        size = tf.reverse(size, [0])
    if header.kind == JPEG:
        pixels = _decode_jpeg(header, size, spec.channels)
    elif header.kind == PNG:
        pixels = _flatten(tf.io.decode_png(header.data, channels=0), spec.channels)
    elif header.kind == BMP:
        pixels = _decode_bmp(header, spec.channels)
    else:
        frame = tf.io.decode_image(header.data, channels=3, expand_animations=False)
        pixels = _to_channels(frame, spec.channels)
    image = _turn(_resize(pixels, size), header.orientation)
    return tf.reshape(image, [spec.height, spec.width, spec.channels])


def _decode_jpeg(header: Header, size: tf.Tensor, channels: int) -> tf.Tensor:
    """At the scale that Pillow's `draft` chooses: the smallest not below `size`."""
    times = tf.minimum(header.height // size[0], header.width // size[1])
    return tf.switch_case(
        tf.reduce_sum(tf.cast(times >= [2, 4, 8], tf.int32)),
        [
            lambda ratio=ratio: tf.io.decode_jpeg(
                header.data, channels=channels, ratio=ratio, dct_method="INTEGER_ACCURATE"
            )
            for ratio in (1, 2, 4, 8)
        ],
    )


def _decode_bmp(header: Header, channels: int) -> tf.Tensor:
    """The fourth byte of 32 bits is no transparency."""
    pixels = tf.io.decode_bmp(header.data)
    return _to_channels(tf.gather(pixels, _colours(pixels), axis=2), channels)


def _flatten(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    """uint8[h, w, channels] from uint8[h, w, 1-4]: gray or colour, over white where transparent."""
    colours = tf.gather(pixels, _colours(pixels), axis=2)
    if tf.shape(pixels)[2] % 2 == 0:
        alpha = tf.cast(pixels[:, :, -1:], tf.int32)
        mixed = tf.cast(colours, tf.int32) * alpha + 255 * (255 - alpha) + 128
        colours = tf.cast((mixed // 256 + mixed) // 256, tf.uint8)  # as Pillow divides by 255
    return _to_channels(colours, channels)


def _colours(pixels: tf.Tensor) -> tf.Tensor:
    """Which channels of pixels[h, w, 1-4] are red, green and blue."""
    return tf.where(tf.shape(pixels)[2] < 3, [0, 0, 0], [0, 1, 2])


def _to_channels(colours: tf.Tensor, channels: int) -> tf.Tensor:
    if channels == 3:
        return colours
    luma = tf.reduce_sum(tf.cast(colours, tf.int32) * _LUMA, 2, keepdims=True)
    return tf.cast((luma + 32768) // 65536, tf.uint8)


def _resize(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """uint8[*size, C] from uint8[h, w, C], equal to Pillow's BILINEAR to the last bit.

    Only of sides beyond some 20,000 pixels a gray level's difference was ever seen. `tf.image.resize`
    would be faster for large images, and off by one or two here and there.
    """
    planes = tf.transpose(pixels, [2, 1, 0])
    planes = _weigh(planes, _weights(tf.shape(planes)[1], size[1]))
    planes = tf.transpose(planes, [0, 2, 1])
    planes = _weigh(planes, _weights(tf.shape(planes)[1], size[0]))
    return tf.transpose(planes, [1, 2, 0])


def _weights(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """float64[after, before], whole numbers: the share of each old pixel in each new one, of 2**22.

    A triangle over each new pixel's centre, as wide as two old or two new pixels, whichever is more
    (Pillow, src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc).
    """
    before, after = tf.cast(before, tf.float64), tf.cast(after, tf.float64)
    ratio = before / after
    reach = tf.maximum(ratio, 1.0)
    centres = (tf.range(after) + 0.5) * ratio
    distances = tf.range(before) + 0.5 - centres[:, tf.newaxis]
    shares = tf.maximum(1 - tf.abs(distances * (1 / reach)), 0)
    shares /= tf.reduce_sum(shares, 1, keepdims=True)
    return tf.floor(shares * 2**22 + 0.5)


def _weigh(planes: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """uint8[C, after, n] from uint8[C, before, n]; float64 holds all sums exactly."""
    sums = tf.matmul(weights, tf.cast(planes, tf.float64))
    return tf.cast((sums + 2**21) // 2**22, tf.uint8)


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """`image` upright; orientation: as in Exif, 1 to 8."""
    if orientation >= 5:
        image = tf.transpose(image, [1, 0, 2])
    if tf.reduce_any(orientation == tf.constant([3, 4, 7, 8], tf.int64)):
        image = tf.reverse(image, [0])
    if tf.reduce_any(orientation == tf.constant([2, 3, 6, 7], tf.int64)):
        image = tf.reverse(image, [1])
    return image

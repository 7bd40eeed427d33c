"""Memory for batches: used again, but never while anybody can still see it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipeline.buffers import Buffers


def address(array):
    return array.__array_interface__["data"][0]


def test_what_nobody_holds_is_used_again():
    buffers = Buffers()
    first = address(buffers.take(10, 1000))
    assert [address(buffers.take(10, 1000)) for _ in range(5)] == [first] * 5
    assert address(buffers.take(3, 500)) == first  # a smaller one as well


@pytest.mark.parametrize(
    "holding",
    [
        lambda array: array,
        lambda array: array[3:5],
        lambda array: array.reshape(5, 2, -1)[1].T,
        memoryview,
        lambda array: np.asarray(memoryview(array)[2:]),
    ],
)
def test_what_is_held_in_any_way_is_not(holding):
    buffers = Buffers()
    array = buffers.take(10, 1000)
    first = address(array)
    held = holding(array)
    del array
    assert address(buffers.take(10, 1000)) != first
    del held
    assert first in [address(buffers.take(10, 1000)) for _ in range(2)]


def test_a_tensor_holds_what_it_was_made_of():
    """TensorFlow takes the memory over without a copy: it must not be written while a tensor lives."""
    import tensorflow as tf

    buffers = Buffers()

    def fill(value):
        array = buffers.take(8, 1000)
        array[:] = value
        return array

    data = tf.data.Dataset.range(60).map(
        lambda value: tf.numpy_function(fill, [value], tf.uint8, stateful=False),
        num_parallel_calls=4,
    )
    tensors = list(data.prefetch(8))
    assert all((tensor.numpy() == value).all() for value, tensor in enumerate(tensors))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 333), (3, 64)])
def test_shape_and_alignment(rows, columns):
    array = Buffers().take(rows, columns)
    assert array.shape == (rows, columns)
    assert array.dtype == np.uint8
    assert address(array) % 64 == 0


def test_threads_never_share_memory():
    buffers, wrong = Buffers(), []

    def work(value):
        for _ in range(300):
            array = buffers.take(4, 500)
            array[:] = value
            if (array != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_more_is_kept_than_can_be_on_its_way():
    buffers = Buffers()
    held = [buffers.take(1, 100) for _ in range(50)]
    held.clear()
    places = {address(buffers.take(1, 100)) for _ in range(50)}
    assert len(places) == 1
    assert len(buffers._rooms) == 16

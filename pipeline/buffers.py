"""Memory for batches that is used again once nobody holds an array in it.

Memory that is fresh from the system has to be cleared page by page, which costs as much as reading
the records into it.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

_ALIGNMENT = 64  # bytes; TensorFlow takes over an array that is aligned so, and copies any other
_MOST_KEPT = 16  # more than can be on their way; what is beyond is left to the system


class Buffers:
    """Hands out arrays; may be shared by threads."""

    def __init__(self) -> None:
        self._rooms: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, rows: int, columns: int) -> np.ndarray:
        """uint8[rows, columns] of any content, aligned; its memory is the caller's while any array,
        view or tensor refers to it.
        """
        size = rows * columns
        with self._lock:
            room = self._find(size + _ALIGNMENT)
            first = -room.ctypes.data % _ALIGNMENT
            return room[first : first + size].reshape(rows, columns)

    def _find(self, size: int) -> np.ndarray:
        for index, room_bytes in enumerate([room.nbytes for room in self._rooms]):
            if room_bytes >= size and _holders(self._rooms, index) == _ONLY_THE_LIST:
                return self._rooms[index]
        room = np.empty(size, np.uint8)
        self._rooms = [*self._rooms, room][-_MOST_KEPT:]
        return room


def _holders(rooms: list[np.ndarray], index: int) -> int:
    """References to a room: every view of it holds one, as numpy lets views of views do."""
    return sys.getrefcount(rooms[index])


_ONLY_THE_LIST = _holders([np.empty(1)], 0)

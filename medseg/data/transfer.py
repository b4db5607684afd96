"""Objects with large arrays through a pipe between processes, each array copied once on either side.

`Connection.send` copies an array into a pickle and the pickle into the pipe, and the receiver does the
same backwards; here the array itself goes into the pipe. Shared memory would save one copy more, but a
full /dev/shm kills the process that touches it.
"""

from __future__ import annotations

import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray


def send(connection: Connection[Any, Any], value: Any) -> None:
    """Send what `receive` on the other end returns.

    Raises
    ------
    OSError
        The other end is closed.
    MemoryError
        Nothing has been sent.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    connection.send((head, [array.nbytes for array in arrays]))
    for array in arrays:
        _write(connection.fileno(), array)


def receive(connection: Connection[Any, Any]) -> Any:
    """The next object; its arrays are writable and its own.

    Raises
    ------
    EOFError
        The other end is closed, perhaps in the middle of an object.
    """
    head, sizes = connection.recv()
    arrays = [np.empty(size, dtype=np.uint8) for size in sizes]
    for array in arrays:
        _read(connection.fileno(), array)
    return pickle.loads(head, buffers=arrays)


def _write(descriptor: int, array: memoryview) -> None:
    done = 0
    while done < array.nbytes:
        done += os.write(descriptor, array[done:])


def _read(descriptor: int, array: NDArray[np.uint8]) -> None:
    view, done = array.data, 0
    while done < view.nbytes:
        count = os.readv(descriptor, [view[done:]])
        if count == 0:
            raise EOFError
        done += count

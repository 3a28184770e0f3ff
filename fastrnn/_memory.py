"""Arrays for kernels: aligned; and large ones in memory that is used again.

What the system hands out anew it clears page by page, which can take a fifth of a training step.
"""

import math
import sys
import threading

import numpy as np

SMALL = 64 * 1024  # bytes that are not worth the trouble
KEPT = 256 * 1024 * 1024  # bytes a thread keeps at most
LINE = 64  # bytes

_thread = threading.local()


def _references(blocks: list, k: int) -> int:
    return sys.getrefcount(blocks[k])


_IDLE = _references([np.empty(0)], 0)  # nothing but the list refers to it


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As `numpy.empty`; a large one lies where this thread had another that is gone, and begins at a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return np.empty(shape, dtype) if size < SMALL else _aligned(_block(size + LINE), size, shape, dtype)


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As `empty`, and a small one begins at a cache line, too."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return _aligned(np.empty(size + LINE, np.uint8) if size < SMALL else _block(size + LINE), size, shape, dtype)


def _aligned(block: np.ndarray, size: int, shape, dtype) -> np.ndarray:
    first = -block.__array_interface__["data"][0] % LINE
    return block[first : first + size].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As `numpy.zeros`, see `empty`."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def _block(size: int) -> np.ndarray:
    """So many bytes or up to twice as many. Every array in a block refers to it, so its count of references says whether it is in use."""
    blocks = vars(_thread).setdefault("blocks", [])
    fitting = [k for k in range(len(blocks)) if size <= blocks[k].nbytes <= 2 * size and _references(blocks, k) == _IDLE]
    taken = [blocks.pop(min(fitting, key=lambda k: blocks[k].nbytes))] if fitting else []
    # looked at once more: what a signal or the collector of garbage calls in between may have taken it, or moved another here
    if not taken or taken[0].nbytes < size or _references(taken, 0) != _IDLE:
        taken = [np.empty(size, np.uint8)]
    block = taken[0]
    if block.nbytes <= KEPT:
        blocks.append(block)  # the last one used stands last
        spare = sum(kept.nbytes for kept in blocks) - KEPT
        while spare > 0:
            spare -= blocks.pop(0).nbytes
    return block

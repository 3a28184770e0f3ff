"""How far each entry of a batch reaches: the lengths of sequences, (B,), or the sizes of images in rows and columns, (B, 2).

`shape` is that of a batch without its features: (T, B), or (R, C, B).
"""

import numpy as np

from . import _check


def checked(extent, shape: tuple[int, ...]) -> np.ndarray:
    """`extent` as int64; all there is where it is None. A sequence may be empty; an image has a row and a column."""
    if len(shape) == 2:
        return _check.lengths(extent, *shape)
    return _check.sizes(extent, *shape)


def valid(extent: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which places of `shape` an entry reaches."""
    if len(shape) == 2:
        return np.arange(shape[0])[:, None] < extent
    rows, columns = np.arange(shape[0])[:, None, None], np.arange(shape[1])[:, None]
    return (rows < extent[:, 0]) & (columns < extent[:, 1])


def counts(extent: np.ndarray) -> np.ndarray:
    """How many steps, or pixels, each entry has, (B,)."""
    return extent if extent.ndim == 1 else extent.prod(axis=1)

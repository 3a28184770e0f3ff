"""Named arrays that share one flat buffer: parameters, their gradients, and the optimizer's moments."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class At(NamedTuple):
    """Where an array of every member lies: from `start` on in each row of `flat` (E, n); one row, where it is common to all."""

    flat: np.ndarray
    start: int

    def part(self, block: slice) -> np.ndarray:
        """A stretch of the array, seen as a vector, of every member: (E, size)."""
        return self.flat[:, self.start + block.start : self.start + block.stop]


class Params(Mapping):
    """An ordered mapping from names to arrays, all of them views of one contiguous vector.

    One buffer makes an optimizer step, a norm or a checkpoint a single pass over memory, and gradients and moments have
    the same type as the parameters they belong to.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Name and shape of every array, in order.
    dtype : {"float32", "float64"}
    flat : ndarray, shape (n,), optional
        The buffer to use; zeros by default. Of shape (E, n) it is that of E models, and every array has a leading axis E.

    Examples
    --------
    >>> from fastrnn import Params
    >>> p = Params({"weight": (2, 3), "bias": (2,)}, "float64")
    >>> p["bias"] = 1.0
    >>> p.flat
    array([0., 0., 0., 0., 0., 0., 1., 1.])
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype, flat: np.ndarray | None = None):
        self.shapes = dict(shapes)
        size = sum(math.prod(shape) for shape in self.shapes.values())
        self.flat = np.zeros(size, dtype) if flat is None else flat
        if self.flat.shape[-1:] != (size,) or self.flat.ndim > 2:
            raise ValueError(f"flat: a buffer of shape ({size},) is required for these shapes; got {self.flat.shape}")
        self._views, self._places, start, rows = {}, {}, 0, self.flat if self.flat.ndim == 2 else self.flat[None]
        for name, shape in self.shapes.items():
            self._places[name] = At(rows, start)
            start += math.prod(shape)

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._views:  # made when they are asked for: those of gradients seldom are
            shape, start = self.shapes[name], self._places[name].start
            self._views[name] = self.flat[..., start : start + math.prod(shape)].reshape(self.flat.shape[:-1] + shape)
        return self._views[name]

    def __setitem__(self, name: str, value) -> None:
        self[name][...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}{list(shape)}" for name, shape in self.shapes.items())
        return f"Params({inner}; {self.dtype})"

    def at(self, name: str) -> At:
        """Where an array lies, as kernels take it."""
        return self._places[name]

    def like(self) -> "Params":
        """Zeros with the same names and shapes."""
        return Params(self.shapes, self.dtype, np.zeros_like(self.flat))

    def copy(self) -> "Params":
        return Params(self.shapes, self.dtype, self.flat.copy())

    def __deepcopy__(self, memo) -> "Params":
        return memo.setdefault(id(self), self.copy())  # its views are of its own buffer

    @staticmethod
    def join(groups: Mapping[str, "Params"]) -> tuple["Params", dict[str, "Params"]]:
        """One buffer for several groups, names prefixed ``group.name``; and each group as views of that buffer."""
        dtype = np.result_type(*(group.dtype for group in groups.values() if len(group)))
        shapes = {f"{key}.{name}": shape for key, group in groups.items() for name, shape in group.shapes.items()}
        like = next((group.flat for group in groups.values() if len(group)), np.empty(0, dtype))  # on whose device they all are
        flat = np.zeros_like(like, dtype, shape=sum(group.flat.size for group in groups.values()))
        whole, parts, start = Params(shapes, dtype, flat), {}, 0
        for key, group in groups.items():
            stop = start + group.flat.size
            if len(group):
                whole.flat[start:stop] = group.flat
            parts[key] = Params(group.shapes, dtype, whole.flat[start:stop])
            start = stop
        return whole, parts

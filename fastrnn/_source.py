"""What `fit` is given as data, brought to one form: batches that can be started at any place."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from .data.batches import Batch, Batches, as_batch

_ACCEPTED = "(x, target), (x, target, lengths), Batches, a Stream, or an iterable of such batches"


class Source:
    """The batches of every epoch.

    Attributes
    ----------
    length : int or None
        Batches in an epoch, where that is known.
    endless : bool
        Whether the data has no epochs of its own (a stream).
    once : bool
        Whether the data can be gone through only once (a generator).
    cut : bool
        Whether its batches were cut from arrays, and so hold sequences of their own: none goes on where another ended.
    settings : dict
        What must be the same for a resumed run to see the same batches.
    """

    endless = False
    once = False
    cut = False

    def __init__(self, data):
        self._data = data
        self.length = None if self.endless else _length(data)
        own = {name: getattr(data, name, None) for name in ("batch_size", "shuffle", "bucket", "seed", "length")}
        self.settings = {"kind": type(data).__name__, "batches": self.length}
        self.settings |= {name: value for name, value in own.items() if isinstance(value, int)}

    def start(self, epoch: int, batch: int, seen: int) -> Iterator[Batch]:
        """The batches of `epoch` from number `batch` on; `seen` batches have been given out in all epochs together."""
        for item in self._items(epoch, batch, seen):
            yield item if isinstance(item, Batch) else as_batch(item)

    def seeded(self, seed: int) -> "Source":
        """The same data in the order of another seed, where `fit` gives the order."""
        return self

    def _items(self, epoch: int, batch: int, seen: int) -> Iterable[Any]:
        return itertools.islice(self._data, batch, None)


class _Epochs(Source):
    """Batches whose order is a function of the epoch's number."""

    def _items(self, epoch, batch, seen):
        return itertools.islice(self._data.epoch(epoch), batch, None)


class _Arrays(_Epochs):
    """Batches of arrays."""

    cut = True

    def seeded(self, seed):
        batches = copy.copy(self._data)
        batches.seed = seed
        return _Arrays(batches)


class _Stream(Source):
    """Batches without end, each a function of its number."""

    endless = True

    def __init__(self, data):
        super().__init__(data)
        self._last: tuple[int, Any] = -1, None

    def _items(self, epoch, batch, seen):
        return map(self._batch, itertools.count(seen))

    def _batch(self, number: int):
        """Made once for all members of an ensemble that are in step."""
        if self._last[0] != number:
            self._last = number, self._data.batch(number)
        return self._last[1]


class _Once(Source):
    """An iterator: one epoch, and no way back."""

    once = True


def source(name: str, data, *, seed: int = 0, per_step: bool | None = None, **batching) -> Source:
    """The Source of `data`; `batching` are options of Batches, for arrays only (None where not given).

    `per_step` is what `Batches` is told about arrays: whether targets are one a step, None if their shape says it.
    """
    given = {option: value for option, value in batching.items() if value is not None}
    if isinstance(data, tuple) and 2 <= len(data) <= 4 and not isinstance(data[0], tuple):
        x, target, *rest = data
        return _Arrays(Batches(x, target, *rest, seed=seed, per_step=per_step, **given))
    if given:
        raise ValueError(f"{', '.join(given)}: no options are required for {name} in batches. Give them to Batches")
    if hasattr(data, "epoch"):
        return _Epochs(data)
    if hasattr(data, "batch"):
        return _Stream(data)
    if isinstance(data, Iterator):
        return _Once(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        return Source(data)
    raise TypeError(f"{name}: {_ACCEPTED} is required; got {type(data).__name__}")


def _length(data) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None

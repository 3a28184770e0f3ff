"""The memory of the simulator in `gridsim`: arrays that know who touched which of their numbers since the last barrier."""

from functools import cache
from types import SimpleNamespace

import numpy as np
from numba import types

now = SimpleNamespace(thread=None)  # the thread that runs


class SimulationError(Exception):
    """What would be undefined on a GPU."""


class Race(SimulationError):
    pass


class Unwritten(SimulationError):
    pass


class Divergence(SimulationError):
    pass


class Mark:
    """What an access leaves: who it was, and in which epoch, between two barriers, of its block. None: several of them."""

    __slots__ = "block", "epoch", "number"

    def __init__(self, block: int | None, epoch: int, number: int | None):
        self.block, self.epoch, self.number = block, epoch, number


SEVERAL = Mark(None, 0, None)


class Memory:
    """Numbers in one place, and the last accesses to each of them."""

    def __init__(self, numbers: np.ndarray, name: str, written: bool):
        self.numbers, self.name = numbers, name
        self.unwritten = None if written else bytearray(b"\1") * numbers.size
        self.reads, self.writes = {}, {}  # place -> Mark

    def read(self, place: int):
        mark = now.thread.mark
        if self.unwritten is not None and self.unwritten[place]:
            raise Unwritten(f"{self.name}[{place}] is read by {now.thread.title} before anyone has written it")
        other = self.writes.get(place)
        if other is not None and other is not mark:
            self._meet(place, mark, other, "reads", "written")
        other = self.reads.get(place)
        if other is not mark:
            self.reads[place] = mark if other is None else self._both(mark, other)
        return self.numbers[place]

    def write(self, place: int, value) -> None:
        mark = now.thread.mark
        other = self.writes.get(place)
        if other is not None and other is not mark:
            self._meet(place, mark, other, "writes", "written")
        other = self.reads.get(place)
        if other is not None and other is not mark:
            self._meet(place, mark, other, "writes", "read")
        if self.unwritten is not None:
            self.unwritten[place] = 0
        self.writes[place] = mark
        self.numbers[place] = value

    @staticmethod
    def _both(mark, other):
        if other.block != mark.block:
            return SEVERAL
        if other.epoch != mark.epoch:
            return mark
        return other if other.number is None else Mark(mark.block, mark.epoch, None)

    def _meet(self, place, mark, other, does, did):
        if other.block != mark.block or (other.epoch == mark.epoch and other.number != mark.number):
            who = "several threads" if other.number is None else f"thread {other.number}"
            block = "several blocks" if other.block is None else f"block {other.block}"
            raise Race(f"{now.thread.title} {does} {self.name}[{place}], {did} by {who} of {block} with no barrier between")


class Ordered(Memory):
    """The same where threads of several blocks wait for each other: a clock a thread, which says how far of each other it knows.

    What has been done is before what is being done, if the one who does it knows of it (Lamport 1978).
    """

    def read(self, place: int):
        thread = now.thread
        if self.unwritten is not None and self.unwritten[place]:
            raise Unwritten(f"{self.name}[{place}] is read by {thread.title} before anyone has written it")
        if place in self.writes:
            self._meet_one(place, thread, *self.writes[place], "reads", "written")
        if place not in self.reads:
            self.reads[place] = {}
        self.reads[place][thread.index] = thread.time
        return self.numbers[place]

    def write(self, place: int, value) -> None:
        thread = now.thread
        if place in self.writes:
            self._meet_one(place, thread, *self.writes[place], "writes", "written")
        for other, time in self.reads.pop(place, {}).items():  # of which whoever knows of this knows, too
            self._meet_one(place, thread, other, time, "writes", "read")
        if self.unwritten is not None:
            self.unwritten[place] = 0
        self.writes[place] = thread.index, thread.time
        self.numbers[place] = value

    def _meet_one(self, place, thread, other, time, does, did):
        if other != thread.index and thread.clock[other] < time:
            raise Race(f"{thread.title} {does} {self.name}[{place}], {did} by thread {other} of the grid, which nothing brings before")


class Watched:
    """An array of places in a `Memory`: what kernels index."""

    def __init__(self, memory: Memory, places: np.ndarray, whole: bool = False):
        self.memory, self.places, self.shape, self.read, self.write = memory, places, places.shape, memory.read, memory.write
        self.flat = places.size if whole and places.ndim == 1 else 0  # places are 0, 1, 2, ...

    @classmethod
    def of(cls, array: np.ndarray, name: str, written: bool = True, memory: type = Memory) -> "Watched":
        if not array.flags.c_contiguous:
            raise SimulationError(f"{name}: kernels take contiguous arrays")
        return cls(memory(array.reshape(-1), name, written), np.arange(array.size).reshape(array.shape), whole=True)

    @property
    def size(self):
        return self.places.size

    @property
    def dtype(self):
        return self.memory.numbers.dtype

    def _find(self, index):
        index = index if isinstance(index, tuple) else (index,)
        for axis, (i, n) in enumerate(zip(index, self.shape)):
            if not isinstance(i, slice) and not 0 <= i < n:
                raise IndexError(f"{self.memory.name}: index {i} on axis {axis} of an array of shape {self.shape}")
        return self.places[index]

    def __getitem__(self, index):
        if self.flat and not isinstance(index, (slice, tuple)) and 0 <= index < self.flat:  # most of all: in a hurry
            return self.read(int(index))
        found = self._find(index)
        return Watched(self.memory, found) if isinstance(found, np.ndarray) else self.read(int(found))

    def __setitem__(self, index, value):
        if self.flat and not isinstance(index, (slice, tuple)) and 0 <= index < self.flat:
            return self.write(int(index), value)
        found = self._find(index)
        if isinstance(found, np.ndarray):
            raise SimulationError(f"{self.memory.name}: kernels write one number at a time")
        self.write(int(found), value)


def dtype_of(kind) -> np.dtype:
    """Of a type of NumPy's or Numba's."""
    return np.dtype(str(kind) if isinstance(kind, types.Type) else kind)


@cache
def _poison(shape, dtype) -> np.ndarray:
    dtype = dtype_of(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).min, dtype)


def poisoned(shape, dtype) -> np.ndarray:
    """What nobody has written."""
    return _poison(shape, dtype).copy()

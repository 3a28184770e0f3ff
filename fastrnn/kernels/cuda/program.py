"""What a function launches, noted once for arrays of given shapes, and done again with others of them: only addresses change.

Which kernels a layer needs, on how many blocks and with which numbers, depends on shapes alone. To find it takes the host some ten times
as long as to launch them, and a GPU with a small layer waits for that. So when shapes come for the second time, a function is called with
`Slot` for every array, each with a shape and no numbers; what it launches, and what room it asks for, is noted, and nothing is run.
"""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from . import target
from .compiler import require_contiguous

ALIGNED = 256  # bytes: where arrays begin that share memory
SYMBOL, WHICH = 1 << 62, 48  # what stands for an address is larger than any, and says in bits from the second on of which array it is


class Slot:
    """Stands for an array, or for a contiguous part of one: of the arrays of a `Program` number `which`, from byte `at` on.

    It has what launches and shapes need of an array; no numbers, and nothing that would compute with them.
    """

    __slots__ = "at", "dtype", "shape", "size", "which"
    flags = SimpleNamespace(c_contiguous=True)

    def __init__(self, which: int, at: int, shape: tuple, dtype: np.dtype):
        self.which, self.at, self.shape, self.dtype, self.size = which, int(at), shape, dtype, int(math.prod(shape))

    @property
    def data(self) -> "Slot":
        return self

    @property
    def ptr(self) -> int:
        return SYMBOL + (self.which << WHICH) + self.at

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def strides(self) -> tuple:
        return tuple(math.prod(self.shape[k + 1 :]) * self.dtype.itemsize for k in range(self.ndim))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> "Slot":
        begin, end, step = part.indices(self.shape[0])
        if step != 1:
            raise ValueError(f"part: neighbours are required; got every one of {step}")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return Slot(self.which, self.at + begin * row, (max(end - begin, 0), *self.shape[1:]), self.dtype)

    def reshape(self, *shape) -> "Slot":
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        if shape.count(-1) == 1:
            known = -math.prod(shape)
            shape = tuple([n if n >= 0 else self.size // known if known else 0 for n in shape])
        found = Slot(self.which, self.at, shape, self.dtype)
        if found.size != self.size:
            raise ValueError(f"shape: one of {self.size} numbers is required; got {shape}")
        return found


class Clear(NamedTuple):
    """A step of a program: all numbers of an array become 0."""

    slot: Slot


class Notes:
    """What is launched, in order, while `target.noting` has these notes, and what room is asked for."""

    def __init__(self, arrays: list):
        for array in arrays:
            require_contiguous(array)
        self.slots = [Slot(which, 0, array.shape, array.dtype) for which, array in enumerate(arrays)]
        self.steps, self.size = [], 0

    def empty(self, shape, dtype) -> Slot:
        """A part of one array more, which is as large as all that is asked for."""
        found = Slot(len(self.slots), self.size, shape if isinstance(shape, tuple) else (shape,), np.dtype(dtype))
        self.size += -(-found.nbytes // ALIGNED) * ALIGNED
        return found

    def zeros(self, shape, dtype) -> Slot:
        found = self.empty(shape, dtype)
        self.steps.append(Clear(found))
        return found


class Program:
    """``function(*arguments)``, arrays and tuples of them, for all of these shapes and dtypes, in the thread that makes it.

    The function may launch kernels, ask `target` for arrays, and take contiguous parts of arrays and give them other shapes.
    """

    def __init__(self, function: Callable, arguments: tuple):
        notes = Notes(arrays_of(arguments))
        with target.noting(notes):
            function(*_like(arguments, iter(notes.slots)))
        self._size, self._run = notes.size, prepared(notes.steps)

    def __call__(self, *arrays) -> None:
        """With other arrays, in the same order."""
        self._run((*arrays, target.empty(self._size, np.uint8)))


def arrays_of(arguments: tuple) -> list:
    found = []
    for part in arguments:
        found += part if isinstance(part, tuple) else (part,)
    return found


def _like(arguments: tuple, slots: Iterator[Slot]) -> Iterator:
    """Arguments with slots for arrays."""
    for part in arguments:
        if isinstance(part, tuple):
            own = [next(slots) for _ in part]  # in the order of `arrays_of`
            yield type(part)(*own) if hasattr(part, "_fields") else tuple(own)
        else:
            yield next(slots)


class Repeated:
    """What is done with arrays of some shapes: to note it pays from the second time on."""

    NOTED = 1  # times before

    def __init__(self):
        self.times, self.program = 0, None

    def __call__(self, function: Callable, arguments: tuple, arrays: list) -> None:
        if self.program is None and self.times >= self.NOTED:
            self.program = Program(function, arguments)
        self.times += 1
        if self.program is None:
            function(*arguments)
        else:
            self.program(*arrays)


def again(made, key: tuple, function: Callable, arguments: tuple) -> None:
    """``function(*arguments)``, which depends on nothing but `key` and shapes; its program is kept in `made`, a `Made`."""
    arrays = arrays_of(arguments)
    key = "program", target.thread(), *key, *[(array.shape, array.strides, array.dtype) for array in arrays]
    made.once(key, Repeated)(function, arguments, arrays)


def prepared(steps: list) -> Callable:
    """A function that takes these steps with other arrays: those of a call, and behind them one with room for all that steps ask for."""
    parts = [_prepared(step) for step in steps]

    def go(arrays: tuple) -> None:
        addresses, stream = [array.data.ptr for array in arrays], target.stream()
        for part in parts:
            part(addresses, stream)

    return go


def _prepared(step) -> Callable:
    """A function (addresses, stream) that takes a step."""
    if isinstance(step, Clear):
        clear, which, at, size = target.arrays().cuda.runtime.memsetAsync, step.slot.which, step.slot.at, step.slot.nbytes
        return lambda addresses, stream: clear(addresses[which] + at, 0, size, stream)
    found, numbers = target.ready(step)
    ready = found._replace(parameters=found.parameters.another(numbers))  # of which all but addresses stay as they are
    values, symbols = ready.parameters.values, [(k, n - SYMBOL) for k, n in enumerate(numbers) if type(n) is int and n >= SYMBOL]
    places = [(k, n >> WHICH, n & (1 << WHICH) - 1) for k, n in symbols]

    def go(addresses, stream) -> None:
        for k, which, at in places:
            values[k] = addresses[which] + at
        target.start(step, ready, stream)

    return go

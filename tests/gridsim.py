"""A CUDA simulator for tests: all blocks of a grid at once, every thread a greenlet, every access to memory watched.

Kernels run as plain Python, so no GPU and no compiler is needed. A thread runs until it must wait; then another one does, in the
order of their numbers or a random one. What a GPU would do silently is an error here:

- an index outside an array, negative ones included;
- a read of shared memory that nobody has written;
- a race: two accesses to one place by two threads, one of them a write, with no barrier between;
- a barrier that some threads of a block wait at while others wait at another one, or have ended.

Local arrays, and shared ones, hold NaN (integers: the smallest) until they are written.
"""

import sys
from types import CellType, FunctionType, ModuleType, SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet

import fastrnn._math

ORDERS = ("fifo", "random")
MANY = -1  # threads


class SimulationError(Exception):
    """What would be undefined on a GPU."""


class Race(SimulationError):
    pass


class Unwritten(SimulationError):
    pass


class Divergence(SimulationError):
    pass


class Dim3:
    def __init__(self, size):
        size = (size,) if isinstance(size, int) else tuple(size)
        self.x, self.y, self.z = (*size, 1, 1)[:3]

    def places(self):
        return ((x, y, z) for z in range(self.z) for y in range(self.y) for x in range(self.x))


# Memory -------------------------------------------------------------------------------------------------------------


class Memory:
    """Numbers in one place, and who touched which of them since the last barrier."""

    def __init__(self, numbers: np.ndarray, name: str, written: bool):
        self.numbers, self.name = numbers, name
        self.written = None if written else np.zeros(numbers.size, bool)
        self.reads, self.writes = {}, {}  # place -> {block: (epoch, thread)}

    def read(self, place: int):
        thread = getcurrent()
        if self.written is not None and not self.written[place]:
            raise Unwritten(f"{self.name}[{place}] is read by {thread.title} before anyone has written it")
        self._meet(place, self.writes, "reads", "written")
        self._note(place, self.reads, thread)
        return self.numbers[place]

    def write(self, place: int, value) -> None:
        thread = getcurrent()
        self._meet(place, self.writes, "writes", "written")
        self._meet(place, self.reads, "writes", "read")
        if self.written is not None:
            self.written[place] = True
        self._note(place, self.writes, thread)
        self.numbers[place] = value

    @staticmethod
    def _note(place, log, thread):
        before = log.setdefault(place, {}).get(thread.block.number)
        many = before is not None and before[0] == thread.block.epoch and before[1] != thread.number
        log[place][thread.block.number] = (thread.block.epoch, MANY if many else thread.number)

    def _meet(self, place, log, does, did):
        thread = getcurrent()
        for block, (epoch, other) in log.get(place, {}).items():
            same_block = block == thread.block.number
            if not same_block or (epoch == thread.block.epoch and other != thread.number):
                who = "several threads" if other == MANY else f"thread {other}"
                raise Race(f"{thread.title} {does} {self.name}[{place}], {did} by {who} of block {block} with no barrier between")


class Watched:
    """An array of places in a `Memory`: what kernels index."""

    def __init__(self, memory: Memory, places: np.ndarray, whole: bool = False):
        self.memory, self.places = memory, places
        self.flat = places.size if whole and places.ndim == 1 else 0  # places are 0, 1, 2, ...

    @classmethod
    def of(cls, array: np.ndarray, name: str, written: bool = True) -> "Watched":
        if not array.flags.c_contiguous:
            raise SimulationError(f"{name}: kernels take contiguous arrays")
        return cls(Memory(array.reshape(-1), name, written), np.arange(array.size).reshape(array.shape), whole=True)

    @property
    def shape(self):
        return self.places.shape

    @property
    def size(self):
        return self.places.size

    def _find(self, index):
        if self.flat and not isinstance(index, (slice, tuple)):  # most of all: in a hurry
            if not 0 <= index < self.flat:
                raise IndexError(f"{self.memory.name}: index {index} of an array of shape {self.places.shape}")
            return int(index)
        index = index if isinstance(index, tuple) else (index,)
        for axis, (i, n) in enumerate(zip(index, self.places.shape)):
            if not isinstance(i, slice) and not 0 <= i < n:
                raise IndexError(f"{self.memory.name}: index {i} on axis {axis} of an array of shape {self.places.shape}")
        return self.places[index]

    def __getitem__(self, index):
        found = self._find(index)
        return Watched(self.memory, found) if isinstance(found, np.ndarray) else self.memory.read(int(found))

    def __setitem__(self, index, value):
        found = self._find(index)
        if isinstance(found, np.ndarray):
            raise SimulationError(f"{self.memory.name}: kernels write one number at a time")
        self.memory.write(int(found), value)


def poisoned(shape, dtype) -> np.ndarray:
    dtype = np.dtype(str(dtype))
    return np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).min, dtype)


# What kernels see in place of numba.cuda ----------------------------------------------------------------------------


class _Own:
    """The running thread's own value of an attribute."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, axis):
        return getattr(getattr(getcurrent(), self.name), axis)


def _shared_array(shape, dtype):
    block, frame = getcurrent().block, sys._getframe(1)
    if shape == 0:
        key, size = "dynamic", block.dynamic_bytes // np.dtype(str(dtype)).itemsize
    else:
        key, size = (frame.f_code, frame.f_lasti), shape
    if key not in block.shared:
        block.shared[key] = Watched.of(poisoned(size, dtype), "shared memory", written=False)
    return block.shared[key]


def _local_array(shape, dtype):
    return poisoned(shape, dtype)


def _syncthreads():
    thread, frame = getcurrent(), sys._getframe(1)
    block = thread.block
    here = frame.f_code.co_name, frame.f_lineno
    block.waiting.append((thread, here))
    if here != block.waiting[0][1]:
        raise Divergence(f"threads of {block.title} wait at different barriers: {sorted({place for _, place in block.waiting})}")
    if len(block.waiting) == block.threads:
        block.epoch += 1
        block.launch.ready += [waiting for waiting, _ in block.waiting]
        block.waiting.clear()
    block.launch.scheduler.switch()


def _fma(x, y, z):
    """x y + z, rounded once in float32."""
    if isinstance(x, np.float64):
        return x * y + z
    return np.float32(np.float64(x) * np.float64(y) + np.float64(z))


class _Cuda(ModuleType):
    threadIdx, blockIdx, blockDim, gridDim = (_Own(name) for name in ("place", "block_place", "block_size", "grid_size"))
    shared, local = SimpleNamespace(array=_shared_array), SimpleNamespace(array=_local_array)
    syncthreads = staticmethod(_syncthreads)


def _as_simulated(function, seen: dict):
    """`function` with what it sees of CUDA replaced; and so all functions of kernels that it can reach."""
    function = getattr(function, "py_func", function)
    if function in seen:
        return seen[function]

    def replaced(value):
        if isinstance(value, ModuleType) and value.__name__ == "numba.cuda":
            return _Cuda("cuda")
        if value is fastrnn._math.fma:
            return _fma
        inner = getattr(value, "py_func", value)
        if isinstance(inner, FunctionType) and (inner.__module__ or "").startswith(("fastrnn.kernels.", "test_", "gridsim")):
            return _as_simulated(inner, seen)
        return value

    names = {}
    cells = tuple(CellType() for _ in function.__closure__ or ())
    result = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    seen[function] = result
    for cell, original in zip(cells, function.__closure__ or ()):
        cell.cell_contents = replaced(original.cell_contents)
    names.update({name: replaced(value) for name, value in function.__globals__.items() if name in function.__code__.co_names})
    names["__builtins__"] = __builtins__
    return result


# Running ------------------------------------------------------------------------------------------------------------


class _Thread(greenlet):
    @property
    def title(self):
        return f"thread {self.number} of {self.block.title}"


def _run_quietly(function, arguments):
    with np.errstate(all="ignore"):  # in every thread, as each has a context of its own
        function(*arguments)


class _Launch:
    def __init__(self, function, grid, threads, dynamic_bytes, arguments, order, seed):
        self.order, self.random, self.ready = order, np.random.default_rng(seed), []
        self.scheduler = greenlet(self._run)
        self.blocks = []
        grid, size = Dim3(grid), Dim3(threads)
        for number, block_place in enumerate(grid.places()):
            block = SimpleNamespace(number=number, title=f"block {number}", threads=size.x * size.y * size.z, epoch=0, waiting=[])
            block.shared, block.dynamic_bytes, block.launch = {}, dynamic_bytes, self
            self.blocks.append(block)
            for k, place in enumerate(size.places()):
                thread = _Thread(lambda: _run_quietly(function, arguments), self.scheduler)
                thread.block, thread.number, thread.place, thread.block_place = block, k, Dim3(place), Dim3(block_place)
                thread.block_size, thread.grid_size = size, grid
                self.ready.append(thread)

    def _run(self):
        while self.ready:
            batch, self.ready = self.ready, []
            if self.order == "random":
                self.random.shuffle(batch)
            for thread in batch:
                thread.switch()
        for block in self.blocks:
            if block.waiting:
                at = block.waiting[0][1]
                raise Divergence(f"{len(block.waiting)} of {block.threads} threads of {block.title} wait at {at}; the others have ended")


def launch(kernel, grid, threads, dynamic_bytes, *arguments, order: str = "fifo", seed: int = 0) -> None:
    """Run a kernel; the first thing that would be undefined on a GPU is raised."""
    if order not in ORDERS:
        raise ValueError(f"order: one of {ORDERS} is required; got {order!r}")

    watched = {}

    def argument(value, name):
        if isinstance(value, tuple):
            fields = getattr(value, "_fields", range(len(value)))
            parts = [argument(part, f"{name}.{field}") for part, field in zip(value, fields)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        value = getattr(value, "numbers", value)  # of a stand-in for an array elsewhere
        if not isinstance(value, np.ndarray):
            return value
        key = (value.__array_interface__["data"][0], value.shape, value.dtype.str) if value.size else name
        return watched.setdefault(key, Watched.of(value, name))  # the same memory under two names is one memory

    function = _as_simulated(kernel, {})
    names = function.__code__.co_varnames
    parts = [argument(value, names[k]) for k, value in enumerate(arguments)]
    _Launch(function, grid, threads, dynamic_bytes, parts, order, seed).scheduler.switch()

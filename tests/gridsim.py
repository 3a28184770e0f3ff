"""A CUDA simulator for tests: all blocks of a grid at once, every thread a greenlet, every access to memory watched.

Kernels run as plain Python, so no GPU and no compiler is needed. A thread runs until it must wait; then another one does, in the
order of their numbers or a random one, in which all have their turns; or unevenly, some of them not for long. What a GPU would do
silently is an error here:

- an index outside an array, negative ones included;
- a read of shared memory that nobody has written;
- a race: two accesses to one place by two threads, one of them a write, with no barrier between; in a cluster, with nothing that brings
  one of them before the other, barriers and doors (`cluster`) taken together;
- something sent to a block that has ended, or that has no door; a door that never opens;
- a barrier that some threads of a block wait at while others wait at another one, or have ended; and for a warp's threads, what they do
  together: shuffles and products on tensor cores.

Local arrays, and shared ones, hold NaN (integers: the smallest) until they are written.
"""

import sys
from types import CellType, FunctionType, ModuleType, SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet

import fastrnn._math
from fastrnn.kernels.cuda import cluster, mma

ORDERS = ("fifo", "random", "uneven")
PATIENCE = 1000  # turns of other threads for which some have none
MANY = -1  # threads
WARP = 32
Intrinsic = type(fastrnn._math.fma)


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


class Ordered(Memory):
    """The same where threads of several blocks wait for each other: a clock a thread, which says how far of each other it knows.

    What has been done is before what is being done, if the one who does it knows of it (Lamport 1978).
    """

    def _note(self, place, log, thread):
        log.setdefault(place, {})[thread.index] = thread.clock[thread.index]

    def _meet(self, place, log, does, did):
        thread = getcurrent()
        for other, time in log.get(place, {}).items():
            if other != thread.index and thread.clock[other] < time:
                raise Race(f"{thread.title} {does} {self.name}[{place}], {did} by thread {other} of the grid, which nothing brings before")

    def write(self, place: int, value) -> None:
        super().write(place, value)
        self.reads.pop(place, None)  # of which whoever knows of this knows, too
        self.writes[place] = {getcurrent().index: self.writes[place][getcurrent().index]}


def _in_order(threads, known=None) -> np.ndarray:
    """Let all of them know what any of them does, and whatever else is `known`; then each goes on."""
    if not hasattr(threads[0], "clock"):
        return known
    known = np.max([thread.clock for thread in threads] + ([] if known is None else [known]), axis=0)
    for thread in threads:
        thread.clock = known.copy()
        thread.clock[thread.index] += 1
    return known


class Watched:
    """An array of places in a `Memory`: what kernels index."""

    def __init__(self, memory: Memory, places: np.ndarray, whole: bool = False):
        self.memory, self.places = memory, places
        self.flat = places.size if whole and places.ndim == 1 else 0  # places are 0, 1, 2, ...

    @classmethod
    def of(cls, array: np.ndarray, name: str, written: bool = True, memory: type = Memory) -> "Watched":
        if not array.flags.c_contiguous:
            raise SimulationError(f"{name}: kernels take contiguous arrays")
        return cls(memory(array.reshape(-1), name, written), np.arange(array.size).reshape(array.shape), whole=True)

    @property
    def shape(self):
        return self.places.shape

    @property
    def size(self):
        return self.places.size

    @property
    def dtype(self):
        return self.memory.numbers.dtype

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
        return _shared_of(block, "dynamic", block.dynamic_bytes // np.dtype(str(dtype)).itemsize, dtype)
    return _shared_of(block, (frame.f_code, frame.f_lasti), shape, dtype)


def _shared_of(block, key, shape, dtype):
    if key not in block.shared:
        block.shared[key] = Watched.of(poisoned(shape, dtype), "shared memory", False, block.launch.memory)
    return block.shared[key]


class Door:
    """One that opens when it has been told what to expect, and that has come."""

    def __init__(self):
        self.opened, self.told, self.lacking, self.arriving, self.known = 0, False, 0, None, None

    def change(self, size: int, told: bool = False):
        """More is lacking, or less."""
        thread = getcurrent()
        thread.block.launch.idle = 0
        self.told, self.lacking = self.told or told, self.lacking + size
        self.arriving = _in_order([thread], self.arriving)
        if self.told and self.lacking == 0:
            self.opened, self.told, self.known, self.arriving = self.opened + 1, False, self.arriving, None


def _make_door(doors, door):
    getcurrent().block.doors[int(door)] = Door()


def _expect(doors, door, size):
    getcurrent().block.doors[int(door)].change(int(size), told=True)


def _is_open(doors, door, odd):
    thread = getcurrent()
    found, launch = thread.block.doors[int(door)], thread.block.launch
    if found.opened % 2 != odd:
        thread.clock = np.maximum(thread.clock, found.known)
        return True
    launch.idle += 1
    if launch.idle > 4 * sum(block.threads for block in launch.blocks) + 2 * PATIENCE:
        raise Divergence(f"{thread.title} waits at a door that nobody opens")
    launch.ready.append(thread)
    launch.scheduler.switch()
    return False


def _send(array, place, rank, value, doors, door):
    """Into the array that stands in another block of the cluster where `array` does in this one."""
    block = getcurrent().block
    other = block.cluster.blocks[int(rank)]
    if all(thread.dead for thread in other.members):
        raise SimulationError(f"{block.title} sends into the shared memory of {other.title}, which has ended")
    if int(door) not in other.doors:
        raise SimulationError(f"{block.title} sends to a door that {other.title} has not made")
    key = next(key for key, found in block.shared.items() if found.memory is array.memory)
    _shared_of(other, key, array.shape, array.dtype)[place] = value
    other.doors[int(door)].change(-array.dtype.itemsize)


def _meet():
    """A barrier of the cluster, which is one of its blocks, too."""
    thread = getcurrent()
    met = thread.block.cluster
    met.waiting.append(thread)
    if len(met.waiting) == sum(block.threads for block in met.blocks):
        for block in met.blocks:
            block.epoch += 1
        _in_order(met.waiting)
        thread.block.launch.ready += met.waiting
        met.waiting = []
    thread.block.launch.scheduler.switch()


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
        _in_order([waiting for waiting, _ in block.waiting])
        block.launch.ready += [waiting for waiting, _ in block.waiting]
        block.waiting.clear()
    block.launch.scheduler.switch()


def _together(value, results):
    """What all threads of a warp do at one place of the program: this thread's part of ``results(values)``, one a thread."""
    thread, frame = getcurrent(), sys._getframe(2)
    warp = thread.block.warps.setdefault(thread.number // WARP, [])
    warp.append((thread, (frame.f_code.co_name, frame.f_lineno), value))
    if warp[-1][1] != warp[0][1]:
        raise Divergence(f"threads of a warp of {thread.block.title} meet at different places: {sorted({place for _, place, _ in warp})}")
    if len(warp) == WARP:
        warp.sort(key=lambda part: part[0].number)
        for (other, _, _), result in zip(warp, results([part for _, _, part in warp])):
            other.result = result
        thread.block.launch.ready += [other for other, _, _ in warp]
        warp.clear()
    thread.block.launch.scheduler.switch()
    return thread.result


def _shfl_xor_sync(mask, value, distance):
    if mask != 0xFFFFFFFF:
        raise SimulationError(f"shfl_xor_sync: all threads of a warp are required; got the mask {mask:#x}")
    return _together(value, lambda values: [values[lane ^ distance] for lane in range(WARP)])


def _converge():
    def results(threads):
        _in_order(threads)
        return [None] * WARP

    _together(getcurrent(), results)


# Tensor cores, with the roundings of the real ones but for the order of sums: exact, and rounded once.


def _words(parts, index) -> np.ndarray:
    return np.array([part[index] for part in parts], np.int32)


def _numbers_tf32(words):
    """(rows, words) -> (rows, k); the hardware has no use for the last bits."""
    return (words.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _numbers_bf16(words):
    bits = words.view(np.uint32)
    return np.stack([bits << np.uint32(16), bits & np.uint32(0xFFFF0000)], axis=-1).view(np.float32).reshape(len(words), -1)


def _multiplier(numbers):
    lanes = np.arange(WARP)
    g, t = lanes // 4, lanes % 4

    def results(parts):
        a, b, c = np.zeros((16, 8), np.int32), np.zeros((8, 8), np.int32), np.zeros((16, 8), np.float32)
        words, others = _words(parts, 0), _words(parts, 1)
        sums = np.array([part[2] for part in parts], np.float32)
        for i, (row, word) in enumerate(((0, 0), (8, 0), (0, 4), (8, 4))):
            a[g + row, t + word] = words[:, i]
        b[g, t], b[g, t + 4] = others[:, 0], others[:, 1]
        for i, (row, column) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
            c[g + row, 2 * t + column] = sums[:, i]
        found = (numbers(a).astype(np.float64) @ numbers(b).astype(np.float64).T + c).astype(np.float32)
        return [(found[i, 2 * j], found[i, 2 * j + 1], found[i + 8, 2 * j], found[i + 8, 2 * j + 1]) for i, j in zip(g, t)]

    return lambda a, b, c: _together((a, b, c), results)


def _round_tf32(x):
    return ((np.float32(x).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.int32)


def _pack_bf16(low, high):
    bits = np.array([low, high], np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return (bits[0] | bits[1] << np.uint32(16)).view(np.int32)


def _neighbours(n):
    def neighbours(array, place):
        if place % n:
            raise SimulationError(f"{array.memory.name}: {n} numbers are read from place {place}, which is no multiple of {n}")
        return tuple(array[int(place) + i] for i in range(n))

    return neighbours


def _put_if(array, place, value, there):
    if there:
        array[place] = value


def _get_if(array, place, there):
    return array[place] if there else array.dtype.type(0)


def _fma(x, y, z):
    """x y + z, rounded once in float32."""
    if isinstance(x, np.float64):
        return x * y + z
    return np.float32(np.float64(x) * np.float64(y) + np.float64(z))


TWINS = {
    fastrnn._math.fma: _fma,
    mma.multiply_add_tf32: _multiplier(_numbers_tf32),
    mma.multiply_add_bf16: _multiplier(_numbers_bf16),
    mma.round_tf32: _round_tf32,
    mma.pack_bf16: _pack_bf16,
    mma.as_number: lambda word: np.int32(word).view(np.float32),
    mma.as_word: lambda x: np.float32(x).view(np.int32),
    mma.put_if: _put_if,
    mma.get_if: _get_if,
    mma.get_either: lambda a, i, b, j, first, there: _get_if(a, i, there) if first else _get_if(b, j, there),
    cluster.make_door: _make_door,
    cluster.expect: _expect,
    cluster.is_open: _is_open,
    cluster.send: _send,
    cluster.meet: _meet,
    cluster.converge: _converge,
    mma.two_at: _neighbours(2),
    mma.four_at: _neighbours(4),
}


class _Cuda(ModuleType):
    threadIdx, blockIdx, blockDim, gridDim = (_Own(name) for name in ("place", "block_place", "block_size", "grid_size"))
    shared, local = SimpleNamespace(array=_shared_array), SimpleNamespace(array=_local_array)
    syncthreads, shfl_xor_sync = staticmethod(_syncthreads), staticmethod(_shfl_xor_sync)


def _as_simulated(function, seen: dict):
    """`function` with what it sees of CUDA replaced; and so all functions of kernels that it can reach."""
    function = getattr(function, "py_func", function)
    if function in seen:
        return seen[function]

    def replaced(value):
        if isinstance(value, ModuleType) and value.__name__ == "numba.cuda":
            return _Cuda("cuda")
        if isinstance(value, Intrinsic):
            return TWINS[value]
        if value is np.uint32 or value is np.uint64:
            return lambda x: int(x) & np.iinfo(value).max  # what is left of longer numbers, and of negative ones
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
    def __init__(self, function, grid, threads, dynamic_bytes, arguments, order, seed, blocks):
        self.order, self.random, self.ready = order, np.random.default_rng(seed), []
        self.scheduler, self.blocks, self.idle = greenlet(self._run), [], 0
        self.memory = Ordered if blocks > 1 else Memory
        grid, size = Dim3(grid), Dim3(threads)
        for number, block_place in enumerate(grid.places()):
            block = SimpleNamespace(number=number, title=f"block {number}", threads=size.x * size.y * size.z, epoch=0, waiting=[])
            block.shared, block.warps, block.dynamic_bytes, block.launch, block.members = {}, {}, dynamic_bytes, self, []
            first = number % blocks == 0
            block.cluster, block.doors = SimpleNamespace(blocks=[], waiting=[]) if first else self.blocks[-1].cluster, {}
            block.cluster.blocks.append(block)
            self.blocks.append(block)
            for k, place in enumerate(size.places()):
                thread = _Thread(lambda: _run_quietly(function, arguments), self.scheduler)
                thread.block, thread.number, thread.place, thread.block_place = block, k, Dim3(place), Dim3(block_place)
                thread.block_size, thread.grid_size, thread.index = size, grid, len(self.ready)
                block.members.append(thread)
                self.ready.append(thread)
        if blocks > 1:
            for thread in self.ready:
                thread.clock = np.zeros(len(self.ready), np.int64)
                thread.clock[thread.index] = 1

    def _run(self):
        if self.order == "uneven":
            self._run_unevenly()
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
            if block.cluster.waiting:
                raise Divergence(f"some threads of the cluster of {block.title} wait for others, which have ended or wait elsewhere")
            if any(block.warps.values()):
                raise Divergence(f"some threads of a warp of {block.title} wait for those that do not come")


    def _run_unevenly(self):
        """One at a time; now half of all, now a block but for some threads, waits until the others cannot go on or have had enough."""
        turns, waiting, every = 0, set(), sum(block.threads for block in self.blocks)
        while self.ready:
            if turns % PATIENCE == 0:
                members = self.blocks[self.random.integers(len(self.blocks))].members[self.random.integers(3) :]
                half = self.random.choice(every, every // 2, replace=False).tolist()
                waiting = set(half) if self.random.integers(2) else {thread.index for thread in members}
            able = [i for i, thread in enumerate(self.ready) if thread.index not in waiting] or range(len(self.ready))
            self.ready.pop(able[self.random.integers(len(able))]).switch()
            turns += 1


def launch(kernel, grid, threads, dynamic_bytes, *arguments, order: str = "fifo", seed: int = 0) -> None:
    """Run a kernel; the first thing that would be undefined on a GPU is raised."""
    if order not in ORDERS:
        raise ValueError(f"order: one of {ORDERS} is required; got {order!r}")

    watched, blocks = {}, getattr(kernel, "blocks", 1)
    memory = Ordered if blocks > 1 else Memory

    def argument(value, name):
        if isinstance(value, tuple):
            fields = getattr(value, "_fields", range(len(value)))
            parts = [argument(part, f"{name}.{field}") for part, field in zip(value, fields)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        value = getattr(value, "numbers", value)  # of a stand-in for an array elsewhere
        if not isinstance(value, np.ndarray):
            return value
        key = (value.__array_interface__["data"][0], value.shape, value.dtype.str) if value.size else name
        return watched.setdefault(key, Watched.of(value, name, memory=memory))  # the same memory under two names is one memory

    function = _as_simulated(kernel, {})
    names = function.__code__.co_varnames
    parts = [argument(value, names[k]) for k, value in enumerate(arguments)]
    if np.prod(grid) % blocks:
        raise SimulationError(f"a grid of whole clusters is required, of {blocks} blocks; got {grid}")
    _Launch(function, grid, threads, dynamic_bytes, parts, order, seed, blocks).scheduler.switch()

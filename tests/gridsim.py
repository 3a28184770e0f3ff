"""A CUDA simulator for tests: all blocks of a grid at once, every thread a greenlet, every access to memory watched.

Kernels run as plain Python, so no GPU and no compiler is needed. A thread runs until it must wait; then another one does, in the
order of their numbers or a random one, in which all have their turns; or unevenly, some of them not for long. What a GPU would do
silently is an error here:

- an index outside an array, negative ones included;
- a read of shared memory that nobody has written, or where something is fetched to that has not been waited for;
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
from numba import types
from simulated_memory import Divergence, Mark, Memory, Ordered, Race, SimulationError, Unwritten, Watched, dtype_of, now, poisoned  # noqa: F401

import fastrnn._math
from fastrnn.kernels.cuda import ahead, cluster, mma

ORDERS = ("fifo", "random", "uneven")
PATIENCE = 1000  # turns of other threads for which some have none
WARP = 32
Intrinsic = type(fastrnn._math.fma)


class Dim3:
    def __init__(self, size):
        size = (size,) if isinstance(size, int) else tuple(size)
        self.x, self.y, self.z = (*size, 1, 1)[:3]

    def places(self):
        return ((x, y, z) for z in range(self.z) for y in range(self.y) for x in range(self.x))




class _Own:
    """The running thread's own value of an attribute."""

    def __init__(self, name):
        self.name = name

    @property
    def x(self):
        return getattr(now.thread, self.name).x

    @property
    def y(self):
        return getattr(now.thread, self.name).y

    @property
    def z(self):
        return getattr(now.thread, self.name).z


def _shared_array(shape, dtype):
    block, frame = now.thread.block, sys._getframe(1)
    if shape == 0:
        return _shared_of(block, "dynamic", block.dynamic_bytes // dtype_of(dtype).itemsize, dtype)
    return _shared_of(block, (frame.f_code, frame.f_lasti), shape, dtype)


def _shared_of(block, key, shape, dtype):
    if key not in block.shared:
        block.shared[key] = Watched.of(poisoned(shape, dtype), "shared memory", False, block.launch.memory)
    return block.shared[key]


def _in_order(threads, known=None) -> np.ndarray:
    """Let all of them know what any of them does, and whatever else is `known`; then each goes on."""
    if threads[0].clock is None:
        return known
    for thread in threads:
        known = thread.clock if known is None else np.maximum(known, thread.clock)
    for thread in threads:
        thread.clock = known.copy()
        thread.time += 1
        thread.clock[thread.index] = thread.time
    return known


class Door:
    """One that opens when it has been told what to expect, and that has come."""

    def __init__(self):
        self.opened, self.told, self.lacking, self.arriving, self.known = 0, False, 0, None, None

    def change(self, size: int, told: bool = False):
        """More is lacking, or less."""
        thread = now.thread
        thread.block.launch.idle = 0
        self.told, self.lacking = self.told or told, self.lacking + size
        self.arriving = _in_order([thread], self.arriving)
        if self.told and self.lacking == 0:
            self.opened, self.told, self.known, self.arriving = self.opened + 1, False, self.arriving, None


def _make_door(doors, door):
    now.thread.block.doors[int(door)] = Door()


def _expect(doors, door, size):
    now.thread.block.doors[int(door)].change(int(size), told=True)


def _is_open(doors, door, odd):
    thread = now.thread
    found, launch = thread.block.doors[int(door)], thread.block.launch
    if found.opened % 2 != odd:
        thread.clock = np.maximum(thread.clock, found.known)
        return True
    launch.idle += 1
    if launch.idle > 4 * sum(block.threads for block in launch.blocks) + 100 * PATIENCE:  # whoever is needed may have to wait often
        raise Divergence(f"{thread.title} waits at a door that nobody opens")
    launch.ready.append(thread)
    launch.scheduler.switch()
    return False


def _send(array, place, rank, *values_and_door):
    """Into the array that stands in another block of the cluster where `array` does in this one."""
    *values, doors, door = values_and_door
    if place % len(values):
        raise SimulationError(f"{array.memory.name}: {len(values)} numbers are sent to place {place}, which is no multiple of that")
    block = now.thread.block
    other = block.cluster.blocks[int(rank)]
    if all(thread.ended for thread in other.members):
        raise SimulationError(f"{block.title} sends into the shared memory of {other.title}, which has ended")
    if int(door) not in other.doors:
        raise SimulationError(f"{block.title} sends to a door that {other.title} has not made")
    key = next(key for key, found in block.shared.items() if found.memory is array.memory)
    for i, value in enumerate(values):
        _shared_of(other, key, array.shape, array.dtype)[int(place) + i] = value
    other.doors[int(door)].change(-array.dtype.itemsize * len(values))


def _meet():
    """A barrier of the cluster, which is one of its blocks, too."""
    thread = now.thread
    met = thread.block.cluster
    met.waiting.append(thread)
    if len(met.waiting) == sum(block.threads for block in met.blocks):
        for block in met.blocks:
            block.begin()
        _in_order(met.waiting)
        thread.block.launch.ready += met.waiting
        met.waiting = []
    thread.block.launch.scheduler.switch()


def _local_array(shape, dtype):
    return poisoned(shape, dtype)


def _syncthreads():
    thread, frame = now.thread, sys._getframe(1)
    block = thread.block
    here = frame.f_code.co_name, frame.f_lineno
    block.waiting.append((thread, here))
    if here != block.waiting[0][1]:
        raise Divergence(f"threads of {block.title} wait at different barriers: {sorted({place for _, place in block.waiting})}")
    if len(block.waiting) == block.threads:
        block.begin()
        _in_order([waiting for waiting, _ in block.waiting])
        block.launch.ready += [waiting for waiting, _ in block.waiting]
        block.waiting.clear()
    block.launch.scheduler.switch()


def _together(value, results):
    """What all threads of a warp do at one place of the program: this thread's part of ``results(values)``, one a thread."""
    thread, frame = now.thread, sys._getframe(2)
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

    _together(now.thread, results)


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
    g, t, i = np.arange(WARP)[:, None] // 4, np.arange(WARP)[:, None] % 4, np.arange(4)  # a lane's rows and columns of each operand
    at_a, at_b, at_c = (g + i % 2 * 8, t + i // 2 * 4), (g, t + i[:2] * 4), (g + i // 2 * 8, 2 * t + i % 2)

    def results(parts):
        a, b, c = np.empty((16, 8), np.int32), np.empty((8, 8), np.int32), np.empty((16, 8), np.float32)
        a[at_a], b[at_b] = _words(parts, 0), _words(parts, 1)
        c[at_c] = np.array([part[2] for part in parts], np.float32)
        found = (numbers(a).astype(np.float64) @ numbers(b).astype(np.float64).T + c).astype(np.float32)
        return [tuple(row) for row in found[at_c]]

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


def _put_neighbours(array, place, *values):
    if place % len(values):
        raise SimulationError(f"{array.memory.name}: {len(values)} numbers are written to place {place}, which is no multiple of that")
    for i, value in enumerate(values):
        array[int(place) + i] = value


def _put_if(array, place, value, there):
    if there:
        array[place] = value


def _get_if(array, place, there):
    return array[place] if there else array.dtype.type(0)


# What is fetched ahead: nobody may touch where it goes until the thread has waited for it.


def _fetch(memory, at, array, place, there):
    number = _get_if(array, place, there)
    at = int(memory._find(int(at)))
    if any(place == at for group in now.thread.fetched for _, place, _ in group):
        raise Race(f"{now.thread.title} fetches to {memory.memory.name}[{at}], where something is on its way")
    memory.memory.unwritten[at] = 1
    now.thread.fetched[-1].append((memory, at, number.view(memory.dtype) if memory.dtype.kind == "i" else number))


def _close():
    now.thread.fetched.append([])


def _await_step():
    fetched = now.thread.fetched
    while len(fetched) > ahead.AHEAD:  # of which the last is not closed
        for memory, at, number in fetched.pop(0):
            memory.write(at, number)


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
    mma.anew: lambda x: x,
    mma.as_number: lambda word: np.int32(word).view(np.float32),
    mma.as_word: lambda x: np.float32(x).view(np.int32),
    mma.put_if: _put_if,
    mma.get_if: _get_if,
    mma.get_either: lambda a, i, b, j, first, there: _get_if(a, i, there) if first else _get_if(b, j, there),
    ahead.fetch: _fetch,
    ahead.fetch_either: lambda to, at, a, i, b, j, first, there: _fetch(to, at, a, i, there) if first else _fetch(to, at, b, j, there),
    ahead.close: _close,
    ahead.await_step: _await_step,
    cluster.make_door: _make_door,
    cluster.expect: _expect,
    cluster.is_open: _is_open,
    cluster.send: _send,
    cluster.send_two: _send,
    cluster.send_four: _send,
    cluster.meet: _meet,
    cluster.converge: _converge,
    mma.two_at: _neighbours(2),
    mma.four_at: _neighbours(4),
    mma.put_two: _put_neighbours,
    mma.put_four: _put_neighbours,
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
            most = int(np.iinfo(value).max)
            return lambda x: int(x) & most  # what is left of longer numbers, and of negative ones
        if isinstance(value, types.Number):
            return dtype_of(value).type
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


class _Block(SimpleNamespace):
    """A block; its threads' accesses since a barrier have an epoch in common."""

    def begin(self):
        self.epoch += 1
        for thread in self.members:
            thread.mark = Mark(self.number, self.epoch, thread.number)


class _Thread:
    """A thread, which runs in a greenlet that it gets when it begins, and that another one gets when it has ended."""

    greenlet = mark = clock = result = None
    ended = False

    def __init__(self, block, number, place, index):
        self.block, self.number, self.place, self.index, self.time, self.fetched = block, number, place, index, 1, [[]]
        self.block_place, self.block_size, self.grid_size = block.place, block.size, block.grid

    @property
    def title(self):
        return f"thread {self.number} of {self.block.title}"


class _Launch:
    def __init__(self, function, grid, threads, dynamic_bytes, arguments, order, seed, blocks):
        self.function, self.arguments, self.order, self.random, self.ready = function, arguments, order, np.random.default_rng(seed), []
        self.scheduler, self.blocks, self.idle, self.free = greenlet(self._run), [], 0, []
        self.memory = Ordered if blocks > 1 else Memory
        grid, size = Dim3(grid), Dim3(threads)
        places = [Dim3(place) for place in size.places()]
        for number, place in enumerate(grid.places()):
            block = _Block(number=number, title=f"block {number}", threads=len(places), epoch=0, waiting=[], launch=self)
            block.place, block.grid, block.size, block.dynamic_bytes = Dim3(place), grid, size, dynamic_bytes
            block.shared, block.warps, block.doors = {}, {}, {}
            block.cluster = SimpleNamespace(blocks=[], waiting=[]) if number % blocks == 0 else self.blocks[-1].cluster
            block.cluster.blocks.append(block)
            block.members = [_Thread(block, k, own, number * len(places) + k) for k, own in enumerate(places)]
            block.begin()
            self.blocks.append(block)
            self.ready += block.members
        if blocks > 1:
            for thread in self.ready:
                thread.clock = np.zeros(len(self.ready), np.int64)
                thread.clock[thread.index] = thread.time

    def _work(self):
        """Run one thread after another from its beginning to its end, with others between where it waits."""
        with np.errstate(all="ignore"):  # a greenlet has a context of its own
            while True:
                self.function(*self.arguments)
                now.thread.ended = True
                self.free.append(getcurrent())
                self.scheduler.switch()

    def _go_on(self, thread):
        """Let it run until it waits or has ended."""
        now.thread = thread
        if thread.greenlet is None:
            thread.greenlet = self.free.pop() if self.free else greenlet(self._work, self.scheduler)
        thread.greenlet.switch()

    def _run(self):
        if self.order == "uneven":
            self._run_unevenly()
        while self.ready:
            batch, self.ready = self.ready, []
            if self.order == "random":
                self.random.shuffle(batch)
            for thread in batch:
                self._go_on(thread)
        for block in self.blocks:
            if block.waiting:
                at = block.waiting[0][1]
                raise Divergence(f"{len(block.waiting)} of {block.threads} threads of {block.title} wait at {at}; the others have ended")
            if block.cluster.waiting:
                raise Divergence(f"some threads of the cluster of {block.title} wait for others, which have ended or wait elsewhere")
            if any(block.warps.values()):
                raise Divergence(f"some threads of a warp of {block.title} wait for those that do not come")
        for idle in self.free:
            idle.throw()
        for block in self.blocks:
            block.members.clear()  # which know of it, in turn: nothing is left for a search for garbage

    def _run_unevenly(self):
        """One at a time; now half of all, now a block but for some threads, waits until the others cannot go on or have had enough."""
        turns, waiting, every = 0, set(), sum(block.threads for block in self.blocks)
        while self.ready:
            if turns % PATIENCE == 0:
                members = self.blocks[self.random.integers(len(self.blocks))].members[self.random.integers(3) :]
                half = self.random.choice(every, every // 2, replace=False).tolist()
                waiting = set(half) if self.random.integers(2) else {thread.index for thread in members}
            able = [i for i, thread in enumerate(self.ready) if thread.index not in waiting] or range(len(self.ready))
            self._go_on(self.ready.pop(able[self.random.integers(len(able))]))
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

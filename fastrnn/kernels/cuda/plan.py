"""How a layer's time loop is run: by which kernels, with how much of what; exactly, or on tensor cores.

Of the batch a plan knows nothing: kernels of other rows may be fused in another way by the compiler, and bits would depend on it.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from .._loop import layout
from . import loop, target
from .ahead import ASYNC, ring_words
from .backward import make_backward
from .chains import STREAM, Chains
from .cluster import CLUSTERS, SIZES
from .forward import make_forward
from .fragments import Shape, lay_out
from .mma import form
from .resident_backward import make_resident_backward
from .resident_forward import make_resident_forward
from .steps import seen_numbers
from .target import THREADS

SPLITS = (1, 2, 4)  # of k
BLOCKS = SIZES  # that share the units of a slice, where a device has clusters
ROWS = {1: 1, 2: 1, 4: 2, 8: 8}  # of exact blocks, by how many share them: 15 clusters of 8 run at once on 132 multiprocessors,
MOST_ROWS = (8, 4, 2)  # and where weights are read at every step, as many as have room
WARPS = 32  # of a block at most
LANE = 56  # registers that a lane takes beside weights and the numbers of its unit,
SPLIT = 24  # more of them where operands are in two parts,
AGAIN = 16  # and where some weights are read at every step
CHAIN = {4: 40, 8: 74}  # as LANE, in exact arithmetic, by the bytes of a number,
CLUSTER = 6  # and more of them where blocks share a layer
PARAMETER = 8  # for each unit parameter: it, its gradient of a step, where these lie
RESIDENT = 128  # words of weights that a thread keeps there at most


class Way(NamedTuple):
    """One direction in time.

    Attributes
    ----------
    kernel : callable
        What makes its kernel.
    shared : int
        Bytes of shared memory of a block.
    tall : int
        How many k the recurrent weights have forward, and rows those of a slot backward: behind the last one of H they are 0.
    lay_out : callable or None
        ``lay_out(weight, empty)`` of weights (E, slots H, H), where the kernel takes them in fragments.
    """

    kernel: Callable
    shared: int
    tall: int
    lay_out: Callable | None = None


class Plan(NamedTuple):
    """Rows of the batch and threads in a block, and both ways."""

    rows: int
    threads: int
    blocks: int  # that share the units of so many rows
    forward: Way
    backward: Way


def plan(cell, H: int, dtype, precision: str) -> Plan:
    """The plan of a layer of H units on the GPU in use; an error where there is none."""
    return _plan(cell, H, dtype, precision, target.capability())


@cache
def _plan(cell, H: int, dtype, precision: str, capability: tuple[int, int]) -> Plan:
    _, _, recurrent, modulated = layout(cell)
    if precision == "exact" or recurrent[1] == recurrent[0] and modulated[1] == modulated[0]:
        return _exact(cell, H, dtype)
    return _on_tensor_cores(cell, H, precision)


def chains(cell, H: int, dtype) -> Chains | None:
    """The exact product of a layer whose weights stay in registers, of as few blocks and parts as can be.

    Or where no blocks have room for all of them, of as many blocks, rows, and weights in registers; None where there are no clusters.
    """
    slots = _summed(cell)
    if not slots or layout(cell).modulated[1] or target.capability() < ASYNC:
        return None
    whole = (shape for blocks, splits in _sizes() if (shape := _chains(cell, H, dtype, blocks, splits, ROWS[blocks], True)))
    found = next(whole, None)
    if found or target.capability() < CLUSTERS:
        return found
    parts = (_chains(cell, H, dtype, BLOCKS[-1], splits, rows, False) for rows in MOST_ROWS for splits in SPLITS)
    worth = [shape for shape in parts if shape and shape.rows * dtype.itemsize >= loop.WIDE]  # who has fewer rows reads weights more often
    return max(worth, key=lambda shape: (shape.rows, shape.held * shape.threads), default=None)


def _chains(cell, H: int, dtype, blocks: int, splits: int, rows: int, whole: bool) -> Chains | None:
    """With all weights in registers, or the most that have room there; None where something has no room."""
    slots, words = _summed(cell), dtype.itemsize // 4
    most, grain = min(rows, slots * splits), 16 // dtype.itemsize if whole else 2 * STREAM  # a unit of each row takes a thread
    shape = Chains(dtype, H, slots, blocks, splits, 1 << (most.bit_length() - 1), 0, grain)
    left = shape.registers - CHAIN[dtype.itemsize] - (CLUSTER if blocks > 1 else 0)
    fitting = min(left // words - max(_numbers(cell)) - PARAMETER * len(cell.parameters) - shape.rows, RESIDENT // words)
    shape = shape._replace(held=shape.depth if whole else min((fitting - 2 * STREAM) // grain * grain, shape.depth))
    if shape.units * (blocks - 1) >= H:
        return None  # a block that sends nothing would not keep the others from running ahead of it
    shared = shape.shared_bytes(slots) + _ring_bytes(shape, max(seen_numbers(cell), len(cell.slots)))
    return shape if 0 <= shape.held <= fitting and shape.threads <= THREADS and shared <= room(shape) else None


def room(shape) -> int:
    """Bytes of a block's shared memory, but for what it always has: rows, lengths and doors."""
    return target.more_shared() - 2 * 8 * (shape.rows + 1)


def _ring_bytes(shape, numbers: int) -> int:
    return shape.dtype.itemsize * ring_words(shape.having_units, numbers)


def _resident(make, cell, shape, places: int, shared: int, numbers: int, tall: int, lay_out: Callable | None = None) -> Way:
    """A way whose product has so many bytes of shared memory, and which reads so many numbers of a step."""
    words = shared // shape.dtype.itemsize
    return Way(lambda: make(cell, shape, places, words), shared + _ring_bytes(shape, numbers), tall, lay_out)


def _sizes() -> list[tuple[int, int]]:
    """Blocks that share the units of a slice, and parts of k."""
    return [(blocks, splits) for blocks in (BLOCKS if target.capability() >= CLUSTERS else BLOCKS[:1]) for splits in SPLITS]


def _numbers(cell) -> tuple[int, int]:
    """What a thread holds of its unit, in either way."""
    G, S, K = len(cell.slots), len(cell.states), len(cell.saved)
    return 2 * G + S + K + 1, 2 * G + 5 * S + 2 * K + 9


def _exact(cell, H: int, dtype) -> Plan:
    shape = chains(cell, H, dtype)
    if shape:
        forward = _resident(make_resident_forward, cell, shape, shape.places, shape.shared_bytes(1), len(cell.slots), shape.tall)
        shared, numbers = shape.shared_bytes(shape.slots), seen_numbers(cell)
        backward = _resident(make_resident_backward, cell, shape, shape.places, shared, numbers, shape.tall)
        return Plan(shape.rows, shape.threads, shape.blocks, forward, backward)
    rows = loop.block_rows(cell, H, dtype.itemsize)
    if not rows:
        most = loop.largest_hidden_size(cell, dtype.itemsize)
        raise ValueError(f"hidden_size: at most {most} units of a {cell.name!r} layer in {dtype} are required with device='cuda'; got {H}")
    threads = loop.block_threads(cell, H, rows)
    registers, shared = loop.registers_of(threads), loop.shared_numbers(cell, H, rows) * dtype.itemsize

    def way(make):
        return Way(lambda: make(cell, dtype, rows, registers), shared, H)

    return Plan(rows, threads, 1, way(make_forward), way(make_backward))


def _on_tensor_cores(cell, H: int, precision: str) -> Plan:
    slots, both = _summed(cell), shapes(cell, H, precision)
    if layout(cell).modulated[1]:
        raise ValueError(f"precision: 'exact' is required of a {cell.name!r} layer whose gates come before a product; got {precision!r}")
    if both is None:
        most = max(units for units in range(1, H) if shapes(cell, units, precision))
        raise ValueError(
            f"hidden_size: at most {most} units of a {cell.name!r} layer are required with precision={precision!r}; got {H}. "
            "Use precision='exact'"
        )
    forth, back = both
    ways = places(forth, 1, len(cell.slots)), places(back, slots, seen_numbers(cell))

    def way(make, shape, places, operands, sums, transposed, numbers):
        shared = shape.shared_bytes(operands, sums, places)
        return _resident(make, cell, shape, places, shared, numbers, H, lambda weight, empty: lay_out(shape, weight, transposed, empty))

    forward = way(make_resident_forward, forth, ways[0], 1, slots, False, len(cell.slots))
    backward = way(make_resident_backward, back, ways[1], slots, 1, True, seen_numbers(cell))
    return Plan(forth.rows, forth.threads, forth.blocks, forward, backward)


def places(shape: Shape, operands: int, numbers: int) -> int:
    """How many operands of so many slots are in shared memory: with two, a barrier less is needed, but where parts of k have one."""
    if shape.blocks > 1:
        return 2  # another block may still read the one before
    return 2 if shape.splits == 1 and shape.shared_bytes(operands, 1, 2) + _ring_bytes(shape, numbers) <= room(shape) else 1


def _summed(cell) -> int:
    """How many slots have a product with h."""
    first, last = layout(cell).recurrent
    return last - first


def shapes(cell, H: int, precision: str) -> tuple[Shape, Shape] | None:
    """Of the products of both ways, in as few blocks and parts as keep the most weights in registers; None where something has no room."""
    found = [both for blocks, splits in _sizes() if (both := _shapes(cell, H, precision, blocks, splits))]
    return max(found, key=lambda both: sum(shape.held / shape.steps for shape in both), default=None)  # of equals the first


def _shapes(cell, H: int, precision: str, blocks: int, splits: int) -> tuple[Shape, Shape] | None:
    slots, found, lane = _summed(cell), [], LANE + SPLIT * (form(precision).parts - 1) + PARAMETER * len(cell.parameters)
    for numbers, operands, sums, ring in zip(_numbers(cell), (1, slots), (slots, 1), (len(cell.slots), seen_numbers(cell))):
        shape = Shape(precision, H, slots, blocks, splits, 0)
        if shape.warps > WARPS:
            return None
        left = shape.registers - lane - 4 * slots - numbers
        held = shape.steps if shape.steps * shape.words_a_step <= left else (left - AGAIN) // shape.words_a_step
        shared = shape.shared_bytes(operands, sums, 1 if blocks == 1 else 2) + _ring_bytes(shape, ring)
        if held < 0 or shared > room(shape):
            return None
        found.append(shape._replace(held=held))
    return tuple(found)

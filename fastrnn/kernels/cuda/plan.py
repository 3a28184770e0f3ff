"""How a layer's time loop is run: by which kernels, with how much of what; exactly, or on tensor cores.

Of the batch a plan knows nothing: kernels of other rows may be fused in another way by the compiler, and bits would depend on it.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from .._loop import layout
from . import loop
from .backward import make_backward
from .forward import make_forward
from .fragments import CELLS, ROOM, SLICE, Shape, lay_out
from .mma import form
from .mma_backward import make_mma_backward
from .mma_forward import make_mma_forward
from .target import WARP

LANE = 74  # registers that a lane takes beside weights and the numbers of its units,
SPLIT = 14  # more of them where operands are in two parts,
AGAIN = 16  # and where some weights are read at every step


class Way(NamedTuple):
    """One direction in time: what makes its kernel, the bytes of shared memory of a block, and what lays out the recurrent weights.

    ``operand(weight, empty)`` takes (E, slots H, H) of the slots that have the product.
    """

    kernel: Callable
    shared: int
    operand: Callable


class Plan(NamedTuple):
    """Rows of the batch and threads in a block, and both ways."""

    rows: int
    threads: int
    forward: Way
    backward: Way


@cache
def plan(cell, H: int, dtype, precision: str) -> Plan:
    """The plan of a layer of H units; an error where there is none."""
    _, _, recurrent, modulated = layout(cell)
    if precision == "exact" or recurrent[1] == recurrent[0] and modulated[1] == modulated[0]:
        return _exact(cell, H, dtype)
    return _on_tensor_cores(cell, H, precision)


def _exact(cell, H: int, dtype) -> Plan:
    rows = loop.block_rows(cell, H, dtype.itemsize)
    if not rows:
        most = loop.largest_hidden_size(cell, dtype.itemsize)
        raise ValueError(f"hidden_size: at most {most} units of a {cell.name!r} layer in {dtype} are required with device='cuda'; got {H}")
    threads, units = loop.block_threads(cell, H, rows), loop.resident_units(cell, H, rows, dtype.itemsize)
    registers, shared = loop.REGISTERS // loop.held_threads(threads), loop.shared_numbers(cell, H, rows) * dtype.itemsize

    def way(make, operand):
        return Way(lambda: make(cell, dtype, rows, units, registers), shared, operand)

    return Plan(rows, threads, way(make_forward, k_first), way(make_backward, as_it_is))


def k_first(weight, empty):
    """A weight (E, N, K) with k first."""
    result = empty((len(weight), weight.shape[2], weight.shape[1]), weight.dtype)
    result[...] = weight.swapaxes(1, 2)
    return result


def as_it_is(weight, empty):
    return weight


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
    places = 2 if 2 * back.operand_bytes(slots) <= ROOM else 1

    def operand(shape, transposed):
        return lambda weight, empty: lay_out(shape, weight, transposed, empty)

    return Plan(
        SLICE, forth.warps * WARP,
        Way(lambda: make_mma_forward(cell, forth, forth.registers), 2 * forth.operand_bytes(1), operand(forth, False)),
        Way(lambda: make_mma_backward(cell, back, places, back.registers), places * back.operand_bytes(slots), operand(back, True)),
    )  # fmt: skip


def _summed(cell) -> int:
    """How many slots have a product with h."""
    first, last = layout(cell).recurrent
    return last - first


def shapes(cell, H: int, precision: str) -> tuple[Shape, Shape] | None:
    """Of the products of both ways, with as many weights in registers as there is room for; None where something has no room."""
    G, S, P, K, slots = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved), _summed(cell)
    found, lane = [], LANE + SPLIT * (form(precision).parts - 1)
    for numbers, operands in ((2 * G + S, 2), (G + 3 * S + K + 1 + slots, slots)):  # that a lane holds of its unit in each row
        shape = Shape(precision, H, slots, 0)
        left = shape.registers - lane - 4 * slots - CELLS * (numbers + 2 * P)
        held = shape.steps if shape.steps * shape.words_a_step <= left else (left - AGAIN) // shape.words_a_step
        if held < 0 or shape.operand_bytes(operands) > ROOM:
            return None
        found.append(shape._replace(held=held))
    return tuple(found)

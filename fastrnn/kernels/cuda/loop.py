"""The time loop of any cell on the GPU, forward and backward.

Of any size, with any products. A block is a work item of the CPU's loop: a member and a few rows of the batch, which it takes through all
steps with no other block to wait for. Rows stand longest first. A step has two parts, with a barrier after each: the recurrent product, in
which a thread computes one row of the weights times the operands of all the block's rows, so that a weight is read once for them; and the
pointwise step, in which a thread computes one unit of one row. What goes from one to the other goes through shared memory. Weights are read
again at every step; where they fit the registers of a block, they stay there, see `resident`.

A pre-activation is the CPU's chain of fused multiply-adds: bias, inputs, hidden units, in ascending order. In the way back the chain is
one a slot, added in the order of the slots. What need not be in the loop, the products with the inputs and those of the parameters'
gradients, is `product`'s. No sum depends on what else is in the batch, or on who came first.

Everything but y and dL/dy is by step, counted in the order of processing. Arrays are flat: (E, n, B, G, H) says in which order their
numbers lie. Activation gradients are written (`=`).
"""

from typing import NamedTuple

import numpy as np
from numba import cuda

from ..._jit import pointwise
from .._loop import Batch, Trace, layout
from .target import SHARED, THREADS, WARP

u = np.uint64  # of an index: one that has a sign is compared with 0 each time, as it may count from the end
half = np.uint32  # of a row of an array: its product with a width is one instruction, that of two longer numbers is four

ROWS = (4, 2, 1)  # of the batch, in a block,
WIDE = 16  # and the bytes of a number of all of them at most: each takes registers
REGISTERS = 65536  # of a block
ROOM = SHARED - 2 * 8 * max(ROWS)  # bytes for numbers: rows and lengths are there, too


class Span(NamedTuple):
    """Which steps, [begin, end), and the sizes of the arrays."""

    begin: int
    end: int
    offset: int  # the step at which tape and start state begin
    reverse: int
    T: int  # steps of y
    B: int
    H: int
    width: int  # of a row of y,
    column: int  # and where this direction's units begin in it
    tape: int  # steps that the tape has room for
    shown: int  # steps of what is shown: pre-activations in forward, their gradients and dL/dstate in backward


class Weights(NamedTuple):
    """Operands of the products, k first: input (E, D, Ni), recurrent (E, H, Nr), modulated (E, H, Nm); or transposed, for backward.

    bias (E, Z) of all slots, unit (E, P, H).
    """

    input: np.ndarray
    recurrent: np.ndarray
    modulated: np.ndarray
    bias: np.ndarray
    unit: np.ndarray


class Run(NamedTuple):
    """What a kernel runs over, with what weights, and the tape it leaves or goes back on."""

    span: Span
    batch: Batch
    weights: Weights
    trace: Trace


class Back(NamedTuple):
    """What backward leaves for the parameters' gradients, at steps from span.begin on, zero where a sequence has no such step: of the
    pre-activations dz (E, n, B, G, H), of the unit parameters dunit (E, n, B, P, H); the operands held and modulated (E, n, B, H). To cut
    (E, launches, slices, threads, 3) each thread adds what clipping did.
    """

    dz: np.ndarray
    dunit: np.ndarray
    held: np.ndarray
    modulated: np.ndarray
    cut: np.ndarray

    def at(self, n: int) -> "Back":
        """The part of a launch for step n alone."""
        return Back(*(array[:, n : n + 1] for array in self))


class Block(NamedTuple):
    """What a block works on: rows b of a member, and their lengths, -1 behind the last row; in its shared memory, numbers."""

    member: int
    b: np.ndarray
    length: np.ndarray
    memory: np.ndarray


def summed_slots(cell) -> tuple[int, int]:
    """(first slot with a recurrent product, most slots that one product fills)."""
    slots, _, recurrent, modulated = layout(cell)
    first = min([run[0] for run in (recurrent, modulated) if run[1] > run[0]], default=slots)
    return first, max(recurrent[1] - recurrent[0], modulated[1] - modulated[0])


def shared_numbers(cell, H: int, rows: int) -> int:
    """How many numbers of shared memory a block of either kernel needs."""
    (first, most), states = summed_slots(cell), len(cell.states)
    return max(states + 1 + len(cell.slots) - first, states + 2 * most) * H * rows


def block_rows(cell, H: int, itemsize: int) -> int:
    """How many rows a block takes; 0 where shared memory has no room for one.

    Of the batch it knows nothing: kernels of other rows may be fused in another way by the compiler. More rows cost little.
    """
    fitting = [rows for rows in ROWS if rows * itemsize <= WIDE and shared_numbers(cell, H, rows) * itemsize <= ROOM]
    return max(fitting, default=0)


def largest_hidden_size(cell, itemsize: int) -> int:
    """How many units a layer can have."""
    return ROOM // itemsize // shared_numbers(cell, 1, 1)


def block_threads(cell, H: int, rows: int) -> int:
    """A thread a sum, or a unit of every row, as far as registers go: kernels with two products take some more than 128."""
    _, _, recurrent, modulated = layout(cell)
    most = THREADS if recurrent[1] == recurrent[0] or modulated[1] == modulated[0] else THREADS - 4 * WARP
    return min(most, -(-max(summed_slots(cell)[1], rows) * H // WARP) * WARP)


def registers_of(threads: int) -> int:
    """How many registers a thread has in a block of so many, which holds them for warps by fours and gives them out in eights."""
    return min(REGISTERS // (-(-threads // (4 * WARP)) * 4 * WARP) // 8 * 8, 256)


@pointwise
def following(r, j, step, H):
    """The unit `step` units behind unit j of row r, rows behind each other: no division, which takes a hundred instructions."""
    j += step
    while j >= H:
        j -= H
        r += 1
    return r, j


@pointwise
def time_of(n, length, reverse):
    """The time of step n."""
    return length - 1 - n if reverse else n


@pointwise
def masked(h, mask, span, member, b, j):
    """h under recurrent dropout; mask (E or 1, B, H), or empty."""
    if mask.shape[0] > 0:
        e = member if mask.shape[0] > span.B * span.H else 0
        return h * mask[u((e * span.B + b) * span.H + j)]
    return h


@pointwise
def find_rows(item, rows, batch, slices, B, b, length):
    """Which rows of the batch an item of work has, and their lengths: -1 of what stands behind the last row. order, lengths (E or 1, B)."""
    r, member, first = cuda.threadIdx.x, item // slices, item % slices * rows
    if r < rows:
        e = member if batch.order.shape[0] > B else 0
        there = first + r < B
        b[u(r)] = batch.order[u(e * B + (first + r if there else B - 1))]
        e = member if batch.lengths.shape[0] > B else 0
        length[u(r)] = batch.lengths[u(e * B + b[u(r)])] if there else -1
    cuda.syncthreads()

"""Where a time loop has one product, with h: a unit of a row stays in the registers of a thread through all steps, as weights do.

What differs is how the product is computed, in pieces that both loops use (`resident_forward`, `resident_backward`): exactly, by `chains`,
or on tensor cores, by `fragments`. A thread of a block has a unit of a row or none, and some of the sums, of its own unit or of others.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda, int32, int64

from ..._jit import pointwise
from .cluster import DOORS
from .loop import Block, Run, Span, find_rows, half, u
from .mma import anew, get_if
from .steps import Unit


class Place(NamedTuple):
    """Where a thread stands: its unit, from H on none, and row of the block; and of the product what is its own business.

    On tensor cores its tile, part of k and lane, and which of the four sums of a tile are its unit's; in chains its sum.
    """

    unit: int
    row: int
    own: int
    tile: int
    split: int
    lane: int


class Product(NamedTuple):
    """How a block computes a product.

    Attributes
    ----------
    word : numba type
        Of shared memory, and of weights.
    weights, sums : int, tuple of int
        How many words of weights a thread holds, and the shape of its sums.
    meets : bool
        Whether `collect` has a barrier.
    stand : callable
        ``stand(t, block)``: the `Place` of a thread of a block.
    clear : callable
        ``clear(memory, doors)``: what nobody writes of shared memory; all threads wait for each other, of all blocks that share the units.
    hold : callable
        ``hold(w, weights, member, place)``: fill w (weights,).
    give : callable
        ``give(slot, x, memory, doors, turn, place)``: the number x of a thread's unit to all, for `slot` of operand `turn`, counted from 0.
    wait : callable
        ``wait(doors, turn)``: until all of operand `turn` has been given.
    begin : callable
        ``begin(acc)``: empty sums.
    multiply : callable
        ``multiply(acc, w, weights, member, memory, turn, place)``: acc += the weights times operand `turn`.
    collect : callable
        ``collect(total, first, acc, memory, place)``: total[first:] (., 1) += the sums of the thread's unit.
    """

    word: object
    weights: int
    sums: tuple[int, int]
    meets: bool
    stand: object
    clear: object
    hold: object
    give: object
    wait: object
    begin: object
    multiply: object
    collect: object


class Entry(NamedTuple):
    """A thread at the beginning of a loop: its place and unit, what recurrent dropout makes of its h, and what its block shares."""

    place: Place
    unit: Unit
    share: float
    doors: np.ndarray
    block: Block


# Steps are counted in 32 bits, as a GPU adds and compares them at once.


@pointwise
def later(n, steps):
    """The step so many after step n."""
    return int32(n + steps)


@pointwise
def least(a, b):
    return int32(a if a < b else b)


@pointwise
def find(place, block, H):
    """A thread's unit; of -1 steps, if there is none, or it is of a row that the batch has not."""
    r = u(place.row)
    return Unit(block.member, block.b[r], int32(block.length[r] if place.unit < H else -1), place.unit)


@pointwise
def load(states, s, unit, S, span):
    """s (S, 1): the states (E, S, B, H) of a thread's unit, 0 where there is none."""
    for i in range(S):
        s[i, 0] = states[u(((unit.member * S + i) * span.B + unit.b) * span.H + unit.j)] if unit.length >= 0 else states.dtype.type(0.0)


@pointwise
def store(states, s, unit, S, span):
    """The reverse of `load`."""
    if unit.length >= 0:
        for i in range(S):
            states[u(((unit.member * S + i) * span.B + unit.b) * span.H + unit.j)] = s[i, 0]


@pointwise
def share_of(unit, run, one):
    """What recurrent dropout makes of h of a thread's unit: its mask, `one` where there is no mask, and 0 where there is no unit."""
    span, mask, there = run.span, run.batch.mask, unit.length >= 0
    e = unit.member if mask.shape[0] > span.B * span.H else 0
    found = get_if(mask, u((e * span.B + unit.b) * span.H + unit.j), there & (mask.shape[0] > 0))
    return one if there & (mask.shape[0] == 0) else found


@pointwise
def sized(run, H):
    """`run` with its number of units, which is a constant: what is multiplied by it is shifted, or counted ahead.

    A kernel asks for it itself: behind the result of a larger function (`enter`) the compiler has lost sight of it.
    """
    s = run.span
    span = Span(s.begin, s.end, s.offset, s.reverse, s.T, s.B, H, s.width, s.column, s.tape, s.shown)
    return Run(span, run.batch, run.weights, run.trace)


@cache
def make_enter(shape, product: Product, real):
    """``enter(run, w)``: an `Entry`; w (weights,) are what the thread holds of the recurrent weights.

    And ``again(block, span)``: the thread's unit, computed anew, so that the loop need not keep in registers what only its end needs.
    """
    H, rows, blocks, word, stand, clear, hold = shape.H, shape.rows, shape.blocks, product.word, product.stand, product.clear, product.hold

    @pointwise
    def slices_of(span):
        return (span.B + rows - 1) // rows

    @pointwise
    def enter(run, w):
        memory, b, length = cuda.shared.array(0, word), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        doors, place = cuda.shared.array(DOORS, int64), stand(half(cuda.threadIdx.x), half(cuda.blockIdx.x))
        slices, item = slices_of(run.span), half(cuda.blockIdx.x) // blocks
        clear(memory, doors)
        find_rows(item, rows, run.batch, slices, run.span.B, b, length)
        block = Block(item // slices, b, length, memory)
        unit = find(place, block, H)
        hold(w, run.weights.recurrent, unit.member, place)
        return Entry(place, unit, share_of(unit, run, real(1.0)), doors, block)

    @pointwise
    def again(block, span):
        t, number = half(anew(cuda.threadIdx.x)), half(anew(cuda.blockIdx.x))
        member = number // blocks // slices_of(span)
        return find(stand(t, number), Block(member, block.b, block.length, block.memory), H)

    return enter, again

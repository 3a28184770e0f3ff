"""The time loop forward on tensor cores, for any cell whose only product is that with h; see `fragments`."""

from functools import cache

import numpy as np
from numba import cuda, float32, int32, int64

from ..._jit import pointwise
from .._loop import layout
from .fragments import CELLS, SLICE, Shape, is_there, load, make_product, sized, store, units_of
from .loop import Block, find_rows, masked
from .steps import make_advance, moved, place_in, place_in_y, row_of, rows_of
from .target import kernel_within


@cache
def make_mma_forward(cell, shape: Shape, registers: int):
    """The forward kernel, with the arguments of `forward.make_forward`'s.

    A step has one barrier, as operands take turns in two places. What z has of a step is read while the one before it is computed.
    """
    G, S, (first, _), H, words = len(cell.slots), len(cell.states), layout(cell).recurrent, shape.H, shape.operand_words(1)
    stand, hold, give, multiply = make_product(shape, 1)
    advance, room = make_advance(cell, np.dtype("float32")), shape.held * shape.words_a_step or 1

    @pointwise
    def look(ahead, units, even, odd, z):
        """ahead (G, 2): what z has of the step of these rows; anything of a unit that there is not."""
        for q in range(CELLS):
            row, j = odd.own if q else even.own, units[q].j
            for g in range(G):
                ahead[g, q] = z[place_in(row, G * H, g * H + (j if j < H else 0))]

    @pointwise
    def move(n, unit, rows, a, s, run):
        if unit.j < H and n < unit.length:
            advance(n, unit, rows, a, s, run)

    @pointwise
    def hand_over(s, units, memory, base, place, run):
        """h, as the operand that begins at word `base`; zero of a unit that there is not."""
        v = cuda.local.array(CELLS, float32)
        for q in range(CELLS):
            unit = units[q]
            v[q] = masked(s[0, q], run.batch.mask, run.span, unit.member, unit.b, unit.j) if unit.j < H else float32(0.0)
        give(0, v, memory, base, place)

    @kernel_within(registers)
    def forward(run, z, state):
        memory, b, length = cuda.shared.array(0, int32), cuda.shared.array(SLICE, int64), cuda.shared.array(SLICE, int64)
        w, s = cuda.local.array(room, int32), cuda.local.array((S, CELLS), float32)
        acc, ahead = cuda.local.array((G, CELLS), float32), cuda.local.array((G, CELLS), float32)
        run, place, slices = sized(run, H), stand(), (run.span.B + SLICE - 1) // SLICE
        span = run.span
        find_rows(SLICE, run.batch, slices, span.B, b, length)
        block = Block(cuda.blockIdx.x // slices, b, length, memory)
        units = units_of(place, block)
        hold(w, run.weights.recurrent, block.member, place)
        load(state, s, units, S, span, place)
        hand_over(s, units, memory, 0, place, run)
        steps = length[0] if length[0] < span.end else span.end
        even, odd, here = rows_of(span.begin, units[0], span), rows_of(span.begin, units[1], span), 0
        if span.begin < steps:
            look(ahead, units, even, odd, z)
        cuda.syncthreads()
        for n in range(span.begin, steps):
            for g in range(G):
                for q in range(CELLS):
                    acc[g, q] = ahead[g, q]
            later, later_odd = moved(even, 1, span), moved(odd, 1, span)
            if n + 1 < steps:
                look(ahead, units, later, later_odd, z)
            multiply(acc, first, w, run.weights.recurrent, block.member, memory, here, place)
            move(n, units[0], even, acc, s, run)
            move(n, units[1], odd, acc, s, run)
            even, odd, here = later, later_odd, words - here
            hand_over(s, units, memory, here, place, run)
            cuda.syncthreads()
        store(state, s, units, S, span, place)
        for q in range(CELLS):
            unit = units[q]
            if is_there(unit, place, span):
                for t in range(unit.length if unit.length > span.begin else span.begin, span.end):  # beyond the end, in both directions
                    run.trace.y[place_in_y(row_of(t, unit, span.T, 0, span.B), unit, span)] = float32(0.0)

    return forward

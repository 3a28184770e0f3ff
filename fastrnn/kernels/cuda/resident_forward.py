"""The time loop forward of a cell whose only product is that with h, exactly or on tensor cores; see `resident`."""

from functools import cache

from numba import cuda, int64

from ..._jit import pointwise
from .._loop import layout
from .cluster import DOORS
from .loop import Block, find_rows
from .resident import find, is_there, load, share_of, sized, store
from .steps import Left, make_advance, moved, place_in, place_in_y, row_of, rows_of
from .target import kernel_within, number


@cache
def make_resident_forward(cell, shape, places: int, registers: int):
    """The forward kernel, with the arguments of `forward.make_forward`'s; `shape`, of `chains` or `fragments`, makes the product.

    Operands take turns in two places, or have one, where there is a barrier more. What z has of a step is read while the one before it is
    computed, and what a step leaves is written while the product of the one behind it is.
    """
    G, S, K, H, rows, real = len(cell.slots), len(cell.states), len(cell.saved), shape.H, shape.rows, number(shape.dtype)
    word, room, sums, meets, stand, clear, hold, give, wait, begin, multiply, collect = shape.product(1, places)
    blocks, (first, _), max_of_k, room = shape.blocks, layout(cell).recurrent, K or 1, room or 1  # an array of nothing cannot be had
    advance, keep = make_advance(cell, shape.dtype)

    @pointwise
    def look(ahead, row, unit, z):
        """ahead (G, 1): what z has of a step; anything of a unit that there is not."""
        for g in range(G):
            ahead[g, 0] = z[place_in(row, G * H, g * H + (unit.j if unit.j < H else 0))]

    @kernel_within(registers, shape.blocks)
    def forward(run, z, state):
        memory, b, length = cuda.shared.array(0, word), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        w, s, a = cuda.local.array(room, word), cuda.local.array((S, 1), real), cuda.local.array((G, 1), real)
        acc, ahead = cuda.local.array(sums, real), cuda.local.array((G, 1), real)
        left = Left(cuda.local.array((max_of_k, 1), real), cuda.local.array((1, 1), real))
        run, place, slices = sized(run, H), stand(), (run.span.B + rows - 1) // rows
        span, weights = run.span, run.weights.recurrent
        doors = cuda.shared.array(DOORS, int64)
        clear(memory, doors)
        item = cuda.blockIdx.x // blocks
        find_rows(item, rows, run.batch, slices, span.B, b, length)
        block = Block(item // slices, b, length, memory)
        unit = find(place, block, H)
        there = is_there(unit, place, span, item % slices, rows)
        hold(w, weights, block.member, place)
        load(state, s, unit, there, S, span)
        share, end = share_of(unit, there, run, real(1.0)), length[0] if length[0] < span.end else span.end
        own = unit.length if unit.length < span.end else span.end
        give(0, s[0, 0] * share, memory, doors, 0, place)
        before, turn = rows_of(span.begin, unit, span), 0
        if span.begin < end:
            look(ahead, before.own, unit, z)
        at = before
        wait(doors, 0)
        for n in range(span.begin, end):
            begin(acc, ahead, first, place)
            multiply(acc, w, weights, block.member, memory, turn, place)
            keep(unit, before, a, s, left, run, (n > span.begin) & (n <= own))
            for g in range(G):
                a[g, 0] = ahead[g, 0]
            before, at = at, moved(at, 1 if n + 1 < end else 0, span)
            look(ahead, at.own, unit, z)
            collect(a, first, acc, memory, place)
            if n < own:
                advance(n, unit, a, s, left, run)
            if places == 1 and not meets:
                cuda.syncthreads()
            turn += 1
            give(0, s[0, 0] * share, memory, doors, turn, place)
            wait(doors, turn)
        keep(unit, before, a, s, left, run, (end > span.begin) & (end <= own))
        store(state, s, unit, there, S, span)
        if there:
            for t in range(unit.length if unit.length > span.begin else span.begin, span.end):  # beyond the end, in both directions
                run.trace.y[place_in_y(row_of(t, unit, span.T, 0, span.B), unit, span)] = real(0.0)

    return forward

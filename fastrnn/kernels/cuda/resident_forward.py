"""The time loop forward of a cell whose only product is that with h, exactly or on tensor cores; see `resident`."""

from functools import cache

from numba import cuda, int32

from ..._jit import pointwise
from .._loop import layout
from .ahead import AHEAD, await_step, close, fetch, make_ring
from .loop import half
from .resident import later, least, load, make_enter, sized, store
from .steps import Left, make_advance, make_unit_parameters, moved, place_in, place_in_y, row_of, rows_of
from .target import kernel_within, number


@cache
def make_resident_forward(cell, shape, places: int, words: int):
    """The forward kernel, with the arguments of `forward.make_forward`'s; `shape`, of `chains` or `fragments`, makes the product.

    Operands take turns in two places, or have one, where there is a barrier more. They have so many `words` of shared memory; behind them
    is what z has of the next steps. That is read, and what a step leaves is written, while the product is computed, or where operands come
    from other blocks, while they are on their way.
    """
    G, S, K, H, real = len(cell.slots), len(cell.states), len(cell.saved), shape.H, number(shape.dtype)
    product = shape.product(1, places)
    word, room, sums, meets, _, _, _, give, wait, begin, multiply, collect = product
    (first, _), max_of_k, max_of_p, room = layout(cell).recurrent, K or 1, len(cell.parameters) or 1, room or 1  # never an array of nothing
    (enter, again), unit_parameters = make_enter(shape, product, real), make_unit_parameters(cell)
    (ring, apart, read), every = make_ring(word, shape.having_units, G, words), shape.having_units == shape.threads
    (advance, keep), away = make_advance(cell, shape.dtype), shape.blocks > 1

    @pointwise
    def look(n, end, row, memory, unit, z):
        """Begin to bring what z has of step n, 0 from `end` on, of a thread that has a unit."""
        if every or unit.j < H:
            for g in range(G):
                there = (n < end) & (unit.j < H)
                fetch(memory, ring(n) + g * apart, z, place_in(row, G * H, g * H + unit.j), there)
        close()

    @pointwise
    def take(ahead, n, memory, unit):
        """ahead (G, 1): what z has of step n, which has come."""
        await_step()
        if every or unit.j < H:
            for g in range(G):
                ahead[g, 0] = read(memory, ring(n) + g * apart)

    @pointwise
    def leave(unit, rows, left, run, there):
        if every or unit.j < H:
            keep(unit, rows, left, run, there)

    @kernel_within(shape.registers, shape.blocks)
    def forward(run, z, state):
        w, s, a = cuda.local.array(room, word), cuda.local.array((S, 1), real), cuda.local.array((G, 1), real)
        acc, ahead, p = cuda.local.array(sums, real), cuda.local.array((G, 1), real), cuda.local.array((max_of_p, 1), real)
        left = Left(a, s, cuda.local.array((max_of_k, 1), real), cuda.local.array((1, 1), real))
        run = sized(run, H)
        place, unit, share, doors, block = enter(run, w)
        memory, span, weights, start = block.memory, run.span, run.weights.recurrent, int32(run.span.begin)
        end = least(block.length[0], run.span.end)
        load(state, s, unit, S, span)
        if unit.length >= 0:
            for t in range(unit.length if unit.length > span.begin else span.begin, span.end):  # beyond the end, in both directions
                run.trace.y[place_in_y(row_of(t, unit, span.T, 0, span.B), unit, span)] = real(0.0)
        unit_parameters(unit, p, run)
        own, n, turn, at = least(unit.length, span.end), start, int32(0), rows_of(span.begin, unit, span)
        give(0, s[0, 0] * share, memory, doors, 0, place)
        for k in range(AHEAD):
            look(later(start, k), end, half(at.own + k * span.B), memory, unit, z)
        take(ahead, start, memory, unit)
        before = at
        wait(doors, 0)
        while n < end:
            begin(acc)
            multiply(acc, w, weights, unit.member, memory, turn, place)
            if not away:
                leave(unit, before, left, run, (n > start) & (n <= own))
            for g in range(G):
                a[g, 0] = ahead[g, 0]
            if not away:
                look(later(n, AHEAD), end, half(at.own + AHEAD * span.B), memory, unit, z)
                take(ahead, later(n, 1), memory, unit)
            collect(a, first, acc, memory, place)
            if every or n < own:
                advance(n, unit, at.y, p, left, run, n < own)
            turn = later(turn, 1)
            if places == 1 and not meets:
                cuda.syncthreads()
            give(0, s[0, 0] * share, memory, doors, turn, place)
            if away:
                leave(unit, at, left, run, n < own)
                look(later(n, AHEAD), end, half(at.own + AHEAD * span.B), memory, unit, z)
                take(ahead, later(n, 1), memory, unit)
            before, at, n = at, moved(at, 1, span), later(n, 1)
            wait(doors, turn)
        if not away:
            keep(unit, before, left, run, (n > start) & (n <= own))
        store(state, s, again(block, span), S, span)

    return forward

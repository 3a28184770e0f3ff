"""The time loop forward of a cell whose only product is that with h, exactly or on tensor cores; see `resident`."""

from functools import cache

from numba import cuda

from ..._jit import pointwise
from .._loop import layout
from .resident import load, make_enter, sized, store
from .steps import Left, make_advance, make_unit_parameters, moved, place_in, place_in_y, row_of, rows_of
from .target import kernel_within, number


@cache
def make_resident_forward(cell, shape, places: int, registers: int):
    """The forward kernel, with the arguments of `forward.make_forward`'s; `shape`, of `chains` or `fragments`, makes the product.

    Operands take turns in two places, or have one, where `collect` has a barrier. What z has of a step is read while the one before it is
    computed, and what a step leaves is written while the product of the one behind it is.
    """
    G, S, K, H, real = len(cell.slots), len(cell.states), len(cell.saved), shape.H, number(shape.dtype)
    product = shape.product(1, places)
    word, room, sums, _, _, _, _, give, wait, begin, multiply, collect = product
    (first, _), max_of_k, max_of_p, room = layout(cell).recurrent, K or 1, len(cell.parameters) or 1, room or 1  # never an array of nothing
    enter, unit_parameters, (advance, keep) = make_enter(shape, product, real), make_unit_parameters(cell), make_advance(cell, shape.dtype)

    @pointwise
    def look(ahead, row, unit, z):
        """ahead (G, 1): what z has of a step; anything of a unit that there is not."""
        for g in range(G):
            ahead[g, 0] = z[place_in(row, G * H, g * H + (unit.j if unit.j < H else 0))]

    @kernel_within(registers, shape.blocks)
    def forward(run, z, state):
        w, s, a = cuda.local.array(room, word), cuda.local.array((S, 1), real), cuda.local.array((G, 1), real)
        acc, ahead = cuda.local.array(sums, real), cuda.local.array((G, 1), real)
        left, p = Left(cuda.local.array((max_of_k, 1), real), cuda.local.array((1, 1), real)), cuda.local.array((max_of_p, 1), real)
        run = sized(run, H)
        place, unit, there, share, memory, doors, length = enter(run, w)
        span, weights, end = run.span, run.weights.recurrent, length[0] if length[0] < run.span.end else run.span.end
        load(state, s, unit, there, S, span)
        unit_parameters(unit, p, run)
        own = unit.length if unit.length < span.end else span.end
        give(0, s[0, 0] * share, memory, doors, 0, place)
        before, turn = rows_of(span.begin, unit, span), 0
        if span.begin < end:
            look(ahead, before.own, unit, z)
        at = before
        wait(doors, 0)
        for n in range(span.begin, end):
            begin(acc, ahead, first)
            multiply(acc, w, weights, unit.member, memory, turn, place)
            keep(unit, before, a, s, left, run, (n > span.begin) & (n <= own))
            for g in range(G):
                a[g, 0] = ahead[g, 0]
            before, at = at, moved(at, 1 if n + 1 < end else 0, span)
            look(ahead, at.own, unit, z)
            collect(a, first, acc, memory, place)
            if n < own:
                advance(n, unit, a, s, p, left, run)
            turn += 1
            give(0, s[0, 0] * share, memory, doors, turn, place)
            wait(doors, turn)
        keep(unit, before, a, s, left, run, (end > span.begin) & (end <= own))
        store(state, s, unit, there, S, span)
        if there:
            for t in range(unit.length if unit.length > span.begin else span.begin, span.end):  # beyond the end, in both directions
                run.trace.y[place_in_y(row_of(t, unit, span.T, 0, span.B), unit, span)] = real(0.0)

    return forward

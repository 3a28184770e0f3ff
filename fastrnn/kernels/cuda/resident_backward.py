"""The time loop backward of a cell whose only product is that with h, exactly or on tensor cores; see `resident`."""

from functools import cache

from numba import cuda

from ..._jit import pointwise
from .._loop import layout
from .loop import u
from .resident import load, make_enter, sized, store
from .steps import Seen, make_retreat, make_unit_parameters, moved, rows_of
from .target import kernel_within, number


@cache
def make_resident_backward(cell, shape, places: int, registers: int):
    """The backward kernel, with the arguments of `backward.make_backward`'s; `shape`, of `chains` or `fragments`, makes the product.

    A chain of sums a slot, added in the order of slots. Operands take turns in two places, or have one, where there is a barrier more.
    What a step has left is read two steps ahead, while the product is computed. What this way leaves is written then, too, or where
    operands come from other blocks, while they are on their way.
    """
    G, S, K, R, H, real = len(cell.slots), len(cell.states), len(cell.saved), shape.slots, shape.H, number(shape.dtype)
    product = shape.product(R, places)
    word, room, sums, meets, _, _, _, give, wait, begin, multiply, collect = product
    (first, _), max_of_k, max_of_p, room = layout(cell).recurrent, K or 1, len(cell.parameters) or 1, room or 1
    enter, unit_parameters = make_enter(shape, product, real), make_unit_parameters(cell)
    (look, retreat, clip, count, hold_operand, write), away = make_retreat(cell, shape.dtype), shape.blocks > 1

    @pointwise
    def leave(unit, rows, operand, da, run, flow, back, there):
        hold_operand(unit, rows, operand, run, back, there)
        write(unit, rows, da, run, flow, back, there)

    @pointwise
    def take(seen, ahead):
        for i in range(K):
            seen.saved[i, 0] = ahead.saved[i, 0]
        for i in range(S):
            seen.old[i, 0], seen.new[i, 0] = ahead.old[i, 0], ahead.new[i, 0]
        seen.dy[0, 0] = ahead.dy[0, 0]
        for i in range(3):
            seen.pull[i, 0] = ahead.pull[i, 0]

    @kernel_within(registers, shape.blocks)
    def backward(run, start, flow, dstate, limit, back):
        w, acc, none = cuda.local.array(room, word), cuda.local.array(sums, real), cuda.local.array((R, 1), real)
        ds, da, whole = cuda.local.array((S, 1), real), cuda.local.array((G, 1), real), cuda.local.array((G, 1), real)
        old, new, dy = cuda.local.array((S, 1), real), cuda.local.array((S, 1), real), cuda.local.array((1, 1), real)
        seen = Seen(cuda.local.array((max_of_k, 1), real), old, new, dy, cuda.local.array((3, 1), real))
        old, new, dy = cuda.local.array((S, 1), real), cuda.local.array((S, 1), real), cuda.local.array((1, 1), real)
        ahead = Seen(cuda.local.array((max_of_k, 1), real), old, new, dy, cuda.local.array((3, 1), real))
        got, cut, p = cuda.local.array((1, 1), real), cuda.local.array(3, real), cuda.local.array((max_of_p, 1), real)
        run = sized(run, H)
        place, unit, there, share, memory, doors, length = enter(run, w)
        span, weights, turn = run.span, run.weights.recurrent, 0
        for s in range(R):
            none[s, 0] = real(0.0)
        for i in range(3):
            cut[i] = real(0.0)
        load(dstate, ds, unit, there, S, span)
        unit_parameters(unit, p, run)
        last = (length[0] if length[0] < span.end else span.end) - 1
        at = rows_of(last, unit, span)
        look(last, unit, at, seen, run, start, flow, (span.begin <= last) & (last < unit.length))
        before = moved(at, -1, span)
        look(last - 1, unit, before, ahead, run, start, flow, (span.begin < last) & (last <= unit.length))
        for n in range(last, span.begin - 1, -1):
            moves = n < unit.length
            for g in range(G):
                da[g, 0] = real(0.0)
            if moves:
                retreat(unit, at, seen, ds, da, p, run, flow, back)
            clip(da, whole, limit)
            for s in range(R):
                give(s, da[first + s, 0], memory, doors, turn, place)
            if away:
                leave(unit, at, seen.old[0, 0] * share, da, run, flow, back, moves)
            begin(acc, none, 0)
            wait(doors, turn)
            multiply(acc, w, weights, unit.member, memory, turn, place)
            if not away:
                leave(unit, at, seen.old[0, 0] * share, da, run, flow, back, moves)
            take(seen, ahead)
            at, before = before, moved(before, -1, span)
            look(n - 2, unit, before, ahead, run, start, flow, (span.begin < n - 1) & (n - 2 < unit.length))
            got[0, 0] = real(0.0)
            collect(got, 0, acc, memory, place)
            ds[0, 0] += got[0, 0] * share
            count(whole, limit, cut)
            if places == 1 and not meets:
                cuda.syncthreads()
            turn += 1
        store(dstate, ds, unit, there, S, span)
        for i in range(3):
            back.cut[u((cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) * 3 + i)] = cut[i]

    return backward

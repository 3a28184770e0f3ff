"""The time loop backward on tensor cores, for any cell whose only product is that with h; see `fragments`."""

from functools import cache

import numpy as np
from numba import cuda, float32, int32, int64

from ..._jit import pointwise
from .._loop import layout
from .fragments import CELLS, SLICE, Shape, load, make_product, sized, store, units_of
from .loop import Block, find_rows, masked, u
from .steps import Seen, make_retreat, moved, rows_of
from .target import kernel_within


@cache
def make_mma_backward(cell, shape: Shape, places: int, registers: int):
    """The backward kernel, with the arguments of `backward.make_backward`'s.

    A chain of sums a slot, added in the order of slots. With two `places` for operands a step has one barrier, with one it has two. What
    a step has left is read while the product of the one behind it is computed.
    """
    G, S, K, R, H = len(cell.slots), len(cell.states), len(cell.saved), shape.slots, shape.H
    (first, _), words, max_of_k, room = layout(cell).recurrent, shape.operand_words(R), K or 1, shape.held * shape.words_a_step or 1
    stand, hold, give, multiply = make_product(shape, R)
    look, retreat, clip, write = make_retreat(cell, np.dtype("float32"))

    @pointwise
    def look_at(n, units, even, odd, seen, run, start, flow):
        for q in range(CELLS):
            unit = units[q]
            if unit.j < H and n < unit.length:
                look(n, unit, odd if q else even, seen, run, start, flow)

    @pointwise
    def move(n, unit, rows, seen, ds, da, cut, limit, run, flow, back):
        """A unit by a step: da (G, 2), the gradients of its pre-activations, and ds (S, 2), of its states but for the product."""
        for g in range(G):
            da[g, unit.q] = float32(0.0)
        if unit.j < H and n < unit.length:
            retreat(n, unit, rows, seen, ds, da, run, flow, back)
            clip(da, unit.q, limit, cut)
            write(n, unit, rows, da, run, flow, back)

    @pointwise
    def hand_over(da, memory, base, place):
        """The gradients of the slots that have a product, as the operand that begins at word `base`."""
        v = cuda.local.array(CELLS, float32)
        for s in range(R):
            for q in range(CELLS):
                v[q] = da[first + s, q]
            give(s, v, memory, base, place)

    @pointwise
    def receive(acc, ds, units, run):
        """Add the product, acc (R, 2), to dL/dh."""
        for q in range(CELLS):
            unit, total = units[q], float32(0.0)
            for s in range(R):
                total += acc[s, q]
            if unit.j < H:
                ds[0, q] += masked(total, run.batch.mask, run.span, unit.member, unit.b, unit.j)

    @kernel_within(registers)
    def backward(run, start, flow, dstate, limit, back):
        memory, b, length = cuda.shared.array(0, int32), cuda.shared.array(SLICE, int64), cuda.shared.array(SLICE, int64)
        w, cut, acc = cuda.local.array(room, int32), cuda.local.array(3, float32), cuda.local.array((R, CELLS), float32)
        ds, da = cuda.local.array((S, CELLS), float32), cuda.local.array((G, CELLS), float32)
        old, new = cuda.local.array((S, CELLS), float32), cuda.local.array((S, CELLS), float32)
        seen = Seen(cuda.local.array((max_of_k, CELLS), float32), old, new, cuda.local.array((1, CELLS), float32))
        run, place, slices = sized(run, H), stand(), (run.span.B + SLICE - 1) // SLICE
        span = run.span
        find_rows(SLICE, run.batch, slices, span.B, b, length)
        block = Block(cuda.blockIdx.x // slices, b, length, memory)
        units = units_of(place, block)
        hold(w, run.weights.recurrent, block.member, place)
        for i in range(3):
            cut[i] = float32(0.0)
        load(dstate, ds, units, S, span, place)
        last, here = (length[0] if length[0] < span.end else span.end) - 1, 0
        even, odd = rows_of(last, units[0], span), rows_of(last, units[1], span)
        if last >= span.begin:
            look_at(last, units, even, odd, seen, run, start, flow)
        for n in range(last, span.begin - 1, -1):
            move(n, units[0], even, seen, ds, da, cut, limit, run, flow, back)
            move(n, units[1], odd, seen, ds, da, cut, limit, run, flow, back)
            hand_over(da, memory, here, place)
            cuda.syncthreads()
            even, odd = moved(even, -1, span), moved(odd, -1, span)
            if n > span.begin:
                look_at(n - 1, units, even, odd, seen, run, start, flow)
            for s in range(R):
                for q in range(CELLS):
                    acc[s, q] = float32(0.0)
            multiply(acc, 0, w, run.weights.recurrent, block.member, memory, here, place)
            receive(acc, ds, units, run)
            if places == 2:
                here = words - here
            else:
                cuda.syncthreads()
        store(dstate, ds, units, S, span, place)
        for i in range(3):
            back.cut[u((cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) * 3 + i)] = cut[i]

    return backward

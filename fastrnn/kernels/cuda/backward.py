"""The time loop of any cell on the GPU, backward; see `loop`."""

from functools import cache

from numba import cuda, int64

from ..._jit import pointwise
from ..._math import fma
from .._loop import layout
from .._take import TAKE
from .loop import Block, find_rows, following, masked, summed_slots, u
from .mma import get_either, get_if
from .steps import Given, Seen, Slopes, Unit, make_look, make_retreat, make_unit_parameters, place_in, rows_of, seen_numbers, went_on
from .target import kernel_within, number


@pointwise
def _get(to, i, array, place, there):
    to[i, 0] = get_if(array, place, there)


@pointwise
def _get_either(to, i, array, place, other, other_place, first, there):
    to[i, 0] = get_either(array, place, other, other_place, first, there)


@cache
def make_backward(cell, dtype, rows: int, registers: int):
    """The backward kernel: fills `flow` and `back`, takes `dstate` (E, S, B, H) from span.end to span.begin.

    start (E, S, B, H): the state at span.offset. limit: the bound on dL/da, infinite for none.
    `registers`: of a thread at most.
    """
    modulate_backward, real, unit_parameters = cell.modulate_backward, number(dtype), make_unit_parameters(cell)
    look_behind, retreat, clip, count, hold, write = make_retreat(cell, dtype)
    look, many = make_look(cell, _get, _get_either), seen_numbers(cell)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_saved, take_unit = TAKE[K], TAKE[P]
    _, _, (rec0, rec1), (mod0, mod1) = layout(cell)
    recurrent, modulated, (_, L) = rec1 > rec0, mod1 > mod0, summed_slots(cell)
    max_of_p, max_of_k = P or 1, K or 1
    # in shared memory: dL/dstate (S, rows, H); the gradients of L slots (L, H, rows); their products with the weights (rows, L, H)

    @pointwise
    def multiply(slots, weights, block, H):
        """The products of `slots` slots' gradients with their weights (E, slots H, H), slot by slot, k ascending."""
        memory, acc, stride = block.memory, cuda.local.array(rows, real), u(H)
        g, j = cuda.threadIdx.x // H, cuda.threadIdx.x % H
        while g < slots:
            for r in range(rows):
                acc[r] = real(0.0)
            at, given = u((block.member * slots + g) * H * H + j), u((S * H + g * H) * rows)
            for _ in range(H):
                weight = weights[at]
                for r in range(rows):
                    acc[r] = fma(memory[given + u(r)], weight, acc[r])
                at, given = at + stride, given + u(rows)
            for r in range(rows):
                memory[u(((S + L) * rows + r * L + g) * H + j)] = acc[r]
            g, j = following(g, j, cuda.blockDim.x, H)

    @pointwise
    def product_of(slots, r, j, block, run):
        """The gradient of unit j's operand of row r, from what `multiply` left."""
        total = real(0.0)
        for g in range(slots):
            total += block.memory[u(((S + L) * rows + r * L + g) * run.span.H + j)]
        return masked(total, run.batch.mask, run.span, block.member, block.b[u(r)], j)

    @pointwise
    def unit_of(r, j, block):
        return Unit(block.member, block.b[u(r)], block.length[u(r)], j)

    @pointwise
    def write_row(n, r, j, da, block, given):
        unit = unit_of(r, j, block)
        write(unit, rows_of(n, unit, given.run.span), da, given, True)

    @pointwise
    def give(r, j, begin, end, da, memory, H):
        """The gradients of unit j's slots [begin, end) to all threads."""
        for g in range(begin, end):
            memory[u((S * H + (g - begin) * H + j) * rows + r)] = da[g, 0]

    @pointwise
    def move(n, r, j, slopes, block, given):
        """Unit j of row r by a step: the gradients of its pre-activations, and of its state but for the product."""
        run, memory, unit, p = given.run, block.memory, unit_of(r, j, block), cuda.local.array((max_of_p, 1), real)
        H, ds = run.span.H, slopes.ds
        own = rows_of(n, unit, run.span)
        found = cuda.local.array((many, 1), real)
        seen = Seen(found[:K], found[K : K + S], found[K + S : K + S + 1], found[K + S + 1 :], cuda.local.array((S, 1), real))
        for i in range(3):
            seen.pull[i, 0] = real(0.0)
        look(n, unit, own, found, given, True)
        look_behind(unit, own, seen.new, run, True)
        for i in range(S):
            ds[i, 0] = memory[u((i * rows + r) * H + j)]
        if recurrent:
            ds[0, 0] += product_of(rec1 - rec0, r, j, block, run)
        unit_parameters(unit, p, run)
        retreat(unit, own, seen, slopes, p, given, True)
        h = went_on(seen) if modulated else masked(went_on(seen), run.batch.mask, run.span, block.member, unit.b, j)
        hold(unit, own, h, given, True)
        for i in range(S):
            memory[u((i * rows + r) * H + j)] = ds[i, 0]

    @pointwise
    def add_modulated(n, r, j, da, block, run, back):
        """What the gradient of unit j's modulated operand adds to those of its other slots, and of its state."""
        span, member, H, unit, trace = run.span, block.member, run.span.H, unit_of(r, j, block), run.trace
        kept, p = cuda.local.array((max_of_k, 1), real), cuda.local.array((max_of_p, 1), real)
        own, du = rows_of(n, unit, span), product_of(mod1 - mod0, r, j, block, run)
        at = place_in(own.own, H, j)
        for i in range(K):
            kept[i, 0] = trace.saved[place_in(own.tape, K * H, i * H + j)]
        unit_parameters(unit, p, run)
        h = back.held[at]
        operand, gates, states = modulate_backward(take_saved(kept, 0), h, take_unit(p, 0), du)
        back.held[at] = masked(h, run.batch.mask, span, member, unit.b, j)
        back.modulated[at] = masked(operand, run.batch.mask, span, member, unit.b, j)
        for g in range(G):
            da[g, 0] = back.dz[place_in(own.own, G * H, g * H + j)]
        for g in range(len(gates)):
            da[g, 0] += gates[g]
        for i in range(len(states)):
            block.memory[u((i * rows + r) * H + j)] += states[i]

    @pointwise
    def clip_and_count(slopes, limit, cut):
        clip(slopes, limit)
        count(slopes.whole, limit, cut)

    @pointwise
    def nothing(da):
        for g in range(G):
            da[g, 0] = real(0.0)

    @kernel_within(registers)
    def backward(run, start, flow, dstate, limit, back):
        memory, b, length = cuda.shared.array(0, real), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        ds, whole, cut = cuda.local.array((S, 1), real), cuda.local.array((G, 1), real), cuda.local.array(3, real)
        da, given = cuda.local.array((G, 1), real), Given(run, start, flow, limit, back)
        slopes = Slopes(ds, da, whole)
        span, thread, threads = run.span, cuda.threadIdx.x, cuda.blockDim.x
        B, H, slices = span.B, span.H, (span.B + rows - 1) // rows
        find_rows(cuda.blockIdx.x, rows, run.batch, slices, B, b, length)
        member = cuda.blockIdx.x // slices
        block = Block(member, b, length, memory)
        r0, j0 = thread // H, thread % H
        for i in range(3):
            cut[i] = back.cut[u((cuda.blockIdx.x * threads + thread) * 3 + i)]
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            for i in range(S):
                memory[u((i * rows + r) * H + j)] = dstate[u(((member * S + i) * B + b[u(r)]) * H + j)]
            for g in range(L):
                memory[u(((S + L) * rows + r * L + g) * H + j)] = real(0.0)
        cuda.syncthreads()  # a row behind the last one has read the last one's
        for n in range((length[0] if length[0] < span.end else span.end) - 1, span.begin - 1, -1):
            r, j = r0, j0
            while r < rows:
                nothing(da)
                if n < length[u(r)]:
                    move(n, r, j, slopes, block, given)
                    if not modulated:
                        clip_and_count(slopes, limit, cut)
                    write_row(n, r, j, da, block, given)
                give(r, j, mod0 if modulated else rec0, mod1 if modulated else rec1, da, memory, H)
                r, j = following(r, j, threads, H)
            cuda.syncthreads()
            if modulated:
                multiply(mod1 - mod0, run.weights.modulated, block, H)
                cuda.syncthreads()
                r, j = r0, j0
                while r < rows:
                    nothing(da)
                    if n < length[u(r)]:
                        add_modulated(n, r, j, da, block, run, back)
                        clip_and_count(slopes, limit, cut)
                        write_row(n, r, j, da, block, given)
                    give(r, j, rec0, rec1, da, memory, H)
                    r, j = following(r, j, threads, H)
                cuda.syncthreads()
            if recurrent:
                multiply(rec1 - rec0, run.weights.recurrent, block, H)
                cuda.syncthreads()
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            if length[u(r)] >= 0:
                for i in range(S):
                    dstate[u(((member * S + i) * B + b[u(r)]) * H + j)] = memory[u((i * rows + r) * H + j)]
                if recurrent:
                    dstate[u((member * S * B + b[u(r)]) * H + j)] += product_of(rec1 - rec0, r, j, block, run)
        for i in range(3):
            back.cut[u((cuda.blockIdx.x * threads + thread) * 3 + i)] = cut[i]

    return backward

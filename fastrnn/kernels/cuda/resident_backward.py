"""The time loop backward of a cell whose only product is that with h, exactly or on tensor cores; see `resident`."""

from functools import cache

from numba import cuda, int32

from ..._jit import pointwise
from .._loop import layout
from .ahead import AHEAD, await_step, close, fetch, fetch_either, make_ring
from .loop import u
from .resident import later, least, load, make_enter, sized, store
from .steps import Given, Seen, Slopes, make_look, make_retreat, make_unit_parameters, moved, rows_of, seen_numbers, went_on
from .target import kernel_within, number


@cache
def make_resident_backward(cell, shape, places: int, words: int):
    """The backward kernel, with the arguments of `backward.make_backward`'s; `shape`, of `chains` or `fragments`, makes the product.

    A chain of sums a slot, added in the order of slots. Operands take turns in two places, or have one, where there is a barrier more;
    they have so many `words` of shared memory, and behind them is what the next steps have left. What this way leaves is written, and what
    it needs is read, while the product is computed, or where operands come from other blocks, while they are on their way. Where every
    thread has a unit, none goes another way than others from one wait to the next: what need not wait for the product does not.
    """
    G, S, K, R, H, threads = len(cell.slots), len(cell.states), len(cell.saved), shape.slots, shape.H, shape.threads
    product, real = shape.product(R, places), number(shape.dtype)
    word, room, sums, meets, _, _, _, give, wait, begin, multiply, collect = product
    (first, _), max_of_k, max_of_p, room = layout(cell).recurrent, K or 1, len(cell.parameters) or 1, room or 1
    (enter, again), unit_parameters = make_enter(shape, product, real), make_unit_parameters(cell)
    (look_behind, retreat, clip, count, hold_operand, write), away = make_retreat(cell, shape.dtype), shape.blocks > 1
    (ring, apart, read), every = make_ring(word, shape.having_units, seen_numbers(cell), words), shape.having_units == shape.threads

    @pointwise
    def bring(to, i, array, place, there):
        memory, at = to
        fetch(memory, at + i * apart, array, place, there)

    @pointwise
    def bring_either(to, i, array, place, other, other_place, first, there):
        memory, at = to
        fetch_either(memory, at + i * apart, array, place, other, other_place, first, there)

    look_at = make_look(cell, bring, bring_either)

    @pointwise
    def look(n, begin, rows, memory, unit, given):
        """Begin to bring what step n has left, of a thread that has a unit."""
        if every or unit.j < H:
            look_at(n, unit, rows, (memory, ring(n)), given, (begin <= n) & (n < unit.length))
        close()

    @pointwise
    def take(seen, n, memory, unit, pulls):
        """What step n has left, which has come; the states after it were those before the one that was seen last."""
        await_step()
        for i in range(S):
            seen.new[i, 0] = seen.old[i, 0]
        at = ring(n)
        if every or unit.j < H:
            for i in range(K):
                seen.saved[i, 0] = read(memory, at + i * apart)
            for i in range(S):
                seen.old[i, 0] = read(memory, at + (K + i) * apart)
            seen.dy[0, 0] = read(memory, at + (K + S) * apart)
            if pulls:
                for i in range(3):
                    seen.pull[i, 0] = read(memory, at + (K + S + 1 + i) * apart)

    @pointwise
    def leave(unit, rows, operand, slopes, given, there):
        if every or unit.j < H:
            hold_operand(unit, rows, operand, given, there)
            write(unit, rows, slopes.da, given, there)

    @pointwise
    def move(unit, rows, seen, slopes, p, given, there):
        """Take a thread's unit back by a step, if it is `there`, and clip."""
        for g in range(G):
            slopes.da[g, 0] = real(0.0)
        if every or there:
            retreat(unit, rows, seen, slopes, p, given, there)
        clip(slopes, given.limit)

    @kernel_within(shape.registers, shape.blocks)
    def backward(run, start, flow, dstate, limit, back):
        w, acc = cuda.local.array(room, word), cuda.local.array(sums, real)
        ds, da, whole = cuda.local.array((S, 1), real), cuda.local.array((G, 1), real), cuda.local.array((G, 1), real)
        old, new, dy = cuda.local.array((S, 1), real), cuda.local.array((S, 1), real), cuda.local.array((1, 1), real)
        seen = Seen(cuda.local.array((max_of_k, 1), real), old, dy, cuda.local.array((3, 1), real), new)
        got, cut, p = cuda.local.array((1, 1), real), cuda.local.array(3, real), cuda.local.array((max_of_p, 1), real)
        run, slopes = sized(run, H), Slopes(ds, da, whole)
        given = Given(run, start, flow, limit, back)
        place, unit, share, doors, block = enter(run, w)
        memory, span, weights, turn, head = block.memory, run.span, run.weights.recurrent, int32(0), int32(run.span.begin)
        for i in range(3):
            seen.pull[i, 0] = real(0.0)
            cut[i] = back.cut[u((cuda.blockIdx.x * threads + cuda.threadIdx.x) * 3 + i)]  # whose address is not kept for the end
        pulls = run.batch.alpha.shape[0] > 0
        load(dstate, ds, unit, S, span)
        unit_parameters(unit, p, run)
        n = later(least(block.length[0], span.end), -1)
        at, moves = rows_of(n, unit, span), (head <= n) & (n < unit.length)
        look_behind(unit, at, seen.old, run, moves)
        for k in range(AHEAD):
            look(later(n, -k), head, moved(at, -k, span), memory, unit, given)
        take(seen, n, memory, unit, pulls)
        move(unit, at, seen, slopes, p, given, moves)
        for s in range(R):
            give(s, da[first + s, 0], memory, doors, 0, place)
        while n >= head:
            count(whole, limit, cut)
            if away:
                leave(unit, at, went_on(seen) * share, slopes, given, moves)
                look(later(n, -AHEAD), head, moved(at, -AHEAD, span), memory, unit, given)
                take(seen, later(n, -1), memory, unit, pulls)
            begin(acc)
            wait(doors, turn)
            multiply(acc, w, weights, unit.member, memory, turn, place)
            if not away:
                leave(unit, at, went_on(seen) * share, slopes, given, moves)
                look(later(n, -AHEAD), head, moved(at, -AHEAD, span), memory, unit, given)
                take(seen, later(n, -1), memory, unit, pulls)
            at, n = moved(at, -1, span), later(n, -1)
            got[0, 0] = real(0.0)
            collect(got, 0, acc, memory, place)
            ds[0, 0] += got[0, 0] * share
            if places == 1 and not meets:
                cuda.syncthreads()
            turn, moves = later(turn, 1), (head <= n) & (n < unit.length)
            move(unit, at, seen, slopes, p, given, moves)
            for s in range(R):
                give(s, da[first + s, 0], memory, doors, turn, place)
        wait(doors, turn)  # no block ends while others send to it
        store(dstate, ds, again(block, span), S, span)
        for i in range(3):
            back.cut[u((cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) * 3 + i)] = cut[i]

    return backward

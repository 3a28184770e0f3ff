"""The time loop of any cell on the GPU, forward; see `loop`."""

from functools import cache

from numba import cuda, int64

from ..._jit import pointwise
from ..._math import fma
from .._loop import layout
from .._take import PUT, TAKE
from .loop import Block, find_rows, following, masked, pulled, summed_slots, time_of, u
from .target import kernel_within, number


@cache
def make_forward(cell, dtype, rows: int, units: int, registers: int):
    """The forward kernel: fills `run.trace` and advances `state` (E, S, B, H) over `run.span`.

    z (E, n, B, G, H) has every slot's bias and input product, from step span.begin on.
    `units`: see `resident_units`; `registers`: of a thread at most.
    """
    step, modulate, real = cell.step, cell.modulate, number(dtype)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_gates, take_states, take_unit, put_states, put_saved = TAKE[G], TAKE[S], TAKE[P], PUT[S], PUT[K]
    _, _, (rec0, rec1), (mod0, mod1) = layout(cell)
    recurrent, modulated, (first, _) = rec1 > rec0, mod1 > mod0, summed_slots(cell)
    L = G - first  # slots whose sums are in shared memory, (rows, L, H), behind the operand (H, rows); then the states (S, rows, H)

    @pointwise
    def begin_sums(n, c, acc, block, span, z):
        """What z has of all rows, at place c of a row."""
        for r in range(rows):
            at = ((block.member * (span.end - span.begin) + n - span.begin) * span.B + block.b[u(r)]) * G * span.H + c
            acc[r] = z[u(at)] if n < block.length[u(r)] else real(0.0)

    @pointwise
    def multiply(n, begin, end, weights, block, span, z):
        """The sums of slots [begin, end): z, and weights (E, H, N) times the operand, k ascending."""
        H, N, memory, acc = span.H, (end - begin) * span.H, block.memory, cuda.local.array(rows, real)
        for c in range(cuda.threadIdx.x, N, cuda.blockDim.x):
            begin_sums(n, begin * H + c, acc, block, span, z)
            at, given, stride = u(block.member * H * N + c), u(0), u(N)
            for _ in range(H):
                weight = weights[at]
                for r in range(rows):
                    acc[r] = fma(memory[given + u(r)], weight, acc[r])
                at, given = at + stride, given + u(rows)
            for r in range(rows):
                memory[u((rows + r * L + begin - first) * H + c)] = acc[r]

    @pointwise
    def multiply_resident(n, w, block, span, z):
        """As `multiply`, of the only product: w (units,) are the weights of this thread's sum."""
        c, memory, acc = cuda.threadIdx.x, block.memory, cuda.local.array(rows, real)
        if c < (rec1 - rec0) * units:
            begin_sums(n, rec0 * units + c, acc, block, span, z)
            for k in range(units):
                for r in range(rows):
                    acc[r] = fma(memory[u(k * rows + r)], w[k], acc[r])
            for r in range(rows):
                memory[u((rows + r * L + rec0 - first) * units + c)] = acc[r]

    @pointwise
    def load(n, r, j, known, a, p, block, span, z, unit):
        """The pre-activations (G, 1) of unit j of row r, 0 from slot `known` on, and its parameters (P, 1)."""
        H = span.H
        at = ((block.member * (span.end - span.begin) + n - span.begin) * span.B + block.b[u(r)]) * G * H + j
        for g in range(first):
            a[g, 0] = z[u(at + g * H)]
        for g in range(first, G):
            a[g, 0] = block.memory[u((rows + r * L + g - first) * H + j)] if g < known else real(0.0)
        for i in range(P):
            p[i, 0] = unit[u((block.member * P + i) * H + j)]

    @pointwise
    def hand_over(n, r, j, block, run, z):
        """The operand of the second product, from slots that are complete, in place of the first one's."""
        span, member, memory = run.span, block.member, block.memory
        a, p = cuda.local.array((G, 1), real), cuda.local.array((max_of_p, 1), real)
        load(n, r, j, mod0, a, p, block, span, z, run.weights.unit)
        h = memory[u((rows + rows * L + r) * span.H + j)]
        operand = modulate(take_gates(a, 0), h, take_unit(p, 0))
        memory[u(j * rows + r)] = masked(operand, run.batch.mask, span, member, block.b[u(r)], j)

    @pointwise
    def keep(n, r, j, a, s, kept, block, run):
        """What step n leaves in y and on the tape."""
        span, member, b, H = run.span, block.member, block.b[u(r)], run.span.H
        t = time_of(n, block.length[u(r)], span.reverse)
        run.trace.y[u(((member * span.T + t) * span.B + b) * span.width + span.column + j)] = s[0, 0]
        if span.tape > 0:
            row = (member * span.tape + n - span.offset) * span.B + b
            for i in range(1, S):
                run.trace.others[u((row * (S - 1) + i - 1) * H + j)] = s[i, 0]
            for i in range(K):
                run.trace.saved[u((row * K + i) * H + j)] = kept[i, 0]
        if span.shown > 0:
            row = (member * span.shown + n - span.offset) * span.B + b
            for g in range(G):
                run.trace.preactivations[u((row * G + g) * H + j)] = a[g, 0]
        s[0, 0] = pulled(s[0, 0], run.batch, span, member, t, b, j)

    @pointwise
    def advance(n, r, j, block, run, z):
        """Unit j of row r by a step: its states, and its part of the next operand."""
        span, memory, H = run.span, block.memory, run.span.H
        a, p, s = cuda.local.array((G, 1), real), cuda.local.array((max_of_p, 1), real), cuda.local.array((S, 1), real)
        kept = cuda.local.array((max_of_k, 1), real)
        load(n, r, j, G, a, p, block, span, z, run.weights.unit)
        for i in range(S):
            s[i, 0] = memory[u((rows + rows * L + i * rows + r) * H + j)]
        states, saved = step(take_gates(a, 0), take_states(s, 0), take_unit(p, 0))
        put_states(s, 0, states)
        put_saved(kept, 0, saved)
        keep(n, r, j, a, s, kept, block, run)
        for i in range(S):
            memory[u((rows + rows * L + i * rows + r) * H + j)] = s[i, 0]
        memory[u(j * rows + r)] = masked(s[0, 0], run.batch.mask, span, block.member, block.b[u(r)], j)

    max_of_p, max_of_k, room = P or 1, K or 1, units or 1  # an array of nothing cannot be had

    @kernel_within(registers)
    def forward(run, z, state):
        memory, b, length = cuda.shared.array(0, real), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        span, thread, threads = run.span, cuda.threadIdx.x, cuda.blockDim.x
        B, H, slices = span.B, span.H, (span.B + rows - 1) // rows
        find_rows(rows, run.batch, slices, B, b, length)
        member, behind = cuda.blockIdx.x // slices, B - cuda.blockIdx.x % slices * rows  # r from `behind` on is no row
        block, w = Block(member, b, length, memory), cuda.local.array(room, real)
        if units > 0 and thread < (rec1 - rec0) * units:
            for k in range(units):
                w[k] = run.weights.recurrent[u((member * units + k) * (rec1 - rec0) * units + thread)]
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            for i in range(S):
                memory[u((rows + rows * L + i * rows + r) * H + j)] = state[u(((member * S + i) * B + b[u(r)]) * H + j)]
            memory[u(j * rows + r)] = masked(state[u((member * S * B + b[u(r)]) * H + j)], run.batch.mask, span, member, b[u(r)], j)
        cuda.syncthreads()
        r0, j0 = thread // H, thread % H
        for n in range(span.begin, length[0] if length[0] < span.end else span.end):
            if units > 0:
                multiply_resident(n, w, block, span, z)
                cuda.syncthreads()
            elif recurrent:
                multiply(n, rec0, rec1, run.weights.recurrent, block, span, z)
                cuda.syncthreads()
            if modulated:
                r, j = r0, j0
                while r < rows:
                    hand_over(n, r, j, block, run, z)
                    r, j = following(r, j, threads, H)
                cuda.syncthreads()
                multiply(n, mod0, mod1, run.weights.modulated, block, span, z)
                cuda.syncthreads()
            r, j = r0, j0
            while r < rows:
                if n < length[u(r)]:
                    advance(n, r, j, block, run, z)
                r, j = following(r, j, threads, H)
            cuda.syncthreads()
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            if r < behind:
                for i in range(S):
                    state[u(((member * S + i) * B + b[u(r)]) * H + j)] = memory[u((rows + rows * L + i * rows + r) * H + j)]
                for t in range(length[u(r)] if length[u(r)] > span.begin else span.begin, span.end):  # beyond the end, in both directions
                    run.trace.y[u(((member * span.T + t) * B + b[u(r)]) * span.width + span.column + j)] = real(0.0)

    return forward

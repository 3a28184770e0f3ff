"""The time loop of any cell on the GPU, forward; see `loop`."""

from functools import cache

from numba import cuda, int64

from ..._jit import pointwise
from ..._math import fma
from .._loop import layout
from .._take import TAKE
from .loop import Block, find_rows, following, masked, summed_slots, u
from .steps import Left, Unit, make_advance, make_unit_parameters, place_in, row_of, rows_of
from .target import kernel_within, number


@cache
def make_forward(cell, dtype, rows: int, registers: int):
    """The forward kernel: fills `run.trace` and advances `state` (E, S, B, H) over `run.span`.

    z (E, n, B, G, H) has every slot's bias and input product, from step span.begin on.
    `registers`: of a thread at most.
    """
    modulate, real, unit_parameters = cell.modulate, number(dtype), make_unit_parameters(cell)
    (advance, keep), K = make_advance(cell, dtype), len(cell.saved)
    G, S, P = len(cell.slots), len(cell.states), len(cell.parameters)
    take_gates, take_unit, max_of_p, max_of_k = TAKE[G], TAKE[P], P or 1, K or 1
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
    def unit_of(r, j, block):
        return Unit(block.member, block.b[u(r)], block.length[u(r)], j)

    @pointwise
    def load(n, r, unit, known, a, block, span, z):
        """The pre-activations a (G, 1) of a unit, 0 from slot `known` on."""
        H, row = span.H, row_of(n, unit, span.end - span.begin, span.begin, span.B)
        for g in range(first):
            a[g, 0] = z[place_in(row, G * H, g * H + unit.j)]
        for g in range(first, G):
            a[g, 0] = block.memory[u((rows + r * L + g - first) * H + unit.j)] if g < known else real(0.0)

    @pointwise
    def hand_over(n, r, j, block, run, z):
        """The operand of the second product, from slots that are complete, in place of the first one's."""
        span, member, memory, unit = run.span, block.member, block.memory, unit_of(r, j, block)
        a, p = cuda.local.array((G, 1), real), cuda.local.array((max_of_p, 1), real)
        load(n, r, unit, mod0, a, block, span, z)
        unit_parameters(unit, p, run)
        h = memory[u((rows + rows * L + r) * span.H + j)]
        operand = modulate(take_gates(a, 0), h, take_unit(p, 0))
        memory[u(j * rows + r)] = masked(operand, run.batch.mask, span, member, unit.b, j)

    @pointwise
    def move(n, r, j, block, run, z):
        """Unit j of row r by a step: its states, and its part of the next operand."""
        span, memory, H, unit = run.span, block.memory, run.span.H, unit_of(r, j, block)
        a, s = cuda.local.array((G, 1), real), cuda.local.array((S, 1), real)
        saved, h, p = cuda.local.array((max_of_k, 1), real), cuda.local.array((1, 1), real), cuda.local.array((max_of_p, 1), real)
        at, left = rows_of(n, unit, span), Left(a, s, saved, h)
        load(n, r, unit, G, a, block, span, z)
        for i in range(S):
            s[i, 0] = memory[u((rows + rows * L + i * rows + r) * H + j)]
        unit_parameters(unit, p, run)
        advance(n, unit, at.y, p, left, run, True)
        keep(unit, at, left, run, True)
        for i in range(S):
            memory[u((rows + rows * L + i * rows + r) * H + j)] = s[i, 0]
        memory[u(j * rows + r)] = masked(s[0, 0], run.batch.mask, span, block.member, unit.b, j)

    @kernel_within(registers)
    def forward(run, z, state):
        memory, b, length = cuda.shared.array(0, real), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        span, thread, threads = run.span, cuda.threadIdx.x, cuda.blockDim.x
        B, H, slices = span.B, span.H, (span.B + rows - 1) // rows
        find_rows(cuda.blockIdx.x, rows, run.batch, slices, B, b, length)
        member = cuda.blockIdx.x // slices
        block = Block(member, b, length, memory)
        last = length[0] if length[0] < span.end else span.end
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            for i in range(S):
                memory[u((rows + rows * L + i * rows + r) * H + j)] = state[u(((member * S + i) * B + b[u(r)]) * H + j)]
            memory[u(j * rows + r)] = masked(state[u((member * S * B + b[u(r)]) * H + j)], run.batch.mask, span, member, b[u(r)], j)
        cuda.syncthreads()
        r0, j0 = thread // H, thread % H
        for n in range(span.begin, last):
            if recurrent:
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
                    move(n, r, j, block, run, z)
                r, j = following(r, j, threads, H)
            cuda.syncthreads()
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            if length[u(r)] >= 0:
                for i in range(S):
                    state[u(((member * S + i) * B + b[u(r)]) * H + j)] = memory[u((rows + rows * L + i * rows + r) * H + j)]
                for t in range(length[u(r)] if length[u(r)] > span.begin else span.begin, span.end):  # beyond the end, in both directions
                    run.trace.y[u(((member * span.T + t) * B + b[u(r)]) * span.width + span.column + j)] = real(0.0)

    return forward

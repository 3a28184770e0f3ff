"""The time loop of any cell on the GPU, forward and backward.

A block is a work item of the CPU's loop: a member and a few rows of the batch, which it takes through all steps with no other block to
wait for. Rows stand longest first. A step has two parts, with a barrier after each: the recurrent product, in which a thread computes
one row of the weights times the operands of all the block's rows, so that a weight is read once for them; and the pointwise step, in
which a thread computes one unit of one row. What goes from one to the other goes through shared memory.

A pre-activation is the CPU's chain of fused multiply-adds: bias, inputs, hidden units, in ascending order. In the way back the chain is
one a slot, added in the order of the slots. What need not be in the loop, the products with the inputs and those of the parameters'
gradients, is `product`'s. No sum depends on what else is in the batch, or on who came first.

Everything but y and dL/dy is by step, counted in the order of processing. Arrays are flat: (E, n, B, G, H) says in which order their
numbers lie. Activation gradients are written (`=`).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda, int64

from ..._jit import pointwise
from ..._math import fma
from .._loop import Batch, Trace, layout
from .._take import PUT, TAKE
from .target import SHARED, THREADS, WARP, kernel, number

ROWS = (4, 2, 1)  # of the batch, in a block
ROOM = SHARED - 2 * 8 * max(ROWS)  # bytes for numbers: rows and lengths are there, too
BLOCKS = 128  # about as many as a device runs at once: more rows a block only where that many are left


class Span(NamedTuple):
    """Which steps, [begin, end), and the sizes of the arrays."""

    begin: int
    end: int
    offset: int  # the step at which tape and start state begin
    reverse: int
    T: int  # steps of y
    B: int
    H: int
    width: int  # of a row of y,
    column: int  # and where this direction's units begin in it
    tape: int  # steps that the tape has room for
    shown: int  # steps of what is shown: pre-activations in forward, their gradients and dL/dstate in backward


class Weights(NamedTuple):
    """Operands of the products, k first: input (E, D, Ni), recurrent (E, H, Nr), modulated (E, H, Nm); or transposed, for backward.

    bias (E, Z) of all slots, unit (E, P, H).
    """

    input: np.ndarray
    recurrent: np.ndarray
    modulated: np.ndarray
    bias: np.ndarray
    unit: np.ndarray


class Run(NamedTuple):
    """What a kernel runs over, with what weights, and the tape it leaves or goes back on."""

    span: Span
    batch: Batch
    weights: Weights
    trace: Trace


class Back(NamedTuple):
    """What backward leaves for the parameters' gradients, at steps from span.begin on, zero where a sequence has no such step: of the
    pre-activations dz (E, n, B, G, H), of the unit parameters dunit (E, n, B, P, H); the operands held and modulated (E, n, B, H); and
    cut (E, slices, threads, 3).
    """

    dz: np.ndarray
    dunit: np.ndarray
    held: np.ndarray
    modulated: np.ndarray
    cut: np.ndarray


class Block(NamedTuple):
    """What a block works on: rows b of a member, and their lengths; in its shared memory, numbers."""

    member: int
    b: np.ndarray
    length: np.ndarray
    memory: np.ndarray


def summed_slots(cell) -> tuple[int, int]:
    """(first slot with a recurrent product, most slots that one product fills)."""
    slots, _, recurrent, modulated = layout(cell)
    first = min([run[0] for run in (recurrent, modulated) if run[1] > run[0]], default=slots)
    return first, max(recurrent[1] - recurrent[0], modulated[1] - modulated[0])


def shared_numbers(cell, H: int, rows: int) -> int:
    """How many numbers of shared memory a block of either kernel needs."""
    (first, most), states = summed_slots(cell), len(cell.states)
    return max(states + 1 + len(cell.slots) - first, states + 2 * most) * H * rows


def block_rows(cell, H: int, B: int, itemsize: int) -> int:
    """How many of B rows a block takes; 0 where shared memory has no room for one."""
    fitting = [rows for rows in ROWS if shared_numbers(cell, H, rows) * itemsize <= ROOM]
    return next((rows for rows in fitting if rows * BLOCKS <= B), fitting[-1] if fitting else 0)


def largest_hidden_size(cell, itemsize: int) -> int:
    """How many units a layer can have."""
    return ROOM // itemsize // shared_numbers(cell, 1, 1)


def block_threads(cell, H: int, rows: int) -> int:
    return min(THREADS, -(-max(summed_slots(cell)[1], rows) * H // WARP) * WARP)


@pointwise
def time_of(n, length, reverse):
    """The time of step n."""
    return length - 1 - n if reverse else n


@pointwise
def masked(h, mask, span, member, b, j):
    """h under recurrent dropout; mask (E or 1, B, H), or empty."""
    if mask.shape[0] > 0:
        e = member if mask.shape[0] > span.B * span.H else 0
        return h * mask[(e * span.B + b) * span.H + j]
    return h


@pointwise
def pulled(h, batch, span, member, t, b, j):
    """h of step t as it goes on, (1 - alpha) h + alpha goal; goal (E or 1, T, B, H) and alpha (T,), or empty."""
    if batch.alpha.shape[0] > 0:
        e = member if batch.goal.shape[0] > span.T * span.B * span.H else 0
        keep = type(h)(1.0) - batch.alpha[t]
        return keep * h + batch.alpha[t] * batch.goal[((e * span.T + t) * span.B + b) * span.H + j]
    return h


@pointwise
def find_rows(rows, batch, slices, B, b, length):
    """Which rows of the batch this block has, and their lengths: 0 of what stands behind the last row. order, lengths (E or 1, B)."""
    r, member, first = cuda.threadIdx.x, cuda.blockIdx.x // slices, cuda.blockIdx.x % slices * rows
    if r < rows:
        e = member if batch.order.shape[0] > B else 0
        there = first + r < B
        b[r] = batch.order[e * B + (first + r if there else B - 1)]
        e = member if batch.lengths.shape[0] > B else 0
        length[r] = batch.lengths[e * B + b[r]] if there else 0
    cuda.syncthreads()


@cache
def make_forward(cell, dtype, rows: int):
    """The forward kernel: fills `run.trace` and advances `state` (E, S, B, H) over `run.span`.

    z (E, n, B, G, H) has every slot's bias and input product, from step span.begin on.
    """
    step, modulate, real = cell.step, cell.modulate, number(dtype)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_gates, take_states, take_unit, put_states, put_saved = TAKE[G], TAKE[S], TAKE[P], PUT[S], PUT[K]
    _, _, (rec0, rec1), (mod0, mod1) = layout(cell)
    recurrent, modulated, (first, _) = rec1 > rec0, mod1 > mod0, summed_slots(cell)
    L = G - first  # slots whose sums are in shared memory, (rows, L, H), behind the operand (H, rows); then the states (S, rows, H)

    @pointwise
    def multiply(n, begin, end, weights, block, span, z):
        """The sums of slots [begin, end): z, and weights (E, H, N) times the operand, k ascending."""
        member, b, length, memory = block
        H, N, acc = span.H, (end - begin) * span.H, cuda.local.array(rows, real)
        for c in range(cuda.threadIdx.x, N, cuda.blockDim.x):
            for r in range(rows):
                at = ((member * (span.end - span.begin) + n - span.begin) * span.B + b[r]) * G * H
                acc[r] = z[at + begin * H + c] if n < length[r] else real(0.0)
            at = member * H * N + c
            for k in range(H):
                weight = weights[at + k * N]
                for r in range(rows):
                    acc[r] = fma(memory[k * rows + r], weight, acc[r])
            for r in range(rows):
                memory[(rows + r * L + begin - first) * H + c] = acc[r]

    @pointwise
    def load(n, r, j, known, a, p, block, span, z, unit):
        """The pre-activations (G, 1) of unit j of row r, 0 from slot `known` on, and its parameters (P, 1)."""
        H = span.H
        at = ((block.member * (span.end - span.begin) + n - span.begin) * span.B + block.b[r]) * G * H + j
        for g in range(first):
            a[g, 0] = z[at + g * H]
        for g in range(first, G):
            a[g, 0] = block.memory[(rows + r * L + g - first) * H + j] if g < known else real(0.0)
        for i in range(P):
            p[i, 0] = unit[(block.member * P + i) * H + j]

    @pointwise
    def hand_over(n, r, j, block, run, z):
        """The operand of the second product, from slots that are complete, in place of the first one's."""
        span, member, memory = run.span, block.member, block.memory
        a, p = cuda.local.array((G, 1), real), cuda.local.array((max_of_p, 1), real)
        load(n, r, j, mod0, a, p, block, span, z, run.weights.unit)
        h = memory[(rows + rows * L + r) * span.H + j]
        operand = modulate(take_gates(a, 0), h, take_unit(p, 0))
        memory[j * rows + r] = masked(operand, run.batch.mask, span, member, block.b[r], j)

    @pointwise
    def keep(n, r, j, a, s, kept, block, run):
        """What step n leaves in y and on the tape."""
        span, member, b, H = run.span, block.member, block.b[r], run.span.H
        t = time_of(n, block.length[r], span.reverse)
        run.trace.y[((member * span.T + t) * span.B + b) * span.width + span.column + j] = s[0, 0]
        if span.tape > 0:
            row = (member * span.tape + n - span.offset) * span.B + b
            for i in range(1, S):
                run.trace.others[(row * (S - 1) + i - 1) * H + j] = s[i, 0]
            for i in range(K):
                run.trace.saved[(row * K + i) * H + j] = kept[i, 0]
        if span.shown > 0:
            row = (member * span.shown + n - span.offset) * span.B + b
            for g in range(G):
                run.trace.preactivations[(row * G + g) * H + j] = a[g, 0]
        s[0, 0] = pulled(s[0, 0], run.batch, span, member, t, b, j)

    @pointwise
    def advance(n, r, j, block, run, z):
        """Unit j of row r by a step: its states, and its part of the next operand."""
        span, memory, H = run.span, block.memory, run.span.H
        a, p, s = cuda.local.array((G, 1), real), cuda.local.array((max_of_p, 1), real), cuda.local.array((S, 1), real)
        kept = cuda.local.array((max_of_k, 1), real)
        load(n, r, j, G, a, p, block, span, z, run.weights.unit)
        for i in range(S):
            s[i, 0] = memory[(rows + rows * L + i * rows + r) * H + j]
        states, saved = step(take_gates(a, 0), take_states(s, 0), take_unit(p, 0))
        put_states(s, 0, states)
        put_saved(kept, 0, saved)
        keep(n, r, j, a, s, kept, block, run)
        for i in range(S):
            memory[(rows + rows * L + i * rows + r) * H + j] = s[i, 0]
        memory[j * rows + r] = masked(s[0, 0], run.batch.mask, span, block.member, block.b[r], j)

    max_of_p, max_of_k = P or 1, K or 1  # an array of nothing cannot be had

    @kernel
    def forward(run, z, state):
        memory, b, length = cuda.shared.array(0, real), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        span, thread, threads = run.span, cuda.threadIdx.x, cuda.blockDim.x
        B, H, slices = span.B, span.H, (span.B + rows - 1) // rows
        find_rows(rows, run.batch, slices, B, b, length)
        member, behind = cuda.blockIdx.x // slices, B - cuda.blockIdx.x % slices * rows  # r from `behind` on is no row
        block = Block(member, b, length, memory)
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            for i in range(S):
                memory[(rows + rows * L + i * rows + r) * H + j] = state[((member * S + i) * B + b[r]) * H + j]
            memory[j * rows + r] = masked(state[(member * S * B + b[r]) * H + j], run.batch.mask, span, member, b[r], j)
        cuda.syncthreads()
        for n in range(span.begin, length[0] if length[0] < span.end else span.end):
            if recurrent:
                multiply(n, rec0, rec1, run.weights.recurrent, block, span, z)
                cuda.syncthreads()
            if modulated:
                for c in range(thread, rows * H, threads):
                    hand_over(n, c // H, c % H, block, run, z)
                cuda.syncthreads()
                multiply(n, mod0, mod1, run.weights.modulated, block, span, z)
                cuda.syncthreads()
            for c in range(thread, rows * H, threads):
                if n < length[c // H]:
                    advance(n, c // H, c % H, block, run, z)
            cuda.syncthreads()
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            if r < behind:
                for i in range(S):
                    state[((member * S + i) * B + b[r]) * H + j] = memory[(rows + rows * L + i * rows + r) * H + j]
                for t in range(length[r] if length[r] > span.begin else span.begin, span.end):  # beyond the end, in both directions
                    run.trace.y[((member * span.T + t) * B + b[r]) * span.width + span.column + j] = real(0.0)

    return forward


@cache
def make_backward(cell, dtype, rows: int):
    """The backward kernel: fills `flow` and `back`, takes `dstate` (E, S, B, H) from span.end to span.begin.

    start (E, S, B, H): the state at span.offset. limit: the bound on dL/da, infinite for none.
    """
    step_backward, modulate_backward, real = cell.step_backward, cell.modulate_backward, number(dtype)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_states, take_saved, take_unit = TAKE[S], TAKE[K], TAKE[P]
    put_gates, put_states, put_unit = PUT[G], PUT[S], PUT[P]
    _, _, (rec0, rec1), (mod0, mod1) = layout(cell)
    recurrent, modulated, (_, L) = rec1 > rec0, mod1 > mod0, summed_slots(cell)
    max_of_p, max_of_k = P or 1, K or 1
    # in shared memory: dL/dstate (S, rows, H); the gradients of L slots (L, H, rows); their products with the weights (rows, L, H)

    @pointwise
    def multiply(slots, weights, block, H):
        """The products of `slots` slots' gradients with their weights (E, slots H, H), slot by slot, k ascending."""
        memory, acc = block.memory, cuda.local.array(rows, real)
        for c in range(cuda.threadIdx.x, slots * H, cuda.blockDim.x):
            g, j = c // H, c % H
            for r in range(rows):
                acc[r] = real(0.0)
            at, given = (block.member * slots + g) * H * H + j, (S * H + g * H) * rows
            for k in range(H):
                weight = weights[at + k * H]
                for r in range(rows):
                    acc[r] = fma(memory[given + k * rows + r], weight, acc[r])
            for r in range(rows):
                memory[((S + L) * rows + r * L + g) * H + j] = acc[r]

    @pointwise
    def product_of(slots, r, j, block, run):
        """The gradient of unit j's operand of row r, from what `multiply` left."""
        total = real(0.0)
        for g in range(slots):
            total += block.memory[((S + L) * rows + r * L + g) * run.span.H + j]
        return masked(total, run.batch.mask, run.span, block.member, block.b[r], j)

    @pointwise
    def states_of(n, t, b, j, old, new, member, run, start):
        """Unit j's states before and after step n, from y, the tape, and the start state."""
        span, H = run.span, run.span.H
        row = (member * span.tape + n - span.offset) * span.B + b
        new[0, 0] = run.trace.y[((member * span.T + t) * span.B + b) * span.width + span.column + j]
        for i in range(1, S):
            new[i, 0] = run.trace.others[(row * (S - 1) + i - 1) * H + j]
        if n > span.offset:
            before = t + 1 if span.reverse else t - 1
            h = run.trace.y[((member * span.T + before) * span.B + b) * span.width + span.column + j]
            old[0, 0] = pulled(h, run.batch, span, member, before, b, j)
            for i in range(1, S):
                old[i, 0] = run.trace.others[((row - span.B) * (S - 1) + i - 1) * H + j]
        else:
            for i in range(S):
                old[i, 0] = start[((member * S + i) * span.B + b) * H + j]

    @pointwise
    def receive(n, t, r, j, ds, block, run, flow):
        """dL/dstate after step n, which is then complete."""
        span, H, b, alpha = run.span, run.span.H, block.b[r], run.batch.alpha
        for i in range(S):
            ds[i, 0] = block.memory[(i * rows + r) * H + j]
        if recurrent:
            ds[0, 0] += product_of(rec1 - rec0, r, j, block, run)
        if alpha.shape[0] > 0:
            ds[0, 0] = (real(1.0) - alpha[t]) * ds[0, 0]
        if flow.dy.shape[0] > 0:
            ds[0, 0] += flow.dy[((block.member * span.T + t) * span.B + b) * span.width + span.column + j]
        if span.shown > 0:
            row = (block.member * span.shown + n - span.offset) * span.B + b
            for i in range(S):
                flow.dstates[(row * S + i) * H + j] = ds[i, 0]

    @pointwise
    def load(n, r, j, kept, p, block, run):
        """What the tape has of step n, and the parameters of unit j."""
        span, H = run.span, run.span.H
        row = (block.member * span.tape + n - span.offset) * span.B + block.b[r]
        for i in range(K):
            kept[i, 0] = run.trace.saved[(row * K + i) * H + j]
        for i in range(P):
            p[i, 0] = run.weights.unit[(block.member * P + i) * H + j]

    @pointwise
    def clip(da, limit, cut):
        """da (G, 1) to at most `limit`; in `cut`, what that did."""
        if limit < real(np.inf):
            for g in range(G):
                size = abs(da[g, 0])
                cut[2] += size
                if size > limit:
                    cut[0] += real(1.0)
                    cut[1] += size - limit
                    da[g, 0] = limit if da[g, 0] > real(0.0) else -limit

    @pointwise
    def write(n, r, j, da, block, run, flow, back):
        """The gradients of unit j's pre-activations (G, 1)."""
        span, H, b = run.span, run.span.H, block.b[r]
        row = (block.member * (span.end - span.begin) + n - span.begin) * span.B + b
        for g in range(G):
            back.dz[(row * G + g) * H + j] = da[g, 0]
        if span.shown > 0:
            shown = (block.member * span.shown + n - span.offset) * span.B + b
            for g in range(G):
                flow.dpreactivations[(shown * G + g) * H + j] = da[g, 0]

    @pointwise
    def give(r, j, begin, end, da, memory, H):
        """The gradients of unit j's slots [begin, end) to all threads."""
        for g in range(begin, end):
            memory[(S * H + (g - begin) * H + j) * rows + r] = da[g, 0]

    @pointwise
    def retreat(n, r, j, da, block, run, start, flow, back):
        """Unit j of row r by a step: the gradients of its pre-activations (G, 1), and of its state but for the product."""
        span, member, H, b = run.span, block.member, run.span.H, block.b[r]
        ds, old, new = cuda.local.array((S, 1), real), cuda.local.array((S, 1), real), cuda.local.array((S, 1), real)
        kept, p, dp = (cuda.local.array((max_of_k, 1), real), cuda.local.array((max_of_p, 1), real), cuda.local.array((max_of_p, 1), real))
        t = time_of(n, block.length[r], span.reverse)
        receive(n, t, r, j, ds, block, run, flow)
        states_of(n, t, b, j, old, new, member, run, start)
        load(n, r, j, kept, p, block, run)
        gates, states, units = step_backward(
            take_saved(kept, 0), take_states(old, 0), take_states(new, 0), take_unit(p, 0), take_states(ds, 0)
        )
        put_gates(da, 0, gates)
        put_states(ds, 0, states)
        put_unit(dp, 0, units)
        row = (member * (span.end - span.begin) + n - span.begin) * span.B + b
        for i in range(P):
            back.dunit[(row * P + i) * H + j] = dp[i, 0]
        for i in range(S):
            block.memory[(i * rows + r) * H + j] = ds[i, 0]
        back.held[row * H + j] = old[0, 0] if modulated else masked(old[0, 0], run.batch.mask, span, member, b, j)

    @pointwise
    def add_modulated(n, r, j, da, block, run, back):
        """What the gradient of unit j's modulated operand adds to those of its other slots, and of its state."""
        span, member, H, b = run.span, block.member, run.span.H, block.b[r]
        kept, p = cuda.local.array((max_of_k, 1), real), cuda.local.array((max_of_p, 1), real)
        row, du = (member * (span.end - span.begin) + n - span.begin) * span.B + b, product_of(mod1 - mod0, r, j, block, run)
        load(n, r, j, kept, p, block, run)
        h = back.held[row * H + j]
        operand, gates, states = modulate_backward(take_saved(kept, 0), h, take_unit(p, 0), du)
        back.held[row * H + j] = masked(h, run.batch.mask, span, member, b, j)
        back.modulated[row * H + j] = masked(operand, run.batch.mask, span, member, b, j)
        for g in range(G):
            da[g, 0] = back.dz[(row * G + g) * H + j]
        for g in range(len(gates)):
            da[g, 0] += gates[g]
        for i in range(len(states)):
            block.memory[(i * rows + r) * H + j] += states[i]

    @pointwise
    def nothing(da):
        for g in range(G):
            da[g, 0] = real(0.0)

    @kernel
    def backward(run, start, flow, dstate, limit, back):
        memory, b, length = cuda.shared.array(0, real), cuda.shared.array(rows, int64), cuda.shared.array(rows, int64)
        da, cut = cuda.local.array((G, 1), real), cuda.local.array(3, real)
        span, thread, threads = run.span, cuda.threadIdx.x, cuda.blockDim.x
        B, H, slices = span.B, span.H, (span.B + rows - 1) // rows
        find_rows(rows, run.batch, slices, B, b, length)
        member, behind = cuda.blockIdx.x // slices, B - cuda.blockIdx.x % slices * rows
        block = Block(member, b, length, memory)
        for i in range(3):
            cut[i] = real(0.0)
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            for i in range(S):
                memory[(i * rows + r) * H + j] = dstate[((member * S + i) * B + b[r]) * H + j]
            for g in range(L):
                memory[((S + L) * rows + r * L + g) * H + j] = real(0.0)
        cuda.syncthreads()  # a row behind the last one has read the last one's
        for n in range((length[0] if length[0] < span.end else span.end) - 1, span.begin - 1, -1):
            for c in range(thread, rows * H, threads):
                r, j = c // H, c % H
                nothing(da)
                if n < length[r]:
                    retreat(n, r, j, da, block, run, start, flow, back)
                    if not modulated:
                        clip(da, limit, cut)
                    write(n, r, j, da, block, run, flow, back)
                give(r, j, mod0 if modulated else rec0, mod1 if modulated else rec1, da, memory, H)
            cuda.syncthreads()
            if modulated:
                multiply(mod1 - mod0, run.weights.modulated, block, H)
                cuda.syncthreads()
                for c in range(thread, rows * H, threads):
                    r, j = c // H, c % H
                    nothing(da)
                    if n < length[r]:
                        add_modulated(n, r, j, da, block, run, back)
                        clip(da, limit, cut)
                        write(n, r, j, da, block, run, flow, back)
                    give(r, j, rec0, rec1, da, memory, H)
                cuda.syncthreads()
            if recurrent:
                multiply(rec1 - rec0, run.weights.recurrent, block, H)
                cuda.syncthreads()
        for c in range(thread, rows * H, threads):
            r, j = c // H, c % H
            if r < behind:
                for i in range(S):
                    dstate[((member * S + i) * B + b[r]) * H + j] = memory[(i * rows + r) * H + j]
                if recurrent:
                    dstate[(member * S * B + b[r]) * H + j] += product_of(rec1 - rec0, r, j, block, run)
        for i in range(3):
            back.cut[(cuda.blockIdx.x * threads + thread) * 3 + i] = cut[i]

    return backward

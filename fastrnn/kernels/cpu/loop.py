"""The time loop of any cell on the CPU, forward and backward.

A work item is (member, slice): one model of an ensemble and a fixed number of batch rows, whatever the thread count. An item runs
the whole time loop with nothing to wait for. Rows stand longest first, so the active rows of a step are a prefix of the slice and
ragged batches cost what their steps cost.

A step is counted in the order of processing: s = 0 is the first step of the forward direction (t = 0) and of the reverse one
(t = length - 1). The tape (`Trace.others`, `.saved`) is indexed by step, `x` and `y` by time.

Time is cut into blocks on a fixed grid, s = 0, block, 2 block, ...: the input product of a block is one large product before its
recurrence, the parameter gradients of a block one large product after it. Kernels fill arrays they are given, scratch included.

Parameter gradients accumulate (`+=`), activation gradients are written (`=`).
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ..._jit import kernel, loop, pointwise
from .._take import PUT, TAKE
from .product import product


class Batch(NamedTuple):
    """What the loop runs over: x (E or 1, T, B, D), order (B,) rows longest first, lengths (B,), mask (E or 1, B or 0, H)."""

    x: np.ndarray
    order: np.ndarray
    lengths: np.ndarray
    mask: np.ndarray


class Span(NamedTuple):
    """Which steps: [begin, end), the step `offset` at which tape and start state begin; blocks of `block` steps, slices of `rows` rows."""

    begin: int
    end: int
    offset: int
    block: int
    rows: int
    reverse: int
    column: int  # where this direction's units begin in y


class Weights(NamedTuple):
    """Packed weights, one row a member: forward or backward operands of `product`, and bias (E, Z), unit (E, P, H)."""

    input: np.ndarray
    recurrent: np.ndarray
    modulated: np.ndarray
    bias: np.ndarray
    unit: np.ndarray


class Trace(NamedTuple):
    """What forward leaves: y (E, T, B, >=H), others (E, steps or 0, B, S - 1, H), saved (..., K, H), preactivations (..., G, H)."""

    y: np.ndarray
    others: np.ndarray
    saved: np.ndarray
    preactivations: np.ndarray


class Sums(NamedTuple):
    """Parameter gradients, one row a (member, slice): input (., D * Zi), recurrent (., H * Zr), modulated, bias (., Z), unit (., P, H)."""

    input: np.ndarray
    recurrent: np.ndarray
    modulated: np.ndarray
    bias: np.ndarray
    unit: np.ndarray
    cut: np.ndarray  # (., 3): entries clipped, sum of what was cut off, sum of magnitudes before


class Flow(NamedTuple):
    """Activation gradients: dy (E, T or 0, B, >=H) read; dx (E, T, B, D) written; dstates, dpreactivations by step, or 0 steps."""

    dy: np.ndarray
    dx: np.ndarray
    dstates: np.ndarray
    dpreactivations: np.ndarray


class Scratch(NamedTuple):
    """Working memory of one task; n rows of a block, R rows of a slice, Z slots' room in a row of pre-activations."""

    x: np.ndarray  # (n, D)
    z: np.ndarray  # (n + 1, Z, H) pre-activations, or their gradients; the last row is only ever read
    s: np.ndarray  # (R, S, H) states, or their gradients
    s_new: np.ndarray  # (R, S, H)
    operand: np.ndarray  # (R, Hp) masked or modulated operand; gradient of an operand
    held: np.ndarray  # (n, H) recurrent operands of a block
    u: np.ndarray  # (n, H) modulated operands of a block
    dx: np.ndarray  # (n, Dp)
    row: np.ndarray  # (3, max(S, P, K), H) one unit row's odds and ends
    unit: np.ndarray  # (P, H)
    block: np.ndarray  # a block's sum of one parameter's gradient
    counts: np.ndarray  # (block,) active rows of each step


class Layout(NamedTuple):
    """How a cell's slots lie in a row of pre-activations: [first, last) slot of each product, and the row's width in units."""

    slots: int
    input: tuple[int, int]
    recurrent: tuple[int, int]
    modulated: tuple[int, int]


def layout(cell) -> Layout:
    """The slots each product fills; they must be contiguous, which the order of `Cell.slots` sees to."""

    def run(chosen):
        places = [k for k, slot in enumerate(cell.slots) if chosen(slot)]
        if places != list(range(places[0], places[-1] + 1)) if places else False:
            raise ValueError(f"slots of cell {cell.name!r}: input-only slots first, then both, recurrent-only, modulated; got {cell.slots}")
        return (places[0], places[-1] + 1) if places else (0, 0)

    return Layout(
        len(cell.slots),
        run(lambda slot: slot.input is not None),
        run(lambda slot: slot.recurrent is not None and not slot.modulated),
        run(lambda slot: slot.modulated),
    )


@pointwise
def active_rows(order, lengths, first, count, step):
    """How many of `count` rows, longest first, still have a step number `step`."""
    while count > 0 and lengths[order[first + count - 1]] <= step:
        count -= 1
    return count


@loop
def copy_row(source, target):
    """target[:] = source[: len(target)]."""
    for j in range(target.shape[0]):
        target[j] = source[j]


@loop
def add_row(source, target):
    for j in range(target.shape[0]):
        target[j] += source[j]


@loop
def clear_row(target):
    for j in range(target.shape[0]):
        target[j] = 0.0


@loop
def scale_row(factor, target):
    for j in range(target.shape[0]):
        target[j] *= factor[j]


@loop
def clip_row(da, limit, cut):
    """Bound every entry of da (Z, H) to [-limit, limit]; cut += (entries clipped, magnitude cut off, magnitude before)."""
    for g in range(da.shape[0]):
        row = da[g]
        for j in range(row.shape[0]):
            size = abs(row[j])
            cut[2] += size
            if size > limit:
                cut[0] += 1.0
                cut[1] += size - limit
                row[j] = limit if row[j] > 0 else -limit


@loop
def add_product(a, M, K, dz, z0, width, block, target):
    """target (M, N) += A^T dz over one block of K rows, summed apart first: short sums added, not one long chain."""
    N = target.shape[0] // M
    part = block[: M * N]
    clear_row(part)
    product(a, 0, 1, M, dz, z0, width, part, 0, N, (M, N, K))
    add_row(part, target)


@loop
def scatter_inputs(dxs, batch, member, first, count, reverse, begin, end, dx):
    """The inverse of `gather_inputs`, from the first columns of dxs."""
    k, active = 0, count
    for s in range(begin, end):
        active = active_rows(batch.order, batch.lengths, first, active, s)
        for r in range(active):
            b = batch.order[first + r]
            copy_row(dxs[k], dx[batch.lengths[b] - 1 - s if reverse else s, b])
            k += 1


@loop
def gather_inputs(batch, member, first, count, reverse, begin, end, xs):
    """Copy the valid rows of steps [begin, end) into xs, step by step; return how many."""
    x, k, active = batch.x[member % batch.x.shape[0]], 0, count
    for s in range(begin, end):
        active = active_rows(batch.order, batch.lengths, first, active, s)
        for r in range(active):
            b = batch.order[first + r]
            copy_row(x[batch.lengths[b] - 1 - s if reverse else s, b], xs[k])
            k += 1
    return k


@cache
def make_forward(cell):
    """The forward kernel of `cell`: fills `trace` and advances `state` (E, S, B, H) over `span`."""
    step, modulate = cell.step, cell.modulate
    G, S = len(cell.slots), len(cell.states)
    take_gates, take_states, take_unit = TAKE[G], TAKE[S], TAKE[len(cell.parameters)]
    put_states, put_saved = PUT[S], PUT[len(cell.saved)]
    (in0, _), (rec0, rec1), (mod0, mod1) = layout(cell)[1:]
    recurrent, modulated = rec1 > rec0, mod1 > mod0

    @loop
    def units(a, s, p, s_new, saved):
        for j in range(s.shape[1]):
            states, kept = step(take_gates(a, j), take_states(s, j), take_unit(p, j))
            put_states(s_new, j, states)
            put_saved(saved, j, kept)

    @loop
    def modulate_units(a, s, p, u):
        for j in range(s.shape[1]):
            u[j] = modulate(take_gates(a, j), take_states(s, j), take_unit(p, j))

    @loop
    def recur(member, first, active, k, batch, weights, scratch):
        """Add the recurrent products of one step to its rows of z, the first of which is row k."""
        s, z, operand = scratch.s, scratch.z, scratch.operand
        H, Hp, width = s.shape[2], operand.shape[1], z.shape[1] * z.shape[2]
        mask = batch.mask[member % batch.mask.shape[0]]
        if recurrent:
            for r in range(active):
                copy_row(s[r, 0], operand[r, :H])
                if mask.shape[0] > 0:
                    scale_row(mask[batch.order[first + r]], operand[r, :H])
            product(operand.reshape(-1), 0, Hp, 1, weights.recurrent[member], 0, 0, z.reshape(-1), k * width + rec0 * H, width,
                    (active, weights.recurrent.shape[1] // H, H))  # fmt: skip
        if modulated:
            for r in range(active):
                modulate_units(z[k + r], s[r], weights.unit[member], operand[r])
                if mask.shape[0] > 0:
                    scale_row(mask[batch.order[first + r]], operand[r, :H])
            product(operand.reshape(-1), 0, Hp, 1, weights.modulated[member], 0, 0, z.reshape(-1), k * width + mod0 * H, width,
                    (active, weights.modulated.shape[1] // H, H))  # fmt: skip

    @loop
    def keep(member, tape, t, b, column, a, s_new, s, trace):
        """One row's new states into the running state, y and the tape."""
        for i in range(S):
            copy_row(s_new[i], s[i])
        copy_row(s_new[0], trace.y[member, t, b, column : column + s.shape[1]])
        if trace.others.shape[1] > 0:
            for i in range(1, S):
                copy_row(s_new[i], trace.others[member, tape, b, i - 1])
        if trace.preactivations.shape[1] > 0:
            for g in range(G):
                copy_row(a[g], trace.preactivations[member, tape, b, g])

    @kernel
    def forward(first_item, last_item, span, batch, weights, trace, state, scratch):
        """Items [first, last) of members * slices. state (E, S, B, H): at span.begin on entry, at span.end on return."""
        order, lengths, H, D = batch.order, batch.lengths, state.shape[3], batch.x.shape[3]
        s, s_new, z, width = scratch.s, scratch.s_new, scratch.z, scratch.z.shape[1] * scratch.z.shape[2]
        slices, recording = (order.shape[0] + span.rows - 1) // span.rows, trace.saved.shape[1] > 0
        for item in range(first_item, last_item):
            member, first = item // slices, (item % slices) * span.rows
            count = min(span.rows, order.shape[0] - first)
            for r in range(count):
                for i in range(S):
                    copy_row(state[member, i, order[first + r]], s[r, i])
            begin = span.begin
            while begin < span.end:
                end = min(span.end, (begin // span.block + 1) * span.block)
                total = gather_inputs(batch, member, first, count, span.reverse, begin, end, scratch.x)
                for k in range(total):
                    copy_row(weights.bias[member], z.reshape(-1)[k * width : (k + 1) * width])
                product(scratch.x.reshape(-1), 0, D, 1, weights.input[member], 0, 0, z.reshape(-1), in0 * H, width,
                        (total, weights.input.shape[1] // D, D))  # fmt: skip
                k, active = 0, count
                for step_number in range(begin, end):
                    active = active_rows(order, lengths, first, active, step_number)
                    recur(member, first, active, k, batch, weights, scratch)
                    tape = step_number - span.offset
                    for r in range(active):
                        b = order[first + r]
                        saved = trace.saved[member, tape, b] if recording else scratch.row[0]
                        units(z[k + r], s[r], weights.unit[member], s_new[r], saved)
                        t = lengths[b] - 1 - step_number if span.reverse else step_number
                        keep(member, tape, t, b, span.column, z[k + r], s_new[r], s[r], trace)
                    k += active
                begin = end
            for r in range(count):
                b = order[first + r]
                for i in range(S):
                    copy_row(s[r, i], state[member, i, b])
                for t in range(max(span.begin, lengths[b]), span.end):  # beyond the end, in both directions
                    clear_row(trace.y[member, t, b, span.column : span.column + H])

    return forward


@cache
def make_backward(cell):
    """The backward kernel of `cell`: adds to `sums`, fills `flow`, takes `dstate` (E, S, B, H) from span.end to span.begin."""
    step_backward, modulate_backward = cell.step_backward, cell.modulate_backward
    G, S, P = len(cell.slots), len(cell.states), len(cell.parameters)
    take_states, take_saved, take_unit = TAKE[S], TAKE[len(cell.saved)], TAKE[P]
    put_gates, put_states, put_unit = PUT[G], PUT[S], PUT[P]
    (in0, in1), (rec0, rec1), (mod0, mod1) = layout(cell)[1:]
    recurrent, modulated = rec1 > rec0, mod1 > mod0

    @loop
    def units(saved, s, s_new, p, ds, da, ds_old, dp):
        for j in range(s.shape[1]):
            gates, states, unit = step_backward(
                take_saved(saved, j), take_states(s, j), take_states(s_new, j), take_unit(p, j), take_states(ds, j)
            )
            put_gates(da, j, gates)
            put_states(ds_old, j, states)
            put_unit(dp, j, unit)

    @loop
    def modulate_units(saved, s, p, du, u, da, ds):
        for j in range(s.shape[1]):
            operand, gates, states = modulate_backward(take_saved(saved, j), take_states(s, j), take_unit(p, j), du[j])
            u[j] = operand
            for g in range(G):
                da[g, j] += gates[g]
            for i in range(S):
                ds[i, j] += states[i]

    @loop
    def load_states(member, b, step_number, span, batch, trace, start, old, new):
        """States before and after a step, from y, the tape, and the start state."""
        H = old.shape[1]
        t = batch.lengths[b] - 1 - step_number if span.reverse else step_number
        copy_row(trace.y[member, t, b, span.column : span.column + H], new[0])
        for i in range(1, S):
            copy_row(trace.others[member, step_number - span.offset, b, i - 1], new[i])
        if step_number > span.offset:
            copy_row(trace.y[member, t + 1 if span.reverse else t - 1, b, span.column : span.column + H], old[0])
            for i in range(1, S):
                copy_row(trace.others[member, step_number - 1 - span.offset, b, i - 1], old[i])
        else:
            for i in range(S):
                copy_row(start[member, i, b], old[i])

    @loop
    def receive(member, b, step_number, span, batch, flow, ds):
        """dL/dy of this step into one row's dL/dstate, which is then complete."""
        if flow.dy.shape[1] > 0:
            t = batch.lengths[b] - 1 - step_number if span.reverse else step_number
            add_row(flow.dy[member, t, b, span.column : span.column + ds.shape[1]], ds[0])
        if flow.dstates.shape[1] > 0:
            for i in range(S):
                copy_row(ds[i], flow.dstates[member, step_number - span.offset, b, i])

    @loop
    def recur(member, first, active, k, step_number, span, batch, weights, trace, start, limit, cut, scratch):
        """Through the recurrent products of one step: completes its rows of dz, and dL/dstate of the step before."""
        s_old, z, operand, row, held, u = scratch.s_new, scratch.z, scratch.operand, scratch.row, scratch.held, scratch.u
        H, Hp, width = s_old.shape[2], operand.shape[1], z.shape[1] * z.shape[2]
        mask = batch.mask[member % batch.mask.shape[0]]
        if modulated:
            clear_row(operand.reshape(-1)[: active * Hp])
            product(z.reshape(-1), k * width + mod0 * H, width, 1, weights.modulated[member], 0, 0, operand.reshape(-1), 0, Hp,
                    (active, Hp, (mod1 - mod0) * H))  # fmt: skip
            for r in range(active):
                b = batch.order[first + r]
                load_states(member, b, step_number, span, batch, trace, start, row[0], row[1])
                if mask.shape[0] > 0:
                    scale_row(mask[b], operand[r, :H])
                saved = trace.saved[member, step_number - span.offset, b]
                modulate_units(saved, row[0], weights.unit[member], operand[r], u[k + r], z[k + r], s_old[r])
                if mask.shape[0] > 0:
                    scale_row(mask[b], u[k + r])
        for r in range(active):
            if limit < np.inf:
                clip_row(z[k + r], limit, cut)
            if mask.shape[0] > 0:
                scale_row(mask[batch.order[first + r]], held[k + r])
        if recurrent:
            clear_row(operand.reshape(-1)[: active * Hp])
            product(z.reshape(-1), k * width + rec0 * H, width, 1, weights.recurrent[member], 0, 0, operand.reshape(-1), 0, Hp,
                    (active, Hp, (rec1 - rec0) * H))  # fmt: skip
            for r in range(active):
                if mask.shape[0] > 0:
                    scale_row(mask[batch.order[first + r]], operand[r, :H])
                add_row(operand[r, :H], s_old[r, 0])

    @loop
    def add_parameters(item, total, scratch, sums):
        """A block's parameter gradients: inputs and operands against dz, each block summed apart before it is added."""
        x, z, held, u, H, D = scratch.x, scratch.z, scratch.held, scratch.u, scratch.z.shape[2], scratch.x.shape[1]
        width = z.shape[1] * H
        add_product(x.reshape(-1), D, total, z.reshape(-1), in0 * H, width, scratch.block, sums.input[item])
        if recurrent:
            add_product(held.reshape(-1), H, total, z.reshape(-1), rec0 * H, width, scratch.block, sums.recurrent[item])
        if modulated:
            add_product(u.reshape(-1), H, total, z.reshape(-1), mod0 * H, width, scratch.block, sums.modulated[item])
        bias = scratch.block[:width]
        clear_row(bias)
        for k in range(total):
            add_row(z.reshape(-1)[k * width : (k + 1) * width], bias)
        add_row(bias, sums.bias[item])
        for i in range(P):
            add_row(scratch.unit[i], sums.unit[item, i])

    @kernel
    def backward(first_item, last_item, span, batch, weights, trace, start, sums, flow, dstate, limit, scratch):
        """Items [first, last). start (E, S, B, H): the state at span.offset; dstate: dL/dstate at span.end, then at span.begin."""
        order, H, D, Dp = batch.order, dstate.shape[3], batch.x.shape[3], scratch.dx.shape[1]
        ds, ds_old, z, row, counts = scratch.s, scratch.s_new, scratch.z, scratch.row, scratch.counts
        slices, width = (order.shape[0] + span.rows - 1) // span.rows, z.shape[1] * z.shape[2]
        for item in range(first_item, last_item):
            member, first = item // slices, (item % slices) * span.rows
            count = min(span.rows, order.shape[0] - first)
            for r in range(count):
                for i in range(S):
                    copy_row(dstate[member, i, order[first + r]], ds[r, i])
            end = span.end
            while end > span.begin:
                begin = max(span.begin, (end - 1) // span.block * span.block)
                total, active = gather_inputs(batch, member, first, count, span.reverse, begin, end, scratch.x), count
                for step_number in range(begin, end):
                    active = active_rows(order, batch.lengths, first, active, step_number)
                    counts[step_number - begin] = active
                for i in range(P):
                    clear_row(scratch.unit[i])
                k = total
                for step_number in range(end - 1, begin - 1, -1):
                    active = counts[step_number - begin]
                    k -= active
                    for r in range(active):
                        b = order[first + r]
                        receive(member, b, step_number, span, batch, flow, ds[r])
                        load_states(member, b, step_number, span, batch, trace, start, row[0], row[1])
                        saved = trace.saved[member, step_number - span.offset, b]
                        units(saved, row[0], row[1], weights.unit[member], ds[r], z[k + r], ds_old[r], row[2])
                        for i in range(P):
                            add_row(row[2, i], scratch.unit[i])
                        copy_row(row[0, 0], scratch.held[k + r])
                    recur(member, first, active, k, step_number, span, batch, weights, trace, start, limit, sums.cut[item], scratch)
                    for r in range(active):
                        for i in range(S):
                            copy_row(ds_old[r, i], ds[r, i])
                        if flow.dpreactivations.shape[1] > 0:
                            for g in range(G):
                                copy_row(z[k + r, g], flow.dpreactivations[member, step_number - span.offset, order[first + r], g])
                add_parameters(item, total, scratch, sums)
                if flow.dx.shape[1] > 0:
                    clear_row(scratch.dx.reshape(-1)[: total * Dp])
                    product(z.reshape(-1), in0 * H, width, 1, weights.input[member], 0, 0, scratch.dx.reshape(-1), 0, Dp,
                            (total, Dp, (in1 - in0) * H))  # fmt: skip
                    scatter_inputs(scratch.dx, batch, member, first, count, span.reverse, begin, end, flow.dx[member])
                end = begin
            for r in range(count):
                for i in range(S):
                    copy_row(ds[r, i], dstate[member, i, order[first + r]])

    return backward

"""The time loop of any cell on the CPU, forward and backward.

A work item is (member, slice): one model of an ensemble and a fixed number of batch rows, whatever the thread count. An item runs
the whole time loop with nothing to wait for. Rows stand longest first, so the active rows of a step are a prefix of the slice and
ragged batches cost what their steps cost.

A step is counted in the order of processing: s = 0 is the first step of the forward direction (t = 0) and of the reverse one
(t = length - 1). The tape (`Trace.others`, `.saved`) is indexed by step, `x` and `y` by time.

Time is cut into blocks on a fixed grid, s = 0, block, 2 block, ...: the input product of a block is one large product before its
recurrence, the parameter gradients of a block one large product after it. Nothing allocates inside the time loop.

Parameter gradients accumulate (`+=`), activation gradients are written (`=`).
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ..._jit import kernel, pointwise
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


@pointwise
def copy_row(source, target):
    for j in range(target.shape[0]):
        target[j] = source[j]


@pointwise
def add_row(source, target):
    for j in range(target.shape[0]):
        target[j] += source[j]


@pointwise
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

    @pointwise
    def units(a, s, p, s_new, saved):
        for j in range(s.shape[1]):
            states, kept = step(take_gates(a, j), take_states(s, j), take_unit(p, j))
            put_states(s_new, j, states)
            put_saved(saved, j, kept)

    @pointwise
    def modulate_units(a, s, p, mask, u):
        for j in range(s.shape[1]):
            u[j] = modulate(take_gates(a, j), take_states(s, j), take_unit(p, j))
        for j in range(mask.shape[0]):
            u[j] *= mask[j]

    @pointwise
    def run_steps(member, first, count, begin, end, span, batch, weights, trace, s, s_new, z, operand, spare):
        """The recurrence over one block whose input products stand in z."""
        H, width = s.shape[2], z.shape[1] * z.shape[2]
        z_flat, s_flat, operand_flat = z.reshape(-1), s.reshape(-1), operand.reshape(-1)
        mask, y, unit = batch.mask[member % batch.mask.shape[0]], trace.y[member], weights.unit[member]
        masked, k, active = mask.shape[0] > 0, 0, count
        for step_number in range(begin, end):
            active = active_rows(batch.order, batch.lengths, first, active, step_number)
            if recurrent:
                if masked:
                    for r in range(active):
                        row, held, scale = operand[r], s[r, 0], mask[batch.order[first + r]]
                        for j in range(row.shape[0]):
                            row[j] = held[j] * scale[j]
                    product(operand_flat, 0, H, 1, weights.recurrent[member], 0, 0, z_flat, k * width + rec0 * H, width,
                            (active, weights.recurrent.shape[1] // H, H))  # fmt: skip
                else:
                    product(s_flat, 0, s.shape[1] * H, 1, weights.recurrent[member], 0, 0, z_flat, k * width + rec0 * H, width,
                            (active, weights.recurrent.shape[1] // H, H))  # fmt: skip
            if modulated:
                for r in range(active):
                    modulate_units(z[k + r], s[r], unit, mask[batch.order[first + r]] if masked else spare[0, 0, :0], operand[r])
                product(operand_flat, 0, H, 1, weights.modulated[member], 0, 0, z_flat, k * width + mod0 * H, width,
                        (active, weights.modulated.shape[1] // H, H))  # fmt: skip
            tape = step_number - span.offset
            for r in range(active):
                b = batch.order[first + r]
                if trace.saved.shape[1] > 0:
                    units(z[k + r], s[r], unit, s_new[r], trace.saved[member, tape, b])
                else:
                    units(z[k + r], s[r], unit, s_new[r], spare[0])
                for i in range(S):
                    copy_row(s_new[r, i], s[r, i])
                    if i > 0 and trace.others.shape[1] > 0:
                        copy_row(s_new[r, i], trace.others[member, tape, b, i - 1])
                t = batch.lengths[b] - 1 - step_number if span.reverse else step_number
                copy_row(s_new[r, 0], y[t, b, span.column : span.column + H])
                if trace.preactivations.shape[1] > 0:
                    for g in range(G):
                        copy_row(z[k + r, g], trace.preactivations[member, tape, b, g])
            k += active

    @kernel
    def forward(first_item, last_item, span, batch, weights, trace, state):
        """Items [first, last) of members * slices. state (E, S, B, H): at span.begin on entry, at span.end on return."""
        B, H, D = batch.order.shape[0], state.shape[3], batch.x.shape[3]
        slices = (B + span.rows - 1) // span.rows
        Z = weights.bias.shape[1] // H
        room = min(span.block, span.end - span.begin) * min(span.rows, B)
        xs, z = np.empty((room, D), state.dtype), np.empty((room, Z, H), state.dtype)
        s, s_new = np.empty((span.rows, S, H), state.dtype), np.empty((span.rows, S, H), state.dtype)
        operand = np.empty((span.rows, H), state.dtype)
        spare = np.empty((1, max(1, trace.saved.shape[3]), H), state.dtype)
        xs_flat, z_flat = xs.reshape(-1), z.reshape(-1)
        for item in range(first_item, last_item):
            member, first = item // slices, (item % slices) * span.rows
            count = min(span.rows, B - first)
            for r in range(count):
                for i in range(S):
                    copy_row(state[member, i, batch.order[first + r]], s[r, i])
            begin = span.begin
            while begin < span.end:
                end = min(span.end, (begin // span.block + 1) * span.block)
                k = gather_inputs(batch, member, first, count, span.reverse, begin, end, xs)
                for row in range(k):
                    copy_row(weights.bias[member], z_flat[row * Z * H : (row + 1) * Z * H])
                product(xs_flat, 0, D, 1, weights.input[member], 0, 0, z_flat, in0 * H, Z * H,
                        (k, weights.input.shape[1] // max(D, 1), D))  # fmt: skip
                run_steps(member, first, count, begin, end, span, batch, weights, trace, s, s_new, z, operand, spare)
                begin = end
            for r in range(count):
                b = batch.order[first + r]
                for i in range(S):
                    copy_row(s[r, i], state[member, i, b])
                for t in range(max(span.begin, batch.lengths[b]), span.end):  # beyond the end, in both directions
                    trace.y[member, t, b, span.column : span.column + H] = 0.0

    return forward


@cache
def make_backward(cell):
    """The backward kernel of `cell`: adds to `sums`, fills `flow`, takes `dstate` (E, S, B, H) from span.end to span.begin."""
    step_backward, modulate_backward = cell.step_backward, cell.modulate_backward
    G, S, P = len(cell.slots), len(cell.states), len(cell.parameters)
    take_states, take_saved, take_unit = TAKE[S], TAKE[len(cell.saved)], TAKE[P]
    take_gates, put_gates, put_states, put_unit = TAKE[G], PUT[G], PUT[S], PUT[P]
    (in0, in1), (rec0, rec1), (mod0, mod1) = layout(cell)[1:]
    recurrent, modulated = rec1 > rec0, mod1 > mod0

    @pointwise
    def units(saved, s, s_new, p, ds, da, ds_old, dp):
        for j in range(s.shape[1]):
            gates, states, unit = step_backward(
                take_saved(saved, j), take_states(s, j), take_states(s_new, j), take_unit(p, j), take_states(ds, j)
            )
            put_gates(da, j, gates)
            put_states(ds_old, j, states)
            put_unit(dp, j, unit)

    @pointwise
    def modulate_units(saved, s, p, mask, du, u, da, ds):
        for j in range(mask.shape[0]):
            du[j] *= mask[j]
        for j in range(s.shape[1]):
            operand, gates, states = modulate_backward(take_saved(saved, j), take_states(s, j), take_unit(p, j), du[j])
            u[j] = operand
            for g in range(G):
                da[g, j] += gates[g]
            for i in range(S):
                ds[i, j] += states[i]
        for j in range(mask.shape[0]):
            u[j] *= mask[j]

    @pointwise
    def clip_row(da, limit, cut):
        for g in range(G):
            row = da[g]
            for j in range(row.shape[0]):
                size = abs(row[j])
                cut[2] += size
                if size > limit:
                    cut[0] += 1.0
                    cut[1] += size - limit
                    row[j] = limit if row[j] > 0 else -limit

    @pointwise
    def load_states(member, b, step_number, span, batch, trace, start, old, new):
        """States before and after a step, from y, the tape, and the start state."""
        H = old.shape[1]
        columns = slice(span.column, span.column + H)
        t = batch.lengths[b] - 1 - step_number if span.reverse else step_number
        copy_row(trace.y[member, t, b, columns], new[0])
        for i in range(1, S):
            copy_row(trace.others[member, step_number - span.offset, b, i - 1], new[i])
        if step_number > span.offset:
            copy_row(trace.y[member, t + 1 if span.reverse else t - 1, b, columns], old[0])
            for i in range(1, S):
                copy_row(trace.others[member, step_number - 1 - span.offset, b, i - 1], old[i])
        else:
            for i in range(S):
                copy_row(start[member, i, b], old[i])

    @pointwise
    def run_steps(member, first, counts, begin, end, total, span, batch, weights, trace, start, flow, limit, cut,
                  ds, ds_old, dz, held, u, du, dunit):  # fmt: skip
        """The recurrence of one block, last step first. Leaves dz, the held operands and u for the block's products."""
        H, width = ds.shape[2], dz.shape[1] * dz.shape[2]
        dz_flat, ds_flat, du_flat = dz.reshape(-1), ds_old.reshape(-1), du.reshape(-1)
        mask, unit = batch.mask[member % batch.mask.shape[0]], weights.unit[member]
        masked, k = mask.shape[0] > 0, total
        old, new, dp = np.empty((S, H), ds.dtype), np.empty((S, H), ds.dtype), np.empty((P, H), ds.dtype)
        for step_number in range(end - 1, begin - 1, -1):
            active, tape = counts[step_number - begin], step_number - span.offset
            k -= active
            for r in range(active):
                b = batch.order[first + r]
                if flow.dy.shape[1] > 0:
                    t = batch.lengths[b] - 1 - step_number if span.reverse else step_number
                    add_row(flow.dy[member, t, b, span.column : span.column + H], ds[r, 0])
                if flow.dstates.shape[1] > 0:
                    for i in range(S):
                        copy_row(ds[r, i], flow.dstates[member, tape, b, i])
                load_states(member, b, step_number, span, batch, trace, start, old, new)
                units(trace.saved[member, tape, b], old, new, unit, ds[r], dz[k + r], ds_old[r], dp)
                for i in range(P):
                    add_row(dp[i], dunit[i])
                copy_row(old[0], held[k + r])
                if masked:
                    row, scale = held[k + r], mask[b]
                    for j in range(row.shape[0]):
                        row[j] *= scale[j]
                if not modulated and limit < np.inf:
                    clip_row(dz[k + r], limit, cut)
            if modulated:
                du[:active] = 0.0
                product(dz_flat, k * width + mod0 * H, width, 1, weights.modulated[member], 0, 0, du_flat, 0, du.shape[1],
                        (active, du.shape[1], (mod1 - mod0) * H))  # fmt: skip
                for r in range(active):
                    b = batch.order[first + r]
                    load_states(member, b, step_number, span, batch, trace, start, old, new)
                    modulate_units(trace.saved[member, tape, b], old, unit, mask[b] if masked else held[0, :0], du[r, :H],
                                   u[k + r], dz[k + r], ds_old[r])  # fmt: skip
                    if limit < np.inf:
                        clip_row(dz[k + r], limit, cut)
            if recurrent:
                if masked:
                    du[:active] = 0.0
                    product(dz_flat, k * width + rec0 * H, width, 1, weights.recurrent[member], 0, 0, du_flat, 0, du.shape[1],
                            (active, du.shape[1], (rec1 - rec0) * H))  # fmt: skip
                    for r in range(active):
                        row, flow_in, scale = ds_old[r, 0], du[r], mask[batch.order[first + r]]
                        for j in range(row.shape[0]):
                            row[j] += flow_in[j] * scale[j]
                else:
                    product(dz_flat, k * width + rec0 * H, width, 1, weights.recurrent[member], 0, 0, ds_flat, 0,
                            ds_old.shape[1] * H, (active, du.shape[1], (rec1 - rec0) * H))  # fmt: skip
            for r in range(active):
                for i in range(S):
                    copy_row(ds_old[r, i], ds[r, i])
                if flow.dpreactivations.shape[1] > 0:
                    for g in range(G):
                        copy_row(dz[k + r, g], flow.dpreactivations[member, tape, batch.order[first + r], g])

    @pointwise
    def add_product(a, a0, width, M, K, dz_flat, z0, Z, block, target):
        """target += A^T dz over one block, summed apart first: short sums added, not one long chain."""
        if M > 0:
            N = target.shape[0] // M
            part = block[: M * N]
            part[:] = 0.0
            product(a, a0, 1, width, dz_flat, z0, Z, part, 0, N, (M, N, K))
            add_row(part, target)

    @pointwise
    def scatter_inputs(dxs, batch, member, first, count, reverse, begin, end, dx):
        k, active = 0, count
        for s in range(begin, end):
            active = active_rows(batch.order, batch.lengths, first, active, s)
            for r in range(active):
                b = batch.order[first + r]
                copy_row(dxs[k], dx[batch.lengths[b] - 1 - s if reverse else s, b])
                k += 1

    @kernel
    def backward(first_item, last_item, span, batch, weights, trace, start, sums, flow, dstate, limit):
        """Items [first, last). start (E, S, B, H): the state at span.offset; dstate: dL/dstate at span.end, then at span.begin."""
        B, H, D = batch.order.shape[0], dstate.shape[3], batch.x.shape[3]
        slices = (B + span.rows - 1) // span.rows
        Z = sums.bias.shape[1]
        room, dtype = min(span.block, span.end - span.begin) * min(span.rows, B), dstate.dtype
        D_width = weights.input.shape[1] // ((in1 - in0) * H)
        H_width = (weights.recurrent.shape[1] // ((rec1 - rec0) * H)) if recurrent else H
        S_width = max(S, (H_width + H - 1) // H)
        xs, dxs, dz = np.empty((room, D), dtype), np.empty((room, D_width), dtype), np.zeros((room + 1, Z // H, H), dtype)
        held, u, du = np.empty((room, H), dtype), np.empty((room if modulated else 0, H), dtype), np.empty((span.rows, H_width), dtype)
        ds, ds_old = np.empty((span.rows, S_width, H), dtype), np.zeros((span.rows, S_width, H), dtype)
        block_sum = np.empty(max(sums.input.shape[1], sums.recurrent.shape[1], sums.modulated.shape[1]), dtype)
        dunit, counts = np.empty((P, H), dtype), np.empty(span.block, np.int64)
        bias_sum = np.empty(Z, dtype)
        xs_flat, dxs_flat, dz_flat, held_flat, u_flat = xs.reshape(-1), dxs.reshape(-1), dz.reshape(-1), held.reshape(-1), u.reshape(-1)
        for item in range(first_item, last_item):
            member, first = item // slices, (item % slices) * span.rows
            count = min(span.rows, B - first)
            for r in range(count):
                for i in range(S):
                    copy_row(dstate[member, i, batch.order[first + r]], ds[r, i])
            end = span.end
            while end > span.begin:
                begin = max(span.begin, (end - 1) // span.block * span.block)
                total, active = 0, count
                for s in range(begin, end):
                    active = active_rows(batch.order, batch.lengths, first, active, s)
                    counts[s - begin] = active
                    total += active
                dunit[:] = 0.0
                run_steps(member, first, counts, begin, end, total, span, batch, weights, trace, start, flow, limit,
                          sums.cut[item], ds, ds_old, dz, held, u, du, dunit)  # fmt: skip
                gather_inputs(batch, member, first, count, span.reverse, begin, end, xs)
                add_product(xs_flat, 0, D, D, total, dz_flat, in0 * H, Z, block_sum, sums.input[item])
                if recurrent:
                    add_product(held_flat, 0, H, H, total, dz_flat, rec0 * H, Z, block_sum, sums.recurrent[item])
                if modulated:
                    add_product(u_flat, 0, H, H, total, dz_flat, mod0 * H, Z, block_sum, sums.modulated[item])
                bias_sum[:] = 0.0
                for row in range(total):
                    add_row(dz_flat[row * Z : (row + 1) * Z], bias_sum)
                add_row(bias_sum, sums.bias[item])
                for i in range(P):
                    add_row(dunit[i], sums.unit[item, i])
                if flow.dx.shape[1] > 0:
                    dxs[:total] = 0.0
                    product(dz_flat, in0 * H, Z, 1, weights.input[member], 0, 0, dxs_flat, 0, D_width, (total, D_width, (in1 - in0) * H))
                    scatter_inputs(dxs, batch, member, first, count, span.reverse, begin, end, flow.dx[member])
                end = begin
            for r in range(count):
                b = batch.order[first + r]
                for i in range(S):
                    copy_row(ds[r, i], dstate[member, i, b])
                for t in range(max(span.begin, batch.lengths[b]), span.end):
                    if flow.dx.shape[1] > 0:
                        flow.dx[member, t, b] = 0.0

    return backward

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

from ..._jit import full_vectors, kernel, loop, pointwise
from ..._team import LED, THREADS, enter, next_item
from .._loop import layout
from .._take import PUT, TAKE
from .product import team_product, team_product_transposed
from .rows import add_row, clear_row, copy_row, fill_rows, move, scale_row


class Span(NamedTuple):
    """Which steps: [begin, end), the step `offset` at which tape and start state begin; blocks of `block` steps, slices of `rows` rows."""

    begin: int
    end: int
    offset: int
    block: int
    rows: int
    reverse: int
    column: int  # where this direction's units begin in y
    item: int  # the first work item,
    who: int  # and the thread of the first one, where a kernel within a kernel runs them


class Weights(NamedTuple):
    """Packed weights, one row a member: forward or backward operands of `product`, and bias (E, Z), unit (E, P, H)."""

    input: np.ndarray
    recurrent: np.ndarray
    modulated: np.ndarray
    bias: np.ndarray
    unit: np.ndarray


class Sums(NamedTuple):
    """Parameter gradients, one row a (member, slice): input (., D * Zi), recurrent (., H * Zr), modulated, bias (., Z), unit (., P, H)."""

    input: np.ndarray
    recurrent: np.ndarray
    modulated: np.ndarray
    bias: np.ndarray
    unit: np.ndarray
    cut: np.ndarray  # (., 3): entries clipped, sum of what was cut off, sum of magnitudes before


class Scratch(NamedTuple):
    """Working memory of one thread; n rows of a block, R rows of a slice, Z slots' room in a row of pre-activations.

    Kernels are given that of all threads, with an axis before the others (but `team`).
    """

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
    panel: np.ndarray  # one panel of a block's pre-activation gradients; a block's sum of the biases' gradient
    counts: np.ndarray  # (block,) active rows of each step
    team: np.ndarray  # who shares the work within an item: the thread that runs it alone, or where items are few and large all


@loop
def of_thread(scratch, who):
    """The working memory of one thread; but `panel` of all that may share its work."""
    x, z, s, s_new, operand, held, u, dx, row, unit, panel, counts, team = scratch
    return Scratch(
        x[who], z[who], s[who], s_new[who], operand[who], held[who], u[who], dx[who], row[who], unit[who], panel, counts[who], team
    )


@pointwise
def active_rows(order, lengths, first, count, step):
    """How many of `count` rows, longest first, still have a step number `step`."""
    while count > 0 and lengths[order[first + count - 1]] <= step:
        count -= 1
    return count


@loop
def pull_row(goal, a, t, b, h):
    """h = (1 - a) h + a goal of step t."""
    row, keep = goal[t, b], type(a)(1.0) - a
    for j in range(h.shape[0]):
        h[j] = keep * h[j] + a * row[j]


@loop
def clip_row(da, limit, cut):
    """Bound every entry of da (Z, H) to [-limit, limit]; cut += (entries clipped, magnitude cut off, magnitude before)."""
    entries, off, total = 0.0, 0.0, 0.0  # summed here: other threads write beside `cut`
    for g in range(da.shape[0]):
        row = da[g]
        for j in range(row.shape[0]):
            size = abs(row[j])
            total += size
            if size > limit:
                entries += 1.0
                off += size - limit
                row[j] = limit if row[j] > 0 else -limit
    cut[0] += entries
    cut[1] += off
    cut[2] += total


@loop
def gather_inputs(x, order, lengths, first, count, reverse, begin, end, xs):
    """Copy the valid rows of steps [begin, end) of x (T, B, D) into xs, step by step; return how many."""
    k, active = 0, count
    for s in range(begin, end):
        active = active_rows(order, lengths, first, active, s)
        for r in range(active):
            b = order[first + r]
            copy_row(x[lengths[b] - 1 - s if reverse else s, b], xs[k])
            k += 1
    return k


@loop
def scatter_inputs(dxs, order, lengths, first, count, reverse, begin, end, dx):
    """The inverse of `gather_inputs`, from the first columns of dxs."""
    k, active = 0, count
    for s in range(begin, end):
        active = active_rows(order, lengths, first, active, s)
        for r in range(active):
            b = order[first + r]
            copy_row(dxs[k], dx[lengths[b] - 1 - s if reverse else s, b])
            k += 1


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
        full_vectors()
        for j in range(s.shape[1]):
            states, kept = step(take_gates(a, j), take_states(s, j), take_unit(p, j))
            put_states(s_new, j, states)
            put_saved(saved, j, kept)

    @loop
    def modulate_units(a, h, p, u):
        for j in range(h.shape[0]):
            u[j] = modulate(take_gates(a, j), h[j], take_unit(p, j))

    @loop
    def prepare(s, order, first, active, mask, operand):
        """The operand of the recurrent product where there is a mask: h, masked."""
        for r in range(active):
            copy_row(s[r, 0], operand[r, : s.shape[2]])
            scale_row(mask[order[first + r]], operand[r, : s.shape[2]])

    @loop
    def prepare_modulated(z, s, unit, order, first, active, k, mask, operand):
        """The operand of the second recurrent product, from slots that are complete."""
        for r in range(active):
            modulate_units(z[k + r], s[r, 0], unit, operand[r])
            if mask.shape[0] > 0:
                scale_row(mask[order[first + r]], operand[r, : s.shape[2]])

    @loop
    def keep(a, s_new, s, y, others, preactivations, tape, t, b):
        """One row's new states into the running state, y and the tape."""
        full_vectors()
        for i in range(S):
            move(s_new[i], s[i])
        move(s_new[0], y)
        if others.shape[0] > 0:
            for i in range(1, S):
                move(s_new[i], others[tape, b, i - 1])
        if preactivations.shape[0] > 0:
            for g in range(G):
                move(a[g], preactivations[tape, b, g])

    @kernel
    def forward(team, count, span, batch, weights, trace, state, scratch):
        """An item is member * slices + slice. state (E, S, B, H): at span.begin on entry, at span.end on return."""
        role = enter(team, count)
        if role == LED:
            return
        # unpacked once: every attribute of a tuple of arrays costs the compiler a copy of all of them
        span_begin, span_end, offset, block, rows, reverse, column, span_item, who = span
        thread = who + max(role, 0)
        x, orders, lengths_of, mask, goal, alpha = batch
        w_input, w_recurrent, w_modulated, bias, unit = weights
        xs, z, s, s_new, operand, _, _, _, row, _, _, _, inner = of_thread(scratch, thread)
        y, others, saved, preactivations = trace
        B, H, D, Hp, width = orders.shape[1], s.shape[2], x.shape[3], operand.shape[1], z.shape[1] * z.shape[2]
        xs_flat, z_flat, s_flat, operand_flat = xs.reshape(-1), z.reshape(-1), s.reshape(-1), operand.reshape(-1)
        slices, parts = (B + rows - 1) // rows, inner[THREADS]
        k_run, item = next_item(team, count, role, 0, -1)
        while item >= 0:
            number = span_item + item
            member, first = number // slices, (number % slices) * rows
            order, lengths = orders[member % orders.shape[0]], lengths_of[member % lengths_of.shape[0]]
            height, mask_e, unit_e = min(rows, B - first), mask[member % mask.shape[0]], unit[member]
            x_e, y_e, others_e, saved_e = x[member % x.shape[0]], y[member], others[member], saved[member]
            preactivations_e, goal_e = preactivations[member], goal[member % goal.shape[0]]
            for r in range(height):
                for i in range(S):
                    copy_row(state[member, i, order[first + r]], s[r, i])
            begin = span_begin
            while begin < span_end:
                end = min(span_end, (begin // block + 1) * block)
                total = gather_inputs(x_e, order, lengths, first, height, reverse, begin, end, xs)
                fill_rows(bias[member], z_flat[: total * width], width)
                team_product(inner, parts, xs_flat, 0, D, 1, w_input[member], 0, z_flat, in0 * H, width, (total, w_input.shape[1] // D, D))
                k, active = 0, height
                for step_number in range(begin, end):
                    active = active_rows(order, lengths, first, active, step_number)
                    if recurrent:
                        if mask_e.shape[0] > 0:
                            prepare(s, order, first, active, mask_e, operand)
                        masked, a_row = (operand_flat, Hp) if mask_e.shape[0] > 0 else (s_flat, S * H)
                        team_product(inner, parts, masked, 0, a_row, 1, w_recurrent[member], 0, z_flat, k * width + rec0 * H, width,
                                     (active, w_recurrent.shape[1] // H, H))  # fmt: skip
                    if modulated:
                        prepare_modulated(z, s, unit_e, order, first, active, k, mask_e, operand)
                        team_product(inner, parts, operand_flat, 0, Hp, 1, w_modulated[member], 0, z_flat, k * width + mod0 * H, width,
                                (active, w_modulated.shape[1] // H, H))  # fmt: skip
                    tape = step_number - offset
                    for r in range(active):
                        b = order[first + r]
                        t = lengths[b] - 1 - step_number if reverse else step_number
                        units(z[k + r], s[r], unit_e, s_new[r], saved_e[tape, b] if saved_e.shape[0] > 0 else row[0])
                        keep(z[k + r], s_new[r], s[r], y_e[t, b, column : column + H], others_e, preactivations_e, tape, t, b)
                        if alpha.shape[0] > 0:
                            pull_row(goal_e, alpha[t], t, b, s[r, 0])
                    k += active
                begin = end
            for r in range(height):
                b = order[first + r]
                for i in range(S):
                    copy_row(s[r, i], state[member, i, b])
                for t in range(max(span_begin, lengths[b]), span_end):  # beyond the end, in both directions
                    clear_row(y_e[t, b, column : column + H])
            k_run, item = next_item(team, count, role, k_run, item)

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
        full_vectors()
        for j in range(s.shape[1]):
            gates, states, unit = step_backward(
                take_saved(saved, j), take_states(s, j), take_states(s_new, j), take_unit(p, j), take_states(ds, j)
            )
            put_gates(da, j, gates)
            put_states(ds_old, j, states)
            put_unit(dp, j, unit)

    @loop
    def modulate_units(saved, h, p, du, u, da, ds):
        for j in range(h.shape[0]):
            operand, gates, states = modulate_backward(take_saved(saved, j), h[j], take_unit(p, j), du[j])
            u[j] = operand
            for g in range(G):
                da[g, j] += gates[g]
            for i in range(S):
                ds[i, j] += states[i]

    @loop
    def load_states(y, others, start, goal, alpha, column, offset, reverse, step_number, t, b, old, new):
        """States before and after a step, from y, the tape, and the start state (S, B, H)."""
        full_vectors()
        H, tape = old.shape[1], step_number - offset
        move(y[t, b, column : column + H], new[0])
        for i in range(1, S):
            move(others[tape, b, i - 1], new[i])
        if step_number > offset:
            move(y[t + 1 if reverse else t - 1, b, column : column + H], old[0])
            if alpha.shape[0] > 0:
                pull_row(goal, alpha[t - 1], t - 1, b, old[0])
            for i in range(1, S):
                move(others[tape - 1, b, i - 1], old[i])
        else:
            for i in range(S):
                move(start[i, b], old[i])

    @loop
    def receive(dy, dstates, alpha, column, tape, t, b, ds):
        """dL/dy of this step into one row's dL/dstate, which is then complete."""
        if alpha.shape[0] > 0:
            keep, dh = type(alpha[t])(1.0) - alpha[t], ds[0]
            for j in range(dh.shape[0]):
                dh[j] = keep * dh[j]
        if dy.shape[0] > 0:
            add_row(dy[t, b, column : column + ds.shape[1]], ds[0])
        if dstates.shape[0] > 0:
            for i in range(S):
                move(ds[i], dstates[tape, b, i])

    @loop
    def finish(z, held, order, first, active, k, mask, limit, cut):
        """Clip the rows of dz of one step, and mask the operands they will be multiplied with."""
        for r in range(active):
            if limit < np.inf:
                clip_row(z[k + r], limit, cut)
            if mask.shape[0] > 0:
                scale_row(mask[order[first + r]], held[k + r])

    @loop
    def pass_on(operand, ds_old, ds, z, dpreactivations, order, first, active, k, mask, tape):
        """dL/dstate of the step before, from the recurrent product and the direct part, becomes the running one."""
        for r in range(active):
            if recurrent:
                if mask.shape[0] > 0:
                    scale_row(mask[order[first + r]], operand[r, : ds.shape[2]])
                add_row(operand[r, : ds.shape[2]], ds_old[r, 0])
            for i in range(S):
                copy_row(ds_old[r, i], ds[r, i])
            if dpreactivations.shape[0] > 0:
                for g in range(G):
                    copy_row(z[k + r, g], dpreactivations[tape, order[first + r], g])

    @loop
    def add_vectors(z_flat, total, width, panel, dunit, bias_sum, unit_sum):
        """A block's gradients of the biases and of the unit parameters."""
        bias = panel[:width]
        clear_row(bias)
        for k in range(total):
            add_row(z_flat[k * width : (k + 1) * width], bias)
        add_row(bias, bias_sum)
        for i in range(P):
            add_row(dunit[i], unit_sum[i])

    @kernel
    def backward(team, count, span, batch, weights, trace, start, sums, flow, dstate, limit, scratch):
        """start (E, S, B, H): the state at span.offset; dstate (E, S, B, H): dL/dstate at span.end, then at span.begin."""
        role = enter(team, count)
        if role == LED:
            return
        span_begin, span_end, offset, block, rows, reverse, column, span_item, who = span
        thread = who + max(role, 0)
        x, orders, lengths_of, mask, goal, alpha = batch
        w_input, w_recurrent, w_modulated, _, unit = weights
        xs, z, ds, ds_old, operand, held, u, dxs, row, dunit, panel, counts, inner = of_thread(scratch, thread)
        y, others, saved, _ = trace
        dy, dx, dstates, dpreactivations = flow
        B, H, D, Hp, Dp, width = orders.shape[1], ds.shape[2], x.shape[3], operand.shape[1], dxs.shape[1], z.shape[1] * z.shape[2]
        xs_flat, z_flat, operand_flat, held_flat, u_flat, dxs_flat = (
            xs.reshape(-1), z.reshape(-1), operand.reshape(-1), held.reshape(-1), u.reshape(-1), dxs.reshape(-1)
        )  # fmt: skip
        slices, parts = (B + rows - 1) // rows, inner[THREADS]
        k_run, item = next_item(team, count, role, 0, -1)
        while item >= 0:
            number = span_item + item
            member, first = number // slices, (number % slices) * rows
            order, lengths = orders[member % orders.shape[0]], lengths_of[member % lengths_of.shape[0]]
            height, mask_e, unit_e, start_e = min(rows, B - first), mask[member % mask.shape[0]], unit[member], start[member]
            x_e, y_e, others_e, saved_e = x[member % x.shape[0]], y[member], others[member], saved[member]
            dy_e, dx_e, dstates_e, dpreactivations_e = dy[member], dx[member], dstates[member], dpreactivations[member]
            goal_e = goal[member % goal.shape[0]]
            for r in range(height):
                for i in range(S):
                    copy_row(dstate[member, i, order[first + r]], ds[r, i])
            end = span_end
            while end > span_begin:
                begin = max(span_begin, (end - 1) // block * block)
                total, active = gather_inputs(x_e, order, lengths, first, height, reverse, begin, end, xs), height
                for step_number in range(begin, end):
                    active = active_rows(order, lengths, first, active, step_number)
                    counts[step_number - begin] = active
                for i in range(P):
                    clear_row(dunit[i])
                k = total
                for step_number in range(end - 1, begin - 1, -1):
                    active, tape = counts[step_number - begin], step_number - offset
                    k -= active
                    for r in range(active):
                        b = order[first + r]
                        t = lengths[b] - 1 - step_number if reverse else step_number
                        receive(dy_e, dstates_e, alpha, column, tape, t, b, ds[r])
                        load_states(y_e, others_e, start_e, goal_e, alpha, column, offset, reverse, step_number, t, b, row[0], row[1])
                        units(saved_e[tape, b], row[0], row[1], unit_e, ds[r], z[k + r], ds_old[r], row[2])
                        for i in range(P):
                            add_row(row[2, i], dunit[i])
                        copy_row(row[0, 0], held[k + r])
                    if modulated:
                        clear_row(operand_flat[: active * Hp])
                        team_product(inner, parts, z_flat, k * width + mod0 * H, width, 1, w_modulated[member], 0, operand_flat, 0, Hp,
                                (active, Hp, (mod1 - mod0) * H))  # fmt: skip
                        for r in range(active):
                            b = order[first + r]
                            if mask_e.shape[0] > 0:
                                scale_row(mask_e[b], operand[r, :H])
                            modulate_units(saved_e[tape, b], held[k + r], unit_e, operand[r], u[k + r], z[k + r], ds_old[r])
                            if mask_e.shape[0] > 0:
                                scale_row(mask_e[b], u[k + r])
                    finish(z, held, order, first, active, k, mask_e, limit, sums.cut[number])
                    if recurrent:
                        clear_row(operand_flat[: active * Hp])
                        team_product(inner, parts, z_flat, k * width + rec0 * H, width, 1, w_recurrent[member], 0, operand_flat, 0, Hp,
                                (active, Hp, (rec1 - rec0) * H))  # fmt: skip
                    pass_on(operand, ds_old, ds, z, dpreactivations_e, order, first, active, k, mask_e, tape)
                team_product_transposed(inner, parts, xs_flat, D, z_flat, in0 * H, width, sums.input[number], total, thread, panel)
                if recurrent:
                    team_product_transposed(inner, parts, held_flat, H, z_flat, rec0 * H, width, sums.recurrent[number], total, thread,
                                        panel)  # fmt: skip
                if modulated:
                    team_product_transposed(inner, parts, u_flat, H, z_flat, mod0 * H, width, sums.modulated[number], total, thread, panel)
                add_vectors(z_flat, total, width, panel[thread], dunit, sums.bias[number], sums.unit[number])
                if dx_e.shape[0] > 0:
                    clear_row(dxs_flat[: total * Dp])
                    team_product(inner, parts, z_flat, in0 * H, width, 1, w_input[member], 0, dxs_flat, 0, Dp, (total, Dp, (in1 - in0) * H))
                    scatter_inputs(dxs, order, lengths, first, height, reverse, begin, end, dx_e)
                end = begin
            for r in range(height):
                for i in range(S):
                    copy_row(ds[r, i], dstate[member, i, order[first + r]])
            k_run, item = next_item(team, count, role, k_run, item)

    return backward

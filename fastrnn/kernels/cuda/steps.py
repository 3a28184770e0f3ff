"""What a thread does for one unit of one row at one step: everything but the product, for any cell; see `loop`.

The numbers of a unit are a column of local arrays, (slots, columns) of pre-activations, (states, columns), and so on.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..._jit import pointwise
from .._take import PUT, TAKE
from .loop import half, masked, pulled, time_of, u
from .target import number


class Unit(NamedTuple):
    """Unit j of row b of a member, a sequence of `length` steps; its numbers are in column q."""

    member: int
    b: int
    length: int
    j: int
    q: int


class Rows(NamedTuple):
    """Where a step of a sequence is, as a row of arrays (rows, width): y; the tape; and what has the steps of the launch alone."""

    y: int
    tape: int
    own: int


class Seen(NamedTuple):
    """What backward reads of a step: what the cell saved (K, columns), the states before and after (S, columns), dL/dy (1, columns)."""

    saved: np.ndarray
    old: np.ndarray
    new: np.ndarray
    dy: np.ndarray


class Backward(NamedTuple):
    """The pieces of a step back."""

    look: object
    retreat: object
    clip: object
    write: object


@pointwise
def row_of(n, unit, steps, begin, B):
    """The row of step n of a unit's sequence in an array (E, steps, B, ...) that begins at step `begin`."""
    return half((unit.member * steps + n - begin) * B + unit.b)


@pointwise
def rows_of(n, unit, span):
    y, B = row_of(time_of(n, unit.length, span.reverse), unit, span.T, 0, span.B), span.B
    return Rows(y, row_of(n, unit, span.tape, span.offset, B), row_of(n, unit, span.end - span.begin, span.begin, B))


@pointwise
def moved(rows, steps, span):
    """The rows of a later step, or an earlier one."""
    y = -steps if span.reverse else steps
    return Rows(half(rows.y + y * span.B), half(rows.tape + steps * span.B), half(rows.own + steps * span.B))


@pointwise
def place_in(row, width, within):
    """Where number `within` of a row is."""
    return u(row) * u(half(width)) + u(within)


@pointwise
def place_in_y(row, unit, span):
    return place_in(row, span.width, span.column + unit.j)


@cache
def make_unit_parameters(cell):
    """A function that reads the unit parameters p (P, 1) of a unit."""
    P = len(cell.parameters)

    @pointwise
    def unit_parameters(unit, p, run):
        for i in range(P):
            p[i, 0] = run.weights.unit[u((unit.member * P + i) * run.span.H + unit.j)]

    return unit_parameters


@cache
def make_advance(cell, dtype):
    """The function that takes a unit by a step."""
    step, real = cell.step, number(dtype)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_gates, take_states, take_unit, put_states, put_saved = TAKE[G], TAKE[S], TAKE[P], PUT[S], PUT[K]
    unit_parameters, max_of_p, max_of_k = make_unit_parameters(cell), P or 1, K or 1  # an array of nothing cannot be had

    @pointwise
    def keep(n, unit, rows, a, s, saved, run):
        """What step n leaves in y and on the tape."""
        span, H, q = run.span, run.span.H, unit.q
        run.trace.y[place_in_y(rows.y, unit, span)] = s[0, q]
        if span.tape > 0:
            for i in range(1, S):
                run.trace.others[place_in(rows.tape, (S - 1) * H, (i - 1) * H + unit.j)] = s[i, q]
            for i in range(K):
                run.trace.saved[place_in(rows.tape, K * H, i * H + unit.j)] = saved[i, 0]
        if span.shown > 0:
            row = row_of(n, unit, span.shown, span.offset, span.B)
            for g in range(G):
                run.trace.preactivations[place_in(row, G * H, g * H + unit.j)] = a[g, q]

    @pointwise
    def advance(n, unit, rows, a, s, run):
        """A unit by step n: its states s, from its pre-activations a."""
        p, kept = cuda.local.array((max_of_p, 1), real), cuda.local.array((max_of_k, 1), real)
        unit_parameters(unit, p, run)
        states, saved = step(take_gates(a, unit.q), take_states(s, unit.q), take_unit(p, 0))
        put_states(s, unit.q, states)
        put_saved(kept, 0, saved)
        keep(n, unit, rows, a, s, kept, run)
        t = time_of(n, unit.length, run.span.reverse)
        s[0, unit.q] = pulled(s[0, unit.q], run.batch, run.span, unit.member, t, unit.b, unit.j)

    return advance


@cache
def make_retreat(cell, dtype) -> Backward:
    """The functions that take a unit back by a step; da (G, columns), ds (S, columns)."""
    step_backward, real, modulated = cell.step_backward, number(dtype), any(slot.modulated for slot in cell.slots)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_states, take_saved, take_unit, put_gates, put_states, put_unit = TAKE[S], TAKE[K], TAKE[P], PUT[G], PUT[S], PUT[P]
    unit_parameters, max_of_p = make_unit_parameters(cell), P or 1

    @pointwise
    def look(n, unit, rows, seen, run, start, flow):
        """Read what step n has left, and the state before it, which at the tape's first step is `start`."""
        span, H, q, trace = run.span, run.span.H, unit.q, run.trace
        for i in range(K):
            seen.saved[i, q] = trace.saved[place_in(rows.tape, K * H, i * H + unit.j)]
        seen.new[0, q] = trace.y[place_in_y(rows.y, unit, span)]
        for i in range(1, S):
            seen.new[i, q] = trace.others[place_in(rows.tape, (S - 1) * H, (i - 1) * H + unit.j)]
        if n > span.offset:
            before, behind = moved(rows, -1, span), time_of(n - 1, unit.length, span.reverse)
            h = trace.y[place_in_y(before.y, unit, span)]
            seen.old[0, q] = pulled(h, run.batch, span, unit.member, behind, unit.b, unit.j)
            for i in range(1, S):
                seen.old[i, q] = trace.others[place_in(before.tape, (S - 1) * H, (i - 1) * H + unit.j)]
        else:
            for i in range(S):
                seen.old[i, q] = start[u(((unit.member * S + i) * span.B + unit.b) * H + unit.j)]
        seen.dy[0, q] = flow.dy[place_in_y(rows.y, unit, span)] if flow.dy.shape[0] > 0 else real(0.0)

    @pointwise
    def complete(n, unit, seen, ds, run, flow):
        """Make ds, which has come back through the steps behind, all of dL/dstate after step n."""
        span, q, alpha = run.span, unit.q, run.batch.alpha
        if alpha.shape[0] > 0:
            ds[0, q] = (real(1.0) - alpha[u(time_of(n, unit.length, span.reverse))]) * ds[0, q]
        ds[0, q] += seen.dy[0, q]
        if span.shown > 0:
            row = row_of(n, unit, span.shown, span.offset, span.B)
            for i in range(S):
                flow.dstates[place_in(row, S * span.H, i * span.H + unit.j)] = ds[i, q]

    @pointwise
    def retreat(n, unit, rows, seen, ds, da, run, flow, back):
        """A unit by step n: da, the gradients of its pre-activations, and ds, of its states but for the product."""
        span, q, p, dp = run.span, unit.q, cuda.local.array((max_of_p, 1), real), cuda.local.array((max_of_p, 1), real)
        complete(n, unit, seen, ds, run, flow)
        unit_parameters(unit, p, run)
        gates, states, units = step_backward(
            take_saved(seen.saved, q), take_states(seen.old, q), take_states(seen.new, q), take_unit(p, 0), take_states(ds, q)
        )
        put_gates(da, q, gates)
        put_states(ds, q, states)
        put_unit(dp, 0, units)
        for i in range(P):
            back.dunit[place_in(rows.own, P * span.H, i * span.H + unit.j)] = dp[i, 0]
        h = seen.old[0, q]
        back.held[place_in(rows.own, span.H, unit.j)] = h if modulated else masked(h, run.batch.mask, span, unit.member, unit.b, unit.j)

    @pointwise
    def clip(da, q, limit, cut):
        """da to at most `limit`; in `cut`, what that did."""
        if limit < real(np.inf):
            for g in range(G):
                size = abs(da[g, q])
                cut[2] += size
                if size > limit:
                    cut[0] += real(1.0)
                    cut[1] += size - limit
                    da[g, q] = limit if da[g, q] > real(0.0) else -limit

    @pointwise
    def write(n, unit, rows, da, run, flow, back):
        """The gradients of a unit's pre-activations."""
        span, H = run.span, run.span.H
        for g in range(G):
            back.dz[place_in(rows.own, G * H, g * H + unit.j)] = da[g, unit.q]
        if span.shown > 0:
            shown = row_of(n, unit, span.shown, span.offset, span.B)
            for g in range(G):
                flow.dpreactivations[place_in(shown, G * H, g * H + unit.j)] = da[g, unit.q]

    return Backward(look, retreat, clip, write)

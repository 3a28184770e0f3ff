"""What a thread does for one unit of one row at one step: everything but the product, for any cell; see `loop`.

The numbers of a unit are a column of local arrays, (slots, columns) of pre-activations, (states, columns), and so on.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..._jit import pointwise
from .._take import PUT, TAKE
from .loop import masked, pulled, time_of, u
from .target import number


class Unit(NamedTuple):
    """Unit j of row b of a member, a sequence of `length` steps; its numbers are in column q."""

    member: int
    b: int
    length: int
    j: int
    q: int


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
    """Where step n of a unit's row is in an array (E, steps, B, ...) that begins at step `begin`."""
    return (unit.member * steps + n - begin) * B + unit.b


@pointwise
def place_in_y(t, unit, span):
    """Where a unit is in y (E, T, B, width) at time t."""
    return u(((unit.member * span.T + t) * span.B + unit.b) * span.width + span.column + unit.j)


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
    def keep(n, unit, a, s, saved, run):
        """What step n leaves in y and on the tape."""
        span, H, q = run.span, run.span.H, unit.q
        run.trace.y[place_in_y(time_of(n, unit.length, span.reverse), unit, span)] = s[0, q]
        if span.tape > 0:
            row = row_of(n, unit, span.tape, span.offset, span.B)
            for i in range(1, S):
                run.trace.others[u((row * (S - 1) + i - 1) * H + unit.j)] = s[i, q]
            for i in range(K):
                run.trace.saved[u((row * K + i) * H + unit.j)] = saved[i, 0]
        if span.shown > 0:
            row = row_of(n, unit, span.shown, span.offset, span.B)
            for g in range(G):
                run.trace.preactivations[u((row * G + g) * H + unit.j)] = a[g, q]

    @pointwise
    def advance(n, unit, a, s, run):
        """A unit by step n: its states s, from its pre-activations a."""
        p, kept = cuda.local.array((max_of_p, 1), real), cuda.local.array((max_of_k, 1), real)
        unit_parameters(unit, p, run)
        states, saved = step(take_gates(a, unit.q), take_states(s, unit.q), take_unit(p, 0))
        put_states(s, unit.q, states)
        put_saved(kept, 0, saved)
        keep(n, unit, a, s, kept, run)
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
    def look(n, unit, seen, run, start, flow):
        """Read what step n has left, and the state before it, which at the tape's first step is `start`."""
        span, H, q, trace = run.span, run.span.H, unit.q, run.trace
        row, t = row_of(n, unit, span.tape, span.offset, span.B), time_of(n, unit.length, span.reverse)
        for i in range(K):
            seen.saved[i, q] = trace.saved[u((row * K + i) * H + unit.j)]
        seen.new[0, q] = trace.y[place_in_y(t, unit, span)]
        for i in range(1, S):
            seen.new[i, q] = trace.others[u((row * (S - 1) + i - 1) * H + unit.j)]
        if n > span.offset:
            before = t + 1 if span.reverse else t - 1
            h = trace.y[place_in_y(before, unit, span)]
            seen.old[0, q] = pulled(h, run.batch, span, unit.member, before, unit.b, unit.j)
            for i in range(1, S):
                seen.old[i, q] = trace.others[u(((row - span.B) * (S - 1) + i - 1) * H + unit.j)]
        else:
            for i in range(S):
                seen.old[i, q] = start[u(((unit.member * S + i) * span.B + unit.b) * H + unit.j)]
        seen.dy[0, q] = flow.dy[place_in_y(t, unit, span)] if flow.dy.shape[0] > 0 else real(0.0)

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
                flow.dstates[u((row * S + i) * span.H + unit.j)] = ds[i, q]

    @pointwise
    def retreat(n, unit, seen, ds, da, run, flow, back):
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
        row = row_of(n, unit, span.end - span.begin, span.begin, span.B)
        for i in range(P):
            back.dunit[u((row * P + i) * span.H + unit.j)] = dp[i, 0]
        h = seen.old[0, q]
        back.held[u(row * span.H + unit.j)] = h if modulated else masked(h, run.batch.mask, span, unit.member, unit.b, unit.j)

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
    def write(n, unit, da, run, flow, back):
        """The gradients of a unit's pre-activations."""
        span, H, row = run.span, run.span.H, row_of(n, unit, run.span.end - run.span.begin, run.span.begin, run.span.B)
        for g in range(G):
            back.dz[u((row * G + g) * H + unit.j)] = da[g, unit.q]
        if span.shown > 0:
            shown = row_of(n, unit, span.shown, span.offset, span.B)
            for g in range(G):
                flow.dpreactivations[u((shown * G + g) * H + unit.j)] = da[g, unit.q]

    return Backward(look, retreat, clip, write)

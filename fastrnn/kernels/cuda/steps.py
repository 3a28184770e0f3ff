"""What a thread does for one unit of one row at one step: everything but the product, for any cell; see `loop`.

The numbers of a unit are columns of one number: (slots, 1) of pre-activations, (states, 1), and so on.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..._jit import pointwise
from .._loop import Flow
from .._take import PUT, TAKE
from .loop import Back, Run, half, time_of, u
from .mma import get_if, put_if
from .target import number


class Unit(NamedTuple):
    """Unit j of row b of a member, a sequence of `length` steps; of -1, where there is no such unit, or row."""

    member: int
    b: int
    length: int
    j: int


class Rows(NamedTuple):
    """Where a step of a sequence is, as a row of arrays (rows, width): y; tape; what is shown; what has the steps of the launch alone."""

    y: int
    tape: int
    shown: int
    own: int


class Left(NamedTuple):
    """What forward leaves of a step: pre-activations a (G, 1), states s (S, 1), what the cell saved (K, 1), h (1, 1) before any pull."""

    a: np.ndarray
    s: np.ndarray
    saved: np.ndarray
    h: np.ndarray


class Seen(NamedTuple):
    """What backward reads of a step: what the cell saved (K, 1), the states before and after (S, 1), dL/dy (1, 1).

    And what pulled (3, 1): alpha of the step and of the one before, and that one's goal. But for the states after it, which are those
    before the next step, they are numbered in this order.
    """

    saved: np.ndarray
    old: np.ndarray
    dy: np.ndarray
    pull: np.ndarray
    new: np.ndarray


class Slopes(NamedTuple):
    """What backward has of a unit: dL/d(states) (S, 1), dL/d(pre-activations) (G, 1), and `whole`, these before they were clipped."""

    ds: np.ndarray
    da: np.ndarray
    whole: np.ndarray


class Given(NamedTuple):
    """What backward is given, and fills, but for dstate: arguments of the kernel."""

    run: Run
    start: np.ndarray
    flow: Flow
    limit: float
    back: Back


class Forward(NamedTuple):
    """The pieces of a step."""

    advance: object
    keep: object


class Backward(NamedTuple):
    """The pieces of a step back."""

    look_behind: object
    retreat: object
    clip: object
    count: object
    hold: object
    write: object


@pointwise
def row_of(n, unit, steps, begin, B):
    """The row of step n of a unit's sequence in an array (E, steps, B, ...) that begins at step `begin`."""
    return half((unit.member * steps + n - begin) * B + unit.b)


@pointwise
def rows_of(n, unit, span):
    y, B = row_of(time_of(n, unit.length, span.reverse), unit, span.T, 0, span.B), span.B
    tape, shown = row_of(n, unit, span.tape, span.offset, B), row_of(n, unit, span.shown, span.offset, B)
    return Rows(y, tape, shown, row_of(n, unit, span.end - span.begin, span.begin, B))


@pointwise
def moved(rows, steps, span):
    """The rows of a later step, or an earlier one."""
    y, own = -steps if span.reverse else steps, steps * span.B
    return Rows(half(rows.y + y * span.B), half(rows.tape + own), half(rows.shown + own), half(rows.own + own))


@pointwise
def place_in(row, width, within):
    """Where number `within` of a row is."""
    return u(row) * u(half(width)) + u(within)


@pointwise
def place_in_y(row, unit, span):
    return place_in(row, span.width, span.column + unit.j)


@pointwise
def pulled(h, n, unit, row, batch, span, there):
    """h of step n, in `row` of y and of the goals, if it is `there`, as it goes on: (1 - alpha) h + alpha goal; or h, with no alpha."""
    if batch.alpha.shape[0] > 0:
        alpha = get_if(batch.alpha, u(time_of(n, unit.length, span.reverse)), there)
        goal = get_if(batch.goal, place_in(row, span.H, unit.j), there)
        return (type(h)(1.0) - alpha) * h + alpha * goal
    return h


@pointwise
def went_on(seen):
    """h before a step, after any pull."""
    h, alpha = seen.old[0, 0], seen.pull[1, 0]
    return (type(h)(1.0) - alpha) * h + alpha * seen.pull[2, 0]


@cache
def make_unit_parameters(cell):
    """A function that reads the unit parameters p (P, 1) of a unit, 0 of one that there is not."""
    P = len(cell.parameters)

    @pointwise
    def unit_parameters(unit, p, run):
        for i in range(P):
            p[i, 0] = get_if(run.weights.unit, u((unit.member * P + i) * run.span.H + unit.j), unit.j < run.span.H)

    return unit_parameters


@cache
def make_advance(cell, dtype) -> Forward:
    """The functions that take a unit by a step; unit parameters p (P, 1)."""
    step, real = cell.step, number(dtype)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_gates, take_states, take_unit, put_states, put_saved = TAKE[G], TAKE[S], TAKE[P], PUT[S], PUT[K]

    @pointwise
    def advance(n, unit, row, p, left, run, there):
        """A unit by step n, if it is `there`: its states, from its pre-activations; with no branch."""
        (a, s, _, _), new = left, cuda.local.array((S, 1), real)
        states, saved = step(take_gates(a, 0), take_states(s, 0), take_unit(p, 0))
        put_states(new, 0, states)
        put_saved(left.saved, 0, saved)
        left.h[0, 0] = new[0, 0]
        new[0, 0] = pulled(new[0, 0], n, unit, row, run.batch, run.span, there)
        for i in range(S):
            s[i, 0] = new[i, 0] if there else s[i, 0]

    @pointwise
    def keep(unit, rows, left, run, there):
        """Write what a step leaves in y and on the tape, if it is `there`."""
        span, H, tape = run.span, run.span.H, there & (run.span.tape > 0)
        put_if(run.trace.y, place_in_y(rows.y, unit, span), left.h[0, 0], there)
        for i in range(1, S):
            put_if(run.trace.others, place_in(rows.tape, (S - 1) * H, (i - 1) * H + unit.j), left.s[i, 0], tape)
        for i in range(K):
            put_if(run.trace.saved, place_in(rows.tape, K * H, i * H + unit.j), left.saved[i, 0], tape)
        shown = there & (span.shown > 0)
        for g in range(G):
            put_if(run.trace.preactivations, place_in(rows.shown, G * H, g * H + unit.j), left.a[g, 0], shown)

    return Forward(advance, keep)


def seen_numbers(cell) -> int:
    """How many numbers backward reads of a step."""
    return len(cell.saved) + len(cell.states) + 4


@cache
def make_look(cell, one, either):
    """A function that reads what backward needs of step n, if it is `there`, and in any case of the step before, if that is `there`.

    ``one(to, i, array, place, there)`` and ``either(to, i, array, place, other, other_place, first, there)`` bring number i to where it is
    wanted: array[place], or other[other_place] if that is not the `first`, or else 0. Where nothing pulls, the last three are not brought.
    """
    S, K = len(cell.states), len(cell.saved)

    @pointwise
    def look(n, unit, rows, to, given, there):
        run, start, flow = given.run, given.start, given.flow
        span, H, trace, batch, inner = run.span, run.span.H, run.trace, run.batch, n > run.span.offset
        before, first = moved(rows, -1, span), (unit.member * S * span.B + unit.b) * H + unit.j
        known = there | (n == unit.length) & inner  # the states after the last step of a sequence, where others are longer
        for i in range(K):
            one(to, i, trace.saved, place_in(rows.tape, K * H, i * H + unit.j), there)
        either(to, K, trace.y, place_in_y(before.y, unit, span), start, u(first), inner, known)
        for i in range(1, S):
            old = place_in(before.tape, (S - 1) * H, (i - 1) * H + unit.j)
            either(to, K + i, trace.others, old, start, u(first + i * span.B * H), inner, known)
        one(to, K + S, flow.dy, place_in_y(rows.y, unit, span), there & (flow.dy.shape[0] > 0))
        if batch.alpha.shape[0] > 0:
            one(to, K + S + 1, batch.alpha, u(time_of(n, unit.length, span.reverse)), there)
            one(to, K + S + 2, batch.alpha, u(time_of(n - 1, unit.length, span.reverse)), there & inner)
            one(to, K + S + 3, batch.goal, place_in(before.y, H, unit.j), there & inner)

    return look


@cache
def make_retreat(cell, dtype) -> Backward:
    """The functions that take a unit back by a step, which `make_look` reads; unit parameters p (P, 1)."""
    step_backward, real = cell.step_backward, number(dtype)
    G, S, P, K = len(cell.slots), len(cell.states), len(cell.parameters), len(cell.saved)
    take_states, take_saved, take_unit, put_gates, put_states, put_unit = TAKE[S], TAKE[K], TAKE[P], PUT[G], PUT[S], PUT[P]
    max_of_p = P or 1  # an array of nothing cannot be had

    @pointwise
    def look_behind(unit, rows, s, run, there):
        """s (S, 1): the states after a step, if it is `there`, else 0."""
        s[0, 0] = get_if(run.trace.y, place_in_y(rows.y, unit, run.span), there)
        for i in range(1, S):
            place = place_in(rows.tape, (S - 1) * run.span.H, (i - 1) * run.span.H + unit.j)
            s[i, 0] = get_if(run.trace.others, place, there)

    @pointwise
    def complete(whole, rows, unit, seen, ds, given, there):
        """whole (S, 1): all of dL/dstate after a step, of which ds has come back through the steps behind."""
        span, flow = given.run.span, given.flow
        for i in range(S):
            whole[i, 0] = ds[i, 0]
        whole[0, 0] = (real(1.0) - seen.pull[0, 0]) * ds[0, 0] + seen.dy[0, 0]
        for i in range(S):
            put_if(flow.dstates, place_in(rows.shown, S * span.H, i * span.H + unit.j), whole[i, 0], there & (span.shown > 0))

    @pointwise
    def retreat(unit, rows, seen, slopes, p, given, there):
        """The slopes of a unit by a step, if it is `there`: da, else 0, and ds but for the product. With no branch."""
        (ds, da, _), span = slopes, given.run.span
        whole, old, dp = cuda.local.array((S, 1), real), cuda.local.array((S, 1), real), cuda.local.array((max_of_p, 1), real)
        complete(whole, rows, unit, seen, ds, given, there)
        for i in range(S):
            old[i, 0] = seen.old[i, 0]
        old[0, 0] = went_on(seen)
        gates, states, units = step_backward(
            take_saved(seen.saved, 0), take_states(old, 0), take_states(seen.new, 0), take_unit(p, 0), take_states(whole, 0)
        )
        put_gates(da, 0, gates)
        put_states(whole, 0, states)
        put_unit(dp, 0, units)
        for g in range(G):
            da[g, 0] = da[g, 0] if there else real(0.0)
        for i in range(S):
            ds[i, 0] = whole[i, 0] if there else ds[i, 0]
        for i in range(P):
            put_if(given.back.dunit, place_in(rows.own, P * span.H, i * span.H + unit.j), dp[i, 0], there)

    @pointwise
    def clip(slopes, limit):
        """da to at most `limit`."""
        _, da, whole = slopes
        for g in range(G):
            whole[g, 0] = da[g, 0]
            da[g, 0] = limit if da[g, 0] > limit else da[g, 0]
            da[g, 0] = -limit if da[g, 0] < -limit else da[g, 0]

    @pointwise
    def count(whole, limit, cut):
        """In `cut`, what clipping did."""
        if limit < real(np.inf):
            for g in range(G):
                size = abs(whole[g, 0])
                cut[2] += size
                if size > limit:
                    cut[0] += real(1.0)
                    cut[1] += size - limit

    @pointwise
    def hold(unit, rows, operand, given, there):
        """Write the operand of a step's product, if the step is `there`."""
        put_if(given.back.held, place_in(rows.own, given.run.span.H, unit.j), operand, there)

    @pointwise
    def write(unit, rows, da, given, there):
        """Write the gradients of a unit's pre-activations, if the step is `there`."""
        span, H, flow = given.run.span, given.run.span.H, given.flow
        for g in range(G):
            put_if(given.back.dz, place_in(rows.own, G * H, g * H + unit.j), da[g, 0], there)
        shown = there & (span.shown > 0)
        for g in range(G):
            put_if(flow.dpreactivations, place_in(rows.shown, G * H, g * H + unit.j), da[g, 0], shown)

    return Backward(look_behind, retreat, clip, count, hold, write)

"""The closed loop: a chain of layers run step by step, what comes out at one step going in at the next, forward and backward.

A chain is a tuple of links, one a layer, from the input up to the output; a `Linear` is the link of a cell without memory. Every
step of a link is the time loop of `loop` over a span of one step, so a closed loop that is always fed the teacher's value computes
the bits of the open one. A work item is a slice, as there; it runs all steps of all layers.

The forward loop leaves the tape of the open one, with the inputs that really went in. Where no gradient passes through what was
fed back (a sampled symbol, a teacher's value) the open loop's backward is therefore the right one, and the faster.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ..._jit import loop
from ..._team import parallel
from .._feedback import emit, extend, pass_back, put_output, running, settle
from .._loop import Batch, Flow, Trace
from .loop import Scratch, Span, Sums, Weights, make_backward, make_forward
from .rows import copy_row


class Link(NamedTuple):
    """One layer of a chain."""

    batch: Batch
    weights: Weights
    trace: Trace
    state: np.ndarray  # (1, S, B, H), advanced
    scratch: Scratch
    block: int


class BackLink(NamedTuple):
    """One layer of a chain on the way back; `flow.dy` is the array that the layer above writes as its `flow.dx`."""

    batch: Batch
    weights: Weights
    trace: Trace
    start: np.ndarray  # (1, S, B, H)
    sums: Sums
    flow: Flow
    dstate: np.ndarray  # (1, S, B, H)
    limit: float  # on the entries of dL/da, of the arrays' dtype
    scratch: Scratch
    block: int


@cache
def make_closed_forward(cells):
    """The closed loop of a chain of `cells`, forward: fills the traces, and in `feedback` what went in."""
    climb = _climb([make_forward(cell) for cell in cells])

    @parallel
    @loop
    def closed_forward(who, item, begin, end, rows, links, feedback):
        """Slice `item`, steps [begin, end). The input of step 0 is given."""
        order, lengths = links[0].batch.order[0], links[0].batch.lengths[0]
        B = order.shape[0]
        first = item * rows
        for t in range(begin, end):
            if t > 0:
                for r in range(min(rows, B - first)):
                    b = order[first + r]
                    if t < lengths[b] and feedback.own[t, b]:
                        put_output(feedback, t - 1, t, b)
            climb(who, item, t, rows, links)

    return closed_forward


@cache
def make_generate(cells):
    """The closed loop of a chain of `cells` on its own: the arrays of every link hold one step, the outputs are copied out."""
    climb = _climb([make_forward(cell) for cell in cells])

    @parallel
    @loop
    def generate(who, item, begin, end, rows, links, feedback, outputs, inputs, stop, ends):
        """Slice `item`, steps [begin, end) of outputs (steps, B, O) and tokens (steps, B), see `emit`.

        feedback.x (1, B, D) is the input of step `begin`, then the one after `end`.
        """
        order = links[0].batch.order[0]
        B = order.shape[0]
        first, count = item * rows, min(rows, B - item * rows)
        for s in range(begin, end):
            climb(who, item, 0, rows, links)
            alive = False
            for r in range(count):
                alive = emit(feedback, outputs, inputs, stop, ends, s, order[first + r]) or alive
            if not alive:
                break

    return generate


@cache
def make_beam_search(cells):
    """Beam search of a chain of `cells`: an item is a sequence, its rows are the beams."""
    climb, follow = _climb([make_forward(cell) for cell in cells]), _follow(len(cells))

    @parallel
    @loop
    def beam_search(who, item, begin, end, width, links, spare, feedback, stop, scores, best, parents, symbols):
        """Sequence `item`, steps [begin, end): scores (B, W), falling; parents, symbols (steps, B, W), -1 where there is nothing.

        feedback.x (1, B W, D) is the input of step `begin`; feedback.tokens (1, B W) each beam's last symbol, -1 where it has ended.
        best (B, W), and spare, one array (1, S, B W, H) a link, are working memory.
        """
        first = item * width
        for s in range(begin, end):
            if not running(feedback, first, width, scores[item]):
                break
            climb(who, item, 0, width, links)
            found = extend(feedback, first, width, scores[item], best[item], parents[s, item], symbols[s, item])
            follow(links, spare, first, width, found, parents[s, item])
            settle(feedback, first, width, found, stop, scores[item], best[item], symbols[s, item])

    return beam_search


def _follow(count):
    """A function that gives every beam the state of its parent, in every link."""
    rest = _follow(count - 1) if count > 1 else None

    @loop
    def own(links, spare, first, width, found, parents):
        state, kept = links[0].state[0], spare[0][0]
        for i in range(state.shape[0]):
            for w in range(width):
                copy_row(state[i, first + w], kept[i, first + w])
            for w in range(found):
                copy_row(kept[i, first + parents[w]], state[i, first + w])

    if rest is None:
        return own

    @loop
    def every(links, spare, first, width, found, parents):
        own(links, spare, first, width, found, parents)
        rest(links[1:], spare[1:], first, width, found, parents)

    return every


def _climb(forwards):
    """A function that takes one step of every link, from the first to the last."""
    forward, rest = forwards[0], forwards[1:]

    if not rest:

        @loop
        def top(who, item, t, rows, links):
            link = links[0]
            span = Span(t, t + 1, 0, link.block, rows, 0, 0, item, who)
            forward(link.scratch.team, 1, span, link.batch, link.weights, link.trace, link.state, link.scratch)

        return top

    above = _climb(rest)

    @loop
    def step(who, item, t, rows, links):
        link = links[0]
        span = Span(t, t + 1, 0, link.block, rows, 0, 0, item, who)
        forward(link.scratch.team, 1, span, link.batch, link.weights, link.trace, link.state, link.scratch)
        above(who, item, t, rows, links[1:])

    return step


@cache
def make_closed_backward(cells):
    """The closed loop of a chain of `cells`, backward: adds to the sums of every link, fills their flows; dL/doutput is completed."""
    descend = _descend([make_backward(cell) for cell in cells])

    @parallel
    @loop
    def closed_backward(who, item, begin, end, rows, links, feedback, doutput, dtable):
        """Slice `item`, steps end - 1 down to begin. doutput (T, B, O): what the loss sends, then also what was fed back.

        dtable (slices, V, D) += by means of its rows.
        """
        order, lengths, dx = links[0].batch.order[0], links[0].batch.lengths[0], links[0].flow.dx[0]
        B = order.shape[0]
        first = item * rows
        for t in range(end - 1, begin - 1, -1):
            descend(who, item, t, rows, links)
            if t > 0:
                for r in range(min(rows, B - first)):
                    b = order[first + r]
                    if t < lengths[b] and feedback.own[t, b]:
                        pass_back(feedback, dx[t, b], doutput[t - 1, b], t, b)
                        for k in range(feedback.table.shape[0]):
                            for j in range(dx.shape[2]):
                                dtable[item, k, j] += feedback.weight[b, 0, k] * dx[t, b, j]

    return closed_backward


def _descend(backwards):
    """A function that takes one step of every link back, from the last to the first."""
    backward, rest = backwards[0], backwards[1:]
    above = _descend(rest) if rest else None

    if above is None:

        @loop
        def top(who, item, t, rows, links):
            link = links[0]
            span = Span(t, t + 1, 0, link.block, rows, 0, 0, item, who)
            backward(link.scratch.team, 1, span, link.batch, link.weights, link.trace, link.start, link.sums, link.flow, link.dstate,
                     link.limit, link.scratch)  # fmt: skip

        return top

    @loop
    def step(who, item, t, rows, links):
        above(who, item, t, rows, links[1:])
        link = links[0]
        span = Span(t, t + 1, 0, link.block, rows, 0, 0, item, who)
        backward(link.scratch.team, 1, span, link.batch, link.weights, link.trace, link.start, link.sums, link.flow, link.dstate,
                 link.limit, link.scratch)  # fmt: skip

    return step

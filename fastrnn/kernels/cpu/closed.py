"""The closed loop: a chain of layers run step by step, what comes out at one step going in at the next, forward and backward.

A chain is a tuple of links, one a layer, from the input up to the output; a `Linear` is the link of a cell without memory. Every
step of a link is the time loop of `loop` over a span of one step, so a closed loop that is always fed the teacher's value computes
the bits of the open one. A work item is a slice, as there; it runs all steps of all layers.

The forward loop leaves the tape of the open one, with the inputs that really went in. Where no gradient passes through what was
fed back (a sampled symbol, a teacher's value) the open loop's backward is therefore the right one, and the faster.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from ..._jit import loop
from ..._math import exp
from ..._team import parallel
from .._loop import Batch, Flow, Trace
from .loop import Scratch, Span, Sums, Weights, make_backward, make_forward
from .rows import copy_row

OUTPUT, SYMBOL, PROBABILITIES = 0, 1, 2  # what is fed back: the output itself, a symbol drawn from it, its softmax


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


class Feedback(NamedTuple):
    """What goes in.

    own (T, B) says where the output of the step before replaces the teacher's value; the first layer's input x (T, B, D) has it in its
    last columns, or is a row of table (V, D). Symbols are drawn by uniform (T, B) numbers; tokens (T, B) holds those that went in.
    """

    kind: int
    own: np.ndarray
    x: np.ndarray
    output: np.ndarray  # (T, B, O), the top layer's
    table: np.ndarray  # (V, D), or (0, 0): symbols are one-hot columns of x
    tokens: np.ndarray
    uniform: np.ndarray
    weight: np.ndarray  # (B, 2, O) float64: working memory, rows of each sequence's own
    rank: np.ndarray  # (B, O) int64: the same
    temperature: float
    top_k: int
    top_p: float


@loop
def softmax(z, temperature, p):
    """p = softmax(z / temperature) in float64, and the place of the largest entry, the first of equals."""
    best = 0
    for k in range(z.shape[0]):
        if z[k] > z[best]:
            best = k
    top, total = np.float64(z[best]), 0.0
    for k in range(z.shape[0]):
        p[k] = exp((np.float64(z[k]) - top) / temperature)
        total += p[k]
    for k in range(z.shape[0]):
        p[k] /= total
    return best


@loop
def sift(p, rank, root, count):
    """Restore the heap (the smallest on top; of equals, the later symbol) below `root`."""
    while True:
        child = 2 * root + 1
        if child >= count:
            return
        if child + 1 < count and behind(p, rank[child + 1], rank[child]):
            child += 1
        if not behind(p, rank[child], rank[root]):
            return
        rank[root], rank[child] = rank[child], rank[root]
        root = child


@loop
def behind(p, a, b):
    """Whether symbol a stands behind symbol b in the order of falling probability."""
    return p[a] < p[b] or (p[a] == p[b] and a > b)


@loop
def sort_falling(p, rank):
    """rank = the symbols by falling probability, the lower number first among equals (heap sort)."""
    n = rank.shape[0]
    for k in range(n):
        rank[k] = k
    for k in range(n // 2 - 1, -1, -1):
        sift(p, rank, k, n)
    for end in range(n - 1, 0, -1):
        rank[0], rank[end] = rank[end], rank[0]
        sift(p, rank, 0, end)


@loop
def choose(z, u, temperature, top_k, top_p, p, rank):
    """A symbol from logits z: the largest at temperature 0; else drawn by u in [0, 1) from the top_k, and of those the top_p, symbols."""
    if temperature == 0.0:
        return softmax(z, 1.0, p)
    softmax(z, temperature, p)
    n, total = z.shape[0], 1.0
    if top_k < n or top_p < 1.0:
        sort_falling(p, rank)
        n, kept, total = min(n, top_k), 0.0, 0.0
        for k in range(n):
            kept += p[rank[k]]
        for k in range(n):
            total += p[rank[k]]
            if total >= top_p * kept:
                n = k + 1
                break
    else:
        for k in range(n):
            rank[k] = k
    left = u * total
    for k in range(n):
        left -= p[rank[k]]
        if left < 0.0:
            return rank[k]
    k = n - 1  # rounding: the last that can be
    while k > 0 and p[rank[k]] == 0.0:
        k -= 1
    return rank[k]


@loop
def draw(feedback, z, t, b):
    """The symbol of step t, from the logits z of the output before it."""
    temperature, top_k, top_p = feedback.temperature, feedback.top_k, feedback.top_p
    token = choose(z, feedback.uniform[t, b], temperature, top_k, top_p, feedback.weight[b, 0], feedback.rank[b])
    feedback.tokens[t, b] = token
    return token


@loop
def put_symbol(feedback, token, t, b):
    """A symbol into the input of step t: its row of the table, or a one in the last columns."""
    x, O = feedback.x[t, b], feedback.output.shape[2]
    if feedback.table.shape[0] > 0:
        row = feedback.table[token]
        for j in range(x.shape[0]):
            x[j] = row[j]
    else:
        tail = x[x.shape[0] - O :]
        for j in range(O):
            tail[j] = 0.0
        tail[token] = 1.0


@loop
def put_output(feedback, source, t, b):
    """The output of step `source` into the input of step t."""
    z, x = feedback.output[source, b], feedback.x[t, b]
    if feedback.kind == SYMBOL:
        put_symbol(feedback, draw(feedback, z, t, b), t, b)
        return
    p = feedback.weight[b, 0]
    if feedback.kind == PROBABILITIES:
        softmax(z, 1.0, p)
    else:
        for k in range(z.shape[0]):
            p[k] = z[k]
    if feedback.table.shape[0] > 0:
        for j in range(x.shape[0]):
            total = 0.0
            for k in range(p.shape[0]):
                total += p[k] * feedback.table[k, j]
            x[j] = total
    else:
        tail = x[x.shape[0] - z.shape[0] :]
        for k in range(z.shape[0]):
            tail[k] = p[k]


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
        """Slice `item`, steps [begin, end) of outputs (steps, B, O) and tokens (steps, B).

        feedback.x (1, B, D) is the input of step `begin`, then the one after `end`; inputs (steps - 1, B, D - O) are its other columns
        at every step after the first. A sequence that drew the symbol `stop` (-1: none) at step s has ends[b] = s + 1, and its outputs
        and symbols after it are not written.
        """
        order = links[0].batch.order[0]
        B = order.shape[0]
        first, count = item * rows, min(rows, B - item * rows)
        for s in range(begin, end):
            climb(who, item, 0, rows, links)
            running = False
            for r in range(count):
                b = order[first + r]
                if ends[b] <= s:
                    continue
                output = feedback.output[0, b]
                for k in range(output.shape[0]):
                    outputs[s, b, k] = output[k]
                if feedback.kind == SYMBOL:
                    token = draw(feedback, output, s, b)
                    put_symbol(feedback, token, 0, b)
                    if token == stop:
                        ends[b] = s + 1
                else:
                    put_output(feedback, 0, 0, b)
                if s < inputs.shape[0]:
                    copy_row(inputs[s, b], feedback.x[0, b, : inputs.shape[2]])
                running = running or ends[b] > s + 1
            if not running:
                break

    return generate


@loop
def extend(feedback, first, width, scores, best, parents, symbols):
    """The `width` best ways to go on by one symbol from beams first, first + 1, ...: best (W,) falling, whence and with which symbol.

    scores (W,) are log probabilities so far, -inf where there is no beam. A beam whose last symbol in `feedback.tokens` is -1 has ended
    and stays as it is, with -1 for a symbol. Of equals, the earlier beam's, the lower symbol's stands first. Returns how many there are.
    """
    found, O = 0, feedback.output.shape[2]
    for w in range(width):
        if scores[w] == -np.inf:
            continue
        p = feedback.weight[first + w, 0]
        over = softmax(feedback.output[0, first + w], 1.0, p)
        ended = feedback.tokens[0, first + w] < 0
        for k in range(1 if ended else O):
            score = scores[w] if ended else scores[w] + log_share(feedback.output[0, first + w], k, over, p[over])
            if found == width and score <= best[width - 1]:
                continue
            place = found if found < width else width - 1
            while place > 0 and best[place - 1] < score:
                best[place], parents[place], symbols[place] = best[place - 1], parents[place - 1], symbols[place - 1]
                place -= 1
            best[place], parents[place], symbols[place] = score, w, -1 if ended else k
            found = min(found + 1, width)
    return found


@loop
def log_share(z, k, over, share):
    """log softmax(z)[k], given the place of the largest entry and its softmax."""
    return np.float64(z[k]) - np.float64(z[over]) + math.log(share)


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
            running = False
            for w in range(width):
                running = running or (scores[item, w] > -np.inf and feedback.tokens[0, first + w] >= 0)
            if not running:
                break
            climb(who, item, 0, width, links)
            found = extend(feedback, first, width, scores[item], best[item], parents[s, item], symbols[s, item])
            follow(links, spare, first, width, found, parents[s, item])
            for w in range(width):
                scores[item, w] = best[item, w] if w < found else -np.inf
                token = symbols[s, item, w] if w < found else -1
                feedback.tokens[0, first + w] = -1 if token == stop else token
                if token >= 0:
                    put_symbol(feedback, token, 0, first + w)

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


@loop
def pass_back(feedback, dx, doutput, dtable, t, b):
    """dL/d(input of step t) into dL/d(output of step t - 1), and into the table where the input was a mean of its rows."""
    O, p, dp = doutput.shape[0], feedback.weight[b, 0], feedback.weight[b, 1]
    if feedback.table.shape[0] > 0:
        for k in range(O):
            dp[k] = 0.0
            for j in range(dx.shape[0]):
                dp[k] += dx[j] * feedback.table[k, j]
    else:
        for k in range(O):
            dp[k] = dx[dx.shape[0] - O + k]
    if feedback.kind == OUTPUT:
        for k in range(O):
            doutput[k] += dp[k]
        return
    softmax(feedback.output[t - 1, b], 1.0, p)
    mean = 0.0
    for k in range(O):
        mean += p[k] * dp[k]
    for k in range(O):
        doutput[k] += p[k] * (dp[k] - mean)
    for k in range(feedback.table.shape[0]):
        for j in range(dx.shape[0]):
            dtable[k, j] += p[k] * dx[j]


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
                        pass_back(feedback, dx[t, b], doutput[t - 1, b], dtable[item], t, b)

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

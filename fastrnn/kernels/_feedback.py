"""What is fed back in a closed loop, for every device: from an output to the next input, and the gradient back.

Arithmetic is float64.
"""

import math
from typing import NamedTuple

import numpy as np

from .._jit import loop
from .._math import exp

OUTPUT, SYMBOL, PROBABILITIES = 0, 1, 2  # what is fed back: the output itself, a symbol drawn from it, its softmax


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
        n, kept, total = top_k if top_k < n else n, 0.0, 0.0
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


@loop
def emit(feedback, outputs, inputs, stop, ends, s, b):
    """Step s of sequence b, whose output is in feedback.output (1, B, O): noted, and fed back; whether the sequence goes on.

    outputs (steps, B, O), and tokens (steps, B), after the symbol `stop` (-1: none), drawn at step ends[b] - 1, are not written; inputs
    (steps - 1, B, D - O) are the other columns at every step after the first.
    """
    if ends[b] <= s:
        return False
    output, x = feedback.output[0, b], feedback.x[0, b]
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
        for j in range(inputs.shape[2]):
            x[j] = inputs[s, b, j]
    return ends[b] > s + 1


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
            found = found + 1 if found < width else width
    return found


@loop
def log_share(z, k, over, share):
    """log softmax(z)[k], given the place of the largest entry and its softmax."""
    return np.float64(z[k]) - np.float64(z[over]) + math.log(share)


@loop
def running(feedback, first, width, scores):
    """Whether any of the beams first, first + 1, ... has not ended."""
    for w in range(width):
        if scores[w] > -np.inf and feedback.tokens[0, first + w] >= 0:
            return True
    return False


@loop
def settle(feedback, first, width, found, stop, scores, best, symbols):
    """What `extend` found becomes what the beams are."""
    for w in range(width):
        scores[w] = best[w] if w < found else -np.inf
        token = symbols[w] if w < found else -1
        feedback.tokens[0, first + w] = -1 if token == stop else token
        if token >= 0:
            put_symbol(feedback, token, 0, first + w)


@loop
def pass_back(feedback, dx, doutput, t, b):
    """dL/d(input of step t) into dL/d(output of step t - 1); leaves softmax(output) in feedback.weight[b, 0] where that was fed back."""
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

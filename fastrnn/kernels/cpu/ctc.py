"""Connectionist temporal classification: the probability of a labelling, summed over its alignments, and the gradient by the logits.

The cells of a labelling of S labels stand in two rows: blanks 0 ... S, and labels 1 ... S with an absent one at either end, so
that label j stands between blanks j - 1 and j. A step leads from a cell to itself, to the next one, and from a label to the next
label where the two differ (Graves et al. 2006, equation 6). Probabilities are extended numbers (`_extended.py`), not logarithms, and
a step's are exp(z - max z), not divided by their sum: that is made good by one logarithm a step, in the loss.

A row of cells is (6, S + 2): mantissas and exponents of the blanks, of the labels, and of what the step gives to the labels' symbols
(at place 0: to the blank). Loops over cells fill one array each, or two in place: with more, LLVM would have to check more pairs
of arrays for overlap than it is willing to. Sums over symbols and cells are formed by halves: pairwise, in an order that their
number fixes, and vectors at a time.
"""

import math
from typing import NamedTuple

import numpy as np

from ..._jit import loop
from ..._math import exp
from ..._team import parallel
from .._ctc import NORMALIZE
from .._extended import ABSENT, ZERO, exp_parts, parts, power


class Scratch(NamedTuple):
    """Working memory, float64, one row a thread; rows are flat, because sequences differ in size."""

    rows: np.ndarray  # T + 1 rows of cells on the way forward, two on the way back, and one for occupancies and sums
    symbols: np.ndarray  # T + 1 of O: exp(z - max z) of every step; the last is for sums
    totals: np.ndarray  # T: their sums


def scratch(threads: int, T: int, S: int, O: int) -> Scratch:
    """Scratch for up to T steps and S labels."""
    return Scratch(np.empty((threads, (T + 4) * 6 * (S + 2))), np.empty((threads, (T + 1) * O)), np.empty((threads, T)))


@parallel
@loop
def ctc(who, item, first, logits, labellings, blank, scale, losses, gradient, scratch):
    """Sequence b = first + item: losses[b] = -log p(labelling b), in nats, and gradient[:, b] = scale[b] times its gradient.

    logits, gradient (T, B, O) of one dtype; scale, losses (B,) float64. Nothing is read or written where scale is 0, and no
    gradient where the loss is inf: where the labelling has no alignment, or none of probability above 0.
    """
    labels, counts, steps = labellings
    b = first + item
    if scale[b] != 0.0:
        T, S, O = steps[b], counts[b], logits.shape[2]
        rows = scratch.rows[who, : (T + 4) * 6 * (S + 2)].reshape(T + 4, 6, S + 2)
        symbols, totals = scratch.symbols[who, : (T + 1) * O].reshape(T + 1, O), scratch.totals[who]
        losses[b] = _forward(logits, b, labels[b, :S], blank, rows, symbols, totals)
        if losses[b] != np.inf:
            _backward(b, labels[b, :S], blank, rows, symbols, totals, scale[b], gradient)


@loop
def _forward(logits, b, labels, blank, rows, symbols, totals):
    """The loss; fills rows 1 ... T with the probability of every beginning of an alignment that ends in the cell."""
    T, logarithms = rows.shape[0] - 4, 0.0
    _begin(0, rows[0])
    for t in range(T):
        z, row = logits[t, b], rows[t + 1]
        top = _largest(z, symbols[T])
        _exponentials(z, top, symbols[t])
        totals[t] = _sum(symbols[t], symbols[T])
        logarithms += math.log(totals[t])
        row[4, 0] = z[blank]
        for j in range(labels.shape[0]):
            row[4, 1 + j] = z[labels[j]]
        _emissions(top, row[4], row[5])
        _arrive(rows[t], labels, 0, row)
        _emit(row, t, row)
    m, n = _probability(rows)
    if n < ZERO and not math.isnan(logarithms):
        return np.inf
    return logarithms - (math.log(m) + n * math.log(2.0))


@loop
def _backward(b, labels, blank, rows, symbols, totals, scale, gradient):
    """scale (softmax(z) - the probability, given the labelling, that its alignment is at the symbol), at every step."""
    T, S = rows.shape[0] - 4, labels.shape[0]
    m, n = _probability(rows)
    later, now, occupancy, sums = rows[T + 1], rows[T + 2], rows[T + 3, 0], rows[T + 3, 1]
    _begin(S, later)
    for t in range(T - 1, -1, -1):
        difference = symbols[t]  # times the total of the row, until it is stored
        _arrive(later, labels, 1, now)
        _meet(rows[t + 1, 0], rows[t + 1, 1], now[0], now[1], n, totals[t] / m, occupancy[: S + 1])
        difference[blank] -= _sum(occupancy[: S + 1], sums)
        _meet(rows[t + 1, 2], rows[t + 1, 3], now[2], now[3], n, totals[t] / m, occupancy)
        for j in range(S):
            difference[labels[j]] -= occupancy[1 + j]
        _scale(difference, scale / totals[t], gradient[t, b])
        _emit(rows[t + 1], t, now)
        now, later = later, now


@loop
def _probability(rows):
    """That of the labelling, as (m, n): its alignments end at the last label or at the last blank."""
    T, S = rows.shape[0] - 4, rows.shape[2] - 2
    a, k, b, l = rows[T, 0, S], rows[T, 1, S], rows[T, 2, S], rows[T, 3, S]
    n = max(k, l)
    return a * power(k - n) + b * power(l - n), n


# One row of cells from another --------------------------------------------------------------------------------------


@loop
def _begin(j, row):
    """No step has been taken: all is at blank j."""
    for i in range(row.shape[1]):
        row[0, i] = row[2, i] = 1.0
        row[1, i] = row[3, i] = ABSENT
    row[1, j] = 0.0


@loop
def _arrive(old, labels, back, new):
    """A step's transitions, before the symbols' probabilities: to later cells (back = 0), or with time reversed (back = 1).

    What comes to a blank is of that blank and of the label on one side; that and the label on its other side come to the latter.
    """
    S, r = labels.shape[0], back
    _higher(old[1, : S + 1], old[3, r : r + S + 1], new[1, : S + 1])  # all in slices of one row: LLVM sees that they are contiguous
    _add(old[0, : S + 1], old[1, : S + 1], old[2, r : r + S + 1], old[3, r : r + S + 1], new[1, : S + 1], new[0, : S + 1])
    _higher(old[3, 1 : S + 1], new[1, r : r + S], new[3, 1 : S + 1])
    _add(old[2, 1 : S + 1], old[3, 1 : S + 1], new[0, r : r + S], new[1, r : r + S], new[3, 1 : S + 1], new[2, 1 : S + 1])
    for j in range(1, S):
        if labels[j] == labels[j - 1]:  # nothing comes from a label to its repetition: of the blank between them alone
            k = j if back else j + 1
            new[3, k] = max(old[3, k], old[1, j])
            new[2, k] = old[2, k] * power(old[3, k] - new[3, k]) + old[0, j] * power(old[1, j] - new[3, k])
    new[2, 0] = new[2, S + 1] = 1.0
    new[3, 0] = new[3, S + 1] = ABSENT


@loop
def _emit(emitted, t, row):
    """Times what `emitted`, a row, says that step t gives to each cell's symbol."""
    S = row.shape[1] - 2
    _multiply_each(emitted[4, 1 : S + 1], emitted[5, 1 : S + 1], row[2, 1 : S + 1], row[3, 1 : S + 1])
    _multiply(emitted[4, 0], emitted[5, 0], row[0, : S + 1], row[1, : S + 1])
    if t % NORMALIZE == 0:
        _normalize(row[0, : S + 1], row[1, : S + 1])
        _normalize(row[2], row[3])


# Loops over cells or symbols ----------------------------------------------------------------------------------------


@loop
def _scale(x, scale, y):
    for k in range(y.shape[0]):
        y[k] = x[k] * scale


@loop
def _exponentials(z, top, y):
    for k in range(y.shape[0]):
        y[k] = exp(np.float64(z[k]) - top)


@loop
def _emissions(top, m, n):
    """From logits in m."""
    for j in range(m.shape[0] - 1):  # the last one is no cell's
        m[j], n[j] = exp_parts(m[j] - top)


@loop
def _largest(z, y):
    """The largest of z; y, as long, is scratch."""
    n = (z.shape[0] + 1) // 2
    _higher(z[:n], z[z.shape[0] - n :], y[:n])  # of an odd number the middle one meets itself
    while n > 1:
        y[0] = max(y[0], y[n - 1])  # of an odd number the last one has no partner
        n //= 2
        _raise(y[:n], y[n : 2 * n])
    return y[0]


@loop
def _sum(x, y):
    """The sum of x; y, as long, is scratch."""
    n = x.shape[0]
    y[0] = 0.0
    _pairs(x[: n // 2], x[n // 2 :], y[: n // 2])
    y[0] += x[n - 1] if n % 2 else 0.0
    n //= 2
    while n > 1:
        y[0] += y[n - 1] if n % 2 else 0.0
        n //= 2
        _increase(y[:n], y[n : 2 * n])
    return y[0]


@loop
def _pairs(a, b, y):
    for k in range(y.shape[0]):
        y[k] = a[k] + b[k]


@loop
def _increase(y, x):
    for k in range(y.shape[0]):
        y[k] += x[k]


@loop
def _raise(y, x):
    for k in range(y.shape[0]):
        y[k] = x[k] if x[k] > y[k] else y[k]


@loop
def _higher(an, bn, n):
    for j in range(n.shape[0]):
        n[j] = an[j] if an[j] > bn[j] else bn[j]


@loop
def _add(am, an, bm, bn, n, m):
    for j in range(m.shape[0]):
        m[j] = am[j] * power(an[j] - n[j]) + bm[j] * power(bn[j] - n[j])


@loop
def _multiply_each(um, un, m, n):
    for j in range(m.shape[0]):
        m[j] *= um[j]
        n[j] += un[j]


@loop
def _multiply(um, un, m, n):
    for j in range(m.shape[0]):
        m[j] *= um
        n[j] += un


@loop
def _normalize(m, n):
    for j in range(m.shape[0]):
        m[j], k = parts(m[j])
        n[j] += k


@loop
def _meet(am, an, bm, bn, n, scale, occupancy):
    """The share of a cell: of all beginnings that end in it, times all ends that begin in it."""
    for j in range(occupancy.shape[0]):
        share = an[j] + bn[j] - n
        occupancy[j] = am[j] * bm[j] * (power(share) if share > -960.0 else 0.0) * scale

"""Connectionist temporal classification on the GPU: a block a sequence, with the cells, numbers and formulas of `cpu.ctc`.

A thread has blank j and a label beside it, the one behind it forward and the one before it back: what comes to both is of cells that the
step before has left, so that a step forward has one barrier. On the way back a second one parts the cells, and what each of them has of the
labelling's probability, from the symbols, which take their gradients from that.

A row of cells is (4, S + 2): mantissas and exponents of the blanks, and of the labels.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..._jit import pointwise
from ..._math import exp
from .._ctc import NORMALIZE, Labellings
from .._extended import ABSENT, ZERO, exp_parts, parts, power
from . import target
from .target import kernel

THREADS = 128
ROWS_BYTES = 2**28  # of cells at a time, where there are several sequences


class Cells(NamedTuple):
    """Working memory, float64, of some sequences: rows (., T + 1, 4, S + 2) forward, two on the way back, and shares (., 2, S + 1) of the
    blanks and the labels.
    """

    rows: np.ndarray
    back: np.ndarray
    shares: np.ndarray


class Softmax(NamedTuple):
    """The largest logit of each step, (T, B), the sum of exp(z - that), and its logarithm, float64."""

    top: np.ndarray
    total: np.ndarray
    log: np.ndarray


@pointwise
def _begin(row, j, first, S):
    """Blank j and the label behind it, before any step: all is at blank `first`."""
    row[0, j], row[1, j] = 1.0, 0.0 if j == first else ABSENT
    row[2, j], row[3, j] = 1.0, ABSENT
    if j == S:
        row[2, j + 1], row[3, j + 1] = 1.0, ABSENT


@pointwise
def _add(am, an, bm, bn):
    n = an if an > bn else bn
    return am * power(an - n) + bm * power(bn - n), n


@pointwise
def _emit(row, at, j, m, n, logit, t):
    """The cell j of a row that comes with m 2**n, times the probability of its symbol; `at`: 0 for a blank, 2 for a label."""
    em, en = exp_parts(logit)
    m, n = m * em, n + en
    if t % NORMALIZE == 0:
        m, k = parts(m)
        n += k
    row[at, j], row[at + 1, j] = m, n


@pointwise
def _step(old, new, j, labels, S, z, top, blank, t):
    """Blank j and label j + 1 of a row from the one before."""
    m, n = _add(old[0, j], old[1, j], old[2, j], old[3, j])
    _emit(new, 0, j, m, n, np.float64(z[blank]) - top, t)
    if j < S:
        if j > 0 and labels[j] == labels[j - 1]:  # nothing comes from a label to its repetition: of the blank between them alone
            m, n = old[0, j], old[1, j]
        m, n = _add(old[2, j + 1], old[3, j + 1], m, n)
        _emit(new, 2, j + 1, m, n, np.float64(z[labels[j]]) - top, t)
    if j == 0:
        new[2, 0], new[3, 0] = 1.0, ABSENT
    if j == S:
        new[2, S + 1], new[3, S + 1] = 1.0, ABSENT


@pointwise
def _share(am, an, bm, bn, n, scale):
    """Of all beginnings that end in a cell, times all ends that begin in it."""
    share = an + bn - n
    return am * bm * (power(share) if share > -960.0 else 0.0) * scale


@pointwise
def _step_back(later, now, forth, shares, j, labels, S, z, top, blank, t, n, scale):
    """Blank j and label j of a row from the one behind it, and their shares; `forth` is the row of the step on the way forward."""
    m, k = _add(later[0, j], later[1, j], later[2, j + 1], later[3, j + 1])
    shares[0, j] = _share(forth[0, j], forth[1, j], m, k, n, scale)
    _emit(now, 0, j, m, k, np.float64(z[blank]) - top, t)
    if j > 0:
        if j < S and labels[j] == labels[j - 1]:
            m, k = later[0, j], later[1, j]
        m, k = _add(later[2, j], later[3, j], m, k)
        shares[1, j - 1] = _share(forth[2, j], forth[3, j], m, k, n, scale)
        _emit(now, 2, j, m, k, np.float64(z[labels[j - 1]]) - top, t)
    if j == 0:
        now[2, 0], now[3, 0] = 1.0, ABSENT
    if j == S:
        now[2, S + 1], now[3, S + 1] = 1.0, ABSENT


@pointwise
def _difference(symbol, shares, labels, S, z, top, blank):
    """The softmax of a symbol, less its share, times the step's total."""
    found = exp(np.float64(z[symbol]) - top)
    if symbol == blank:
        for j in range(S + 1):
            found -= shares[0, j]
    else:
        for j in range(S):
            if labels[j] == symbol:
                found -= shares[1, j]
    return found


@kernel
def softmax(logits, labellings, scale, found):
    """`found` of the steps that count; a thread a step of a sequence."""
    i, B, O = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, logits.shape[1], logits.shape[2]
    t, b = i // B, i % B
    if t < logits.shape[0] and t < labellings.steps[b] and scale[b] != 0.0:
        z, top, total = logits[t, b], np.float64(logits[t, b, 0]), 0.0
        for k in range(1, O):
            top = np.float64(z[k]) if z[k] > top else top
        for k in range(O):
            total += exp(np.float64(z[k]) - top)
        found.top[t, b], found.total[t, b], found.log[t, b] = top, total, math.log(total)


@kernel
def ctc(first, logits, labellings, blank, scale, steps, cells, losses, gradient):
    """losses[b] = -log p(labelling b), in nats, and gradient[:, b] = scale[b] times its gradient; of what the CPU leaves out, nothing."""
    i, thread, O = cuda.blockIdx.x, cuda.threadIdx.x, logits.shape[2]
    b = first + i
    if scale[b] == 0.0:
        return
    T, S, labels, rows, back, shares = (
        labellings.steps[b],
        labellings.counts[b],
        labellings.labels[b],
        cells.rows[i],
        cells.back[i],
        cells.shares[i],
    )
    for j in range(thread, S + 1, THREADS):
        _begin(rows[0], j, 0, S)
        _begin(back[0], j, S, S)
    cuda.syncthreads()
    for t in range(T):
        for j in range(thread, S + 1, THREADS):
            _step(rows[t], rows[t + 1], j, labels, S, logits[t, b], steps.top[t, b], blank, t)
        cuda.syncthreads()
    m, n = _add(rows[T, 0, S], rows[T, 1, S], rows[T, 2, S], rows[T, 3, S])  # alignments end at the last label or at the last blank
    if thread == 0:
        logarithms = 0.0
        for t in range(T):
            logarithms += steps.log[t, b]
        none = n < ZERO and not math.isnan(logarithms)
        losses[b] = np.inf if none else logarithms - (math.log(m) + n * math.log(2.0))
    cuda.syncthreads()
    if losses[b] == np.inf:
        return
    for t in range(T - 1, -1, -1):
        later, now, z, top, total = back[(T - 1 - t) % 2], back[(T - t) % 2], logits[t, b], steps.top[t, b], steps.total[t, b]
        for j in range(thread, S + 1, THREADS):
            _step_back(later, now, rows[t + 1], shares, j, labels, S, z, top, blank, t, n, total / m)
        cuda.syncthreads()
        for symbol in range(thread, O, THREADS):
            gradient[t, b, symbol] = _difference(symbol, shares, labels, S, z, top, blank) * (scale[b] / total)
        cuda.syncthreads()


def losses_and_gradient(device, logits, labellings: Labellings, blank: int, scale: np.ndarray):
    """(losses (B,) of the host, gradient): as the CPU's kernel has them, 0 where that leaves them."""
    (T, B, _), put, empty = logits.shape, device.put, device.empty
    if not B:
        return np.zeros(0), device.zeros(logits.shape, logits.dtype)
    most = int(labellings.counts.max(initial=0))
    numbers = (int(labellings.steps.max(initial=0)) + 1) * 4 * (most + 2)
    together = min(B, max(1, ROWS_BYTES // (8 * numbers)))
    device.require_room(together * (numbers + 10 * (most + 2)) + 3 * T * B + logits.size, np.float64, "the alignments and gradients of CTC")
    gradient, losses = device.zeros(logits.shape, logits.dtype), device.zeros(B, np.float64)
    given, counted = Labellings(*map(put, labellings)), put(scale)
    steps = Softmax(*(empty((T, B), np.float64) for _ in Softmax._fields))
    room = numbers // (4 * (most + 2)), 4, most + 2
    cells = Cells(*(empty((together, *shape), np.float64) for shape in (room, (2, 4, most + 2), (2, most + 1))))
    if T:
        target.launch(softmax, -(-T * B // THREADS), THREADS, 0, logits, given, counted, steps)
    for first in range(0, B, together):
        blocks = min(together, B - first)
        target.launch(ctc, blocks, THREADS, 0, first, logits, given, blank, counted, steps, cells, losses, gradient)
    return device.get(losses), gradient

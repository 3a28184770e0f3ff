"""One update of parameters, in place: of one model, and of many, for the optimizers that have their formulas.

Arithmetic is float64 in vector order, whatever the parameters' type; parameters and moments are rounded once an update.
"""

import math

import numpy as np

from ..._jit import kernel, loop
from ..._team import parallel
from .. import _update

# Kernels over flat vectors of one dtype: p, m, v and s are changed, g is not; clip is (limit, coefficient) ------------


@kernel
def sum_of_squares(g, limit, lanes):
    """Of the elements clipped to [-limit, limit]: interleaved sums in `lanes`, 0 before; then those and the rest."""
    rows, total = g.size // lanes.size, 0.0
    for i in range(rows):
        row = g[i * lanes.size : (i + 1) * lanes.size]
        for j in range(lanes.size):
            x = _update.bounded(row[j], limit)
            lanes[j] += x * x
    for j in range(lanes.size):
        total += lanes[j]
    for i in range(rows * lanes.size, g.size):
        x = _update.bounded(g[i], limit)
        total += x * x
    return total


@kernel
def descent(p, g, clip, rate, decay):
    for i in range(p.size):
        p[i] = _update.descent(p[i], g[i], clip, rate, decay)


@kernel
def heavy_ball(p, g, v, clip, rate, decay, momentum, nesterov):
    for i in range(p.size):
        p[i], v[i] = _update.heavy_ball(p[i], g[i], v[i], clip, rate, decay, momentum, nesterov)


@kernel
def rmsprop(p, g, moments, clip, rate, decay, keep, eps):
    """moments (square, mean, velocity), the last two empty where unused; keep (alpha, momentum)."""
    s, m, v = moments
    centered, moving = m.size > 0, v.size > 0
    means, velocities = m if centered else s, v if moving else s  # something to read in any case: branches cost vector registers
    for i in range(p.size):
        p[i], s[i], mean, velocity = _update.rmsprop(
            p[i], g[i], s[i], means[i], velocities[i], clip, rate, decay, keep, eps, centered
        )
        if centered:
            m[i] = mean
        if moving:
            v[i] = velocity


@kernel
def adam(p, g, moments, clip, decay, betas, scale, eps):
    """moments (mean, square); decay (what g gets of p, factor of p); scale (stride, root of 1 - beta2^t)."""
    m, v = moments
    for i in range(p.size):
        p[i], m[i], v[i] = _update.adam(p[i], g[i], m[i], v[i], clip, decay, betas, scale, eps)


# The same for many models: model rows[i] of p and of the moments, row places[i] of g, numbers[i] --------------------------


@parallel
@loop
def norms(who, e, g, lanes, found):
    for j in range(lanes.shape[1]):
        lanes[e, j] = 0.0
    found[e] = math.sqrt(sum_of_squares(g[e], np.inf, lanes[e]))


@parallel
@loop
def sgd_members(who, i, rows, places, p, g, moments, numbers):
    a, row, slope = numbers[i], p[rows[i]], g[places[i]]  # limit, coefficient, rate, decay, momentum, nesterov
    if a[4] > 0.0:
        heavy_ball(row, slope, moments[0][rows[i]], (a[0], a[1]), a[2], a[3], a[4], a[5] > 0.0)
    else:
        descent(row, slope, (a[0], a[1]), a[2], a[3])


@parallel
@loop
def rmsprop_members(who, i, rows, places, p, g, moments, numbers):
    s, m, v = moments
    a, r = numbers[i], rows[i]  # limit, coefficient, rate, decay, alpha, momentum, eps
    rmsprop(p[r], g[places[i]], (s[r], m[r], v[r]), (a[0], a[1]), a[2], a[3], (a[4], a[5]), a[6])


@parallel
@loop
def adam_members(who, i, rows, places, p, g, moments, numbers):
    m, v = moments
    a, r = numbers[i], rows[i]  # limit, coefficient, what g gets of p, factor of p, betas, stride, root, eps
    adam(p[r], g[places[i]], (m[r], v[r]), (a[0], a[1]), (a[2], a[3]), (a[4], a[5]), (a[6], a[7]), a[8])

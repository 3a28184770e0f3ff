"""What one update makes of one parameter and its moments, for every device: float64 arithmetic, whatever the parameters' type.

w the parameter, g its gradient; clip is (limit, coefficient).
"""

import math

import numpy as np

from .._jit import pointwise


@pointwise
def bounded(g, limit):
    """g clipped to [-limit, limit]."""
    g = np.float64(g)
    g = g if g < limit else limit
    return g if g > -limit else -limit


@pointwise
def descent(w, g, clip, rate, decay):
    """w."""
    w = np.float64(w)
    return w - rate * (bounded(g, clip[0]) * clip[1] + decay * w)


@pointwise
def heavy_ball(w, g, v, clip, rate, decay, momentum, nesterov):
    """(w, velocity)."""
    w = np.float64(w)
    d = bounded(g, clip[0]) * clip[1] + decay * w
    velocity = momentum * np.float64(v) + d
    return w - rate * (d + momentum * velocity if nesterov else velocity), velocity


@pointwise
def rmsprop(w, g, square, mean, velocity, clip, rate, decay, keep, eps, centered):
    """(w, square, mean, velocity); keep (alpha, momentum). A mean is read where `centered`; momentum 0 needs no velocity."""
    w, (alpha, momentum) = np.float64(w), keep
    d = bounded(g, clip[0]) * clip[1] + decay * w
    square = alpha * np.float64(square) + (1.0 - alpha) * d * d
    spread, mean = square, np.float64(mean)
    if centered:
        mean = alpha * mean + (1.0 - alpha) * d
        spread = square - mean * mean
        spread = spread if spread > 0.0 else 0.0  # rounding must not make a variance negative
    change = d / (math.sqrt(spread) + eps) + momentum * np.float64(velocity)
    return w - rate * change, square, mean, change


@pointwise
def adam(w, g, mean, square, clip, decay, betas, scale, eps):
    """(w, mean, square); decay (what g gets of w, factor of w); scale (stride, root of 1 - beta2^t)."""
    w, (added, keep), (first, second), (stride, root) = np.float64(w), decay, betas, scale
    d = bounded(g, clip[0]) * clip[1] + added * w
    mean = first * np.float64(mean) + (1.0 - first) * d
    square = second * np.float64(square) + (1.0 - second) * d * d
    return w * keep - stride * mean / (math.sqrt(square) / root + eps), mean, square

"""What one row of predictions costs, and its gradient, for every device: float64 arithmetic, rounded once to the gradient's type.

z a row of predictions, dz its gradient, which is filled; `share` is the row's weight over that of all rows. They return the row's loss.
"""

import math

import numpy as np

from .._jit import pointwise
from .._math import exp


@pointwise
def cross_entropy(z, label, share, dz, e):
    """label an integer in range; e (O,) float64 is scratch."""
    top, O = 0, z.shape[0]
    for j in range(1, O):
        if z[j] > z[top]:
            top = j
    largest = np.float64(z[top])
    for j in range(O):
        e[j] = exp(np.float64(z[j]) - largest)
    e[top] = rest = 0.0  # it is 1: kept apart, so that neither log(1 + rest) nor 1 - softmax cancels
    for j in range(O):
        rest += e[j]
    e[top] = 1.0
    scale = share / (1.0 + rest)
    for j in range(O):
        dz[j] = e[j] * scale
    dz[label] = (-rest if label == top else e[label] - (1.0 + rest)) * scale
    return (largest - np.float64(z[label])) + math.log1p(rest)


@pointwise
def binary_cross_entropy(z, y, share, dz):
    """y (O,) float64."""
    row, O = 0.0, z.shape[0]
    scale = share / O
    for j in range(O):
        a = np.float64(z[j])
        e = exp(-abs(a))
        row += ((a if a > 0.0 else 0.0) - a * y[j]) + math.log1p(e)
        on, off = (1.0, e) if a > 0.0 else (e, 1.0)  # s(a) and 1 - s(a), both times 1 + e
        dz[j] = ((1.0 - y[j]) * on - y[j] * off) / (1.0 + e) * scale
    return row / O


@pointwise
def mean_squared_error(z, y, share, dz):
    """y (O,) float64."""
    row, O = 0.0, z.shape[0]
    scale = 2.0 * share / O
    for j in range(O):
        difference = np.float64(z[j]) - y[j]
        row += difference * difference
        dz[j] = difference * scale
    return row / O

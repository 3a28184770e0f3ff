"""One update of many models on the GPU: a thread an element. Formulas, and so all but the order of a norm's sum, are the CPU's."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda, float64

from ..._jit import pointwise
from .. import _update
from . import target
from .target import kernel

THREADS = 256
SHARE = 16  # elements a thread at least, of a norm
PARTS = 128  # blocks at most


class Updates(NamedTuple):
    """The kernels of one dtype: `squares`, and a sweep a kind of optimizer."""

    squares: object
    sgd: object
    rmsprop: object
    adam: object


@pointwise
def _element():
    return cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x


@cache
def make_updates() -> Updates:
    """p and its moments (M, n), g (E, n), numbers (k, .): a row of p, one of g, and what `Optimizer._numbers` has."""

    @kernel
    def squares(g, limit, parts):
        """parts[e, b] = sum of squares of every P-th stretch of THREADS elements of g[e], each clipped to [-limit, limit]."""
        own, thread, e = cuda.shared.array(THREADS, float64), cuda.threadIdx.x, cuda.blockIdx.y
        total = 0.0
        for i in range(_element(), g.shape[1], parts.shape[1] * THREADS):
            x = _update.bounded(g[e, i], limit)
            total += x * x
        own[thread] = total
        cuda.syncthreads()
        if thread == 0:
            for other in range(1, THREADS):
                total += own[other]
            parts[e, cuda.blockIdx.x] = total

    @kernel
    def sgd(p, g, moments, numbers):
        """numbers: row, place, limit, coefficient, rate, decay, momentum, nesterov."""
        (v,), i, k = moments, _element(), cuda.blockIdx.y
        if i < p.shape[1]:
            r, slope, clip = int(numbers[k, 0]), g[int(numbers[k, 1]), i], (numbers[k, 2], numbers[k, 3])
            if numbers[k, 6] > 0.0:
                p[r, i], v[r, i] = _update.heavy_ball(
                    p[r, i], slope, v[r, i], clip, numbers[k, 4], numbers[k, 5], numbers[k, 6], numbers[k, 7] > 0.0
                )
            else:
                p[r, i] = _update.descent(p[r, i], slope, clip, numbers[k, 4], numbers[k, 5])

    @kernel
    def rmsprop(p, g, moments, numbers):
        """numbers: row, place, limit, coefficient, rate, decay, alpha, momentum, eps."""
        (s, m, v), i, k = moments, _element(), cuda.blockIdx.y
        if i < p.shape[1]:
            r, centered, keep = int(numbers[k, 0]), m.shape[1] > 0, (numbers[k, 6], numbers[k, 7])
            mean, velocity = m[r, i] if centered else 0.0, v[r, i] if v.shape[1] > 0 else 0.0
            p[r, i], s[r, i], mean, velocity = _update.rmsprop(
                p[r, i], g[int(numbers[k, 1]), i], s[r, i], mean, velocity, (numbers[k, 2], numbers[k, 3]), numbers[k, 4], numbers[k, 5],
                keep, numbers[k, 8], centered,
            )  # fmt: skip
            if centered:
                m[r, i] = mean
            if v.shape[1] > 0:
                v[r, i] = velocity

    @kernel
    def adam(p, g, moments, numbers):
        """numbers: row, place, limit, coefficient, what g gets of p, factor of p, betas, stride, root, eps."""
        (m, v), i, k = moments, _element(), cuda.blockIdx.y
        if i < p.shape[1]:
            r, clip, decay = int(numbers[k, 0]), (numbers[k, 2], numbers[k, 3]), (numbers[k, 4], numbers[k, 5])
            betas, scale = (numbers[k, 6], numbers[k, 7]), (numbers[k, 8], numbers[k, 9])
            slope, eps = g[int(numbers[k, 1]), i], numbers[k, 10]
            p[r, i], m[r, i], v[r, i] = _update.adam(p[r, i], slope, m[r, i], v[r, i], clip, decay, betas, scale, eps)

    return Updates(squares, sgd, rmsprop, adam)


def norms(device, g, limit: float) -> np.ndarray:
    """The Euclidean norm of every row of g (E, n), its elements clipped to [-limit, limit]."""
    E, n = g.shape
    parts = device.empty((E, min(PARTS, -(-n // (THREADS * SHARE)))), np.float64)
    if parts.size:
        target.launch(make_updates().squares, (parts.shape[1], E), THREADS, 0, g, limit, parts)
    return np.sqrt(device.get(parts).sum(axis=1))  # on the host, where a row's order does not depend on how many there are


def sweep(device, kind: str, rows, places, p, g, moments, numbers) -> None:
    """The update of one kind of optimizer; rows, places and numbers are of the host."""
    blocks = (-(-p.shape[1] // THREADS), len(rows))
    if p.shape[1]:
        given = device.put(np.column_stack([rows, places, numbers]))
        target.launch(getattr(make_updates(), kind), blocks, THREADS, 0, p, g, moments, given)

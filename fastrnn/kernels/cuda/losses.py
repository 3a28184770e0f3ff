"""Losses on the GPU: a thread a row. The rows' losses and gradients have the CPU's formulas."""

from functools import cache

import numpy as np
from numba import cuda, float64

from .. import _loss
from . import target
from .target import kernel

THREADS = 128


@cache
def make_loss(name: str):
    """values[n] = weights[n] times the loss of row n of prediction (N, O), 0 where the weight is; fills that row of `gradient`.

    weights (N,), totals (E,) their sums by model, E models of as many rows each; scratch (N, O), or (N, 0) where there is no need of it.
    """
    row, labels = getattr(_loss, name), name == "cross_entropy"

    @kernel
    def loss(prediction, wanted, weights, totals, gradient, values, scratch):
        n = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if n < prediction.shape[0]:
            values[n] = 0.0
            if weights[n] > 0.0:
                share = weights[n] / totals[n // (prediction.shape[0] // totals.shape[0])]
                if labels:
                    values[n] = weights[n] * row(prediction[n], wanted[n], share, gradient[n], scratch[n])
                else:
                    values[n] = weights[n] * row(prediction[n], wanted[n], share, gradient[n])

    return loss


@cache
def make_total():
    @kernel
    def total(values, found):
        """found[e] = the sum of values[e], in an order that N alone decides; a block a model."""
        own, thread, e = cuda.shared.array(THREADS, float64), cuda.threadIdx.x, cuda.blockIdx.x
        value = 0.0
        for n in range(thread, values.shape[1], THREADS):
            value += values[e, n]
        own[thread] = value
        cuda.syncthreads()
        if thread == 0:
            for other in range(1, THREADS):
                value += own[other]
            found[e] = value

    return total


def mean(device, name: str, prediction, wanted, weights, totals):
    """(mean losses (E,) of the host, gradient) of E models: prediction (E, N, O); wanted, weights (E, N), totals (E,) of the host."""
    (E, N, O), put = prediction.shape, device.put
    gradient, values = device.zeros(prediction.shape, prediction.dtype), device.zeros((E, N), np.float64)
    found = device.zeros(E, np.float64)
    scratch = device.empty((E * N, O if name == "cross_entropy" else 0), np.float64)
    if values.size:
        given = prediction.reshape(-1, O), put(wanted), put(weights.ravel()), put(totals)
        target.launch(make_loss(name), -(-E * N // THREADS), THREADS, 0, *given, gradient.reshape(-1, O), values.reshape(-1), scratch)
        target.launch(make_total(), E, THREADS, 0, values, found)
    found = device.get(found)
    return np.where(totals > 0, found / np.where(totals > 0, totals, 1.0), 0.0), gradient

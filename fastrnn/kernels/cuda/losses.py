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
    """values[n] = weights[n] times the loss of row n of prediction (N, O), 0 where the weight is; fills `gradient`, with zeros there.

    weights (N + E,): those of the rows of E models, of as many each, and each model's sum; scratch (N, O), or (N, 0) where not needed.
    """
    row, labels = getattr(_loss, name), name == "cross_entropy"

    @kernel
    def loss(prediction, wanted, weights, gradient, values, scratch):
        n, N = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, prediction.shape[0]
        if n < N:
            values[n] = 0.0
            if weights[n] > 0.0:
                share = weights[n] / weights[N + n // (N // (weights.shape[0] - N))]
                if labels:
                    values[n] = weights[n] * row(prediction[n], wanted[n], share, gradient[n], scratch[n])
                else:
                    values[n] = weights[n] * row(prediction[n], wanted[n], share, gradient[n])
            else:
                for j in range(gradient.shape[1]):
                    gradient[n, j] = 0

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
    (E, N, O), put, empty = prediction.shape, device.put, device.empty
    gradient, values = empty((E * N, O), prediction.dtype), empty((E, N), np.float64)
    if not values.size:
        return np.zeros(E), gradient.reshape(prediction.shape)
    found, scratch = empty(E, np.float64), empty((E * N, O if name == "cross_entropy" else 0), np.float64)
    given = prediction.reshape(E * N, O), put(wanted), put(np.concatenate([weights.ravel(), totals]))
    target.launch(make_loss(name), -(-E * N // THREADS), THREADS, 0, *given, gradient, values.reshape(-1), scratch)
    target.launch(make_total(), E, THREADS, 0, values, found)
    found = device.get(found)
    return np.where(totals > 0, found / np.where(totals > 0, totals, 1.0), 0.0), gradient.reshape(prediction.shape)

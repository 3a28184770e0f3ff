"""Leaky units in continuous time: tau dh/dt = -h + f(W x + U h + b), the input held over a step of length dt.

h' = (1 - k) h + k f(...), k = 1 - exp(-dt / tau): the exact solution over a step, stable for every dt. tau and dt in seconds,
one tau a unit, kept as its logarithm so that it stays positive while it is learned.
"""

import math

from .. import _check
from .._jit import pointwise
from .._math import activations, exp, expm1
from ._cell import Cell, both


def leaky(tau: float = 0.1, dt: float = 0.01, learn_tau: bool = False, activation: str = "tanh") -> Cell:
    log_tau, dt = math.log(_check.real("tau", tau, positive=True)), _check.real("dt", dt, positive=True)
    _check.choice("learn_tau", learn_tau, (False, True))
    f, df = activations(activation=activation)

    @pointwise
    def step(a, s, p):
        y, k = f(a[0]), -expm1(-p[1] * exp(-p[0]))
        return (s[0] + k * (y - s[0]),), (y,)

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        (y,), (h,), (dh,) = saved, s, ds_new
        rate = p[1] * exp(-p[0])
        k = -expm1(-rate)
        dk = dh * (y - h)  # dk/d(log tau) = -(1 - k) rate
        one = type(h)(1.0)
        return (dh * k * df(y),), (dh * (one - k),), (-dk * (one - k) * rate, type(h)(0.0))

    return Cell(
        "leaky", gates=("h",), slots=both("h"), states=("h",), saved=("f",), step=step, step_backward=step_backward,
        parameters=("log_tau", "dt"), fixed=("dt",) if learn_tau else ("log_tau", "dt"), defaults=(log_tau, dt),
    )  # fmt: skip

"""Elman network [Elman 1990; Goodfellow et al. 2016, eq. 10.8-10.9]: h' = f(W x + U h + b)."""

from .._jit import pointwise
from .._math import activations
from ._cell import Cell, both


def rnn(activation: str = "tanh") -> Cell:
    f, df = activations(activation=activation)

    @pointwise
    def step(a, s, p):
        return (f(a[0]),), ()

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        da = ds_new[0] * df(s_new[0])
        return (da,), (type(da)(0.0),), ()

    return Cell("rnn", gates=("h",), slots=both("h"), states=("h",), saved=(), step=step, step_backward=step_backward)

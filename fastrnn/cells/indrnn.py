"""Independently recurrent network [Li et al. 2018, eq. 2]: h' = f(W x + u * h + b), each unit connected to itself only."""

from .._jit import pointwise
from .._math import activations
from ._cell import Cell, Slot


def indrnn(activation: str = "relu") -> Cell:
    f, df = activations(activation=activation)

    @pointwise
    def step(a, s, p):
        return (f(a[0] + p[0] * s[0]),), ()

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        da = ds_new[0] * df(s_new[0])
        return (da,), (da * p[0],), (da * s[0],)

    return Cell(
        "indrnn", gates=("h",), slots=(Slot("h", "h", None),), states=("h",), saved=(), step=step, step_backward=step_backward,
        parameters=("weight_hh",), biases=("bias_ih",), defaults=(None,),
    )  # fmt: skip

"""A layer without memory as a cell, h' = f(W x + b): what a `Linear` is in a loop that goes step by step."""

from functools import cache

from .._jit import pointwise
from .._math import activations
from ._cell import Cell, Slot


@cache
def dense(activation: str) -> Cell:
    f, df = activations(activation=activation)

    @pointwise
    def step(a, s, p):
        return (f(a[0]),), ()

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        da = ds_new[0] * df(s_new[0])
        return (da,), (type(da)(0.0),), ()

    return Cell(
        "dense", gates=("h",), slots=(Slot("h", "h", None),), states=("h",), saved=(), step=step, step_backward=step_backward,
        biases=("bias_ih",),
    )  # fmt: skip

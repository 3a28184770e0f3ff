"""Elman network over a grid [Graves, Fernandez & Schmidhuber 2007, eq. 1-2]: h = f(W x + U_up h_up + U_left h_left + b)."""

from .. import cells
from .._jit import pointwise
from ._cell import Cell2D


def rnn(activation: str = "tanh") -> Cell2D:
    line = cells.build("rnn", activation=activation)
    step_line, step_line_backward = line.step, line.step_backward

    @pointwise
    def step(a, up, left, there):
        return step_line(a, left, ())

    @pointwise
    def step_backward(saved, up, left, there, s_new, ds_new):
        da, zeros, _ = step_line_backward(saved, left, s_new, (), ds_new)
        return da, zeros, zeros

    return Cell2D("rnn", line.gates, line.slots, line.states, line.saved, step, step_backward)

"""LSTM over a grid, a forget gate for each neighbour [Graves, Fernandez & Schmidhuber 2007, section 2.2, without peepholes].

i, f_up, f_left, o = sigmoid(W x + U_up h_up + U_left h_left + b), g = tanh(...),
c = f_left c_left + f_up c_up + i g, h = o tanh(c); gate order i, f_up, f_left, g, o: the one-dimensional order with f twice.

The two forget gates may add up to more than 1, and c and its gradient then grow with the distance: along all paths together by
f_up + f_left a step [Leifert et al. 2016, Cells in multidimensional recurrent neural networks, JMLR 17(97)]. So no forget bias.
"""

from .._jit import pointwise
from .._math import sigmoid, sigmoid_backward, tanh, tanh_backward
from ..cells import both
from ._cell import Cell2D


def lstm() -> Cell2D:
    @pointwise
    def step(a, up, left, there):
        a_i, a_up, a_left, a_g, a_o = a
        i, f_up, f_left, g, o = sigmoid(a_i), sigmoid(a_up), sigmoid(a_left), tanh(a_g), sigmoid(a_o)
        c = f_left * left[1] + f_up * up[1] + i * g
        return (o * tanh(c), c), (i, f_up, f_left, g, o)

    @pointwise
    def step_backward(saved, up, left, there, s_new, ds_new):
        i, f_up, f_left, g, o = saved
        dh, dc = ds_new
        y = tanh(s_new[1])
        da_o = dh * y * sigmoid_backward(o)
        dc = dc + dh * o * tanh_backward(y)
        da_g = dc * i * tanh_backward(g)
        da_i = dc * g * sigmoid_backward(i)
        da_up = dc * up[1] * sigmoid_backward(f_up)
        da_left = dc * left[1] * sigmoid_backward(f_left)
        zero = type(dc)(0.0)
        return (da_i, da_up, da_left, da_g, da_o), (zero, dc * f_up), (zero, dc * f_left)

    gates = ("i", "f_up", "f_left", "g", "o")
    return Cell2D("lstm", gates, both(*gates), ("h", "c"), gates, step, step_backward)

"""GRU over a grid: the one-dimensional one [Cho et al. 2014], whose old state is a mixture of the two neighbours'.

m = sigmoid(W_m x + U_m,up h_up + U_m,left h_left + b_m), s = m h_up + (1 - m) h_left; where there is one neighbour, s is its state.
r, z = sigmoid(...), n = tanh(W_n x + b_n + r (U_n,up h_up + U_n,left h_left + b'_n)), h = (1 - z) n + z s; gate order r, z, n, m.

There is no agreed GRU of two dimensions. This one keeps what makes the one-dimensional one stable: the new state is a convex
combination, of n and both neighbours. The mixture is the convex combination of predecessors by which Leifert et al. 2016 (Cells in
multidimensional recurrent neural networks, JMLR 17(97)) keep an LSTM's memory bounded in several dimensions.
"""

from .. import cells
from .._jit import pointwise
from .._math import sigmoid, sigmoid_backward
from ..cells import Slot
from ._cell import Cell2D


def gru() -> Cell2D:
    line = cells.build("gru")
    step_line, step_line_backward = line.step, line.step_backward

    @pointwise
    def share(m, there):
        """What of the mixture is the upper neighbour's."""
        return m if there[0] & there[1] else type(m)(1.0 if there[0] else 0.0)

    @pointwise
    def step(a, up, left, there):
        a_n, a_r, a_z, a_m, u_n = a
        m = share(sigmoid(a_m), there)
        s = left[0] + m * (up[0] - left[0])
        s_new, (r, z, n, u_n) = step_line((a_n, a_r, a_z, u_n), (s,), ())
        return s_new, (r, z, n, m, u_n)

    @pointwise
    def step_backward(saved, up, left, there, s_new, ds_new):
        r, z, n, m, u_n = saved
        s = left[0] + m * (up[0] - left[0])
        (da_n, da_r, da_z, du_n), (ds,), _ = step_line_backward((r, z, n, u_n), (s,), s_new, (), ds_new)
        da_m = ds * (up[0] - left[0]) * sigmoid_backward(m)
        return (da_n, da_r, da_z, da_m, du_n), (ds * m,), (ds * (type(m)(1.0) - m),)

    slots = (*line.slots[:3], Slot("m", "m", "m"), line.slots[3])
    return Cell2D("gru", (*line.gates, "m"), slots, line.states, ("r", "z", "n", "m", "u_n"), step, step_backward)

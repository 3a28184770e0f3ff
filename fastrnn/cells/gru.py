"""GRU [Cho et al. 2014], gate order r, z, n as in PyTorch.

r, z = sigmoid(W x + U h + b), h' = (1 - z) n + z h, with the reset gate
after the product (PyTorch, cuDNN):  n = tanh(W_n x + b_n + r (U_n h + b'_n)), or
before it (the paper):               n = tanh(W_n x + b_n + U_n (r h) + b'_n).
"""

from .. import _check
from .._jit import pointwise
from .._math import activations
from ._cell import Cell, Slot, both


def gru(reset_after: bool = True, gate_activation: str = "sigmoid", activation: str = "tanh") -> Cell:
    _check.choice("reset_after", reset_after, (True, False))
    build = _after if reset_after else _before
    return build(*activations(gate_activation=gate_activation), *activations(activation=activation))


def _after(gate, dgate, squash, dsquash) -> Cell:
    @pointwise
    def step(a, s, p):
        a_n, a_r, a_z, u_n = a
        (h,) = s
        r, z = gate(a_r), gate(a_z)
        n = squash(a_n + r * u_n)
        return (n + z * (h - n),), (r, z, n, u_n)

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        r, z, n, u_n = saved
        (h,), (dh,) = s, ds_new
        da_n = dh * (type(h)(1.0) - z) * dsquash(n)
        da_z = dh * (h - n) * dgate(z)
        return (da_n, da_n * u_n * dgate(r), da_z, da_n * r), (dh * z,), ()

    slots = (Slot("n", "n", None), *both("r", "z"), Slot("u_n", None, "n"))
    return Cell("gru", ("r", "z", "n"), slots, ("h",), ("r", "z", "n", "u_n"), step, step_backward)


def _before(gate, dgate, squash, dsquash) -> Cell:
    @pointwise
    def modulate(a, h, p):
        return gate(a[0]) * h

    @pointwise
    def step(a, s, p):
        a_r, a_z, a_n = a
        (h,) = s
        r, z, n = gate(a_r), gate(a_z), squash(a_n)
        return (n + z * (h - n),), (r, z, n)

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        r, z, n = saved
        (h,), (dh,) = s, ds_new
        zero = type(h)(0.0)
        return (zero, dh * (h - n) * dgate(z), dh * (type(h)(1.0) - z) * dsquash(n)), (dh * z,), ()

    @pointwise
    def modulate_backward(saved, h, p, du):
        r = saved[0]
        zero = type(h)(0.0)
        return r * h, (du * h * dgate(r), zero, zero), (du * r,)

    slots = (*both("r", "z"), Slot("n", "n", "n", modulated=True))
    return Cell(
        "gru", ("r", "z", "n"), slots, ("h",), ("r", "z", "n"), step, step_backward,
        modulate=modulate, modulate_backward=modulate_backward,
    )  # fmt: skip

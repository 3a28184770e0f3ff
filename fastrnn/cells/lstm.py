"""LSTM [Hochreiter & Schmidhuber 1997; Gers et al. 2000], gate order i, f, g, o as in PyTorch.

i, f, o = sigmoid(W x + U h + b), g = tanh(...), c' = f c + i g, h' = o tanh(c')   (Goodfellow et al. 2016, eq. 10.40-10.44)

Peepholes [Gers & Schmidhuber 2000]: i and f also see c, o sees c'. Coupled gates [Greff et al. 2017]: f = 1 - i, and no f block.
`clip` bounds every pre-activation to [-clip, clip], as ONNX's LSTM does; no gradient passes where it acted.
"""

from .. import _check
from .._jit import pointwise
from .._math import activations
from ._cell import Cell, both


def lstm(
    peepholes: bool = False,
    coupled: bool = False,
    clip: float | None = None,
    gate_activation: str = "sigmoid",
    activation: str = "tanh",
    output_activation: str = "tanh",
) -> Cell:
    _check.choice("peepholes", peepholes, (False, True))
    _check.choice("coupled", coupled, (False, True))
    gate, dgate = activations(gate_activation=gate_activation)
    squash, dsquash = activations(activation=activation)
    output, doutput = activations(output_activation=output_activation)
    clipped = clip is not None
    bound = _check.real("clip", clip, positive=True) if clipped else 0.0

    @pointwise
    def limit(a):
        if clipped:
            top = type(a)(bound)
            a = -top if a.real < -top.real else a
            return top if a.real > top.real else a
        return a

    @pointwise
    def inside(a):
        """1 where the clip leaves a alone, else 0."""
        one = type(a)(1.0)
        return one if (a.real > -bound) & (a.real < bound) else one * type(a)(0.0)

    @pointwise
    def step(a, s, p):
        _, c = s
        if coupled:
            a_i, a_g, a_o = a
        else:
            a_i, a_f, a_g, a_o = a
        if peepholes:
            a_i = a_i + p[0] * c
            if not coupled:
                a_f = a_f + p[1] * c
        i, g = gate(limit(a_i)), squash(limit(a_g))
        if coupled:
            f = type(c)(1.0) - i
        else:
            f = gate(limit(a_f))
        c_new = f * c + i * g
        if peepholes:
            a_o = a_o + p[-1] * c_new
        o = gate(limit(a_o))
        s_new = o * output(c_new), c_new
        if coupled:
            saved = i, g, o
            if clipped:
                return s_new, saved + (inside(a_i), inside(a_g), inside(a_o))
        else:
            saved = i, f, g, o
            if clipped:
                return s_new, saved + (inside(a_i), inside(a_f), inside(a_g), inside(a_o))
        return s_new, saved

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        _, c = s
        _, c_new = s_new
        dh, dc = ds_new
        one = type(c)(1.0)
        if coupled:
            i, g, o = saved[0], saved[1], saved[2]
            f = one - i
        else:
            i, f, g, o = saved[0], saved[1], saved[2], saved[3]
        y = output(c_new)
        da_o = dh * y * dgate(o)
        if clipped:
            da_o = da_o * saved[-1]
        dc = dc + dh * o * doutput(y)
        if peepholes:
            dc = dc + da_o * p[-1]
        da_g = dc * i * dsquash(g)
        if coupled:
            da_i = dc * (g - c) * dgate(i)
        else:
            da_i, da_f = dc * g * dgate(i), dc * c * dgate(f)
        if clipped:
            da_i, da_g = da_i * saved[-3 if coupled else -4], da_g * saved[-2]
            if not coupled:
                da_f = da_f * saved[-3]
        dc = dc * f
        if peepholes:
            dc = dc + da_i * p[0]
            if not coupled:
                dc = dc + da_f * p[1]
        ds = type(c)(0.0), dc
        if coupled:
            if peepholes:
                return (da_i, da_g, da_o), ds, (da_i * c, da_o * c_new)
            return (da_i, da_g, da_o), ds, ()
        if peepholes:
            return (da_i, da_f, da_g, da_o), ds, (da_i * c, da_f * c, da_o * c_new)
        return (da_i, da_f, da_g, da_o), ds, ()

    gates = ("i", "g", "o") if coupled else ("i", "f", "g", "o")
    looks = tuple(f"peephole_{name}" for name in gates if name != "g") if peepholes else ()
    return Cell(
        "lstm",
        gates=gates,
        slots=both(*gates),
        states=("h", "c"),
        saved=gates + tuple(f"inside_{name}" for name in gates) * clipped,
        step=step,
        step_backward=step_backward,
        parameters=looks,
        defaults=(None,) * len(looks),
    )

"""An activation over a flat array, in place, and its derivative."""

from functools import cache

from ..._jit import kernel
from ..._math import ACTIVATIONS


@cache
def activate(name: str):
    """Kernel y[:] = f(y)."""
    f = ACTIVATIONS[name][0]

    @kernel
    def apply(y):
        for n in range(y.shape[0]):
            y[n] = f(y[n])

    return apply


@cache
def activate_backward(name: str):
    """Kernel dy[:] *= f'(.), with f' written as a function of the output y."""
    df = ACTIVATIONS[name][1]

    @kernel
    def apply(y, dy):
        for n in range(y.shape[0]):
            dy[n] *= df(y[n])

    return apply

"""What a cell of two dimensions is: `Cell` with two neighbours instead of one step before."""

from collections.abc import Callable
from typing import NamedTuple

from ..cells import Slot


class Cell2D(NamedTuple):
    """One recurrent cell over a grid. Every function takes and returns tuples of scalars, for one unit at one pixel.

    A slot sums ``weight_ih[input] x + bias_ih[input]`` and ``weight_up[recurrent] h_up + weight_left[recurrent] h_left +
    bias_hh[recurrent]``. A neighbour beyond the border adds nothing to it, and has states 0.

    Attributes
    ----------
    name : str
    gates : tuple of str
        The blocks of rows of the weights, in order.
    slots : tuple of Slot
        The pre-activations, those without a recurrent part first and those without an input part last; none `modulated`.
    states : tuple of str
        The first is the output.
    saved : tuple of str
        Names of what `step` keeps for `step_backward`: the tape.
    step : callable
        ``step(a, up, left, there) -> (s_new, saved)``: pre-activations and the neighbours' states to new states and tape. `there`
        says of each neighbour, (up, left), whether it exists.
    step_backward : callable
        ``step_backward(saved, up, left, there, s_new, ds_new) -> (da, dup, dleft)``.
    """

    name: str
    gates: tuple[str, ...]
    slots: tuple[Slot, ...]
    states: tuple[str, ...]
    saved: tuple[str, ...]
    step: Callable
    step_backward: Callable
    biases = ("bias_ih", "bias_hh")

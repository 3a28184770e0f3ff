"""What a cell is: names, and the maths of one unit at one step."""

from collections.abc import Callable
from typing import NamedTuple


class Slot(NamedTuple):
    """One pre-activation of a unit: which block of the weights feeds it.

    A slot sums ``weight_ih[input] x + bias_ih[input]`` and ``weight_hh[recurrent] h + bias_hh[recurrent]``; None leaves a part out.
    """

    name: str
    input: str | None
    recurrent: str | None
    modulated: bool = False  # the recurrent operand is what `Cell.modulate` returns, not h


class Cell(NamedTuple):
    """One recurrent cell. Every function takes and returns tuples of scalars, for one unit at one step.

    Attributes
    ----------
    name : str
    gates : tuple of str
        The blocks of rows of ``weight_ih`` and ``weight_hh``, in order.
    slots : tuple of Slot
        The pre-activations, those without a recurrent part first and those without an input part last.
    states : tuple of str
        The first is the output.
    saved : tuple of str
        Names of what `step` keeps for `step_backward`: the tape.
    step : callable
        ``step(a, s, p) -> (s_new, saved)``: pre-activations, states, unit parameters to new states and tape.
    step_backward : callable
        ``step_backward(saved, s, s_new, p, ds_new) -> (da, ds, dp)``.
    parameters : tuple of str
        Per-unit vectors (H,), such as peepholes.
    fixed : tuple of str
        Which of `parameters` are constants rather than learned.
    biases : tuple of str
        Which of ``bias_ih``, ``bias_hh`` the cell has.
    defaults : tuple of float
        Initial value of each of `parameters`; None draws it as the weights are drawn.
    modulate, modulate_backward : callable, optional
        Where a slot is `modulated` (one, the last): ``modulate(a, h, p) -> u`` gives the operand of its recurrent product, once the
        other slots are summed; ``modulate_backward(saved, h, p, du) -> (u, da, ds)`` the operand again, and what a gradient of it
        adds to those of the slots and of the states.
    """

    name: str
    gates: tuple[str, ...]
    slots: tuple[Slot, ...]
    states: tuple[str, ...]
    saved: tuple[str, ...]
    step: Callable
    step_backward: Callable
    parameters: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    biases: tuple[str, ...] = ("bias_ih", "bias_hh")
    defaults: tuple[float | None, ...] = ()
    modulate: Callable | None = None
    modulate_backward: Callable | None = None


def both(*names: str) -> tuple[Slot, ...]:
    """Slots that take the input's and the recurrent product of the gate of the same name."""
    return tuple(Slot(name, name, name) for name in names)

"""What the time loops of every device are given, and how a cell's slots lie in memory."""

from functools import cache
from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """What the loop runs over: x (E or 1, T, B, D), order (E or 1, B) rows, in a slice longest first, lengths (E or 1, B).

    mask (E or 1, B or 0, H) is that of recurrent dropout.
    goal (E, T, B, H) and alpha (T,), or both of no steps: after step t, h goes on as (1 - alpha) h + alpha goal [Hess et al. 2023].
    """

    x: np.ndarray
    order: np.ndarray
    lengths: np.ndarray
    mask: np.ndarray
    goal: np.ndarray
    alpha: np.ndarray


class Trace(NamedTuple):
    """What forward leaves: y (E, T, B, >=H), others (E, steps or 0, B, S - 1, H), saved (..., K, H), preactivations (..., G, H)."""

    y: np.ndarray
    others: np.ndarray
    saved: np.ndarray
    preactivations: np.ndarray


class Flow(NamedTuple):
    """Activation gradients: dy (E, T or 0, B, >=H) read; dx (E, T or 0, B, D) written; dstates, dpreactivations by step, or 0 steps."""

    dy: np.ndarray
    dx: np.ndarray
    dstates: np.ndarray
    dpreactivations: np.ndarray


class Layout(NamedTuple):
    """How a cell's slots lie in a row of pre-activations: [first, last) slot of each product, and the row's width in units."""

    slots: int
    input: tuple[int, int]
    recurrent: tuple[int, int]
    modulated: tuple[int, int]


@cache
def layout(cell) -> Layout:
    """The slots each product fills; they must be contiguous, which the order of `Cell.slots` sees to."""

    def run(chosen):
        places = [k for k, slot in enumerate(cell.slots) if chosen(slot)]
        if places != list(range(places[0], places[-1] + 1)) if places else False:
            raise ValueError(f"slots of cell {cell.name!r}: input-only slots first, then both, recurrent-only, modulated; got {cell.slots}")
        return (places[0], places[-1] + 1) if places else (0, 0)

    return Layout(
        len(cell.slots),
        run(lambda slot: slot.input is not None),
        run(lambda slot: slot.recurrent is not None and not slot.modulated),
        run(lambda slot: slot.modulated),
    )

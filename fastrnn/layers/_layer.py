"""One recurrent layer: its directions side by side, their merging, and the segments of time whose tape is kept."""

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from .._device import CPU, Device
from ..cells import Cell
from ..kernels._loop import Flow
from ._direction import Direction, Kept, dealt, slice_rows
from ._merge import merged, merged_backward


class Rows(NamedTuple):
    """How a batch stands: `order` (E or 1, B) of its rows, in each slice the longest first; their `lengths`; `steps` of the longest;
    `even` where all are as long.
    """

    order: np.ndarray
    lengths: np.ndarray
    steps: int
    even: bool

    @classmethod
    def of(cls, lengths: np.ndarray) -> "Rows":
        """From lengths (E or 1, B)."""
        order, B = np.argsort(-lengths, axis=1, kind="stable"), lengths.shape[1]
        ragged = (lengths != lengths[:, :1]).any(axis=1)
        order[ragged] = order[ragged][:, dealt(B, slice_rows(B))]
        steps = int(lengths.max(initial=0))
        return cls(order, lengths, steps, bool((lengths == steps).all()))

    @classmethod
    @lru_cache(64)
    def full(cls, T: int, B: int) -> "Rows":
        """Of a batch without padding."""
        return cls.of(np.full((1, B), T))


class Shown(NamedTuple):
    """Gradients of one direction at every step, by step: dstates (E, steps, B, S, H), dpreactivations (E, steps, B, G, H)."""

    dstates: np.ndarray
    dpreactivations: np.ndarray


def direction_on(device: Device) -> type[Direction]:
    """Whose kernels run on `device`."""
    if device.name == "cpu":
        return Direction
    from ._cuda import CudaDirection  # as the device, only where it is wanted

    return partial(CudaDirection, device)


class Layer:
    """The directions of one layer, for E models of one shape, which one alone is, too.

    Parameters come as one dict a direction: where they lie, by name without suffix.
    """

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, reversals: tuple[bool, ...], merge: str, device: Device = CPU):
        self.cell, self.H, self.device = cell, hidden_size, device
        self.directions = [direction_on(device)(cell, input_size, hidden_size, backwards) for backwards in reversals]
        self.concat, self.merge = merge == "concat" or len(reversals) == 1, merge

    def step_bytes(self, B: int, dtype) -> int:
        """What the tape takes a step, beside y."""
        return len(self.directions) * B * self.H * (len(self.cell.states) - 1 + len(self.cell.saved)) * dtype.itemsize

    def forward(self, x, parameters, rows: Rows, states, masks, segment: int | None, details: bool, pull=None):
        """(y, kept, final states) of x (E or 1, T, B, D). `segment`: steps whose tape is held at a time, None for no tape at all.

        Kept whole where segment >= steps; otherwise only the state at the start of every segment, and y. With no tape the final states
        take the place of those that entered. `pull`: see `Direction.batch`.
        """
        (T, B, _), E, H, dtype, count = x.shape[1:], len(states[0]), self.H, x.dtype, len(self.directions)
        tape_steps = rows.steps if segment is not None and segment >= rows.steps else 0
        empty, shared = self.device.empty, None
        G, kept_numbers = len(self.cell.slots), self.step_bytes(B, dtype) // dtype.itemsize
        numbers = count * B * (T * H + rows.steps * G * (1 + details) * H) + tape_steps * kept_numbers  # y, pre-activations, tape
        self.device.require_room(E * numbers, dtype, f"{T} steps of {B} sequences forward")
        if self.concat:
            shared = empty((E, T, B, H * count), dtype)
        kept, starts, states = [], states, [state.copy() for state in states] if segment is not None else states
        for n, mask in enumerate(masks):
            y = shared if self.concat else empty((E, T, B, H), dtype)
            if rows.steps < T:
                y[:, rows.steps :] = 0.0  # the kernel clears what lies between a row's length and the longest
            tape = self.directions[n].room(E, tape_steps, B, dtype) + (empty((E, rows.steps * details, B, G, H), dtype),)
            batch = self.directions[n].batch(x, rows, mask, pull)
            kept.append(Kept(batch, y, n * H * self.concat, *tape, [], segment or max(rows.steps, 1), rows.even))
        for d, p, k, start, state in zip(self.directions, parameters, kept, starts, states):
            # calls without a tape come in rows, with the same weights
            d.forward_through(p, k, start, state, rows.steps, learning=segment is not None)
        return self._merged(kept), kept, states

    def _merged(self, kept: list[Kept]) -> np.ndarray:
        y = [k.y for k in kept]
        return y[0] if self.concat else merged(self.merge, *y)

    def _dy(self, dy, kept: list[Kept]) -> list[np.ndarray]:
        """dL/dy of every direction from that of the merged output."""
        if dy is None:
            return [self.device.empty((kept[0].y.shape[0], 0, 0, 0), kept[0].y.dtype)] * len(kept)
        if self.concat:
            return [dy] * len(kept)
        return list(merged_backward(self.merge, *(k.y for k in kept), dy))

    def backward(self, kept: list[Kept], parameters, rows: Rows, dy, dstates, grads, begin: int, limit, details: bool, inputs=True):
        """(dx, dL/d(start states), what was cut (E, 3), shown). Adds to `grads`, one mapping a direction; goes back to step `begin`.

        `inputs`: whether dL/dx is wanted; without it dx has no steps.
        """
        (T, B, D), E, dtype = kept[0].batch.x.shape[1:], kept[0].y.shape[0], kept[0].y.dtype
        S, G = len(self.cell.states), len(self.cell.slots)
        numbers = T * D * inputs + min(rows.steps, kept[0].segment) * (G + 2 + len(self.cell.parameters) + (G + S) * details) * self.H
        self.device.require_room(E * B * len(kept) * numbers, dtype, f"{T} steps of {B} sequences backward")
        everywhere = begin == 0 and rows.even and rows.steps == T
        empty, zeros = self.device.empty, self.device.zeros
        show = zeros if details else empty
        dx = [(empty if everywhere else zeros)((E, T * inputs, B, D), dtype) for _ in kept]
        dstates, steps = [state.copy() for state in dstates], rows.steps
        shown = [
            Shown(show((E, steps * details, B, S, self.H), dtype), show((E, steps * details, B, G, self.H), dtype)) for _ in kept
        ]
        cut, flows = 0.0, [Flow(*arrays, *seen) for *arrays, seen in zip(self._dy(dy, kept), dx, shown)]
        for d, p, k, flow, dstate, found in zip(self.directions, parameters, kept, flows, dstates, grads):
            cut = cut + d.backward_through(p, k, flow, dstate, found, begin, steps, limit)
        return dx[0] if len(dx) == 1 else dx[0] + dx[1], dstates, cut, shown

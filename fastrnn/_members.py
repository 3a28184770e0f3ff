"""Some members of an ensemble as one network: what `bptt` asks of a model, with the member axis first in every array.

Member e has the bits of its model alone: every number is computed from that member's rows in the order in which a model alone does it.
"""

import copy
from typing import NamedTuple

import numpy as np

from . import _device
from ._device import Device
from ._params import At, Params
from .data.batches import Batch
from .layers._layer import Rows
from .layers._merge import merged, merged_backward
from .layers.feedforward import Dropout, Embedding, Linear, dropout_mask
from .layers.recurrent import Masks, Recurrent, Tape

LAYERS = (Recurrent, Linear, Embedding, Dropout)


class Trace(NamedTuple):
    """What one forward pass keeps for its backward pass."""

    tapes: list
    masks: list  # recurrent dropout masks, one list a recurrent layer
    shape: tuple  # of the features that the readout took, (E, T, B, F)
    lengths: np.ndarray
    counted: np.ndarray  # steps over which the mean was taken
    finals: tuple  # the states at the end, one list of (E, S, B, H) a recurrent layer


class Section(NamedTuple):
    """One layer's part of `Params`, by the layer's own names."""

    params: Params
    layer: int

    def at(self, name: str) -> At:
        return self.params.at(f"{self.layer}.{name}")


class Members:
    """Members `rows` of the models whose parameters are `params` (M, n) and whose fixed ones are `constants`, one Params (M, .) a layer."""

    def __init__(self, model, params: Params, constants: list, rows: np.ndarray):
        self.model, self.readout, self.rows, self._whole, self.device = model, model.readout, rows, params, model.device
        self._together = slice(rows[0], rows[-1] + 1) if len(rows) == rows[-1] + 1 - rows[0] else None
        self.layers = [_with_constants(layer, own, rows) for layer, own in zip(model.layers, constants)]
        self._recurrent = [layer for layer in self.layers if isinstance(layer, Recurrent)]
        self.params = None
        self._refresh()

    def _refresh(self) -> None:
        """Take up the parameters as they are now: a view where the rows are neighbours, copies otherwise."""
        if self._together is None or self.params is None:
            flat = self._whole.flat[self.device.put(self.rows) if self._together is None else self._together]
            self.params = Params(self._whole.shapes, self._whole.dtype, flat)

    # What bptt works with

    def _check_causal(self) -> None:
        self.model._check_causal()

    def _measure(self, prediction, batch: Batch):
        """(loss (E,), dL/d(prediction), weight (E,)) of a batch."""
        lengths = batch.lengths if self.readout == "every" else None
        return self.model.loss.of_members(prediction, batch.target, lengths, batch.weights)

    def _draw_masks(self, B: int, rngs) -> list:
        """Recurrent dropout masks for sequences that will be cut in time."""
        return [self._masks(layer, B, rngs) for layer in self._recurrent]

    def _masks(self, layer: Recurrent, B: int, rngs) -> list:
        """A mask (E, B, H), or None, a (layer, direction)."""
        if rngs is None:
            return [None] * len(layer._directions)
        return _stacked(self.device, [layer.draw_masks(B, rng) for rng in rngs])

    def _read(self, x, lengths, state, rngs, masks):
        """(sum of the last recurrent layer's outputs over each sequence's valid steps, state), nothing kept."""
        self._refresh()
        states, finals = state or (None,) * len(self._recurrent), []
        for k, layer in enumerate(self.layers[: self.model._pool_at]):
            n = len(finals)
            if isinstance(layer, Recurrent):
                x, final, _ = self._through(k, layer, x, lengths, states[n], rngs, masks[n], record=False)
                finals.append(final)
            else:
                x, _ = self._flat(k, layer, x, rngs)
        return _valid_sum(x, lengths), tuple(finals)

    def _forward(self, x, lengths, state, rngs, *, memory=None, masks=None, head=None, record=True, pull=None):
        """(prediction, trace, state) as `Model._forward` has them; x (E or 1, T, B, ...), lengths (E or 1, B), `rngs` one a member."""
        self._refresh()
        states, tapes, finals, drawn, shape, counted = state or (None,) * len(self._recurrent), [], [], [], None, lengths
        if self.model._pool_at == 0:
            x, shape, counted = self._pool(x, lengths, (), head)
        for k, layer in enumerate(self.layers):
            n = len(finals)
            if isinstance(layer, Recurrent):
                given = masks[n] if masks is not None else self._masks(layer, x.shape[2], rngs)
                x, final, tape = self._through(k, layer, x, lengths, states[n], rngs, given, record)
                drawn.append(given)
                finals.append(final)
            else:
                x, tape = self._flat(k, layer, x, rngs)
            tapes.append(tape)
            if k + 1 == self.model._pool_at:
                x, shape, counted = self._pool(x, lengths, finals, head)
        return x, Trace(tapes, drawn, shape, lengths, counted, tuple(finals)), tuple(finals)

    def _backward(self, trace: Trace, dy, dstates, grads: Params, *, clip=None, begin=0):
        """(dL/d(initial states), ()). Adds to `grads`; with dy None only `dstates` flow in. Back to step `begin`."""
        dstates, starts = list(dstates or (None,) * len(self._recurrent)), []
        limit = self.params.dtype.type(np.inf if clip is None else clip)
        for k in reversed(range(len(self.layers))):
            layer, tape = self.layers[k], trace.tapes[k]
            if k + 1 == self.model._pool_at:
                dy, dstates = self._unpool(trace, dy, dstates)
            if isinstance(layer, Recurrent):
                flows = dstates.pop()
                if flows is None:
                    flows = [np.zeros_like(state) for state in trace.finals[len(dstates)]]
                own, needed = (Section(self.params, k), Section(grads, k)), any(below.params.flat.size for below in self.layers[:k])
                dy, flows, _, _ = layer.run_back(own[0], tape, dy, flows, own[1], begin, limit, inputs=needed)
                starts.insert(0, flows)
                if not needed:
                    break
            elif dy is not None:
                dy = self._flat_back(k, layer, tape, dy, grads)
        return tuple(starts), ()

    # Layer by layer

    def _through(self, k: int, layer: Recurrent, x, lengths, state, rngs, masks, record: bool):
        """(y, final states, tape) of a recurrent layer."""
        T, B = x.shape[1:3]
        rows, learned = Rows.of(lengths), state is None and layer.initial_state == "learned"
        if state is None:
            state = self._start(k, layer, B)
        elif not record:
            state = [part.copy() for part in state]  # the final states take their place
        between = [None] * layer.num_layers
        if rngs is not None and layer.dropout:
            between = _stacked(self.device, [layer.draw_between((T, B), rng) for rng in rngs])
        tape = Tape(layer, rows, T, learned)
        segment = max(rows.steps, 1) if record else None
        y, final, tape.layers = layer.run(Section(self.params, k), x, rows, state, Masks(masks, between), segment)
        tape.between = between
        return y, final, tape

    def _start(self, k: int, layer: Recurrent, B: int) -> list[np.ndarray]:
        """The state (E, S, B, H) that enters each (layer, direction) where none is given."""
        E, S, H, section = len(self.rows), len(layer.cell.states), layer.hidden_size, Section(self.params, k)
        states = [self.device.zeros((E, S, B, H), layer.dtype) for _ in layer._directions]
        if layer.initial_state == "learned":
            for state, suffix in zip(states, layer._suffixes):
                for i, name in enumerate(layer.cell.states):
                    state[:, i] = section.at(f"initial_{name}{suffix}").part(slice(0, H))[:, None]
        return states

    def _flat(self, k: int, layer, x, rngs):
        """(y, tape) of a layer without memory, x (E or 1, ..., F)."""
        E = len(self.rows)
        if isinstance(layer, Linear):
            rows = x.reshape(len(x), -1, layer.input_size)
            y = layer.run(Section(self.params, k), rows)
            return y.reshape(E, *x.shape[1:-1], layer.output_size), (rows, y)
        if isinstance(layer, Embedding):
            tokens = x.reshape(len(x), -1)
            return layer.run(Section(self.params, k), tokens).reshape(E, *layer._shape(x)[1:]), tokens
        if rngs is None or layer.rate == 0.0:
            return x, None
        mask = self.device.put(np.stack([dropout_mask(rng, x.shape[1:], layer.rate, x.dtype) for rng in rngs]))
        return x * mask, mask

    def _flat_back(self, k: int, layer, tape, dy, grads: Params):
        """dx of a layer without memory; adds to `grads`."""
        section = Section(grads, k)
        if isinstance(layer, Linear):
            rows, y = tape
            dy = self.device.xp.ascontiguousarray(dy)
            dx = layer.run_back(Section(self.params, k), rows, y, dy.reshape(y.shape), section)
            return dx.reshape(*dy.shape[:-1], layer.input_size)
        if isinstance(layer, Embedding):
            found = Params(layer.params.shapes, layer.dtype, self.device.zeros((len(dy), layer.params.flat.size), layer.dtype))
            layer.run_back(tape, self.device.xp.ascontiguousarray(dy).reshape(len(dy), -1, layer.dimension), found)
            section.at("weight").part(slice(0, found.flat.shape[1]))[...] += found.flat  # summed apart, as a model alone does it
            return None
        return dy if tape is None else dy * tape

    # The readout

    def _pool(self, y, lengths, finals, head):
        """What the readout sees of y (E, T, B, F), the shape of y, and how many steps a mean was over."""
        if self.readout == "every":
            return y, y.shape, lengths
        if self.readout == "last" and finals:
            layer, ends = self._recurrent[-1], finals[-1]
            h = [end[:, 0] for end in ends[-layer.num_directions :]]
            return self.device.xp.ascontiguousarray(h[0] if len(h) == 1 else merged(layer.merge, *h)), y.shape, lengths
        if self.readout == "last":
            return _last_valid(y, lengths), y.shape, lengths
        total, counted = _valid_sum(y, lengths), lengths
        if head is not None:
            total, counted = total + head[0], lengths + head[1]
        return total / self.device.put(np.maximum(counted, 1).astype(y.dtype))[..., None], y.shape, counted

    def _unpool(self, trace: Trace, dy, dstates):
        """The inverse of `_pool` for gradients: what flows into every step, and into the final state."""
        if dy is None or self.readout == "every":
            return dy, dstates
        T, lengths = trace.shape[1], trace.lengths
        if self.readout == "last" and self._recurrent:
            layer, ends = self._recurrent[-1], trace.finals[-1]
            top = [np.zeros_like(end) for end in ends]
            last = top[-layer.num_directions :]
            if len(last) == 1:
                last[0][:, 0] = dy
            else:
                h = [end[:, 0] for end in ends[-2:]]
                last[0][:, 0], last[1][:, 0] = merged_backward(layer.merge, *h, dy)
            given = dstates[-1]
            return None, dstates[:-1] + [top if given is None else [a + b for a, b in zip(given, top)]]
        if self.readout == "last":
            at = np.arange(T)[:, None] == np.where(lengths > 0, lengths - 1, T)[:, None, :]
            return self.device.put(at.astype(dy.dtype))[..., None] * dy[:, None], dstates
        share = (np.arange(T)[:, None] < lengths[:, None, :]) / np.maximum(trace.counted, 1)[:, None]
        return self.device.put(share.astype(dy.dtype))[..., None] * dy[:, None], dstates


def _with_constants(layer, own, rows: np.ndarray):
    """`layer` with the fixed parameters of these members."""
    if not isinstance(layer, Recurrent) or not own.flat.size:
        return layer
    layer = copy.copy(layer)
    layer.constants = Params(own.shapes, own.dtype, own.flat[layer.device.put(rows)])
    return layer


def _stacked(device: Device, drawn: list[list]) -> list:
    """One list of masks (or None) a member as one list of masks with a member axis."""
    return [None if masks[0] is None else device.put(np.stack(masks)) for masks in zip(*drawn)]


def _valid_sum(y: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of y (E, T, B, F) over each sequence's valid steps, in the order of time."""
    device = _device.of(y)
    total, ends = device.zeros((y.shape[0], *y.shape[2:]), y.dtype), device.put(lengths)[..., None]
    for t in range(y.shape[1]):
        total += np.where(t < ends, y[:, t], y.dtype.type(0))
    return total


def _last_valid(y: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """y at each sequence's last valid step; 0 where there is none."""
    device = _device.of(y)
    if y.shape[1] == 0:
        return device.zeros((y.shape[0], *y.shape[2:]), y.dtype)
    ends = device.put(lengths)
    last = np.take_along_axis(y, np.maximum(ends - 1, 0)[:, None, :, None], axis=1)[:, 0]
    return np.where((ends > 0)[..., None], last, y.dtype.type(0))

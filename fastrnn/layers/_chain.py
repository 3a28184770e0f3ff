"""A model's layers as one chain that goes step by step, so that what comes out can go in again."""

from functools import cache
from typing import NamedTuple

import numpy as np

from .. import _memory, _threads
from .._device import CPU
from .._params import At, Params
from ..cells import Cell, Slot, build
from ..kernels._feedback import Feedback
from ..kernels._loop import Flow, Trace
from ..kernels.cpu.closed import BackLink, Link, make_beam_search, make_closed_backward, make_closed_forward, make_generate
from ._direction import ROW_WORK, SPAN_WORK, Direction, Kept
from ._layer import Rows, direction_on
from .feedforward import Dropout, Embedding, Linear
from .recurrent import Recurrent, Tape


class Place(NamedTuple):
    """One link: which layer of the model, which of that layer's own layers, and how it is computed."""

    layer: int
    depth: int
    direction: Direction


class Loop(NamedTuple):
    """What a closed loop leaves for its way back."""

    rows: Rows
    kept: list[Kept]
    starts: list[np.ndarray]
    feedback: Feedback


class Chain:
    """The layers of a model, from the input up to the output, one link each; a leading Embedding stands before the chain."""

    def __init__(self, layers):
        for layer in layers:
            _check_layer(layer)
        self.layers = layers
        self.embedding = layers[0] if isinstance(layers[0], Embedding) else None
        self.places = []
        for k, layer in enumerate(layers):
            if isinstance(layer, Recurrent):
                self.places += [Place(k, depth, direction) for depth, direction in enumerate(layer._directions)]
            elif isinstance(layer, Linear):
                cell = _dense(layer.activation)
                self.places.append(Place(k, 0, direction_on(layer.device)(cell, layer.input_size, layer.output_size, False)))
        if not self.places:
            raise ValueError("forcing: a Recurrent or a Linear is required between what enters and what is fed back; got none")
        self.cells = tuple(place.direction.cell for place in self.places)
        self.input_size = self.places[0].direction.D
        self.output_size = self.places[-1].direction.H

    def parameters(self, place: Place) -> dict[str, At]:
        """Where the parameters of one link lie, by the names of its cell."""
        layer = self.layers[place.layer]
        return as_cell(layer.params) if isinstance(layer, Linear) else layer._named(place.depth, layer.params)

    def states(self, states, rows: Rows) -> tuple[list[np.ndarray], list[bool]]:
        """The state (1, S, B, H) that enters each link, and whether a learned one does, from one state (or None) a recurrent layer."""
        result, learned, given = [], [], iter(states)
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                parts, own = layer._start(next(given), rows)
                result += parts
                learned += [own] * len(parts)
            elif isinstance(layer, Linear):
                result.append(layer.device.zeros((1, 1, rows.order.shape[1], layer.output_size), layer.dtype))
                learned.append(False)
        return result, learned

    def finals(self, states: list[np.ndarray]) -> tuple:
        """One state a recurrent layer, as users see it, from one a link."""
        result, places = [], list(zip(self.places, states))
        for k, layer in enumerate(self.layers):
            if isinstance(layer, Recurrent):
                result.append(layer._state_out([state for place, state in places if place.layer == k]))
        return tuple(result)

    def links(self, x, rows: Rows, states, masks, *, tape: bool) -> tuple[list[Kept], list[tuple]]:
        """The arrays of every link over x (T, B, D): `Kept`, and what `Link` has beside its scratch. `states` is advanced in place."""
        (T, B, _), dtype, kept, parts = x.shape, x.dtype, [], []
        for place, state, mask in zip(self.places, states, masks):
            d = place.direction
            S, K, G, H = len(d.cell.states), len(d.cell.saved), len(d.cell.slots), d.H
            y, steps = _memory.empty((1, T, B, H), dtype), T if tape else 0
            y[0, rows.steps :] = 0.0
            others, saved = _memory.empty((1, steps, B, S - 1, H), dtype), _memory.empty((1, steps, B, K, H), dtype)
            trace = Trace(y, others, saved, np.empty((1, 0, B, G, H), dtype))
            entering = d.batch(x[None], rows, None if mask is None else mask[None])
            kept.append(Kept(entering, y, 0, *trace[1:], [state.copy()], max(rows.steps, 1)))
            parts.append((entering, d.pack(self.parameters(place), backward=False), trace, state))
            x = y[0]
        return kept, parts

    def forward(self, x, rows: Rows, states, masks, feedback) -> Loop:
        """All steps of the closed loop over x (T, B, D), which is completed; `feedback` makes the Feedback from the output's array."""
        starts = [state.copy() for state in states]
        kept, parts = self.links(x, rows, states, masks, tape=True)
        feedback = feedback(kept[-1].y[0])
        kernel = make_closed_forward(self.cells)
        for begin, end in self._spans(0, rows.steps, x.shape[1]):
            team, links = self._shared(Link, parts, x, end - begin)
            kernel(team, self.grid(x).slices, begin, end, self.grid(x).rows, links, feedback)
        return Loop(rows, kept, starts, feedback)

    def backward(self, loop: Loop, dy, grads: list[Params], limit) -> tuple[np.ndarray, np.ndarray, list, list]:
        """(dx, dL/dtable, dL/d(start state) and what was cut of every link) from dL/d(output) dy (T, B, O); adds to `grads` of layers."""
        x, B = loop.kept[0].batch.x[0], dy.shape[1]
        slices = self.grid(x).slices
        doutput = np.array(dy)[None]
        flows, below = [], None
        for place, kept in zip(self.places, loop.kept):
            H, G, S = place.direction.H, len(place.direction.cell.slots), len(place.direction.cell.states)
            inputs = kept.batch.x
            dx = np.zeros_like(inputs) if below is None else below
            below = doutput if kept is loop.kept[-1] else np.zeros_like(kept.y)
            flows.append(Flow(below, dx, np.empty((1, 0, B, S, H), x.dtype), np.empty((1, 0, B, G, H), x.dtype)))
        dstates = [np.zeros_like(start) for start in loop.starts]
        sums = [place.direction.sums(slices, x.dtype) for place in self.places]
        parts = [
            (kept.batch, place.direction.pack(self.parameters(place), backward=True),
             Trace(kept.y, kept.others, kept.saved, kept.preactivations), start, found, flow, dstate,
             limit if isinstance(self.layers[place.layer], Recurrent) else x.dtype.type(np.inf))
            for place, kept, start, found, flow, dstate in zip(self.places, loop.kept, loop.starts, sums, flows, dstates)
        ]  # fmt: skip
        dtable, kernel = np.zeros((slices, *loop.feedback.table.shape), x.dtype), make_closed_backward(self.cells)
        for begin, end in reversed(list(self._spans(0, loop.rows.steps, B))):
            team, links = self._shared(BackLink, parts, x, end - begin)
            kernel(team, slices, begin, end, self.grid(x).rows, links, loop.feedback, doutput[0], dtable)
        for place, found in zip(self.places, sums):
            layer, own = self.layers[place.layer], grads[place.layer]
            target = as_cell(own) if isinstance(layer, Linear) else layer._learned(place.depth, own)
            place.direction.add_gradients(found, target)
        return flows[0].dx[0], dtable.sum(axis=0), dstates, [found.cut.sum(axis=0) for found in sums]

    def generate(self, x, states, feedback, outputs, inputs, stop: int, ends) -> None:
        """Fill `outputs` (steps, B, O) from the first input x (1, B, D) on, advancing `states`; see `kernels.cpu.closed`."""
        (_, B, _), steps = x.shape, outputs.shape[0]
        rows = Rows.of(np.ones((1, B), np.int64))
        kept, parts = self.links(x, rows, states, [None] * len(self.places), tape=False)
        feedback, kernel = feedback(kept[-1].y[0]), make_generate(self.cells)
        for begin, end in self._spans(0, steps, B):
            team, links = self._shared(Link, parts, x, end - begin)
            kernel(team, self.grid(x).slices, begin, end, self.grid(x).rows, links, feedback, outputs, inputs, stop, ends)
            if (ends <= end).all():
                break

    def beam_search(self, x, states, feedback, width: int, stop: int, scores, parents, symbols) -> None:
        """Fill scores (B, W), parents and symbols (steps, B, W) from the first input x (1, B W, D) on; see `kernels.cpu.closed`."""
        rows = Rows.of(np.ones((1, x.shape[1]), np.int64))
        kept, parts = self.links(x, rows, states, [None] * len(self.places), tape=False)
        feedback, kernel = feedback(kept[-1].y[0]), make_beam_search(self.cells)
        spare, best = tuple(np.empty_like(state) for state in states), np.empty_like(scores)
        for begin, end in self._spans(0, symbols.shape[0], x.shape[1]):
            team, links = self._shared(Link, parts, x, end - begin, width)
            kernel(team, x.shape[1] // width, begin, end, width, links, spare, feedback, stop, scores, best, parents, symbols)

    def tapes(self, loop: Loop, x, learned: list[bool]) -> list:
        """The layers' own tapes, from which each can go back by itself."""
        result, places = [], list(zip(self.places, loop.kept, learned))
        for k, layer in enumerate(self.layers):
            own = [(kept, fresh) for place, kept, fresh in places if place.layer == k]
            if isinstance(layer, Recurrent):
                tape = Tape(layer, loop.rows, x.shape[0], own[0][1])
                tape.layers, tape.between = [[kept] for kept, _ in own], [None] * len(own)
                result.append(tape)
            elif isinstance(layer, Linear):
                result.append((own[0][0].batch.x[0], own[0][0].y[0]))
            else:
                result.append(loop.feedback.tokens if layer is self.embedding else None)
        return result

    def grid(self, x):
        return self.places[0].direction.grid(x.shape[1], x.dtype)

    def _work(self, B: int) -> float:
        return sum(place.direction.operations(B) + ROW_WORK * B for place in self.places)

    def _spans(self, begin: int, end: int, B: int):
        """[begin, end) in kernel calls of bounded length, so that an interruption is seen."""
        steps = max(int(SPAN_WORK / max(self._work(B), 1.0)), 1)
        return [(first, min(first + steps, end)) for first in range(begin, end, steps)]

    def _shared(self, kind, parts, x, steps: int, rows: int | None = None):
        """(team, links with the working memory of its threads), for items of `rows` rows, those of the grid by default."""
        B, result = x.shape[1], []
        team = _threads.team(self._work(B) * steps)
        for place, part in zip(self.places, parts):
            grid = place.direction.grid(B, x.dtype)
            grid = grid._replace(rows=rows or grid.rows)
            result.append(kind(*part, place.direction.scratch(_threads.size(team), grid.rows, grid, x.dtype), grid.block))
        return team, tuple(result)


def chain(layers) -> Chain:
    """The chain of these layers, where they are."""
    if all(getattr(layer, "device", CPU).name == "cpu" for layer in layers):
        return Chain(layers)
    from ._cuda_chain import CudaChain  # as the device, only where it is wanted

    return CudaChain(layers)


@cache
def _dense(activation: str) -> Cell:
    """A Linear as a cell without memory, h' = f(W x + b): an Elman network's without its recurrent product."""
    return build("rnn", activation=activation)._replace(name="dense", slots=(Slot("h", "h", None),), biases=("bias_ih",))


def _check_layer(layer) -> None:
    """Whether a layer can stand where an output is fed back."""
    if not isinstance(layer, (Recurrent, Linear, Embedding, Dropout)) or (isinstance(layer, Recurrent) and not layer.causal):
        raise ValueError("forcing: a Recurrent that runs from left to right only is required, to be fed its own output")
    if (isinstance(layer, Dropout) and layer.rate) or (isinstance(layer, Recurrent) and layer.dropout):
        raise ValueError("forcing: dropout=0 between layers is required where outputs are fed back; recurrent_dropout may be used")
    if isinstance(layer, Embedding) and layer.group:
        raise ValueError(f"forcing: an Embedding of single symbols is required; got group={layer.group}")


def as_cell(params) -> dict[str, At]:
    """Where a Linear's parameters, or their gradients, lie, by the names that a cell gives them."""
    return {"weight_ih": params.at("weight"), "bias_ih": params.at("bias")}

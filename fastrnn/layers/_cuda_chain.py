"""A model's layers as one chain on the GPU: a step of a link is a launch of the time loop over one step, with the CPU's contract."""

from functools import partial

import numpy as np

from .._params import Params
from ..kernels._loop import Flow
from ..kernels.cuda import closed
from ..kernels.cuda.product import Parts, add_transposed
from ..kernels.cuda.program import Repeated
from ._chain import Chain, Loop, as_cell
from ._cuda import Stretch
from ._direction import Kept
from ._layer import Rows
from .feedforward import Linear
from .recurrent import Recurrent

LOOK = 64  # steps of generation between two looks at whether all sequences have ended


class CudaChain(Chain):
    """`Chain` of layers on a GPU."""

    def __init__(self, layers):
        super().__init__(layers)
        self.device = layers[-1].device

    def links(self, x, rows: Rows, states, masks, *, tape: bool) -> tuple[list[Kept], list[tuple]]:
        """`Kept` of every link over x (T, B, D), and (weights, state) of each; `states` is advanced in place."""
        (T, B, _), dtype, kept, parts, device = x.shape, x.dtype, [], [], self.device
        for place, state, mask in zip(self.places, states, masks):
            d = place.direction
            S, K, G, H = len(d.cell.states), len(d.cell.saved), len(d.cell.slots), d.H
            y, steps = device.empty((1, T, B, H), dtype), T if tape else 0
            y[0, rows.steps :] = 0.0
            others, saved = device.empty((1, steps, B, S - 1, H), dtype), device.empty((1, steps, B, K, H), dtype)
            mask = None if mask is None else device.put(mask)[None]
            entering = d.batch(device.empty((1, T, B, 0), dtype), rows, mask)._replace(x=x[None])  # as it will be, not as it is
            kept.append(Kept(entering, y, 0, others, saved, device.empty((1, 0, B, G, H), dtype), [state.copy()], max(rows.steps, 1)))
            parts.append((d.pack(self.parameters(place), backward=False), state))
            x = y[0]
        return kept, parts

    def _climb(self, kept: list[Kept], parts: list[tuple], t: int) -> None:
        """Step t of every link, from the first to the last."""
        for place, own, (weights, state) in zip(self.places, kept, parts):
            d = place.direction
            d.forward(weights, own, d.grid(state.shape[2], state.dtype), state, t, t + 1, offset=0)

    def forward(self, x, rows: Rows, states, masks, feedback) -> Loop:
        """All steps of the closed loop over x (T, B, D), which is completed; `feedback` makes the Feedback from the output's array."""
        starts, lengths = [state.copy() for state in states], self.device.put(rows.lengths[0])
        ends = self.device.xp.arange(len(x))[:, None] < lengths
        x[...] = np.where(ends[..., None], x, x.dtype.type(0))  # the products of the gradients go over all there is
        kept, parts = self.links(x, rows, states, masks, tape=True)
        feedback = feedback(kept[-1].y[0])
        for t in range(rows.steps):
            if t > 0:
                closed.run("enter", x.shape[1], feedback, lengths, t)
            self._climb(kept, parts, t)
        return Loop(rows, kept, starts, feedback)

    def backward(self, loop: Loop, dy, grads: list[Params], limit) -> tuple:
        """(dx, dL/dtable, dL/d(start state) and what was cut of every link) from dL/d(output) dy (T, B, O); adds to `grads` of layers."""
        feedback, steps, (T, B, O), device = loop.feedback, loop.rows.steps, dy.shape, self.device
        lengths, symbols = loop.kept[0].batch.lengths[0], len(feedback.table)
        doutput, dtype = dy.copy()[None], dy.dtype
        flows, below = [], None
        for place, kept in zip(self.places, loop.kept):
            H, G, S = place.direction.H, len(place.direction.cell.slots), len(place.direction.cell.states)
            dx = device.zeros(kept.batch.x.shape, dtype) if below is None else below
            below = doutput if kept is loop.kept[-1] else device.zeros(kept.y.shape, dtype)
            flows.append(Flow(below, dx, device.empty((1, 0, B, S, H), dtype), device.empty((1, 0, B, G, H), dtype)))
        dstates = [np.zeros_like(start) for start in loop.starts]
        backs = [place.direction.back(1, steps, B, dtype, launches=steps) for place in self.places]
        weights = [place.direction.pack(self.parameters(place), backward=True) for place in self.places]
        shares = device.zeros((T if symbols else 0, B, O), dtype)
        for t in reversed(range(steps)):
            for n in reversed(range(len(self.places))):
                place, own = self.places[n], backs[n].at(t)
                d, bound = place.direction, limit if isinstance(self.layers[place.layer], Recurrent) else np.inf
                d.retreat(weights[n], loop.kept[n], flows[n], dstates[n], own, Stretch(t, t + 1, 0), bound)
                d.add_dx(weights[n], loop.kept[n].batch, own.dz, flows[n].dx, t, t + 1)
            if t > 0:
                closed.run("leave", B, feedback, lengths, flows[0].dx[0], doutput[0], shares, t)
        cuts = []
        for place, kept, back in zip(self.places, loop.kept, backs):
            layer, own = self.layers[place.layer], grads[place.layer]
            found = [place.direction.new_sums(1, dtype, back.cut if limit < np.inf else None)]
            place.direction.add_sums(found[0], kept.batch, back, 0, steps)
            target = as_cell(own) if isinstance(layer, Linear) else layer._learned(place.depth, own)
            place.direction.add_gradients(found, target)
            cuts.append(place.direction.cut(found, 1)[0])
        dx, dtable = flows[0].dx[0], None
        if symbols:
            dtable = device.zeros((1, O, dx.shape[2]), dtype)
            add_transposed(shares.reshape(1, T * B, O), dx.reshape(1, T * B, -1), 0, dtable, device.empty, Parts())
            dtable = dtable[0]
        return dx, dtable, dstates, cuts

    def generate(self, x, states, feedback, outputs, inputs, stop: int, ends) -> None:
        """Fill `outputs` (steps, B, O) from the first input x (1, B, D) on, advancing `states`; see `kernels._feedback.emit`."""
        climb, y = self._single(x, states)
        feedback = feedback(y)
        for s in range(len(outputs)):
            climb()
            closed.run("emit", x.shape[1], feedback, outputs, inputs, stop, ends, s)
            if stop >= 0 and s % LOOK == LOOK - 1 and bool((ends <= s + 1).all()):
                break

    def beam_search(self, x, states, feedback, width: int, stop: int, scores, parents, symbols) -> None:
        """Fill scores (B, W), parents and symbols (steps, B, W) from the first input x (1, B W, D) on."""
        climb, y = self._single(x, states)
        feedback, best, whence = feedback(y), scores.copy(), self.device.zeros(x.shape[1], np.int64)
        for s in range(len(symbols)):
            climb()
            closed.run("extend", len(scores), feedback, stop, scores, best, parents, symbols, whence, s)
            for state in states:
                state[...] = state[:, :, whence]

    def _single(self, x, states) -> tuple:
        """What takes all links by a step, again and again from x (1, B, D), and where the last one leaves its output."""
        rows = Rows.of(np.ones((1, x.shape[1]), np.int64))
        kept, parts = self.links(x, rows, states, [None] * len(self.places), tape=False)
        return partial(Repeated(), lambda: self._climb(kept, parts, 0), (), []), kept[-1].y[0]

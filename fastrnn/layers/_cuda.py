"""One direction of one recurrent layer on the GPU: what `_direction` is on the CPU, with the same contract."""

from typing import NamedTuple

import numpy as np

from .._device import Device, Made
from .._params import At
from ..cells import Cell
from ..kernels._loop import Batch, Flow, Trace
from ..kernels.cuda import packing, target
from ..kernels.cuda.loop import Back, Run, Span, Weights
from ..kernels.cuda.plan import Plan, Way, plan
from ..kernels.cuda.product import PART, Parts, Term, add_columns, add_terms, product
from ..kernels.cuda.program import again
from ._cuda_packing import Operands, gradient_pieces, operand_begins, operand_pieces, operand_sizes, sum_begins
from ._direction import Direction, Grid, Kept


class Sums(NamedTuple):
    """Parameter gradients of E members: total (E, .), see `sum_begins`; and `Back.cut` where there is a bound, else None: in its last axis
    entries clipped, sum of what was cut off, sum of magnitudes before.
    """

    total: object
    cut: object


class Stretch(NamedTuple):
    """Steps [begin, end), and the one at which tape and start state begin."""

    begin: int
    end: int
    offset: int


class CudaDirection(Direction):
    """The parameters of one direction of one layer, and the kernels run over a span of steps, on a GPU.

    All but y and the gradients by time is by step, in the order of processing, x too: with zeros where a sequence has none.
    """

    def __init__(self, device: Device, cell: Cell, input_size: int, hidden_size: int, reverse: bool):
        super().__init__(cell, input_size, hidden_size, reverse)
        self.device = device
        self._made = Made(device)

    def plan(self, dtype) -> Plan:
        return plan(self.cell, self.H, dtype, self.device.precision)

    def grid(self, B: int, dtype) -> Grid:
        rows = self.plan(dtype).rows
        block = max(PART // max(B, 1), 1)  # steps whose gradients of parameters are one sum
        return Grid(1 << (block.bit_length() - 1), rows, -(-B // rows))

    def batch(self, x, rows, mask=None, pull=None) -> Batch:
        nothing, lengths = self._nothing(x.dtype), rows.lengths
        if rows.even:
            lengths, order = self._made.once(("rows", rows.steps, lengths.shape), lambda: self._placed(lengths))
        else:
            lengths, order = self._placed(lengths)
        if self.reverse or not rows.even or rows.steps < x.shape[1]:
            x = packing.by_step(x, lengths, self.reverse, self.device.empty)
        goal, alpha = pull or (nothing, nothing)
        return Batch(x, order, lengths, nothing if mask is None else mask, goal, alpha)

    def _placed(self, lengths: np.ndarray) -> tuple:
        """On the device: lengths, and the order of the rows: a block ends with its longest one, so like lengths are together."""
        return self.device.put(lengths), self.device.put(np.argsort(-lengths, axis=1, kind="stable"))

    def _nothing(self, dtype):
        return self.device.empty(0, dtype)

    def over_batch(self, flow):
        E, S, B, H = flow.shape
        total = self.device.zeros((E * S, H), flow.dtype)
        add_columns(flow.reshape(E * S, B, H), total, self.device.empty, Parts())
        return total.reshape(E, S, H)

    def cut(self, sums: list[Sums], E: int) -> np.ndarray:
        clipped = (self.device.get(found.cut.sum(axis=(1, 2, 3))).astype(float) for found in sums if found.cut is not None)
        return sum(clipped, np.zeros((E, 3)))

    def _inputs(self, batch: Batch, begin: int, end: int):
        """The inputs of steps [begin, end), one row a step and sequence: (E or 1, n B, D)."""
        x = batch.x
        if (begin, end) != (0, x.shape[1]):
            x = self.device.xp.ascontiguousarray(x[:, begin:end])
        return x.reshape(len(x), -1, self.D)

    def pack(self, p: dict[str, At], backward: bool) -> Weights:
        own = p["weight_ih"].flat
        other = next((at.flat for at in p.values() if at.flat is not own), own)  # of what is fixed
        (E, _), dtype, plan = own.shape, own.dtype, self.plan(own.dtype)
        way, first = (plan.backward, False) if backward else (plan.forward, True)
        at = tuple([(name, int(flat is not own), start, flat.shape[1] if len(flat) > 1 else 0) for name, (flat, start) in p.items()])
        how = Operands(E, (first, first and not way.lay_out, first), way.tall)
        pieces, size, parts = self._made.once(("operands", how, at), lambda: self._operands(how, at))
        whole = self.device.empty(size, dtype)
        packing.move(pieces, E, own, other, whole)
        input, weight, *others = (whole[part] if part else self._nothing(dtype) for part in parts)
        if way.lay_out:
            weight = way.lay_out(weight.reshape(E, self.recurrent_rows.size, self.H), self.device.empty)
        shape = (E, self.D, self.input_rows.size) if first else (E, self.input_rows.size, self.D)
        return Weights(input.reshape(shape), weight, *others)

    def _operands(self, how: Operands, at: tuple) -> tuple:
        """What makes the operands of `pack`, their size, and where each lies, None where it has no numbers."""
        begins, places = operand_begins(self, how), {name: where for name, *where in at}
        parts = [slice(begin, begin + how.members * size) if size else None for begin, size in zip(begins, operand_sizes(self, how))]
        return packing.on_device(self.device, operand_pieces(self, how, places)), begins[-1], parts

    def packed(self, p: dict[str, At]) -> Weights:
        return self.pack(p, backward=False)

    def forward_through(self, p: dict[str, At], kept: Kept, start, state, steps: int, learning: bool) -> None:
        if steps > kept.segment or not self._is_noted(kept, state, steps):
            super().forward_through(p, kept, start, state, steps, learning)
            return
        kept.starts.append(start)
        flats, places = _flats(p)

        def forward(state, batch, trace, flats):
            weights, own = self.pack(_named(flats, places), backward=False), kept._replace(batch=batch, **trace._asdict())
            self.forward(weights, own, self.grid(state.shape[2], state.dtype), state, 0, steps)

        again(self._made, ("forward", places, kept.column), forward, (state, kept.batch, _trace(kept), flats))

    def backward_through(self, p: dict[str, At], kept: Kept, flow: Flow, dstate, grads: dict[str, At], begin: int, steps: int, limit):
        if begin or steps > kept.segment or limit < np.inf or not self._is_noted(kept, dstate, steps):
            return super().backward_through(p, kept, flow, dstate, grads, begin, steps, limit)
        (flats, places), (found, targets) = _flats(p), _flats(grads)

        def backward(dstate, start, batch, trace, flow, flats, found):
            own = kept._replace(batch=batch, **trace._asdict(), starts=[start])
            p, grads = _named(flats, places), _named(found, targets)
            super(CudaDirection, self).backward_through(p, own, flow, dstate, grads, 0, steps, limit)

        arguments = dstate, kept.starts[0], kept.batch, _trace(kept), flow, flats, found
        again(self._made, ("backward", places, targets, kept.column, kept.even), backward, arguments)
        return np.zeros((len(dstate), 3))

    def _is_noted(self, kept: Kept, state, steps: int) -> bool:
        """Whether a pass over all steps does nothing that cannot be noted."""
        return steps == kept.batch.x.shape[1] and state.size > 0

    def sums(self, slices: int, dtype) -> list[Sums]:
        return []  # one `Sums`, of all runs of the kernel, from the first one on

    def add_gradients(self, sums: list[Sums], grads: dict[str, At]) -> None:
        """grads[name] += all sums; only the names that `grads` has."""
        flat = grads["weight_ih"].flat
        at = {name: (start, flat.shape[1]) for name, (_, start) in grads.items()}
        for found in sums:
            pieces = self._made.once(("gradients", *at.items()), lambda: packing.on_device(self.device, gradient_pieces(self, at)))
            packing.move(pieces, len(flat), found.total, found.total, flat)

    def forward(self, weights: Weights, kept: Kept, grid: Grid, state, begin: int, end: int, offset: int | None = None) -> None:
        """As on the CPU; the tape begins at step `offset`, at `begin` by default."""
        batch, (E, _, B, H), G = kept.batch, state.shape, len(self.cell.slots)
        if not B or not E:
            return
        first, last = self.layout.input
        z = self.device.empty((E, end - begin, B, G, H), state.dtype)
        x, whole = self._inputs(batch, begin, end), z.reshape(E, -1, G * H)
        product(x, 0, weights.input, weights.bias, whole, first * H, last * H, self.device.precision)
        span = self._span(kept, begin, end, begin if offset is None else offset, kept.preactivations.shape[1])
        self._launch(self.plan(state.dtype).forward, grid, self._run_of(span, kept, weights), z, state)

    def backward(self, weights: Weights, kept: Kept, grid: Grid, sums: list[Sums], flow: Flow, dstate, begin: int, end: int, limit) -> None:
        (E, _, B, _), segment = dstate.shape, begin // kept.segment
        if not B or not E:
            return
        back = self.back(E, end - begin, B, dstate.dtype, even=kept.even, cut=sums[0].cut if sums else None)
        self.retreat(weights, kept, flow, dstate, back, Stretch(begin, end, segment * kept.segment), limit)
        if not sums:
            sums.append(self.new_sums(E, dstate.dtype, back.cut if limit < np.inf else None))
        self.add_sums(sums[0], kept.batch, back, begin, end)
        if flow.dx.shape[1]:
            self.add_dx(weights, kept.batch, back.dz, flow.dx, begin, end)

    def back(self, E: int, n: int, B: int, dtype, launches: int = 1, even: bool = False, cut=None) -> Back:
        """Room for what `retreat` leaves of n steps. `even`: every sequence has all of them, so that everything is written.

        `cut`: what clipping did at later steps, to which that of these is added.
        """
        make, G, P = self.device.empty if even else self.device.zeros, len(self.cell.slots), len(self.cell.parameters)

        def room(*of_a_row):
            return make((E, n, B, *of_a_row, self.H), dtype)

        own = self.plan(dtype)
        if cut is None:
            cut = self.device.zeros((E, launches, self.grid(B, dtype).slices * own.blocks, own.threads, 3), dtype)
        nothing = self._nothing(dtype).reshape(1, 0, 0, 0)  # `Back.at` takes parts of it
        return Back(room(G), room(P) if P else nothing, room(), room() if self.modulated_rows.size else nothing, cut)

    def retreat(self, weights: Weights, kept: Kept, flow: Flow, dstate, back: Back, steps: "Stretch", limit) -> None:
        """Take `dstate` back over `steps`, filling `back`."""
        dtype, grid = dstate.dtype, self.grid(dstate.shape[2], dstate.dtype)
        span = self._span(kept, *steps, flow.dstates.shape[1])
        way, start = self.plan(dtype).backward, kept.starts[steps.offset // kept.segment]
        flow = Flow(flow.dy, self._nothing(dtype), *flow[2:])  # dx is no business of the kernel's
        self._launch(way, grid, self._run_of(span, kept, weights), start, flow, dstate, dtype.type(limit), back)

    def _span(self, kept: Kept, begin: int, end: int, offset: int, shown: int) -> Span:
        E, T, B, width = kept.y.shape
        if E * T * B >= 2**32:
            raise ValueError(f"x: fewer than 2**32 steps of all sequences and members are required with device='cuda'; got {E} x {T} x {B}")
        return Span(begin, end, offset, int(self.reverse), T, B, self.H, width, kept.column, kept.others.shape[1], shown)

    def _run_of(self, span: Span, kept: Kept, weights: Weights) -> Run:
        batch = Batch(self._nothing(kept.y.dtype), *kept.batch[1:])  # the kernel has no use for x
        return Run(span, batch, weights, _trace(kept))

    def _launch(self, way: Way, grid: Grid, run: Run, *arguments) -> None:
        """Run the kernel of one way on as many blocks as there are slices of members."""
        own = self.plan(run.trace.y.dtype)
        blocks = len(run.trace.y) * grid.slices * own.blocks
        target.launch_flat(way.kernel(), blocks, own.threads, way.shared, run, *arguments)

    def new_sums(self, E: int, dtype, cut) -> Sums:
        """Zeros, and `Back.cut` or None."""
        return Sums(self.device.zeros((E, sum_begins(self)[-1]), dtype), cut)

    def add_sums(self, sums: Sums, batch: Batch, back: Back, begin: int, end: int) -> None:
        """Add the gradients of the parameters, from those of the pre-activations of steps [begin, end), after which all have been added."""
        (E, n, B, G, H), lay, begins = back.dz.shape, self.layout, self._made.once(("sums",), lambda: sum_begins(self))
        dz, block = back.dz.reshape(E, n * B, G * H), self.grid(B, back.dz.dtype).block
        parts, width = Parts(block * B, begin % block * B), self.recurrent_rows.size + self.modulated_rows.size
        terms = []
        for left, at, (first, last), step in (
            (self._inputs(batch, begin, end), begins[0], lay.input, self.input_rows.size),
            (back.held.reshape(E, n * B, H), begins[1], lay.recurrent, width),
            (back.modulated, begins[1] + self.recurrent_rows.size, lay.modulated, width),
        ):
            if last > first:
                terms.append(Term(left.reshape(len(left), -1, left.shape[-1]), dz, at, first * H, (last - first) * H, step))
        terms.append(Term(None, dz, begins[2]))
        if self.cell.parameters:
            terms.append(Term(None, back.dunit.reshape(E, n * B, -1), begins[3]))
        add_terms(terms, sums.total, self.device.empty, parts, self.device.precision)

    def add_dx(self, weights: Weights, batch: Batch, dz, dx, begin: int, end: int) -> None:
        """dL/dx (E, T, B, D) at the times of steps [begin, end)."""
        (E, n, B, G, H), D, empty = dz.shape, self.D, self.device.empty
        start = self._made.once(("zeros", E, dz.dtype), lambda: self.device.zeros((E, D), dz.dtype))
        by_step, first = empty((E, n, B, D), dz.dtype) if self.reverse or n < dx.shape[1] else dx, self.layout.input[0] * H
        product(dz.reshape(E, n * B, G * H), first, weights.input, start, by_step.reshape(E, n * B, D), 0, D, self.device.precision)
        if self.reverse:
            packing.by_time(by_step, batch.lengths, begin, dx)
        elif by_step is not dx:
            dx[:, begin:end] = by_step


def _flats(p: dict[str, At]) -> tuple[tuple, tuple]:
    """The arrays that parameters lie in, and of each its name, in which of them it lies, and where."""
    flats = {id(flat): flat for flat, _ in p.values()}
    which = {key: k for k, key in enumerate(flats)}
    return tuple(flats.values()), tuple([(name, which[id(flat)], start) for name, (flat, start) in p.items()])


def _named(flats, places: tuple) -> dict[str, At]:
    """The reverse of `_flats`."""
    return {name: At(flats[which], start) for name, which, start in places}


def _trace(kept: Kept) -> Trace:
    return Trace(kept.y, kept.others, kept.saved, kept.preactivations)

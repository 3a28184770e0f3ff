"""One direction of one recurrent layer on the GPU: what `_direction` is on the CPU, with the same contract."""

from typing import NamedTuple

import numpy as np

from .._device import Device
from .._params import At
from ..cells import Cell
from ..kernels._loop import Batch, Flow, Trace
from ..kernels.cuda import target
from ..kernels.cuda.loop import Back, Run, Span, Weights
from ..kernels.cuda.plan import Plan, Way, as_it_is, k_first, plan
from ..kernels.cuda.product import PART, Parts, add_columns, add_transposed, product
from ._direction import Direction, Grid, Kept


class Sums(NamedTuple):
    """Parameter gradients of E members: of every product's operand (E, K, N), of all slots' biases (E, Z), unit parameters (E, P H)."""

    input: object
    recurrent: object
    modulated: object
    bias: object
    unit: object
    cut: object  # (E, 3): entries clipped, sum of what was cut off, sum of magnitudes before


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

    def plan(self, dtype) -> Plan:
        return plan(self.cell, self.H, dtype, self.device.precision)

    def grid(self, B: int, dtype) -> Grid:
        rows = self.plan(dtype).rows
        block = max(PART // max(B, 1), 1)  # steps whose gradients of parameters are one sum
        return Grid(1 << (block.bit_length() - 1), rows, -(-B // rows))

    def batch(self, x, rows, mask=None, pull=None) -> Batch:
        put, empty = self.device.put, self.device.empty
        goal, alpha = pull or (empty((1, 0, x.shape[2], self.H), x.dtype), empty((0,), x.dtype))
        order = np.argsort(-rows.lengths, axis=1, kind="stable")  # a block ends with its longest row: like lengths together
        mask, lengths = empty((1, 0, self.H), x.dtype) if mask is None else mask, put(rows.lengths)
        if self.reverse or (rows.lengths != x.shape[1]).any():
            x = self._by_step(x, lengths)
        return Batch(x, put(order), lengths, mask, goal, alpha)

    def _by_step(self, x, lengths):
        """x (E or 1, T, B, D) in the order of processing."""
        xp, lengths = self.device.xp, lengths[:, None]
        step = xp.arange(x.shape[1])[None, :, None]
        valid = step < lengths
        places = xp.where(valid, lengths - 1 - step if self.reverse else step, 0)
        member = xp.arange(len(x))[:, None, None]
        found = x[member, places, xp.arange(x.shape[2])]
        return xp.ascontiguousarray(xp.where(valid[..., None], found, x.dtype.type(0)))

    def over_batch(self, flow):
        E, S, B, H = flow.shape
        total = self.device.zeros((E * S, H), flow.dtype)
        add_columns(flow.reshape(E * S, B, H), total, self.device.empty, Parts())
        return total.reshape(E, S, H)

    def cut(self, sums: list[Sums], E: int) -> np.ndarray:
        return sum((self.device.get(found.cut).astype(float) for found in sums), np.zeros((E, 3)))

    def _inputs(self, batch: Batch, begin: int, end: int):
        """The inputs of steps [begin, end), one row a step and sequence: (E or 1, n B, D)."""
        x = self.device.xp.ascontiguousarray(batch.x[:, begin:end])
        return x.reshape(len(x), -1, self.D)

    def pack(self, p: dict[str, At], backward: bool) -> Weights:
        flat, H, xp = p["weight_ih"].flat, self.H, self.device.xp
        E, dtype, G = flat.shape[0], flat.dtype, len(self.cell.gates)
        own = self.plan(dtype)
        way, ready = (own.backward, as_it_is) if backward else (own.forward, k_first)
        bias = self.device.zeros((E, len(self.cell.slots) * H), dtype)
        for name, slot, block in self.bias_blocks:
            bias[:, slot] += p[name].part(block)
        unit = self.device.empty((E, len(self.cell.parameters), H), dtype)
        for i, name in enumerate(self.cell.parameters):
            unit[:, i] = p[name].part(slice(0, H))

        def operand(name, rows, K, lay_out):
            if not rows.size:
                return self.device.empty((E, 0, 0), dtype)
            weight = p[name].part(slice(0, G * H * K)).reshape(E, G * H, K)[:, self.device.put(rows)]
            return lay_out(xp.ascontiguousarray(weight), self.device.empty)

        return Weights(
            operand("weight_ih", self.input_rows, self.D, ready), operand("weight_hh", self.recurrent_rows, H, way.operand),
            operand("weight_hh", self.modulated_rows, H, ready), bias, unit,
        )  # fmt: skip

    def packed(self, p: dict[str, At]) -> Weights:
        return self.pack(p, backward=False)

    def sums(self, slices: int, dtype) -> list[Sums]:
        return []  # `Sums` of all runs of the kernel, from the first one on

    def add_gradients(self, sums: list[Sums], grads: dict[str, At]) -> None:
        """grads[name] += all sums; only the names that `grads` has."""
        G, H = len(self.cell.gates), self.H
        for found in sums:
            for name, part, rows, K in (
                ("weight_ih", found.input, self.input_rows, self.D),
                ("weight_hh", found.recurrent, self.recurrent_rows, H),
                ("weight_hh", found.modulated, self.modulated_rows, H),
            ):
                for first in range(0, rows.size, H):  # slot by slot: two of them may share a gate
                    weight = grads[name].part(slice(0, G * H * K)).reshape(-1, G * H, K)
                    weight[:, rows[first] : rows[first] + H] += part[:, :, first : first + H].swapaxes(1, 2)
            for name, slot, block in self.bias_blocks:
                grads[name].part(block)[...] += found.bias[:, slot]
            for i, name in enumerate(self.cell.parameters):
                if name in grads:
                    grads[name].part(slice(0, H))[...] += found.unit[:, i * H : (i + 1) * H]

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
        back = self.back(E, end - begin, B, dstate.dtype)
        self.retreat(weights, kept, flow, dstate, back, Stretch(begin, end, segment * kept.segment), limit)
        if not sums:
            sums.append(self.new_sums(E, dstate.dtype))
        self.add_sums(sums[0], kept.batch, back, begin, end)
        if flow.dx.shape[1]:
            self.add_dx(weights, kept.batch, back.dz, flow.dx, begin, end)

    def back(self, E: int, n: int, B: int, dtype, launches: int = 1) -> Back:
        """Room for what `retreat` leaves of n steps."""
        zeros, G, P, H, grid = self.device.zeros, len(self.cell.slots), len(self.cell.parameters), self.H, self.grid(B, dtype)
        modulated = zeros((E, n if self.modulated_rows.size else 0, B, H), dtype)
        own = self.plan(dtype)
        cut = zeros((E, launches, grid.slices * own.blocks, own.threads, 3), dtype)
        return Back(zeros((E, n, B, G, H), dtype), zeros((E, n, B, P, H), dtype), zeros((E, n, B, H), dtype), modulated, cut)

    def retreat(self, weights: Weights, kept: Kept, flow: Flow, dstate, back: Back, steps: "Stretch", limit) -> None:
        """Take `dstate` back over `steps`, filling `back`."""
        dtype, grid = dstate.dtype, self.grid(dstate.shape[2], dstate.dtype)
        span = self._span(kept, *steps, flow.dstates.shape[1])
        way, start = self.plan(dtype).backward, kept.starts[steps.offset // kept.segment]
        flow = flow._replace(dx=flow.dx[:0])  # which is no business of the kernel's
        self._launch(way, grid, self._run_of(span, kept, weights), start, flow, dstate, dtype.type(limit), back)

    def _span(self, kept: Kept, begin: int, end: int, offset: int, shown: int) -> Span:
        _, T, B, width = kept.y.shape
        return Span(begin, end, offset, int(self.reverse), T, B, self.H, width, kept.column, kept.others.shape[1], shown)

    def _run_of(self, span: Span, kept: Kept, weights: Weights) -> Run:
        batch = kept.batch._replace(x=kept.batch.x[:0])  # the kernel has no use for it
        return Run(span, batch, weights, Trace(kept.y, kept.others, kept.saved, kept.preactivations))

    def _launch(self, way: Way, grid: Grid, run: Run, *arguments) -> None:
        """Run the kernel of one way on as many blocks as there are slices of members."""
        own = self.plan(run.trace.y.dtype)
        target.launch(way.kernel(), len(run.trace.y) * grid.slices * own.blocks, own.threads, way.shared, *flat((run, *arguments)))

    def new_sums(self, E: int, dtype) -> Sums:
        """Zeros."""
        zeros, H, G = self.device.zeros, self.H, len(self.cell.slots)
        sides = (self.D, self.input_rows), (H, self.recurrent_rows), (H, self.modulated_rows)
        operands = [zeros((E, K, rows.size), dtype) for K, rows in sides]
        return Sums(*operands, zeros((E, G * H), dtype), zeros((E, len(self.cell.parameters) * H), dtype), zeros((E, 3), dtype))

    def add_sums(self, sums: Sums, batch: Batch, back: Back, begin: int, end: int) -> None:
        """Add the gradients of the parameters, from those of the pre-activations of steps [begin, end), after which all have been added."""
        (E, n, B, G, H), empty, lay = back.dz.shape, self.device.empty, self.layout
        dz, block = back.dz.reshape(E, n * B, G * H), self.grid(B, back.dz.dtype).block
        rows = Parts(block * B, begin % block * B)
        for total, left, slots in (
            (sums.input, self._inputs(batch, begin, end), lay.input),
            (sums.recurrent, back.held.reshape(E, n * B, H), lay.recurrent),
            (sums.modulated, back.modulated.reshape(E, -1, H), lay.modulated),
        ):
            add_transposed(left, dz, slots[0] * H, total, empty, rows, self.device.precision)
        add_columns(dz, sums.bias, empty, rows)
        add_columns(back.dunit.reshape(E, n * B, -1), sums.unit, empty, rows)
        sums.cut[...] += back.cut.sum(axis=(1, 2, 3))

    def add_dx(self, weights: Weights, batch: Batch, dz, dx, begin: int, end: int) -> None:
        """dL/dx (E, T, B, D) at the times of steps [begin, end)."""
        (E, n, B, G, H), zeros = dz.shape, self.device.zeros
        by_step, first = self.device.empty((E, n, B, self.D), dz.dtype), self.layout.input[0] * H
        flat, start = by_step.reshape(E, -1, self.D), zeros((E, self.D), dz.dtype)
        product(dz.reshape(E, -1, G * H), first, weights.input, start, flat, 0, self.D, self.device.precision)
        if self.reverse:
            steps = self.device.xp.arange(begin, end)[None, :, None]
            valid = steps < batch.lengths[:, None]
            e, s, b = self.device.xp.nonzero(self.device.xp.broadcast_to(valid, (E, n, B)))
            dx[e, batch.lengths[e % len(batch.lengths), b] - 1 - begin - s, b] = by_step[e, s, b]
        else:
            dx[:, begin:end] = by_step


def flat(value):
    """Arrays in tuples, each with one axis: index arithmetic over five keeps more in registers than a thread has."""
    if isinstance(value, tuple):
        return type(value)(*map(flat, value)) if hasattr(value, "_fields") else tuple(map(flat, value))
    if not hasattr(value, "shape") or not value.shape:
        return value
    if not value.flags.c_contiguous:
        raise ValueError("kernels: contiguous arrays are required")  # a copy would take what they write with it
    return value.reshape(-1)

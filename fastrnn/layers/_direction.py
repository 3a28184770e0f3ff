"""One direction of one recurrent layer: its parameters, and the kernels run over a span of steps."""

import threading
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from .. import _threads
from .._params import At
from .._threads import over_members
from ..cells import Cell
from ..kernels.cpu.loop import Batch, Flow, Layout, Scratch, Span, Sums, Trace, Weights, layout, make_backward, make_forward
from ..kernels.cpu.packing import add_transposed, pack_columns, pack_rows
from ..kernels.cpu.product import WIDE, aligned, lanes, padded

BLOCK_BYTES = 384 * 1024  # what a block of time may take of a core's second-level cache
SERIAL_WORK = 4e6  # operations below which waking a second thread costs more than it saves
SPAN_WORK = 2e10  # operations in one kernel call at most, so that an interruption is seen within a second
ROW_WORK = 1e5  # operations that a row of one step costs beside its arithmetic: what small layers spend their time on


KEPT = 8  # shapes of working memory that a thread keeps

_thread = threading.local()


class Grid(NamedTuple):
    """How one batch is cut up: a function of shapes and dtype alone, never of the threads."""

    block: int  # steps, a power of two
    rows: int  # rows of the batch in a slice
    slices: int


class Kept(NamedTuple):
    """The tape of one direction: others, saved and preactivations by step, all steps or those of one segment."""

    batch: Batch
    y: np.ndarray  # (E, T, B, >=H)
    column: int  # where this direction's units begin in y
    others: np.ndarray
    saved: np.ndarray
    preactivations: np.ndarray
    starts: list  # the state (E, S, B, H) at the first step of every segment
    segment: int  # steps; all of them where everything is kept


def weight_rows(cell, H: int, slots: tuple[int, int], side: str) -> np.ndarray:
    """The rows of a weight matrix that feed slots [first, last), in their order; `side` is "input" or "recurrent"."""
    gates = [getattr(slot, side) for slot in cell.slots[slice(*slots)]]
    return np.concatenate([np.arange(H) + H * cell.gates.index(gate) for gate in gates]) if gates else np.empty(0, np.int64)


@cache
def row_width(layout: Layout, H: int, dtype) -> int:
    """Length of a row of pre-activations that has room for whole vectors from the start of each product's slots."""
    spans = (layout.input, layout.recurrent, layout.modulated)
    ends = (span[0] + -(-padded((span[1] - span[0]) * H, dtype) // H) for span in spans if span[1] > span[0])
    return max(layout.slots, *ends) * H


def bias_blocks(cell, H: int):
    """(name of a bias, where in a row of pre-activations it is added, which part of it), slot by slot."""
    for k, slot in enumerate(cell.slots):
        for name, gate in (("bias_ih", slot.input), ("bias_hh", slot.recurrent)):
            if gate is not None and name in cell.biases:
                g = cell.gates.index(gate)
                yield name, slice(k * H, (k + 1) * H), slice(g * H, (g + 1) * H)


def block_rows(row_bytes: int) -> int:
    """How many rows of pre-activations a block of time may have: what fits, but enough for the products of its gradients."""
    return min(max(BLOCK_BYTES // row_bytes, 128), 512)


@cache
def _grid(layout: Layout, D: int, H: int, B: int, dtype) -> Grid:
    rows = max(-(-B // 64), min(16, -(-B // 2)), 1)
    steps = max(1, block_rows((row_width(layout, H, dtype) + D + 2 * H) * dtype.itemsize) // rows)
    return Grid(1 << (steps.bit_length() - 1), rows, -(-B // rows))


class Direction:
    """The parameters of one direction of one layer, by their names without suffix, and what can be computed with them."""

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, reverse: bool):
        self.cell, self.D, self.H, self.reverse = cell, input_size, hidden_size, reverse
        self.layout = layout(cell)
        self.input_rows = weight_rows(cell, hidden_size, self.layout.input, "input")
        self.recurrent_rows = weight_rows(cell, hidden_size, self.layout.recurrent, "recurrent")
        self.modulated_rows = weight_rows(cell, hidden_size, self.layout.modulated, "recurrent")
        self.bias_blocks = tuple(bias_blocks(cell, hidden_size))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of everything this direction needs, learned or fixed, in PyTorch's order."""
        G, H, cell = len(self.cell.gates), self.H, self.cell
        shapes = {"weight_ih": (G * H, self.D)}
        if self.recurrent_rows.size or self.modulated_rows.size:
            shapes["weight_hh"] = (G * H, H)
        shapes |= {name: (G * H,) for name in cell.biases}
        return shapes | {name: (H,) for name in cell.parameters}

    def width(self, dtype) -> int:
        """Length of a row of pre-activations in scratch memory."""
        return row_width(self.layout, self.H, dtype)

    def grid(self, B: int, dtype) -> Grid:
        return _grid(self.layout, self.D, self.H, B, dtype)

    def operations(self, B: int) -> float:
        """Multiply-adds of one step, counted twice, as everyone does."""
        return 2.0 * B * self.H * (self.input_rows.size // self.H * self.D + (self.recurrent_rows.size + self.modulated_rows.size))

    def pack(self, p: dict[str, At], backward: bool) -> Weights:
        """The operands of the kernels, from the parameters of E members by name."""
        flat, H = p["weight_ih"].flat, self.H
        E, dtype = flat.shape[0], flat.dtype
        bias = np.zeros((E, self.width(dtype)), dtype)
        if not backward:
            for name, slot, block in self.bias_blocks:
                bias[:, slot] += p[name].part(block)
        unit = np.empty((E, len(self.cell.parameters), H), dtype)
        for i, name in enumerate(self.cell.parameters):
            unit[:, i] = p[name].part(slice(0, H))
        pack = pack_rows if backward else pack_columns

        def operand(name, rows, K):
            if not rows.size:
                return np.empty((E, 0), dtype)
            size = rows.size * padded(K, dtype) if backward else K * padded(rows.size, dtype)
            panels = aligned(E * size, dtype).reshape(E, size)
            over_members(pack, E, size, *p[name], K, rows, panels)
            return panels

        return Weights(
            operand("weight_ih", self.input_rows, self.D),
            operand("weight_hh", self.recurrent_rows, H),
            operand("weight_hh", self.modulated_rows, H),
            bias,
            unit,
        )

    def sums(self, slices: int, dtype) -> Sums:
        """Zeroed parameter gradients, one row a slice (of every member)."""
        H = self.H

        def zeros(K, rows):
            return np.zeros((slices, K * padded(rows.size, dtype)), dtype)

        return Sums(
            zeros(self.D, self.input_rows),
            zeros(H, self.recurrent_rows),
            zeros(H, self.modulated_rows),
            np.zeros((slices, self.width(dtype)), dtype),
            np.zeros((slices, len(self.cell.parameters), H), dtype),
            np.zeros((slices, 3)),
        )

    def add_gradients(self, sums: Sums, grads: dict[str, At]) -> None:
        """grads[name] += every member's sums over slices, in the order of the slices; only the names that `grads` has."""
        E, H = grads["weight_ih"].flat.shape[0], self.H
        slices = sums.bias.shape[0] // E
        for name, part, rows, K in (
            ("weight_ih", sums.input, self.input_rows, self.D),
            ("weight_hh", sums.recurrent, self.recurrent_rows, H),
            ("weight_hh", sums.modulated, self.modulated_rows, H),
        ):
            if rows.size:
                flat, start = grads[name]
                over_members(add_transposed, E, slices * part.shape[1], part, slices, rows, K, flat, start)
        bias = sums.bias.reshape(E, slices, sums.bias.shape[1]).sum(axis=1)
        for name, slot, block in self.bias_blocks:
            grads[name].part(block)[...] += bias[:, slot]
        for i, name in enumerate(self.cell.parameters):
            if name in grads:
                grads[name].part(slice(0, H))[...] += sums.unit[:, i].reshape(E, slices, H).sum(axis=1)

    def _spans(self, begin: int, end: int, offset: int, grid: Grid, B: int, column: int):
        """[begin, end) in kernel calls of bounded length for B sequences, cut on the grid of blocks."""
        steps = int(SPAN_WORK / (self.operations(B) + ROW_WORK * B)) // grid.block * grid.block or grid.block
        for first in range(begin // steps * steps, end, steps):
            yield Span(max(first, begin), min(first + steps, end), offset, grid.block, grid.rows, int(self.reverse), column)

    def forward(self, weights: Weights, kept: Kept, grid: Grid, state: np.ndarray, begin: int, end: int):
        """Calls that advance `state` from step `begin` to `end`, filling y and whatever of the tape has room (from `begin` on)."""
        trace, kernel = Trace(kept.y, kept.others, kept.saved, kept.preactivations), make_forward(self.cell)
        for span in self._spans(begin, end, begin, grid, state.shape[0] * state.shape[2], kept.column):
            yield self._calls(kernel, grid, span, kept.batch, weights, trace, state)

    def backward(self, weights: Weights, kept: Kept, grid: Grid, sums: Sums, flow: Flow, dstate: np.ndarray, begin: int, end: int, limit):
        """Calls that take `dstate` back from step `end` to `begin`, both in the segment of time whose tape is in `kept`."""
        segment = begin // kept.segment
        trace, kernel = Trace(kept.y, kept.others, kept.saved, kept.preactivations), make_backward(self.cell)
        spans = self._spans(begin, end, segment * kept.segment, grid, dstate.shape[0] * dstate.shape[2], kept.column)
        for span in reversed(list(spans)):
            yield self._calls(kernel, grid, span, kept.batch, weights, trace, kept.starts[segment], sums, flow, dstate, limit)

    def _calls(self, kernel, grid: Grid, span: Span, batch: Batch, weights: Weights, *arguments):
        """(operations, tasks): the kernel over all members and slices of one span, in as many pieces as can be used."""
        (E, _), dtype = weights.bias.shape, weights.bias.dtype
        items = E * grid.slices
        parts = min(items, 2 * _threads.get_num_threads())
        bounds = [items * k // parts for k in range(parts + 1)] if parts else [0]
        steps = min(grid.block, span.end - span.begin)

        def task(first: int, last: int) -> None:
            kernel(first, last, span, batch, weights, *arguments, self._kept_scratch(steps * grid.rows, grid, dtype))

        tasks = [partial(task, first, last) for first, last in zip(bounds, bounds[1:])]
        return self.operations(E * batch.order.shape[1]) * (span.end - span.begin), tasks

    def _kept_scratch(self, n: int, grid: Grid, dtype) -> Scratch:
        """`scratch` as this thread has it from an earlier task of the same shape: no two tasks run in one thread at a time."""
        cell, kept = self.cell, vars(_thread).setdefault("scratch", {})
        key = self.layout, self.D, self.H, len(cell.states), len(cell.parameters), len(cell.saved), n, grid, dtype
        if key not in kept:
            if len(kept) == KEPT:
                kept.clear()
            kept[key] = self.scratch(n, grid, dtype)
        return kept[key]

    def scratch(self, n: int, grid: Grid, dtype) -> Scratch:
        """Working memory of one task."""
        cell, H, R, Z = self.cell, self.H, grid.rows, self.width(dtype) // self.H
        S, P, K = len(cell.states), len(cell.parameters), len(cell.saved)
        panel = max(n * WIDE * lanes(dtype), Z * H)

        def empty(*shape):
            return np.empty(shape, dtype)

        return Scratch(
            empty(n, self.D), np.zeros((n + 1, Z, H), dtype), empty(R, S, H), empty(R, S, H), empty(R, padded(H, dtype)), empty(n, H),
            empty(n if self.modulated_rows.size else 0, H), empty(n, padded(self.D, dtype)), empty(3, max(S, P, K, 1), H), empty(P, H),
            aligned(panel, dtype), np.empty(grid.block, np.int64),
        )  # fmt: skip


def run_side_by_side(*directions) -> None:
    """Run the calls of several directions, span by span, in common parallel regions where there is work enough."""
    for calls in zip(*directions, strict=True):
        tasks = [task for _, tasks in calls for task in tasks]
        if sum(work for work, _ in calls) > SERIAL_WORK:
            _threads.run(tasks)
        else:
            for task in tasks:
                task()

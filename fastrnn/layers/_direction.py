"""One direction of one recurrent layer: its parameters, and the kernels run over a span of steps."""

import math
import threading
from functools import cache
from typing import NamedTuple

import numpy as np

from .. import _memory, _threads
from .._device import CPU
from .._params import At
from ..cells import Cell
from ..kernels._loop import Batch, Flow, Layout, Trace, layout
from ..kernels.cpu.loop import Scratch, Span, Sums, Weights, make_backward, make_forward
from ..kernels.cpu.packing import add_transposed, pack_columns, pack_rows, same
from ..kernels.cpu.product import WIDE, lanes, padded

BLOCK_BYTES = 384 * 1024  # what a block of time may take of a core's second-level cache
SHARED_WORK = 5e5  # operations of one step of one item that are worth sharing between threads
MOVED_WORK = 100.0  # operations that moving a number costs as much time as
PIECE = 16384  # numbers moved in one work item
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
    even: bool = False  # whether every sequence is known to have all steps


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
    """(name of a bias, where in a row of pre-activations it is added, which part of it), by runs of neighbouring slots."""
    for name, side in (("bias_ih", "input"), ("bias_hh", "recurrent")):
        gates = [getattr(slot, side) for slot in cell.slots] if name in cell.biases else []
        places = [(k, cell.gates.index(gate)) for k, gate in enumerate(gates) if gate is not None]
        while places:
            (k, g), n = places[0], 1
            while n < len(places) and places[n] == (k + n, g + n):
                n += 1
            yield name, slice(k * H, (k + n) * H), slice(g * H, (g + n) * H)
            places = places[n:]


def block_rows(row_bytes: int) -> int:
    """How many rows of pre-activations a block of time may have: what fits, but enough for the products of its gradients."""
    return min(max(BLOCK_BYTES // row_bytes, 128), 512)


def slice_rows(B: int) -> int:
    """How many sequences of a batch are in a slice."""
    return max(-(-B // 64), min(16, -(-B // 2)), 1)


@cache
def dealt(B: int, rows: int) -> np.ndarray:
    """Which rank of B sequences, the longest first, has each place in slices of `rows`: dealt out in turn, so that all have alike to do."""
    places = np.arange(B)
    return np.argsort(np.lexsort((places // rows, places % rows)))


@cache
def _grid(layout: Layout, D: int, H: int, B: int, dtype) -> Grid:
    rows = slice_rows(B)
    steps = max(1, block_rows((row_width(layout, H, dtype) + D + 2 * H) * dtype.itemsize) // rows)
    return Grid(1 << (steps.bit_length() - 1), rows, -(-B // rows))


class Direction:
    """The parameters of one direction of one layer, by their names without suffix, and what can be computed with them."""

    device = CPU

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, reverse: bool):
        self.cell, self.D, self.H, self.reverse = cell, input_size, hidden_size, reverse
        self.layout = layout(cell)
        self.input_rows = weight_rows(cell, hidden_size, self.layout.input, "input")
        self.recurrent_rows = weight_rows(cell, hidden_size, self.layout.recurrent, "recurrent")
        self.modulated_rows = weight_rows(cell, hidden_size, self.layout.modulated, "recurrent")
        self.bias_blocks = tuple(bias_blocks(cell, hidden_size))
        self.size = sum(map(math.prod, self.shapes().values()))  # of all parameters together
        self._packed = np.empty(0), None  # the bits of parameters, and what they were packed into

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

    def batch(self, x, rows, mask=None, pull=None) -> Batch:
        """What the kernels run over: x (E or 1, T, B, D), `Rows`, mask (E or 1, B, H).

        `pull`: (goal (E, T, B, H), alpha (T,)), towards which the state is pulled at every step.
        """
        goal, alpha = pull or (np.empty((1, 0, x.shape[2], self.H), x.dtype), np.empty(0, x.dtype))
        return Batch(x, rows.order, rows.lengths, np.empty((1, 0, self.H), x.dtype) if mask is None else mask, goal, alpha)

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
            panels = _memory.aligned((E, size), dtype)
            over_members(pack, panels, *p[name], K, rows, panels)
            return panels

        return Weights(
            operand("weight_ih", self.input_rows, self.D),
            operand("weight_hh", self.recurrent_rows, H),
            operand("weight_hh", self.modulated_rows, H),
            bias,
            unit,
        )

    def packed(self, p: dict[str, At]) -> Weights:
        """`pack(p, backward=False)`, or what it gave the last time, where no bit of one model's parameters has changed since."""
        flat, begin = p["weight_ih"]
        if len(flat) > 1 or any(at.flat is not flat for at in p.values()):
            return self.pack(p, backward=False)
        now = flat[0, begin : begin + self.size].view(f"u{flat.itemsize}")
        before, weights = self._packed
        if before.dtype != now.dtype or not same(before, now):
            weights = self.pack(p, backward=False)
            self._packed = now.copy(), weights
        return weights

    def sums(self, slices: int, dtype) -> Sums:
        """Zeroed parameter gradients, one row a slice (of every member)."""
        H = self.H

        def zeros(K, rows):
            return _memory.zeros((slices, K * padded(rows.size, dtype)), dtype)

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
                over_members(add_transposed, part.reshape(E, -1), part, slices, rows, K, flat, start)
        bias = sums.bias.reshape(E, slices, sums.bias.shape[1]).sum(axis=1)
        for name, slot, block in self.bias_blocks:
            grads[name].part(block)[...] += bias[:, slot]
        for i, name in enumerate(self.cell.parameters):
            if name in grads:
                grads[name].part(slice(0, H))[...] += sums.unit[:, i].reshape(E, slices, H).sum(axis=1)

    def over_batch(self, flow) -> np.ndarray:
        """The sum over sequences of a state's gradient (E, S, B, H): (E, S, H)."""
        return flow.sum(axis=2)

    def cut(self, sums: Sums, E: int) -> np.ndarray:
        """What clipping did, (E, 3)."""
        return sums.cut.reshape(E, -1, 3).sum(axis=1)

    def _spans(self, begin: int, end: int, offset: int, grid: Grid, B: int, column: int):
        """[begin, end) in kernel calls of bounded length for B sequences, cut on the grid of blocks."""
        steps = int(SPAN_WORK / (self.operations(B) + ROW_WORK * B)) // grid.block * grid.block or grid.block
        for first in range(begin // steps * steps, end, steps):
            yield Span(max(first, begin), min(first + steps, end), offset, grid.block, grid.rows, int(self.reverse), column, 0, 0)

    def forward(self, weights: Weights, kept: Kept, grid: Grid, state: np.ndarray, begin: int, end: int) -> None:
        """Advance `state` from step `begin` to `end`, filling y and whatever of the tape has room (from `begin` on)."""
        trace, kernel = Trace(kept.y, kept.others, kept.saved, kept.preactivations), make_forward(self.cell)
        for span in self._spans(begin, end, begin, grid, state.shape[0] * state.shape[2], kept.column):
            self._run(kernel, grid, span, kept.batch, weights, trace, state)

    def backward(self, weights: Weights, kept: Kept, grid: Grid, sums: Sums, flow: Flow, dstate: np.ndarray, begin: int, end: int, limit):
        """Take `dstate` back from step `end` to `begin`, both in the segment of time whose tape is in `kept`."""
        segment = begin // kept.segment
        trace, kernel = Trace(kept.y, kept.others, kept.saved, kept.preactivations), make_backward(self.cell)
        spans = self._spans(begin, end, segment * kept.segment, grid, dstate.shape[0] * dstate.shape[2], kept.column)
        for span in reversed(list(spans)):
            self._run(kernel, grid, span, kept.batch, weights, trace, kept.starts[segment], sums, flow, dstate, limit)

    def room(self, E: int, steps: int, B: int, dtype) -> tuple[np.ndarray, np.ndarray]:
        """`others` and `saved` for so many steps; what lies beyond a sequence's end is never read."""
        S, K, empty = len(self.cell.states), len(self.cell.saved), self.device.empty
        return empty((E, steps, B, S - 1, self.H), dtype), empty((E, steps, B, K, self.H), dtype)

    def forward_through(self, p: dict[str, At], kept: Kept, start: np.ndarray, state: np.ndarray, steps: int, learning: bool) -> None:
        """Advance `state`, which is as `start`, over all steps; `kept` gets the states before its segments.

        `learning`: a tape is kept, so parameters are likely to be others than in the call before.
        """
        weights, grid = self.pack(p, backward=False) if learning else self.packed(p), self.grid(state.shape[2], state.dtype)
        for begin in range(0, steps, kept.segment):
            end = min(begin + kept.segment, steps)
            kept.starts.append(state.copy() if begin else start)
            part = kept if end - begin == steps else kept._replace(preactivations=kept.preactivations[:, begin:end])
            self.forward(weights, part, grid, state, begin, end)

    def backward_through(self, p: dict[str, At], kept: Kept, flow: Flow, dstate, grads: dict[str, At], begin: int, steps: int, limit):
        """Take `dstate` back from the last step to `begin`, and add to `grads`: what was cut, (E, 3)."""
        (E, _, B, _), dtype, segment, again = dstate.shape, dstate.dtype, kept.segment, None
        grid, back = self.grid(B, dtype), self.pack(p, backward=True)
        sums = self.sums(E * grid.slices, dtype)
        for first in range((steps - 1) // segment * segment if steps else -1, -1, -segment):
            last = min(first + segment, steps)
            if last <= begin:
                break
            if segment < steps:  # compute this segment's tape again
                again = again or (self.pack(p, backward=False), *self.room(E, segment, B, dtype))
                forth, others, saved = again
                kept = kept._replace(others=others, saved=saved, preactivations=kept.preactivations[:, :0])
                self.forward(forth, kept, grid, kept.starts[first // segment].copy(), first, last)
            part = flow if last - first == steps else Flow(*flow[:2], *(array[:, first:last] for array in flow[2:]))
            self.backward(back, kept, grid, sums, part, dstate, max(first, begin), last, limit)
        self.add_gradients(sums, grads)
        return self.cut(sums, E)

    def _run(self, kernel, grid: Grid, span: Span, batch: Batch, weights: Weights, *arguments) -> None:
        """The kernel over all members and slices of one span."""
        (E, _), dtype = weights.bias.shape, weights.bias.dtype
        items, steps = E * grid.slices, span.end - span.begin
        within = items == 1 and self.operations(grid.rows) > SHARED_WORK
        team = _threads.team(self.operations(E * batch.order.shape[1]) * steps) if items > 1 or within else _threads.ALONE
        scratch = self._kept_scratch(_threads.size(team), min(grid.block, steps) * grid.rows, grid, dtype)
        if within:
            team, scratch = _threads.ALONE, scratch._replace(team=team)
        kernel(team, items, span, batch, weights, *arguments, scratch)

    def _kept_scratch(self, threads: int, n: int, grid: Grid, dtype) -> Scratch:
        """`scratch` as the calling thread has it from an earlier run of the same shape."""
        cell, kept = self.cell, vars(_thread).setdefault("scratch", {})
        key = self.layout, self.D, self.H, len(cell.states), len(cell.parameters), len(cell.saved), threads, n, grid, dtype
        if key not in kept:
            if len(kept) == KEPT:
                kept.clear()
            kept[key] = self.scratch(threads, n, grid, dtype)
        return kept[key]

    def scratch(self, threads: int, n: int, grid: Grid, dtype) -> Scratch:
        """Working memory of so many threads."""
        cell, H, R, Z = self.cell, self.H, grid.rows, self.width(dtype) // self.H
        S, P, K = len(cell.states), len(cell.parameters), len(cell.saved)

        def empty(*shape):
            return _memory.aligned((threads, *shape), dtype)

        return Scratch(
            empty(n, self.D), _memory.zeros((threads, n + 1, Z, H), dtype), empty(R, S, H), empty(R, S, H), empty(R, padded(H, dtype)),
            empty(n, H), empty(n if self.modulated_rows.size else 0, H), empty(n, padded(self.D, dtype)), empty(3, max(S, P, K, 1), H),
            empty(P, H), empty(padded(max(n * WIDE * lanes(dtype), Z * H), dtype)), np.empty((threads, grid.block), np.int64),
            _threads.ALONE,
        )  # fmt: skip


def over_members(kernel, numbers: np.ndarray, *arguments) -> None:
    """A kernel of `packing` over all members, each with a row of `numbers` to move, in as many pieces as are worth an item."""
    E, size = numbers.shape
    parts = min(-(-size // PIECE), 64)
    kernel(_threads.team(MOVED_WORK * numbers.size), E * parts, parts, *arguments)

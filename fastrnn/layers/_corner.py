"""One corner of a two-dimensional network: its parameters, and the kernels run over a span of diagonals."""

from typing import NamedTuple

import numpy as np

from .. import _memory, _threads
from .._params import At
from .._team import parallel
from ..cells2d import Cell2D
from ..kernels._loop import layout
from ..kernels.cpu.grid import Flow, Images, Scratch, Span, Sums, Trace, Weights, make_backward, make_forward
from ..kernels.cpu.packing import add_transposed, pack_columns, pack_rows
from ..kernels.cpu.product import WIDE, lanes, padded
from ._direction import ROW_WORK, SPAN_WORK, Grid, bias_blocks, block_rows, over_members, row_width, weight_rows


class Kept(NamedTuple):
    """The tape of one corner, every array by pixel: (R, C, B, ...), or 0 rows where it is not kept."""

    y: np.ndarray  # (R, C, B, >=H)
    column: int  # where this corner's units begin in y
    others: np.ndarray
    saved: np.ndarray
    preactivations: np.ndarray


class Shown(NamedTuple):
    """Gradients at every pixel: dstates (R, C, B, S, H), dpreactivations (R, C, B, G, H), or 0 rows."""

    dstates: np.ndarray
    dpreactivations: np.ndarray


class Corner:
    """The parameters of the run that begins in one corner, by their names without suffix, and what can be computed with them."""

    def __init__(self, cell: Cell2D, input_size: int, hidden_size: int, bottom: bool, right: bool):
        self.cell, self.D, self.H, self.bottom, self.right = cell, input_size, hidden_size, bottom, right
        self.layout = layout(cell)
        self.input_rows = weight_rows(cell, hidden_size, self.layout.input, "input")
        self.recurrent_rows = weight_rows(cell, hidden_size, self.layout.recurrent, "recurrent")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        G, H = len(self.cell.gates), self.H
        shapes = {"weight_ih": (G * H, self.D), "weight_up": (G * H, H), "weight_left": (G * H, H)}
        return shapes | {name: (G * H,) for name in self.cell.biases}

    def grid(self, R: int, C: int, B: int, dtype) -> Grid:
        """As `Direction.grid`, and the same where there is one row: blocks of diagonals, slices of images."""
        rows, side = max(-(-B // 64), min(16, -(-B // 2)), 1), min(R, C)
        row_bytes = (row_width(self.layout, self.H, dtype) + self.D + 2 * self.H) * dtype.itemsize
        pixels = block_rows(row_bytes)
        rows = max(1, min(rows, max(rows, pixels) // side))
        diagonals = max(1, pixels // (rows * side))
        return Grid(1 << (diagonals.bit_length() - 1), rows, -(-B // rows))

    def operations(self, R: int, C: int, B: int) -> float:
        """Multiply-adds of the longest diagonal, counted twice."""
        return 2.0 * min(R, C) * B * (self.input_rows.size * self.D + 2 * self.recurrent_rows.size * self.H)

    def pack(self, p: dict[str, At], backward: bool) -> Weights:
        """The operands of the kernels, from the parameters by name."""
        dtype, pack = p["weight_ih"].flat.dtype, pack_rows if backward else pack_columns
        bias = np.zeros(row_width(self.layout, self.H, dtype), dtype)
        for name, slot, block in bias_blocks(self.cell, self.H):
            bias[slot] += p[name].part(block)[0]

        def operand(name, rows, K):
            panels = _memory.aligned((1, rows.size * padded(K, dtype) if backward else K * padded(rows.size, dtype)), dtype)
            over_members(pack, panels, *p[name], K, rows, panels)
            return panels[0]

        return Weights(
            operand("weight_ih", self.input_rows, self.D),
            operand("weight_up", self.recurrent_rows, self.H),
            operand("weight_left", self.recurrent_rows, self.H),
            bias,
        )

    def sums(self, slices: int, dtype) -> Sums:
        """Zeroed parameter gradients, one row a slice."""
        recurrent = self.H * padded(self.recurrent_rows.size, dtype)
        widths = (self.D * padded(self.input_rows.size, dtype), recurrent, recurrent, row_width(self.layout, self.H, dtype))
        return Sums(*(_memory.zeros((slices, width), dtype) for width in widths))

    def add_gradients(self, sums: Sums, grads: dict[str, At]) -> None:
        """grads[name] += the sums over slices, in the order of the slices."""
        for name, part, rows, K in (
            ("weight_ih", sums.input, self.input_rows, self.D),
            ("weight_up", sums.up, self.recurrent_rows, self.H),
            ("weight_left", sums.left, self.recurrent_rows, self.H),
        ):
            over_members(add_transposed, part.reshape(1, -1), part, part.shape[0], rows, K, *grads[name])
        bias = sums.bias.sum(axis=0)
        for name, slot, block in bias_blocks(self.cell, self.H):
            grads[name].part(block)[...] += bias[slot]

    def forward(self, weights: Weights, images: Images, kept: Kept, state: np.ndarray) -> None:
        """Run over all diagonals, filling what `kept` has room for; `state` (B, R, S, H) is the running one, 0 before."""
        kernel, trace = parallel(make_forward(self.cell)), Trace(kept.y, kept.others, kept.saved, kept.preactivations)
        for span in self._spans(images, kept.column):
            self._run(kernel, span, images, weights, trace, state)

    def backward(self, weights: Weights, images: Images, kept: Kept, sums: Sums, flow: Flow, dstate: np.ndarray) -> None:
        """Go back over all diagonals; `dstate` (B, R, S, H) holds dL/d(final state) in each image's last row."""
        kernel, trace = parallel(make_backward(self.cell)), Trace(kept.y, kept.others, kept.saved, kept.preactivations)
        for span in reversed(list(self._spans(images, kept.column))):
            self._run(kernel, span, images, weights, trace, sums, flow, dstate)

    def _spans(self, images: Images, column: int):
        """All diagonals in kernel calls of bounded length, cut on the grid of blocks."""
        (R, C, B, _), dtype = images.x.shape, images.x.dtype
        grid, end = self.grid(R, C, B, dtype), int(images.sizes.sum(axis=1).max(initial=1)) - 1
        work = self.operations(R, C, B) + ROW_WORK * B * min(R, C)
        diagonals = int(SPAN_WORK / max(work, 1.0)) // grid.block * grid.block or grid.block
        for first in range(0, end, diagonals):
            yield Span(first, min(first + diagonals, end), grid.block, grid.rows, int(self.bottom), int(self.right), column)

    def _run(self, kernel, span: Span, images: Images, *arguments) -> None:
        """The kernel over all slices of one span."""
        (R, C, B, _), dtype = images.x.shape, images.x.dtype
        team = _threads.team(self.operations(R, C, B) * (span.end - span.begin))
        m = span.rows * min(R, C)
        n = min(span.block, span.end - span.begin) * m
        kernel(team, -(-B // span.rows), span, images, *arguments, self._scratch(_threads.size(team), n, m, span.block, dtype))

    def _scratch(self, threads: int, n: int, m: int, block: int, dtype) -> Scratch:
        """Working memory of so many threads: n pixels of a block, m of a diagonal."""
        cell, D, H, Z = self.cell, self.D, self.H, row_width(self.layout, self.H, dtype) // self.H
        S, K = len(cell.states), len(cell.saved)

        def empty(*shape):
            return _memory.aligned((threads, *shape), dtype)

        def zeros(*shape):
            return _memory.zeros((threads, *shape), dtype)

        return Scratch(
            empty(n, D), zeros(n + 1, Z, H), empty(m, padded(H, dtype)), empty(n, H), empty(n, H), empty(m, S, H), empty(m, S, H),
            empty(n, padded(D, dtype)), empty(2, S, H), empty(K, H), zeros(2, S, H),
            empty(padded(max(n * WIDE * lanes(dtype), Z * H), dtype)),
            np.empty((threads, n, 4), np.int64), np.empty((threads, block, 3), np.int64),
        )  # fmt: skip

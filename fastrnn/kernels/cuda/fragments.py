"""The recurrent product on tensor cores: how its operands are laid out, and who multiplies what; see `mma`.

A block takes SLICE rows of a member, and a warp of it TILE units, for which it computes all slots: the transposed product, a tile of
weights (units, k) times the operand (k, rows) for every slot. A tile has twice as many columns as there are rows, so every row stands in
two; what a lane has of a tile are two units of two rows, and another lane has the same. Of the units, each of the two lanes takes one
through the pointwise step: sums and states never leave its registers. (Most instructions of a step are pointwise. With eight rows a lane
would have twice as many to go through, one after the other; with two, a product would cost four times as much.) Only operands go through
shared memory, in words, (parts, slots, rows, stride); a stride of 4 more than a multiple of 8 words keeps them apart in the banks.

Weights lie as the lanes want them: (E, warps, steps along k, slots, parts, lanes, 4) words. The first `held` steps along k stay in
registers, the others are read again at every step of time, from the nearest cache that has room for them.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda, float32, int32

from ..._jit import pointwise
from . import target
from .loop import REGISTERS, Run, Span, held_threads, u
from .mma import LINE, TILE, Form, form, four_words
from .steps import Unit
from .target import SHARED, WARP, kernel

SLICE = LINE // 2  # rows of a block
CELLS = 2  # of them, a unit of which is a lane's
ROOM = SHARED - 2 * 8 * SLICE  # bytes for operands: rows and lengths are there, too
THREADS = 256  # of a block that lays out weights


class Place(NamedTuple):
    """Where a lane stands: its warp, its unit, and the first of its two rows; whether that unit is in the upper half of a tile."""

    warp: int
    lane: int
    unit: int
    row: int
    upper: bool


class Shape(NamedTuple):
    """Sizes of the product of a layer: H units, slots to be summed, and of the first of them `held` steps along k in registers."""

    precision: str
    H: int
    slots: int
    held: int

    @property
    def warps(self) -> int:
        return -(-self.H // TILE)

    @property
    def steps(self) -> int:
        """Steps along k, whose units are padded as the rows of tiles are."""
        return self.warps * TILE // (LINE * form(self.precision).numbers)

    @property
    def stride(self) -> int:
        """Words from one row of an operand to the next."""
        return self.steps * LINE + LINE // 2

    @property
    def words_a_step(self) -> int:
        """Of weights, for one lane and one step along k."""
        return self.slots * form(self.precision).parts * 4

    def operand_words(self, slots: int) -> int:
        """Of shared memory."""
        return form(self.precision).parts * slots * SLICE * self.stride

    def operand_bytes(self, slots: int) -> int:
        return 4 * self.operand_words(slots)

    @property
    def registers(self) -> int:
        """Of a thread, of as many as there are."""
        return min(REGISTERS // held_threads(self.warps * WARP), 256)


class Product(NamedTuple):
    """The pieces of a product, for a `Shape`."""

    stand: object
    hold: object
    give: object
    multiply: object


@pointwise
def find(q, place, block):
    """A lane's unit, of its row q; beyond the last one, where there are no more."""
    r = u(place.row + q)
    return Unit(block.member, block.b[r], block.length[r], place.unit, q)


@pointwise
def units_of(place, block):
    """Both of a lane."""
    return find(0, place, block), find(1, place, block)


@pointwise
def is_there(unit, place, span):
    """Whether there is such a unit, of a row that the batch has: behind its last one, a slice has that again."""
    behind = span.B - cuda.blockIdx.x % ((span.B + SLICE - 1) // SLICE) * SLICE
    return unit.j < span.H and place.row + unit.q < behind


@pointwise
def load(states, s, units, S, span, place):
    """s (S, 2): the states (E, S, B, H) of a lane's units, 0 of those that there are not."""
    for q in range(CELLS):
        unit = units[q]
        there = is_there(unit, place, span)
        for i in range(S):
            s[i, q] = states[u(((unit.member * S + i) * span.B + unit.b) * span.H + unit.j)] if there else float32(0.0)


@pointwise
def store(states, s, units, S, span, place):
    """The reverse of `load`."""
    for q in range(CELLS):
        unit = units[q]
        if is_there(unit, place, span):
            for i in range(S):
                states[u(((unit.member * S + i) * span.B + unit.b) * span.H + unit.j)] = s[i, q]


@pointwise
def sized(run, H):
    """`run` with its number of units, which is a constant here: what is multiplied by it is shifted, or counted ahead."""
    s = run.span
    span = Span(s.begin, s.end, s.offset, s.reverse, s.T, s.B, H, s.width, s.column, s.tape, s.shown)
    return Run(span, run.batch, run.weights, run.trace)


@cache
def make_product(shape: Shape, operands: int) -> Product:
    """The functions of one kernel, whose operand has `operands` slots: one for all sums, or one for each."""
    (parts, numbers, word, multiply_add), R, held = form(shape.precision), shape.slots, shape.held
    warps, steps, stride, words = shape.warps, shape.steps, shape.stride, shape.words_a_step
    plane, jump = operands * SLICE * stride, SLICE * stride if operands > 1 else 0
    row_words, tile_words = u(4 * WARP), 4 * parts

    @pointwise
    def stand():
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        upper = lane % 4 // 2
        return Place(warp, lane, warp * TILE + upper * (TILE // 2) + lane // 4, lane % 2 * CELLS, upper > 0)

    @pointwise
    def first_word(member, place):
        return u(((member * warps + place.warp) * steps * R * parts * WARP + place.lane) * 4)

    @pointwise
    def hold(w, weights, member, place):
        """w (held words,): this lane's weights of the first steps along k."""
        at = first_word(member, place)
        for k in range(held):
            for i in range(R * parts):
                found = four_words(weights, at + u(k * R * parts + i) * row_words)
                for c in range(4):
                    w[k * words + i * 4 + c] = found[c]

    @pointwise
    def give(slot, v, memory, base, place):
        """The two numbers v (2,) of this lane to all, as those of `slot` of the operand that begins at word `base`."""
        row = base + (slot * SLICE + place.row) * stride
        if numbers == 1:
            for q in range(CELLS):
                for part in range(parts):
                    memory[u(row + q * stride + place.unit + part * plane)] = word(part, v[q], v[q])
        else:  # neighbours along k are neighbouring units, four lanes apart: each of the two gets a row of both
            odd, one, other = place.unit & 1, v[0], v[1]
            own, got = other if odd else one, cuda.shfl_xor_sync(0xFFFFFFFF, one if odd else other, 4)
            memory[u(row + odd * stride + place.unit // 2)] = word(0, got if odd else own, own if odd else got)

    @pointwise
    def add(acc, s, w, i, b):
        """acc (slots, 4): that of slot s += the tile at w[i] times b."""
        found = multiply_add((w[i], w[i + 1], w[i + 2], w[i + 3]), b, (acc[s, 0], acc[s, 1], acc[s, 2], acc[s, 3]))
        for c in range(4):
            acc[s, c] = found[c]

    @pointwise
    def add_slot(acc, s, w, i, memory, at):
        """Slot s of one step along k, with the tiles of its parts from w[i] on; what is smallest comes first."""
        at = at + u(s * jump)
        b = memory[at], memory[at + u(LINE // 2)]
        if parts == 2:
            low = memory[at + u(plane)], memory[at + u(plane + LINE // 2)]
            add(acc, s, w, i + 4, b)
            add(acc, s, w, i, low)
        add(acc, s, w, i, b)

    @pointwise
    def multiply(sums, first, w, weights, member, memory, base, place):
        """sums[first : first + slots] (., 2) += the weights times the operand that begins at word `base`, k ascending in each slot."""
        acc, line = cuda.local.array((R, 4), float32), u(base + place.lane // 4 % SLICE * stride + place.lane % 4)
        for s in range(R):
            for c in range(4):
                acc[s, c] = float32(0.0)
        for k in range(held):
            for s in range(R):
                add_slot(acc, s, w, k * words + s * parts * 4, memory, line + u(k * LINE))
        tiles, at = cuda.local.array(tile_words, int32), first_word(member, place)
        for k in range(held, steps):
            for s in range(R):
                for part in range(parts):
                    found = four_words(weights, at + u((k * R + s) * parts + part) * row_words)
                    for c in range(4):
                        tiles[4 * part + c] = found[c]
                add_slot(acc, s, tiles, 0, memory, line + u(k * LINE))

        for s in range(R):
            for q in range(CELLS):
                low, high = acc[s, q], acc[s, CELLS + q]
                sums[first + s, q] += high if place.upper else low

    return Product(stand, hold, give, multiply)


@cache
def make_fragments(precision: str):
    """The kernel that lays out weights."""
    made: Form = form(precision)
    parts, numbers, word = made.parts, made.numbers, made.word

    @pointwise
    def weight_at(weight, e, s, row, k, H, transposed):
        if row >= H or k >= H:
            return float32(0.0)
        return weight[e, s * H + k, row] if transposed else weight[e, s * H + row, k]

    @kernel
    def fragments(weight, transposed, steps, warps, words):
        """words (E, warps, steps, slots, parts, lanes, 4), flat, of weight (E, slots H, H), in which a slot's is its transpose or not."""
        i, H, E = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, weight.shape[2], weight.shape[0]
        slots = weight.shape[1] // H
        if i < E * warps * steps * slots * parts * WARP * 4:
            c, lane, rest = i % 4, i // 4 % WARP, i // (4 * WARP)
            part, rest = rest % parts, rest // parts
            s, rest = rest % slots, rest // slots
            step, rest = rest % steps, rest // steps
            row = rest % warps * TILE + lane // 4 + TILE // 2 * (c % 2)
            k = (step * LINE + lane % 4 + LINE // 2 * (c // 2)) * numbers
            low = weight_at(weight, rest // warps, s, row, k, H, transposed)
            high = weight_at(weight, rest // warps, s, row, k + 1, H, transposed) if numbers == 2 else low
            words[i] = word(part, low, high)

    return fragments


def lay_out(shape: Shape, weight, transposed: bool, empty):
    """The words of weight (E, slots H, H), each slot's or its transpose; `empty` makes arrays."""
    words = empty((len(weight), shape.warps, shape.steps, shape.words_a_step * WARP), np.dtype("int32"))
    arguments = weight, int(transposed), shape.steps, shape.warps, words.reshape(-1)
    target.launch(make_fragments(shape.precision), -(-words.size // THREADS), THREADS, 0, *arguments)
    return words

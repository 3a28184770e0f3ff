"""The recurrent product in exact arithmetic, of weights that stay in registers: chains of fused multiply-adds.

A thread has a slot and a unit of the sums, and one of `splits` parts of k, for which it holds the weights, and a chain for each row of the
block; or for one row two, which take the reads of k in turns, or it would wait for itself. Blocks of a cluster share the units. Parts of k
are added in order. Operands go through shared memory, (slots, k, rows), and so do sums, (parts, slots, units, rows). Where not all of its
weights have room, a thread reads the others at every step, STREAM ahead of those that it multiplies.
"""

from functools import cache
from typing import NamedTuple

from numba import cuda

from ..._jit import pointwise
from ..._math import fma
from .cluster import make_put, make_waits
from .loop import registers_of, u
from .mma import four_at, two_at
from .resident import Place, Product
from .target import WARP, number

UNROLLED = 64  # multiply-adds of a loop
STREAM = 16  # weights that are read at once


class Chains(NamedTuple):
    """Sizes of the product of a layer: H units, slots to be summed, blocks that share the units, parts of k, rows of a block.

    And how many weights a thread holds; parts of k are filled up to a multiple of `grain`: of a whole read of operands, or where weights
    are read at every step, of 2 STREAM, and so is what is held.
    """

    dtype: object
    H: int
    slots: int
    blocks: int
    splits: int
    rows: int
    held: int
    grain: int

    @property
    def units(self) -> int:
        """Of a block."""
        return -(-self.H // self.blocks)

    @property
    def depth(self) -> int:
        """Of a part of k."""
        return -(-self.H // (self.splits * self.grain)) * self.grain

    @property
    def tall(self) -> int:
        """How many k the weights have in memory: zeros behind the last, where they are read at every step, and nobody looks."""
        return self.H if self.held == self.depth else self.depth * self.splits

    @property
    def at_once(self) -> int:
        """How many numbers are read at once."""
        return 16 // self.dtype.itemsize

    @property
    def chains(self) -> int:
        """Of a row, in a thread."""
        return 2 if self.rows == 1 else 1

    @property
    def threads(self) -> int:
        return -(-self.slots * self.units * self.splits // WARP) * WARP

    @property
    def having_units(self) -> int:
        """The first threads, each of which has a unit of a row."""
        return self.units * self.rows

    @property
    def message(self) -> int:
        """How many neighbouring numbers of an operand, of neighbouring threads, are sent at once: of 16 bytes at most."""
        fitting = (n for n in (4, 2) if n <= min(self.blocks, self.at_once) and not (self.units * self.rows % n or self.H * self.rows % n))
        return next(fitting, 1)

    @property
    def registers(self) -> int:
        """Of a thread."""
        return registers_of(self.threads)

    @property
    def places(self) -> int:
        """Operands in shared memory: another block may still read the one before."""
        return 1 if self.blocks == 1 else 2

    def operand_numbers(self, operands: int) -> int:
        return operands * self.depth * self.splits * self.rows

    def shared_bytes(self, operands: int) -> int:
        """Of a block, but for its rows and lengths."""
        chains = self.splits * self.slots * self.units * self.rows
        return self.dtype.itemsize * (self.places * self.operand_numbers(operands) + chains)

    def product(self, operands: int, places: int) -> Product:
        return make_chains(self, operands, places)


def _make_sum(shape: Chains, end: int, first: int = 0):
    """``add(acc, w, memory, at)``: terms [first, end); in loops that the compiler unrolls, or w would not be in registers."""
    rows, chains, at_once, last = shape.rows, shape.chains, shape.at_once, min(first + UNROLLED // shape.rows, end)
    add_following, read = _make_sum(shape, end, last) if last < end else _nothing, four_at if at_once == 4 else two_at
    terms, some = max(at_once // rows, 1), min(at_once, rows)  # that are read at once, of so many rows

    @pointwise
    def add(acc, w, memory, at):
        for k in range(first, last, terms):
            c = (k - first) // terms % chains
            for r in range(0, rows, some):
                found = read(memory, at + u(k * rows + r))
                for i in range(terms):
                    for j in range(some):
                        acc[r + j, c] = fma(found[i * some + j], w[k + i], acc[r + j, c])
        add_following(acc, w, memory, at)

    return add


@pointwise
def _nothing(acc, w, memory, at):
    pass


@cache
def make_chains(shape: Chains, operands: int, places: int) -> Product:
    """The functions of one kernel, whose operand has `operands` slots: one for all sums, or one for each, and then a unit has one sum.

    Weights are (E, k, slots, H), or, where the operand has several slots, (E, slots, k, H); see `tall`.
    """
    real, H, R, units, blocks, splits = number(shape.dtype), shape.H, shape.slots, shape.units, shape.blocks, shape.splits
    depth, rows, words, several = shape.depth, shape.rows, shape.operand_numbers(operands), operands > 1
    K, sums, ways, held, some_weights = depth * splits, places * words, shape.chains, shape.held, STREAM
    add_held, add_some = _make_sum(shape, held) if held else _nothing, _make_sum(shape, some_weights)
    put, (begin_waits, wait) = make_put(blocks, 1, shape.message), make_waits(blocks, shape.dtype.itemsize * operands * rows * H)
    having, apart = -(-shape.having_units // WARP) * WARP, H if several else R * H  # from a weight to the next along k
    tall = shape.tall

    @pointwise
    def stand(t, block):
        first = block % blocks * units
        own, split = t % (R * units), t // (R * units)
        there = split < splits and first + own % units < H
        unit = first + t // rows
        return Place(unit if t < units * rows and unit < H else H, t % rows, own if there else -1, own // units, split, t // rows)

    @pointwise
    def clear(memory, doors):
        for i in range(cuda.threadIdx.x, sums, cuda.blockDim.x):
            memory[u(i)] = real(0.0)
        begin_waits(doors)

    @pointwise
    def first_weight(member, place):
        """Where the first weight of a thread is."""
        unit, k0 = cuda.blockIdx.x % blocks * units + place.own % units, place.split * depth
        return ((member * R + place.tile) * tall + k0) * H + unit if several else ((member * tall + k0) * R + place.tile) * H + unit

    @pointwise
    def hold(w, weights, member, place):
        at = first_weight(member, place)
        for k in range(held):
            there = place.own >= 0 and place.split * depth + k < H
            w[k] = weights[u(at + k * apart)] if there else real(0.0)

    @pointwise
    def read_some(some, weights, at, k):
        """some (STREAM,): the weights from the k-th on, or behind the last one anything."""
        following = weights[u(at + (k if k < depth else held) * apart) :]
        for i in range(some_weights):
            some[i] = following[u(i * apart)]

    @pointwise
    def stream(acc, weights, member, memory, given, place):
        """acc += the terms whose weights a thread does not hold."""
        some, other, at = cuda.local.array(some_weights, real), cuda.local.array(some_weights, real), first_weight(member, place)
        read_some(some, weights, at, held)
        for k in range(held, depth, 2 * some_weights):
            read_some(other, weights, at, k + some_weights)
            add_some(acc, some, memory, u(given + k * rows))
            read_some(some, weights, at, k + 2 * some_weights)
            add_some(acc, other, memory, u(given + (k + some_weights) * rows))

    @pointwise
    def give(slot, x, memory, doors, turn, place):
        if cuda.threadIdx.x < having:
            at = u((turn & places - 1) * words + (slot * K + place.unit) * rows + place.row)
            put(memory, at, x, doors, turn, place.unit < H)

    @pointwise
    def begin(acc):
        for r in range(rows):
            for c in range(ways):
                acc[r, c] = real(0.0)

    @pointwise
    def multiply(acc, w, weights, member, memory, turn, place):
        if place.own >= 0:
            given = (turn & places - 1) * words + ((place.tile if several else 0) * K + place.split * depth) * rows
            add_held(acc, w, memory, u(given))
            if held < depth:
                stream(acc, weights, member, memory, given, place)

    @pointwise
    def collect(total, first, acc, memory, place):
        if place.own >= 0:
            for r in range(rows):
                found = acc[r, 0]
                for c in range(1, ways):
                    found += acc[r, c]
                memory[u(sums + (place.split * R * units + place.own) * rows + r)] = found
        cuda.syncthreads()
        if place.unit < H:
            for v in range(R):
                found = memory[u(sums + (v * units + place.lane) * rows + place.row)]
                for split in range(1, splits):
                    found += memory[u(sums + ((split * R + v) * units + place.lane) * rows + place.row)]
                total[first + (0 if several else v), 0] += found

    return Product(real, held, (rows, ways), True, stand, clear, hold, give, wait, begin, multiply, collect)

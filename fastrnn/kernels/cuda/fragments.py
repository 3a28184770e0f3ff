"""The recurrent product on tensor cores: how its operands are laid out, and who multiplies what; see `mma`.

A block takes some rows of a member. The product is transposed, a tile of weights (units, k) times the operand (k, rows) for every slot:
a tile of TILE units is the business of `splits` warps, each of which has a part of k. For each of them there are two rows, so that of
every split's tile a lane has the sums of two units of two rows, four lanes have the same ones (of one warp, as there are more columns than
rows, or of several), and each takes one of the four through the pointwise step: its sums and states never leave its registers, and as many
warps as there are share what most instructions are for. The parts of k are added in pairs, through shared memory.

Operands go through shared memory in words, (parts, slots, rows, stride); a stride of half a line more than a multiple of two lines keeps
rows apart in the banks. A lane reads two neighbouring words at once, which so are t and t + 4 of a line for the hardware.

Weights lie as the lanes want them: (E, warps, steps along k, slots, parts, lanes, 4) words. The first `held` steps along k stay in
registers, the others are read again at every step of time, from the nearest cache that has room for them.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda, float32, int32

from ..._jit import pointwise
from . import target
from .cluster import make_put, make_waits
from .loop import registers_of, u
from .mma import LINE, TILE, Form, as_number, as_word, form, four_at, two_at
from .resident import Place, Product
from .target import WARP, kernel

THREADS = 256  # of a block that lays out weights


class Shape(NamedTuple):
    """Sizes of the product of a layer: H units, slots to be summed, blocks that share units, parts of k, and steps along each `held`."""

    dtype = np.dtype("float32")

    precision: str
    H: int
    slots: int
    blocks: int
    splits: int
    held: int

    @property
    def rows(self) -> int:
        """Of a block."""
        return 2 * self.splits

    @property
    def tiles_a_block(self) -> int:
        return -(-self.H // (TILE * self.blocks))

    @property
    def tiles(self) -> int:
        return self.tiles_a_block * self.blocks

    @property
    def warps(self) -> int:
        """Of a block."""
        return self.tiles_a_block * self.splits

    @property
    def steps(self) -> int:
        """Steps along a part of k, whose units are padded as the rows of tiles are."""
        return -(-self.tiles * TILE // (LINE * form(self.precision).numbers * self.splits))

    @property
    def stride(self) -> int:
        """Words from one row of an operand to the next."""
        return -(-self.steps * self.splits // 2) * 2 * LINE + LINE

    @property
    def words_a_step(self) -> int:
        """Of weights, for one lane and one step along k."""
        return self.slots * form(self.precision).parts * 4

    def operand_words(self, slots: int) -> int:
        """Of shared memory."""
        return form(self.precision).parts * slots * self.rows * self.stride

    def exchange_words(self, sums: int) -> int:
        """Of shared memory, for the sums of the parts of k."""
        return self.warps * (self.splits - 1) * sums * WARP

    def shared_bytes(self, slots: int, sums: int, places: int) -> int:
        """Of a block, but for its rows and lengths."""
        return 4 * (places * self.operand_words(slots) + self.exchange_words(sums))

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def having_units(self) -> int:
        """Of the threads, each of which has a unit of a row, or what is there beyond the last one."""
        return self.threads

    @property
    def registers(self) -> int:
        """Of a thread."""
        return registers_of(self.threads)

    def product(self, operands: int, places: int) -> Product:
        return make_product(self, operands, places)


@cache
def make_product(shape: Shape, operands: int, places: int) -> Product:
    """The functions of one kernel, whose operand has `operands` slots: one for all sums, or one for each, and then there is one sum."""
    (parts, numbers, word, multiply_add), R, held, splits, rows = form(shape.precision), shape.slots, shape.held, shape.splits, shape.rows
    blocks, tiles_a_block = shape.blocks, shape.tiles_a_block
    tiles, steps, stride, words, sums = shape.tiles, shape.steps, shape.stride, shape.words_a_step, R if operands == 1 else 1
    plane, jump, whole = operands * rows * stride, rows * stride if operands > 1 else 0, shape.operand_words(operands)
    exchange, put = places * whole, make_put(blocks, 4 * numbers, max(min(blocks // numbers, 4), 1), numbers)
    begin_waits, wait = make_waits(blocks, 4 * parts * operands * rows * shape.tiles * TILE // numbers)
    row_words, tile_words = u(4 * WARP), 4 * parts

    @pointwise
    def stand(t, block):
        warp, lane = t // WARP, t % WARP
        tile, split, column = block % blocks * tiles_a_block + warp // splits, warp % splits, lane % 4
        own = column if splits == 1 else split * 2 + column // 2 if splits == 2 else split
        return Place(tile * TILE + own // 2 * (TILE // 2) + lane // 4, (column * 2 + own % 2) % rows, own, tile, split, lane)

    @pointwise
    def clear(memory, doors):
        """Zeros beyond the last unit, where nobody writes."""
        for i in range(cuda.threadIdx.x, exchange, cuda.blockDim.x):
            memory[u(i)] = 0
        begin_waits(doors)

    @pointwise
    def first_word(member, place):
        return u((((member * tiles + place.tile) * splits + place.split) * steps * R * parts * WARP + place.lane) * 4)

    @pointwise
    def hold(w, weights, member, place):
        """w (held words,): this lane's weights of the first steps along k."""
        at = first_word(member, place)
        for k in range(held):
            for i in range(R * parts):
                found = four_at(weights, at + u(k * R * parts + i) * row_words)
                for c in range(4):
                    w[k * words + i * 4 + c] = found[c]

    @pointwise
    def give(slot, x, memory, doors, turn, place):
        """The number x of this lane to all, as that of `slot` of operand `turn`."""
        row = (turn & places - 1) * whole + (slot * rows + place.row) * stride
        if numbers == 1:
            for part in range(parts):
                put(memory, u(row + place.unit + part * plane), word(part, x, x), doors, turn, True)
        else:  # neighbours along k are neighbouring units, four lanes apart
            other = cuda.shfl_xor_sync(0xFFFFFFFF, x, 4)
            put(memory, u(row + place.unit // 2), word(0, other, x) if place.unit % 2 else word(0, x, other), doors, turn, True)

    @pointwise
    def begin(acc):
        for s in range(R):
            for c in range(4):
                acc[s, c] = float32(0.0)

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
        b = two_at(memory, at)
        if parts == 2:
            low = two_at(memory, at + u(plane))
            add(acc, s, w, i + 4, b)
            add(acc, s, w, i, low)
        add(acc, s, w, i, b)

    @pointwise
    def multiply(acc, w, weights, member, memory, turn, place):
        """acc (slots, 4) += of a lane's part of k, the weights times operand `turn`, k ascending in each slot."""
        line = u((turn & places - 1) * whole + place.lane // 4 % rows * stride + place.split * steps * LINE + place.lane % 4 * 2)
        for k in range(held):
            for s in range(R):
                add_slot(acc, s, w, k * words + s * parts * 4, memory, line + u(k * LINE))
        tile, at = cuda.local.array(tile_words, int32), first_word(member, place)
        for k in range(held, steps):
            for s in range(R):
                for part in range(parts):
                    found = four_at(weights, at + u((k * R + s) * parts + part) * row_words)
                    for c in range(4):
                        tile[4 * part + c] = found[c]
                add_slot(acc, s, tile, 0, memory, line + u(k * LINE))
        for s in range(1, R if operands > 1 else 1):
            for c in range(4):
                acc[0, c] += acc[s, c]

    @pointwise
    def one_of(acc, v, own, mask):
        """acc[v, own ^ mask], in registers."""
        odd, other = mask & 1, mask & 2
        low, high = acc[v, 1 - odd] if own & 1 else acc[v, odd], acc[v, 3 - odd] if own & 1 else acc[v, 2 + odd]
        return (low if other else high) if own & 2 else (high if other else low)

    @pointwise
    def letter(place, receiver, distance, v):
        """Where in the exchange a lane's sum v lies, from the part at this distance."""
        return (((place.tile % tiles_a_block * splits + receiver) * (splits - 1) + distance - 1) * sums + v) * WARP + place.lane

    @pointwise
    def send(acc, memory, place):
        for distance in range(1, splits):
            other = place.split ^ distance
            for v in range(sums):  # for the same lane of another part
                memory[u(exchange + letter(place, other, distance, v))] = as_word(one_of(acc, v, place.own, 2 if splits == 2 else distance))

    @pointwise
    def received(memory, place, distance, v):
        return as_number(memory[u(exchange + letter(place, place.split, distance, v))])

    @pointwise
    def collect(total, first, acc, memory, place):
        """total[first : first + sums] (., 1) with a lane's sums, of all parts of k; all come here, where there are several.

        Neighbours are added, then neighbours of those: which of them is one's own makes no difference to a sum of two.
        """
        if splits > 1:
            send(acc, memory, place)
            cuda.syncthreads()
        for v in range(sums):
            found = one_of(acc, v, place.own, 0)
            if splits > 1:
                found += received(memory, place, 1, v)
            if splits > 2:
                found += received(memory, place, 2, v) + received(memory, place, 3, v)
            total[first + v, 0] += found

    return Product(int32, held * words, (R, 4), splits > 1, stand, clear, hold, give, wait, begin, multiply, collect)


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
    def fragments(weight, transposed, steps, tiles, splits, words):
        """words (E, tiles, splits, steps, slots, parts, lanes, 4), flat, of weight (E, slots H, H), each slot's or its transpose."""
        i, H, E = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, weight.shape[2], weight.shape[0]
        slots = weight.shape[1] // H
        if i < E * tiles * splits * steps * slots * parts * WARP * 4:
            c, lane, rest = i % 4, i // 4 % WARP, i // (4 * WARP)
            part, rest = rest % parts, rest // parts
            s, rest = rest % slots, rest // slots
            step, rest = rest % (splits * steps), rest // (splits * steps)
            row = rest % tiles * TILE + lane // 4 + TILE // 2 * (c % 2)
            k = (step * LINE + lane % 4 * 2 + c // 2) * numbers
            low = weight_at(weight, rest // tiles, s, row, k, H, transposed)
            high = weight_at(weight, rest // tiles, s, row, k + 1, H, transposed) if numbers == 2 else low
            words[i] = word(part, low, high)

    return fragments


def lay_out(shape: Shape, weight, transposed: bool, empty):
    """The words of weight (E, slots H, H), each slot's or its transpose; `empty` makes arrays."""
    words = empty((len(weight), shape.tiles * shape.splits, shape.steps, shape.words_a_step * WARP), np.dtype("int32"))
    arguments = weight, int(transposed), shape.steps, shape.tiles, shape.splits, words.reshape(-1)
    target.launch(make_fragments(shape.precision), -(-words.size // THREADS), THREADS, 0, *arguments)
    return words

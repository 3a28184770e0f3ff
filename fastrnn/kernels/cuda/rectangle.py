"""What a block computes of a product over many rows: a rectangle, from pieces of both factors that go through shared memory.

A piece has LINE words along k, of all rows and columns of the rectangle. While one is multiplied the next one is read, into registers, from
where it goes to the other of two places: a piece has one barrier. Each number has one order of its terms, k ascending, whatever the
rectangle: exactly, a chain of fused multiply-adds as on the CPU (but for -0, which becomes 0 where the last piece is filled up with zeros);
or on tensor cores LINE words at a time, see `mma`.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numba
import numpy as np
from numba import cuda

from ..._jit import pointwise
from ..._math import fma
from .loop import half, u
from .mma import LINE, TILE, form, four_at, get_if, put_four, put_two, two_at
from .target import WARP, number

UNROLLED = 128  # multiply-adds of a loop: more of them would take more registers than there are


class Factor(NamedTuple):
    """A factor as a block sees it: number (i, k) is numbers[base + i across + k along] for i < high and k < depth, else 0."""

    numbers: np.ndarray
    base: int
    across: int
    along: int
    high: int
    depth: int


class Form(NamedTuple):
    """How a rectangle is computed: what is one of `_exact` and `_on_tensor_cores`.

    Attributes
    ----------
    kind : numba type
        Of what is in shared memory, `numbers` numbers along k in each.
    words : tuple of int
        Of shared memory, for a piece of the left and of the right factor.
    total : tuple of int
        The shape of a thread's sums; `run` of them in a row are neighbours.
    put : callable
        ``put(memory, at, size, i, line, x, y)``: the number x, or x and y, to word `line` along k of i, in a piece at `at` of so many i.
    place : callable
        ``place(i, j)``: row and column in the rectangle of a thread's sum [i, j].
    accumulate : callable
        ``accumulate(memory, left, right, total)``: add the product of the pieces that begin there.
    """

    kind: object
    numbers: int
    words: tuple[int, int]
    total: tuple[int, int]
    run: int
    put: Callable
    place: Callable
    accumulate: Callable


class Rectangle(NamedTuple):
    """The functions of a kernel in which a thread has so many of a rectangle's rows, and columns.

    Attributes
    ----------
    high, wide : int
        The rectangle.
    total : tuple of int
        The shape of a thread's sums; `run` of them in a row are neighbours.
    multiply : callable
        ``multiply(left, right, total)``: total += the product of two factors.
    place : callable
        ``place(i, j)``: row and column in the rectangle of a thread's sum [i, j].
    leave : callable
        ``leave(array, at, values, there, whole)``: values (run,) to array[at:], as many as are `there`; `whole`: at is a multiple of run.
    """

    high: int
    wide: int
    total: tuple[int, int]
    run: int
    multiply: Callable
    place: Callable
    leave: Callable


def _exact(real, side: int, rows: int, columns: int) -> Form:
    """Of threads in pairs of pairs: those that read a left number, and those that read a right one, are neighbours."""
    most = 16 * 8 // real.bitwidth
    high, wide, run_left, run_right = side * rows + most, side * columns + most, min(most, rows), min(most, columns)
    at_once, lines = {2: two_at, 4: four_at}, max(min(UNROLLED // (rows * columns), LINE), 1)
    read_left, read_right = at_once[run_left], at_once[run_right]

    @pointwise
    def put(memory, at, size, i, line, x, y):
        memory[u(at + line * (size + most) + i)] = x

    @pointwise
    def stand():
        pairs, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
        return pairs // (side // 2) * 2 + t // 2, pairs % (side // 2) * 2 + t % 2

    @pointwise
    def place(i, j):
        row, column = stand()
        m, n = i // run_left * side + row, j // run_right * side + column
        return m * run_left + i % run_left, n * run_right + j % run_right

    @pointwise
    def add_line(memory, left, right, total):
        a, b = cuda.local.array(rows, real), cuda.local.array(columns, real)
        for i in range(0, rows, run_left):
            found = read_left(memory, u(left + i * side))
            for c in range(run_left):
                a[i + c] = found[c]
        for j in range(0, columns, run_right):
            found = read_right(memory, u(right + j * side))
            for c in range(run_right):
                b[j + c] = found[c]
        for i in range(rows):
            for j in range(columns):
                total[i, j] = fma(a[i], b[j], total[i, j])

    def lines_from(n):
        """Lines n to `lines`, with no loop: the compiler would leave it as it is."""
        following = lines_from(n + 1) if n + 1 < lines else _nothing

        @pointwise
        def add(memory, left, right, total):
            add_line(memory, left, right, total)
            following(memory, left + high, right + wide, total)

        return add

    add_lines = lines_from(0)

    @pointwise
    def accumulate(memory, left, right, total):
        row, column = stand()
        left, right = left + row * run_left, right + column * run_right
        for k in range(0, LINE, lines):
            add_lines(memory, left + k * high, right + k * wide, total)

    return Form(real, 1, (LINE * high, LINE * wide), (rows, columns), run_right, put, place, accumulate)


def _on_tensor_cores(precision: str, side: int, rows: int, columns: int) -> Form:
    """A warp has `rows` / 2 times `columns` / 2 tiles. A lane reads two neighbouring words along k, t and t + 4 for the hardware."""
    parts, numbers, word, multiply_add = form(precision)
    down, across, high, wide = rows // 2, columns // 2, side * rows * LINE, side * columns * LINE

    @pointwise
    def put(memory, at, size, i, line, x, y):
        for part in range(parts):
            memory[u(at + part * size * LINE + i * LINE + line)] = word(part, x, y)

    @pointwise
    def stand():
        warp = cuda.threadIdx.x // WARP
        return warp // (side // 4) * (down * TILE), warp % (side // 4) * (across * LINE)

    @pointwise
    def place(i, j):
        (row, column), lane = stand(), cuda.threadIdx.x % WARP
        return row + i // across * TILE + lane // 4 + TILE // 2 * (j >> 1), column + i % across * LINE + lane % 4 * 2 + (j & 1)

    @pointwise
    def add(total, i, a, b):
        found = multiply_add(a, b, (total[i, 0], total[i, 1], total[i, 2], total[i, 3]))
        for j in range(4):
            total[i, j] = found[j]

    @pointwise
    def tile_of_left(memory, at):
        (a, c), (b, d) = two_at(memory, u(at)), two_at(memory, u(at + TILE // 2 * LINE))
        return a, b, c, d

    @pointwise
    def accumulate(memory, left, right, total):
        (row, column), lane = stand(), cuda.threadIdx.x % WARP
        left, right = left + (row * LINE + lane * 2), right + (column * LINE + lane * 2)
        for i in range(down):
            a = tile_of_left(memory, left + i * TILE * LINE)
            low = tile_of_left(memory, left + (parts - 1) * high + i * TILE * LINE)
            for j in range(across if parts == 2 else 0):  # what is smallest comes first
                add(total, i * across + j, low, two_at(memory, u(right + j * LINE * LINE)))
            for j in range(across):
                b = two_at(memory, u(right + j * LINE * LINE))
                if parts == 2:
                    add(total, i * across + j, a, two_at(memory, u(right + wide + j * LINE * LINE)))
                add(total, i * across + j, a, b)

    return Form(numba.int32, numbers, (parts * high, parts * wide), (down * across, 4), 2, put, place, accumulate)


@pointwise
def _nothing(memory, left, right, total):
    pass


def _make_leave(run: int):
    @pointwise
    def leave_four(array, at, values):
        put_four(array, u(at), values[0], values[1], values[2], values[3])

    @pointwise
    def leave_two(array, at, values):
        put_two(array, u(at), values[0], values[1])

    leave_all = leave_two if run == 2 else leave_four

    @pointwise
    def leave(array, at, values, there, whole):
        if whole:
            if there > 0:
                leave_all(array, at, values)
        else:
            for c in range(run):
                if c < there:
                    array[u(at + c)] = values[c]

    return leave


@cache
def make_rectangle(dtype, precision: str, side: int, rows: int, columns: int, left_first: bool) -> Rectangle:
    """Of side^2 threads. `left_first`: neighbours in the left factor are those along k; else, and in the right one, the others."""
    real, threads, high, wide = number(dtype), side * side, side * rows, side * columns
    made = _exact(real, side, rows, columns) if precision == "exact" else _on_tensor_cores(precision, side, rows, columns)
    kind, numbers, (left_words, right_words), total, run, put, place, accumulate = made
    piece, words, apart, some = left_words + right_words, 2 * (left_words + right_words), threads // LINE, min(threads // LINE, 8)
    shares = high // apart, wide // apart
    shape_of_left, shape_of_right = (shares[0], numbers), (shares[1], numbers)

    @pointwise
    def along_first():
        """(i, line) of a thread's first word of a piece: eight neighbours along k. The next ones are `apart` apart."""
        t = cuda.threadIdx.x
        return t // LINE, t % LINE

    @pointwise
    def across_first():
        """The same, with eight neighbours across."""
        t = cuda.threadIdx.x
        return t // (some * LINE) * some + t % some, t // some % LINE

    stand_left = along_first if left_first else across_first

    @pointwise
    def begin(factor, i, line):
        return factor.base + i * factor.across + line * numbers * factor.along

    @pointwise
    def count(factor, i):
        """How many of i and the next ones the factor has."""
        return half((factor.high - i + apart - 1) // apart if factor.high > i else 0)

    @pointwise
    def fetch(found, factor, share, at, count, k):
        """A thread's words of a piece, of which there are `count`: numbers k and the next ones; the first of all is numbers[at]."""
        for n in range(share):
            for c in range(numbers):
                there = (half(n) < count) & (half(k + c) < half(factor.depth))
                found[n, c] = get_if(factor.numbers, u(at + n * apart * factor.across + c * factor.along), there)

    @pointwise
    def put_all(found, share, memory, at, size, i, line):
        for n in range(share):
            put(memory, at, size, i + n * apart, line, found[n, 0], found[n, numbers - 1])

    @pointwise
    def multiply(left, right, total):
        memory = cuda.shared.array(words, kind)
        found_left, found_right = cuda.local.array(shape_of_left, real), cuda.local.array(shape_of_right, real)
        (i, line), (j, other_line) = stand_left(), across_first()
        at_left, at_right = begin(left, i, line), begin(right, j, other_line)
        count_left, count_right = count(left, i), count(right, j)
        fetch(found_left, left, shares[0], at_left, count_left, line * numbers)
        fetch(found_right, right, shares[1], at_right, count_right, other_line * numbers)
        put_all(found_left, shares[0], memory, 0, high, i, line)
        put_all(found_right, shares[1], memory, left_words, wide, j, other_line)
        cuda.syncthreads()
        at = 0
        for k in range(LINE * numbers, left.depth, LINE * numbers):
            at_left, at_right = at_left + LINE * numbers * left.along, at_right + LINE * numbers * right.along
            fetch(found_left, left, shares[0], at_left, count_left, k + line * numbers)
            fetch(found_right, right, shares[1], at_right, count_right, k + other_line * numbers)
            accumulate(memory, at, at + left_words, total)
            at = piece - at
            put_all(found_left, shares[0], memory, at, high, i, line)
            put_all(found_right, shares[1], memory, at + left_words, wide, j, other_line)
            cuda.syncthreads()
        accumulate(memory, at, at + left_words, total)

    return Rectangle(high, wide, total, run, multiply, place, _make_leave(run))

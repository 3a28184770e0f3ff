"""Matrix products over many rows, each element in one order: exactly, a chain of fused multiply-adds as on the CPU, or on tensor cores.

A block computes a square of rows and columns from pieces of both operands in shared memory. Exactly, a thread of `side` x `side` computes
every side-th row and column of it; on tensor cores a warp computes some tiles of one row of them, see `mma`.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numba
from numba import cuda

from ..._jit import pointwise
from ..._math import fma
from . import target
from .mma import LINE, TILE, form
from .target import WARP, kernel, number

SIDE = 16  # the square root of a block's threads
EDGE = 4  # and of a thread's share of the square
PART = 512  # rows summed in one chain
PARTS = 16  # chains at a time at least,
PARTS_BYTES = 2**26  # and as many as take so much memory
ELEMENTS = 128  # threads of a block that adds them


class Products(NamedTuple):
    """The kernels of one dtype and precision, and the side of the square that a block computes."""

    product: object
    transposed: object
    square: int


class Sums(NamedTuple):
    """The kernels that sum rows and parts, of one dtype."""

    columns: object
    add_parts: object


class Square(NamedTuple):
    """How a block computes the square: what is one of `_exact` and `_on_tensor_cores`.

    Attributes
    ----------
    kind : numba type
        Of what is in shared memory, `numbers` numbers along k in each, in arrays of the shapes `left` and `right`.
    total : tuple of int
        The shape of a thread's sums.
    put : callable
        ``put(array, line, at, x, y)``: the number x, or x and y, to line `line` along k.
    place : callable
        ``place(i, j)``: row and column in the square of a thread's sum [i, j].
    accumulate : callable
        ``accumulate(left, right, depth, total)``: add the product of the first `depth` lines.
    """

    kind: object
    numbers: int
    left: tuple[int, int]
    right: tuple[int, int]
    total: tuple[int, int]
    put: Callable
    place: Callable
    accumulate: Callable


def _exact(real, side: int, edge: int) -> Square:
    @pointwise
    def put(array, line, at, x, y):
        array[line, at] = x

    @pointwise
    def place(i, j):
        return cuda.threadIdx.x // side + side * i, cuda.threadIdx.x % side + side * j

    @pointwise
    def accumulate(left, right, depth, total):
        row, column = place(0, 0)
        for d in range(depth):
            for i in range(edge):
                value = left[d, row + side * i]
                for j in range(edge):
                    total[i, j] = fma(value, right[d, column + side * j], total[i, j])

    square = side * edge  # a column of left lies in as many banks as it has rows
    return Square(real, 1, (side, square + 1), (side, square), (edge, edge), put, place, accumulate)


def _on_tensor_cores(precision: str, side: int, edge: int) -> Square:
    """`side`, a multiple of LINE, is how many words along k are in shared memory; a warp has edge^2 / 4 tiles."""
    parts, numbers, word, multiply_add = form(precision)
    square, tiles = side * edge, edge * edge // 4

    @pointwise
    def put(array, line, at, x, y):
        for part in range(parts):
            array[part * side + line, at] = word(part, x, y)

    @pointwise
    def place(i, j):
        first, lane = cuda.threadIdx.x // WARP * tiles * LINE, cuda.threadIdx.x % WARP
        return first // square * TILE + lane // 4 + TILE // 2 * (j >> 1), first % square + i * LINE + lane % 4 * 2 + (j & 1)

    @pointwise
    def add(total, i, a, b):
        found = multiply_add(a, b, (total[i, 0], total[i, 1], total[i, 2], total[i, 3]))
        for j in range(4):
            total[i, j] = found[j]

    @pointwise
    def tile_of_left(left, d, row):
        d += cuda.threadIdx.x % 4
        return left[d, row], left[d, row + TILE // 2], left[d + LINE // 2, row], left[d + LINE // 2, row + TILE // 2]

    @pointwise
    def tile_of_right(right, d, column):
        d, column = d + cuda.threadIdx.x % 4, column + cuda.threadIdx.x % WARP // 4
        return right[d, column], right[d + LINE // 2, column]

    @pointwise
    def accumulate(left, right, depth, total):
        row, _ = place(0, 0)
        first = cuda.threadIdx.x // WARP * tiles * LINE % square
        for d in range(0, side, LINE):
            a = tile_of_left(left, d, row)
            for i in range(tiles):
                b = tile_of_right(right, d, first + i * LINE)
                if parts == 2:
                    add(total, i, tile_of_left(left, side + d, row), b)
                    add(total, i, a, tile_of_right(right, side + d, first + i * LINE))
                add(total, i, a, b)

    lines = parts * side, square + LINE  # what a warp reads at once is in different banks
    return Square(numba.int32, numbers, lines, lines, (tiles, 4), put, place, accumulate)


@cache
def make_products(dtype, precision: str, side: int, edge: int) -> Products:
    real, square = number(dtype), side * edge
    made = _exact(real, side, edge) if precision == "exact" else _on_tensor_cores(precision, side, edge)
    kind, numbers, shape_of_left, shape_of_right, shape_of_total, put, place, accumulate = made
    depth, (I, J) = side * numbers, shape_of_total

    @pointwise
    def lines(remaining):
        """How many lines hold what remains along k."""
        return side if remaining > depth else (remaining + numbers - 1) // numbers

    @kernel
    def product(a, first, b, start, c, begin, end):
        """c[e, m, n] = start[e, n], and for n in [begin, end) + sum_k a[e, m, first + k] b[e, k, n - begin], k ascending.

        a (E or 1, M, >= first + K), b (E, K, end - begin), start (E, N), c (E, M, N).
        """
        left, right = cuda.shared.array(shape_of_left, kind), cuda.shared.array(shape_of_right, kind)
        total = cuda.local.array(shape_of_total, real)
        K, M, N = b.shape[1], c.shape[1], c.shape[2]
        high, thread = (M + square - 1) // square, cuda.threadIdx.x  # the one axis of a grid that may be long has rows and members
        e, m0, n0 = cuda.blockIdx.x // high, cuda.blockIdx.x % high * square, cuda.blockIdx.y * square
        row, column, A, B = thread // side, thread % side, a[e % a.shape[0]], b[e]
        for i in range(I):
            for j in range(J):
                n = n0 + place(i, j)[1]
                total[i, j] = start[e, n] if n < N else real(0.0)
        for k0 in range(0, K, depth):
            for i in range(edge):  # neighbouring threads read neighbouring k
                m, k = m0 + row + side * i, k0 + column * numbers
                x = A[m, first + k] if m < M and k < K else real(0.0)
                put(left, column, row + side * i, x, A[m, first + k + 1] if numbers == 2 and m < M and k + 1 < K else real(0.0))
            for j in range(edge):
                n, k = n0 + column + side * j - begin, k0 + row * numbers
                there = n >= 0 and n < end - begin
                x = B[k, n] if there and k < K else real(0.0)
                put(right, row, column + side * j, x, B[k + 1, n] if numbers == 2 and there and k + 1 < K else real(0.0))
            cuda.syncthreads()
            accumulate(left, right, lines(K - k0), total)
            cuda.syncthreads()
        for i in range(I):
            for j in range(J):
                r, s = place(i, j)
                m, n = m0 + r, n0 + s
                if m < M and n < N:
                    c[e, m, n] = total[i, j] if n >= begin and n < end else start[e, n]

    @kernel
    def transposed(a, b, first, begin, size, N, at, width, parts):
        """parts[e, p, at + k width + n] = sum over rows m of part p, ascending, of a[e, m, k] b[e, m, first + n], for n in [0, N).

        a (E or 1, M, K), b (E, M, >= first + N), parts (E, P, .): part p has those of rows [begin + p size, begin + (p + 1) size) that
        there are.
        """
        left, right = cuda.shared.array(shape_of_left, kind), cuda.shared.array(shape_of_right, kind)
        total = cuda.local.array(shape_of_total, real)
        P, K, M = parts.shape[1], a.shape[2], a.shape[1]
        e, p, thread = cuda.blockIdx.x // P, cuda.blockIdx.x % P, cuda.threadIdx.x
        k0, n0 = cuda.blockIdx.y * square, cuda.blockIdx.z * square
        row, column, A, B = thread // side, thread % side, a[e % a.shape[0]], b[e]
        head, last = begin + p * size, begin + (p + 1) * size
        head, last = head if head > 0 else 0, last if last < M else M
        for i in range(I):
            for j in range(J):
                total[i, j] = real(0.0)
        for m0 in range(head, last, depth):
            m = m0 + row * numbers
            for j in range(edge):
                k, n = k0 + column + side * j, n0 + column + side * j
                x = A[m, k] if m < last and k < K else real(0.0)
                put(left, row, column + side * j, x, A[m + 1, k] if numbers == 2 and m + 1 < last and k < K else real(0.0))
                x = B[m, first + n] if m < last and n < N else real(0.0)
                put(right, row, column + side * j, x, B[m + 1, first + n] if numbers == 2 and m + 1 < last and n < N else real(0.0))
            cuda.syncthreads()
            accumulate(left, right, lines(last - m0), total)
            cuda.syncthreads()
        for i in range(I):
            for j in range(J):
                r, s = place(i, j)
                k, n = k0 + r, n0 + s
                if k < K and n < N:
                    parts[e, p, at + k * width + n] = total[i, j]

    return Products(product, transposed, square)


@cache
def make_sums(dtype) -> Sums:
    real = number(dtype)

    @kernel
    def columns(b, begin, size, at, parts):
        """parts[e, p, at + n] = sum over rows of part p, as in `transposed`, ascending, of b[e, m, n]."""
        n, P = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x, parts.shape[1]
        e, p = cuda.blockIdx.x // P, cuda.blockIdx.x % P
        head, last = begin + p * size, begin + (p + 1) * size
        head, last = head if head > 0 else 0, last if last < b.shape[1] else b.shape[1]
        if n < b.shape[2]:
            value = real(0.0)
            for m in range(head, last):
                value += b[e, m, n]
            parts[e, p, at + n] = value

    @kernel
    def add_parts(parts, total):
        """total[e, i] += parts[e, p, i], the last part first."""
        high = (total.shape[1] + cuda.blockDim.x - 1) // cuda.blockDim.x
        e, i = cuda.blockIdx.x // high, cuda.blockIdx.x % high * cuda.blockDim.x + cuda.threadIdx.x
        if i < total.shape[1]:
            value = total[e, i]
            for p in range(parts.shape[1] - 1, -1, -1):
                value += parts[e, p, i]
            total[e, i] = value

    return Sums(columns, add_parts)


def product(a, first: int, b, start, c, begin: int, end: int, precision: str = "exact") -> None:
    """Fill c (E, M, N), see the kernel."""
    (E, M, N), kernels = c.shape, make_products(c.dtype, precision, SIDE, EDGE)
    if c.size:
        blocks = (E * -(-M // kernels.square), -(-N // kernels.square))
        target.launch(kernels.product, blocks, SIDE * SIDE, 0, a, first, b, start, c, begin, end)


class Parts(NamedTuple):
    """How rows are summed: in parts of `size`, added from the last to the first. The first one lacks its first `skip` rows.

    Rows that come in several calls, the last ones first, cut where parts begin, so give the same bits.
    """

    size: int = PART
    skip: int = 0

    def groups(self, M: int, part_bytes: int):
        """(first row, how many parts) of M rows, the last ones first, as many at a time as may be in memory, of so many bytes each."""
        most = max(PARTS, PARTS_BYTES // part_bytes)
        for end in range(-(-(M + self.skip) // self.size), 0, -most):
            count = min(most, end)
            yield (end - count) * self.size - self.skip, count


class Term(NamedTuple):
    """What is summed over rows: a^T b[..., first : first + N], of a (E or 1, M, K); or, with None for a, b (E, M, N). Where it is added:
    to (K, N), or to (N,), that begins at `at` in each row of a total, with `width` numbers from one k to the next.
    """

    a: object
    b: object
    at: int
    first: int = 0
    N: int = 0
    width: int = 0


def add_terms(terms: list[Term], total, empty, rows: Parts, precision: str = "exact") -> None:
    """total (E, W) += all terms, of as many rows each, which together fill it; `empty` makes arrays."""
    (E, W), dtype = total.shape, total.dtype
    square, (columns, add_parts) = SIDE * EDGE, make_sums(dtype)
    for begin, count in rows.groups(terms[0].b.shape[1], E * W * dtype.itemsize) if total.size else ():
        parts = empty((E, count, W), dtype)
        for a, b, at, first, N, width in terms:
            if a is None:
                blocks = E * count, -(-b.shape[2] // ELEMENTS)
                target.launch(columns, blocks, ELEMENTS, 0, b, begin, rows.size, at, parts)
            else:
                blocks, kernels = (E * count, -(-a.shape[2] // square), -(-N // square)), make_products(dtype, precision, SIDE, EDGE)
                target.launch(kernels.transposed, blocks, SIDE * SIDE, 0, a, b, first, begin, rows.size, N, at, width, parts)
        target.launch(add_parts, E * -(-W // ELEMENTS), ELEMENTS, 0, parts, total)


def add_transposed(a, b, first: int, total, empty, rows: Parts, precision: str = "exact") -> None:
    """total (E, K, N) += a^T b[..., first : first + N] over rows. a (E or 1, M, K), b (E, M, >= first + N); `empty` makes arrays."""
    E, K, N = total.shape
    add_terms([Term(a, b, 0, first, N, N)], total.reshape(E, K * N), empty, rows, precision)


def add_columns(b, total, empty, rows: Parts) -> None:
    """total (E, N) += the sums of b (E, M, N) over rows."""
    add_terms([Term(None, b, 0)], total, empty, rows)

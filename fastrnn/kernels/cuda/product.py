"""Matrix products over many rows, exact and in one order: a chain of fused multiply-adds for every element, as on the CPU.

A block of `side` x `side` threads computes a square of `side` `edge` rows and as many columns, from pieces of both operands in shared
memory; a thread computes every side-th row and column of it.
"""

from functools import cache
from typing import NamedTuple

from numba import cuda

from ..._jit import pointwise
from ..._math import fma
from . import target
from .target import kernel, number

SIDE = 16  # threads along each side of a block's square
EDGE = 4  # a thread's share along each side
PART = 512  # rows summed in one chain
PARTS = 16  # chains at a time: they take memory
ELEMENTS = 128  # threads of a block that adds them


class Products(NamedTuple):
    """The kernels of one dtype, and the side of the square that a block computes."""

    product: object
    transposed: object
    columns: object
    add_parts: object
    square: int


@cache
def make_products(dtype, side: int, edge: int) -> Products:
    real, square = number(dtype), side * edge
    padded = square + 1  # a column of left lies in as many banks as it has rows

    @pointwise
    def accumulate(left, right, depth, total):
        """total[i, j] += sum over d < depth of left[d, row i] right[d, column j], of this thread's rows and columns."""
        row, column = cuda.threadIdx.x // side, cuda.threadIdx.x % side
        for d in range(depth):
            for i in range(edge):
                value = left[d, row + side * i]
                for j in range(edge):
                    total[i, j] = fma(value, right[d, column + side * j], total[i, j])

    @kernel
    def product(a, first, b, start, c, begin, end):
        """c[e, m, n] = start[e, n], and for n in [begin, end) + sum_k a[e, m, first + k] b[e, k, n - begin], k ascending.

        a (E or 1, M, >= first + K), b (E, K, end - begin), start (E, N), c (E, M, N).
        """
        left, right = cuda.shared.array((side, padded), real), cuda.shared.array((side, square), real)
        total = cuda.local.array((edge, edge), real)
        K, M, N = b.shape[1], c.shape[1], c.shape[2]
        high, thread = (M + square - 1) // square, cuda.threadIdx.x  # the one axis of a grid that may be long has rows and members
        e, m0, n0 = cuda.blockIdx.x // high, cuda.blockIdx.x % high * square, cuda.blockIdx.y * square
        row, column, A = thread // side, thread % side, a[e % a.shape[0]]
        for j in range(edge):
            n = n0 + column + side * j
            for i in range(edge):
                total[i, j] = start[e, n] if n < N else real(0.0)
        for k0 in range(0, K, side):
            for i in range(edge):  # neighbouring threads read neighbouring k
                m, k = m0 + row + side * i, k0 + column
                left[column, row + side * i] = A[m, first + k] if m < M and k < K else real(0.0)
            for j in range(edge):
                n, k = n0 + column + side * j - begin, k0 + row
                right[row, column + side * j] = b[e, k, n] if k < K and n >= 0 and n < end - begin else real(0.0)
            cuda.syncthreads()
            accumulate(left, right, side if K - k0 > side else K - k0, total)
            cuda.syncthreads()
        for i in range(edge):
            m = m0 + row + side * i
            for j in range(edge):
                n = n0 + column + side * j
                if m < M and n < N:
                    c[e, m, n] = total[i, j] if n >= begin and n < end else start[e, n]

    @kernel
    def transposed(a, b, first, begin, size, parts):
        """parts[e, p, k, n] = sum over rows m of part p, ascending, of a[e, m, k] b[e, m, first + n].

        a (E or 1, M, K), b (E, M, >= first + N), parts (E, P, K, N): part p has those of rows [begin + p size, begin + (p + 1) size) that
        there are.
        """
        left, right = cuda.shared.array((side, square), real), cuda.shared.array((side, square), real)
        total = cuda.local.array((edge, edge), real)
        P, K, N, M = parts.shape[1], parts.shape[2], parts.shape[3], a.shape[1]
        e, p, thread = cuda.blockIdx.x // P, cuda.blockIdx.x % P, cuda.threadIdx.x
        k0, n0 = cuda.blockIdx.y * square, cuda.blockIdx.z * square
        row, column, A = thread // side, thread % side, a[e % a.shape[0]]
        head, last = begin + p * size, begin + (p + 1) * size
        head, last = head if head > 0 else 0, last if last < M else M
        for i in range(edge):
            for j in range(edge):
                total[i, j] = real(0.0)
        for m0 in range(head, last, side):
            m = m0 + row
            for j in range(edge):
                k, n = k0 + column + side * j, n0 + column + side * j
                left[row, column + side * j] = A[m, k] if m < last and k < K else real(0.0)
                right[row, column + side * j] = b[e, m, first + n] if m < last and n < N else real(0.0)
            cuda.syncthreads()
            accumulate(left, right, side if last - m0 > side else last - m0, total)
            cuda.syncthreads()
        for i in range(edge):
            k = k0 + row + side * i
            for j in range(edge):
                n = n0 + column + side * j
                if k < K and n < N:
                    parts[e, p, k, n] = total[i, j]

    @kernel
    def columns(b, begin, size, parts):
        """parts[e, p, n] = sum over rows of part p, as in `transposed`, ascending, of b[e, m, n]."""
        n, p, e = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        head, last = begin + p * size, begin + (p + 1) * size
        head, last = head if head > 0 else 0, last if last < b.shape[1] else b.shape[1]
        if n < b.shape[2]:
            value = real(0.0)
            for m in range(head, last):
                value += b[e, m, n]
            parts[e, p, n] = value

    @kernel
    def add_parts(parts, total):
        """total[e, i] += parts[e, p, i], the last part first."""
        i, e = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y
        if i < total.shape[1]:
            value = total[e, i]
            for p in range(parts.shape[1] - 1, -1, -1):
                value += parts[e, p, i]
            total[e, i] = value

    return Products(product, transposed, columns, add_parts, square)


def product(a, first: int, b, start, c, begin: int, end: int) -> None:
    """Fill c (E, M, N), see the kernel."""
    (E, M, N), kernels = c.shape, make_products(c.dtype, SIDE, EDGE)
    if c.size:
        blocks = (E * -(-M // kernels.square), -(-N // kernels.square))
        target.launch(kernels.product, blocks, SIDE * SIDE, 0, a, first, b, start, c, begin, end)


class Parts(NamedTuple):
    """How rows are summed: in parts of `size`, added from the last to the first. The first one lacks its first `skip` rows.

    Rows that come in several calls, the last ones first, cut where parts begin, so give the same bits.
    """

    size: int = PART
    skip: int = 0

    def groups(self, M: int):
        """(first row, how many parts) of M rows, the last ones first, as many at a time as may be in memory."""
        for end in range(-(-(M + self.skip) // self.size), 0, -PARTS):
            count = min(PARTS, end)
            yield (end - count) * self.size - self.skip, count


def add_transposed(a, b, first: int, total, empty, rows: Parts) -> None:
    """total (E, K, N) += a^T b[..., first : first + N] over rows. a (E or 1, M, K), b (E, M, >= first + N); `empty` makes arrays."""
    (E, K, N), kernels = total.shape, make_products(b.dtype, SIDE, EDGE)
    for begin, count in rows.groups(b.shape[1]) if total.size else ():
        parts, squares = empty((E, count, K, N), b.dtype), (-(-K // kernels.square), -(-N // kernels.square))
        target.launch(kernels.transposed, (E * count, *squares), SIDE * SIDE, 0, a, b, first, begin, rows.size, parts)
        _add_parts(kernels, parts.reshape(E, count, K * N), total.reshape(E, K * N))


def add_columns(b, total, empty, rows: Parts) -> None:
    """total (E, N) += the sums of b (E, M, N) over rows."""
    (E, N), kernels = total.shape, make_products(b.dtype, SIDE, EDGE)
    for begin, count in rows.groups(b.shape[1]) if total.size else ():
        parts = empty((E, count, N), b.dtype)
        target.launch(kernels.columns, (-(-N // ELEMENTS), count, E), ELEMENTS, 0, b, begin, rows.size, parts)
        _add_parts(kernels, parts, total)


def _add_parts(kernels: Products, parts, total) -> None:
    target.launch(kernels.add_parts, (-(-total.shape[1] // ELEMENTS), len(total)), ELEMENTS, 0, parts, total)

"""Matrix products over many rows, and their sums: by rectangles, one a block; see `rectangle` for the order of terms."""

import itertools
from functools import cache, lru_cache
from typing import NamedTuple

from numba import cuda

from ..._jit import pointwise
from . import target
from .loop import registers_of, u
from .mma import get_if
from .rectangle import Factor, make_rectangle
from .target import kernel, kernel_within, number

SIDE = 16  # the square root of a block's threads
SHARES = {4: (4, 8), 8: (4,)}  # rows and columns that a thread may have, by the bytes of a number
BLOCKS = 184  # that take no longer than fewer do: two of a multiprocessor work while the other waits
PART = 512  # rows summed in one chain
PARTS = 16  # chains at a time at least,
PARTS_BYTES = 2**26  # and as many as take so much memory
ELEMENTS = 128  # threads of a block that adds them
AT_ONCE = 16  # numbers that a thread reads before it adds the first of them


class Products(NamedTuple):
    """The kernels of one dtype, precision, and share of a thread, and the rectangle that a block computes."""

    product: object
    transposed: object
    high: int
    wide: int


class Sums(NamedTuple):
    """The kernels that sum rows and parts, of one dtype."""

    columns: object
    add_parts: object


class Sizes(NamedTuple):
    """Of `product`: a (members, M, width), b (E, K, n), start (E, N), c (E, M, N)."""

    members: int
    M: int
    width: int
    first: int
    K: int
    begin: int
    n: int
    N: int


class SumSizes(NamedTuple):
    """Of `transposed`: a (members, M, K), b (E, M, width), parts (E, P, W)."""

    members: int
    M: int
    K: int
    width: int
    first: int
    N: int
    begin: int
    size: int
    P: int
    W: int
    at: int
    step: int


@cache
def make_products(dtype, precision: str, side: int, rows: int, columns: int) -> Products:
    """Of blocks of side^2 threads, with so many rows and columns each."""
    real, registers = number(dtype), registers_of(2 * side * side)  # so that there is room for two blocks
    high, wide, shape, run, multiply, place, leave = make_rectangle(dtype, precision, side, rows, columns, True)
    turned = make_rectangle(dtype, precision, side, rows, columns, False).multiply

    @pointwise
    def fill(start, c, s, e, m0, n0):
        """What has no term: some columns from the n0-th of them on."""
        for i in range(cuda.threadIdx.x, high * wide, cuda.blockDim.x):
            m, n = m0 + i // wide, n0 + i % wide
            n = n if n < s.begin else n + s.n
            if m < s.M and n < s.N:
                c[u((e * s.M + m) * s.N + n)] = start[u(e * s.N + n)]

    @kernel_within(registers)
    def product(a, b, start, c, s):
        """c[e, m, n] = start[e, n], and where there is a b[e, k, n - begin], + sum_k a[e, m, first + k] b[e, k, n - begin], k ascending."""
        e, m0, n0 = cuda.blockIdx.z, cuda.blockIdx.x * high, cuda.blockIdx.y * wide
        rest = n0 - (s.n + wide - 1) // wide * wide
        if rest >= 0:
            fill(start, c, s, e, m0, rest)
            return
        total, values = cuda.local.array(shape, real), cuda.local.array(run, real)
        for j in range(shape[1]):
            for i in range(shape[0]):
                n = n0 + place(i, j)[1]
                total[i, j] = start[u(e * s.N + s.begin + n)] if n < s.n else real(0.0)
        left = Factor(a, ((e if s.members > 1 else 0) * s.M + m0) * s.width + s.first, s.width, 1, s.M - m0, s.K)
        multiply(left, Factor(b, e * s.K * s.n + n0, 1, s.n, s.n - n0, s.K), total)
        whole = (s.N % run == 0) & (s.begin % run == 0) & (s.n % run == 0)
        for i in range(shape[0]):
            for j in range(0, shape[1], run):
                row, column = place(i, j)
                for v in range(run):
                    values[v] = total[i, j + v]
                at = (e * s.M + m0 + row) * s.N + s.begin + n0 + column
                leave(c, at, values, s.n - n0 - column if m0 + row < s.M else 0, whole)

    @kernel_within(registers)
    def transposed(a, b, parts, s):
        """parts[e, p, at + k step + n] = sum over rows m of part p, ascending, of a[e, m, k] b[e, m, first + n], for n in [0, N).

        Part p has those of rows [begin + p size, begin + (p + 1) size) that there are, one at least.
        """
        e, p, k0, n0 = cuda.blockIdx.x // s.P, cuda.blockIdx.x % s.P, cuda.blockIdx.y * high, cuda.blockIdx.z * wide
        total, values = cuda.local.array(shape, real), cuda.local.array(run, real)
        for i in range(shape[0]):
            for j in range(shape[1]):
                total[i, j] = real(0.0)
        head, last = s.begin + p * s.size, s.begin + (p + 1) * s.size
        head, last = head if head > 0 else 0, last if last < s.M else s.M
        left = Factor(a, ((e if s.members > 1 else 0) * s.M + head) * s.K + k0, 1, s.K, s.K - k0, last - head)
        right = Factor(b, (e * s.M + head) * s.width + s.first + n0, 1, s.width, s.N - n0, last - head)
        turned(left, right, total)
        whole = (s.N % run == 0) & (s.W % run == 0) & (s.at % run == 0) & (s.step % run == 0)
        for i in range(shape[0]):
            for j in range(0, shape[1], run):
                row, column = place(i, j)
                k, n = k0 + row, n0 + column
                for v in range(run):
                    values[v] = total[i, j + v]
                leave(parts, (e * s.P + p) * s.W + s.at + k * s.step + n, values, s.N - n if k < s.K else 0, whole)

    return Products(product, transposed, high, wide)


def _products(dtype, precision: str, M: int, N: int, count: int) -> Products:
    """The kernels whose rectangles take the least time for `count` products (M, N)."""
    return make_products(dtype, precision, SIDE, *_fastest(SHARES[dtype.itemsize], SIDE, M, N, count))


@lru_cache(maxsize=1024)
def _fastest(shares: tuple[int, ...], side: int, M: int, N: int, count: int) -> tuple[int, int]:
    """Rows and columns of a thread: what it reads, and multiplies, for a k, takes time, and so do blocks that wait for others."""

    def time(share):
        rows, columns = share
        blocks = count * -(-M // (side * rows)) * -(-N // (side * columns))
        return max(blocks / BLOCKS, 1) * (rows * columns + rows + columns)

    return min(itertools.product(shares, repeat=2), key=time)


@cache
def make_sums(dtype) -> Sums:
    real = number(dtype)

    @pointwise
    def add(value, numbers, at, step, count):
        """value + numbers[at] + numbers[at + step] + ..., `count` of them, in this order."""
        found = cuda.local.array(AT_ONCE, real)
        for begin in range(0, count, AT_ONCE):
            for i in range(AT_ONCE):
                found[i] = get_if(numbers, u(at + (begin + i) * step), begin + i < count)
            for i in range(AT_ONCE):
                value = value + found[i] if begin + i < count else value
        return value

    @kernel
    def columns(b, M, N, begin, size, P, W, at, parts):
        """parts[e, p, at + n] = sum over rows of part p, as in `transposed`, ascending, of b[e, m, n]; b (E, M, N), parts (E, P, W)."""
        n = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        e, p = cuda.blockIdx.x // P, cuda.blockIdx.x % P
        head, last = begin + p * size, begin + (p + 1) * size
        head, last = head if head > 0 else 0, last if last < M else M
        if n < N:
            parts[u((e * P + p) * W + at + n)] = add(real(0.0), b, (e * M + head) * N + n, N, last - head)

    @kernel
    def add_parts(parts, P, W, total):
        """total[e, i] += parts[e, p, i], the last part first; parts (E, P, W), total (E, W)."""
        high = (W + cuda.blockDim.x - 1) // cuda.blockDim.x
        e, i = cuda.blockIdx.x // high, cuda.blockIdx.x % high * cuda.blockDim.x + cuda.threadIdx.x
        if i < W:
            total[u(e * W + i)] = add(total[u(e * W + i)], parts, ((e + 1) * P - 1) * W + i, -W, P)

    return Sums(columns, add_parts)


def product(a, first: int, b, start, c, begin: int, end: int, precision: str = "exact") -> None:
    """Fill c, a new array (E, M, N), see the kernel. a (E or 1, M, >= first + K), b (E, K, end - begin), start (E, N)."""
    E, M, _ = c.shape
    if c.size:
        _fill(_products(c.dtype, precision, M, end - begin, E), a, first, b, start, c, begin, end)


def _fill(kernels: Products, a, first: int, b, start, c, begin: int, end: int) -> None:
    (E, M, N), n = c.shape, end - begin
    blocks = -(-M // kernels.high), -(-n // kernels.wide) + -(-(N - n) // kernels.wide), E
    sizes = Sizes(len(a), M, a.shape[2], first, b.shape[1], begin, n, N)
    target.launch_flat(kernels.product, blocks, SIDE * SIDE, 0, a, b, start, c, sizes)


def run_each(dtype, precision: str, zeros) -> None:
    """Launch each kernel of products once, so that it is compiled, whatever the sizes that it will be chosen for."""
    one, rows = zeros((1, 1, 1), dtype), Parts()
    for shares in itertools.product(SHARES[dtype.itemsize], repeat=2):
        kernels = make_products(dtype, precision, SIDE, *shares)
        _fill(kernels, one, 0, one, one.reshape(1, 1), zeros((1, 1, 1), dtype), 0, 1)
        _sum(kernels, Term(one, one, 0, 0, 1, 1), zeros((1, 1, 1), dtype), 0, rows)


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
    (E, W), dtype, (columns, add_parts) = total.shape, total.dtype, make_sums(total.dtype)
    M = terms[0].b.shape[1]
    groups = [*rows.groups(M, E * W * dtype.itemsize)] if M and total.size else []
    room = empty((E * W * max((count for _, count in groups), default=0),), dtype)
    for begin, count in groups:
        parts = room[: E * count * W].reshape(E, count, W)
        for term in terms:
            if term.a is None:
                blocks = E * count, -(-term.b.shape[2] // ELEMENTS)
                target.launch_flat(columns, blocks, ELEMENTS, 0, term.b, *term.b.shape[1:], begin, rows.size, count, W, term.at, parts)
            else:
                _sum(_products(dtype, precision, term.a.shape[2], term.N, E * count), term, parts, begin, rows)
        target.launch_flat(add_parts, E * -(-W // ELEMENTS), ELEMENTS, 0, parts, count, W, total)


def _sum(kernels: Products, term: Term, parts, begin: int, rows: Parts) -> None:
    """One term of all parts."""
    (E, P, W), (members, M, K) = parts.shape, term.a.shape
    blocks = E * P, -(-K // kernels.high), -(-term.N // kernels.wide)
    sizes = SumSizes(members, M, K, term.b.shape[2], term.first, term.N, begin, rows.size, P, W, term.at, term.width)
    target.launch_flat(kernels.transposed, blocks, SIDE * SIDE, 0, term.a, term.b, parts, sizes)


def add_transposed(a, b, first: int, total, empty, rows: Parts, precision: str = "exact") -> None:
    """total (E, K, N) += a^T b[..., first : first + N] over rows. a (E or 1, M, K), b (E, M, >= first + N); `empty` makes arrays."""
    E, K, N = total.shape
    add_terms([Term(a, b, 0, first, N, N)], total.reshape(E, K * N), empty, rows, precision)


def add_columns(b, total, empty, rows: Parts) -> None:
    """total (E, N) += the sums of b (E, M, N) over rows."""
    add_terms([Term(None, b, 0)], total, empty, rows)

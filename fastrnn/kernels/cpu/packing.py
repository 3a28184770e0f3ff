"""Between weights as users see them and the operands of `product`, for the members of an ensemble.

The weight of member e begins at flat[e, start]: (R, K) or (R, N), C-contiguous. A common `flat` has one row. A work item is one of
`parts` pieces of a member's panels, or of its sums.
"""

from ..._jit import kernel, loop
from ..._team import parallel
from .product import VECTOR_BYTES, WIDE, panel_vectors
from .rows import add_row, clear_row, copy_row

STRETCH = 4096  # numbers compared at a time
SQUARE = 16  # rows and columns of what is turned at a time, so that a line of memory is used whole on both sides


@loop
def _piece(part, parts, columns, wide):
    """(first, last) column of one of `parts` pieces of columns, in whole panels."""
    panels = (columns + wide - 1) // wide
    return panels * part // parts * wide, min(panels * (part + 1) // parts * wide, columns)


@loop
def _turn(weight, rows, K, n, inside, packed, at, wide):
    """packed[at + k * wide + j] = weight[rows[n + j], k], for j < inside and k < K."""
    for k0 in range(0, K, SQUARE):
        count = min(SQUARE, K - k0)
        for j in range(inside):
            row = weight[rows[n + j] * K + k0 : rows[n + j] * K + k0 + count]
            for k in range(row.shape[0]):
                packed[at + (k0 + k) * wide + j] = row[k]


@parallel
@loop
def pack_columns(who, item, parts, flat, start, K, rows, panels):
    """B[k, n] = weight[rows[n], k] as packed panels: the operand of x W^T. weight (., K), rows (N,), panels (E, K * Np)."""
    N, one = rows.shape[0], VECTOR_BYTES // flat.itemsize
    columns = panels.shape[1] // K if K else 0
    weight, packed = flat[item // parts % flat.shape[0], start:], panels[item // parts]
    n, end = _piece(item % parts, parts, columns, WIDE * one)
    while n < end:
        wide = panel_vectors((columns - n) // one) * one
        for j in range(0, wide, SQUARE):
            inside = max(min(min(SQUARE, wide - j), N - n - j), 0)
            _turn(weight, rows, K, n + j, inside, packed, n * K + j, wide)
            for k in range(K):
                clear_row(packed[n * K + k * wide + j + inside : n * K + k * wide + min(j + SQUARE, wide)])
        n += wide


@parallel
@loop
def pack_rows(who, item, parts, flat, start, N, rows, panels):
    """B[k, n] = weight[rows[k], n] as packed panels: the operand of dz W. weight (., N), rows (K,), panels (E, K * Np)."""
    K, one = rows.shape[0], VECTOR_BYTES // flat.itemsize
    columns = panels.shape[1] // K if K else 0
    weight, packed = flat[item // parts % flat.shape[0], start:], panels[item // parts]
    n, end = _piece(item % parts, parts, columns, WIDE * one)
    while n < end:
        wide = panel_vectors((columns - n) // one) * one
        inside = min(wide, N - n)
        for k in range(K):
            panel = packed[n * K + k * wide : n * K + (k + 1) * wide]
            copy_row(weight[rows[k] * N + n : rows[k] * N + n + inside], panel[:inside])
            clear_row(panel[inside:])
        n += wide


@parallel
@loop
def add_transposed(who, item, parts, sums, slices, rows, K, flat, start):
    """weight[rows[n], k] += sum over a member's slices of sums[., k, n], slices in order. sums (E * slices, K * Np), weight (., K).

    The first slice's sum is used up.
    """
    columns = sums.shape[1] // K if K and slices else 0
    if columns == 0:
        return  # an empty batch has no slices
    e = item // parts
    gradient, own = flat[e, start:], sums[e * slices]
    begin, end = _piece(item % parts, parts, columns, SQUARE)
    for k in range(K):
        line = own[k * columns + begin : k * columns + end]
        for s in range(1, slices):
            add_row(sums[e * slices + s, k * columns + begin : k * columns + end], line)
    for n0 in range(begin, min(end, rows.shape[0]), SQUARE):
        for k0 in range(0, K, SQUARE):
            for n in range(n0, min(n0 + SQUARE, rows.shape[0])):
                row = gradient[rows[n] * K : (rows[n] + 1) * K]
                for k in range(k0, min(k0 + SQUARE, K)):
                    row[k] += own[k * columns + n]


@kernel
def same(a, b):
    """Whether two vectors of bits (n,) are the same; looks no further than it must."""
    for begin in range(0, a.shape[0], STRETCH):
        different = a[0] ^ a[0]
        part_a, part_b = a[begin : begin + STRETCH], b[begin : begin + STRETCH]
        for i in range(part_a.shape[0]):
            different |= part_a[i] ^ part_b[i]
        if different != 0:
            return False
    return True

"""Between weights as users see them and the operands of `product`, for members [first, last) of an ensemble.

The weight of member e begins at flat[e, start]: (R, K) or (R, N), C-contiguous. A common `flat` has one row.
"""

from ..._jit import kernel
from .product import VECTOR_BYTES, panel_vectors
from .rows import add_row, clear_row, copy_row

SQUARE = 16


@kernel
def pack_columns(first, last, flat, start, K, rows, panels):
    """B[k, n] = weight[rows[n], k] as packed panels: the operand of x W^T. weight (., K), rows (N,), panels (E, K * Np)."""
    N, one = rows.shape[0], VECTOR_BYTES // flat.itemsize
    columns = panels.shape[1] // K if K else 0
    for e in range(first, last):
        weight, packed, n = flat[e % flat.shape[0], start:], panels[e], 0
        while n < columns:
            wide = panel_vectors((columns - n) // one) * one
            for j in range(wide):
                at = n * K + j
                if n + j < N:
                    row = weight[rows[n + j] * K : (rows[n + j] + 1) * K]
                    for k in range(K):
                        packed[at + k * wide] = row[k]
                else:
                    for k in range(K):
                        packed[at + k * wide] = 0.0
            n += wide


@kernel
def pack_rows(first, last, flat, start, N, rows, panels):
    """B[k, n] = weight[rows[k], n] as packed panels: the operand of dz W. weight (., N), rows (K,), panels (E, K * Np)."""
    K, one = rows.shape[0], VECTOR_BYTES // flat.itemsize
    columns = panels.shape[1] // K if K else 0
    for e in range(first, last):
        weight, packed, n = flat[e % flat.shape[0], start:], panels[e], 0
        while n < columns:
            wide = panel_vectors((columns - n) // one) * one
            inside = min(wide, N - n)
            for k in range(K):
                panel = packed[n * K + k * wide : n * K + (k + 1) * wide]
                copy_row(weight[rows[k] * N + n : rows[k] * N + n + inside], panel[:inside])
                clear_row(panel[inside:])
            n += wide


@kernel
def add_transposed(first, last, sums, slices, rows, K, flat, start):
    """weight[rows[n], k] += sum over a member's slices of sums[., k, n], slices in order. sums (E * slices, K * Np), weight (., K).

    The first slice's sum is used up.
    """
    columns = sums.shape[1] // K if K and slices else 0
    if columns == 0:
        return  # an empty batch has no slices
    for e in range(first, last):
        gradient, own = flat[e, start:], sums[e * slices]
        for k in range(K):
            line = own[k * columns : (k + 1) * columns]
            for s in range(1, slices):
                add_row(sums[e * slices + s, k * columns : (k + 1) * columns], line)
        for n0 in range(0, rows.shape[0], SQUARE):  # in squares, so that a line of memory is used whole on both sides
            for k0 in range(0, K, SQUARE):
                for n in range(n0, min(n0 + SQUARE, rows.shape[0])):
                    row = gradient[rows[n] * K : (rows[n] + 1) * K]
                    for k in range(k0, min(k0 + SQUARE, K)):
                        row[k] += own[k * columns + n]

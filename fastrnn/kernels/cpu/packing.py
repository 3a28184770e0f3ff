"""Between weights as users see them and the operands of `product`."""

from ..._jit import kernel
from .product import VECTOR_BYTES, panel_vectors
from .rows import add_row, clear_row, copy_row

SQUARE = 16


@kernel
def pack_columns(weight, rows, panels):
    """B[k, n] = weight[rows[n], k] as packed panels: the operand of x W^T. weight (R, K), rows (N,), panels (K * Np,)."""
    K, N, one = weight.shape[1], rows.shape[0], VECTOR_BYTES // weight.itemsize
    columns, n = (panels.shape[0] // K if K else 0), 0
    while n < columns:
        wide = panel_vectors((columns - n) // one) * one
        for j in range(wide):
            at = n * K + j
            if n + j < N:
                row = weight[rows[n + j]]
                for k in range(K):
                    panels[at + k * wide] = row[k]
            else:
                for k in range(K):
                    panels[at + k * wide] = 0.0
        n += wide


@kernel
def pack_rows(weight, rows, panels):
    """B[k, n] = weight[rows[k], n] as packed panels: the operand of dz W. weight (R, N), rows (K,), panels (K * Np,)."""
    K, N, one = rows.shape[0], weight.shape[1], VECTOR_BYTES // weight.itemsize
    columns, n = (panels.shape[0] // K if K else 0), 0
    while n < columns:
        wide = panel_vectors((columns - n) // one) * one
        inside = min(wide, N - n)
        for k in range(K):
            panel = panels[n * K + k * wide : n * K + (k + 1) * wide]
            copy_row(weight[rows[k], n : n + inside], panel[:inside])
            clear_row(panel[inside:])
        n += wide


@kernel
def add_transposed(sums, rows, gradient):
    """gradient[rows[n], k] += sum over slices of sums[., k, n], slices in order. sums (slices, K * Np), gradient (R, K).

    The first slice's sum is used up.
    """
    K = gradient.shape[1]
    columns = sums.shape[1] // K if K and sums.shape[0] else 0
    if columns == 0:
        return  # an empty batch has no slices
    for k in range(K):
        line = sums[0, k * columns : (k + 1) * columns]
        for s in range(1, sums.shape[0]):
            add_row(sums[s, k * columns : (k + 1) * columns], line)
    for first in range(0, rows.shape[0], SQUARE):  # in squares, so that a line of memory is used whole on both sides
        last = min(first + SQUARE, rows.shape[0])
        for begin in range(0, K, SQUARE):
            for n in range(first, last):
                row = gradient[rows[n]]
                for k in range(begin, min(begin + SQUARE, K)):
                    row[k] += sums[0, k * columns + n]

"""Readout products over many rows, forward and backward, and the table look-up of integer inputs.

A work item is (member, a fixed number of rows); each item sums its parameter gradients block by block (`+=`), and items are added
in order, so that nothing depends on the threads. One row's output depends on no other row.
"""

from typing import NamedTuple

import numpy as np

from ..._jit import loop
from ..._team import parallel
from .product import product, product_transposed
from .rows import add_row, clear_row, copy_row

BLOCK = 256  # rows of one product


class AffineScratch(NamedTuple):
    """Working memory, one row a thread: rows (., BLOCK + 1, max of the padded widths), and room for one panel of them, or one row."""

    rows: np.ndarray
    panel: np.ndarray


@parallel
@loop
def affine(who, item, size, x, weight, bias, y, scratch):
    """y = x W^T + b for `size` rows. x (E or 1, N, D), weight packed (E, D * Op), bias (E, Op), y (E, N, O)."""
    N, D, O, Op = y.shape[1], x.shape[2], y.shape[2], bias.shape[1]
    z, items = scratch.rows[who].reshape(-1), (N + size - 1) // size
    e, start = item // items, item % items * size
    x_e, y_e = x[e % x.shape[0]].reshape(-1), y[e]
    for begin in range(start, min(start + size, N), BLOCK):
        count = min(BLOCK, start + size - begin, N - begin)
        for r in range(count):
            copy_row(bias[e], z[r * Op : (r + 1) * Op])
        product(x_e, begin * D, D, 1, weight[e], 0, z, 0, Op, (count, Op, D))
        for r in range(count):
            copy_row(z[r * Op : r * Op + O], y_e[begin + r])


@parallel
@loop
def affine_backward(who, item, size, x, weight, dy, dx, dweight, dbias, scratch):
    """dx = dy W; dweight (items, D * Op) += x^T dy, dbias (items, Op) += dy, for `size` rows. weight packed (E, O * Dp)."""
    N, D, O, Op, Dp = dy.shape[1], x.shape[2], dy.shape[2], dbias.shape[1], weight.shape[1] // dy.shape[2]
    z, panel, items = scratch.rows[who].reshape(-1), scratch.panel[who], (N + size - 1) // size
    e, start = item // items, item % items * size
    x_e, dy_e, dx_e = x[e % x.shape[0]], dy[e], dx[e]
    for begin in range(start, min(start + size, N), BLOCK):
        count = min(BLOCK, start + size - begin, N - begin)
        clear_row(z[: count * Dp])
        product(dy_e.reshape(-1), begin * O, O, 1, weight[e], 0, z, 0, Dp, (count, Dp, O))
        for r in range(count):
            copy_row(z[r * Dp : r * Dp + D], dx_e[begin + r])
        clear_row(z[: count * Op])
        for r in range(count):
            copy_row(dy_e[begin + r], z[r * Op : r * Op + O])
        product_transposed(x_e[begin:].reshape(-1), D, z, 0, Op, dweight[item], count, panel, 0, Op)
        bias = panel[:Op]
        clear_row(bias)
        for r in range(count):
            add_row(z[r * Op : (r + 1) * Op], bias)
        add_row(bias, dbias[item])


@parallel
@loop
def embed(who, e, tokens, flat, start, y):
    """y[e, n] = table[tokens[n]] of member e. tokens (E or 1, N), the table (V, D) from flat[e, start] on, y (E, N, D)."""
    D, table, tokens_e = y.shape[2], flat[e, start:], tokens[e % tokens.shape[0]]
    for n in range(y.shape[1]):
        copy_row(table[tokens_e[n] * D : (tokens_e[n] + 1) * D], y[e, n])


@parallel
@loop
def embed_backward(who, e, tokens, dy, flat, start):
    """dtable[tokens[n]] += dy[n], n ascending, of member e; arrays as of `embed`."""
    D, table, tokens_e = dy.shape[2], flat[e, start:], tokens[e % tokens.shape[0]]
    for n in range(dy.shape[1]):
        add_row(dy[e, n], table[tokens_e[n] * D : (tokens_e[n] + 1) * D])

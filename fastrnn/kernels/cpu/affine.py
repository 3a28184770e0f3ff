"""Readout products over many rows, forward and backward, and the table look-up of integer inputs.

Work is cut into items of a fixed number of rows; each item sums its parameter gradients block by block (`+=`), and items are added
in order, so that nothing depends on the threads. One row's output depends on no other row.
"""

from typing import NamedTuple

import numpy as np

from ..._jit import kernel, loop
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
    """y = x W^T + b for `size` rows. x (N, D), weight packed (D * Op,), bias (Op,), y (N, O)."""
    D, O, Op = x.shape[1], y.shape[1], bias.shape[0]
    z, last = scratch.rows[who].reshape(-1), min((item + 1) * size, x.shape[0])
    for begin in range(item * size, last, BLOCK):
        count = min(BLOCK, last - begin)
        for r in range(count):
            copy_row(bias, z[r * Op : (r + 1) * Op])
        product(x.reshape(-1), begin * D, D, 1, weight, 0, z, 0, Op, (count, Op, D))
        for r in range(count):
            copy_row(z[r * Op : r * Op + O], y[begin + r])


@parallel
@loop
def affine_backward(who, item, size, x, weight, dy, dx, dweight, dbias, scratch):
    """dx = dy W; dweight (items, D * Op) += x^T dy, dbias (items, Op) += dy, for `size` rows. weight packed (O * Dp,)."""
    D, O, Op, Dp = x.shape[1], dy.shape[1], dbias.shape[1], weight.shape[0] // dy.shape[1]
    z, panel, last = scratch.rows[who].reshape(-1), scratch.panel[who], min((item + 1) * size, x.shape[0])
    for begin in range(item * size, last, BLOCK):
        count = min(BLOCK, last - begin)
        clear_row(z[: count * Dp])
        product(dy.reshape(-1), begin * O, O, 1, weight, 0, z, 0, Dp, (count, Dp, O))
        for r in range(count):
            copy_row(z[r * Dp : r * Dp + D], dx[begin + r])
        clear_row(z[: count * Op])
        for r in range(count):
            copy_row(dy[begin + r], z[r * Op : r * Op + O])
        product_transposed(x[begin:].reshape(-1), D, z, 0, Op, dweight[item], count, panel, 0, Op)
        bias = panel[:Op]
        clear_row(bias)
        for r in range(count):
            add_row(z[r * Op : (r + 1) * Op], bias)
        add_row(bias, dbias[item])


@kernel
def embed_backward(tokens, dy, dtable):
    """dtable[tokens[n]] += dy[n], n ascending. tokens (N,), dy (N, D), dtable (V, D)."""
    for n in range(tokens.shape[0]):
        add_row(dy[n], dtable[tokens[n]])

"""Rows of numbers: copied, added, cleared, scaled. Loops of their own, so that arrays are checked for overlap row by row."""

from ..._jit import full_vectors, loop, pointwise


@loop
def copy_row(source, target):
    """target[:] = source[: len(target)]."""
    full_vectors()
    for j in range(target.shape[0]):
        target[j] = source[j]


@loop
def add_row(source, target):
    full_vectors()
    for j in range(target.shape[0]):
        target[j] += source[j]


@loop
def clear_row(target):
    full_vectors()
    for j in range(target.shape[0]):
        target[j] = 0.0


@loop
def scale_row(factor, target):
    full_vectors()
    for j in range(target.shape[0]):
        target[j] *= factor[j]


@pointwise
def move(source, target):
    """`copy_row` as part of the function that calls it, which must not do so in a loop over rows."""
    for j in range(target.shape[0]):
        target[j] = source[j]


@loop
def fill_rows(row, rows, width):
    """Copies of `row` one after another in `rows`, flat."""
    for first in range(0, rows.shape[0], width):
        copy_row(row, rows[first : first + width])

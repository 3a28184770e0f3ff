"""Rows of numbers: copied, added, cleared, scaled. Loops of their own, so that arrays are checked for overlap row by row."""

from ..._jit import full_vectors, loop


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

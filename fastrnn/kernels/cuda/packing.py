"""Parameters into what the kernels multiply with, sums back into gradients, sequences into the order of processing: a launch each."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from . import target
from .target import kernel, number

THREADS = 128
COPY, SUM, ADD = range(3)  # what a piece is: its only source, the sum of all, or what it was and that sum, one source after the other


class Piece(NamedTuple):
    """A matrix (rows, columns) that is made from others of its shape.

    Attributes
    ----------
    how : {COPY, SUM, ADD}
    rows, columns : int
    to, to_row, to_column, to_member : int
        Where its first number lies in member 0, and the steps to the next row, column and member.
    from_row, from_column : int
        These steps in the others.
    sources : tuple of (int, int, int)
        The others, in order: which of two arrays, where it begins in it, and the step to the next member. With none, all is 0.
    """

    how: int
    rows: int
    columns: int
    to: int
    to_row: int
    to_column: int
    to_member: int
    from_row: int
    from_column: int
    sources: tuple


class Pieces(NamedTuple):
    """Pieces as the kernel takes them, a row each of an array of the device, and the size of the largest."""

    table: object
    size: int


def on_device(device, pieces: list[Piece]) -> Pieces:
    """The rows of the table: a piece without its sources, how many there are, and each of them."""
    rows = [[*piece[:-1], len(piece.sources), *sum(piece.sources, ())] for piece in pieces]
    table = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, numbers in zip(table, rows):
        row[: len(numbers)] = numbers
    return Pieces(device.put(table), max(piece.rows * piece.columns for piece in pieces))


@cache
def make_move(dtype):
    real = number(dtype)

    @kernel
    def move(table, width, one, other, result):
        """Make every piece of every member in `result`, from `one` and `other`; table (pieces, width), all arrays flat."""
        i, p, e = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y * width, cuda.blockIdx.z
        how, rows, columns, sources = table[p], table[p + 1], table[p + 2], table[p + 9]
        if i < rows * columns:
            row, column = i // columns, i % columns
            to = table[p + 3] + row * table[p + 4] + column * table[p + 5] + e * table[p + 6]
            place, value = row * table[p + 7] + column * table[p + 8], result[to] if how == ADD else real(0.0)
            for s in range(p + 10, p + 10 + 3 * sources, 3):
                at = place + table[s + 1] + e * table[s + 2]
                found = one[at] if table[s] == 0 else other[at]
                value = found if how == COPY else value + found
            result[to] = value

    return move


def move(pieces: Pieces, members: int, one, other, result) -> None:
    """Make the pieces of so many members in `result`; see the kernel."""
    (count, width), high = pieces.table.shape, -(-pieces.size // THREADS)
    if members:
        target.launch_flat(make_move(result.dtype), (high, count, members), THREADS, 0, pieces.table, width, one, other, result)


@cache
def make_turns(dtype):
    """Kernels between times and steps; x, lengths (E or 1, B) and what is filled are flat."""
    real = number(dtype)

    @kernel
    def by_step(x, lengths, reverse, T, B, D, result):
        """result (E, T, B, D): x (E or 1, T, B, D) at the time of each step, 0 where a sequence has none."""
        i, e = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y
        if i < T * B * D:
            n, c = i // (B * D), i % (B * D)
            length = lengths[(e * B if lengths.shape[0] > B else 0) + c // D]
            t = length - 1 - n if reverse else n
            place = (e * T if x.shape[0] > T * B * D else 0) + t
            result[e * T * B * D + i] = x[place * B * D + c] if n < length else real(0.0)

    @kernel
    def by_time(steps, lengths, begin, count, T, B, D, result):
        """result (E, T, B, D) at the times of `count` steps from `begin` on, of a reverse direction: steps (E, count, B, D)."""
        i, e = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y
        if i < count * B * D:
            n, c = begin + i // (B * D), i % (B * D)
            length = lengths[(e * B if lengths.shape[0] > B else 0) + c // D]
            if n < length:
                result[(e * T + length - 1 - n) * B * D + c] = steps[e * count * B * D + i]

    return by_step, by_time


def by_step(x, lengths, reverse: bool, empty):
    """x (E or 1, T, B, D) in the order of processing, see the kernel; `empty` makes arrays."""
    _, T, B, D = x.shape
    result = empty((max(len(x), len(lengths)), T, B, D), x.dtype)
    if result.size:
        blocks = -(-T * B * D // THREADS), len(result)
        target.launch_flat(make_turns(x.dtype)[0], blocks, THREADS, 0, x, lengths, reverse, T, B, D, result)
    return result


def by_time(steps, lengths, begin: int, result) -> None:
    """Put steps from `begin` on (E, n, B, D) to their times in `result` (E, T, B, D); see the kernel."""
    (E, n, B, D), T = steps.shape, result.shape[1]
    if steps.size:
        blocks = -(-n * B * D // THREADS), E
        target.launch_flat(make_turns(steps.dtype)[1], blocks, THREADS, 0, steps, lengths, begin, n, T, B, D, result)

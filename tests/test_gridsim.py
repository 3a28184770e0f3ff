"""The simulator itself: it runs what is right, in any order, and raises what would be undefined on a GPU."""

import gridsim
import numpy as np
import pytest
from gridsim import Divergence, Race, SimulationError, Unwritten
from numba import cuda, float64, int64

from fastrnn._math import fma


@cuda.jit
def rotate(x, y):
    """y[i] = x[i + 1] within each block, through shared memory."""
    held, k, n = cuda.shared.array(0, float64), cuda.threadIdx.x, cuda.blockDim.x
    held[k] = x[cuda.blockIdx.x * n + k]
    cuda.syncthreads()
    y[cuda.blockIdx.x * n + k] = held[(k + 1) % n]


@cuda.jit
def rotate_at_once(x, y):
    held, k, n = cuda.shared.array(0, float64), cuda.threadIdx.x, cuda.blockDim.x
    held[k] = x[cuda.blockIdx.x * n + k]
    y[cuda.blockIdx.x * n + k] = held[(k + 1) % n]


@cuda.jit
def sum_steps(x, T):
    """Every thread adds its neighbour's number, T times; a second barrier keeps the next write from the last read."""
    held, k = cuda.shared.array((8,), float64), cuda.threadIdx.x
    for _ in range(T):
        held[k] = x[k]
        cuda.syncthreads()
        x[k] = x[k] + held[(k + 1) % 8]
        cuda.syncthreads()


@cuda.jit
def sum_steps_with_one_barrier(x, T):
    held, k = cuda.shared.array((8,), float64), cuda.threadIdx.x
    for _ in range(T):
        held[k] = x[k]
        cuda.syncthreads()
        x[k] = x[k] + held[(k + 1) % 8]


@cuda.jit
def shift(x, y):
    y[cuda.threadIdx.x] = x[(cuda.threadIdx.x + 1) % cuda.blockDim.x]


@cuda.jit
def count(x):
    x[0] = x[0] + 1.0


@cuda.jit
def beyond(x, index):
    x[index] = 1.0


@cuda.jit
def sum_unwritten(x):
    held, k = cuda.shared.array((4,), float64), cuda.threadIdx.x
    if k > 0:
        held[k] = x[k]
    cuda.syncthreads()
    x[k] = held[(k + 1) % 4]


@cuda.jit
def wait_apart(x):
    if cuda.threadIdx.x == 0:
        cuda.syncthreads()
    else:
        cuda.syncthreads()


@cuda.jit
def wait_alone(x):
    if cuda.threadIdx.x == 0:
        cuda.syncthreads()


@cuda.jit
def locals_of(x):
    a, b = cuda.local.array((2, 2), float64), cuda.local.array(2, int64)
    x[0], x[1] = a[1, 1], b[0]
    x[2] = fma(x[2], x[2], 1.0)


@pytest.mark.parametrize("order", gridsim.ORDERS)
def test_blocks_with_a_barrier(order):
    x = np.arange(12.0)
    for seed in range(3):
        y = np.full(12, np.nan)
        gridsim.launch(rotate, 3, 4, 32, x, y, order=order, seed=seed)
        np.testing.assert_array_equal(y, [1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8])


@pytest.mark.parametrize("order", gridsim.ORDERS)
def test_steps_with_two_barriers(order):
    x, y = np.arange(8.0), np.arange(8.0)
    gridsim.launch(sum_steps, 1, 8, 0, x, 5, order=order)
    for _ in range(5):
        y = y + np.roll(y, -1)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("order", gridsim.ORDERS)
@pytest.mark.parametrize("kernel", [rotate_at_once, sum_steps_with_one_barrier], ids=lambda kernel: kernel.__name__)
def test_a_missing_barrier(kernel, order):
    arguments = (np.arange(8.0), np.zeros(8)) if kernel is rotate_at_once else (np.arange(8.0), 3)
    with pytest.raises((Race, Unwritten)):
        gridsim.launch(kernel, 1, 8, 64, *arguments, order=order)


def test_a_barrier_that_is_missing_is_a_race_whatever_the_order():
    """The write that comes too late overwrites nothing here, since threads run in order: numbers alone would not show it."""
    with pytest.raises(Race, match="held|shared memory"):
        gridsim.launch(sum_steps_with_one_barrier, 1, 8, 0, np.arange(8.0), 3, order="fifo")


@pytest.mark.parametrize(("blocks", "threads"), [(1, 2), (2, 1)])
def test_threads_that_write_to_one_place(blocks, threads):
    x = np.zeros(1)
    gridsim.launch(count, 1, 1, 0, x)
    assert x[0] == 1
    with pytest.raises(Race, match=r"x\[0\]"):
        gridsim.launch(count, blocks, threads, 0, x)


@pytest.mark.parametrize("index", [4, -1])
def test_an_index_outside(index):
    with pytest.raises(IndexError, match="x: index"):
        gridsim.launch(beyond, 1, 1, 0, np.zeros(4), index)


def test_shared_memory_that_nobody_has_written():
    with pytest.raises(Unwritten, match=r"\[0\]"):
        gridsim.launch(sum_unwritten, 1, 4, 0, np.zeros(4))


@pytest.mark.parametrize("kernel", [wait_apart, wait_alone], ids=lambda kernel: kernel.__name__)
def test_threads_that_do_not_meet(kernel):
    with pytest.raises(Divergence, match="block 0"):
        gridsim.launch(kernel, 1, 4, 0, np.zeros(4))


def test_local_arrays_begin_as_nothing_that_goes_unseen():
    x = np.array([0.0, 0.0, 3.0])
    gridsim.launch(locals_of, 1, 1, 0, x)
    assert np.isnan(x[0]) and x[1] == np.iinfo(np.int64).min and x[2] == 10


def test_one_memory_under_two_names_is_one_memory():
    x, y = np.arange(4.0), np.zeros(4)
    gridsim.launch(shift, 1, 4, 0, x, y)
    np.testing.assert_array_equal(y, [1, 2, 3, 0])
    with pytest.raises(Race):
        gridsim.launch(shift, 1, 4, 0, x, x[:])


def test_arrays_with_gaps_are_refused():
    with pytest.raises(SimulationError, match="contiguous"):
        gridsim.launch(beyond, 1, 1, 0, np.zeros(8)[::2], 0)

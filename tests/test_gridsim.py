"""The simulator itself: it runs what is right, in any order, and raises what would be undefined on a GPU."""

import gridsim
import numpy as np
import pytest
from gridsim import Divergence, Race, SimulationError, Unwritten
from numba import cuda, float64, int32, int64

from fastrnn._math import fma
from fastrnn.kernels.cuda.ahead import AHEAD, PLACES, await_step, close, fetch
from fastrnn.kernels.cuda.cluster import DOORS, make_door, make_put, make_waits, meet, send, send_two
from fastrnn.kernels.cuda.compiler import Kernel
from fastrnn.kernels.cuda.loop import u
from fastrnn.kernels.cuda.mma import LINE, TILE, as_number, form, four_at


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


@pytest.mark.parametrize("blocks, threads", [(1, 2), (1, 3), (2, 1), (3, 2)])
def test_the_last_reader_writes_what_others_have_read(blocks, threads):
    """Every reader is remembered, not only the latest."""

    def kernel(x):
        value = x[0]
        if cuda.blockIdx.x == cuda.gridDim.x - 1 and cuda.threadIdx.x == cuda.blockDim.x - 1:
            x[0] = value + 1.0

    with pytest.raises(Race, match=r"writes x\[0\], read by"):
        gridsim.launch(kernel, blocks, threads, 0, np.zeros(1))
    with pytest.raises(Race, match=r"writes x\[0\], read by"):  # where threads have clocks
        gridsim.launch(Kernel(kernel, 0, 2), 2 * blocks, threads, 0, np.zeros(1))


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


# What a warp does together ------------------------------------------------------------------------------------------


@cuda.jit
def swap(x):
    x[cuda.threadIdx.x] = cuda.shfl_xor_sync(0xFFFFFFFF, x[cuda.threadIdx.x], 4)


@cuda.jit
def swap_in_part(x):
    if cuda.threadIdx.x != 5:
        x[cuda.threadIdx.x] = cuda.shfl_xor_sync(0xFFFFFFFF, x[cuda.threadIdx.x], 4)


@cuda.jit
def swap_apart(x):
    if cuda.threadIdx.x < 16:
        x[cuda.threadIdx.x] = cuda.shfl_xor_sync(0xFFFFFFFF, x[cuda.threadIdx.x], 4)
    else:
        x[cuda.threadIdx.x] = cuda.shfl_xor_sync(0xFFFFFFFF, x[cuda.threadIdx.x], 4)


@cuda.jit
def read_four(x, place):
    x[0] = four_at(x, place)[3]


@pytest.mark.parametrize("order", gridsim.ORDERS)
def test_a_shuffle(order):
    x = np.arange(64.0)
    gridsim.launch(swap, 1, 64, 0, x, order=order)
    np.testing.assert_array_equal(x, np.arange(64) ^ 4)


@pytest.mark.parametrize("kernel", [swap_in_part, swap_apart], ids=lambda kernel: kernel.__name__)
def test_threads_of_a_warp_that_do_not_meet(kernel):
    with pytest.raises(Divergence, match="warp"):
        gridsim.launch(kernel, 1, 32, 0, np.arange(32.0))


def test_four_at_that_are_not_aligned():
    gridsim.launch(read_four, 1, 1, 0, np.arange(8, dtype=np.int32), 4)
    with pytest.raises(SimulationError, match="no multiple of 4"):
        gridsim.launch(read_four, 1, 1, 0, np.arange(8, dtype=np.int32), 2)


def multiplier(precision):
    """A kernel of one warp: c (16, 8) += a (16, k) b (8, k) transposed, all flat, k that of one step."""
    parts, numbers, word, multiply_add = form(precision)
    k = LINE * numbers

    def number_at(x, row, i):
        return word(0, x[row * k + i * numbers], x[row * k + i * numbers + numbers - 1])

    number_at = cuda.jit(number_at)

    @cuda.jit
    def multiply(a, b, c):
        g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
        tile = number_at(a, g, t), number_at(a, g + 8, t), number_at(a, g, t + 4), number_at(a, g + 8, t + 4)
        at = g * 8 + 2 * t
        sums = c[at], c[at + 1], c[at + 64], c[at + 65]
        sums = multiply_add(tile, (number_at(b, g, t), number_at(b, g, t + 4)), sums)
        c[at], c[at + 1], c[at + 64], c[at + 65] = sums

    return multiply, k


@pytest.mark.parametrize("precision, bits", [("tf32", 11), ("bf16", 8)])
def test_a_product_of_tiles_rounds_its_factors_alone(precision, bits):
    kernel, k = multiplier(precision)
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=shape).astype(np.float32) for shape in ((TILE, k), (LINE, k), (TILE, LINE)))
    rounded = [np.ldexp(np.rint(np.ldexp(m, bits)), e - bits).astype(np.float32) for m, e in map(np.frexp, (a, b))]  # no ties here
    want = (rounded[0].astype(float) @ rounded[1].T.astype(float) + c).astype(np.float32)
    flat = [array.reshape(-1).copy() for array in (a, b, c)]
    gridsim.launch(kernel, 1, 32, 0, *flat)
    np.testing.assert_array_equal(flat[2].reshape(TILE, LINE), want)


@cuda.jit
def split(x, y):
    word = form_split(0, x[0], x[0])
    y[0], y[1] = as_number(word), as_number(form_split(1, x[0], x[0]))


form_split = form("split").word


def test_split_parts_have_twice_the_bits():
    x, y = np.array([np.pi], np.float32), np.zeros(2, np.float32)
    gridsim.launch(split, 1, 1, 0, x, y)
    assert abs(float(y[0]) - np.pi) > 1e-5 and abs(float(y[0]) + float(y[1]) - float(x[0])) < 2.0**-22 * np.pi


# Clusters -----------------------------------------------------------------------------------------------------------

BLOCKS, LINES = 2, gridsim.WARP  # of a cluster; threads of a block
begin, wait = make_waits(BLOCKS, 4 * LINES)
begin_for_less, wait_for_less = make_waits(BLOCKS, 4 * LINES - 4)
begin_for_more, _ = make_waits(BLOCKS, 4 * LINES + 4)


def hand_round(begin, wait, places):
    """y[block, i]: what has gone round the cluster three times, by `places` places of shared memory."""

    def kernel(x, y):
        held, doors, i = cuda.shared.array(0, int32), cuda.shared.array(DOORS, int64), cuda.threadIdx.x
        begin(doors)
        value = x[cuda.blockIdx.x, i]
        for turn in range(3):
            send(held, turn % places * LINES + i, (cuda.blockIdx.x + 1) % BLOCKS, value, doors, turn & 1)
            wait(doors, turn)
            value = held[turn % places * LINES + i] + held[turn % places * LINES + (i + 1) % LINES]
        y[cuda.blockIdx.x, i] = value

    return Kernel(kernel, 0, BLOCKS)


@pytest.mark.parametrize("order", gridsim.ORDERS)
def test_blocks_of_a_cluster_send_to_each_other(order):
    x, y = np.arange(4 * LINES, dtype=np.int32).reshape(4, LINES), np.empty((4, LINES), np.int32)
    gridsim.launch(hand_round(begin, wait, 2), 4, LINES, 8 * LINES, x, y, order=order, seed=3)
    want = x.copy()
    for _ in range(3):
        want = want[[1, 0, 3, 2]]
        want = want + np.roll(want, -1, axis=1)
    assert (y == want).all()


@pytest.mark.parametrize("order", gridsim.ORDERS)
@pytest.mark.parametrize(
    "waits, places", [((begin, lambda doors, turn: None), 2), ((begin_for_less, wait_for_less), 2), ((begin, wait), 1)]
)
def test_doors_that_are_passed_too_early(waits, places, order):
    """No wait, a door that opens too early, one place where there should be two."""
    x, y = np.zeros((2, LINES), np.int32), np.empty((2, LINES), np.int32)
    with pytest.raises((Race, Unwritten)):
        gridsim.launch(hand_round(*waits, places), 2, LINES, 8 * LINES, x, y, order=order, seed=5)


def send_all(senders):
    """Every one of the first blocks sends to all, who wait for as much as one of them sends, or two."""
    begin, wait = make_waits(BLOCKS, 4 * LINES * senders)

    def kernel(x):
        held, doors, i = cuda.shared.array(0, int32), cuda.shared.array(DOORS, int64), cuda.threadIdx.x
        begin(doors)
        for turn in range(8):
            if cuda.blockIdx.x < senders:
                for block in range(BLOCKS):
                    send(held, (turn % 2 * BLOCKS + cuda.blockIdx.x) * LINES + i, block, turn, doors, turn & 1)
            wait(doors, turn)

    for seed in range(10):
        gridsim.launch(Kernel(kernel, 0, BLOCKS), BLOCKS, LINES, 16 * BLOCKS * LINES, np.zeros(1), order="uneven", seed=seed)


def test_a_block_that_sends_nothing_is_overrun():
    """Nothing keeps the others from sending twice what it waits for: why `plan.chains` has no such block."""
    send_all(BLOCKS)
    with pytest.raises((Race, Divergence)):
        send_all(1)


def test_a_door_that_nobody_opens():
    x, y = np.zeros((2, LINES), np.int32), np.empty((2, LINES), np.int32)
    with pytest.raises(Divergence, match="waits at a door that nobody opens"):
        gridsim.launch(hand_round(begin_for_more, wait, 2), 2, LINES, 8 * LINES, x, y)


def test_a_door_that_has_not_been_made():
    def kernel(x):
        held, doors = cuda.shared.array(0, int32), cuda.shared.array(DOORS, int64)
        send(held, 0, 1 - cuda.blockIdx.x, 5, doors, 0)

    with pytest.raises(SimulationError, match="block 0 sends to a door that block 1 has not made"):
        gridsim.launch(Kernel(kernel, 0, 2), 2, 1, 16, np.zeros(1))


@pytest.mark.parametrize(
    "blocks, apart, words, copies", [(2, 4, 2, 1), (8, 4, 4, 1), (2, 8, 1, 2), (8, 8, 4, 2), (4, 1, 4, 1), (4, 1, 1, 1)]
)
def test_neighbours_are_one_message_to_each_block(blocks, apart, words, copies):
    """A lane's number i is that of lanes `apart` lanes away, `copies` of them, and of the block; in the memory of all blocks, in order."""
    put, near = make_put(blocks, apart, words, copies), apart // copies
    lines = LINES // copies
    begin, wait = make_waits(blocks, 4 * lines * blocks)

    def kernel(y):
        held, doors, i = cuda.shared.array(0, int32), cuda.shared.array(DOORS, int64), cuda.threadIdx.x
        begin(doors)
        number = i % near * (lines // near) + i // apart  # neighbours lie next to each other
        put(held, u(cuda.blockIdx.x * lines + number), int32(100 * cuda.blockIdx.x + number), doors, 0, True)
        wait(doors, 0)
        for k in range(i, lines * blocks, LINES):
            y[cuda.blockIdx.x, k] = held[k]

    y = np.empty((blocks, lines * blocks), np.int32)
    gridsim.launch(Kernel(kernel, 0, blocks), blocks, LINES, 4 * lines * blocks, y, order="random", seed=1)
    assert (y == (100 * np.arange(blocks)[:, None] + np.arange(lines)).ravel()).all()


def test_a_message_that_lies_askew():
    def kernel(x):
        held, doors = cuda.shared.array(0, int32), cuda.shared.array(DOORS, int64)
        make_door(doors, 0)
        send_two(held, 1, cuda.blockIdx.x, 5, 6, doors, 0)

    with pytest.raises(SimulationError, match="2 numbers are sent to place 1, which is no multiple of that"):
        gridsim.launch(Kernel(kernel, 0, 2), 2, 1, 16, np.zeros(1))


def fetch_all(steps: int, ahead: int, waits: bool):
    """y = x (steps, LINES), of which steps are fetched `ahead` steps ahead, and waited for or not."""

    def kernel(x, y):
        held, i = cuda.shared.array(PLACES * LINES, int32), cuda.threadIdx.x
        for n in range(ahead):
            fetch(held, n % PLACES * LINES + i, x, n * LINES + i, n < steps)
            close()
        for n in range(steps):
            if waits:
                await_step()
            y[n * LINES + i] = held[n % PLACES * LINES + i]
            fetch(held, (n + ahead) % PLACES * LINES + i, x, (n + ahead) * LINES + i, n + ahead < steps)
            close()

    x, y = np.arange(steps * LINES, dtype=np.int32), np.full(steps * LINES, -1, np.int32)
    gridsim.launch(Kernel(kernel), 1, LINES, 0, x, y)
    return x, y


def test_what_is_fetched_ahead():
    x, y = fetch_all(9, AHEAD, True)
    assert (x == y).all()


@pytest.mark.parametrize("ahead, waits, error", [(AHEAD, False, Unwritten), (AHEAD - 1, True, Unwritten), (PLACES + 1, True, Race)])
def test_what_is_fetched_and_not_waited_for(ahead, waits, error):
    """No wait, one that lets too many be on their way, and more of them than there are places."""
    with pytest.raises(error):
        fetch_all(9, ahead, waits)


def test_a_block_that_has_ended():
    def kernel(x):
        held, doors = cuda.shared.array(0, int32), cuda.shared.array(DOORS, int64)
        make_door(doors, 0)
        meet()
        if cuda.blockIdx.x == 0:
            cuda.syncthreads()
            send(held, 0, 1, 5, doors, 0)

    with pytest.raises(SimulationError, match="block 0 sends into the shared memory of block 1, which has ended"):
        gridsim.launch(Kernel(kernel, 0, 2), 2, 1, 16, np.zeros(1))


def test_threads_of_a_cluster_that_do_not_meet():
    def kernel(x):
        if cuda.blockIdx.x == 0:
            meet()

    with pytest.raises(Divergence, match="some threads of the cluster of block 0 wait"):
        gridsim.launch(Kernel(kernel, 0, 2), 2, 2, 0, np.zeros(1))


def test_a_grid_of_parts_of_clusters():
    with pytest.raises(SimulationError, match="a grid of whole clusters is required, of 2 blocks; got 3"):
        gridsim.launch(hand_round(begin, wait, 2), 3, LINES, 32, np.zeros((4, 4), np.int32), np.zeros((4, 4), np.int32))

"""Memory that is used again: never while anything refers to it, and not without end."""

import gc
import threading

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _memory

LARGE = (_memory.SMALL // 8, 2)


@pytest.fixture(autouse=True)
def no_blocks(monkeypatch):
    monkeypatch.setattr(_memory, "_thread", threading.local())


def address(array) -> int:
    return array.ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (3, 5), LARGE])
def test_arrays_are_what_numpy_gives(shape, dtype):
    for make in (_memory.empty, _memory.aligned, _memory.zeros):
        array = make(shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
    assert not array.any() and (array.size == 0 or address(_memory.aligned(shape, dtype)) % _memory.LINE == 0)


def test_the_memory_of_an_array_that_is_gone_is_used_again():
    first = address(_memory.empty(LARGE, "float64"))
    assert address(_memory.empty(LARGE, "float64")) == first
    assert address(_memory.empty((LARGE[0] * 2,), "float64")) == first  # of any shape
    assert address(_memory.empty((LARGE[0] // 4, 2), "float64")) != first  # but not much smaller
    dirty = _memory.empty(LARGE, "float64")
    dirty.fill(np.nan)
    del dirty
    assert not _memory.zeros(LARGE, "float64").any()


@pytest.mark.parametrize(
    "keep",
    [lambda a: a, lambda a: a[3:5], lambda a: a.T, lambda a: a.reshape(-1)[::7].view("u8"), lambda a: memoryview(a), lambda a: [a[0, 0:1]]],
    ids=["itself", "rows", "transposed", "strided", "a buffer", "in a list"],
)
def test_what_is_still_referred_to_is_not_written_over(keep):
    array = _memory.empty(LARGE, "float64")
    array.fill(1.0)
    kept = keep(array)
    del array
    for _ in range(3):
        _memory.empty(LARGE, "float64").fill(2.0)
    first = np.asarray(kept[0] if isinstance(kept, list) else kept)
    assert (first.view("f8") == 1.0).all()


def test_two_arrays_that_live_at_once_lie_apart():
    arrays = [_memory.empty(LARGE, "float64") for _ in range(6)]
    for k, array in enumerate(arrays):
        array.fill(k)
    assert all((array == k).all() for k, array in enumerate(arrays))


def test_no_more_is_kept_than_allowed(monkeypatch):
    size = LARGE[0] * LARGE[1] * 8
    monkeypatch.setattr(_memory, "KEPT", 3 * (size + _memory.LINE))
    arrays = [_memory.empty(LARGE, "float64") for _ in range(10)]
    assert len(_memory._thread.blocks) == 3
    arrays.append(_memory.empty((LARGE[0] * 10, 2), "float64"))  # more than all that may be kept
    assert sum(block.nbytes for block in _memory._thread.blocks) <= _memory.KEPT
    for k, array in enumerate(arrays):
        array.fill(k)
    assert all((array == k).all() for k, array in enumerate(arrays))


def test_a_block_taken_by_what_came_in_between_is_left_alone(monkeypatch):
    """A signal's handler, or what garbage collection calls, may take memory while memory is being looked for."""
    between = []

    def interrupted(blocks, k):
        found = references(blocks, k)
        if not between:  # the block is idle, and found to be: now it is taken
            between.append(None)
            between[0] = _memory.empty(LARGE, "float64")
        return found

    references = _memory._references
    _memory.empty(LARGE, "float64")
    monkeypatch.setattr(_memory, "_references", interrupted)
    array = _memory.empty(LARGE, "float64")
    array.fill(1.0)
    between[0].fill(2.0)
    assert (array == 1.0).all()


def test_threads_have_memory_of_their_own():
    found = [address(_memory.empty(LARGE, "float64"))]
    thread = threading.Thread(target=lambda: found.append(address(_memory.empty(LARGE, "float64"))))
    thread.start()
    thread.join()
    assert found[0] != found[1]


def test_outputs_and_gradients_that_a_user_keeps_stay_as_they_are():
    """Training goes on in the same memory; what was returned before does not change."""
    net = fr.LSTM(8, 32, num_layers=2)
    rng, kept = np.random.default_rng(0), []
    for _ in range(6):
        x = rng.standard_normal((40, 16, 8), dtype="f4")
        y, state, tape = net.forward(x)
        grads = net.backward(tape, y)
        arrays = [y, *state, grads.x, grads.params.flat, tape.gate("f"), tape.c, net(x)[0]]
        kept.append((arrays, [array.copy() for array in arrays]))
        del tape
        gc.collect()
    for arrays, copies in kept:
        for array, copy in zip(arrays, copies):
            assert array.tobytes() == copy.tobytes()

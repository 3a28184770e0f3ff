"""Threads change nothing but the time: same bits, from any thread, after a fork, and through errors and interruptions."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _threads
from fastrnn.layers import _direction


@pytest.fixture(autouse=True)
def as_before():
    before = _threads._threads
    yield
    with _threads._lock:
        _threads._threads, pool, _threads._pool = before, _threads._pool, None
    if pool is not None:
        pool.shutdown(wait=True)


@pytest.fixture(scope="module")
def network():
    return fr.GRU(5, 7, num_layers=2, bidirectional=True, dtype="float64", seed=3)


def everything(network, seed=0):
    """All that a forward and a backward give, as bytes."""
    rng = np.random.default_rng(seed)
    x, lengths = rng.standard_normal((11, 37, 5)), rng.integers(0, 12, 37)
    y, state, tape = network.forward(x, lengths=lengths)
    grads = network.backward(tape, rng.standard_normal(y.shape), details=True)
    return b"".join(a.tobytes() for a in (y, state, grads.x, grads.state, grads.params.flat, grads.h))


@pytest.fixture
def parallel(monkeypatch):
    """Small problems, too, go to the threads; and how many regions did."""
    regions, run = [], _threads.run

    def counted(tasks):
        regions.append(len(tasks))
        run(tasks)

    monkeypatch.setattr(_direction, "SERIAL_WORK", 0.0)
    monkeypatch.setattr(_threads, "run", counted)
    return regions


def test_the_same_bits_for_any_number_of_threads(network, parallel):
    results = []
    for n in (1, 2, 3, 16):
        fr.set_num_threads(n)
        results.append(everything(network))
    assert len(set(results)) == 1 and max(parallel) > 4 and len(parallel) >= 16


def test_the_same_bits_in_serial_and_parallel(network, monkeypatch):
    fr.set_num_threads(2)
    expected = everything(network)
    monkeypatch.setattr(_direction, "SERIAL_WORK", 0.0)
    assert all(everything(network) == expected for _ in range(5))


def test_the_same_bits_from_several_python_threads_at_once(network, parallel):
    fr.set_num_threads(3)
    expected = [everything(network, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(lambda k: everything(network, k % 4), range(24))) == expected * 6


def test_the_number_may_change_while_others_run(network, parallel):
    expected, stop = everything(network), threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            n = n % 4 + 1
            fr.set_num_threads(n)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        assert all(everything(network) == expected for _ in range(20))
    finally:
        stop.set()
        changer.join()


# run ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_run_calls_every_task_once(threads, count):
    fr.set_num_threads(threads)
    called = []
    _threads.run([lambda k=k: called.append(k) for k in range(count)])
    assert sorted(called) == list(range(count))


def test_tasks_run_at_the_same_time():
    """Two tasks that wait for each other end only if both run."""
    fr.set_num_threads(2)
    meet = threading.Barrier(2)
    _threads.run([lambda: meet.wait(60), lambda: meet.wait(60)])


def test_tasks_may_run_tasks():
    fr.set_num_threads(2)
    called = []
    inner = [lambda k=k: called.append(k) for k in range(3)]
    _threads.run([lambda: _threads.run(inner) for _ in range(6)])
    assert sorted(called) == sorted([0, 1, 2] * 6)


class Oops(Exception):
    pass


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_errors_reach_the_caller_once_all_tasks_have_ended(threads, bad):
    fr.set_num_threads(threads)
    running, lock = [0], threading.Lock()

    def task(k):
        with lock:
            running[0] += 1
        try:
            time.sleep(0.01)
            if k == bad:
                raise Oops(k)
        finally:
            with lock:
                running[0] -= 1

    with pytest.raises(Oops, match=str(bad)):
        _threads.run([lambda k=k: task(k) for k in range(8)])
    assert running[0] == 0
    _threads.run([lambda: None] * 8)


def test_all_have_ended_even_if_several_failed():
    """The first helper's error must not let `run` return while a second helper still writes."""
    fr.set_num_threads(3)
    meet, ended = threading.Barrier(3), []

    def task(delay):
        meet.wait(60)
        time.sleep(delay)
        ended.append(delay)
        raise Oops

    with pytest.raises(Oops):
        _threads.run([lambda d=d: task(d) for d in (0.0, 0.1, 0.3)])
    assert len(ended) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to a thread")
def test_an_interruption_waits_for_helpers_and_starts_nothing_new():
    fr.set_num_threads(2)
    meet, ended, begun = threading.Barrier(2), [], []

    def mine():
        meet.wait(60)
        signal.raise_signal(signal.SIGINT)

    def helpers():
        meet.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # a second one, while the first waits
        time.sleep(0.2)
        ended.append(True)

    def either():
        (mine if threading.current_thread() is threading.main_thread() else helpers)()

    with pytest.raises(KeyboardInterrupt):
        _threads.run([either, either, *[lambda: begun.append(True)] * 20])
    assert ended == [True] and not begun
    _threads.run([lambda: None] * 4)


@pytest.mark.parametrize("late", [False, True], ids=["at work", "waiting for the helper"])
def test_an_interruption_does_not_wait_for_a_helper_that_waits_for_the_compiler(late):
    fr.set_num_threads(2)
    meet, compiled = threading.Barrier(2), SimpleQueue()
    rescue = threading.Timer(60, compiled.put, [None])  # without which a mistake here would last forever

    def mine():
        meet.wait(60)
        if not late:
            raise KeyboardInterrupt

    def helpers():
        meet.wait(60)
        if late:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        _threads.take(compiled)

    def either():
        (mine if threading.current_thread() is threading.main_thread() else helpers)()

    rescue.start()
    with pytest.raises(KeyboardInterrupt):
        _threads.run([either, either])
    assert rescue.is_alive()
    rescue.cancel()
    compiled.put(3)
    assert _threads.take(compiled) == 3


# The number ---------------------------------------------------------------------------------------------------------


def test_number_of_threads():
    fr.set_num_threads(3)
    assert fr.get_num_threads() == 3
    fr.set_num_threads(np.int32(2))
    assert fr.get_num_threads() == 2
    _threads._threads = None
    assert 1 <= fr.get_num_threads() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (0, ValueError, "n: an integer at least 1 is required; got 0"),
        (-2, ValueError, "got -2"),
        (1.5, TypeError, "n: an integer is required; got 1.5"),
        ("2", TypeError, "got '2'"),
        (True, TypeError, "got True"),
        (None, TypeError, "got None"),
    ],
)
def test_bad_numbers(bad, error, words):
    before = fr.get_num_threads()
    with pytest.raises(error, match=words):
        fr.set_num_threads(bad)
    assert fr.get_num_threads() == before


# Other processes ----------------------------------------------------------------------------------------------------

FORK = """
import os, sys, warnings
import numpy as np
import fastrnn as fr
from fastrnn.layers import _direction

_direction.SERIAL_WORK = 0.0
fr.set_num_threads(3)
net = fr.GRU(5, 7, num_layers=2, bidirectional=True, dtype="float64", seed=3)
x = np.random.default_rng(0).standard_normal((4, 9, 5))
expected = net(x)[0].tobytes()
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: fork in a process with threads
for generation in range(2):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    if net(x)[0].tobytes() != expected:
        os._exit(3)
fr.set_num_threads(2)
y, _, tape = net.forward(x)
net.backward(tape, np.ones_like(y))
os._exit(0 if y.tobytes() == expected else 4)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_and_its_child_compute(network):
    """The pool's threads do not exist in the child: it makes its own."""
    everything(network)  # kernels are on disk then
    environment = os.environ | {"PYTHONPATH": str(Path(fr.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", "-c", FORK], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_the_lock_is_held():
    fr.set_num_threads(2)
    _threads.run([lambda: None] * 4)
    with _threads._lock:
        child = os.fork()
        if not child:
            signal.alarm(60)
            called = []
            try:
                _threads.run([lambda: called.append(1)] * 4)
            finally:
                os._exit(0 if len(called) == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

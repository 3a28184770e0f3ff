"""Threads change nothing but the time: same bits, from any thread, after a fork, and through errors and interruptions."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _team, _threads
from fastrnn._jit import loop
from fastrnn.layers import _direction


@pytest.fixture(autouse=True)
def as_before():
    before = _threads._threads
    yield
    _threads._threads = before


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
def parallel(monkeypatch, at_work):
    """Small problems, too, go to the threads; and the sizes of the teams that were asked for."""
    sizes, team = [], _threads.team

    def counted(operations):
        found = team(operations)
        sizes.append(_threads.size(found))
        return found

    monkeypatch.setattr(_threads, "team", counted)
    return sizes


def test_the_same_bits_for_any_number_of_threads(network, parallel):
    results = []
    for n in (1, 2, 3, 16):
        fr.set_num_threads(n)
        results += [everything(network) for _ in range(3)]
    assert len(set(results)) == 1 and set(parallel) == {1, 2, 3, 16}


def test_the_same_bits_in_serial_and_parallel(network, monkeypatch):
    fr.set_num_threads(2)
    expected = everything(network)
    monkeypatch.setattr(_threads, "SERIAL_WORK", 0.0)
    assert all(everything(network) == expected for _ in range(5))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_same_bits_where_one_sequence_is_shared(cell, parallel, monkeypatch):
    """The products of a single item are cut by panels: units that fill panels, and some over."""
    monkeypatch.setattr(_direction, "SHARED_WORK", 0.0)
    rng, results = np.random.default_rng(0), []
    net, x, dy = fr.Recurrent(cell, 150, 150), rng.standard_normal((9, 1, 150)), rng.standard_normal((9, 1, 150))
    for n in (1, 2, 3, 7):
        fr.set_num_threads(n)
        for _ in range(4):
            y, _, tape = net.forward(x)
            grads = net.backward(tape, dy)
            results.append(b"".join(a.tobytes() for a in (net(x)[0], y, grads.x, grads.params.flat)))
    assert len(set(results)) == 1 and set(parallel) >= {2, 3, 7}


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


# Regions ------------------------------------------------------------------------------------------------------------


@_team.parallel
@loop
def mark(who, item, times, threads):
    """Every item once, and by whom."""
    times[item] += 1
    threads[item] = who


@_team.parallel
@loop
def meet(who, item, here, patience, met):
    """Item 0 and item 1 wait for each other."""
    here[item * 8] = 1
    for _ in range(patience):
        if _team._add(here, (1 - item) * 8, 0) == 1:
            met[item] = True
            return


@_team.parallel
@loop
def within(who, item, team, times, threads):
    """Parallel work inside parallel work, by the same team."""
    mark(team, times.shape[1], times[item], threads[item])


@_team.parallel
@loop
def trip(who, item, bad):
    if item == bad:
        raise ValueError("item")


def test_an_exception_in_a_region_is_not_lost_and_leaves_the_team_ready():
    """Kernels raise none, but a check of bounds does."""
    fr.set_num_threads(2)
    for k in range(50):
        with pytest.raises((RuntimeError, ValueError), match="a kernel raised an exception in a region|item"):
            trip(_threads.team(1e9), 8, k % 8)
        times = np.zeros(9, np.int64)
        mark(_threads.team(1e9), 9, times, times.copy())
        assert (times == 1).all()
        trip(_threads.team(1e9), 8, 8)
    fr.set_num_threads(1)
    with pytest.raises(ValueError, match="item"):
        trip(_threads.team(1e9), 8, 3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_done_once_by_a_thread_of_the_team(threads, monkeypatch):
    monkeypatch.setattr(_threads, "SERIAL_WORK", 0.0)
    fr.set_num_threads(threads)
    for count in (0, 1, 2, 3, 50, 1000) * 20:
        times, who = np.zeros(count, np.int64), np.full(count, -1)
        mark(_threads.team(1.0), count, times, who)
        assert (times == 1).all() and ((who >= 0) & (who < threads)).all()


def test_items_are_done_at_the_same_time():
    """Two items that wait for each other: both see each other only if two threads are at work."""
    fr.set_num_threads(2)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        here, met = np.zeros(16, np.int64), np.zeros(2, np.bool_)
        meet(_threads.team(1e9), 2, here, 10**6, met)
        if met.all():
            return
    pytest.fail("the helper never came")


def test_regions_within_regions():
    fr.set_num_threads(2)
    for _ in range(50):
        times, who = np.zeros((6, 9), np.int64), np.full((6, 9), -1)
        team = _threads.team(1e9)
        within(team, 6, team, times, who)
        assert (times == 1).all()


def test_helpers_sleep_when_there_is_nothing_to_do_and_wake_up():
    fr.set_num_threads(3)
    for _ in range(3):
        times = np.zeros(4, np.int64)
        mark(_threads.team(1e9), 4, times, times.copy())
        deadline = time.monotonic() + 60
        while not all(helper.asleep for helper in _threads._crew.helpers):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_another_number_of_threads_lets_the_helpers_go():
    fr.set_num_threads(3)
    _threads.team(1e9)
    old = _threads._crew.helpers
    fr.set_num_threads(2)
    _threads.team(1e9)
    for helper in old:
        helper.join(60)
    assert not any(helper.is_alive() for helper in old) and len(_threads._crew.helpers) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to a thread")
def test_an_interruption_leaves_everything_ready(network, parallel):
    """A signal that comes at any moment of a region: KeyboardInterrupt, and the next call has the same bits."""
    fr.set_num_threads(2)
    expected, caught, main = everything(network), 0, threading.main_thread().ident
    for k in range(20):
        timer = threading.Timer(0.0005 * k, signal.pthread_kill, [main, signal.SIGINT])
        try:
            timer.start()
            while timer.is_alive():
                everything(network)
            time.sleep(0.05)
        except KeyboardInterrupt:
            caught += 1
        timer.join()
        assert everything(network) == expected
    assert caught == 20


EXIT = """
import numpy as np
import fastrnn as fr

fr.set_num_threads(3)
fr.RNN(64, 64)(np.zeros((200, 64, 64), "f4"))
"""


def test_a_process_ends_while_its_helpers_wait_for_work():
    environment = os.environ | {"PYTHONPATH": str(Path(fr.__file__).parents[1])}
    for _ in range(3):
        done = subprocess.run([sys.executable, "-W", "error", "-c", EXIT], env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")


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
from fastrnn import _threads

_threads.SERIAL_WORK = 0.0
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
    """The helpers do not exist in the child: it makes its own."""
    everything(network)  # kernels are on disk then
    environment = os.environ | {"PYTHONPATH": str(Path(fr.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", "-c", FORK], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_the_lock_is_held():
    fr.set_num_threads(2)
    _threads.team(1e9)
    with _threads._lock:
        child = os.fork()
        if not child:
            signal.alarm(60)
            times = np.zeros(4, np.int64)
            try:
                mark(_threads.team(1e9), 4, times, times.copy())
            finally:
                os._exit(0 if (times == 1).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

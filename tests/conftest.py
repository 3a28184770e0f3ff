"""Where the tests find each other, Ctrl-C as Python has it, and threads that are all at work."""

import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastrnn as fr
from fastrnn import _threads
from fastrnn.kernels.cuda import ctc, losses, packing, plan, product, program, target, updates

sys.path.insert(0, str(Path(__file__).parent))

from device_arrays import Arrays  # noqa: E402
from simulated_driver import Driver  # noqa: E402

# A shell without job control starts what it puts in the background with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is simulated: device="cuda" works, on arrays that only pretend to be elsewhere. Sets how launches are run."""
    settings = {"order": "fifo", "seed": 0}
    driver = Driver(settings)
    monkeypatch.setattr(target, "require", lambda precision: None)
    monkeypatch.setattr(target, "arrays", Arrays)
    monkeypatch.setattr(target, "capability", lambda: (9, 0))
    monkeypatch.setattr(target, "stream", lambda: 1)
    monkeypatch.setattr(Arrays, "cuda", SimpleNamespace(driver=driver, runtime=driver))
    monkeypatch.setattr(target, "_function", driver.load)
    monkeypatch.setattr(target, "_thread", threading.local())
    monkeypatch.setattr(program.Repeated, "NOTED", 0)  # all that is tested there is tested as it is noted
    monkeypatch.setattr(target, "free_memory", lambda: 10**8)
    monkeypatch.setattr(target, "kept_memory", lambda: 0)
    monkeypatch.setattr(product, "SIDE", 4)  # small rectangles and blocks, for small matrices
    monkeypatch.setattr(product, "SHARES", {4: (2,), 8: (2,)})
    for module in (ctc, losses, packing, updates):
        monkeypatch.setattr(module, "THREADS", 8)
    monkeypatch.setattr(plan, "_plan", plan._plan.__wrapped__)  # tests change what a plan is made from
    return settings.update


@pytest.fixture
def at_work(monkeypatch):
    """Sets the number of threads, which then take part in all work, however little: a helper is awake when a kernel begins."""
    before, team = fr.get_num_threads(), _threads.team

    def awake(operations):
        found = team(operations)
        deadline = time.monotonic() + 60
        while _threads.size(found) > 1 and all(helper.asleep for helper in _threads._crew.helpers):
            _threads._crew.wake()
            time.sleep(0)
            assert time.monotonic() < deadline
        return found

    monkeypatch.setattr(_threads, "SERIAL_WORK", 0.0)
    monkeypatch.setattr(_threads, "team", awake)
    yield fr.set_num_threads
    fr.set_num_threads(before)

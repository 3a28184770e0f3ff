"""Where the tests find each other, Ctrl-C as Python has it, and threads that are all at work."""

import signal
import sys
import time
from pathlib import Path

import pytest

import fastrnn as fr
from fastrnn import _threads

sys.path.insert(0, str(Path(__file__).parent))

# A shell without job control starts what it puts in the background with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


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

"""The threads that kernels share their work with.

Helpers are Python threads that stay in compiled code (`_team.serve`) while there is work, without the interpreter lock; after a
millisecond without any they sleep. There is no second runtime: processes may fork (the team is made anew in the child), any number of
Python threads may call in (one has the helpers, the others work alone). Which thread does what never changes a result.
"""

import atexit
import os
import threading
from contextlib import suppress

import numpy as np

from . import _check, _team
from ._jit import JIT_DISABLED

SERIAL_WORK = 1e6  # operations below which a second thread costs more than it saves
PATIENCE = 100_000  # looks for work before a helper sleeps, 10 to 40 ns each

_lock = threading.Lock()
_threads: int | None = None
_crew: "_Crew | None" = None


def get_num_threads() -> int:
    """Threads that kernels use: as many as this process may run on, unless `set_num_threads` said otherwise."""
    if _threads is not None:
        return _threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_num_threads(n: int) -> None:
    """Use `n` threads, at least 1. Results do not depend on it.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.set_num_threads(1)
    >>> fr.get_num_threads()
    1
    """
    global _threads
    n = _check.integer("n", n, minimum=1)
    with _lock:
        _threads = n


def _words(threads: int) -> np.ndarray:
    words = np.zeros(_team.words(threads), np.int64)
    words[_team.THREADS] = threads
    return words


ALONE = _words(1)


def team(operations: float) -> np.ndarray:
    """Who a kernel with so many operations is to be run by: the `team` of `_team.parallel`."""
    if operations < SERIAL_WORK or get_num_threads() == 1 or JIT_DISABLED:
        return ALONE
    crew = _crew if _crew is not None and _crew.threads == get_num_threads() else _engage()
    crew.wake()
    return crew.team


def size(team: np.ndarray) -> int:
    """How many threads' working memory a team needs."""
    return int(team[_team.THREADS])


def _engage() -> "_Crew":
    """A crew of the size that is asked for, in the place of the one there was."""
    global _crew
    with _lock:
        if _crew is None or _crew.threads != get_num_threads():
            if _crew is not None:
                _crew.retire()
            _crew = _Crew(get_num_threads())
        return _crew


class _Crew:
    """A team and its helpers."""

    def __init__(self, threads: int):
        self.threads, self.team = threads, _words(threads)
        self.helpers = [_Helper(self.team, who) for who in range(1, threads)]

    def wake(self) -> None:
        for helper in self.helpers:
            if helper.asleep:
                helper.wake()

    def retire(self) -> None:
        """Let the helpers end; those inside a region finish it."""
        self.team[_team.RETIRED] = 1
        for helper in self.helpers:
            helper.wake()


class _Helper(threading.Thread):
    def __init__(self, team: np.ndarray, who: int):
        super().__init__(name=f"fastrnn-{who}", daemon=True)
        self.team, self.who, self.asleep, self.bed = team, who, False, threading.Lock()
        self.bed.acquire()
        self.start()

    def run(self) -> None:
        while not _team.serve(self.team, self.who, PATIENCE):
            self.asleep = True
            self.bed.acquire()
            self.asleep = False

    def wake(self) -> None:
        with suppress(RuntimeError):  # awake already
            self.bed.release()


@atexit.register
def _dismiss() -> None:
    """Helpers must have left compiled code before it goes."""
    if _crew is not None:
        _crew.retire()
        for helper in _crew.helpers:
            helper.join(1.0)


def _forget() -> None:
    """In a forked child: the parent's helpers do not exist here, and its lock may be held by one of its threads."""
    global _crew, _lock
    _crew, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""How work items reach the threads: serial kernels without the interpreter lock, on a small pool of Python threads.

A region costs 25-60 microseconds, OpenMP's 3. In return there is no second runtime: processes may fork (the pool is made anew in
the child), any number of Python threads may call in, and no layer aborts. Which thread runs an item never changes a result.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from . import _check

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_threads: int | None = None
_helping = threading.local()  # of a helper: the `region` it works for
MOVED_WORK = 2e5  # numbers moved or added below which waking a second thread costs more than it saves
LOOK_UP = 0.05  # seconds: a wait without end would miss a signal that came just before it


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
    global _threads, _pool
    n = _check.integer("n", n, minimum=1)
    with _lock:
        _threads, old, _pool = n, _pool, None
    if old is not None:
        old.shutdown(wait=False)


def run(tasks: Sequence[Callable[[], None]]) -> None:
    """Call every task once, on as many threads as there are; return when all are done, raise what one of them raised.

    Ctrl-C, too, is raised when no helper runs any more, as what they write to is the caller's; nothing new is begun then.
    """
    helpers = min(get_num_threads(), len(tasks)) - 1
    if helpers <= 0:
        for task in tasks:
            task()
        return
    region, failure = _Region(tasks), None
    while True:
        try:
            if failure is None:
                _submit(region.help, helpers)
                region.drain()
            region.join()
            break
        except BaseException as error:  # of a task in this thread; or an interruption, which can come at any line
            failure = error
            region.give_up()
    for error in (failure, *region.errors):
        if error is not None:
            raise error


def over_members(function: Callable[..., None], E: int, work: float, *arguments) -> None:
    """``function(first, last, *arguments)`` for members [0, E), in as many pieces as are worth a thread; `work`: numbers moved for one."""
    if E * work < MOVED_WORK:
        function(0, E, *arguments)
        return
    parts = min(E, 2 * get_num_threads())
    run([partial(function, E * k // parts, E * (k + 1) // parts, *arguments) for k in range(parts)])


class _Region:
    """Tasks that the calling thread and its helpers take one by one.

    Threads meet in lists and queues only, each call of which is one step for all of them: KeyboardInterrupt inside a lock that is
    written in Python (a condition's, a future's) could leave it taken.
    """

    def __init__(self, tasks):
        self.queue, self.given_up = deque(tasks), False
        self.begun, self.ended, self.errors, self.news = [], [], [], SimpleQueue()  # of helpers

    def drain(self) -> None:
        while True:
            try:
                task = self.queue.popleft()
            except IndexError:
                return
            task()

    def help(self) -> None:
        self.begun.append(True)
        _helping.region = self
        try:
            self.drain()
        except BaseException as error:
            self.errors.append(error)
        finally:
            _helping.region = None
            self.ended.append(True)
            self.news.put(True)

    def join(self) -> None:
        """Return when no helper runs. One that has not begun yet will find nothing to do."""
        while len(self.ended) < len(self.begun):
            with suppress(Empty):
                self.news.get(timeout=LOOK_UP)

    def give_up(self) -> None:
        self.given_up = True
        self.queue.clear()


def take(queue: SimpleQueue):
    """What comes next in `queue`; but a helper does not wait for it once its region has been given up."""
    region = getattr(_helping, "region", None)
    while region is None or not region.given_up:
        with suppress(Empty):
            return queue.get(timeout=LOOK_UP)
    raise InterruptedError("the region was given up")


def _submit(help: Callable[[], None], helpers: int) -> None:
    """Start `helpers` helpers. A pool shut down between two lines by another thread's `set_num_threads` is replaced."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, get_num_threads() - 1), thread_name_prefix="fastrnn")
        for _ in range(helpers):
            _pool.submit(help)


def _forget_pool() -> None:
    """In a forked child: the parent's threads do not exist here, and its lock may be held by one of them."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

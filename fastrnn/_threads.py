"""How work items reach the threads: serial kernels without the interpreter lock, on a small pool of Python threads.

A region costs 25-60 microseconds, OpenMP's 3. In return there is no second runtime: processes may fork (the pool is made anew in
the child), any number of Python threads may call in, and no layer aborts. Which thread runs an item never changes a result.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from . import _check

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_threads: int | None = None


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
    """Call every task once, on as many threads as there are; return when all are done, raise what one of them raised."""
    helpers = min(get_num_threads(), len(tasks)) - 1
    if helpers <= 0:
        for task in tasks:
            task()
        return
    queue = deque(tasks)

    def drain():
        while True:
            try:
                task = queue.popleft()
            except IndexError:
                return
            task()

    futures = []
    try:
        _submit(drain, helpers, futures)
        drain()
    finally:
        queue.clear()  # after an error or an interruption nothing new is begun
        _join(futures)
    for future in futures:
        if not future.cancelled():
            future.result()  # raises what its tasks raised


def _submit(drain, helpers: int, futures: list) -> None:
    """Start `helpers` drains. A pool shut down between two lines by another thread's `set_num_threads` is replaced."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, get_num_threads() - 1), thread_name_prefix="fastrnn")
        for _ in range(helpers):
            futures.append(_pool.submit(drain))


def _join(futures: list) -> None:
    """Return when no helper runs any more: what they write to is the caller's. An interruption (Ctrl-C) meanwhile is raised afterwards."""
    interruption = None
    while True:
        try:
            wait([future for future in futures if not future.cancel()])
            break
        except KeyboardInterrupt as error:
            interruption = error
    if interruption is not None:
        raise interruption


def _forget_pool() -> None:
    """In a forked child: the parent's threads do not exist here, and its lock may be held by one of them."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

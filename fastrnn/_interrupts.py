"""Ctrl-C at a good moment: never in the middle of an update."""

import contextlib
import signal
import threading


class Shield:
    """Defers the interrupt signal while it is entered; the signal's own handler runs on leaving.

    Without it, KeyboardInterrupt can come between any two bytecodes: after the weights have moved and before the
    optimizer's state has, say.

    Examples
    --------
    >>> from fastrnn._interrupts import Shield
    >>> shield = Shield()
    >>> with shield.installed():
    ...     with shield:
    ...         pass  # an interrupt that comes here is raised when this block ends
    """

    def __init__(self):
        self._closed = False
        self._pending = None
        self._previous = None

    @contextlib.contextmanager
    def installed(self):
        """Take the signal for the length of the block; outside the main thread, which alone has signals, do nothing."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            yield
            return
        self._previous = handler
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    def _handle(self, number, frame) -> None:
        if self._closed:
            self._pending = (number, frame)
        else:
            self._previous(number, frame)

    def __enter__(self) -> None:
        self._closed = True

    def __exit__(self, kind, error, trace) -> None:
        self._closed = False
        pending, self._pending = self._pending, None
        if pending is not None and kind is None:  # an error in the block says more than the interrupt
            self._previous(*pending)

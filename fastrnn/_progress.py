"""Progress on the terminal: tqdm's bar where there is tqdm, plain lines where not, nothing where nobody looks."""

import math
import sys
import time


class Progress:
    """A count towards a total, shown on the standard error stream with a few figures and the time left.

    Parameters
    ----------
    total : int or None
        How many units there are; None where it is not known (then no time left is shown).
    label : str
    show : bool, optional
        By default only where the stream is a terminal.
    unit : str
    done : int
        How many are done already (a resumed run); they count for the fraction, not for the speed.
    stream, clock
        Where to write, and what tells the seconds; for tests.

    Examples
    --------
    >>> from fastrnn._progress import Progress
    >>> with Progress(3, "seeds", show=False) as progress:
    ...     for seed in range(3):
    ...         progress.advance(loss=0.5)
    """

    # A screen needs no more; and formatting at every step would cost more than a small network's step.
    _BAR_SECONDS = 0.1
    _LINE_SECONDS = 5.0

    def __init__(
        self,
        total: int | None,
        label: str,
        *,
        show: bool | None = None,
        unit: str = "it",
        done: int = 0,
        stream=None,
        clock=time.monotonic,
    ):
        stream = sys.stderr if stream is None else stream
        if show is None:
            show = stream is not None and stream.isatty()
        self._shown = bool(show) and stream is not None
        self._total, self._label, self._clock, self._stream, self._unit = total, label, clock, stream, unit
        self._first, self._done, self._pending = done, done, 0
        self._bar, self._figures = None, {}
        self._start = self._last = clock()
        self._interval = self._LINE_SECONDS
        tqdm = _tqdm() if self._shown else None
        if tqdm is not None:
            self._interval = self._BAR_SECONDS
            self._bar = tqdm(
                total=total,
                desc=label,
                unit=unit,
                initial=done,
                file=stream,
                mininterval=0,
                miniters=1,
                dynamic_ncols=True,
            )

    def advance(self, count: int = 1, **figures: float) -> None:
        """Count `count` more; `figures` are shown as ``name=value`` until the next call that gives some."""
        self._done += count
        if not self._shown:
            return
        self._pending += count
        if figures:
            self._figures = figures
        now = self._clock()
        if now - self._last >= self._interval:
            self._last = now
            self._draw(now)

    def close(self) -> None:
        """Show the last state, and end the bar."""
        if self._shown:
            if self._pending:
                self._draw(self._clock())
            if self._bar is not None:
                self._bar.close()
            self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _draw(self, now: float) -> None:
        pending, self._pending = self._pending, 0
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self._figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(pending)
            return
        elapsed, counted = now - self._start, self._done - self._first
        parts = [
            f"{self._label}: {self._done}" + (f"/{self._total}" if self._total else "") + f" {self._unit}",
            figures,
        ]
        if self._total and counted:
            parts.append(f"{clock_time(elapsed / counted * max(self._total - self._done, 0))} left")
        else:
            parts.append(clock_time(elapsed))
        self._stream.write(", ".join(filter(None, parts)) + "\n")
        self._stream.flush()


def clock_time(seconds: float) -> str:
    """`seconds` as m:ss or h:mm:ss.

    Examples
    --------
    >>> from fastrnn._progress import clock_time
    >>> clock_time(59.2), clock_time(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tqdm():
    """tqdm's bar class, or None."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm

"""Progress on a terminal, a pipe, and nowhere; and interrupts at a good moment."""

import io
import signal
import sys
import threading

import pytest

from fastrnn import _progress
from fastrnn._interrupts import Shield
from fastrnn._progress import Progress, clock_time


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)


def lines(total=10, done=0, steps=10, **options):
    """What is written when a second passes at each of `steps` steps."""
    clock, stream = Clock(), io.StringIO()
    with Progress(total, "fit", stream=stream, clock=clock, done=done, **options) as progress:
        for k in range(steps):
            clock.now += 1.0
            progress.advance(loss=1.0 / (k + 1))
    return stream.getvalue().splitlines()


def test_plain_lines_have_figures_and_time_left(without_tqdm):
    assert lines(show=True, unit="steps") == [
        "fit: 5/10 steps, loss 0.2, 0:05 left",
        "fit: 10/10 steps, loss 0.1, 0:00 left",
    ]


def test_done_before_counts_for_the_fraction_and_not_for_the_speed(without_tqdm):
    assert lines(total=100, done=80, steps=5, show=True)[0] == "fit: 85/100 it, loss 0.2, 0:15 left"


def test_without_a_total_the_time_gone_is_shown(without_tqdm):
    assert lines(total=None, show=True)[0] == "fit: 5 it, loss 0.2, 0:05"


def test_a_run_shorter_than_a_line_still_shows_its_end(without_tqdm):
    assert lines(steps=2, show=True) == ["fit: 2/10 it, loss 0.5, 0:08 left"]


def test_nothing_is_written_unless_asked_or_on_a_terminal(without_tqdm):
    assert lines() == []
    assert lines(show=False) == []
    stream = Terminal()
    with Progress(1, "fit", stream=stream) as progress:
        progress.advance()
    assert "fit: 1/1" in stream.getvalue()


def test_no_standard_error_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(1, "fit", show=True) as progress:
        progress.advance(loss=1.0)


def test_with_tqdm_there_is_a_bar():
    pytest.importorskip("tqdm")
    assert _progress._tqdm() is not None
    text = "\n".join(lines(show=True))
    assert "fit: 100%" in text and "10/10" in text and "loss 0.1" in text


def test_clock_time_rounds_up():
    assert [clock_time(s) for s in (0, 0.2, 60, 3599.5, 36_000)] == ["0:00", "0:01", "1:00", "1:00:00", "10:00:00"]


def test_the_shield_defers_an_interrupt_to_its_end():
    shield, seen = Shield(), []
    with pytest.raises(KeyboardInterrupt):
        with shield.installed():
            with shield:
                signal.raise_signal(signal.SIGINT)
                seen.append("inside")
            seen.append("after")
    assert seen == ["inside"]


def test_outside_the_shield_an_interrupt_comes_at_once():
    shield, seen = Shield(), []
    with pytest.raises(KeyboardInterrupt):
        with shield.installed():
            signal.raise_signal(signal.SIGINT)
            seen.append("after")
    assert seen == []


def test_an_error_under_the_shield_comes_before_the_interrupt():
    shield = Shield()
    with shield.installed():
        with pytest.raises(ZeroDivisionError):
            with shield:
                signal.raise_signal(signal.SIGINT)
                raise ZeroDivisionError
        with shield:
            pass  # and the interrupt is not kept for later


def test_the_users_handler_is_called_and_put_back():
    calls = []

    def handler(number, frame):
        calls.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        shield = Shield()
        with shield.installed():
            with shield:
                signal.raise_signal(signal.SIGINT)
                assert calls == []
            assert calls == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with shield.installed():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    shield, result = Shield(), []

    def work():
        with shield.installed(), shield:
            result.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [signal.getsignal(signal.SIGINT)]

"""Back-propagation through time, full and truncated: how far back, how often, and what is carried on.

BPTT(h; h') of Williams & Peng (1990): every h' steps (`stride`) the errors of the last h' steps are propagated back through the
last h steps (`window`), counted from the present. With the weights fixed, the sum over all presents is the truncated gradient; with
window >= T it is the full one.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import _check, _device
from ._feedback import Drawn
from ._params import Params
from .data.batches import Batch


class Ahead(NamedTuple):
    """The way forward of one batch: its loss, dL/d(prediction), and what the way back needs."""

    loss: float
    dprediction: np.ndarray
    weight: float
    prediction: np.ndarray
    trace: object
    state: tuple


class Pass(NamedTuple):
    """What one update of the weights is made from.

    Attributes
    ----------
    loss : float
        Mean over the targets of this pass.
    grads : Params
        Of that mean.
    state : tuple
        The state of every recurrent layer after the last step read so far.
    prediction : ndarray
    weight : float
        How many targets (or the sum of their weights) the mean is over.
    clipped : tuple of Clipped
        What clipping inside the recursion cut off, one entry a recurrent layer and stretch of time.
    """

    loss: float
    grads: Params
    state: tuple
    prediction: np.ndarray
    weight: float
    clipped: tuple = ()


@dataclass(frozen=True)
class Full:
    """Back through every step.

    Parameters
    ----------
    memory : int, optional
        Bytes that each recurrent layer's tape may take; beyond, it is computed again from states kept at intervals, with the same bits.
    clip : float, optional
        Bound on every entry of dL/da_t inside the recursion.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.Full(memory=10**9)
    Full(memory=1000000000, clip=None)
    """

    memory: int | None = None
    clip: float | None = None

    def __post_init__(self):
        if self.memory is not None:
            _check.integer("memory", self.memory, minimum=1)
        if self.clip is not None:
            _check.real("clip", self.clip, positive=True)

    def passes(self, model, batch, state, rng, entering=None):
        """One pass over the whole batch; `entering` is what a forcing came to."""
        ahead = self.forward(model, batch, state, rng, entering)
        grads = model.params.like()
        _, clipped = model._backward(ahead.trace, ahead.dprediction, None, grads, clip=self.clip)
        yield Pass(ahead.loss, grads, ahead.state, ahead.prediction, ahead.weight, clipped)

    def forward(self, model, batch, state, rng, entering=None) -> Ahead:
        """Through the model and its loss."""
        if isinstance(entering, Drawn):
            if self.memory is not None:
                raise ValueError(f"memory: None is required where outputs are fed back; got {self.memory}")
            prediction, trace, state = model._closed(batch.x, batch.lengths, state, rng, entering)
        else:
            prediction, trace, state = model._forward(batch.x, batch.lengths, state, rng, memory=self.memory, pull=entering)
        return Ahead(*model._measure(prediction, batch), prediction, trace, state)


@dataclass(frozen=True)
class Truncated:
    """Back through the last `window` steps, every `stride` steps: BPTT(window; stride) of Williams & Peng (1990).

    With readout "every" there is a pass, hence an update, every `stride` steps. Where a model reads a sequence out once, at its end,
    there is one pass, from each sequence's end back through its last `window` steps. A window ends where its batch begins: a state
    carried over from the batch before (``fit(carry_state=True)``) counts as given.

    Parameters
    ----------
    window : int
        Steps back from the present.
    stride : int, optional
        Steps from one present to the next, at most `window`; `window` by default.
    clip : float, optional
        Bound on every entry of dL/da_t inside the recursion.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.Truncated(50, stride=25)
    Truncated(window=50, stride=25, clip=None)
    """

    window: int
    stride: int | None = None
    clip: float | None = None

    def __post_init__(self):
        _check.integer("window", self.window, minimum=1)
        if self.stride is not None:
            _check.integer("stride", self.stride, minimum=1, maximum=self.window)
        object.__setattr__(self, "stride", self.stride or self.window)
        if self.clip is not None:
            _check.real("clip", self.clip, positive=True)

    def passes(self, model, batch, state, rng, entering=None):
        """A pass a stride where every step is read out; else one pass from the sequences' ends."""
        model._check_causal()
        if entering is not None:
            raise ValueError("bptt: Full() is required with forcing; got Truncated")
        if model.readout == "every":
            yield from self._by_stride(model, batch, state, rng)
        else:
            yield self._from_the_end(model, batch, state, rng)

    def _by_stride(self, model, batch, state, rng):
        """Chunks of `stride` steps, each with a trace of its own; as many are remembered as the window reaches into."""
        T, recent, masks = batch.x.shape[_time(batch)], deque(maxlen=1 + -(-self.window // self.stride)), None
        for begin in range(0, T, self.stride):
            end = min(begin + self.stride, T)
            chunk = _between(batch, begin, end)
            prediction, trace, state = model._forward(chunk.x, chunk.lengths, state, rng, masks=masks)
            masks = trace.masks
            recent.append((trace, end - begin))
            loss, dy, weight = model._measure(prediction, chunk)
            grads, dstate, left, cut = model.params.like(), None, self.window, ()
            for trace, steps in reversed(recent):
                if left <= 0:
                    break
                dstate, clipped = model._backward(trace, dy, dstate, grads, clip=self.clip, begin=max(steps - left, 0))
                dy, left, cut = None, left - steps, cut + clipped
            yield Pass(loss, grads, state, prediction, weight, cut)

    def _from_the_end(self, model, batch, state, rng):
        """Read everything, then the last `window` steps of each sequence again, with a tape."""
        time, lengths = _time(batch), batch.lengths
        T, B = batch.x.shape[time : time + 2]
        before = np.maximum(lengths - self.window, 0)
        masks = model._draw_masks(B, rng)
        head, middle = model._read(batch.x, before, state, rng, masks)
        steps = int((lengths - before).max(initial=0))
        rows = np.minimum(before[..., None, :] + np.arange(steps)[:, None], max(T - 1, 0))
        places = _device.of(batch.x).put(rows.reshape(rows.shape + (1,) * (batch.x.ndim - rows.ndim)))
        tail = np.take_along_axis(batch.x, places, axis=time)
        prediction, trace, state = model._forward(tail, lengths - before, middle, rng, masks=masks, head=(head, before))
        loss, dy, weight = model._measure(prediction, batch)
        grads = model.params.like()
        _, clipped = model._backward(trace, dy, None, grads, clip=self.clip)
        return Pass(loss, grads, state, prediction, weight, clipped)


def _time(batch: Batch) -> int:
    """The axis of time: the first, or the second in a batch of the members of an ensemble, whose lengths have their axis too."""
    return batch.lengths.ndim - 1


def _between(batch: Batch, begin: int, end: int) -> Batch:
    """Steps [begin, end) of a batch with a target at every step."""
    steps = (slice(None),) * _time(batch) + (slice(begin, end),)
    weights = batch.weights[steps] if np.ndim(batch.weights) == len(steps) + 1 else batch.weights
    return Batch(batch.x[steps], batch.target[steps], np.clip(batch.lengths - begin, 0, end - begin), weights)

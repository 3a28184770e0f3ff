"""What enters the network at a step: the teacher's value, its own output of the step before, or a state nearer to the teacher's.

x holds the teacher's values: x[t] is what the network should have put out at t - 1. What is fed back replaces the last O columns of
x[t], O being the size of the output, or the symbol x[t] of a model that begins with an `Embedding`. x[0] always enters as it is.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from . import _check

FEEDS = ("output", "probabilities", "sample", "argmax")


# Probabilities that change with the updates -------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearDecay:
    """p(i) = max(end, start - (start - end) i / updates), i counting updates [Bengio et al. 2015, section 2.4].

    Examples
    --------
    >>> from fastrnn.forcing import LinearDecay
    >>> LinearDecay(1.0, 0.0, updates=100)(25)
    0.75
    """

    start: float
    end: float
    updates: int

    def __post_init__(self):
        for name in ("start", "end"):
            _check.real(name, getattr(self, name), 0.0, 1.0)
        _check.integer("updates", self.updates, minimum=1)

    def __call__(self, update: int) -> float:
        return self.start + (self.end - self.start) * min(update / self.updates, 1.0)


@dataclass(frozen=True)
class ExponentialDecay:
    """p(i) = rate**i, rate < 1 [Bengio et al. 2015, section 2.4].

    Examples
    --------
    >>> from fastrnn.forcing import ExponentialDecay
    >>> ExponentialDecay(0.5)(2)
    0.25
    """

    rate: float

    def __post_init__(self):
        _check.fraction("rate", self.rate)

    def __call__(self, update: int) -> float:
        return self.rate**update


@dataclass(frozen=True)
class InverseSigmoidDecay:
    """p(i) = k / (k + exp(i / k)), k >= 1 [Bengio et al. 2015, section 2.4].

    Examples
    --------
    >>> from fastrnn.forcing import InverseSigmoidDecay
    >>> InverseSigmoidDecay(1.0)(0)
    0.5
    """

    k: float

    def __post_init__(self):
        _check.real("k", self.k, minimum=1.0)

    def __call__(self, update: int) -> float:
        return self.k / (self.k + math.exp(min(update / self.k, 700.0)))


# What enters --------------------------------------------------------------------------------------------------------


class Forcing(ABC):
    """Decides at every step of every sequence whether the teacher's value enters or the network's own output.

    `feed` says what "own" is: the "output" itself (real-valued outputs; the gradient passes), its softmax "probabilities" (for an
    Embedding, the mean of its rows; the gradient passes), or a symbol, "sample" or "argmax" (at which the gradient stops). None, the
    default, is "output" for mean squared error and "sample" for cross-entropy.
    """

    feed: str | None = None

    def _check_feed(self) -> None:
        if self.feed is not None:
            _check.choice("feed", self.feed, FEEDS)

    @abstractmethod
    def own(self, T: int, B: int, key: int, update: int) -> np.ndarray:
        """(T, B) bool, True where the network's own output enters. `key` names the draws, `update` counts from 0."""


@dataclass(frozen=True)
class TeacherForcing(Forcing):
    """The teacher's value at every step (Goodfellow et al. 2016, section 10.2.1): the model as it is without any forcing.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.TeacherForcing().own(3, 2, key=0, update=0).any()
    np.False_
    """

    def own(self, T, B, key, update):
        return np.zeros((T, B), bool)


@dataclass(frozen=True)
class FreeRunning(Forcing):
    """The network's own output at every step but the first.

    Parameters
    ----------
    feed : {"output", "probabilities", "sample", "argmax"}, optional
        See `Forcing`.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.FreeRunning().own(3, 1, key=0, update=0).ravel().tolist()
    [False, True, True]
    """

    feed: str | None = None

    def __post_init__(self):
        self._check_feed()

    def own(self, T, B, key, update):
        return _but_first(np.ones((T, B), bool))


@dataclass(frozen=True)
class ScheduledSampling(Forcing):
    """The teacher's value with a probability, else the network's own: one coin a step and sequence [Bengio et al. 2015].

    Parameters
    ----------
    probability : float in [0, 1], or a function of the number of the update
        Of the teacher: `LinearDecay`, `ExponentialDecay` and `InverseSigmoidDecay` are those of the paper.
    feed : {"output", "probabilities", "sample", "argmax"}, optional
        See `Forcing`.

    Notes
    -----
    The coin of step t of sequence b depends on the key, t and b alone, not on what else is in the batch.

    Examples
    --------
    >>> import fastrnn as fr
    >>> coins = fr.ScheduledSampling(0.75).own(1000, 10, key=1, update=0)
    >>> bool(abs(1 - coins[1:].mean() - 0.75) < 0.02)
    True
    """

    probability: object
    feed: str | None = None

    def __post_init__(self):
        if not callable(self.probability):
            _check.real("probability", self.probability, 0.0, 1.0)
        self._check_feed()

    def own(self, T, B, key, update):
        p = self.probability(update) if callable(self.probability) else self.probability
        return _but_first(uniforms(key, T, B) >= _check.real("probability", p, 0.0, 1.0))


@dataclass(frozen=True)
class SparseForcing(Forcing):
    """The teacher's value at steps 0, every, 2 every, ..., else the network's own [Mikhaeil et al. 2022].

    Parameters
    ----------
    every : int
        Against chaos about ln 2 / λ steps, λ being the largest Lyapunov exponent per step.
    feed : {"output", "probabilities", "sample", "argmax"}, optional
        See `Forcing`.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.SparseForcing(2).own(5, 1, key=0, update=0).ravel().tolist()
    [False, True, False, True, False]
    """

    every: int
    feed: str | None = None

    def __post_init__(self):
        _check.integer("every", self.every, minimum=1)
        self._check_feed()

    def own(self, T, B, key, update):
        return np.tile(np.arange(T)[:, None] % self.every != 0, (1, B))


def _but_first(own: np.ndarray) -> np.ndarray:
    own[:1] = False
    return own


def uniforms(key: int, T: int, B: int) -> np.ndarray:
    """(T, B) numbers, uniform in [0, 1): functions of key, step and sequence alone (the finalizer of SplitMix64 over a counter)."""
    word = np.uint64
    with np.errstate(over="ignore"):
        z = _mixed(np.full((1, 1), key, word) + word(0x9E3779B97F4A7C15) * (np.arange(B, dtype=word) + word(1)))
        z = _mixed(z + word(0xD1B54A32D192ED03) * (np.arange(T, dtype=word)[:, None] + word(1)))
    return (z >> word(11)) * 2.0**-53


def _mixed(z: np.ndarray) -> np.ndarray:
    word = np.uint64
    z = (z ^ (z >> word(30))) * word(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> word(27))) * word(0x94D049BB133111EB)
    return z ^ (z >> word(31))


@dataclass(frozen=True)
class GeneralizedForcing:
    """Generalized teacher forcing [Hess et al. 2023]: after every step the state is pulled towards the teacher's, (1 - alpha) h + alpha z.

    For networks with real-valued outputs o = W h + b, read out by one `Linear` from the last recurrent layer. z is the smallest state that
    puts out the target, W⁺ (target - b), and counts as given. The gradient carries the factor 1 - alpha, so that it stays bounded
    where the dynamics are chaotic: alpha = 1 - 1 / σ makes up for Jacobians of norm σ. alpha = 0 is the model as it is.

    Parameters
    ----------
    alpha : float in [0, 1], or "adaptive"
        "adaptive" takes max(0, 1 - 1 / σ) anew at every update, σ being the geometric mean of the spectral norms of the state's Jacobians
        at up to `points` states of the forced batch (one recurrent layer only).
    points : int
        32 by default.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.GeneralizedForcing(0.2)
    GeneralizedForcing(alpha=0.2, points=32)
    """

    alpha: float | str
    points: int = 32

    def __post_init__(self):
        if isinstance(self.alpha, str):
            _check.choice("alpha", self.alpha, ("adaptive",))
        else:
            _check.real("alpha", self.alpha, 0.0, 1.0)
        _check.integer("points", self.points, minimum=1)

"""Tasks made of random sequences, with what is known about them: the loss that can be had without memory.

A task has `sample(n, rng)`, which draws n sequences, `chance`, `solved`, and what a model needs to know to fit it.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .. import _check as check


class Task(ABC):
    """What every task offers.

    Attributes
    ----------
    input_size, output_size : int
    loss : str
        Name of the loss the chance level is measured in.
    readout : {"last", "every"}
        Whether the target belongs to the last valid step or to every step.
    chance : float
        The least loss of a predictor that ignores its input.
    """

    input_size: int
    output_size: int
    loss: str
    readout: str

    @property
    @abstractmethod
    def chance(self) -> float: ...

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw `n` sequences: x (T, n, input_size) float32, target, lengths (n,) int64. Padding is zero."""

    @abstractmethod
    def solved(self, prediction, target) -> float:
        """The fraction of sequences a prediction gets right by the paper's criterion."""


@dataclass(frozen=True)
class Adding(Task):
    """The adding problem: the sum of the two values that are marked.

    An input is a pair (value, marker). The target, float32 (n,), belongs to the last step.

    ============== ============= =================================== ================ ===================== =========
    variant        values        marked pairs                        target           chance (mean squares) tolerance
    ============== ============= =================================== ================ ===================== =========
    "uniform01"    U[0, 1]       one in each half                    X1 + X2          1/6                   0.08
    "symmetric"    U[-1, 1]      one in each half                    X1 + X2          2/3                   0.16
    "hochreiter"   U[-1, 1]      one in the first 10, one in the     .5 + (X1+X2)/4   (2 - p)/48            0.04
                                 first T/2 - 1 not yet marked
    ============== ============= =================================== ================ ===================== =========

    "hochreiter" is the original: lengths are uniform on T ... T + T/10, unmarked first and last pairs carry the marker
    -1, and the value of the first pair is 0 where it is marked. That happens with probability p = .1 + .9/(T/2 - 1),
    which takes the chance level from 1/24 to (2 - p)/48. The others have a fixed length, as in Le et al. and Arjovsky
    et al. A sequence is right where the error is below the tolerance, the paper's .04 on the scale of its target.

    Parameters
    ----------
    length : int
        T, at least 2; at least 10 for "hochreiter".
    variant : {"uniform01", "symmetric", "hochreiter"}

    References
    ----------
    Hochreiter & Schmidhuber 1997, experiment 4; Le, Jaitly & Hinton 2015; Arjovsky, Shah & Bengio 2016.

    Examples
    --------
    >>> import numpy as np
    >>> task = Adding(100)
    >>> x, target, lengths = task.sample(3, np.random.default_rng(0))
    >>> x.shape, target.shape, round(task.chance, 4)
    ((100, 3, 2), (3,), 0.1667)
    """

    length: int
    variant: str = "uniform01"

    input_size = 2
    output_size = 1
    loss = "mean_squared_error"
    readout = "last"

    def __post_init__(self):
        check.choice("variant", self.variant, ("uniform01", "symmetric", "hochreiter"))
        check.integer("length", self.length, 10 if self.variant == "hochreiter" else 2)

    @property
    def chance(self) -> float:
        """The variance of the target: the error of predicting its mean."""
        if self.variant == "hochreiter":
            first_marked = 0.1 + 0.9 / (self.length // 2 - 1)
            return (2 - first_marked) / 48
        return 1 / 6 if self.variant == "uniform01" else 2 / 3

    @property
    def tolerance(self) -> float:
        """The error below which a sequence is right."""
        return {"uniform01": 0.08, "symmetric": 0.16, "hochreiter": 0.04}[self.variant]

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, rng = _arguments(n, rng)
        original, T, every = self.variant == "hochreiter", self.length, np.arange(n)
        lengths = rng.integers(T, T + T // 10, size=n, endpoint=True) if original else np.full(n, T, np.int64)
        values = rng.uniform(0 if self.variant == "uniform01" else -1, 1, size=(lengths.max(), n))
        if original:
            first = rng.integers(10, size=n)
            second = rng.integers(T // 2 - 1, size=n)
            second += second >= first  # counts the pairs not yet marked
            values[0, (first == 0) | (second == 0)] = 0
        else:
            first = rng.integers(T // 2, size=n)
            second = rng.integers(T // 2, T, size=n)
        x = np.zeros((*values.shape, 2), np.float32)
        x[:, :, 0] = np.where(_valid(lengths), values, 0)
        if original:
            x[0, :, 1] = x[lengths - 1, every, 1] = -1
        x[first, every, 1] = x[second, every, 1] = 1
        target = x[first, every, 0] + x[second, every, 0]
        return x, 0.5 + target / 4 if original else target, lengths

    def solved(self, prediction, target) -> float:
        """The fraction of sequences with an error below the tolerance; prediction and target (n,) or (n, 1)."""
        target = _flat("target", target, "n")
        prediction = _flat("prediction", prediction, len(target))
        return _fraction(np.abs(prediction - target) < self.tolerance)


@dataclass(frozen=True)
class Copy(Task):
    """The copying memory task: ten symbols, a pause, and the ten symbols again.

    Inputs are one-hot over ten symbols: 0-7 to be remembered, 8 blank, 9 "now". A sequence is ten symbols, delay - 1
    blanks, "now", ten blanks, T = delay + 20 steps; its targets, int64 (T, n) at every step, are delay + 10 blanks and
    the ten symbols. A predictor without memory knows the blanks and guesses the rest: the chance level is
    10·ln 8 / (delay + 20).

    Parameters
    ----------
    delay : int
        At least 1.

    References
    ----------
    Arjovsky, Shah & Bengio 2016, section 4.1 ("copying memory problem"), after Hochreiter & Schmidhuber 1997.

    Examples
    --------
    >>> import numpy as np
    >>> task = Copy(100)
    >>> x, target, lengths = task.sample(3, np.random.default_rng(0))
    >>> x.shape, target.shape, round(task.chance, 4)
    ((120, 3, 10), (120, 3), 0.1733)
    """

    delay: int

    input_size = 10
    output_size = 9
    loss = "cross_entropy"
    readout = "every"

    def __post_init__(self):
        check.integer("delay", self.delay, 1)

    @property
    def chance(self) -> float:
        return 10 * math.log(8) / (self.delay + 20)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, rng = _arguments(n, rng)
        T, blank, now = self.delay + 20, 8, 9
        memory = rng.integers(8, size=(10, n))
        symbols = np.full((T, n), blank)
        target = np.full((T, n), blank)
        symbols[:10], symbols[self.delay + 9] = memory, now
        target[-10:] = memory
        return _one_hot(symbols, 10), target, np.full(n, T, np.int64)

    def solved(self, prediction, target) -> float:
        """The fraction of sequences whose ten symbols are all recalled; prediction (T, n, 9) logits, target (T, n)."""
        target = check.integers("target", target, (self.delay + 20, "n"), 0, 8)
        prediction = check.array("prediction", prediction, (*target.shape, 9), np.float64)
        return _fraction(np.all(prediction[-10:].argmax(-1) == target[-10:], axis=0))


@dataclass(frozen=True)
class Lookahead(Task):
    """At every step, the sum of two coins: the one that came `ahead` steps before, and the one that will come as many after.

    An input is a fair coin, 0 or 1; beyond the ends there are zeros. The target, int64 (T, n), is x_(t-ahead) + x_(t+ahead), in 0, 1, 2.
    Whatever has not been seen of x is independent of what has, so that no predictor of less than `ahead` steps of foresight can do
    better than `best_accuracy`, nor can one that reads from the end back and has not seen as many steps before t. A network of both
    directions, or one that answers `ahead` steps late, can be right everywhere.

    Parameters
    ----------
    length : int
        T, at least 2 * ahead.
    ahead : int
        At least 1.

    Examples
    --------
    >>> import numpy as np
    >>> task = Lookahead(30, ahead=3)
    >>> x, target, lengths = task.sample(4, np.random.default_rng(0))
    >>> x.shape, target.shape, round(task.chance, 4)
    ((30, 4, 1), (30, 4), 0.9704)
    >>> task.best_accuracy(0), task.best_accuracy(2), task.best_accuracy(3)
    (0.55, 0.55, 1.0)
    """

    length: int
    ahead: int

    input_size = 1
    output_size = 3
    loss = "cross_entropy"
    readout = "every"

    def __post_init__(self):
        check.integer("ahead", self.ahead, 1)
        check.integer("length", self.length, 2 * self.ahead)

    @property
    def chance(self) -> float:
        """One coin counts at the first and at the last `ahead` steps, two between: ln 2 and 1.5 ln 2 a step."""
        return math.log(2) * (1.5 - self.ahead / self.length)

    def best_accuracy(self, foresight: int) -> float:
        """The largest expected share of right steps for a predictor that at step t has seen x up to step t + foresight.

        1 with enough of it; 1 - (T - ahead) / 2T without, as all but the last `ahead` targets hold a coin that is unknown.
        """
        if check.integer("foresight", foresight, 0) >= self.ahead:
            return 1.0
        return 1 - (self.length - self.ahead) / (2 * self.length)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, rng = _arguments(n, rng)
        coins = np.zeros((self.length + 2 * self.ahead, n), np.int64)
        coins[self.ahead : -self.ahead] = rng.integers(2, size=(self.length, n))
        target = coins[: self.length] + coins[2 * self.ahead :]
        x = coins[self.ahead : -self.ahead, :, None].astype(np.float32)
        return x, target, np.full(n, self.length, np.int64)

    def solved(self, prediction, target) -> float:
        """The fraction of sequences that are right at every step; prediction (T, n, 3) logits, target (T, n)."""
        target = check.integers("target", target, (self.length, "n"), 0, 2)
        prediction = check.array("prediction", prediction, (*target.shape, 3), np.float64)
        return _fraction(np.all(prediction.argmax(-1) == target, axis=0))


@dataclass(frozen=True)
class TemporalOrder(Task):
    """Two relevant symbols, far apart, in a stream of irrelevant ones: which came, and in which order?

    Inputs are one-hot over six symbols, A B c d e f. One of A, B stands at a step drawn from [.1 L, .2 L), another at
    one from [.5 L, .6 L), and one of c d e f everywhere else. The target, int64 (n,) after the last step, is the class
    AA, AB, BA or BB (0-3); a guess costs ln 4.

    Parameters
    ----------
    length : int or (int, int)
        L, at least 10; a pair draws it for every sequence, both ends included (the paper: 50 to 200).

    References
    ----------
    Pascanu, Mikolov & Bengio 2013, section 4.1.1, and their program, which rounds .1 L and .5 L down; after Hochreiter
    & Schmidhuber 1997, experiment 6a. They call a length solved when no error is left on 10 000 fresh sequences.

    Examples
    --------
    >>> import numpy as np
    >>> task = TemporalOrder((50, 200))
    >>> x, target, lengths = task.sample(1000, np.random.default_rng(0))
    >>> x.shape, int(lengths.min()), round(task.chance, 4)
    ((200, 1000, 6), 50, 1.3863)
    """

    length: int | tuple[int, int]

    input_size = 6
    output_size = 4
    loss = "cross_entropy"
    readout = "last"

    def __post_init__(self):
        _bounds(self.length, 10)

    @property
    def chance(self) -> float:
        return math.log(4)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, rng = _arguments(n, rng)
        every = np.arange(n)
        lengths = rng.integers(*_bounds(self.length, 10), size=n, endpoint=True)
        first = lengths // 10 + rng.integers(lengths // 10)
        second = lengths // 2 + rng.integers(lengths // 10)
        relevant = rng.integers(2, size=(2, n))
        symbols = rng.integers(2, 6, size=(lengths.max(), n))
        symbols[first, every], symbols[second, every] = relevant
        x = _one_hot(symbols, 6)
        x[~_valid(lengths)] = 0
        return x, 2 * relevant[0] + relevant[1], lengths

    def solved(self, prediction, target) -> float:
        """The fraction of sequences classified correctly; prediction (n, 4) logits, target (n,)."""
        return _classified(prediction, target, 4)


@dataclass(frozen=True)
class Needle(Task):
    """One key among distractors, at any step: which? "In 2009 I went to Nepal" and "I went to Nepal in 2009": in which year?

    Inputs are one-hot over eight symbols, A B C D e f g h. A step drawn uniformly from the sequence has one of A, B, C, D, all
    others one of e f g h. The target, int64 (n,) after the last step, is which of A B C D it was (0-3); a guess costs ln 4. The
    rule is the same wherever the key stands and however long the sequence is, which is what weights shared by all steps are for.

    Parameters
    ----------
    length : int or (int, int)
        At least 1; a pair draws it for every sequence, both ends included.

    References
    ----------
    The example is that of Goodfellow, Bengio & Courville 2016, chapter 10, introduction.

    Examples
    --------
    >>> import numpy as np
    >>> task = Needle((1, 20))
    >>> x, target, lengths = task.sample(1000, np.random.default_rng(0))
    >>> x.shape, int(lengths.min()), sorted(set(target.tolist())), round(task.chance, 4)
    ((20, 1000, 8), 1, [0, 1, 2, 3], 1.3863)
    """

    length: int | tuple[int, int]

    input_size = 8
    output_size = 4
    loss = "cross_entropy"
    readout = "last"

    def __post_init__(self):
        _bounds(self.length, 1)

    @property
    def chance(self) -> float:
        return math.log(4)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, rng = _arguments(n, rng)
        lengths = rng.integers(*_bounds(self.length, 1), size=n, endpoint=True)
        symbols = rng.integers(4, 8, size=(lengths.max(), n))
        key = rng.integers(4, size=n)
        symbols[rng.integers(lengths), np.arange(n)] = key
        x = _one_hot(symbols, 8)
        x[~_valid(lengths)] = 0
        return x, key, lengths

    def solved(self, prediction, target) -> float:
        """The fraction of sequences classified correctly; prediction (n, 4) logits, target (n,)."""
        return _classified(prediction, target, 4)


def _bounds(length, least: int) -> tuple[int, int]:
    """(shortest, longest) of a length that is a number or a pair."""
    if isinstance(length, (tuple, list)) and len(length) != 2:
        raise ValueError(f"length: an integer, or a pair (shortest, longest), is required; got {length!r}")
    shortest, longest = length if isinstance(length, (tuple, list)) else (length, length)
    shortest = check.integer("length", shortest, least)
    return shortest, check.integer("length (the longest)", longest, shortest)


def _arguments(n, rng) -> tuple[int, np.random.Generator]:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng: a numpy.random.Generator is required; got {type(rng).__name__}. "
            "Make one with numpy.random.default_rng(seed)"
        )
    return check.integer("n", n, 1), rng


def _valid(lengths: np.ndarray) -> np.ndarray:
    """Which steps of (T, n) lie before their sequence's end."""
    return np.arange(lengths.max())[:, None] < lengths


def _one_hot(symbols: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[symbols]


def _flat(name: str, value, n) -> np.ndarray:
    """(n,) from (n,) or (n, 1)."""
    shape = (n, 1) if np.ndim(value) == 2 else (n,)
    return check.array(name, value, shape, np.float64, meaning="(or with a last axis of 1)").reshape(-1)


def _classified(prediction, target, classes: int) -> float:
    """The fraction of targets (n,) that logits (n, classes) get right."""
    target = check.integers("target", target, ("n",), 0, classes - 1)
    prediction = check.array("prediction", prediction, (len(target), classes), np.float64)
    return _fraction(prediction.argmax(-1) == target)


def _fraction(right: np.ndarray) -> float:
    if not right.size:
        raise ValueError("target: at least one sequence is required; got 0")
    return float(np.mean(right))

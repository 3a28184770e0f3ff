"""Pairs of sequences to be read and written, made from nothing: what an encoder-decoder can be tried on."""

from dataclasses import dataclass

import numpy as np

from .. import _check as check

_BELOW_20 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = (*_BELOW_20, *_TENS, "hundred", "thousand", "million")


@dataclass(frozen=True)
class Reversal:
    """Write a sequence of symbols backwards [Sutskever et al. 2014 reverse their sources for a reason].

    Parameters
    ----------
    length : int
        Sequences have 1 to so many symbols.
    symbols : int

    Attributes
    ----------
    num_inputs, num_outputs : int
        Symbols to read, and to write, the stop symbol `stop` included.
    chance : float
        The share of sequences that blind guessing of symbols gets right, were their lengths known.

    Examples
    --------
    >>> import numpy as np
    >>> x, target, lengths = Reversal(4, symbols=5).sample(2, np.random.default_rng(0))
    >>> x[: lengths[0], 0].tolist(), target[0][target[0] >= 0].tolist()
    ([2, 1, 0, 0], [0, 0, 1, 2])
    """

    length: int
    symbols: int = 8

    def __post_init__(self):
        check.integer("length", self.length, 1)
        check.integer("symbols", self.symbols, 2)

    @property
    def num_inputs(self) -> int:
        return self.symbols

    @property
    def num_outputs(self) -> int:
        return self.symbols + 1

    @property
    def stop(self) -> int:
        return self.symbols

    @property
    def chance(self) -> float:
        return float(np.mean(float(self.symbols) ** -np.arange(1, self.length + 1)))

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw n pairs: x (length, n) int64, 0 behind the ends; target (n, length) int64, -1 behind the ends; lengths (n,)."""
        n = check.integer("n", n, 1)
        lengths = rng.integers(1, self.length + 1, n)
        x = rng.integers(0, self.symbols, (self.length, n))
        place = np.arange(self.length)
        inside = place[:, None] < lengths
        mirrored = np.take_along_axis(x, np.maximum(lengths - 1 - place[:, None], 0), axis=0)
        return np.where(inside, x, 0), np.where(inside, mirrored, -1).T.copy(), lengths


@dataclass(frozen=True)
class NumberWords:
    """Write a number, read digit by digit, in English words: 4 0 7 is "four hundred seven".

    Parameters
    ----------
    digits : int
        Numbers of up to so many digits, 9 at most; the number of digits is drawn first, so that short numbers are not rare.

    Attributes
    ----------
    words : tuple of str
        The word of every symbol to write.
    num_inputs, num_outputs : int
        Symbols to read, and to write, the stop symbol `stop` included.

    Examples
    --------
    >>> task = NumberWords(6)
    >>> " ".join(task.words[k] for k in task.write(40_712))
    'forty thousand seven hundred twelve'
    """

    digits: int = 4

    words = WORDS
    num_inputs = 10
    num_outputs = len(WORDS) + 1
    stop = len(WORDS)

    def __post_init__(self):
        check.integer("digits", self.digits, 1, 9)

    def write(self, number: int) -> list[int]:
        """The symbols of a number's words."""
        if number == 0:
            return [0]
        result = []
        for unit, word in ((1_000_000, "million"), (1_000, "thousand"), (1, "")):
            part = number // unit % 1000
            if part:
                result += _below_1000(part) + ([WORDS.index(word)] if word else [])
        return result

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw n pairs: x (digits, n) int64, 0 behind the ends; target (n, S) int64, -1 behind the ends; lengths (n,)."""
        n = check.integer("n", n, 1)
        lengths = rng.integers(1, self.digits + 1, n)
        low = np.where(lengths == 1, 0, 10 ** (lengths - 1))
        numbers = rng.integers(low, 10**lengths)
        x = np.zeros((self.digits, n), np.int64)
        for k, number in enumerate(numbers):
            x[: lengths[k], k] = [int(digit) for digit in str(number)]
        written = [self.write(int(number)) for number in numbers]
        target = np.full((n, max(map(len, written))), -1)
        for row, symbols in zip(target, written):
            row[: len(symbols)] = symbols
        return x, target, lengths


def _below_1000(number: int) -> list[int]:
    hundreds, rest = divmod(number, 100)
    result = [hundreds, WORDS.index("hundred")] if hundreds else []
    if rest >= 20:
        result.append(len(_BELOW_20) + rest // 10 - 2)
        rest %= 10
    return result + ([rest] if rest else [])

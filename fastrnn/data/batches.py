"""Batches: from arrays, from lists of different lengths, from a generator that streams, and from one long text.

Every order is a pure function of a seed and a number (of the epoch or of the batch), so that a run which stops and
resumes sees exactly the data it would have seen.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .. import _check as check
from .. import _extent
from . import _columns as columns

# Independent random streams of one seed: one a purpose, so that equal numbers do not meet.
_EPOCH, _STREAM = 0, 1

# Buckets are sorted within pools of this many batches: a whole sort would give every epoch the same batches.
_POOL = 16

_LONGEST = np.iinfo(np.int64).max


class Batch(NamedTuple):
    """Sequences to be worked on together.

    Attributes
    ----------
    x : ndarray, shape (T, B, D), float or int64; or (T, B), int64 tokens; or (R, C, B, D), images of R rows and C columns
        Whether integers (T, B, D) are numbers or D tokens a step is for the model to say, whose first layer is an Embedding or not.
    target : ndarray, shape (B,) or (B, O), one a sequence or image; or (T, B) or (T, B, O), one a step; or (R, C, B) or (R, C, B, O)
        Labellings of a sequence (`fastrnn.CTC`) are (B, S), with -1 behind their ends.
    lengths : ndarray, shape (B,), int64; or (B, 2)
        Number of valid steps, or of rows and columns; what lies beyond is padding, and reaches nothing.
    weights : ndarray, shape (B,), (T, B) or (R, C, B), or None
    """

    x: np.ndarray
    target: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None


def pad(sequences: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths as one array, time first, zeros behind their ends.

    Parameters
    ----------
    sequences : list of N arrays, each of shape (T_i, D) or (T_i,)
        Zero-length sequences are allowed, but not only such.

    Returns
    -------
    x : ndarray, shape (T, N, D) or (T, N)
        T is the longest length. The dtype is float32, float64 or int64, whichever holds all of them.
    lengths : ndarray, shape (N,), int64

    Raises
    ------
    TypeError
        Where a sequence does not hold real numbers.
    ValueError
        Where there are no sequences, no steps, or where ranks or numbers of features differ.

    Examples
    --------
    >>> x, lengths = pad([[1, 2, 3], [4]])
    >>> x.T
    array([[1, 2, 3],
           [4, 0, 0]])
    >>> lengths
    array([3, 1])
    """
    arrays = columns.sequences("sequences", sequences)
    lengths = columns.lengths_of(arrays)
    return columns.fill(arrays, lengths.max()), lengths


def pad_images(images: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Images of different sizes as one array, rows and columns first, zeros below and to the right of them.

    Parameters
    ----------
    images : list of N arrays, each of shape (R_i, C_i, D) or (R_i, C_i)
        At least one row and one column each.

    Returns
    -------
    x : ndarray, shape (R, C, N, D) or (R, C, N)
        R and C are the most rows and columns. The dtype is float32, float64 or int64, whichever holds all of them.
    sizes : ndarray, shape (N, 2), int64
        Rows and columns.

    Raises
    ------
    TypeError, ValueError
        Where there are no images, or one is none, is empty, or has other channels than the first.

    Examples
    --------
    >>> x, sizes = pad_images([[[1.0, 2.0]], [[3.0], [4.0]]])
    >>> x.shape, sizes.tolist(), x[:, :, 1].tolist()
    ((2, 2, 2), [[1, 2], [2, 1]], [[3.0, 0.0], [4.0, 0.0]])
    """
    arrays = columns.images("images", images)
    sizes = np.array([array.shape[:2] for array in arrays], np.int64)
    x = np.zeros((*sizes.max(axis=0), len(arrays), *arrays[0].shape[2:]), arrays[0].dtype)
    for n, array in enumerate(arrays):
        x[: len(array), : array.shape[1], n] = array
    return x, sizes


def as_batch(value) -> Batch:
    """A tuple ``(x, target)``, ``(x, target, lengths)`` or ``(x, target, lengths, weights)`` as a checked `Batch`.

    A list of label sequences of different lengths is a target (B, S), with -1 behind their ends.

    Raises
    ------
    TypeError, ValueError
        Naming the part that is wrong, what was required and what came.

    Examples
    --------
    >>> as_batch((np.zeros((5, 2, 3)), [0, 1])).lengths
    array([5, 5])
    """
    if not isinstance(value, (tuple, list)) or not 2 <= len(value) <= 4:
        came = f"{len(value)} parts" if isinstance(value, (tuple, list)) else type(value).__name__
        raise TypeError(f"batch: a tuple (x, target[, lengths[, weights]]) is required; got {came}")
    x, target, lengths, weights = (*value, None, None)[:4]
    x = columns.inputs(x)
    shape = columns.places(x)
    target = check.labels("target", target, shape[-1]) if check.is_ragged(target) else columns.numbers("target", target)
    columns.check_target(target, shape)
    return Batch(x, target, _extent.checked(lengths, shape), columns.array_weights(weights, shape))


class Batches:
    """Batches of a data set, in an order that depends on the seed and the epoch's number alone.

    Parameters
    ----------
    x : ndarray, shape (T, N, D), (R, C, N, D), or (T, N) integers; or list of N arrays of shape (T_i, D) or (T_i,)
        An array is time first (images: rows and columns first; `pad_images` makes one), a list is one of sequences. In a
        list, one-dimensional sequences of real numbers are taken as series of one feature, and of integers as tokens.
    target : array_like, shape (N,) or (N, O), one a sequence; or (T, N) or (T, N, O), one a step; images: (R, C, N) or (R, C, N, O)
        With a list `x`, one a step is a list of N arrays of shape (T_i,) or (T_i, O). Labellings of a sequence
        (`fastrnn.CTC`) are (N, S) integers, with -1 behind their ends, or a list of N arrays of shape (S_i,): give
        ``per_step=False`` with those.
    lengths : array_like, shape (N,), or (N, 2) for images, optional
        Integers in [0, T]; all T by default. For images rows and columns, at least 1. Not with a list `x`, whose sequences have their own.
    weights : array_like, shape (N,), (T, N) or (R, C, N), optional
        With a list `x`, one a step is a list of N arrays of shape (T_i,).
    batch_size : int
        The last batch of an epoch may be smaller: no sequence is left out.
    shuffle : bool
        Otherwise every epoch is in the order given.
    bucket : bool
        Batches of similar length: sequences (images: by rows and columns together) are sorted by length within pools of 16
        batches. With `shuffle` the pools are drawn anew every epoch, and the order of the batches is shuffled.
    seed : int
    per_step : bool, optional
        Whether `target` has a value at every step. None reads it from the shape, which only fails to tell where
        T = N = O.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was required, what came and what to do.

    Examples
    --------
    >>> batches = Batches([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], [0, 1, 1], batch_size=2, shuffle=False)
    >>> [batch.x.shape for batch in batches.epoch(0)]
    [(2, 2, 1), (3, 1, 1)]
    """

    def __init__(
        self,
        x,
        target,
        lengths=None,
        weights=None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        bucket: bool = False,
        seed: int = 0,
        per_step: bool | None = None,
    ):
        self.batch_size = check.integer("batch_size", batch_size, 1)
        self.shuffle = check.choice("shuffle", shuffle, (True, False))
        self.bucket = check.choice("bucket", bucket, (True, False))
        self.seed = check.integer("seed", seed, 0)
        check.choice("per_step", per_step, (None, True, False))
        if isinstance(x, (list, tuple)):
            if lengths is not None:
                raise ValueError("lengths: None is required for a list x, whose sequences have their own; leave it out")
            self._x, self._target, self._weights, self.lengths = columns.from_lists(x, target, weights, per_step)
        else:
            given = columns.from_arrays(x, target, lengths, weights, per_step)
            self._x, self._target, self._weights, self.lengths = given

    @property
    def size(self) -> int:
        """The number of sequences."""
        return len(self.lengths)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return (self.size - 1) // self.batch_size + 1

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0."""
        return self.epoch(0)

    def epoch(self, k: int) -> Iterator[Batch]:
        """The batches of epoch `k`; steps beyond a batch's longest sequence are cut off."""
        return (self._gather(index) for index in self.order(k))

    def order(self, k: int) -> list[np.ndarray]:
        """The sequences' numbers in each batch of epoch `k`: a pure function of the seed and `k`."""
        rng = _generator(self.seed, _EPOCH, check.integer("epoch", k, 0))
        order = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
        if self.bucket:
            pools = _chunks(order, _POOL * self.batch_size)
            reach = self.lengths.reshape(self.size, -1).sum(axis=1)
            order = np.concatenate([pool[np.argsort(reach[pool], kind="stable")] for pool in pools])
        batches = _chunks(order, self.batch_size)
        if self.bucket and self.shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _gather(self, index: np.ndarray) -> Batch:
        lengths = self.lengths[index]
        longest = tuple(max(1, n) for n in lengths.reshape(len(index), -1).max(axis=0).tolist())
        weights = None if self._weights is None else self._weights.take(index, longest)
        return Batch(self._x.take(index, longest), self._target.take(index, longest), lengths, weights)


class Stream:
    """Batches without end from a generator of data; batch `i` is a pure function of the seed and `i`.

    Parameters
    ----------
    sampler : object with a method ``sample(n, rng)``, or a callable ``(n, rng)``
        Returns ``(x, target)`` or more, as `as_batch` takes it, for n sequences drawn with the
        `numpy.random.Generator` it is given and nothing else.
    batch_size : int
    seed : int

    Examples
    --------
    >>> from fastrnn.data import Adding
    >>> numbers = Stream(Adding(50), batch_size=8, seed=0)
    >>> numbers.batch(1000).x.shape
    (50, 8, 2)
    """

    def __init__(self, sampler, batch_size: int = 32, seed: int = 0):
        sample = getattr(sampler, "sample", sampler)
        if not callable(sample):
            raise TypeError(
                "sampler: an object with a method sample(n, rng), or a callable (n, rng), is required; "
                f"got {type(sampler).__name__}"
            )
        self.sampler, self._sample = sampler, sample
        self.batch_size = check.integer("batch_size", batch_size, 1)
        self.seed = check.integer("seed", seed, 0)

    def batch(self, i: int) -> Batch:
        """Batch number `i`, i >= 0."""
        rng = _generator(self.seed, _STREAM, check.integer("batch number", i, 0))
        batch = as_batch(self._sample(self.batch_size, rng))
        if batch.x.shape[1] != self.batch_size:
            raise ValueError(f"sampler: {self.batch_size} sequences are required, as asked for; got {batch.x.shape[1]}")
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """Batches 0, 1, 2, ... without end."""
        i = 0
        while True:
            yield self.batch(i)
            i += 1


class TextBatches:
    """One long text as windows that follow each other, for training with a carried state.

    The text is cut into `batch_size` rows of equal length. Batch k holds steps k·length to (k + 1)·length of every
    row, so that the state after batch k belongs before batch k + 1; the target is the token that comes next. What does
    not fill a row or a window, batch_size·length tokens at most, is left out.

    Parameters
    ----------
    tokens : array_like, shape (n,), integers of at least 0
    batch_size : int
    length : int
        Steps in a window.

    Raises
    ------
    ValueError
        Where there are fewer than batch_size·length + 1 tokens: not one window.

    Examples
    --------
    >>> first, second = TextBatches(range(9), batch_size=2, length=2)
    >>> first.x.T, first.target.T
    (array([[0, 1],
           [4, 5]]), array([[1, 2],
           [5, 6]]))
    """

    def __init__(self, tokens, batch_size: int = 32, length: int = 100):
        tokens = check.integers("tokens", tokens, ("n",), 0, _LONGEST)
        self.batch_size = check.integer("batch_size", batch_size, 1)
        self.length = check.integer("length", length, 1)
        rows = (len(tokens) - 1) // self.batch_size
        if rows < self.length:
            needed = self.batch_size * self.length + 1
            raise ValueError(
                f"tokens: at least {needed} (batch_size * length + 1) are required for one window; got {len(tokens)}. "
                "Use a smaller batch_size or length, or a longer text"
            )
        used = self.batch_size * rows
        # Time first, and contiguous, so that every window is a view.
        self._x = np.ascontiguousarray(tokens[:used].reshape(self.batch_size, rows).T)
        self._target = np.ascontiguousarray(tokens[1 : used + 1].reshape(self.batch_size, rows).T)

    def __len__(self) -> int:
        """The number of windows."""
        return len(self._x) // self.length

    def __iter__(self) -> Iterator[Batch]:
        """The windows, in order: x (length, B) and target (length, B), int64."""
        for k in range(len(self)):
            window = slice(k * self.length, (k + 1) * self.length)
            yield Batch(self._x[window], self._target[window], np.full(self.batch_size, self.length, np.int64))

    def epoch(self, k: int) -> Iterator[Batch]:
        """The windows, in the same order for every `k`: a carried state allows no other."""
        check.integer("epoch", k, 0)
        return iter(self)


def stream(sampler, batch_size: int = 32, seed: int = 0) -> Stream:
    """Batches without end from a generator of data: see `Stream`."""
    return Stream(sampler, batch_size, seed)


def windows(tokens, batch_size: int = 32, length: int = 100) -> TextBatches:
    """Windows of one long text that follow each other: see `TextBatches`."""
    return TextBatches(tokens, batch_size, length)


def _chunks(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, number)))

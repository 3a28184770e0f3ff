"""Connectionist temporal classification (Graves et al. 2006): sequences labelled without saying where the labels are.

At every step the network gives the probabilities of O symbols, one of which is the blank: no label. An alignment is one symbol a
step; the labelling that it stands for is what remains when runs of one symbol are made one and blanks are then left out, so that
`a - a b b` and `- a - a b` both stand for `a a b`. A labelling's probability is the sum over its alignments.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import _check, _device, _threads, losses
from .kernels._ctc import Labellings
from .kernels.cpu.ctc import ctc, scratch
from .kernels.cpu.ctc_decoding import beam_search as _beam_search
from .kernels.cpu.ctc_decoding import edit_distance as _edit_distance
from .kernels.cpu.ctc_decoding import search_scratch

PADDING = -1
CALL = 2**26  # cells and symbols in one kernel call at most, so that an interruption is seen within a second
OPERATIONS = 50.0  # what a cell or symbol costs, in those that products are counted in


class CTC(losses.Loss):
    """-log of the probability of a labelling, in nats, summed over all its alignments (Graves et al. 2006, equation 8).

    Predictions are logits (T, B, O), the softmax being part of the loss; so a `Model` needs ``readout="every"``. Targets are integers
    (B, S), one labelling a row with -1 behind its end, or a list of B sequences; they hold any of the O symbols but the blank.
    `lengths` are those of the predictions, `weights` (B,), one a sequence, and the mean is over sequences. A sequence has no
    present to truncate from: with `Full` only.

    A thread's working memory is 8 T (6 S + O) bytes, for one sequence at a time; on a GPU it is 32 T S bytes for each of the sequences that
    are computed at once, as many as take a quarter of a gigabyte.

    Finite for every labelling that has an alignment, at any logits up to 1e9 apart: what is less probable than exp(-2e9) within
    a step counts as impossible.

    Parameters
    ----------
    blank : int
        The output that means no label; 0, as in PyTorch.
    infeasible : {"error", "inf", "zero"}
        What a labelling without an alignment does, one of more labels than there are steps (a blank between equal labels being
        needed, too), or with a symbol at a logit of -inf: raise a ValueError that names the sequence; have loss inf and gradient
        0; or count as loss 0 with gradient 0, as with PyTorch's ``zero_infinity``.

    Examples
    --------
    Of the nine alignments of three symbols in two steps, `1 1`, `1 -` and `- 1` stand for the labelling `1`; none does for `1 1`.

    >>> import numpy as np, fastrnn as fr
    >>> logits = np.zeros((2, 1, 3))
    >>> round(9 * float(np.exp(-fr.CTC()(logits, [[1]]))), 12)
    3.0
    >>> fr.CTC(infeasible="inf")(logits, [[1, 1]])
    inf
    """

    name = "ctc"
    per_sequence = True

    def __init__(self, *, blank: int = 0, infeasible: str = "error"):
        self.blank = _check.integer("blank", blank, minimum=0)
        self.infeasible = _check.choice("infeasible", infeasible, ("error", "inf", "zero"))

    def metrics(self, prediction, target, lengths=None, weights=None) -> dict[str, float]:
        """``{"label_error_rate": ...}``: the mean of (edit distance of `greedy`'s labelling to the target) / (length of the target).

        Graves et al. 2006, equation 1. Where the target is empty, the distance itself.
        """
        prediction, (labels, counts, steps), weights = self._checked(prediction, target, lengths, weights)
        total = weights.sum()
        found = _collapsed(prediction, steps, self.blank)
        errors = [w and edit_distance(f, y[:n]) / max(n, 1) for f, y, n, w in zip(found, labels, counts, weights)]
        return {"label_error_rate": float((weights * errors).sum() / total) if total else 0.0}

    def config(self) -> dict:
        return super().config() | {"blank": self.blank, "infeasible": self.infeasible}

    def __repr__(self) -> str:
        return f"CTC(blank={self.blank}, infeasible={self.infeasible!r})"

    def _checked(self, prediction, target, lengths, weights):
        prediction = losses.checked_prediction(prediction)
        labellings, weights = self._labellings(prediction, target, lengths, weights)
        return prediction, labellings, weights

    def _labellings(self, prediction, target, lengths, weights) -> tuple[Labellings, np.ndarray]:
        """What is to be found in `prediction`, on any device, of which only the shape is looked at; and the weights (B,)."""
        if prediction.ndim != 3:
            raise ValueError(f'prediction: shape (T, B, O) is required, as with readout="every"; got {prediction.shape}')
        T, B, O = prediction.shape
        _check_blank(self.blank, O)
        weights = losses.row_weights((B,), None, _device.host(weights))
        steps = _check.lengths(_device.host(lengths), T, B)
        labels = self._target(prediction, _device.host(target), weights)
        counts = np.where(weights > 0, (np.cumsum(labels == PADDING, axis=1) == 0).sum(axis=1), 0)
        return Labellings(labels, counts, steps), weights

    def _target(self, prediction, target, weights):
        _, B, O = prediction.shape
        labels = _check.labels("target", target, B)
        padding = labels == PADDING
        wrong = (labels < PADDING) | (labels >= O) | (labels == self.blank)
        wrong |= ~padding & (np.cumsum(padding, axis=1) > 0)
        wrong &= (weights > 0)[:, None]
        if wrong.any():
            b = int(wrong.any(axis=1).argmax())
            raise ValueError(
                f"target: labels from 0 to {O - 1} other than {self.blank}, the blank, are required, and -1 only behind the last; "
                f"got {labels[b][wrong[b]][0]} in sequence {b} of the batch. Leave a sequence out with weight 0"
            )
        return labels

    def _mean(self, prediction, target, weights, total, gradient):
        B, O = len(target.labels), prediction.shape[1]
        prediction, gradient = prediction.reshape(-1, B, O), gradient.reshape(-1, B, O)
        self._require_feasible(target, weights)
        values, scale = np.zeros(B), weights / total

        def work(threads):
            return scratch(threads, target.steps.max(initial=0), target.counts.max(initial=0), O)

        _run(ctc, target.steps * (2 * target.counts + O), work, prediction, target, self.blank, scale, values, gradient)
        return self._mean_of(values, weights, total)

    def _has_kernel(self):
        return type(self) is CTC

    def _value_elsewhere(self, prediction, target, lengths, weights):
        from .kernels.cuda.ctc import losses_and_gradient

        device = _device.of(prediction)
        labellings, weights = self._labellings(prediction, target, lengths, weights)
        self._require_feasible(labellings, weights)
        total = float(weights.sum())
        values, gradient = losses_and_gradient(device, prediction, labellings, self.blank, weights / total if total else weights)
        return float(self._mean_of(values, weights, total)) if total else 0.0, gradient, total

    def _require_feasible(self, target: Labellings, weights) -> None:
        if self.infeasible == "error":
            _check_feasible(target, weights)

    def _mean_of(self, values: np.ndarray, weights, total: float):
        """Of all sequences, from their own (B,)."""
        impossible = np.isinf(values)
        if self.infeasible == "error" and impossible.any():
            raise ValueError(
                f"prediction: a probability above 0 is required for the labels of sequence {impossible.argmax()} of the batch; got 0, from "
                "a logit of -inf, or 2e9 below another. Look at the network's outputs, or choose infeasible='inf' or 'zero'"
            )
        if self.infeasible == "zero":
            values[impossible] = 0.0
        return (weights * values).sum() / total


class Labelling(NamedTuple):
    """What `beam_search` found.

    Attributes
    ----------
    labels : ndarray, shape (S,), int64
    log_probability : float
        In nats, of those of its alignments that were followed: at most the labelling's own, minus the loss of `CTC`.
    """

    labels: np.ndarray
    log_probability: float


def greedy(logits, lengths=None, *, blank: int = 0) -> list[np.ndarray]:
    """The labelling of the most probable alignment: best path decoding (Graves et al. 2006, section 3.2).

    Parameters
    ----------
    logits : array_like, shape (T, B, O)
        Of equal ones the first is taken.
    lengths : array_like of int, shape (B,), optional
    blank : int

    Returns
    -------
    list of B arrays, shape (S_b,), int64

    Raises
    ------
    ValueError, TypeError
        For wrong shapes and types, and a step without a largest logit (NaN, or all -inf).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> logits = np.eye(3)[[1, 1, 0, 1, 2, 2]][:, None]
    >>> fr.ctc.greedy(logits)
    [array([1, 1, 2])]
    """
    logits, lengths = _checked(logits, lengths, blank)
    return _collapsed(logits, lengths, blank)


def beam_search(logits, lengths=None, *, width: int = 16, blank: int = 0) -> list[list[Labelling]]:
    """The most probable labellings by prefix beam search: step by step the `width` best prefixes are kept.

    Alignments of one prefix are added up, in log space (Hannun et al. 2014, algorithm 1, without a language model; prefixes as in
    Graves et al. 2006, section 3.2). Exact where `width` holds every prefix; a wider beam seldom finds less.

    Parameters
    ----------
    logits : array_like, shape (T, B, O)
    lengths : array_like of int, shape (B,), optional
    width : int
        At least 1. Time grows as T · width · O.
    blank : int

    Returns
    -------
    list of B lists of Labelling
        Best first, `width` at most: those with no probability are left out.

    Raises
    ------
    ValueError, TypeError
        As in `greedy`.

    Examples
    --------
    The best alignment is two blanks, of probability .36; but three others, of .64 in all, stand for `1`.

    >>> import numpy as np, fastrnn as fr
    >>> logits = np.log([[[0.6, 0.4]], [[0.6, 0.4]]])
    >>> fr.ctc.greedy(logits)
    [array([], dtype=int64)]
    >>> best = fr.ctc.beam_search(logits, width=2)[0][0]
    >>> best.labels, round(float(np.exp(best.log_probability)), 12)
    (array([1]), 0.64)
    """
    width = _check.integer("width", width, minimum=1)
    logits, lengths = _checked(logits, lengths, blank)
    T, B, O = logits.shape
    counts, labels, scores = np.zeros(B, np.int64), np.empty((B, width, T), np.int64), np.empty((B, width))

    def work(threads):
        return search_scratch(threads, lengths.max(initial=0), width, O)

    _run(_beam_search, lengths * (width * O), work, logits, lengths, blank, counts, labels, scores)
    return [
        [Labelling(row[row != PADDING], float(score)) for row, score in zip(labels[b, : counts[b]], scores[b])] for b in range(B)
    ]


def edit_distance(a, b) -> int:
    """The least number of labels to insert, delete or replace that makes `b` from `a` (Levenshtein 1966); both integers, (n,) and (m,).

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.ctc.edit_distance([1, 2, 3, 4], [2, 3, 5, 4])
    2
    """
    limits = np.iinfo(np.int64)
    a, b = (_check.integers(name, value, ("n",), limits.min, limits.max) for name, value in (("a", a), ("b", b)))
    return int(_edit_distance(a, b, np.empty(len(b) + 1, np.int64)))


def _checked(logits, lengths, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 logits (T, B, O) and lengths; every valid step has a largest logit."""
    logits = _check.array("logits", _device.host(logits), ("T", "B", "O"), "float64", meaning="(steps, batch, outputs)")
    T, B, O = logits.shape
    _check_blank(_check.integer("blank", blank, minimum=0), O)
    lengths = _check.lengths(_device.host(lengths), T, B)
    lost = ~np.isfinite(logits.max(axis=2)) & (np.arange(T)[:, None] < lengths)
    if lost.any():
        t, b = np.argwhere(lost)[0]
        raise ValueError(f"logits: a finite largest one is required at every step; got {logits[t, b].max()} at step {t} of sequence {b}")
    return logits, lengths


def _check_blank(blank: int, O: int) -> None:
    if blank >= O:
        raise ValueError(f"blank: one of the outputs is required, 0 to {O - 1}; got {blank}")


def _check_feasible(target: Labellings, weights: np.ndarray) -> None:
    labels, counts, steps = target
    repeated = (labels[:, 1:] == labels[:, :-1]) & (np.arange(1, labels.shape[1]) < counts[:, None])
    needed = counts + repeated.sum(axis=1)
    short = (needed > steps) & (weights > 0)
    if short.any():
        b = int(short.argmax())
        raise ValueError(
            f"target: at least {needed[b]} steps are required for the {counts[b]} labels of sequence {b} of the batch, "
            f"{needed[b] - counts[b]} of which repeat the one before; got {steps[b]}. Leave the sequence out with weight 0, "
            "or choose infeasible='inf' or 'zero'"
        )


def _collapsed(logits: np.ndarray, lengths: np.ndarray, blank: int) -> list[np.ndarray]:
    """The labelling of each sequence's best alignment."""
    best = logits.argmax(axis=2)
    kept = (best != blank) & (np.arange(len(best))[:, None] < lengths)
    kept[1:] &= best[1:] != best[:-1]
    return [best[kept[:, b], b] for b in range(best.shape[1])]


def _run(kernel: Callable, cells: np.ndarray, scratch: Callable, *arguments) -> None:
    """`kernel` over all sequences, of so many cells each, in calls of bounded length; `scratch(threads)` is its working memory."""
    first = 0
    while first < len(cells):
        count = max(1, int(np.searchsorted(np.cumsum(cells[first:]), CALL, side="right")))
        team = _threads.team(OPERATIONS * float(cells[first : first + count].sum()))
        kernel(team, count, first, *arguments, scratch(_threads.size(team)))
        first += count

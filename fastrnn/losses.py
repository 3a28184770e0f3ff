"""Losses: their mean over the valid targets, and its gradient by the prediction.

All three see a batch as rows, one row a target, each with the weight it counts with: 0 past a sequence's end. A row of
weight 0 is never read. Arithmetic is float64 whatever the prediction's type, in row order, so a row's gradient depends
on the other rows through the total weight alone; the gradient is rounded once, to the prediction's type.
"""

from abc import ABC, abstractmethod

import numpy as np

from . import _check, _device, _extent
from ._jit import kernel
from .kernels import _loss


class Loss(ABC):
    """A mean over targets: sum of weight times loss, over the sum of the weights.

    Predictions are (B, O), one a sequence, (T, B, O), one a step, or (R, C, B, O), one a pixel. A loss of one's own defines
    `_target` and `_mean` (and `metrics`, if it has any).

    Attributes
    ----------
    per_sequence : bool
        Whether a target belongs to a sequence as a whole although every step is predicted (`fastrnn.CTC`).
    """

    name: str
    per_sequence = False

    def __call__(self, prediction, target, lengths=None, weights=None) -> float:
        """The mean loss; arguments as in `value_and_gradient`."""
        return self.value_and_gradient(prediction, target, lengths, weights)[0]

    def value_and_gradient(self, prediction, target, lengths=None, weights=None) -> tuple[float, np.ndarray, float]:
        """The mean loss, its gradient, and the total weight it is a mean over.

        Parameters
        ----------
        prediction : ndarray, shape (B, O), (T, B, O) or (R, C, B, O)
            float32 or float64; other real types become float64.
        target : ndarray
            Labels or values, one for each prediction: see the loss.
        lengths : ndarray of int, shape (B,), optional
            Steps t >= lengths[b] of a (T, B, O) prediction do not count: prediction, target and weight may be anything
            there, NaN included. A (B, O) prediction has no steps to leave out. For images the rows and columns of each, (B, 2).
        weights : ndarray, shape (B,), (T, B) or (R, C, B), optional
            What each sequence, or each step, counts; 0 or more, and 0 is as good as absent. All 1 by default.

        Returns
        -------
        value : float
            0.0 where nothing counts.
        gradient : ndarray
            Shape and dtype of `prediction`; exactly 0 where nothing counts.
        weight : float

        Raises
        ------
        ValueError, TypeError
            For wrong shapes and types, targets out of range, and weights that are negative or not finite.
        """
        device = _device.of(prediction)
        if device.name != "cpu" and not self._has_kernel():
            value, gradient, weight = self.value_and_gradient(_device.host(prediction), target, lengths, weights)
            return value, device.put(gradient), weight
        if device.name != "cpu":
            return self._value_elsewhere(checked_prediction(prediction, device), target, lengths, weights)
        prediction, target, weights = self._checked(prediction, target, lengths, weights)
        gradient, total = np.zeros_like(prediction), float(weights.sum())
        value = self._mean(_rows(prediction), target, weights, total, _rows(gradient)) if total else 0.0
        return float(value), gradient, total

    def of_members(self, prediction, target, lengths=None, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`value_and_gradient` for each of E models: all arrays with a leading axis E (lengths E or 1), (E,) values and weights.

        The bits are those of each model alone.
        """
        device = _device.of(prediction)
        if device.name != "cpu" and not self._has_kernel():
            values, gradient, totals = self.of_members(device.get(prediction), target, lengths, weights)
            return values, device.put(gradient), totals
        E, *shape, O = prediction.shape
        counts = np.ones((E, *shape))
        if weights is not None:
            counts *= weights if weights.ndim == counts.ndim else weights[:, None]
        if len(shape) > 1 and lengths is not None:
            counts *= np.arange(shape[0])[:, None] < lengths[:, None, :]
        _check_weights(counts)
        if device.name != "cpu":
            return self._elsewhere(prediction, target, counts.reshape(E, -1))
        rows = _own(self._target(prediction, target, counts.ravel()))
        rows, counts = rows.reshape(E, -1, *rows.shape[1:]), counts.reshape(E, -1)
        values, gradient, totals = np.zeros(E), np.zeros_like(prediction), counts.sum(axis=1)
        predicted, sloped = prediction.reshape(E, -1, O), gradient.reshape(E, -1, O)

        for e, total in enumerate(totals.tolist()):
            if total:
                values[e] = self._mean(predicted[e], rows[e], counts[e], total, sloped[e])
        return values, gradient, totals

    def _has_kernel(self) -> bool:
        """Whether other devices can compute it; the host does where they cannot: a loss of one's own."""
        return type(self) in KERNELS

    def _value_elsewhere(self, prediction, target, lengths, weights):
        """`value_and_gradient` on the device of `prediction`."""
        weights = row_weights(prediction.shape[:-1], _device.host(lengths), _device.host(weights))
        values, gradient, totals = self._elsewhere(prediction, target, weights[None])
        return float(values[0]), gradient, float(totals[0])

    def _elsewhere(self, prediction, target, counts: np.ndarray):
        """`of_members` on the device of `prediction` (E, ..., O), or of one model; counts (E, N) of the host."""
        from .kernels.cuda.losses import mean

        wanted, totals = self._target(prediction, _device.host(target), counts.ravel()), counts.sum(axis=1)
        rows = prediction.reshape(*counts.shape, prediction.shape[-1])
        values, gradient = mean(_device.of(prediction), self.name, rows, wanted, counts, totals)
        return values, gradient.reshape(prediction.shape), totals

    def metrics(self, prediction, target, lengths=None, weights=None) -> dict[str, float]:
        """Other numbers worth knowing, means over the same targets; arguments as in `value_and_gradient`."""
        return {}

    def config(self) -> dict:
        """What `from_config` needs to build this loss again."""
        return {"kind": type(self).__name__}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _checked(self, prediction, target, lengths, weights):
        """The three as arrays: (B, O), (T, B, O) or (R, C, B, O); the target's own rows; (N,), 0 where nothing counts."""
        target, lengths, weights = map(_device.host, (target, lengths, weights))
        prediction = checked_prediction(prediction)
        weights = row_weights(prediction.shape[:-1], lengths, weights)
        return prediction, _own(self._target(prediction, target, weights)), weights

    @abstractmethod
    def _target(self, prediction, target, weights) -> np.ndarray:
        """The target checked, as one row (or one label) for each of the N = weights.size rows of the prediction."""

    @abstractmethod
    def _mean(self, prediction, target, weights, total: float, gradient) -> float:
        """The mean loss; fills the rows of `gradient` (N, O) whose weight is not 0. `total` sums the weights."""


class CrossEntropy(Loss):
    """Softmax cross-entropy of logits and labels, in nats: l = log(sum_j exp z_j) - z_label.

    Predictions are logits, (B, O) or (T, B, O); targets are integer labels from 0 to O - 1, (B,) or (T, B). The
    gradient is softmax(z) - onehot(label) (Goodfellow et al. 2016, section 6.2.2.3), written without cancellation, so
    that it keeps full accuracy where the network is sure. Finite for every finite logit.

    Examples
    --------
    >>> from fastrnn.losses import CrossEntropy
    >>> loss = CrossEntropy()
    >>> loss([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    0.6931471805599453
    >>> loss.metrics([[0.0, 1.0], [2.0, 0.0]], [1, 1])
    {'accuracy': 0.5}
    """

    name = "cross_entropy"

    def metrics(self, prediction, target, lengths=None, weights=None) -> dict[str, float]:
        """``{"accuracy": ...}``: the weighted share of targets whose logit is the largest; the first of equals wins."""
        prediction, labels, weights = self._checked(prediction, target, lengths, weights)
        return {"accuracy": _share(_rows(prediction).argmax(axis=1) == labels, weights)}

    def _target(self, prediction, target, weights):
        *shape, O = prediction.shape
        limits = np.iinfo(np.int64)  # padding may hold any label; those that count are looked at below
        meaning = f"(a label for each prediction of shape {prediction.shape})"
        labels = _check.integers("target", target, tuple(shape), limits.min, limits.max, meaning=meaning).ravel()
        wrong = ((labels < 0) | (labels >= O)) & (weights > 0)
        if wrong.any():
            raise ValueError(
                f"target: labels from 0 to {O - 1} are required for {O} outputs; got {labels[wrong.argmax()]}. "
                "Where there is no target, set its weight to 0, or leave the step out with lengths"
            )
        return labels

    def _mean(self, prediction, target, weights, total, gradient):
        return _cross_entropy(prediction, target, weights, total, gradient, np.empty(prediction.shape[1]))


class BinaryCrossEntropy(Loss):
    """Logistic cross-entropy of logits z and targets y in [0, 1], in nats, averaged over the O outputs.

    l = -y log s(z) - (1 - y) log(1 - s(z)) = max(z, 0) - z y + log(1 + exp(-|z|)), with s the logistic function
    (Goodfellow et al. 2016, section 6.2.2.2); its gradient is s(z) - y. Targets have the prediction's shape, or lack
    its last axis where O = 1. Finite for every finite logit.

    Examples
    --------
    >>> from fastrnn.losses import BinaryCrossEntropy
    >>> BinaryCrossEntropy()([[0.0], [0.0]], [0, 1])
    0.6931471805599453
    """

    name = "binary_cross_entropy"

    def metrics(self, prediction, target, lengths=None, weights=None) -> dict[str, float]:
        """``{"accuracy": ...}``: the weighted share of outputs on the target's side of one half."""
        prediction, target, weights = self._checked(prediction, target, lengths, weights)
        return {"accuracy": _share(((_rows(prediction) > 0) == (target > 0.5)).mean(axis=1), weights)}

    def _target(self, prediction, target, weights):
        target = _values(prediction, target)
        wrong = ((target < 0) | (target > 1)) & (weights > 0)[:, None]
        if wrong.any():
            raise ValueError(f"target: probabilities from 0 to 1 are required; got {target[wrong][0]}")
        return target

    def _mean(self, prediction, target, weights, total, gradient):
        return _binary_cross_entropy(prediction, target, weights, total, gradient)


class MeanSquaredError(Loss):
    """Mean over the O outputs of (prediction - target)**2; its gradient is 2 (prediction - target) / O.

    Targets have the prediction's shape, or lack its last axis where O = 1.

    Examples
    --------
    >>> from fastrnn.losses import MeanSquaredError
    >>> value, gradient, weight = MeanSquaredError().value_and_gradient([[1.0], [4.0]], [1.0, 2.0])
    >>> value, gradient.ravel().tolist(), weight
    (2.0, [0.0, 2.0], 2.0)
    """

    name = "mean_squared_error"

    def _target(self, prediction, target, weights):
        return _values(prediction, target)

    def _mean(self, prediction, target, weights, total, gradient):
        return _mean_squared_error(prediction, target, weights, total, gradient)


REGISTRY = {kind.__name__: kind for kind in (CrossEntropy, BinaryCrossEntropy, MeanSquaredError)}
KERNELS = {*REGISTRY.values()}  # of rows, which there are for other devices


def from_config(config: dict, kinds: dict[str, type[Loss]] = REGISTRY) -> Loss:
    """The loss that `config` describes, of these kinds and no others."""
    options = dict(config)
    return kinds[_check.choice("loss", options.pop("kind", None), kinds)](**options)


# Arguments ----------------------------------------------------------------------------------------------------------


def _array(value) -> np.ndarray:
    """`value` with a rank one can ask for; what is no array in the end stays an object, for `_check` to name."""
    try:
        return np.asarray(value)
    except ValueError:  # a ragged list
        return np.array(None, dtype=object)


def _own(array: np.ndarray) -> np.ndarray:
    """`array`, or a copy if it is read-only or misaligned: Numba would compile the kernels once more for such a one."""
    return np.require(array, requirements=["C", "A", "W"])


def checked_prediction(value, device: _device.Device = _device.CPU):
    """(B, O), (T, B, O) or (R, C, B, O), in float32 or float64, on `device`."""
    given = _array(_device.host(value)) if device is _device.CPU else device.here(value)
    dtype = given.dtype.name if given.dtype.name in _check.FLOATS else "float64"
    shape = ("R", "C", "B", "O") if given.ndim == 4 else ("T", "B", "O") if given.ndim == 3 else ("B", "O")
    prediction = device.array("prediction", given, shape, dtype, meaning="or (T, B, O) or (R, C, B, O)")
    prediction = _own(prediction) if device is _device.CPU else prediction
    if prediction.shape[-1] == 0:
        raise ValueError(f"prediction: at least one output is required; got shape {prediction.shape}")
    return prediction


def _rows(array: np.ndarray) -> np.ndarray:
    """(..., O) as (N, O), a view."""
    return array.reshape(-1, array.shape[-1])


def row_weights(shape: tuple[int, ...], lengths, weights) -> np.ndarray:
    """What each of the N rows counts, (N,) float64; `shape` is (B,), (T, B) or (R, C, B)."""
    result = np.ones(shape)
    if weights is not None:
        given = _array(weights)
        wanted, words = (shape, "a step") if given.ndim == len(shape) > 1 else (shape[-1:], "a sequence")
        result *= _check.array("weights", given, wanted, "float64", meaning=f"(one {words})")
    if len(shape) > 1:
        result[~_extent.valid(_extent.checked(lengths, shape), shape)] = 0.0
    _check_weights(result)
    return result.ravel()


def _check_weights(weights: np.ndarray) -> None:
    wrong = ~((weights >= 0) & (weights < np.inf))
    if wrong.any():
        raise ValueError(f"weights: finite numbers of at least 0 are required; got {weights[wrong][0]}")


def _values(prediction: np.ndarray, target) -> np.ndarray:
    """Real targets as (N, O) float64."""
    given, shape = _array(target), prediction.shape
    if shape[-1] == 1 and given.ndim == len(shape) - 1:
        shape = shape[:-1]
    target = _check.array("target", given, shape, "float64", meaning="(the prediction's)")
    return target.reshape(-1, prediction.shape[-1])


def _share(correct: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of `correct` (N,); 0 where nothing counts, as for the loss."""
    total = weights.sum()
    return float((weights * correct).sum() / total) if total else 0.0


# Kernels: prediction, gradient (N, O) of one dtype; weights (N,) float64 and their sum; return the mean loss ---------


@kernel
def _cross_entropy(prediction, labels, weights, total, gradient, e):
    """labels (N,) int64, in range wherever the weight is not 0; e (O,) float64 is scratch."""
    value = 0.0
    for n in range(prediction.shape[0]):
        if weights[n] > 0.0:
            value += weights[n] * _loss.cross_entropy(prediction[n], labels[n], weights[n] / total, gradient[n], e)
    return value / total


@kernel
def _binary_cross_entropy(prediction, target, weights, total, gradient):
    """target (N, O) float64."""
    value = 0.0
    for n in range(prediction.shape[0]):
        if weights[n] > 0.0:
            value += weights[n] * _loss.binary_cross_entropy(prediction[n], target[n], weights[n] / total, gradient[n])
    return value / total


@kernel
def _mean_squared_error(prediction, target, weights, total, gradient):
    """target (N, O) float64."""
    value = 0.0
    for n in range(prediction.shape[0]):
        if weights[n] > 0.0:
            value += weights[n] * _loss.mean_squared_error(prediction[n], target[n], weights[n] / total, gradient[n])
    return value / total

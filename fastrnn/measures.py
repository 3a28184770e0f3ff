"""How far a free run is from the system it was to reproduce: errors by horizon, valid time, distributions, spectra.

Arrays in, numbers out; time first. Two chaotic trajectories part however good the model is, so beside the error there are
measures of the attractor: D_stsp (where it is), D_H (how it moves), and the energy coefficient (two clouds of states).
"""

import math

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.distance import cdist

from . import _check as check


def prediction_error(prediction, target) -> np.ndarray:
    """PE(n): mean squared error of predictions n = 1, 2, ... steps ahead.

    Parameters
    ----------
    prediction, target : array_like, shape (T, N, D)
        Entry t: t + 1 steps after the last value that was seen. N starts.

    Returns
    -------
    ndarray, shape (T,), float64
        PE(1) ... PE(T), each the mean over starts and variables.

    References
    ----------
    Hess et al. 2023, "Generalized teacher forcing for learning chaotic dynamics", ICML: PE(20).

    Examples
    --------
    >>> prediction_error(np.ones((3, 2, 1)), np.zeros((3, 2, 1)))
    array([1., 1., 1.])
    """
    prediction, target = _pair(prediction, target)
    return np.square(prediction - target).mean(axis=(1, 2))


def normalized_error(prediction, target, spread) -> np.ndarray:
    """Root of the mean squared error by horizon, every variable in units of its standard deviation.

    1 is what predicting the mean gives, √2 what another trajectory of the same system gives.

    Parameters
    ----------
    prediction, target : array_like, shape (T, N, D)
    spread : float or array_like, shape (D,)
        Standard deviations of the variables.

    Returns
    -------
    ndarray, shape (T,), float64

    Examples
    --------
    >>> normalized_error(np.ones((3, 2, 1)), np.zeros((3, 2, 1)), 2.0)
    array([0.5, 0.5, 0.5])
    """
    prediction, target = _pair(prediction, target)
    spread = _spread(spread, target.shape[2])
    return np.sqrt(prediction_error(prediction / spread, target / spread))


def valid_time(prediction, target, spread, *, step: float = 1.0, threshold: float = 0.5) -> np.ndarray:
    """How long each prediction is good: until its normalized error first reaches `threshold`.

    The error of one start at one time is the root of the mean over variables of ((prediction - target) / spread)².

    Parameters
    ----------
    prediction, target : array_like, shape (T, N, D)
    spread : float or array_like, shape (D,)
    step : float
        Length of a step. dt · λ, λ the largest Lyapunov exponent, gives Lyapunov times.
    threshold : float

    Returns
    -------
    ndarray, shape (N,), float64
        Number of steps before the first bad one, times `step`. T · `step` where none is bad: then T was too short. A value
        that is not finite is bad.

    References
    ----------
    Vlachas et al. 2020, "Backpropagation algorithms and reservoir computing in recurrent neural networks for the forecasting
    of complex spatiotemporal dynamics", Neural Networks 126: valid prediction time, threshold .5.

    Examples
    --------
    >>> prediction = np.array([0.0, 0.1, 0.2, 0.9, 0.0]).reshape(5, 1, 1)
    >>> valid_time(prediction, np.zeros((5, 1, 1)), 1.0, step=0.01)
    array([0.03])
    """
    prediction, target = _pair(prediction, target)
    spread, threshold = _spread(spread, target.shape[2]), check.real("threshold", threshold, positive=True)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.sqrt(np.square((prediction - target) / spread).mean(axis=2))
    good = np.logical_and.accumulate(error < threshold, axis=0)
    return good.sum(axis=0) * check.real("step", step, positive=True)


def state_space_divergence(target, run, *, bins: int = 30, smoothing: float = 1e-5) -> float:
    """D_stsp: Kullback-Leibler divergence of where a run is from where the system is, both counted in boxes.

    Σ_k p_k ln(p_k / q_k) over bins^D boxes, p of `target` and q of `run`. The boxes divide what `target` covers, and a
    tenth of a standard deviation more on every side. `smoothing` is added to every count (Laplace), so that no q_k is 0.
    What is outside, or not finite, counts as one more box, where p is 0.

    Parameters
    ----------
    target : array_like, shape (T, D)
    run : array_like, shape (T', D)
    bins : int
        Along each axis.
    smoothing : float

    Returns
    -------
    float
        In nats; 0 for equal counts.

    References
    ----------
    Koppe et al. 2019, PLoS Comput. Biol. 15; Hess et al. 2023: 30 bins, smoothing 1e-5.

    Examples
    --------
    >>> grid = np.linspace(0, 1, 1000)[:, None]
    >>> state_space_divergence(grid, grid)
    0.0
    """
    target, run = _finite("target", check.array("target", target, ("T", "D"), np.float64)), _states(run, "run")
    if run.shape[1] != target.shape[1]:
        raise ValueError(f"run: as many variables as target has, {target.shape[1]}, are required; got {run.shape[1]}")
    bins, smoothing = check.integer("bins", bins, 1), check.real("smoothing", smoothing, positive=True)
    total = bins ** target.shape[1]
    if total > 2**53:
        raise ValueError(f"bins: bins^D of at most 2^53 is required; got {bins}^{target.shape[1]}")
    margin = 0.1 * target.std(axis=0)
    low, high = target.min(axis=0) - margin, target.max(axis=0) + margin
    boxes, count_p = np.unique(_boxes(target, low, high, bins), return_counts=True)
    other, count_q = np.unique(_boxes(run, low, high, bins), return_counts=True)
    # Only boxes with something in them are kept; the empty ones of both are alike.
    every = np.union1d(boxes, other[other >= 0])
    p, q = np.zeros(len(every)), np.zeros(len(every))
    p[np.searchsorted(every, boxes)] = count_p
    q[np.searchsorted(every, other[other >= 0])] = count_q[other >= 0]
    sum_p, sum_q = len(target) + smoothing * total, len(run) + smoothing * total
    p, q = (p + smoothing) / sum_p, (q + smoothing) / sum_q
    empty = (total - len(every)) * smoothing / sum_p * math.log(sum_q / sum_p)
    return float(np.sum(p * np.log(p / q)) + empty)


def spectrum_distance(target, run, *, sigma: float = 20.0) -> float:
    """D_H: Hellinger distance of smoothed power spectra, mean over variables.

    √(1 - Σ_f √(F_f G_f)), F and G the spectra of one variable, each smoothed by a Gaussian and of sum 1.

    Parameters
    ----------
    target, run : array_like, shape (T, D)
    sigma : float
        Standard deviation of the Gaussian, in frequency bins of 1 / T a step; 0 does not smooth.

    Returns
    -------
    float
        From 0, equal, to 1. A variable that stands still has no spectrum: its distance is 1 from one that moves, and 0 from
        another that does not.

    References
    ----------
    Mikhaeil, Monfared & Durstewitz 2022, NeurIPS; Hess et al. 2023: sigma = 20.

    Examples
    --------
    >>> wave = np.sin(np.arange(1000))[:, None]
    >>> spectrum_distance(wave, 3 * wave) < 1e-7
    True
    """
    target = _finite("target", check.array("target", target, ("T", "D"), np.float64))
    run = _finite("run", check.array("run", run, target.shape, np.float64, meaning="(that of target)"))
    sigma = check.real("sigma", sigma, 0.0)
    distances = []
    for one, other in zip(target.T, run.T):
        still = [bool(np.all(values == values[0])) for values in (one, other)]
        if any(still):
            distances.append(0.0 if all(still) else 1.0)
        else:
            difference = np.sqrt(_spectrum(one, sigma)) - np.sqrt(_spectrum(other, sigma))
            distances.append(math.sqrt(difference @ difference / 2))  # the same, without the loss of digits in 1 - 1
    return float(np.mean(distances))


def energy_coefficient(a, b) -> float:
    """How far two clouds of points are apart, in any number of dimensions: 0 where they are distributed alike, at most 1.

    (2 E|A - B| - E|A - A'| - E|B - B'|) / 2 E|A - B| with Euclidean norms, means over all pairs of points.

    Parameters
    ----------
    a : array_like, shape (N, D)
    b : array_like, shape (M, D)
        Time and memory go as (N + M)²: some thousand points are enough.

    Returns
    -------
    float

    References
    ----------
    Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances", J. Stat. Plan. Inference 143:
    the coefficient H.

    Examples
    --------
    >>> energy_coefficient([[0.0], [1.0]], [[0.0], [1.0]]), energy_coefficient([[0.0]], [[2.0]])
    (0.0, 1.0)
    """
    a, b = _finite("a", _states(a, "a")), _finite("b", _states(b, "b"))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b: as many variables as a has, {a.shape[1]}, are required; got {b.shape[1]}")
    between = 2 * cdist(a, b).mean()
    if between == 0.0:
        return 0.0
    return float(max(between - cdist(a, a).mean() - cdist(b, b).mean(), 0.0) / between)


def _pair(prediction, target) -> tuple[np.ndarray, np.ndarray]:
    target = check.array("target", target, ("T", "N", "D"), np.float64)
    if not target.size:
        raise ValueError(f"target: at least one value is required; got shape {target.shape}")
    return check.array("prediction", prediction, target.shape, np.float64, meaning="(that of target)"), target


def _spread(value, D: int) -> np.ndarray:
    spread = check.array("spread", np.broadcast_to(value, (D,)) if np.ndim(value) == 0 else value, (D,), np.float64)
    if not (spread > 0).all():
        raise ValueError(f"spread: numbers greater than 0 are required; got {spread.min()}")
    return spread


def _states(value, name: str) -> np.ndarray:
    states = check.array(name, value, ("T", "D"), np.float64)
    if not states.size:
        raise ValueError(f"{name}: at least one state is required; got shape {states.shape}")
    return states


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not values.size or not np.isfinite(values).all():
        got = "a value that is not" if values.size else f"shape {values.shape}"
        raise ValueError(f"{name}: at least one value, and finite ones, are required; got {got}")
    return values


def _boxes(states: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """The number of the box each state is in; -1 outside."""
    width = np.where(high > low, high - low, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        place = (states - low) / width
        inside = ((place >= 0) & (place <= 1)).all(axis=1)
    axis = np.minimum((np.where(inside[:, None], place, 0.0) * bins).astype(np.int64), bins - 1)
    return np.where(inside, axis @ bins ** np.arange(states.shape[1]), -1)


def _spectrum(values: np.ndarray, sigma: float) -> np.ndarray:
    power = np.square(np.abs(np.fft.rfft(values - values.mean())))
    if sigma:
        power = gaussian_filter1d(power, sigma)
    return power / power.sum()

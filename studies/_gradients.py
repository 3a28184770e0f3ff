"""What `gradient_vanishing` computes: networks, the gradient's norm by lag, runs of training, closed forms."""

import math
from collections.abc import Iterator

import numpy as np

import fastrnn as fr
from fastrnn.initializers import Constant, Identity, Normal, Orthogonal, Sparse, SpectralRadius

RADII = (0.5, 0.9, 1.0, 1.1, 1.5)
FORGET_BIASES = (0, 1, 3)
STILL = {"bias_ih": Constant(0.0), "bias_hh": Constant(0.0)}


def network(kind: str, input_size: int, hidden_size: int, *, seed: int, dtype: str) -> fr.Recurrent:
    """A network by its name in the figures.

    "tanh 0.9" has spectral radius 0.9 and inputs weighted by N(0, 0.1^2) (Pascanu et al. 2013, "basic tanh"); "tanh" is
    their "smart tanh": 15 weights a row, spectral radius 0.95, inputs by N(0, 0.01^2); "orthogonal" has tanh units too;
    "irnn" is the network of Le et al. 2015: ReLU, W = I, inputs by N(0, 0.001^2); "lstm 1" has forget bias 1 and, as
    "gru", PyTorch's uniform weights otherwise.
    """
    options = {"seed": seed, "dtype": dtype}
    name, _, number = kind.partition(" ")
    if name == "lstm":
        return fr.LSTM(input_size, hidden_size, forget_bias=float(number), **options)
    if name == "gru":
        return fr.GRU(input_size, hidden_size, **options)
    if name == "irnn":
        start, activation = {"weight_hh": Identity(), "weight_ih": Normal(0.001)}, "relu"
    elif name == "orthogonal":
        start, activation = {"weight_hh": Orthogonal(), "weight_ih": Normal(0.1)}, "tanh"
    elif number:
        start, activation = {"weight_hh": SpectralRadius(float(number)), "weight_ih": Normal(0.1)}, "tanh"
    else:
        start = {"weight_hh": SpectralRadius(0.95, Sparse(15, 0.01)), "weight_ih": Normal(0.01)}
        activation = "tanh"
    return fr.RNN(input_size, hidden_size, activation=activation, initializers=start | STILL, **options)


# The gradient by lag --------------------------------------------------------------------------------------------------


def direction(rng: np.random.Generator, B: int, H: int) -> np.ndarray:
    """A random unit vector for each sequence, (1, B, H)."""
    vectors = rng.standard_normal((1, B, H))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def by_lag(net: fr.Recurrent, x, dh, state=None, *, tape=None) -> tuple[fr.Tape, fr.Gradients]:
    """Tape and gradients with dL/dh = `dh` (1, B, H) at the last step, and no loss before it."""
    if tape is None:
        _, _, tape = net.forward(x, state)
    last = dh if len(net.cell.states) == 1 else (dh, np.zeros_like(dh))
    return tape, net.backward(tape, dstate=last, details=True)


def norms(grads: fr.Gradients) -> np.ndarray:
    """Norm of the gradient by the whole state, (lags, B): of dL/dh, and of dL/dc with it where there is a c.

    By h alone a cell's memory would be missed, as it is in c.
    """
    squares = np.square(grads.h[-1], dtype=np.float64).sum(axis=-1)
    if grads.c is not None:
        squares = squares + np.square(grads.c[-1], dtype=np.float64).sum(axis=-1)
    return np.sqrt(squares[::-1])


def at_initialisation(settings: dict) -> dict:
    """Median over sequences of the norm by lag, (seeds, T), relative to lag 0; and what bounds it.

    `bound` is the largest ratio of a norm to ‖W‖^lag (tanh networks; NaN for the others), which Pascanu et al. 2013
    prove to be at most 1, as |tanh'| <= 1.
    """
    kind, T, B, H = (settings[key] for key in ("kind", "length", "sequences", "hidden"))
    curves, alone, bound = [], [], []
    for seed in range(settings["seeds"]):
        net, rng = network(kind, 6, H, seed=seed, dtype="float32"), np.random.default_rng((seed, 1))
        x, _, _ = fr.data.TemporalOrder(T).sample(B, rng)
        _, grads = by_lag(net, x, direction(rng, B, H))
        found = norms(grads)
        curves.append(np.median(found / found[0], axis=1))
        alone.append(np.median(np.linalg.norm(grads.h[-1], axis=-1)[::-1], axis=1))
        logarithms = np.log(np.maximum(found, 1e-300).max(axis=1))
        steps = np.arange(T) * math.log(np.linalg.norm(net.params["weight_hh_l0"], 2))
        bound.append(np.exp((logarithms - steps).max()) if isinstance(net, fr.RNN) else math.nan)
    return {"curves": np.array(curves), "h_alone": np.array(alone), "bound": np.array(bound)}


def memory(curve: np.ndarray, start: int = 1) -> float:
    """Effective memory: steps until the norm is half of what it is at lag `start`; inf if it never is.

    Counted from lag 1, past the readout's own step: through an LSTM's output gate that step costs a factor once, not
    once a step. Between lags the logarithm is interpolated, so that a^k gives ln 2 / -ln a.
    """
    if not curve[start] > 0.0:  # nothing got even that far: units that ReLU has switched off
        return 0.0
    relative = np.asarray(curve, float)[start:] / curve[start]
    below = np.flatnonzero(relative <= 0.5)
    if not below.size:
        return math.inf
    k = int(below[0])
    if relative[k] <= 0.0:
        return float(k)
    upper, lower = math.log(relative[k - 1]), math.log(relative[k])
    return k - 1 + (upper + math.log(2.0)) / (upper - lower)


# Training -------------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda rate: fr.SGD(rate),
    "SGD, clipped": lambda rate: fr.SGD(rate, clip_norm=1.0),
    "Adam, clipped": lambda rate: fr.Adam(rate, clip_norm=1.0),
    "RMSprop, clipped": lambda rate: fr.RMSprop(rate, clip_value=1.0),
}


def task_of(settings: dict):
    """The task that settings name."""
    length = settings["length"]
    if settings["task"] == "temporal order":
        return fr.data.TemporalOrder(length)
    return fr.data.Copy(length) if settings["task"] == "copy" else fr.data.Adding(length, "symmetric")


def model_for(task, settings: dict, seed: int) -> fr.Model:
    loss = fr.CrossEntropy() if task.loss == "cross_entropy" else fr.MeanSquaredError()
    net = network(settings["cell"], task.input_size, settings["hidden"], seed=seed, dtype="float32")
    return fr.Model(net, fr.Linear(net.output_size, task.output_size, seed=seed), loss=loss, readout=task.readout)


def race(settings: dict) -> dict:
    """One run a seed, all together; a run ends when no error is left on its test sequences, which are asked now and then.

    Returns
    -------
    dict
        One entry a seed: solved, the update at which it was, -1 if never; diverged; error, the fraction of test sequences wrong at the end.
    """

    def batches(seed: int) -> Iterator[tuple]:
        rng = np.random.default_rng((seed, 2))
        for _ in range(settings["updates"]):
            yield task.sample(settings["batch"], rng)

    task, seeds = task_of(settings), range(settings["seeds"])
    ensemble = fr.Ensemble.of([model_for(task, settings, seed) for seed in seeds])
    optimizer, until = OPTIMIZERS[settings["optimizer"]](settings["learning_rate"]), UntilSolved(task, settings["test_every"])
    history = fr.fit(ensemble, fr.PerMember(map(batches, seeds)), optimizer=optimizer, callbacks=until, progress=False)
    solved = [run.steps.rows if run.stopped == "callback" else -1 for run in history.members]
    error = [1.0 - solved_fraction(model, task, 1000, seed) for model, seed in zip(ensemble, seeds)]
    return {"solved": solved, "diverged": [seed in history.errors for seed in seeds], "error": error}


class UntilSolved(fr.Callback):
    """Ends the run of a seed, the member's number, that has solved its task."""

    def __init__(self, task, every: int):
        self.task, self.every = task, every

    def step(self, report) -> bool:
        return report.step % self.every == 0 and is_solved(report.model, self.task, report.member)


def train(settings: dict) -> dict:
    """One run of training: losses, and the gradient by lag at the updates asked for.

    Returns
    -------
    dict
        updates, diverged, loss (the mean of the last 100 updates' losses), error (fraction of test sequences wrong at the end), and
        for ``settings["probes"]``: curves (P, T), relative to lag 0; lag0 (P,); probe_loss (P,); radius (P,), the spectral radius of W
        for plain networks.
    """
    task, seed = task_of(settings), settings["seed"]
    model = model_for(task, settings, seed)
    rng, probe_rng = np.random.default_rng((seed, 2)), np.random.default_rng((seed, 3))
    probe = task.sample(settings["probe_sequences"], probe_rng) if settings["probes"] else None
    optimizer = OPTIMIZERS[settings["optimizer"]](settings["learning_rate"])
    state, losses, probes, diverged = optimizer.init(model.params), [], [], False
    for update in range(settings["updates"] + 1):
        if update in settings["probes"]:
            probes.append(probe_gradient(model, probe))
        if update == settings["updates"]:
            break
        step = model.gradient(*task.sample(settings["batch"], rng))
        losses.append(step.loss)
        try:
            state, _ = optimizer.update(model.params, step.grads, state)
        except FloatingPointError:
            diverged = True
            break
    error = math.nan if task.readout == "every" else 1.0 - solved_fraction(model, task, 1000, seed)
    result = {"updates": len(losses), "diverged": diverged, "loss": np.mean(losses[-100:]), "error": error}
    if settings["probes"]:
        names = ("curves", "lag0", "probe_loss", "radius")
        result |= {name: np.array(values) for name, values in zip(names, zip(*probes))}
    return result


def probe_gradient(model: fr.Model, batch) -> tuple[np.ndarray, float, float, float]:
    """(norm by lag relative to lag 0, norm at lag 0, loss, spectral radius) on a batch of sequences of one length."""
    (net, readout), (x, target, _) = model.layers, batch
    _, state, tape = net.forward(x)
    prediction, kept = readout.forward(net.final_output(state))
    loss, dprediction, _ = model.loss.value_and_gradient(prediction, target)
    dh, _ = readout.backward(kept, dprediction)
    found = norms(by_lag(net, x, dh[None], tape=tape)[1])
    W = net.params["weight_hh_l0"]
    radius = np.abs(np.linalg.eigvals(W)).max() if W.shape[0] == W.shape[1] else math.nan
    usable = found[:, found[0] > 0]
    if not usable.size:
        return np.full(len(found), math.nan), 0.0, loss, radius
    return np.median(usable / usable[0], axis=1), float(np.median(found[0])), loss, radius


def solved_fraction(model: fr.Model, task, n: int, seed: int) -> float:
    """The fraction of n fresh sequences that are right."""
    x, target, lengths = task.sample(n, np.random.default_rng((seed, 4)))
    return task.solved(model.predict(x, lengths), target)


def is_solved(model: fr.Model, task, seed: int) -> bool:
    """No error on 10 000 fresh sequences (Pascanu et al. 2013); a hundred are asked first, as most checks fail."""
    if solved_fraction(model, task, 100, seed) < 1.0:
        return False
    return all(solved_fraction(model, task, 1000, 10_000 * k + seed) == 1.0 for k in range(1, 11))


# Closed forms ---------------------------------------------------------------------------------------------------------


def linear_orthogonal(T: int, H: int, seeds: int) -> float:
    """Largest deviation from 1 of the norm in a linear network with orthogonal W."""
    worst = 0.0
    for seed in range(seeds):
        net = fr.RNN(2, H, activation="identity", dtype="float64", seed=seed, initializers={"weight_hh": Orthogonal()})
        rng = np.random.default_rng(seed)
        _, grads = by_lag(net, rng.standard_normal((T, 3, 2)), direction(rng, 3, H))
        worst = max(worst, np.abs(norms(grads) - 1).max())
    return worst


def leaky_decay(T: int, tau: float, dt: float) -> tuple[float, float]:
    """(largest relative deviation from a^k, effective memory) of leaky units without recurrent weights; a = exp(-dt/tau)."""
    net = fr.Leaky(1, 4, tau=tau, dt=dt, dtype="float64", initializers={"weight_hh": Constant(0.0)})
    rng = np.random.default_rng(0)
    _, grads = by_lag(net, rng.standard_normal((T, 3, 1)), direction(rng, 3, 4))
    found = norms(grads)
    return np.abs(found / np.exp(-np.arange(T) * dt / tau)[:, None] - 1).max(), memory(found[:, 0])


def lstm_carousel(T: int, H: int) -> float:
    """Largest relative deviation of dL/dc from sigmoid(b)^k, LSTM without recurrent weights, forget biases 0, 1, 3."""
    worst = 0.0
    for bias in FORGET_BIASES:
        start = {"weight_hh": Constant(0.0), "weight_ih": Constant(0.0)} | STILL
        net = fr.LSTM(1, H, forget_bias=float(bias), initializers=start)
        _, _, tape = net.forward(np.zeros((T, 1, 1)))
        grads = net.backward(tape, dstate=(np.zeros((1, 1, H)), np.ones((1, 1, H))), details=True)
        expected = (1 + math.exp(-bias)) ** -np.arange(T, dtype=float)
        worst = max(worst, np.abs(grads.c[0, ::-1, 0] / expected[:, None] - 1).max())
    return worst


def irnn_survivors(T: int, H: int, seeds: int) -> float:
    """Largest deviation of an IRNN's dL/dh_{T-k} from dL/dh_T of those units that were above 0 at all k steps."""
    worst = 0.0
    for seed in range(seeds):
        net, rng = network("irnn", 6, H, seed=seed, dtype="float32"), np.random.default_rng(seed)
        dh = direction(rng, 4, H)
        tape, grads = by_lag(net, fr.data.TemporalOrder(T).sample(4, rng)[0], dh)
        active = np.cumprod(tape.h[0, ::-1] > 0, axis=0)  # at steps T, T-1, ..., as seen from the end
        expected = dh.astype(np.float32) * active[:-1]
        worst = max(worst, np.abs(grads.h[0, ::-1][1:] - expected).max())
    return worst


def autonomous(g: float, H: int, seed: int) -> fr.RNN:
    """h' = tanh(W h), W_ij from N(0, g²/H)."""
    start = {"weight_hh": Normal(g / math.sqrt(H)), "weight_ih": Constant(0.0)} | STILL
    return fr.RNN(1, H, dtype="float64", seed=seed, initializers=start)


def mean_exponent(g: float, H: int, steps: int, seed: int, *, at_zero: bool = False) -> tuple[float, float]:
    """(from the determinant of the back-propagated basis, from <ln tanh'> + ln|det W| / N): the mean Lyapunov exponent.

    After 50 steps from a random state, or at the fixed point 0; a few steps only, as the determinant of many is lost in
    rounding. The H rows of the batch are one trajectory, and their gradients at the end the H unit vectors: what
    arrives `steps` earlier is the whole Jacobian dh_T/dh_{T-steps}.
    """
    net, rng = autonomous(g, H, seed), np.random.default_rng(seed)
    start = np.zeros(H) if at_zero else rng.standard_normal(H)
    tape, grads = by_lag(net, np.zeros((steps + 50, H, 1)), np.eye(H)[None], np.tile(start, (1, H, 1)))
    _, logarithm = np.linalg.slogdet(grads.h[0, -1 - steps])
    slopes = np.log1p(-np.square(tape.h[0, -steps:, 0]))  # ln tanh'
    _, determinant = np.linalg.slogdet(net.params["weight_hh_l0"])
    return logarithm / steps / H, slopes.mean() + determinant / H


def growth(g: float, H: int, seeds: int, lags: tuple[int, int], *, at_zero: bool) -> np.ndarray:
    """Slope of the logarithm of the gradient's norm between two lags, h' = tanh(W h), one a seed.

    At the fixed point 0, or past 500 steps from a random state, on the attractor.
    """
    before = 0 if at_zero else 500
    slopes = []
    for seed in range(seeds):
        net, rng = autonomous(g, H, seed), np.random.default_rng(seed)
        start = np.zeros((1, 4, H)) if at_zero else rng.standard_normal((1, 4, H))
        _, grads = by_lag(net, np.zeros((before + lags[1] + 1, 4, 1)), direction(rng, 4, H), start)
        logarithms = np.log(norms(grads)).mean(axis=1)
        slopes.append((logarithms[lags[1]] - logarithms[lags[0]]) / (lags[1] - lags[0]))
    return np.array(slopes)

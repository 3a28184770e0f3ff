"""What `truncation` computes: truncated gradients beside the full one, Aicher's bound, runs of training, influence balancing."""

import math
from collections.abc import Iterator

import _gradients as g
import numpy as np

import fastrnn as fr

# The bias of the gradient ---------------------------------------------------------------------------------------------


def model_for(settings: dict) -> tuple[fr.Model, object]:
    """(model, task) of a condition, in float64, so that a small bias is not rounding."""
    task = g.task_of(settings)
    loss = fr.CrossEntropy() if task.loss == "cross_entropy" else fr.MeanSquaredError()
    net = g.network(settings["cell"], task.input_size, settings["hidden"], seed=settings["seed"], dtype="float64")
    readout = fr.Linear(settings["hidden"], task.output_size, dtype="float64", seed=settings["seed"])
    return fr.Model(net, readout, loss=loss), task


def recurrent_gradient(model: fr.Model, batch, bptt) -> np.ndarray:
    """The gradient by the recurrent layer's parameters, flat. (That of the readout, at the last step, loses nothing.)"""
    step = next(model.passes(*batch, bptt=bptt))
    return step.grads.flat[: model.layers[0].params.flat.size]


def term_norms(model: fr.Model, batch) -> np.ndarray:
    """Norm of the term that each lag adds to the recurrent layer's gradient, (T, B): lag 0 first.

    The term of step t is dL/da_t times the inputs of its products: its squared norm is the sum over slots of (dL/da)², times
    |x_t|² + 1 where the slot takes the input, and |h_{t-1}|² + 1 where it takes the state (1 for the bias).
    """
    (net, readout), (x, target, _) = model.layers, batch
    _, state, tape = net.forward(x)
    prediction, kept = readout.forward(net.final_output(state))
    dprediction = model.loss.value_and_gradient(prediction, target)[1] * x.shape[1]  # of each sequence's own loss
    dh, _ = readout.backward(kept, dprediction)
    _, grads = g.by_lag(net, x, dh[None], tape=tape)
    h = np.concatenate([np.zeros_like(tape.h[0, :1]), tape.h[0, :-1]])
    input_part, state_part = (np.square(part, dtype=np.float64).sum(-1) + 1 for part in (x, h))
    squares = np.zeros(x.shape[:2])
    for slot in net.cell.slots:
        da = np.square(grads.preactivations[slot.name][0]).sum(-1)
        squares += da * ((slot.input is not None) * input_part + (slot.recurrent is not None) * state_part)
    return np.sqrt(squares)[::-1]


def measure(model: fr.Model, task, settings: dict, rng: np.random.Generator) -> dict:
    """Truncated gradients beside the full one.

    Returns
    -------
    dict
        For each window: bias, |E g_K - E g| / |E g|, the mean over all batches standing for E; cosine, of E g_K and E g; batch,
        the median over batches of |g_K - g| / |g|; norm, |E g_K|. And full, |E g|; terms (T,), the mean over sequences of the
        norm of each lag's term; loss.
    """
    batches = [task.sample(settings["batch"], rng) for _ in range(settings["batches"])]
    full = np.array([recurrent_gradient(model, batch, fr.Full()) for batch in batches])
    mean, result = full.mean(axis=0), {"bias": [], "cosine": [], "batch": [], "norm": []}
    for window in settings["windows"]:
        cut = np.array([recurrent_gradient(model, batch, fr.Truncated(window)) for batch in batches])
        short = cut.mean(axis=0)
        result["bias"].append(np.linalg.norm(short - mean) / np.linalg.norm(mean))
        result["cosine"].append(short @ mean / np.linalg.norm(short) / np.linalg.norm(mean))
        result["batch"].append(np.median(np.linalg.norm(cut - full, axis=1) / np.linalg.norm(full, axis=1)))
        result["norm"].append(np.linalg.norm(short))
    terms = np.mean([term_norms(model, batch).mean(axis=1) for batch in batches], axis=0)
    loss = np.mean([model.loss(model.predict(*batch[::2]), batch[1]) for batch in batches])
    return result | {"full": np.linalg.norm(mean), "terms": terms, "loss": loss}


def before_and_after(settings: dict) -> dict:
    """`measure` at initialisation and after training with the full gradient: arrays with one row for each of the two."""
    model, task = model_for(settings)
    rng = np.random.default_rng((settings["seed"], 5))
    before = measure(model, task, settings, rng)
    descend([model], task, settings, [settings["seed"]], fr.Full())
    after = measure(model, task, settings, rng)
    return {name: np.array([before[name], after[name]]) for name in before}


def decay(terms: np.ndarray, first: int, last: int) -> float:
    """The factor a lag by which the terms' norm decays: least squares on its logarithm over lags first ... last.

    Aicher, Foti & Fox 2019 estimate their β so; what lies beyond `last` is then predicted.
    """
    lags = np.arange(first, last + 1)
    usable = lags[terms[lags] > 0]
    return math.exp(np.polyfit(usable, np.log(terms[usable]), 1)[0]) if len(usable) > 1 else math.nan


def bound(terms: np.ndarray, beta: float, first: int, windows, norms) -> np.ndarray:
    """A bound δ(K) on the relative bias of windows K, from terms that decay by `beta` from lag `first` on; inf where it says nothing.

    What a window K leaves out is at most ε(K) = Σ_{k≥K} E φ_k, with E φ_k = E φ_first beta^(k - first) beyond `first`, and
    |g| >= |g_j| - ε(j) for every window j, so that δ(K) = ε(K) / max_{j<=K} (|g_j| - ε(j)) [Aicher, Foti & Fox 2019, section 3; their
    norm of dL/dh_{t-k} and their bound M on dh/dθ are here together the norm φ_k of the whole term].

    Parameters
    ----------
    terms : ndarray, shape (T,)
        E φ_k.
    windows, norms : array_like, shape (W,)
        Ascending; |E g_K| of each.
    """
    if not beta < 1:
        return np.full(len(windows), math.inf)
    k = np.arange(len(terms))
    modelled = np.where(k < first, terms, terms[first] * beta ** np.maximum(k - first, 0.0))
    beyond = terms[first] * beta ** (len(terms) - first) / (1 - beta)  # a bound does not know that sequences end
    left_out = np.append(np.cumsum(modelled[::-1])[::-1], 0.0)[np.asarray(windows)] + beyond
    known = np.maximum.accumulate(np.asarray(norms) - left_out)
    return np.where(known > 0, left_out / np.where(known > 0, known, 1.0), math.inf)


# Training -------------------------------------------------------------------------------------------------------------


def descend(models: list[fr.Model], task, settings: dict, seeds: list[int], bptt) -> np.ndarray:
    """Train on fresh sequences (Adam, its rate falling to 0, the norm clipped to 1), one update a batch; the losses (models, updates)."""

    def batches(seed: int) -> Iterator[tuple]:
        rng = np.random.default_rng((seed, 2))
        for _ in range(settings["updates"]):
            yield task.sample(settings["batch"], rng)

    rate = fr.schedules.CosineDecay(settings["learning_rate"], settings["updates"])
    data, optimizer = fr.PerMember(batches(seed) for seed in seeds), fr.Adam(rate, clip_norm=1.0)
    return fr.fit(fr.Ensemble.of(models), data, optimizer=optimizer, bptt=bptt, progress=False).column("loss", "step")


def train(settings: dict) -> dict:
    """Train one network a window and seed, all together: loss on 2000 fresh sequences and fraction solved, (windows, seeds) each."""
    runs = [(window, seed) for window in settings["windows"] for seed in range(settings["seeds"])]
    models, (task, *_) = zip(*(model_for(settings | {"seed": seed}) for _, seed in runs))
    losses = descend(models, task, settings, [seed for _, seed in runs], [fr.Truncated(window) for window, _ in runs])
    found = {"losses": losses, "loss": [], "solved": []}
    for model, (_, seed) in zip(models, runs):
        x, target, lengths = task.sample(2000, np.random.default_rng((seed, 6)))
        prediction = model.predict(x, lengths)
        found["loss"].append(model.loss(prediction, target))
        found["solved"].append(task.solved(prediction, target))
    shape = len(settings["windows"]), settings["seeds"]
    return {name: np.array(values).reshape(*shape, *np.shape(values)[1:]) for name, values in found.items()}


# Influence balancing --------------------------------------------------------------------------------------------------

POSITIVE, NEGATIVE = 10, 13  # 23 units, 13 minus: Tallec & Ollivier 2018
OPTIMUM = 1 / (2 * (POSITIVE - NEGATIVE))


def influence_model() -> fr.Model:
    """s_t = A s_{t-1} + θ (1, ..., 1, -1, ..., -1), A = 1/2 on the diagonal and above it; the first unit is to be 1.

    θ reaches a unit the later, the further it stands from the first: 10 units soon with +θ, then 13 with -θ. At rest the first
    unit is 2 θ (10 - 13). θ is the weight of a linear layer whose input is 1; all else stays as it is.
    """
    units = POSITIVE + NEGATIVE
    source, readout = (fr.Linear(*sizes, dtype="float64") for sizes in ((1, 1), (units, 1)))
    chain = fr.RNN(1, units, activation="identity", dtype="float64")
    for layer in (source, chain, readout):
        layer.params.flat[:] = 0.0
    source.params["weight"] = 0.5
    chain.params["weight_hh_l0"] = (np.eye(units) + np.eye(units, k=1)) / 2
    chain.params["weight_ih_l0"][:, 0] = np.repeat([1.0, -1.0], [POSITIVE, NEGATIVE])
    readout.params["weight"][0, 0] = 1.0
    return fr.Model(source, chain, readout, loss=fr.MeanSquaredError(), readout="every")


def at_rest(theta: float) -> np.ndarray:
    """The state that stays, (1, 1, 23): (1 - A) s = θ (1, ..., -1, ...)."""
    drive = 2 * theta * np.repeat([1.0, -1.0], [POSITIVE, NEGATIVE])
    return np.cumsum(drive[::-1])[::-1].reshape(1, 1, -1)


def influence(windows) -> np.ndarray:
    """d s_1 / dθ as far as each window sees it, in closed form.

    (A^k)_{1,1+j} = C(k, j) / 2^k, so that lag k adds 2 P(k, 10) - P(k, 23), where P(k, m) is the chance of fewer than m heads in
    k tosses. Over all lags P(., m) sums to 2 m: the full influence is 2 (10 - 13) = -6.
    """
    from scipy.stats import binom

    k = np.arange(max(windows))
    terms = 2 * binom.cdf(POSITIVE - 1, k, 0.5) - binom.cdf(POSITIVE + NEGATIVE - 1, k, 0.5)
    return np.cumsum(terms)[np.asarray(windows) - 1]


def mean_influence(window: int, stride: int) -> float:
    """The closed form for the mean over the last `stride` steps, of which the k-th last sees k steps less."""
    return influence(np.arange(window - stride + 1, window + 1)).mean()


def measured_influence(window: int, stride: int) -> float:
    """The same from the library's truncated gradient at rest, divided by dL/ds_1."""
    model, steps = influence_model(), stride * -(-window // stride)
    rest = at_rest(float(model.params["0.weight"][0, 0]))
    *_, last = model.passes(np.ones((steps, 1, 1)), np.ones((steps, 1, 1)), state=(rest,), bptt=fr.Truncated(window, stride))
    return last.grads["0.weight"][0, 0] / (2 * (rest[0, 0, 0] - 1))


def balance(settings: dict) -> dict:
    """θ in gradient descent on (s_1 - 1)² / 2 from θ = 1/2, at rest, an update every `stride` steps of one endless sequence.

    Returns
    -------
    dict
        theta (updates + 1,), and expected, the same from the chain's recursion and the closed form of what a window sees.
    """
    window, stride, updates, rate = (settings[key] for key in ("window", "stride", "updates", "learning_rate"))
    model, ones, course = influence_model(), np.ones((updates * stride, 1, 1)), []
    weight = model.params["0.weight"]
    for step in model.passes(ones, ones, state=(at_rest(0.5),), bptt=fr.Truncated(window, stride)):
        course.append(weight[0, 0])
        weight -= rate / 2 * step.grads["0.weight"]
    return {"theta": np.append(course, weight[0, 0]), "expected": expected_course(window, stride, updates, rate)}


def expected_course(window: int, stride: int, updates: int, rate: float) -> np.ndarray:
    """θ by hand: s_t from its recursion, and the gradient (s_1 - 1) times the influence that is seen."""
    sign, seen = np.repeat([1.0, -1.0], [POSITIVE, NEGATIVE]), influence(np.arange(1, window + 1))
    theta, s = [0.5], at_rest(0.5)[0, 0]
    for update in range(updates):
        gradient = 0.0
        for step in range(1, stride + 1):
            s = (s + np.append(s[1:], 0.0)) / 2 + theta[-1] * sign
            # at most as far as the sequence has come
            gradient += (s[0] - 1) * seen[min(window - stride + step, update * stride + step) - 1] / stride
        theta.append(theta[-1] - rate * gradient)
    return np.array(theta)

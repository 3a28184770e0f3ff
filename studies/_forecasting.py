"""What `exposure_bias` computes: data, networks, training under a forcing, and what a network does when left alone."""

import time
from functools import cache
from typing import NamedTuple

import character_model
import numpy as np
from scipy.special import log_softmax

import fastrnn as fr
from fastrnn import measures

TASKS = ("laser", "lorenz", "text")
WARM = 30  # steps that the network is shown before it is judged, or trained


class Data(NamedTuple):
    """What is to be gone on with.

    Attributes
    ----------
    train, test : ndarray, shape (steps, N, D), standardized; or (steps, 1), int64 tokens
    step : float
        Lyapunov times in a step; 1 where no exponent is known.
    symbols : int
        The size of the alphabet; 0 for series.
    """

    train: np.ndarray
    test: np.ndarray
    step: float
    symbols: int = 0


@cache
def load(task: str) -> Data:
    """Laser: the competition's 1000 points, and what came after. Lorenz: noise in training alone. Text: the first 80 and last 10 %."""
    if task == "laser":
        series = fr.data.santafe_laser().astype(float)
        series = (series - series[:1000].mean()) / series[:1000].std()
        return Data(series[:1000, None], series[1000:, None], 1.0)
    if task == "lorenz":
        system = fr.data.Lorenz63()
        return Data(system.sample(2000, 4, seed=1, noise=0.05), system.sample(3000, 8, seed=2), system.dt * system.lyapunov)
    text = character_model.read(None)
    training, _, test = character_model.split(text.tokens)
    return Data(training[:, None], test[:, None], 1.0, len(text.vocabulary))


def draw(series: np.ndarray, n: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """n windows of so many steps from anywhere: (steps, n, D), or (steps, n) tokens."""
    first, which = rng.integers(len(series) - steps + 1, size=n), rng.integers(series.shape[1], size=n)
    return series[first + np.arange(steps)[:, None], which]


# Networks and training ------------------------------------------------------------------------------------------------
#
# Most networks read a value and put out the next. Under generalized forcing a network reads nothing, and its state is drawn
# towards one that puts out the true value; left alone it just goes on.


def build(data: Data, settings: dict) -> fr.Model:
    """A next-step model. "output": no hidden-to-hidden weights; its only memory is the output that is fed back."""
    network, hidden, seed = (settings[key] for key in ("network", "hidden", "seed"))
    D = data.symbols or data.train.shape[2]
    first = [fr.Embedding(D, 24, seed=seed)] if data.symbols else []
    F = 24 if data.symbols else D if alpha_of(settings) is None else 1
    if network == "output":
        middle = fr.Linear(F, hidden, activation="tanh", seed=seed)
    else:
        middle = {"gru": fr.GRU, "rnn": fr.RNN}[network](F, hidden, seed=seed)
    loss = fr.CrossEntropy() if data.symbols else fr.MeanSquaredError()
    return fr.Model(*first, middle, fr.Linear(hidden, D, seed=seed + 1), loss=loss, readout="every")


def forcing_of(settings: dict):
    """The forcing that settings name. "scheduled .5": the teacher's probability falls linearly from 1 to .5; "generalized .1": alpha."""
    name, _, number = settings["forcing"].partition(" ")
    if name == "scheduled":
        return fr.ScheduledSampling(fr.forcing.LinearDecay(1.0, float(number), settings["updates"]))
    if name == "generalized":
        return fr.GeneralizedForcing(float(number))
    return {"teacher": fr.TeacherForcing(), "free": fr.FreeRunning()}[name]


def alpha_of(settings: dict) -> float | None:
    """How far the state is drawn to the truth; None where a network reads the truth instead."""
    forcing = forcing_of(settings)
    return forcing.alpha if isinstance(forcing, fr.GeneralizedForcing) else None


def gradient(model: fr.Model, window: np.ndarray, forcing, update: int, rng: np.random.Generator) -> fr.Params:
    """Of the loss over a window (WARM + T + 1, B, ...).

    A network that reads is shown the first WARM values, without a gradient; the state of one that does not begins where it puts out the
    first value.
    """
    if isinstance(forcing, fr.GeneralizedForcing):
        return model.gradient(nothing(window[1:]), window[1:], state=(goals(model, window[:1]),), forcing=forcing).grads
    _, state = model.run(window[:WARM])
    return model.gradient(window[WARM:-1], window[WARM + 1 :], state=state, forcing=forcing, update=update, rng=rng).grads


def goals(model: fr.Model, window: np.ndarray) -> np.ndarray:
    """The smallest states (T, B, H) that put out the values of a window."""
    weight, bias = (model.layers[-1].params[name].astype(float) for name in ("weight", "bias"))
    return (window - bias) @ np.linalg.pinv(weight).T


def nothing(window: np.ndarray) -> np.ndarray:
    return np.zeros((*window.shape[:2], 1), np.float32)


def train(settings: dict) -> dict:
    """One network under one forcing: errors as it learns, and everything about its free run at the end."""
    task, seed, updates = settings["task"], settings["seed"], settings["updates"]
    data = load(task)
    model, forcing = build(data, settings), forcing_of(settings)
    optimizer = fr.Adam(fr.schedules.CosineDecay(settings["rate"], updates), clip_norm=1.0)
    moments, rng, coins = optimizer.init(model.params), np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))
    at = np.unique(np.geomspace(1, updates, settings["evaluations"]).round().astype(int))
    course, seconds, alpha = [], 0.0, alpha_of(settings)
    size = settings["batch"], WARM + settings["length"] + 1
    # once for nothing: the time that compiling takes is not that of learning
    gradient(model, draw(data.train, *size, np.random.default_rng(0)), forcing, 0, np.random.default_rng(0))
    for update in range(1, updates + 1):
        window = draw(data.train, *size, rng)
        begin = time.process_time()
        grads = gradient(model, window, forcing, update - 1, coins)
        moments, _ = optimizer.update(model.params, grads, moments)
        seconds += time.process_time() - begin
        if update in at:
            one, curve, _ = judge(model, data, alpha, settings["starts"] // 4, 20)
            course.append((update, seconds, one, curve[-1]))
    names = ("update", "seconds", "one_step", "free_20")
    found = short_runs(model, data, alpha, settings["starts"], settings["horizon"][task])
    found |= long_runs(model, data, alpha, settings["runs"], settings["long"])
    if task == "laser":
        found["example"] = competition(model, data)
    return dict(zip(names, np.array(course).T)) | found | {"weights": model.params.flat.size}


# Judging --------------------------------------------------------------------------------------------------------------


def forced(model: fr.Model, window: np.ndarray, alpha: float | None) -> tuple[np.ndarray, np.ndarray, tuple]:
    """(predictions of window[1:], outputs of the layer below the last at each, its state at the end), shown the truth.

    With `alpha` None the truth is read; else the state is drawn towards it by so much.
    """
    *layers, last = model.layers
    if alpha is not None:
        goal = goals(model, window)
        y, state, _ = layers[0].forward(nothing(window[1:]), goal[:1], pull=(goal[1:], np.full(len(window) - 1, alpha)))
    else:
        y = window[:-1]
        for layer in layers:
            y = layer(y)[0] if isinstance(layer, fr.Recurrent) else layer.forward(y)[0]
        state = None
    return last.forward(y)[0], y, state


def generate(model: fr.Model, prefix: np.ndarray, steps: int, alpha: float | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the network goes on with after a prefix, (steps, B, D) or (steps, B) tokens, each drawn from its distribution; and the
    outputs of the layer below the last on the way."""
    if alpha is not None:
        _, _, state = forced(model, prefix, alpha)
        y, _ = model.layers[0](np.zeros((steps, prefix.shape[1], 1)), state)
        return model.layers[1].forward(y)[0], y
    found = model.generate(prefix, steps, seed=seed)
    run = found.outputs if found.symbols is None else found.symbols
    # a run that reads what it wrote goes through the same states as when it wrote it
    _, y, _ = forced(model, np.concatenate([prefix, run]), None)
    return run, y[-steps:]


def judge(model: fr.Model, data: Data, alpha: float | None, starts: int, horizon: int):
    """(one-step error, free-running error by horizon, and what they are of: truth, free run, states of both, what follows).

    Normalized errors of series; bits of symbols. The free run of a text is a sample: its error at horizon n is what the true
    symbol costs after n - 1 symbols of the network's own.
    """
    window = draw(data.test, starts, WARM + 1 + horizon, np.random.default_rng(99))
    truth = window[-horizon:]
    shown, states, _ = forced(model, window, alpha)
    free, own = generate(model, window[:-horizon], horizon, alpha, 95)
    if data.symbols:
        logits, _ = model.layers[-1].forward(own)
        one, curve = bits(shown[-horizon:], truth).mean(), bits(logits, truth).mean(axis=1)
    else:
        spread = data.test.std(axis=(0, 1))
        one, curve = (measures.normalized_error(x, truth, spread) for x in (shown[-horizon:], free))
        one = np.sqrt(np.square(one).mean())
    return one, curve, (truth, free, states[-horizon:], own)


def short_runs(model: fr.Model, data: Data, alpha: float | None, starts: int, horizon: int) -> dict:
    """What can be held against the truth step by step, and the states on the way; a `_floor` is what other truth gives."""
    one, curve, (truth, free, states, own) = judge(model, data, alpha, starts, horizon)
    _, other, _ = forced(model, draw(data.test, starts, WARM + 1 + horizon, np.random.default_rng(96)), alpha)
    found = {"one": one, "curve": curve}
    for name, cloud in (("states", own), ("states_floor", other[-horizon:])):
        found[name] = measures.energy_coefficient(some(states), some(cloud))
    if data.symbols:
        return found
    found["valid"] = measures.valid_time(free, truth, data.test.std(axis=(0, 1)), step=data.step)
    return found | {"pe20": measures.prediction_error(free, truth)[19]}


def competition(model: fr.Model, data: Data) -> np.ndarray:
    """The task of the competition: the 100 values after those for training, true and as the network goes on, (2, 100)."""
    run, _ = generate(model, data.train[-WARM - 1 :, :1], 100, None, 0)
    return np.stack([data.test[:100, 0, 0], run[:, 0, 0]])


def some(states: np.ndarray) -> np.ndarray:
    """Two thousand of the states (T, B, H)."""
    states = states.reshape(-1, states.shape[2])
    return states[np.random.default_rng(5).choice(len(states), min(len(states), 2000), replace=False)]


def long_runs(model: fr.Model, data: Data, alpha: float | None, runs: int, steps: int) -> dict:
    """What is left when every trajectory has parted from the truth: where the runs are, and how they move."""
    here, elsewhere = (draw(data.test, runs, WARM + 1 + steps, np.random.default_rng(seed)) for seed in (98, 97))
    run, truth, other = generate(model, here[:-steps], steps, alpha, 94)[0], here[-steps:], elsewhere[-steps:]
    if data.symbols:
        divergences = [pair_divergence(data.test, x, data.symbols) for x in (run, other)]
        return dict(zip(("d_stsp", "d_stsp_floor"), divergences)) | {"sample": run[:, 0]}
    divergences = [measures.state_space_divergence(embed(data.test), embed(x)) for x in (run, other)]
    distances = [np.mean([measures.spectrum_distance(truth[:, k], x[:, k]) for k in range(runs)]) for x in (run, other)]
    return dict(zip(("d_stsp", "d_stsp_floor", "d_h", "d_h_floor"), divergences + distances))


def bits(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Bits that each token costs, (T, B)."""
    logp = log_softmax(logits.astype(np.float64), axis=2)
    return -np.take_along_axis(logp, tokens[..., None], axis=2)[..., 0] / np.log(2)


def embed(series: np.ndarray) -> np.ndarray:
    """Points of state space (n, 3): the three variables, or, of one, its values at t, t - 2 and t - 4."""
    if series.shape[2] == 1:
        series = np.concatenate([series[4:], series[2:-2], series[:-4]], axis=2)
    return series.reshape(-1, series.shape[2])


def pair_divergence(text: np.ndarray, run: np.ndarray, symbols: int) -> float:
    """Jensen-Shannon divergence in bits of pairs of neighbours in two texts (T, N)."""
    p, q = (np.bincount((x[:-1] * symbols + x[1:]).ravel(), minlength=symbols**2) / x[1:].size for x in (text, run))
    middle = (p + q) / 2
    return float(sum(np.sum(a[a > 0] * np.log2(a[a > 0] / middle[a > 0])) for a in (p, q)) / 2)


def speed(settings: dict) -> dict:
    """Time of one gradient under teacher forcing, in milliseconds, many times, on one core."""
    data, times, threads = load("lorenz"), [], fr.get_num_threads()
    model = build(data, settings)
    window = draw(data.train, settings["batch"], settings["length"] + 1, np.random.default_rng(0))
    fr.set_num_threads(1)
    for _ in range(settings["repeats"]):
        begin = time.process_time()
        model.gradient(window[:-1], window[1:])
        times.append(1e3 * (time.process_time() - begin))
    fr.set_num_threads(threads)
    return {"milliseconds": np.array(times[1:])}  # the first may compile

"""What `two_dimensions` computes: warped images, networks of equal size, the gradient's norm by distance, runs of training."""

import math
import time

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

import fastrnn as fr

KINDS = ("2-D lstm", "row lstm", "row blstm")
RECIPES = {  # readout, rate: of each kind the better of four, by the accuracy on clean test digits
    "2-D lstm": ("mean", 2e-2),
    "row lstm": ("last", 1e-2),
    "row blstm": ("mean", 2e-2),
}


# Images ---------------------------------------------------------------------------------------------------------------


def warp(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Images (N, R, C) elastically deformed [Simard, Steinkraus & Platt 2003], every one by a field of its own.

    Displacements drawn uniformly are smoothed by a Gaussian of C / 7 pixels and scaled to a root mean square of `strength`
    C pixels. Their sigma 4 and alpha 34 on 29 columns, with which Graves et al. 2007 warp MNIST's test set, are C / 7 and,
    by E|d|² = 2 / 3 (alpha / sigma)² / 4 pi, a strength of .07.
    """
    if strength == 0.0:
        return images
    N, R, C = images.shape
    field = np.random.default_rng(seed).uniform(-1, 1, (N, 2, R, C))
    field = gaussian_filter(field, (0, 0, C / 7, C / 7), mode="reflect")
    field *= strength * C / np.sqrt(np.square(field).sum(axis=1).mean(axis=(1, 2)))[:, None, None, None]
    places = np.indices((R, C)) + field
    # beyond the border there is paper, which a pixel near it may have a share of
    moved = [map_coordinates(image, place, order=1, mode="grid-constant") for image, place in zip(images, places)]
    return np.stack(moved).astype(np.float32)


def shifted(images: np.ndarray) -> np.ndarray:
    """Images (N, R, C), and copies moved by a pixel in every direction: (5 N, R, C)."""
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    R, C = images.shape[1:]
    return np.concatenate([wide[:, i : i + R, j : j + C] for i, j in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))])


def data_of(settings: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(images, labels, test images, test labels), standardised by the training images."""
    data = fr.data.mnist(settings["mnist"]) if settings["mnist"] else fr.data.digits()
    parts = []
    for part, count in ((data.train, settings["train"]), (data.test, settings["test"])):
        parts += [np.stack(part.x[:count]), part.target[:count]]
    return tuple(parts)


# Networks -------------------------------------------------------------------------------------------------------------


def model_of(kind: str, hidden: int, columns: int, *, seed: int) -> fr.Model:
    """A network of that kind with a linear layer to ten classes."""
    if kind == "2-D lstm":
        net = fr.Recurrent2D("lstm", 1, hidden, corner="all", seed=seed)
    else:
        net = fr.LSTM(columns, hidden, bidirectional=kind == "row blstm", seed=seed)
    return fr.Model(net, fr.Linear(net.output_size, 10, seed=seed), loss=fr.CrossEntropy(), readout=RECIPES[kind][0])


def size_of(kind: str, parameters: int, columns: int) -> int:
    """The number of hidden units with which a network comes closest to so many parameters."""

    def distance(hidden):
        return abs(model_of(kind, hidden, columns, seed=0).params.flat.size - parameters)

    return min(range(2, 160), key=distance)


def inputs_of(kind: str, images: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """Pixels (R, C, N, 1) for two dimensions, else a row a step (R, N, C)."""
    x = (images - np.float32(mean)) / np.float32(spread)
    return np.ascontiguousarray(x.transpose(1, 2, 0)[..., None] if kind == "2-D lstm" else x.transpose(1, 0, 2))


class Noisy:
    """Batches with Gaussian noise on the inputs, drawn anew for every epoch."""

    def __init__(self, x, target, noise: float, batch: int, seed: int):
        self.batches, self.noise, self.seed = fr.data.Batches(x, target, batch_size=batch, seed=seed), np.float32(noise), seed

    def __len__(self):
        return len(self.batches)

    def epoch(self, k: int):
        rng = np.random.default_rng((self.seed, k))
        for batch in self.batches.epoch(k):
            yield batch._replace(x=batch.x + self.noise * rng.standard_normal(batch.x.shape, dtype=np.float32))


def train(settings: dict) -> dict:
    """One run of training.

    Returns
    -------
    dict
        right (strengths,): how many warped test images are classified correctly; train: accuracy on the training images; seconds;
        parameters; and for a 2-D network `curve`, the gradient's norm by distance after training.
    """
    kind, seed = settings["kind"], settings["seed"]
    images, target, tested, expected = data_of(settings)
    if settings["shifted"]:
        images, target = shifted(images), np.tile(target, 5)
    mean, spread = float(images.mean()), float(images.std())
    model = model_of(kind, settings["hidden"], images.shape[2], seed=seed)
    x = inputs_of(kind, images, mean, spread)
    batches = Noisy(x, target, settings["noise"], settings["batch"], seed)
    schedule = fr.schedules.CosineDecay(RECIPES[kind][1], settings["epochs"] * len(batches))
    begin = time.perf_counter()
    fr.fit(model, batches, epochs=settings["epochs"], optimizer=fr.Adam(schedule, clip_norm=1.0), progress=False)
    seconds = time.perf_counter() - begin
    right = []
    for k, strength in enumerate(settings["strengths"]):
        prediction = model.predict(inputs_of(kind, warp(tested, strength, seed=k), mean, spread))
        right.append(int((prediction.argmax(axis=1) == expected).sum()))
    result = {"right": np.array(right), "tested": len(expected), "seconds": seconds, "parameters": model.params.flat.size}
    result["train"] = model.evaluate(x, target)["accuracy"]
    if kind == "2-D lstm":
        few = inputs_of(kind, tested[:50], mean, spread)
        result["curve"] = np.median(relative(by_distance(model.layers[0], few, seed)), axis=1)
    return result


# The gradient by distance ---------------------------------------------------------------------------------------------


def by_distance(net: fr.Recurrent2D, x, seed: int) -> np.ndarray:
    """Norm of the gradient by the whole state, (distances, B), from a random direction of it where the first corner's run ends.

    Over all pixels of one Manhattan distance from there, all units, and h and c: what arrives in all from the loss.
    """
    _, state, tape = net.forward(x)
    parts, rng = state if isinstance(state, tuple) else (state,), np.random.default_rng(seed)
    dstate = tuple(np.zeros_like(part) for part in parts)
    for part in dstate:
        part[0] = rng.standard_normal(part.shape[1:])
    grads = net.backward(tape, None, dstate, details=True)
    squares = np.square(grads.h[0], dtype=np.float64).sum(axis=-1)
    if grads.c is not None:
        squares = squares + np.square(grads.c[0], dtype=np.float64).sum(axis=-1)
    rows, columns = np.indices(x.shape[:2])
    distance = (x.shape[0] - 1 - rows) + (x.shape[1] - 1 - columns)
    return np.sqrt([squares[distance == k].sum(axis=0) for k in range(distance.max() + 1)])


def relative(norms: np.ndarray) -> np.ndarray:
    """Norms by distance, those one pixel away being 1: past the step through the output gate, which is taken once."""
    return norms / norms[1]


def at_initialisation(settings: dict) -> dict:
    """Median over images of the norm by distance, (seeds, distances), on images of noise."""
    kind, side = settings["kind"], settings["side"]
    curves = []
    for seed in range(settings["seeds"]):
        cell, _, bias = kind.partition(" ")
        net = fr.Recurrent2D(cell, 1, settings["hidden"], dtype="float64", seed=seed)
        if bias:
            H = settings["hidden"]
            net.params["bias_ih_tl"][H : 3 * H], net.params["bias_hh_tl"][H : 3 * H] = float(bias), 0.0
        x = np.random.default_rng(seed).standard_normal((side, side, settings["images"], 1))
        curves.append(np.median(relative(by_distance(net, x, seed)), axis=1))
    return {"curves": np.array(curves)}


def paths(f: float, distances: int) -> np.ndarray:
    """The closed form of an LSTM without recurrent weights, its forget gates both f, 1 at distance 1.

    On each of the binom(k, i) paths to a pixel that is i rows and k - i columns away dL/dc falls by f a step; over all pixels of
    distance k the norm is f^k sqrt(binom(2k, k)), about (2 f)^k / (pi k)^(1/4).
    """
    k = np.arange(distances)
    logarithms = [n * math.log(f) + 0.5 * math.log(math.comb(2 * n, n)) for n in k]
    return np.exp(np.array(logarithms) - logarithms[1])


def carousel(side: int, bias: float) -> float:
    """Largest relative deviation of the measured norm from `paths`, for distances less than `side`."""
    nothing = fr.initializers.Constant(0.0)
    start = dict.fromkeys(("weight_ih", "weight_up", "weight_left", "bias_hh", "bias_ih"), nothing)
    net = fr.Recurrent2D("lstm", 1, 3, dtype="float64", initializers=start)
    net.params["bias_ih_tl"][3:9] = bias
    x = np.zeros((side, side, 1, 1))
    found = relative(by_distance(net, x, 0))[1:side, 0]
    return float(np.abs(found / paths(1 / (1 + math.exp(-bias)), side)[1:] - 1).max())

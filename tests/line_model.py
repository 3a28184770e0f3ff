"""A model that is linear, in NumPy, with the interface of fastrnn.Model: where what is tested is the course of training."""

import signal
from typing import Any, NamedTuple

import numpy as np

from fastrnn._params import Params
from fastrnn.losses import CrossEntropy
from fastrnn.model import Model
from fastrnn.optimizers import SGD
from fastrnn.train import fit


class Pass(NamedTuple):
    loss: float
    grads: Params
    state: Any
    prediction: np.ndarray
    weight: float


class Line:
    """Prediction w · (sum of x over the valid steps) + b. The sum is the state, `bptt` the updates a batch."""

    readout, loss, _images = "last", CrossEntropy(), False
    _target_weight = Model._target_weight

    def __init__(self, size=2, dropout=0.0, hook=lambda: None, dtype="float64"):
        self.params = Params({"w": (size,), "b": ()}, dtype)
        self.dropout, self.hook = dropout, hook

    def config(self):
        return {"size": self.params.shapes["w"][0], "dropout": self.dropout}

    def passes(self, x, target, lengths=None, *, weights=None, state=None, bptt=1, rng=None):
        state = np.zeros(x.shape[1:]) if state is None else state
        valid = np.arange(len(x))[:, None] < (len(x) if lengths is None else lengths)
        weights = np.ones(x.shape[1]) if weights is None else weights
        for steps in np.array_split(np.arange(len(x)), bptt):
            self.hook()
            state = state + np.where(valid[steps, :, None], x[steps], 0.0).sum(0)
            mask = rng.random(state.shape) >= self.dropout
            error = (mask * state) @ self.params["w"] + self.params["b"] - target
            weight = weights.sum()
            grads = self.params.like()
            grads["w"], grads["b"] = 2 * (weights * error) @ (mask * state) / weight, 2 * (weights @ error) / weight
            yield Pass(weights @ error**2 / weight, grads, state, error + target, weight)

    def evaluate(self, x, target, lengths=None, weights=None):
        self.hook()
        valid = np.arange(len(x))[:, None] < (len(x) if lengths is None else lengths)
        error = np.where(valid[:, :, None], x, 0.0).sum(0) @ self.params["w"] + self.params["b"] - target
        weights = np.ones(x.shape[1]) if weights is None else weights
        return {"loss": weights @ error**2 / weights.sum(), "sign": weights @ (error > 0) / weights.sum()}


def line_data(n=20, seed=0, T=4):
    """x, target, lengths of a task that Line can solve exactly."""
    rng = np.random.default_rng(seed)
    x, lengths = rng.normal(size=(T, n, 2)), rng.integers(1, T + 1, n)
    x *= (np.arange(T)[:, None] < lengths)[:, :, None]
    return x, x.sum(0) @ [1.0, -2.0] + 0.5, lengths


DATA = line_data()


def sgd(rate=0.02, **options):
    return SGD(rate, momentum=0.5, **options)


def trained(model=None, data=DATA, optimizer=None, **options):
    """A fresh model's weights after training, and the history."""
    model = Line() if model is None else model
    history = fit(model, data, optimizer=optimizer or sgd(), **options)
    return model.params.flat.copy(), history


def columns(history):
    """Everything in a history, as bytes."""
    return [
        {name: (column.dtype, column.tobytes()) for name, column in table.items()}
        for table in (history.steps, history.epochs)
    ]


class Scripted(Line):
    """A model whose validation loss follows a script, and whose weights change every epoch."""

    def __init__(self, losses):
        super().__init__()
        self.losses = iter(losses)

    def evaluate(self, *arguments):
        return {"loss": next(self.losses)}


class Ticks:
    """Ctrl-C at a chosen moment: the instrumented places call this, and call number `at` raises the signal."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __call__(self, *ignored):
        self.count += 1
        if self.count == self.at:
            signal.raise_signal(signal.SIGINT)

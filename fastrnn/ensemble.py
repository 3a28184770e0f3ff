"""Many models of one shape, trained in one call on the member axis of the kernels."""

import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from . import _check
from ._members import LAYERS, Members
from ._params import Params
from .model import Model

BLOCK = 64  # members that predict at a time: what they put out stays in a cache


class PerMember:
    """Data of its own for every member: ``fr.fit(ensemble, fr.PerMember([data_0, data_1, ...]))``.

    Parameters
    ----------
    sets : list
        One entry a member, each as `fit` takes it for one model.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> sets = fr.PerMember([(np.zeros((5, n, 2)), np.zeros(n, int)) for n in (10, 20)])
    >>> len(sets)
    2
    """

    def __init__(self, sets: Iterable):
        self.sets = list(sets)
        if not self.sets:
            raise ValueError("sets: one data set a member is required; got none")

    def __len__(self) -> int:
        return len(self.sets)


class Ensemble:
    """Models of one shape, each with weights, seed and course of its own.

    `fit` trains all of them in one call. Member e ends with the weights, and has the history, bit for bit, that
    ``fit(ensemble.members[e], ..., seed=ensemble.seeds[e])`` would have given it alone.

    Parameters
    ----------
    model : Model
        What the members are like; it stays as it is. Layers may be Recurrent (LSTM, GRU, RNN, ...), Linear, Embedding and Dropout.
    members : int, optional
        As many as there are seeds by default.
    seeds : sequence of int, optional
        One a member, 0, 1, 2, ... by default. All weights are drawn anew, with the initializers of `model`: layer k of n as if it had been
        built with ``seed=seeds[e] * n + k``. `fit` takes a member's order of the data and its dropout from its seed, too.
    gain : float or sequence of float
        Multiplies the recurrent weights (``weight_hh_...``) as they were drawn; one number, or one a member.

    Attributes
    ----------
    members : tuple of Model
        Each can be used as any other model; its parameters are a row of the ensemble's.
    params : Params
        Those of all members: ``ensemble.params["1.weight"]`` has a leading axis of members. ``params.flat`` is (members, n).
    seeds : tuple of int

    See Also
    --------
    Ensemble.of : an ensemble of models given one by one.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> model = fr.Model(fr.LSTM(2, 8), fr.Linear(8, 3), loss=fr.CrossEntropy())
    >>> ensemble = fr.Ensemble(model, members=4)
    >>> ensemble.predict(np.zeros((10, 5, 2))).shape
    (4, 5, 3)
    >>> x, target = np.random.default_rng(0).normal(size=(10, 32, 2)), np.arange(32) % 3
    >>> history = fr.fit(ensemble, (x, target), optimizer=[fr.Adam(rate) for rate in (1e-4, 1e-3, 1e-2, 1e-1)], epochs=2)
    >>> history["loss"].shape
    (4, 2)
    """

    def __init__(self, model: Model, members: int | None = None, *, seeds: Sequence[int] | None = None, gain=1.0):
        if not isinstance(model, Model):
            raise TypeError(f"model: a fastrnn.Model is required; got {type(model).__name__}")
        count = _check.integer("members", members, 1) if members is not None else None
        seeds = _seeds(seeds, count)
        gains = [_check.real("gain", value) for value in (gain if np.ndim(gain) else [gain] * len(seeds))]
        if len(gains) != len(seeds):
            raise ValueError(f"gain: a number, or {len(seeds)} of them, one a member, is required; got {len(gains)}")
        _check_model(model)
        self._take([_drawn(model, seed, factor) for seed, factor in zip(seeds, gains)], seeds)

    @classmethod
    def of(cls, models: Iterable[Model], *, seeds: Sequence[int] | None = None) -> "Ensemble":
        """An ensemble of these models, which become its members: their parameters move into its buffer, with the values they have.

        Parameters
        ----------
        models : iterable of Model
            Of one shape: the same layers and options, but for seeds.
        seeds : sequence of int, optional
            One a member, for `fit`; 0, 1, 2, ... by default.

        Examples
        --------
        >>> import fastrnn as fr
        >>> models = [fr.Model(fr.RNN(1, 4, seed=s), fr.Linear(4, 1), loss=fr.MeanSquaredError()) for s in range(3)]
        >>> ensemble = fr.Ensemble.of(models)
        >>> ensemble.members[2] is models[2], ensemble.params.flat.shape
        (True, (3, 33))
        """
        models = list(models)
        if not models or not all(isinstance(model, Model) for model in models):
            got = ", ".join(sorted({type(model).__name__ for model in models})) or "none"
            raise TypeError(f"models: at least one fastrnn.Model is required; got {got}")
        if len(set(map(id, models))) < len(models):
            raise ValueError("models: each model may appear once; copy.deepcopy makes a second one")
        for e, model in enumerate(models):
            _check_model(model)
            if _without_seeds(model.config()) != _without_seeds(models[0].config()) or _cells(model) != _cells(models[0]):
                raise ValueError(f"models: models of one shape are required; number {e} differs from the first in more than seeds")
        ensemble = object.__new__(cls)
        ensemble._take(models, _seeds(seeds, len(models)))
        return ensemble

    def _take(self, models: list[Model], seeds: tuple[int, ...]) -> None:
        """Make these the members."""
        first = models[0].params
        self.params = Params(first.shapes, first.dtype, np.stack([model.params.flat for model in models]))
        for model, flat in zip(models, self.params.flat):
            model.own(Params(first.shapes, first.dtype, flat))
        self.members, self.seeds = tuple(models), seeds
        layers = zip(*(model.layers for model in models))
        self.constants = [_joined(own) for own in layers]  # the fixed parameters of every layer, with a member axis

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.members)

    def __deepcopy__(self, memo) -> "Ensemble":
        new = object.__new__(type(self))
        memo[id(self)] = new
        new._take([copy.deepcopy(model, memo) for model in self.members], self.seeds)
        return new

    def __repr__(self) -> str:
        return f"Ensemble({len(self)} members of {self.params.flat.shape[1]} parameters; {self.params.dtype})"

    def predict(self, x, lengths=None) -> np.ndarray:
        """Every member's output for the same x, as `Model.predict` has it, with a leading axis of members."""
        x, lengths = self.members[0]._inputs(x, lengths)
        return np.concatenate([self._predict(x, lengths, rows) for rows in _blocks(np.arange(len(self)))])

    def evaluate(self, x, target, lengths=None, weights=None, *, rows=None) -> dict[str, np.ndarray]:
        """Loss and metrics of every member on the same data, as `Model.evaluate` has them: one number a member.

        `rows`: the numbers of some members; all by default.
        """
        model = self.members[0]
        x, lengths = model._inputs(x, lengths)
        limits = lengths if model.readout == "every" else None
        found: dict[str, list[float]] = {}
        for block in _blocks(np.arange(len(self)) if rows is None else np.asarray(rows)):
            for prediction in self._predict(x, lengths, block):
                values = {"loss": model.loss(prediction, target, limits, weights)} | model.loss.metrics(prediction, target, limits, weights)
                for name, value in values.items():
                    found.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in found.items()}

    def _predict(self, x, lengths, rows: np.ndarray) -> np.ndarray:
        members = Members(self.members[0], self.params, self.constants, rows)
        return members._forward(x[None], lengths[None], None, None, record=False)[0]


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[k : k + BLOCK] for k in range(0, len(rows), BLOCK)]


def _seeds(seeds, members: int | None) -> tuple[int, ...]:
    if seeds is None:
        if members is None:
            raise ValueError("members: their number, or seeds, is required; got neither")
        return tuple(range(members))
    seeds = tuple(_check.integer(f"seeds[{e}]", seed, 0) for e, seed in enumerate(seeds))
    if not seeds or (members is not None and len(seeds) != members):
        raise ValueError(f"seeds: {members or 'at least one'}, one a member, are required; got {len(seeds)}")
    return seeds


def _check_model(model: Model) -> None:
    for layer in model.layers:
        if not isinstance(layer, LAYERS):
            wanted = ", ".join(kind.__name__ for kind in LAYERS)
            raise ValueError(f"model: layers of an ensemble are {wanted}; got {type(layer).__name__}. Train such models one by one")
    if model.loss.per_sequence:
        raise ValueError(f"model: {type(model.loss).__name__} is not for an ensemble. Train such models one by one")


def _drawn(model: Model, seed: int, gain: float) -> Model:
    """A copy of `model` with weights of its own."""
    new = copy.deepcopy(model)
    for k, layer in enumerate(new.layers):
        layer.draw(seed * len(new.layers) + k)
    for name, array in new.params.items():
        if name.split(".", 1)[1].startswith("weight_hh"):
            array *= array.dtype.type(gain)
    return new


def _without_seeds(config):
    """A configuration but for the seeds in it."""
    if isinstance(config, dict):
        return {name: _without_seeds(value) for name, value in config.items() if name != "seed"}
    return [_without_seeds(value) for value in config] if isinstance(config, list) else config


def _cells(model: Model) -> list:
    """What tells a cell from another of the same name: the built-in ones are built once an option."""
    return [getattr(layer, "cell", None) for layer in model.layers]


def _joined(layers) -> Params | None:
    constants = [layer.constants for layer in layers if hasattr(layer, "constants")]
    if not constants:
        return None
    return Params(constants[0].shapes, constants[0].dtype, np.stack([own.flat for own in constants]))

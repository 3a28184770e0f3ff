"""Optimizers: one compiled pass over the flat vectors of parameters, gradient and moments, in place.

Formulas, defaults and the place of eps are PyTorch's. The arithmetic is float64 in vector order, whatever the
parameters' type; parameters and moments are rounded once an update.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from . import _check, _device, _threads, schedules
from ._params import Params
from .kernels.cpu import updates
from .schedules import Schedule

LANES = (
    64  # partial sums of a norm, so that it runs in vector registers; their order is fixed, as the result's bits are
)


NORM_WORK, SWEEP_WORK = 20.0, 200.0  # operations that a number costs as much time as


class State(NamedTuple):
    """What an optimizer remembers: the updates made, and by name its moments, flat vectors like ``params.flat``."""

    step: int
    moments: dict[str, np.ndarray]


class Info(NamedTuple):
    """What an update did: the gradient's norm before clipping, whether clipping changed it, and the rate used."""

    norm: float
    clipped: bool
    learning_rate: float


class Optimizer(ABC):
    """A rule for updating parameters by their gradient.

    One of one's own is a frozen dataclass with the options `learning_rate`, `weight_decay`, `clip_norm` and
    `clip_value` besides its own; it calls `_check_common`, and defines `_moments` and `_apply`. Those built in also
    update many models in one kernel (`MEMBERS`).
    """

    def init(self, params: Params) -> State:
        """The state before the first update: moments are zeros like ``params.flat``."""
        return State(0, {name: np.zeros_like(params.flat) for name in self._moments()})

    def update(self, params: Params, grads: Params, state: State) -> tuple[State, Info]:
        """Change `params` and the moments of `state` in place by one step down the gradient.

        First every element of the gradient is clipped to [-clip_value, clip_value], then the whole to the norm
        `clip_norm`, by the coefficient min(1, clip_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. `grads`
        stays as it is.

        Parameters
        ----------
        params, grads : Params
            The same names, shapes and dtype.
        state : State
            From `init`, or from the update before.

        Returns
        -------
        state : State
            One step on; its moments are the arrays of the state given.
        info : Info

        Raises
        ------
        FloatingPointError
            If the gradient's norm is not finite; names the first tensor to blame. Nothing has been changed then.
        ValueError
            If `grads` or `state` do not belong to `params`.
        """
        self._check_arguments(params, grads, state)
        norm = global_norm(grads)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"{_blame(grads, norm)} at update {state.step}; nothing was changed. "
                "Check the data for NaN, lower learning_rate, or set clip_norm"
            )
        rate, grad = self._rate(state.step), _own(grads.flat)
        clip, clipped = self._clip(grad, norm)
        if _device.of(grad).name == "cpu":
            self._apply(params.flat, grad, state.moments, clip, rate, state.step)
        else:
            first, numbers = np.zeros(1, np.int64), [self._numbers(clip, rate, state.step)]
            moments = {name: moment[None] for name, moment in state.moments.items()}
            _sweep(type(self), first, first, params.flat[None], grad[None], moments, np.array(numbers, float))
        return State(state.step + 1, state.moments), Info(norm, clipped, rate)

    def _rate(self, step: int) -> float:
        rate = self.learning_rate  # a number was checked when it was given
        return _check.real("learning_rate", rate(step), 0.0) if isinstance(rate, Schedule) else rate

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule, a constant one where it is a number."""
        return schedules.as_schedule("learning_rate", self.learning_rate)

    def config(self) -> dict:
        """What `from_config` needs to build this optimizer again."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in options.items():
            if isinstance(value, Schedule):
                options[name] = value.config()
            elif isinstance(value, tuple):
                options[name] = list(value)
        return {"kind": type(self).__name__} | options

    @abstractmethod
    def _moments(self) -> tuple[str, ...]:
        """The names of the moments kept."""

    @abstractmethod
    def _apply(self, params, grad, moments, clip, rate: float, step: int) -> None:
        """Update flat `params` and `moments` in place; `clip` is (limit, coefficient), `step` counts from 0."""

    def _check_common(self) -> None:
        rate = self.learning_rate
        self._settle(
            learning_rate=rate if isinstance(rate, Schedule) else _check.real("learning_rate", rate, 0.0),
            weight_decay=_check.real("weight_decay", self.weight_decay, 0.0),
            clip_norm=None if self.clip_norm is None else _check.real("clip_norm", self.clip_norm, positive=True),
            clip_value=None if self.clip_value is None else _check.real("clip_value", self.clip_value, positive=True),
        )

    def _settle(self, **options) -> None:
        """Set checked options; the way around `frozen` that dataclasses leave to `__post_init__`."""
        for name, value in options.items():
            object.__setattr__(self, name, value)

    def _check_arguments(self, params: Params, grads: Params, state: State) -> None:
        flat, moments = params.flat, state.moments
        if type(self) not in MEMBERS and _device.of(flat).name != "cpu":
            raise ValueError(f"optimizer: {', '.join(REGISTRY)} are required of a model on a GPU; got {type(self).__name__}")
        if not (flat.flags.c_contiguous and getattr(flat.flags, "carray", True) and flat.dtype.name in _check.FLOATS):
            raise ValueError("params: a writable, contiguous float32 or float64 buffer is required. Pass params.copy()")
        if grads.shapes != params.shapes or grads.dtype != params.dtype:
            raise ValueError(
                f"grads: the names, shapes and dtype of {params} are required; got {grads}. Use params.like()"
            )
        fits = all(moment.shape == flat.shape and moment.dtype == flat.dtype for moment in moments.values())
        if not fits or set(moments) != set(self._moments()):
            required = f"{self._moments()} of shape {flat.shape} and dtype {flat.dtype}"
            came = {name: (moment.shape, str(moment.dtype)) for name, moment in moments.items()}
            raise ValueError(f"state: moments {required} are required; got {came}. Start from init(params)")

    def _clip(self, grad: np.ndarray, norm: float) -> tuple[tuple[float, float], bool]:
        """(limit, coefficient), and whether they change anything; `norm` is that of the gradient as it came."""
        limit, coefficient = math.inf, 1.0
        if self.clip_value is not None and grad.size and float(abs(grad).max()) > self.clip_value:
            limit = self.clip_value
            norm = _norm(grad, limit)
        if self.clip_norm is not None:
            coefficient = min(1.0, self.clip_norm / (norm + 1e-6))
        return (limit, coefficient), limit < math.inf or coefficient < 1.0


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum v + g, p -= rate v (Nesterov: rate (g + momentum v)).

    Parameters
    ----------
    learning_rate : float or Schedule
    momentum : float
        In [0, 1); 0 keeps no moments. (Polyak 1964; Sutskever et al. 2013 for Nesterov's form.)
    nesterov : bool
    weight_decay : float
        Adds weight_decay * p to the gradient, after clipping.
    clip_norm, clip_value : float, optional
        See `update`.

    Examples
    --------
    >>> from fastrnn._params import Params
    >>> from fastrnn.optimizers import SGD
    >>> params, grads = Params({"w": (2,)}, "float64"), Params({"w": (2,)}, "float64")
    >>> grads["w"] = [3.0, 4.0]
    >>> optimizer = SGD(0.5)
    >>> state, info = optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"].tolist(), info
    ([-1.5, -2.0], Info(norm=5.0, clipped=False, learning_rate=0.5))
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self):
        self._check_common()
        momentum = _check.fraction("momentum", self.momentum)
        self._settle(momentum=momentum, nesterov=_check.choice("nesterov", self.nesterov, (False, True)))
        if self.nesterov and not momentum:
            raise ValueError("nesterov: a momentum greater than 0 is required; got 0. Set momentum, for example to 0.9")

    def _moments(self):
        return ("momentum",) if self.momentum else ()

    def _numbers(self, clip, rate, step):
        return *clip, rate, self.weight_decay, self.momentum, float(self.nesterov)

    def _apply(self, params, grad, moments, clip, rate, step):
        if self.momentum:
            updates.heavy_ball(params, grad, moments["momentum"], clip, rate, self.weight_decay, self.momentum, self.nesterov)
        else:
            updates.descent(params, grad, clip, rate, self.weight_decay)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Steps in units of the gradient's running size: s = alpha s + (1 - alpha) g², p -= rate g / (sqrt(s) + eps).

    Parameters
    ----------
    learning_rate : float or Schedule
    alpha : float
        In [0, 1): what the running means keep from step to step.
    eps : float
    weight_decay : float
        Adds weight_decay * p to the gradient, after clipping.
    momentum : float
        In [0, 1): v = momentum v + g / (sqrt(s) + eps), p -= rate v.
    centered : bool
        Divide by the running standard deviation, sqrt(s - mean²) (Graves 2013, equations 38-45).
    clip_norm, clip_value : float, optional
        See `update`.

    Examples
    --------
    >>> from fastrnn.optimizers import RMSprop
    >>> RMSprop(1e-3, clip_value=1.0).config()["alpha"]
    0.99
    """

    learning_rate: float | Schedule = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self):
        self._check_common()
        self._settle(
            alpha=_check.fraction("alpha", self.alpha),
            eps=_check.real("eps", self.eps, 0.0),
            momentum=_check.fraction("momentum", self.momentum),
            centered=_check.choice("centered", self.centered, (False, True)),
        )

    def _moments(self):
        return ("square",) + ("momentum",) * bool(self.momentum) + ("mean",) * self.centered

    def _numbers(self, clip, rate, step):
        return *clip, rate, self.weight_decay, self.alpha, self.momentum, self.eps

    def _apply(self, params, grad, moments, clip, rate, step):
        absent = params[:0]
        kept = moments["square"], moments.get("mean", absent), moments.get("momentum", absent)
        updates.rmsprop(params, grad, kept, clip, rate, self.weight_decay, (self.alpha, self.momentum), self.eps)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): m, v running means of g and g², p -= rate m̂ / (sqrt(v̂) + eps).

    m̂ = m / (1 - beta1^t) and v̂ = v / (1 - beta2^t) undo the start from zero.

    Parameters
    ----------
    learning_rate : float or Schedule
    betas : (float, float)
        Each in [0, 1).
    eps : float
    weight_decay : float
        Adds weight_decay * p to the gradient, after clipping. (`AdamW` takes it from the weights instead.)
    clip_norm, clip_value : float, optional
        See `update`.

    Examples
    --------
    >>> from fastrnn._params import Params
    >>> from fastrnn.optimizers import Adam
    >>> params, grads = Params({"w": (2,)}, "float64"), Params({"w": (2,)}, "float64")
    >>> grads["w"] = [3.0, -4.0]
    >>> optimizer = Adam(0.5)
    >>> state, info = optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"].round(6).tolist()
    [-0.5, 0.5]
    """

    learning_rate: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self):
        self._check_common()
        try:
            first, second = self.betas
        except (TypeError, ValueError):
            raise ValueError(f"betas: two numbers are required, such as (0.9, 0.999); got {self.betas!r}") from None
        betas = _check.fraction("betas", first), _check.fraction("betas", second)
        self._settle(betas=betas, eps=_check.real("eps", self.eps, 0.0))

    def _moments(self):
        return ("mean", "square")

    def _apply(self, params, grad, moments, clip, rate, step):
        kept = moments["mean"], moments["square"]
        updates.adam(params, grad, kept, clip, self._decay(rate), self.betas, self._scale(rate, step), self.eps)

    def _numbers(self, clip, rate, step):
        return *clip, *self._decay(rate), *self.betas, *self._scale(rate, step), self.eps

    def _decay(self, rate) -> tuple[float, float]:
        """What the gradient gets of p, and the factor of p."""
        return self.weight_decay, 1.0

    def _scale(self, rate, step) -> tuple[float, float]:
        first, second = self.betas
        return rate / (1.0 - first ** (step + 1)), math.sqrt(1.0 - second ** (step + 1))


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with the weight decay taken from the weights, past the moments: p *= 1 - rate weight_decay first.

    Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by the learning rate as in PyTorch. Parameters as
    `Adam`.

    Examples
    --------
    >>> from fastrnn.optimizers import AdamW
    >>> AdamW().weight_decay
    0.01
    """

    weight_decay: float = 0.01

    def _decay(self, rate):
        return 0.0, 1.0 - rate * self.weight_decay


REGISTRY = {kind.__name__: kind for kind in (SGD, RMSprop, Adam, AdamW)}


def from_config(config: dict) -> Optimizer:
    """The optimizer that `config` describes, of the kinds in `REGISTRY` and no others."""
    options = {name: schedules.from_config(v) if isinstance(v, dict) else v for name, v in dict(config).items()}
    return REGISTRY[_check.choice("optimizer", options.pop("kind", None), REGISTRY)](**options)


def global_norm(grads: Params) -> float:
    """The Euclidean norm over all arrays, summed in float64 in one fixed order; NaN or inf if any element is.

    Examples
    --------
    >>> from fastrnn._params import Params
    >>> from fastrnn.optimizers import global_norm
    >>> grads = Params({"a": (1,), "b": (1, 1)}, "float32")
    >>> grads["a"], grads["b"] = 3.0, 4.0
    >>> global_norm(grads)
    5.0
    """
    flat = _own(grads.flat)
    return _settled(flat, _norm(flat))


def _own(flat):
    """`flat`, or a copy if it is read-only or misaligned, as nothing is on a GPU."""
    return np.require(flat, requirements=["C", "A", "W"]) if _device.of(flat).name == "cpu" else flat


def _settled(flat: np.ndarray, norm: float) -> float:
    """The norm of `flat`, from the root of its sum of squares."""
    if _is_usual(norm):
        return norm
    largest = float(abs(flat).max()) if flat.size else 0.0  # squares of float64 leave its range long before the norm does
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * _norm(flat / largest)


def _is_usual(norm: float) -> bool:
    return 1e-140 < norm < math.inf


def update_members(optimizers, params: Params, rows: np.ndarray, grads: Params, moments, steps) -> list[Info | None]:
    """One update each of the models in rows `rows` of `params` and `moments`: `Optimizer.update` for E models of one shape.

    Parameters
    ----------
    optimizers : list of E Optimizer
        Of one kind, with the same moments.
    params : Params
        With the buffers of all models, (M, n).
    rows : ndarray of int, shape (E,)
    grads : Params
        Its buffer is (E, n).
    moments : dict of str to ndarray, shape (M, n)
    steps : list of E int
        The updates that each has made.

    Returns
    -------
    list of Info, or None where the gradient's norm is not finite: such a model is left as it was.
    """
    E, n = grads.flat.shape
    if type(optimizers[0]) not in MEMBERS:
        return [_update_one(*each, params, grads, moments) for each in zip(optimizers, range(E), rows.tolist(), steps)]
    norms, infos, numbers, kept = _norms(grads.flat), [], [], []
    for e, (optimizer, step, norm) in enumerate(zip(optimizers, steps, norms.tolist())):
        if not _is_usual(norm):
            norm = _settled(grads.flat[e], norm)
        if not math.isfinite(norm):
            infos.append(None)
            continue
        rate = optimizer._rate(step)
        own = grads.flat if optimizer.clip_value is None else grads.flat[e]  # where nobody looks at it, no array is made a model
        clip, clipped = optimizer._clip(own, norm)
        infos.append(Info(norm, clipped, rate))
        numbers.append(optimizer._numbers(clip, rate, step))
        kept.append(e)
    if kept:
        places = np.array(kept)
        _sweep(type(optimizers[0]), rows[places], places, params.flat, grads.flat, moments, np.array(numbers))
    return infos


def _norms(g) -> np.ndarray:
    """Of every row, straight from its squares."""
    E, device = len(g), _device.of(g)
    if device.name == "cpu":
        found = np.empty(E)
        updates.norms(_threads.team(NORM_WORK * g.size), E, g, np.empty((E, LANES)), found)
        return found
    from .kernels.cuda.updates import norms

    return norms(device, g, math.inf)


def _sweep(kind: type[Optimizer], rows, places, params, grads, moments, numbers) -> None:
    """Update rows `rows` of params (M, n) by rows `places` of grads (E, n), `numbers` of each."""
    (name, names), device = MEMBERS[kind], _device.of(params)
    absent = device.empty((len(params), 0), params.dtype)
    arrays = tuple(moments.get(name, absent) for name in names)
    if device.name == "cpu":
        shared = _threads.team(SWEEP_WORK * params.shape[1] * len(rows))
        getattr(updates, f"{name}_members")(shared, len(rows), rows, places, params, grads, arrays, numbers)
    else:
        from .kernels.cuda.updates import sweep

        sweep(device, name, rows, places, params, grads, arrays, numbers)


def _update_one(optimizer: Optimizer, e: int, row: int, step: int, params: Params, grads: Params, moments) -> Info | None:
    own, slope = (Params(params.shapes, params.dtype, flat) for flat in (params.flat[row], grads.flat[e]))
    if not math.isfinite(global_norm(slope)):
        return None
    return optimizer.update(own, slope, State(step, {name: array[row] for name, array in moments.items()}))[1]


def _norm(flat: np.ndarray, limit: float = math.inf) -> float:
    """Of the elements clipped to [-limit, limit], straight from their squares."""
    if _device.of(flat).name != "cpu":
        from .kernels.cuda.updates import norms

        return float(norms(_device.of(flat), flat[None], float(limit))[0])
    return math.sqrt(updates.sum_of_squares(flat, limit, np.zeros(LANES)))


def _blame(grads: Params, norm: float) -> str:
    """The sentence that names the first array that is not finite."""
    for name, array in grads.items():
        if not np.isfinite(array).all():
            array = _device.host(array)
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            return f"grads: finite numbers are required; {name!r} has {array[place]} at {place}"
    return f"grads: a finite norm is required; got {norm}, from elements up to {float(abs(grads.flat).max())},"


# The kernel of each kind over many models, and the names of the moments it takes; `_numbers` of these kinds gives what it takes beside
# arrays, one row a model.
MEMBERS = {
    SGD: ("sgd", ("momentum",)),
    RMSprop: ("rmsprop", ("square", "mean", "momentum")),
    Adam: ("adam", ("mean", "square")),
    AdamW: ("adam", ("mean", "square")),
}

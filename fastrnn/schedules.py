"""Learning rates over time: `schedule(step)` is the rate of update number `step`, counted from 0.

Most schedules are functions of the step alone. `ReduceOnPlateau` also listens to what `observe` tells it after each
epoch; `state` and `restore` carry what it heard through a checkpoint.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields

from . import _check


class Schedule(ABC):
    """A learning rate as a function of the number of updates already made.

    A schedule of one's own is a dataclass that defines `__call__`; one that remembers what it observed also defines
    `observe`, `state` and `restore`.
    """

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The rate of update `step` (0 is the first)."""

    def observe(self, value: float) -> None:
        """Hear the loss that training has come to, after an epoch."""
        return None

    def state(self) -> dict:
        """What was learned from observation, as plain values."""
        return {}

    def restore(self, state: dict) -> None:
        """Take up a `state`."""
        _exactly(state, ())

    def config(self) -> dict:
        """What `from_config` needs to build this schedule again."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {"kind": type(self).__name__} | {
            name: value.config() if isinstance(value, Schedule) else value for name, value in options.items()
        }


@dataclass
class Constant(Schedule):
    """The same rate always.

    Examples
    --------
    >>> from fastrnn.schedules import Constant
    >>> Constant(0.1)(1000)
    0.1
    """

    rate: float

    def __post_init__(self):
        self.rate = _check.real("rate", self.rate, 0.0)

    def __call__(self, step):
        return self.rate


@dataclass
class StepDecay(Schedule):
    """initial * factor**floor(step / every).

    Examples
    --------
    >>> from fastrnn.schedules import StepDecay
    >>> schedule = StepDecay(1.0, factor=0.5, every=100)
    >>> [schedule(step) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """

    initial: float
    factor: float
    every: int

    def __post_init__(self):
        self.initial = _check.real("initial", self.initial, 0.0)
        self.factor = _check.real("factor", self.factor, 0.0, 1.0)
        self.every = _check.integer("every", self.every, 1)

    def __call__(self, step):
        return self.initial * self.factor ** (step // self.every)


@dataclass
class ExponentialDecay(Schedule):
    """initial * factor**(step / every), without steps.

    Examples
    --------
    >>> from fastrnn.schedules import ExponentialDecay
    >>> schedule = ExponentialDecay(1.0, factor=0.25, every=100)
    >>> [schedule(step) for step in (0, 50, 100)]
    [1.0, 0.5, 0.25]
    """

    initial: float
    factor: float
    every: int = 1

    def __post_init__(self):
        self.initial = _check.real("initial", self.initial, 0.0)
        self.factor = _check.real("factor", self.factor, 0.0, 1.0)
        self.every = _check.integer("every", self.every, 1)

    def __call__(self, step):
        return self.initial * self.factor ** (step / self.every)


@dataclass
class CosineDecay(Schedule):
    """From `initial` down to `final` along half a cosine in `steps` updates; `final` from then on.

    final + (initial - final) (1 + cos(pi step / steps)) / 2: Loshchilov & Hutter 2017, equation 5, without restarts.

    Examples
    --------
    >>> from fastrnn.schedules import CosineDecay
    >>> schedule = CosineDecay(1.0, steps=100)
    >>> [round(schedule(step), 12) for step in (0, 50, 100, 200)]
    [1.0, 0.5, 0.0, 0.0]
    """

    initial: float
    steps: int
    final: float = 0.0

    def __post_init__(self):
        self.initial = _check.real("initial", self.initial, 0.0)
        self.steps = _check.integer("steps", self.steps, 1)
        self.final = _check.real("final", self.final, 0.0)

    def __call__(self, step):
        angle = math.pi * min(step, self.steps) / self.steps
        return self.final + (self.initial - self.final) * (1.0 + math.cos(angle)) / 2.0


@dataclass
class WarmUp(Schedule):
    """`steps` updates in equal strides up to the rate that `then` starts with; after them `then`, counted from 0.

    Update k < steps has the rate then(0) (k + 1) / (steps + 1): none is 0, and update `steps` is the first in full.
    `then` is another schedule, or a number for a constant rate; what is observed goes to it.

    Examples
    --------
    >>> from fastrnn.schedules import CosineDecay, WarmUp
    >>> schedule = WarmUp(3, then=CosineDecay(1.0, steps=100))
    >>> [schedule(step) for step in range(4)]
    [0.25, 0.5, 0.75, 1.0]
    """

    steps: int
    then: Schedule | float

    def __post_init__(self):
        self.steps = _check.integer("steps", self.steps, 0)
        self.then = as_schedule("then", self.then)

    def __call__(self, step):
        if step < self.steps:
            return self.then(0) * (step + 1) / (self.steps + 1)
        return self.then(step - self.steps)

    def observe(self, value):
        self.then.observe(value)

    def state(self):
        return self.then.state()

    def restore(self, state):
        self.then.restore(state)


@dataclass
class ReduceOnPlateau(Schedule):
    """Multiply the rate by `factor` when more than `patience` observations in a row brought no improvement.

    An observation improves on the best before it if it is lower by more than `threshold` times that best's size; NaN
    never does. The rate falls no lower than `minimum`. As PyTorch's ReduceLROnPlateau.

    Examples
    --------
    >>> from fastrnn.schedules import ReduceOnPlateau
    >>> schedule = ReduceOnPlateau(1.0, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.observe(loss)
    >>> schedule(0)
    0.5
    """

    initial: float
    factor: float = 0.1
    patience: int = 10
    minimum: float = 0.0
    threshold: float = 1e-4
    rate: float = field(init=False)
    best: float | None = field(init=False, default=None)
    waited: int = field(init=False, default=0)

    def __post_init__(self):
        self.initial = self.rate = _check.real("initial", self.initial, 0.0)
        self.factor = _check.fraction("factor", self.factor)
        self.patience = _check.integer("patience", self.patience, 0)
        self.minimum = _check.real("minimum", self.minimum, 0.0)
        self.threshold = _check.real("threshold", self.threshold, 0.0)

    def __call__(self, step):
        return self.rate

    def observe(self, value):
        value = float(value)
        if math.isfinite(value) and (self.best is None or value < self.best - self.threshold * abs(self.best)):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.rate, self.waited = min(self.rate, max(self.rate * self.factor, self.minimum)), 0

    def state(self):
        return {"rate": self.rate, "best": self.best, "waited": self.waited}

    def restore(self, state):
        _exactly(state, ("rate", "best", "waited"))
        rate, waited = _check.real("rate", state["rate"], 0.0), _check.integer("waited", state["waited"], 0)
        best = None if state["best"] is None else _check.real("best", state["best"])
        self.rate, self.best, self.waited = rate, best, waited


REGISTRY = {
    kind.__name__: kind for kind in (Constant, StepDecay, ExponentialDecay, CosineDecay, WarmUp, ReduceOnPlateau)
}


def from_config(config: dict) -> Schedule:
    """The schedule that `config` describes, of the kinds in `REGISTRY` and no others."""
    options = {name: from_config(value) if isinstance(value, dict) else value for name, value in dict(config).items()}
    return REGISTRY[_check.choice("schedule", options.pop("kind", None), REGISTRY)](**options)


def as_schedule(name: str, value) -> Schedule:
    """`value` if it is a schedule, a constant one if it is a number; `name` is what errors call it."""
    return value if isinstance(value, Schedule) else Constant(_check.real(name, value, 0.0))


def _exactly(state: dict, keys: tuple[str, ...]) -> None:
    if set(state) != set(keys):
        raise ValueError(f"state: the keys {sorted(keys)} are required; got {sorted(map(str, state))}")

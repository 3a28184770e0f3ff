"""One model's way through a run: where it is, what it has been told, what it remembers."""

import dataclasses
import math
import os
from collections.abc import Callable, Generator
from enum import Enum
from typing import Any

import numpy as np

from . import _check, _device, io
from ._interrupts import Shield
from ._params import Params
from ._source import Source
from .callbacks import Callback, Report
from .history import History, Table
from .optimizers import Info, State


class NonFiniteError(FloatingPointError):
    """The loss, a gradient or a weight stopped being finite; the model keeps the weights of the last good step.

    Attributes
    ----------
    step : int
        The number of the update that could not be made, from 1.
    tensor : str
        ``"loss"``, or the name of the first parameter whose gradient or value it was.
    history : History
        Everything up to that step.
    """

    def __init__(self, message: str, step: int, tensor: str, history: History):
        super().__init__(message)
        self.step, self.tensor, self.history = step, tensor, history


class Wish(Enum):
    """What a course waits for, if not for the updates of a batch."""

    VALIDATION = 1
    CHECKPOINT = 2


@dataclasses.dataclass
class Position:
    """How far a course has come. `batch`, `updates` and the sums are those of the running epoch."""

    epoch: int = 0
    batch: int = 0
    seen: int = 0  # batches of all epochs
    step: int = 0  # updates of all epochs
    updates: int = 0
    loss: float = 0.0
    weight: float = 0.0
    norm: float = 0.0
    learning_rate: float = 0.0

    def next_epoch(self) -> "Position":
        return Position(self.epoch + 1, 0, self.seen, self.step)


@dataclasses.dataclass(kw_only=True, eq=False)
class Course:
    """What `fit` does with one model; with the members of an ensemble, each has a course of its own.

    What changes is changed under a shield against interrupts, so that everything is always as after some completed
    step. A checkpoint is the state at the last completed *batch*: with truncated BPTT a batch takes many steps, and its
    middle cannot be entered from outside.
    """

    model: Any
    data: Source
    validation: Source | None
    optimizer: Any
    moments: State
    bptt: Any
    forcing: Any
    epochs: float
    steps: float
    seed: int
    carry_state: bool
    callbacks: list[Callback]
    shield: Shield
    member: int = 0
    recorded: bool = False  # whether there will be checkpoints

    def __post_init__(self):
        self.history = History()
        self.position = Position()
        self.carried = None  # the recurrent state that the last batch ended in
        self.listeners = [listener for listener in self.callbacks if type(listener).step is not Callback.step]
        self.boundary = None  # the state at the last completed batch
        self.unsaved = False

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that updates change, by name."""
        return {"params": self.model.params.flat} | self.moments.moments

    # The loop

    def go(self) -> Generator[Any, Any, None]:
        """The whole course. It asks for the updates of a batch by yielding it, and is told whether that was completed; or for a `Wish`."""
        # The last row, for callbacks that are told only of the end: when a run is resumed that was at its end.
        row = {name: column[-1].item() for name, column in self.history.epochs.items() if len(column)}
        while not self.finished():
            if (yield from self._epoch()):
                row, stop = yield from self._report_epoch()
                with self.shield:
                    self.position, self.carried = self.position.next_epoch(), None
                    self.history.stopped = "callback" if stop else self.history.stopped
                    self.capture()
                yield Wish.CHECKPOINT
        if self.position.updates:  # `steps` or a callback ended the run within an epoch
            row, _ = yield from self._report_epoch()
        yield Wish.CHECKPOINT
        for listener in self.callbacks:
            listener.end(self._report(row))
        self.history.stopped = self.history.stopped or ("steps" if self.position.step >= self.steps else "epochs")

    def finished(self) -> bool:
        return bool(self.history.stopped) or self.position.step >= self.steps or self.position.epoch >= self.epochs

    def _part_done(self) -> bool:
        """Whether a stream has come to the end of what is called an epoch there."""
        if not self.data.endless:
            return False
        part = math.ceil(self.steps / self.epochs)
        return self.position.step >= min(self.steps, part * (self.position.epoch + 1))

    def _epoch(self):
        """Train to the end of the epoch, or of the run; whether the epoch was completed."""
        position = self.position
        if self._part_done():  # when resumed
            return True
        for batch in self.data.start(position.epoch, position.batch, position.seen):
            if not (yield batch):
                return False
            if self._part_done():
                return True
            if self.finished():
                return position.batch == self.data.length
        if position.batch == 0:
            raise ValueError(
                f"data: at least one batch is required in every epoch; got none in epoch {position.epoch + 1}. "
                "An object that makes a new iterator each time can be gone through again; a generator cannot"
            )
        return True

    def rng(self) -> np.random.Generator:
        """What is drawn in the batch: a function of its number, so a checkpoint need not keep the state of dropout."""
        return np.random.default_rng((self.seed, self.position.seen))

    # What the run tells

    def updated(self, loss: float, weight: float, info: Info) -> None:
        """An update has been made."""
        position = self.position
        position.step += 1
        position.updates += 1
        position.loss += loss * weight
        position.weight += weight
        position.norm += info.norm
        position.learning_rate = info.learning_rate
        self.row = {"step": position.step, "epoch": position.epoch + 1, "loss": loss, "weight": weight}
        self.row |= {"gradient_norm": info.norm, "clipped": int(info.clipped), "learning_rate": info.learning_rate}
        self.history.steps.append(self.row)

    def tell_step(self) -> None:
        """Tell those who listen of the update."""
        for listener in self.listeners:
            if listener.step(self._report(self.row)):
                self.history.stopped = "callback"

    def completed(self, state) -> None:
        """All updates of a batch have been made; `state` is what it ended in."""
        self.position.batch += 1
        self.position.seen += 1
        self.carried = state if self.carry_state else None
        self.capture()

    def mean_loss(self) -> float:
        """Of the running epoch."""
        return self.position.loss / self.position.weight if self.position.weight else 0.0

    def non_finite(self, what: str, tensor: str) -> NonFiniteError:
        step = self.position.step + 1
        subject = what if tensor == "loss" else f"{what} of {tensor!r}"
        message = (
            f"fit: step {step}: {subject} is not finite; the model keeps the weights of step {step - 1}. "
            "Check the data for NaN, lower learning_rate, or clip the gradient (clip_norm=1.0)"
        )
        return NonFiniteError(message, step, tensor, self.history)

    # The end of an epoch

    def _report_epoch(self):
        """Validate, note the row, tell schedule and callbacks; the row, and whether a callback wants to stop."""
        position = self.position
        mean = position.loss / position.weight if position.weight else math.nan
        row = {"epoch": position.epoch + 1, "step": position.step, "loss": mean}
        row |= {"gradient_norm": position.norm / max(position.updates, 1), "learning_rate": position.learning_rate}
        if self.validation is not None:
            found = yield Wish.VALIDATION
            row |= {f"validation_{name}": value for name, value in found.items()}
        self.history.epochs.append(row)
        self.optimizer.schedule.observe(row.get("validation_loss", mean))
        answers = [listener.epoch(self._report(row)) for listener in self.callbacks]  # a list: all of them are told
        return row, any(answers)

    def _report(self, row: dict[str, float]) -> Report:
        epoch, loss = row.get("epoch", self.position.epoch), row.get("loss", math.nan)
        return Report(epoch, self.position.step, loss, row, self.model, self.history, self.member)

    # Checkpoints

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run it continues."""
        return {
            "model": self.model.config(),
            "optimizer": self.optimizer.config(),
            "bptt": repr(self.bptt),
            "forcing": _described(self.forcing),
            "seed": self.seed,
            "carry_state": self.carry_state,
            "data": self.data.settings,
            "callbacks": [type(listener).__name__ for listener in self.callbacks],
        }

    def capture(self) -> None:
        """Note the state at the end of a batch."""
        if not self.recorded:
            return
        live = self.arrays
        if self.boundary is None:
            self.boundary = {"arrays": {name: np.empty_like(array) for name, array in live.items()}}
        for name, array in live.items():
            np.copyto(self.boundary["arrays"][name], array)
        self.boundary |= {
            "position": vars(self.position).copy(),
            "optimizer_step": self.moments.step,
            "schedule": self.optimizer.schedule.state(),
            "callbacks": [listener.state() for listener in self.callbacks],
            "carried": self.carried,
            "rows": (self.history.steps.rows, self.history.epochs.rows),
            "stopped": self.history.stopped,
        }
        self.unsaved = True

    def tree(self) -> dict[str, Any]:
        """What `restore` needs to go on from the last completed batch."""
        rows = self.boundary["rows"]
        tables = {"steps": self.history.steps.head(rows[0]), "epochs": self.history.epochs.head(rows[1])}
        return {"settings": self.settings(), "history": tables} | self.boundary

    def restoring(self, tree: dict[str, Any], path) -> Callable[[], None]:
        """What to call to go on from a `tree`, which came from the file `path`; nothing has changed where it is not sound."""
        ours, live = self.settings(), self.arrays
        try:
            saved = tree["settings"]
            different = [key for key in ours if saved[key] != ours[key]]
            if different:
                key = different[0]
                raise ValueError(
                    f"resume: the checkpoint's {key} is required again, {saved[key]!r}; got {ours[key]!r}. "
                    "Start anew with resume=False"
                )
        except (LookupError, TypeError) as error:
            raise io.FileFormatError(f"{os.fspath(path)!r}: no checkpoint of fit: {error}") from error
        try:
            arrays = {name: _check_like(name, tree["arrays"][name], array) for name, array in live.items()}
            position = Position(**tree["position"])
            for name, default in vars(Position()).items():
                value = getattr(position, name)
                if type(value) is not type(default) or (isinstance(value, int) and value < 0):
                    raise ValueError(f"position: {name} cannot be {value!r}")
            history = History(Table(tree["history"]["steps"]), Table(tree["history"]["epochs"]))
            history.stopped = _check.choice("stopped", tree["stopped"], ("", "callback"))
            moments = self.moments._replace(step=_check.integer("optimizer_step", tree["optimizer_step"], 0))
            carried, states = tree["carried"], list(tree["callbacks"])
            self.optimizer.schedule.restore(tree["schedule"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise io.FileFormatError(f"{os.fspath(path)!r}: a damaged checkpoint: {error}") from error

        def restore() -> None:
            for name, array in live.items():
                np.copyto(array, arrays[name])
            for listener, state in zip(self.callbacks, states):
                listener.restore(state)
            self.position, self.history, self.moments, self.carried = position, history, moments, carried

        return restore


def _described(thing) -> str:
    """What tells a forcing from another in every process: names and values, no addresses."""
    if dataclasses.is_dataclass(thing):
        return f"{type(thing).__qualname__}({', '.join(f'{name}={_described(value)}' for name, value in vars(thing).items())})"
    if callable(thing) and hasattr(thing, "__qualname__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    if type(thing).__repr__ is object.__repr__:
        return f"{type(thing).__module__}.{type(thing).__qualname__}({', '.join(f'{k}={_described(v)}' for k, v in vars(thing).items())})"
    return repr(thing)


def _check_like(name: str, value, array: np.ndarray) -> np.ndarray:
    if value.shape != array.shape or value.dtype != array.dtype:
        raise ValueError(f"{name} has shape {value.shape} and dtype {value.dtype}, not {array.shape} and {array.dtype}")
    return _device.of(array).put(value)


def first_non_finite(params: Params) -> str:
    """The name of the first array with a number that is not finite."""
    return next((name for name, array in params.items() if not np.isfinite(array).all()), "the global norm")

"""The course of one training run: the loop, the end of an epoch, checkpoints."""

import dataclasses
import math
import os
from typing import Any

import numpy as np

from . import _check, io
from ._interrupts import Shield
from ._params import Params
from ._progress import Progress
from ._source import Source
from .callbacks import Callback, Report
from .history import History, Table


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


@dataclasses.dataclass
class _Position:
    """How far a run has come. `batch`, `updates` and the sums are those of the running epoch."""

    epoch: int = 0
    batch: int = 0
    seen: int = 0  # batches of all epochs
    step: int = 0  # updates of all epochs
    updates: int = 0
    loss: float = 0.0
    weight: float = 0.0
    norm: float = 0.0
    learning_rate: float = 0.0

    def next_epoch(self) -> "_Position":
        return _Position(self.epoch + 1, 0, self.seen, self.step)


@dataclasses.dataclass(kw_only=True)
class Run:
    """One call of `fit`.

    What changes is changed under a shield against interrupts, so that everything is always as after some completed
    step. A checkpoint is the state at the last completed *batch*: with truncated BPTT a batch takes many steps, and its
    middle cannot be entered from outside.
    """

    model: Any
    data: Source
    validation: Source | None
    optimizer: Any
    bptt: Any
    forcing: Any
    epochs: float
    steps: float
    seed: int
    carry_state: bool
    callbacks: list[Callback]
    checkpoint: Any

    def __post_init__(self):
        self.history = History()
        self.position = _Position()
        self.carried = None  # the recurrent state that the last batch ended in
        self.moments = self.optimizer.init(self.model.params)
        self.options = {} if self.bptt is None else {"bptt": self.bptt}
        self.shield = Shield()
        self.listeners = [listener for listener in self.callbacks if type(listener).step is not Callback.step]
        self.backup = np.empty_like(self.model.params.flat)
        self.boundary = None  # the state at the last completed batch
        self.unsaved = False

    # The loop

    def go(self, show: bool | None) -> History:
        counted, total, done = "batches", self.epochs * (self.data.length or math.inf), self.position.seen
        if math.isfinite(self.steps):
            counted, total, done = "steps", self.steps, self.position.step
        total = int(total) if math.isfinite(total) else None
        with self.shield.installed(), Progress(total, "fit", show=show, unit=counted, done=done) as self.progress:
            try:
                self._warm_up()
                self._capture()
                self._train()
            except KeyboardInterrupt:
                self.history.stopped = "interrupted"
                self._write()
            except BaseException:
                self.history.stopped = "error"
                raise
        return self.history

    def _warm_up(self) -> None:
        # The first update compiles, for seconds; not where an interrupt would have to wait for it.
        toy = Params({"toy": (1,)}, self.model.params.dtype)
        self.optimizer.update(toy, toy.like(), self.optimizer.init(toy))

    def _train(self) -> None:
        # The last row, for callbacks that are told only of the end: when a run is resumed that was at its end.
        row = {name: column[-1].item() for name, column in self.history.epochs.items() if len(column)}
        while not self._finished():
            if self._epoch():
                row, stop = self._report_epoch()
                with self.shield:
                    self.position, self.carried = self.position.next_epoch(), None
                    self.history.stopped = "callback" if stop else self.history.stopped
                    self._capture()
                self._write()
        if self.position.updates:  # `steps` or a callback ended the run within an epoch
            row, _ = self._report_epoch()
        self._write()
        for listener in self.callbacks:
            listener.end(self._report(row))
        self.history.stopped = self.history.stopped or ("steps" if self.position.step >= self.steps else "epochs")

    def _finished(self) -> bool:
        return bool(self.history.stopped) or self.position.step >= self.steps or self.position.epoch >= self.epochs

    def _part_done(self) -> bool:
        """Whether a stream has come to the end of what is called an epoch there."""
        if not self.data.endless:
            return False
        part = math.ceil(self.steps / self.epochs)
        return self.position.step >= min(self.steps, part * (self.position.epoch + 1))

    def _epoch(self) -> bool:
        """Train to the end of the epoch, or of the run; whether the epoch was completed."""
        position = self.position
        if self._part_done():  # when resumed
            return True
        for batch in self.data.start(position.epoch, position.batch, position.seen):
            if not self._batch(batch):
                return False
            if self._part_done():
                return True
            if self._finished():
                return position.batch == self.data.length
        if position.batch == 0:
            raise ValueError(
                f"data: at least one batch is required in every epoch; got none in epoch {position.epoch + 1}. "
                "An object that makes a new iterator each time can be gone through again; a generator cannot"
            )
        return True

    def _batch(self, batch) -> bool:
        """Make the updates that `batch` asks for; whether it was completed."""
        position = self.position
        # A function of the batch's number: a checkpoint need not keep the state of dropout.
        rng = np.random.default_rng((self.seed, position.seen))
        if self.forcing is not None:
            self.options |= {"forcing": self.forcing, "update": position.step}
        passes = self.model.passes(
            batch.x, batch.target, batch.lengths, weights=batch.weights, state=self.carried, rng=rng, **self.options
        )
        state = None
        for item in passes:
            self._step(item)
            state = item.state
            if self._finished() and next(passes, None) is not None:
                return False
        with self.shield:
            position.batch += 1
            position.seen += 1
            self.carried = state if self.carry_state else None
            self._capture()
        if math.isinf(self.steps):
            self._advance()
        return True

    def _step(self, item) -> None:
        """One update: all of it, or none."""
        position, params = self.position, self.model.params
        loss, weight = float(item.loss), float(item.weight)
        if not math.isfinite(loss):
            raise self._non_finite("the loss", "loss")
        with self.shield:
            self.backup[...] = params.flat
            try:
                self.moments, info = self.optimizer.update(params, item.grads, self.moments)
            except FloatingPointError as error:
                raise self._non_finite("the gradient", _first_non_finite(item.grads)) from error
            if _overflown(params):
                name = _first_non_finite(params)
                params.flat[...] = self.backup
                raise self._non_finite("the updated value", name)
            position.step += 1
            position.updates += 1
            position.loss += loss * weight
            position.weight += weight
            position.norm += info.norm
            position.learning_rate = info.learning_rate
            row = {"step": position.step, "epoch": position.epoch + 1, "loss": loss, "weight": weight}
            row |= {"gradient_norm": info.norm, "clipped": int(info.clipped), "learning_rate": info.learning_rate}
            self.history.steps.append(row)
        for listener in self.listeners:
            if listener.step(self._report(row)):
                self.history.stopped = "callback"
        if math.isfinite(self.steps):
            self._advance()

    def _advance(self) -> None:
        position = self.position
        self.progress.advance(
            epoch=position.epoch + 1, loss=position.loss / position.weight if position.weight else 0.0
        )

    # The end of an epoch

    def _report_epoch(self) -> tuple[dict[str, float], bool]:
        """Validate, note the row, tell schedule and callbacks; the row, and whether a callback wants to stop."""
        position = self.position
        mean = position.loss / position.weight if position.weight else math.nan
        row = {"epoch": position.epoch + 1, "step": position.step, "loss": mean}
        row |= {"gradient_norm": position.norm / max(position.updates, 1), "learning_rate": position.learning_rate}
        if self.validation is not None:
            found = _evaluate(self.model, self.validation, self.carry_state and not self.validation.cut)
            row |= {f"validation_{name}": value for name, value in found.items()}
        self.history.epochs.append(row)
        self.optimizer.schedule.observe(row.get("validation_loss", mean))
        answers = [listener.epoch(self._report(row)) for listener in self.callbacks]  # a list: all of them are told
        return row, any(answers)

    def _report(self, row: dict[str, float]) -> Report:
        epoch, loss = row.get("epoch", self.position.epoch), row.get("loss", math.nan)
        return Report(epoch, self.position.step, loss, row, self.model, self.history)

    def _non_finite(self, what: str, tensor: str) -> NonFiniteError:
        step = self.position.step + 1
        subject = what if tensor == "loss" else f"{what} of {tensor!r}"
        message = (
            f"fit: step {step}: {subject} is not finite; the model keeps the weights of step {step - 1}. "
            "Check the data for NaN, lower learning_rate, or clip the gradient (clip_norm=1.0)"
        )
        return NonFiniteError(message, step, tensor, self.history)

    # Checkpoints

    def _settings(self) -> dict[str, Any]:
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

    def _capture(self) -> None:
        """Note the state at the end of a batch."""
        if self.checkpoint is None:
            return
        live = {"params": self.model.params.flat} | self.moments.moments
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

    def _write(self) -> None:
        """Put the state at the last completed batch into the checkpoint file."""
        if not self.unsaved:
            return
        rows = self.boundary["rows"]
        tables = {"steps": self.history.steps.head(rows[0]), "epochs": self.history.epochs.head(rows[1])}
        with self.shield:
            io.save_checkpoint(self.checkpoint, {"settings": self._settings(), "history": tables} | self.boundary)
            self.unsaved = False

    def restore(self, tree: dict[str, Any]) -> None:
        """Continue from what `_write` wrote."""
        ours = self._settings()
        live = {"params": self.model.params.flat} | self.moments.moments
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
            raise io.FileFormatError(f"{os.fspath(self.checkpoint)!r}: no checkpoint of fit: {error}") from error
        try:
            arrays = {name: _check_like(name, tree["arrays"][name], array) for name, array in live.items()}
            position = _Position(**tree["position"])
            for name, default in vars(_Position()).items():
                value = getattr(position, name)
                if type(value) is not type(default) or (isinstance(value, int) and value < 0):
                    raise ValueError(f"position: {name} cannot be {value!r}")
            history = History(Table(tree["history"]["steps"]), Table(tree["history"]["epochs"]))
            history.stopped = _check.choice("stopped", tree["stopped"], ("", "callback"))
            moments = self.moments._replace(step=_check.integer("optimizer_step", tree["optimizer_step"], 0))
            carried, states = tree["carried"], list(tree["callbacks"])
            self.optimizer.schedule.restore(tree["schedule"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise io.FileFormatError(f"{os.fspath(self.checkpoint)!r}: a damaged checkpoint: {error}") from error
        for name, array in live.items():
            np.copyto(array, arrays[name])
        for listener, state in zip(self.callbacks, states):
            listener.restore(state)
        self.position, self.history, self.moments, self.carried = position, history, moments, carried


def _evaluate(model, data: Source, carry: bool) -> dict[str, float]:
    """The model's loss and metrics: means over all valid targets of all batches. `carry`: each goes on where the last ended."""
    sums, totals, state = {}, {}, None
    for batch in data.start(0, 0, 0):
        if carry:
            values, state = model._evaluate(batch, state)
        else:
            values = model.evaluate(*batch)
        for name, value in values.items():
            weight = model._target_weight(batch, name)
            totals[name] = totals.get(name, 0.0) + weight
            sums[name] = sums.get(name, 0.0) + (weight * value if weight else 0.0)
    return {name: value / totals[name] if totals[name] else math.nan for name, value in sums.items()}


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
    return value


def _overflown(params: Params) -> bool:
    """Whether any number is not finite, in one cheap pass: a sum is NaN or infinite then (and seldom otherwise)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return not np.isfinite(params.flat.sum()) and not np.isfinite(params.flat).all()


def _first_non_finite(params: Params) -> str:
    """The name of the first array with a number that is not finite."""
    return next((name for name, array in params.items() if not np.isfinite(array).all()), "the global norm")

"""What `fit` tells, and what can listen: reports, callbacks, early stopping."""

import math
from typing import Any, NamedTuple

from . import _check


class Report(NamedTuple):
    """The state of a training run at the end of a step or an epoch.

    Attributes
    ----------
    epoch, step : int
        How many epochs and updates are done, this one included (at a step: the number of the running epoch, from 1).
    loss : float
        Of the step, or the mean over the epoch.
    metrics : dict of str to float
        The row that History got for it: ``gradient_norm``, ``learning_rate``, ``validation_loss``, ...
    model : Model
    history : History
    member : int
        The model's number in an ensemble, from 0; 0 for a model alone.
    """

    epoch: int
    step: int
    loss: float
    metrics: dict[str, float]
    model: Any
    history: Any
    member: int = 0


class Callback:
    """Listens to a training run; override what is needed. A plain function of the epoch's report will do, too.

    `step` and `epoch` may return True to end the run. What a callback remembers from call to call belongs in `state`,
    so that a resumed run goes on as if it had never stopped.

    Examples
    --------
    >>> from fastrnn import Callback
    >>> class StopAt(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def epoch(self, report):
    ...         return report.loss <= self.loss
    """

    def step(self, report: Report) -> bool | None:
        """After every update."""

    def epoch(self, report: Report) -> bool | None:
        """After every epoch and its validation."""

    def end(self, report: Report) -> None:
        """Once, when the run has ended by itself (not after an interrupt or an error)."""

    def state(self) -> dict[str, Any]:
        """What to keep in a checkpoint: numbers, strings, None, arrays, and dicts, lists and tuples of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


class EarlyStopping(Callback):
    """Ends the run when a metric has not improved for a while.

    Parameters
    ----------
    monitor : str
        A column of ``history.epochs``.
    patience : int
        The run ends after this many epochs in a row without an improvement.
    min_delta : float
        By how much a value must beat the best one to count.
    maximize : bool
        Whether larger is better (an accuracy).
    restore_best : bool
        Whether the model ends with the weights of the best epoch, however the run ended (an interrupt excepted, which
        keeps the last step's).

    Examples
    --------
    >>> import fastrnn as fr
    >>> stopping = fr.EarlyStopping("validation_accuracy", patience=10, maximize=True)
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        maximize: bool = False,
        restore_best: bool = True,
    ):
        self.monitor = monitor
        self.patience = _check.integer("patience", patience, 1)
        self.min_delta = _check.real("min_delta", min_delta, 0.0)
        self.maximize, self.restore_best = bool(maximize), bool(restore_best)
        self._reset()

    def _reset(self) -> None:
        self.best, self.best_epoch, self.waited, self._weights = math.nan, 0, 0, None

    def epoch(self, report: Report) -> bool:
        if report.epoch == 1:
            self._reset()  # the same object may serve several runs
        if self.monitor not in report.metrics:
            known = ", ".join(report.metrics)
            raise ValueError(
                f"monitor: one of {known} is required; got {self.monitor!r}. Does fit have validation data?"
            )
        value = report.metrics[self.monitor]
        gain = value - self.best if self.maximize else self.best - value
        # A value that is not finite never counts, and the first one that is always does.
        if math.isfinite(value) and (math.isnan(self.best) or gain > self.min_delta):
            self.best, self.best_epoch, self.waited = value, report.epoch, 0
            if self.restore_best:
                self._weights = report.model.params.flat.copy()
        else:
            self.waited += 1
        return self.waited >= self.patience

    def end(self, report: Report) -> None:
        if self._weights is not None:
            report.model.params.flat[...] = self._weights

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "weights": self._weights}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.waited, self._weights = state["waited"], state["weights"]


class _Function(Callback):
    """A plain function as a callback."""

    def __init__(self, function):
        self.epoch = function

    def __deepcopy__(self, memo) -> "_Function":
        return self  # what it notes, it notes where its owner looks


def callback(value) -> Callback:
    """`value` as a Callback."""
    if isinstance(value, Callback):
        return value
    if callable(value):
        return _Function(value)
    raise TypeError(f"callbacks: functions of a Report, or Callback objects, are required; got {value!r}")

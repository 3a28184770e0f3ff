"""Training: `fit` goes through the data, updates the model, and returns what happened."""

import copy
import math
import os

from . import _check, io
from ._run import NonFiniteError as NonFiniteError
from ._run import Run
from ._source import Source, source
from .callbacks import Callback, callback
from .history import History
from .optimizers import Adam, Optimizer


def fit(
    model,
    data,
    *,
    validation=None,
    optimizer=None,
    bptt=None,
    forcing=None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    bucket: bool | None = None,
    seed: int = 0,
    carry_state: bool = False,
    callbacks=(),
    progress: bool | None = None,
    checkpoint=None,
    resume: bool = False,
) -> History:
    """Train `model` on `data`, in place.

    The course of a run is a function of the model, the data and `seed` alone: order of the data, dropout and updates
    are the same bits every time, also when it was interrupted and resumed from its checkpoint.

    Parameters
    ----------
    model : Model
        Its parameters are updated in place.
    data : (x, target), (x, target, lengths), Batches, stream, or iterable of batches
        Arrays (or lists of sequences) are cut into shuffled batches; an iterable of tuples like these (a fourth entry
        being weights) is gone through once an epoch; a Stream has no end and needs `steps`. The shapes are those of
        `fastrnn.data.Batch`.
    validation : like data, optional
        Evaluated after every epoch, each batch from the initial state.
    optimizer : optional
        Adam() by default. Its schedule is told the validation loss (or, without validation, the loss) every epoch;
        what it learns stays in this run: the object given can serve any number of runs.
    bptt : Full or Truncated, optional
        Full() by default.
    forcing : optional
        What enters at every step of a model that is to run on its own outputs, such as ``fr.ScheduledSampling(0.5)``; the data's
        values by default (teacher forcing). Validation is always with the data's values.
    epochs : int, optional
        1 by default, or as many as `steps` need. For a Stream: into how many parts of equal length `steps` is divided;
        validation, callbacks and checkpoints come after each.
    steps : int, optional
        How many updates to make at most; a run that this ends within an epoch reports on the part it did.
    batch_size, shuffle, bucket : optional
        Options of `fastrnn.data.Batches`, where data is arrays.
    seed : int
        For the order of the data, where data is arrays, and for dropout.
    carry_state : bool
        Whether each batch starts from the state in which its predecessor ended (windows of a running text); the first
        batch of an epoch never does.
    callbacks : functions of a Report, or Callback objects
        Called in order after every epoch (and step, if they wish); one that returns True ends the run.
    progress : bool, optional
        Whether to show a progress bar; by default if standard error is a terminal.
    checkpoint : path, optional
        Where to keep what resuming needs; written after every epoch, on Ctrl-C, and at the end. It holds the
        state after the last completed batch (of which truncated BPTT makes many steps).
    resume : bool
        Continue from `checkpoint` if it exists. Everything else must be as in the first call, but for `epochs` and
        `steps`, which may be larger, and `validation`. A run that a callback has ended stays ended.

    Returns
    -------
    History
        With ``interrupted`` set if Ctrl-C ended the run; the model then has the weights of the last completed step.

    Raises
    ------
    NonFiniteError
        At the first step whose loss or gradient is not finite. Its `history` has everything before.
    FileFormatError
        If the checkpoint to resume from is damaged.
    ValueError, TypeError
        For arguments that make no sense, by name.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(10, 64, 1)).astype("float32")
    >>> target = (x.sum(axis=(0, 2)) > 0).astype(int)
    >>> model = fr.Model(fr.GRU(1, 8), fr.Linear(8, 2), loss=fr.CrossEntropy())
    >>> history = fr.fit(model, (x, target), epochs=20, optimizer=fr.Adam(0.02))
    >>> bool(history["loss"][-1] < history["loss"][0])
    True
    """
    seed = _check.integer("seed", seed, 0)
    epochs = None if epochs is None else _check.integer("epochs", epochs, 1)
    steps = None if steps is None else _check.integer("steps", steps, 1)
    batching = {"batch_size": batch_size, "shuffle": shuffle, "bucket": bucket}
    batches = source("data", data, seed=seed, **batching)
    if batches.endless and steps is None:
        raise ValueError("steps: required for a Stream, which has no end")
    if batches.once and epochs is not None and epochs > 1:
        raise ValueError(
            f"epochs: 1 is required for an iterator, which can be gone through only once; got {epochs}. "
            "Give data as a list of batches"
        )
    if epochs is None and (steps is None or batches.endless or batches.once):
        epochs = 1
    if carry_state and batches.settings.get("shuffle"):
        raise ValueError(
            "shuffle: False is required with carry_state=True, whose batches must follow each other; got True"
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer: an Optimizer is required; got {optimizer!r}. Make one: fastrnn.Adam(learning_rate=1e-3)"
        )
    if resume and checkpoint is None:
        raise ValueError("checkpoint: the path to resume from is required with resume=True; got None")
    run = Run(
        model=model,
        data=batches,
        validation=None if validation is None else _validation(validation, batch_size),
        optimizer=Adam() if optimizer is None else copy.deepcopy(optimizer),
        bptt=bptt,
        forcing=forcing,
        epochs=math.inf if epochs is None else epochs,
        steps=math.inf if steps is None else steps,
        seed=seed,
        carry_state=bool(carry_state),
        callbacks=[
            callback(value)
            for value in ([callbacks] if callable(callbacks) or isinstance(callbacks, Callback) else callbacks)
        ],
        checkpoint=checkpoint,
    )
    if resume and os.path.exists(checkpoint):
        run.restore(io.load_checkpoint(checkpoint))
    return run.go(progress)


def _validation(data, batch_size: int | None) -> Source:
    batching = {"batch_size": batch_size, "shuffle": False} if isinstance(data, tuple) else {}
    result = source("validation", data, **batching)
    if result.endless or result.once:
        raise TypeError(
            "validation: data that can be gone through again after every epoch is required; "
            f"got {type(data).__name__}. Give it as a list of batches"
        )
    return result

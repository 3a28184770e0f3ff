"""Training: `fit` goes through the data, updates the model, and returns what happened."""

import copy
import math
import os

import numpy as np

from . import _check
from ._advance import Alone, Together
from ._course import Course
from ._course import NonFiniteError as NonFiniteError
from ._interrupts import Shield
from ._run import Run
from ._source import Source, source
from .bptt import Full, Truncated
from .callbacks import Callback, callback
from .ensemble import Ensemble, PerMember
from .history import EnsembleHistory, History
from .optimizers import Adam, Optimizer, State


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
    seed: int | None = None,
    carry_state: bool = False,
    callbacks=(),
    progress: bool | None = None,
    checkpoint=None,
    resume: bool = False,
) -> History | EnsembleHistory:
    """Train `model` on `data`, in place.

    The course of a run is a function of the model, the data and `seed` alone: order of the data, dropout and updates
    are the same bits every time, also when it was interrupted and resumed from its checkpoint.

    Parameters
    ----------
    model : Model or Ensemble
        Its parameters are updated in place. The members of an ensemble are trained together, and each ends as if it had been
        trained alone with its own seed: see Notes.
    data : (x, target), (x, target, lengths), Batches, stream, or iterable of batches
        Arrays (or lists of sequences) are cut into shuffled batches; an iterable of tuples like these (a fourth entry
        being weights) is gone through once an epoch; a Stream has no end and needs `steps`. The shapes are those of
        `fastrnn.data.Batch`. For an ensemble also ``fr.PerMember([...])``, such data for each member.
    validation : like data, optional
        Evaluated after every epoch, each batch from the initial state; with `carry_state`, batches that are given as such (not cut
        from arrays) from the state in which their predecessor ended.
    optimizer : Optimizer, optional
        Adam() by default; for an ensemble one for all, or a list, one a member, of one kind. Its schedule is told the validation loss
        (or, without validation, the loss) every epoch; what it learns stays in this run: the object given can serve any number of runs.
    bptt : Full or Truncated, optional
        Full() by default; for an ensemble one for all, or a list, one a member.
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
    seed : int, optional
        For the order of the data, where data is arrays, and for dropout; 0 by default. An ensemble has its own, one a member.
    carry_state : bool
        Whether each batch starts from the state in which its predecessor ended (windows of a running text), in training and
        in validation; the first batch of an epoch never does.
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
    History, or EnsembleHistory
        With ``interrupted`` set if Ctrl-C ended the run; the model then has the weights of the last completed step.

    Raises
    ------
    NonFiniteError
        At the first step whose loss or gradient is not finite. Its `history` has everything before. A member of an ensemble
        ends there, and the others go on; its error is in the history's `errors`.
    FileFormatError
        If the checkpoint to resume from is damaged.
    ValueError, TypeError
        For arguments that make no sense, by name.

    Notes
    -----
    Member e of an ensemble gets, bit for bit, what ``fit(ensemble.members[e], data, seed=ensemble.seeds[e], ...)`` with its own entry
    of every list gives. Each has its own copy of the callbacks (functions are shared; `Report.member` says whose report it is); a member
    that has ended takes no further part, and its share of the machine goes to the others. Members whose batches have the same shape
    and whose `bptt` is the same advance together; so lists with few different entries, and data sets of one size, are the fastest.

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
    together = isinstance(model, Ensemble)
    if together and seed is not None:
        raise ValueError(f"seed: None is required with an Ensemble, whose members have their own in `seeds`; got {seed}")
    models, count = (model.members, len(model)) if together else ((model,), 1)
    seeds = model.seeds if together else (0 if seed is None else _check.integer("seed", seed, 0),)
    epochs = None if epochs is None else _check.integer("epochs", epochs, 1)
    steps = None if steps is None else _check.integer("steps", steps, 1)
    per_step = False if models[0].loss.per_sequence else None
    batching = {"batch_size": batch_size, "shuffle": shuffle, "bucket": bucket}
    sources = _sources("data", data, seeds, together, lambda own: source("data", own, seed=seeds[0], per_step=per_step, **batching))
    validations = _sources("validation", validation, seeds, together, lambda own: _validation(own, batch_size, per_step))
    epochs = _epochs(sources, epochs, steps)
    if carry_state and any(own.settings.get("shuffle") for own in sources):
        raise ValueError(
            "shuffle: False is required with carry_state=True, whose batches must follow each other; got True"
        )
    optimizers = [_optimizer(own) for own in _each("optimizer", optimizer, count, together)]
    if len({(type(own), own._moments()) for own in optimizers}) > 1:
        raise ValueError("optimizer: one kind, with the same moments, is required of all members; got several")
    windows = _each("bptt", bptt, count, together)
    if together:
        _check_together(model, sources, windows, forcing)
    if resume and checkpoint is None:
        raise ValueError("checkpoint: the path to resume from is required with resume=True; got None")
    listeners = [callback(value) for value in ([callbacks] if callable(callbacks) or isinstance(callbacks, Callback) else callbacks)]
    shield, flats = Shield(), model.params.flat if together else model.params.flat[None]
    moments = {name: np.zeros_like(flats) for name in optimizers[0]._moments()}
    common = {"forcing": forcing, "carry_state": bool(carry_state), "shield": shield, "recorded": checkpoint is not None}
    common |= {name: math.inf if limit is None else limit for name, limit in (("epochs", epochs), ("steps", steps))}
    courses = [
        Course(
            model=models[e],
            data=sources[e],
            validation=validations[e],
            optimizer=optimizers[e],
            moments=State(0, {name: array[e] for name, array in moments.items()}),
            bptt=windows[e],
            seed=seeds[e],
            callbacks=copy.deepcopy(listeners) if together else listeners,
            member=e,
            **common,
        )
        for e in range(count)
    ]
    run = Run(courses, Together(model, moments) if together else Alone(model), shield, checkpoint, alone=not together)
    if resume and os.path.exists(checkpoint):
        run.restore()
    run.go(progress)
    histories = [course.history for course in courses]
    return EnsembleHistory(histories, run.errors) if together else histories[0]


def _each(name: str, value, count: int, together: bool) -> list:
    """One entry a model: the one that was given, or its own of a list."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if not together or len(value) != count:
        wanted = f"one for all, or a list of {count}, one a member," if together else "one, and no list, which is for an Ensemble,"
        raise ValueError(f"{name}: {wanted} is required; got {len(value)} entries")
    return list(value)


def _optimizer(value) -> Optimizer:
    """The run's own copy."""
    if value is not None and not isinstance(value, Optimizer):
        raise TypeError(
            f"optimizer: an Optimizer is required; got {value!r}. Make one: fastrnn.Adam(learning_rate=1e-3)"
        )
    return Adam() if value is None else copy.deepcopy(value)


def _sources(name: str, data, seeds, together: bool, make) -> list[Source | None]:
    """The batches of every model: of data that all share, each in the order of its seed, or of data of its own."""
    if isinstance(data, PerMember):
        if not together or len(data) != len(seeds):
            raise ValueError(f"{name}: PerMember is for an Ensemble, one set a member; got {len(data)} sets for {len(seeds)} model(s)")
        return [make(own).seeded(seed) for own, seed in zip(data.sets, seeds)]
    if data is None and name == "validation":
        return [None] * len(seeds)
    shared = make(data)
    return [shared.seeded(seed) for seed in seeds] if name == "data" else [shared] * len(seeds)


def _epochs(sources: list[Source], epochs: int | None, steps: int | None) -> int | None:
    """How many epochs to make at most."""
    for own in sources:
        if own.endless and steps is None:
            raise ValueError("steps: required for a Stream, which has no end")
        if own.once and epochs is not None and epochs > 1:
            raise ValueError(
                f"epochs: 1 is required for an iterator, which can be gone through only once; got {epochs}. "
                "Give data as a list of batches"
            )
    if epochs is None and (steps is None or any(own.endless or own.once for own in sources)):
        return 1
    return epochs


def _check_together(ensemble: Ensemble, sources: list[Source], windows: list, forcing) -> None:
    """What an ensemble does not do is refused before anything happens."""
    if forcing is not None:
        raise ValueError("forcing: None is required with an Ensemble; train such models one by one")
    if any(own.once for own in sources) and len(set(map(id, sources))) < len(sources):
        raise TypeError("data: data that every member can go through is required; got an iterator. Give it as a list of batches")
    for own in windows:
        if own is not None and not isinstance(own, (Full, Truncated)):
            raise TypeError(f"bptt: Full() or Truncated(...) is required; got {own!r}")
        if isinstance(own, Full) and own.memory is not None:
            raise ValueError("bptt: Full() without memory= is required with an Ensemble, whose tapes are kept whole; got a memory")
        if isinstance(own, Truncated):
            ensemble.members[0]._check_causal()


def _validation(data, batch_size: int | None, per_step: bool | None) -> Source:
    batching = {"batch_size": batch_size, "shuffle": False} if isinstance(data, tuple) else {}
    result = source("validation", data, per_step=per_step, **batching)
    if result.endless or result.once:
        raise TypeError(
            "validation: data that can be gone through again after every epoch is required; "
            f"got {type(data).__name__}. Give it as a list of batches"
        )
    return result

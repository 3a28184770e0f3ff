"""How courses get their updates: one model by its own passes, the members of an ensemble together."""

import math
from typing import Any, NamedTuple

import numpy as np

from . import _check, _device
from ._course import Course, NonFiniteError, first_non_finite
from ._members import Members
from ._params import Params
from ._source import Source
from .bptt import Full, Truncated
from .data.batches import Batch
from .layers.feedforward import Dropout, Embedding
from .layers.recurrent import Recurrent
from .optimizers import Info, update_members

TAPE_BYTES = 16e6  # what the members that go through a batch together may keep for their way back: a part of the shared cache
FEWEST = 8  # members at least, however long the tape: what a pass costs beside its arithmetic is shared by them


class Work(NamedTuple):
    """What an update of each of several courses is made from: loss and weight one a course, gradients, states."""

    losses: list[float]
    weights: list[float]
    grads: Params
    states: Any


class Alone:
    """One model, of any kind."""

    def __init__(self, model):
        self.model, self.backup = model, np.empty_like(model.params.flat)

    def warm_up(self, course: Course) -> None:
        toy = Params({"toy": (1,)}, self.model.params.dtype, np.zeros_like(self.model.params.flat, shape=1))
        course.optimizer.update(toy, toy.like(), course.optimizer.init(toy))

    def groups(self, courses: list[Course], batches: list) -> list[list[int]]:
        return [[0]]

    def passes(self, courses: list[Course], batches: list):
        """One `Work` for every update that the batch asks for."""
        (course,), (batch,) = courses, batches
        options = {} if course.bptt is None else {"bptt": course.bptt}
        if course.forcing is not None:
            options |= {"forcing": course.forcing, "update": course.position.step}
        for item in self.model.passes(
            batch.x, batch.target, batch.lengths, weights=batch.weights, state=course.carried, rng=course.rng(), **options
        ):
            yield Work([float(item.loss)], [float(item.weight)], item.grads, item.state)

    def state(self, work: Work, place: int):
        return work.states

    def update(self, courses: list[Course], places: list[int], work: Work) -> list[Info | NonFiniteError]:
        """All of an update, or what keeps it from being made."""
        (course,), params, grads = courses, self.model.params, work.grads
        self.backup[...] = params.flat
        try:
            course.moments, info = course.optimizer.update(params, grads, course.moments)
        except FloatingPointError:
            return [course.non_finite("the gradient", first_non_finite(grads))]
        if _overflown(params.flat):
            name = first_non_finite(params)
            params.flat[...] = self.backup
            return [course.non_finite("the updated value", name)]
        return [info]

    def evaluate(self, courses: list[Course]) -> list[dict[str, float]]:
        return [_evaluate(course.model, course.validation, _carries(course)) for course in courses]


class Together:
    """The members of an ensemble: those whose batches have the same shape advance as one."""

    def __init__(self, ensemble, moments: dict[str, np.ndarray]):
        self.ensemble, self.model, self.moments, self._made = ensemble, ensemble.members[0], moments, {}
        self._embedding = isinstance(self.model.layers[0], Embedding)
        recurrent = [layer for layer in self.model.layers if isinstance(layer, Recurrent)]
        self._drops_steps = any(
            isinstance(layer, Dropout) and layer.rate or isinstance(layer, Recurrent) and layer.dropout for layer in self.model.layers
        )
        self._drops = self._drops_steps or any(layer.recurrent_dropout for layer in recurrent)
        self._step_bytes = sum(part.step_bytes(1, layer.dtype) for layer in recurrent for part in layer._layers)

    def warm_up(self, course: Course) -> None:
        zero = np.zeros_like(self.ensemble.params.flat, shape=(1, 1))
        toy = Params({"toy": (1,)}, self.model.dtype, zero)
        moments = {name: zero.copy() for name in self.moments}
        update_members([course.optimizer], toy, np.zeros(1, np.int64), toy.like(), moments, [0])

    def members(self, rows: np.ndarray) -> Members:
        key = rows.tobytes()
        if key not in self._made:
            if len(self._made) >= 2 * len(self.ensemble):
                self._made.clear()
            self._made[key] = Members(self.model, self.ensemble.params, self.ensemble.constants, rows)
        return self._made[key]

    def groups(self, courses: list[Course], batches: list) -> list[list[int]]:
        """Which go through their batches as one: neither which nor how many changes a bit."""
        found: dict[Any, list[int]] = {}
        for place, (course, batch) in enumerate(zip(courses, batches)):
            found.setdefault(self._key(course, batch), []).append(place)
        return [part for places in found.values() for part in self._blocks(places, batches[places[0]])]

    def _blocks(self, places: list[int], batch: Batch) -> list[list[int]]:
        """In parts whose tapes stay in the cache."""
        device = self.model.device
        room = TAPE_BYTES if device.name == "cpu" else device.free() / 8  # there is no cache to stay in; tapes are a part of what is needed
        size = max(FEWEST, int(room / max(self._step_bytes * batch.x.shape[0] * batch.x.shape[1], 1)))
        parts = -(-len(places) // size)
        return [places[len(places) * k // parts : len(places) * (k + 1) // parts] for k in range(parts)]

    def _key(self, course: Course, batch: Batch):
        """What must be equal for two courses to go through their batches as one."""
        x, target, weights, bptt = batch.x, batch.target, batch.weights, course.bptt
        truncated = isinstance(bptt, Truncated)
        exact = truncated or weights is not None or self._drops_steps  # whether padding one to the other's steps would be seen
        tail = int(np.minimum(batch.lengths, bptt.window).max(initial=0)) if truncated and self._drops_steps else None
        target = target.dtype, target.shape[2 if self.model.readout == "every" else 1 :]
        return bptt, x.shape[1:], x.shape[0] if exact else None, tail, target, weights is None or weights.ndim, course.carried is None

    def passes(self, courses: list[Course], batches: list):
        """One `Work` for every update that the batches ask for."""
        members = self.members(np.array([course.member for course in courses]))
        rngs = [course.rng() for course in courses] if self._drops else None
        state, bptt = None, courses[0].bptt or Full()
        if courses[0].carried is not None:
            layers = zip(*(course.carried for course in courses))
            state = tuple([self.model.device.put(np.stack(parts)) for parts in zip(*layer)] for layer in layers)
        for item in bptt.passes(members, self._stacked(batches), state, rngs):
            yield Work(item.loss.tolist(), item.weight.tolist(), item.grads, item.state)

    def state(self, work: Work, place: int):
        """One member's part of the state that a batch ended in."""
        return tuple([part[place].copy() for part in layer] for layer in work.states)

    def _stacked(self, batches: list[Batch]) -> Batch:
        """One batch with a member axis; shorter ones are padded, which reaches nothing."""
        model, first = self.model, batches[0]
        features = self._features()
        if any(batch.x.shape[2:] != features for batch in batches):
            model._inputs(first.x, first.lengths)  # says what is wrong
        lengths = np.stack([batch.lengths for batch in batches])
        x = _joined([batch.x for batch in batches], np.int64 if self._embedding else model.dtype)
        if not isinstance(model.layers[0], Recurrent):
            valid = np.arange(x.shape[1])[:, None] < lengths[:, None, :]
            x = np.where(valid.reshape(valid.shape + (1,) * (x.ndim - 3)), x, np.zeros((), x.dtype))
        if self._embedding:
            x = _check.integers("x", x, x.shape, 0, model.layers[0].num_symbols - 1, meaning="(symbols)")
        if model.readout == "every":
            for batch in batches:
                if batch.target.shape[:2] != batch.x.shape[:2]:
                    wanted = ", ".join(map(str, batch.x.shape[:2]))
                    raise ValueError(f'target: shape ({wanted}, ...) is required with readout="every"; got {batch.target.shape}')
        target = _joined([batch.target for batch in batches], first.target.dtype, shared=False)
        weights = None if first.weights is None else np.stack([batch.weights for batch in batches])
        return Batch(x if self._embedding else self.model.device.put(x), target, lengths, weights)

    def _features(self) -> tuple:
        """The shape of x (T, B, ...) behind its first two axes."""
        layer = self.model.layers[0]
        if self._embedding:
            return (layer.group,) if layer.group else ()
        return (next(layer.input_size for layer in self.model.layers if hasattr(layer, "input_size")),)

    def update(self, courses: list[Course], places: list[int], work: Work) -> list[Info | NonFiniteError]:
        """One update of each; what keeps it from being made where it cannot."""
        rows, params, grads = np.array([course.member for course in courses]), self.ensemble.params, work.grads
        put = self.model.device.put
        if len(places) < len(grads.flat):
            grads = Params(grads.shapes, grads.dtype, grads.flat[put(np.array(places))])
        backup = params.flat[put(rows)]
        steps = [course.moments.step for course in courses]
        result = update_members([course.optimizer for course in courses], params, rows, grads, self.moments, steps)
        overflown = _device.host(~np.isfinite(params.flat[put(rows)]).all(axis=1))
        for e, course in enumerate(courses):
            if result[e] is None:
                result[e] = course.non_finite("the gradient", first_non_finite(_member(grads, e)))
            elif overflown[e]:
                result[e] = course.non_finite("the updated value", first_non_finite(course.model.params))
                course.model.params.flat[...] = backup[e]
            else:
                course.moments = course.moments._replace(step=steps[e] + 1)
        return result

    def evaluate(self, courses: list[Course]) -> list[dict[str, float]]:
        """Every member on its validation data; those who share them see each batch in one pass."""
        found, by_source = {}, {}
        for course in courses:
            by_source.setdefault(id(course.validation), []).append(course)
        for own in by_source.values():
            if len(own) == 1 or _carries(own[0]):
                found |= {course: _evaluate(course.model, course.validation, _carries(course)) for course in own}
            else:
                found |= dict(zip(own, self._evaluate(np.array([course.member for course in own]), own[0].validation)))
        return [found[course] for course in courses]

    def _evaluate(self, rows: np.ndarray, data: Source) -> list[dict[str, float]]:
        means = [_Means() for _ in rows]
        for batch in data.start(0, 0, 0):
            for block in self._blocks(list(range(len(rows))), batch):
                values = self.ensemble.evaluate(*batch, rows=rows[block])
                for e, place in enumerate(block):
                    means[place].add(self.model, batch, {name: float(column[e]) for name, column in values.items()})
        return [mean.values() for mean in means]


def _joined(arrays: list[np.ndarray], dtype, shared: bool = True) -> np.ndarray:
    """Arrays (T, ...) as one (E, T, ...), zeros behind the shorter ones; (1, T, ...) where all are one object and `shared` allows it."""
    if shared and all(array is arrays[0] for array in arrays):
        return np.ascontiguousarray(arrays[0], dtype)[None]
    steps = [len(array) for array in arrays]
    make = np.empty if min(steps) == max(steps) else np.zeros
    result = make((len(arrays), max(steps), *arrays[0].shape[1:]), dtype)
    for row, array in zip(result, arrays):
        row[: len(array)] = array
    return result


def _member(params: Params, e: int) -> Params:
    return Params(params.shapes, params.dtype, params.flat[e])


class _Means:
    """Loss and metrics over batches: means over all valid targets."""

    def __init__(self):
        self.sums, self.totals = {}, {}

    def add(self, model, batch: Batch, values: dict[str, float]) -> None:
        for name, value in values.items():
            weight = model._target_weight(batch, name)
            self.totals[name] = self.totals.get(name, 0.0) + weight
            self.sums[name] = self.sums.get(name, 0.0) + (weight * value if weight else 0.0)

    def values(self) -> dict[str, float]:
        return {name: value / self.totals[name] if self.totals[name] else math.nan for name, value in self.sums.items()}


def _carries(course: Course) -> bool:
    """Whether a validation batch goes on where the one before it ended."""
    return course.carry_state and not course.validation.cut


def _evaluate(model, data: Source, carry: bool) -> dict[str, float]:
    """The model's loss and metrics over all batches of `data`."""
    means, state = _Means(), None
    for batch in data.start(0, 0, 0):
        if carry:
            values, state = model._evaluate(batch, state)
        else:
            values = model.evaluate(*batch)
        means.add(model, batch, values)
    return means.values()


def _overflown(flat: np.ndarray) -> bool:
    """Whether any number is not finite, in one cheap pass: a sum is NaN or infinite then (and seldom otherwise)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return not math.isfinite(float(flat.sum())) and not np.isfinite(flat).all()

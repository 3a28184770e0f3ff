"""fit: what it does to a model, what it reports, how it stops, and that resuming is as never having stopped.

The model here is linear, in NumPy, with the interface of fastrnn.Model: what is tested is the course of training.
"""

import math
import os
import signal
import sys
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastrnn import io
from fastrnn._params import Params
from fastrnn.bptt import Full, Truncated
from fastrnn.callbacks import Callback, EarlyStopping
from fastrnn.data import Batch, Batches, stream
from fastrnn.io import FileFormatError
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.networks import GRU
from fastrnn.losses import CrossEntropy
from fastrnn.model import Model
from fastrnn.optimizers import SGD, Adam
from fastrnn.schedules import CosineDecay, ReduceOnPlateau
from fastrnn.train import NonFiniteError, fit


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


# What is learned and reported -----------------------------------------------------------------------------------------


def test_the_task_is_learned_and_the_history_says_so():
    model = Line()
    history = fit(model, DATA, epochs=200, batch_size=8, optimizer=Adam(0.05))
    np.testing.assert_allclose(model.params.flat, [1.0, -2.0, 0.5], atol=1e-3)
    assert history.stopped == "epochs" and not history.interrupted
    assert history.epochs.rows == 200 and history.steps.rows == 600
    assert history["loss"][-1] < 1e-5 < history["loss"][0]
    assert history["epoch"].tolist() == list(range(1, 201))
    assert history["step"].tolist() == list(range(3, 601, 3))
    assert set(history.steps) == {"step", "epoch", "loss", "weight", "gradient_norm", "clipped", "learning_rate"}
    assert not history.steps["clipped"].any()


def test_an_epochs_loss_is_the_mean_over_all_its_targets():
    _, history = trained(batch_size=8, epochs=2)
    steps = history.steps
    assert steps["weight"].tolist() == [8, 8, 4] * 2
    first = steps["epoch"] == 1
    np.testing.assert_allclose(history["loss"][0], np.average(steps["loss"][first], weights=steps["weight"][first]))
    np.testing.assert_allclose(history["gradient_norm"][0], steps["gradient_norm"][first].mean())


def test_clipping_is_reported():
    _, history = trained(optimizer=sgd(clip_norm=1e-3))
    assert history.steps["clipped"].tolist() == [1]
    assert history.steps["gradient_norm"][0] > 1e-3


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    def run(seed):
        return trained(Line(dropout=0.3), epochs=3, batch_size=8, seed=seed)

    weights, history = run(1)
    again, history_again = run(1)
    assert weights.tobytes() == again.tobytes() and columns(history) == columns(history_again)
    assert weights.tobytes() != run(2)[0].tobytes()


def test_dropout_is_drawn_anew_for_every_batch_of_every_epoch():
    drawn = []

    class Watched(Line):
        def passes(self, *arguments, rng, **options):
            drawn.append(rng.random())
            return super().passes(*arguments, rng=rng, **options)

    for _ in range(2):
        trained(Watched(), epochs=3, batch_size=10, seed=4)
    assert drawn[:6] == drawn[6:] and len(set(drawn)) == 6


def test_the_optimizer_given_can_serve_again():
    optimizer = SGD(ReduceOnPlateau(0.02, patience=0, threshold=0.9))
    first, history = trained(optimizer=optimizer, epochs=6)
    assert history["learning_rate"][-1] < 0.02
    assert optimizer.learning_rate(0) == 0.02
    assert trained(optimizer=optimizer, epochs=6)[0].tobytes() == first.tobytes()


def test_a_plateau_is_judged_by_the_validation_loss():
    class Worse(Line):
        def evaluate(self, *arguments):
            return {"loss": 1.0}

    schedule = ReduceOnPlateau(0.02, factor=0.5, patience=1)
    _, history = trained(Worse(), optimizer=SGD(schedule), epochs=6, validation=DATA)
    assert history["learning_rate"].tolist() == [0.02, 0.02, 0.02, 0.01, 0.01, 0.005]


def test_schedules_count_updates():
    schedule = CosineDecay(0.02, steps=6)
    _, history = trained(optimizer=SGD(schedule), epochs=2, batch_size=8)
    assert history.steps["learning_rate"].tolist() == [schedule(step) for step in range(6)]


# Forms of data --------------------------------------------------------------------------------------------------------


def test_arrays_batches_lists_and_iterables_are_the_same_data():
    batches = Batches(*DATA, batch_size=8, shuffle=False)
    expected, _ = trained(data=DATA, batch_size=8, shuffle=False, epochs=3)
    x, target, lengths = DATA
    sequences = [x[:n, i] for i, n in enumerate(lengths)]

    class Reopened:
        def __iter__(self):
            yield from map(tuple, batches)

    for data in (batches, list(batches), [tuple(batch)[:3] for batch in batches], Reopened()):
        assert trained(data=data, epochs=3)[0].tobytes() == expected.tobytes()
    assert trained(data=(sequences, target), batch_size=8, shuffle=False, epochs=3)[0].tobytes() == expected.tobytes()


def test_a_generator_is_good_for_one_epoch():
    batches = Batches(*DATA, batch_size=8)
    assert trained(data=iter(list(batches)))[0].tobytes() == trained(data=list(batches))[0].tobytes()
    _, history = trained(data=iter(list(batches)), steps=100)
    assert history.steps.rows == 3 and history.stopped == "epochs"
    with pytest.raises(ValueError, match="epochs: 1 is required for an iterator"):
        trained(data=iter(list(batches)), epochs=2)


def test_weights_reach_the_model():
    x, target, lengths = DATA
    only_first = (np.arange(20) < 8) * 1.0
    weighted, history = trained(data=[(x, target, lengths, only_first)], epochs=5)
    np.testing.assert_allclose(weighted, trained(data=[(x[:, :8], target[:8], lengths[:8])], epochs=5)[0], rtol=1e-12)
    assert history.steps["weight"].tolist() == [8.0] * 5


def test_a_stream_is_cut_into_parts():
    def sample(n, rng):
        return line_data(n, seed=int(rng.integers(1000)))

    reports = []
    data = stream(sample, batch_size=4, seed=7)
    weights, history = trained(data=data, steps=10, epochs=4, callbacks=reports.append)
    assert [(report.epoch, report.step) for report in reports] == [(1, 3), (2, 6), (3, 9), (4, 10)]
    assert history.stopped == "steps"
    assert trained(data=[data.batch(i) for i in range(10)])[0].tobytes() == weights.tobytes()


def test_steps_end_the_run_wherever_they_end():
    weights, history = trained(batch_size=8, steps=5)
    assert history.steps.rows == 5 and history.stopped == "steps"
    assert history["step"].tolist() == [3, 5] and history["epoch"].tolist() == [1, 2]
    assert history["loss"][1] == np.average(history.steps["loss"][3:], weights=history.steps["weight"][3:])
    assert trained(batch_size=8, steps=5, epochs=9)[0].tobytes() == weights.tobytes()
    assert trained(batch_size=8, steps=6)[1]["step"].tolist() == [3, 6]
    assert trained(batch_size=8, steps=6, epochs=1)[1].stopped == "epochs"


def test_steps_may_end_within_a_batch():
    weights, history = trained(bptt=3, batch_size=20, steps=4, shuffle=False)
    assert history.steps.rows == 4
    model = Line()
    fit(model, DATA, optimizer=sgd(), bptt=3, batch_size=20, epochs=2, shuffle=False, callbacks=[StopAt(4)])
    assert model.params.flat.tobytes() == weights.tobytes()


class StopAt(Callback):
    def __init__(self, number):
        self.number = number

    def step(self, report):
        return report.step == self.number


def test_the_state_is_carried_from_batch_to_batch_but_not_from_epoch_to_epoch():
    x, target, _ = DATA
    windows = [(x[:2], target), (x[2:], target)]
    started = []

    class Watched(Line):
        def passes(self, *arguments, state=None, **options):
            started.append(None if state is None else state.copy())
            return super().passes(*arguments, state=state, **options)

    trained(Watched(), windows, carry_state=True, epochs=2)
    assert started[0] is None and started[2] is None
    np.testing.assert_array_equal(started[1], x[:2].sum(0))
    np.testing.assert_array_equal(started[3], x[:2].sum(0))
    started.clear()
    trained(Watched(), windows, epochs=2)
    assert started == [None] * 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": 3}, TypeError, "data: .* is required; got int"),
        ({"data": "text"}, TypeError, "data: .* is required; got str"),
        ({"data": [3]}, TypeError, "batch: a tuple"),
        ({"data": []}, ValueError, "data: at least one batch is required in every epoch; got none in epoch 1"),
        ({"data": [DATA], "batch_size": 3}, ValueError, "batch_size: no options are required for data in batches"),
        ({"data": stream(lambda n, rng: line_data(n))}, ValueError, "steps: required for a Stream"),
        ({"epochs": 0}, ValueError, "epochs: an integer at least 1 is required; got 0"),
        ({"steps": 1.5}, TypeError, "steps: an integer is required"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"optimizer": "adam"}, TypeError, "optimizer: an Optimizer is required; got 'adam'"),
        ({"callbacks": [3]}, TypeError, "callbacks: functions of a Report"),
        ({"carry_state": True}, ValueError, "shuffle: False is required with carry_state=True"),
        ({"resume": True}, ValueError, "checkpoint: the path to resume from is required"),
        (
            {"validation": stream(lambda n, rng: line_data(n))},
            TypeError,
            "validation: data that can be gone through again",
        ),
        ({"validation": iter([DATA])}, TypeError, "validation: data that can be gone through again"),
        ({"validation": 3}, TypeError, "validation: .* is required; got int"),
    ],
)
def test_bad_arguments_are_named_before_anything_happens(options, error, message):
    model = Line()
    with pytest.raises(error, match=message):
        fit(model, **({"data": DATA} | options))
    assert not model.params.flat.any()


# Validation and callbacks ---------------------------------------------------------------------------------------------


def test_validation_is_the_mean_over_all_targets_and_changes_nothing():
    held_out = line_data(13, seed=5)
    model = Line()
    history = fit(model, DATA, validation=held_out, optimizer=sgd(), epochs=2, batch_size=8)
    whole = model.evaluate(*held_out)
    np.testing.assert_allclose(history["validation_loss"][-1], whole["loss"], rtol=1e-12)
    np.testing.assert_allclose(history["validation_sign"][-1], whole["sign"], rtol=1e-12)
    assert trained(epochs=2, batch_size=8)[0].tobytes() == model.params.flat.tobytes()


@pytest.mark.parametrize(("readout", "rows"), [("last", 1), ("every", 1), ("every", 2), ("mean", 1)])
def test_validation_weighs_batches_by_their_valid_targets(readout, rows):
    class Fake(Line):
        def evaluate(self, x, target, lengths, weights):
            return {"loss": float(x[0, 0, 0])}

    Fake.readout = readout
    x = np.ones((3, 2, 1))
    lengths = np.array([3, 1])
    weights = np.array([2.0, 0.5]) if rows == 1 else np.array([[2.0, 0.5], [1.0, 7.0], [1.0, 7.0]])
    first = 4.0 + 0.0 if rows == 2 else 6.0 if readout == "every" else 2.0
    second = 0.5
    validation = [(x, np.zeros(2), lengths, weights), (4 * x, np.zeros(2), lengths, None)]
    rest = 4.0 if readout == "every" else 2.0
    _, history = trained(Fake(), validation=validation)
    expected = ((first + second) * 1.0 + rest * 4.0) / (first + second + rest)
    np.testing.assert_allclose(history["validation_loss"], [expected])


def test_validation_without_a_single_valid_target_is_nan():
    x, target, lengths = DATA

    class Fake(Line):
        def evaluate(self, x, target, lengths, weights):
            return {"loss": 0.0}

    _, history = trained(Fake(), validation=[(x, target, lengths, np.zeros(20))])
    assert math.isnan(history["validation_loss"][0])


def test_callbacks_are_told_every_step_and_every_epoch_in_order():
    told = []

    class Both(Callback):
        def step(self, report):
            told.append(("step", report.epoch, report.step, report.loss, report.metrics["gradient_norm"]))

        def epoch(self, report):
            told.append(("epoch", report.epoch, report.step, report.loss, report.metrics["validation_loss"]))

        def end(self, report):
            told.append(("end", report.epoch, report.step))

    _, history = trained(
        epochs=2, batch_size=10, validation=DATA, callbacks=[Both(), lambda report: told.append("function")]
    )
    kinds = [entry if isinstance(entry, str) else entry[0] for entry in told]
    assert kinds == ["step", "step", "epoch", "function"] * 2 + ["end"]
    assert told[-1] == ("end", 2, 4)
    assert told[1] == ("step", 1, 2, history.steps["loss"][1], history.steps["gradient_norm"][1])
    assert told[2] == ("epoch", 1, 2, history["loss"][0], history["validation_loss"][0])


def test_a_callback_ends_the_run_by_returning_true_and_all_the_others_are_still_told():
    told = []
    _, history = trained(epochs=9, callbacks=[lambda report: report.epoch == 3, told.append])
    assert history.epochs.rows == 3 and history.stopped == "callback" and len(told) == 3


def test_a_step_callback_ends_the_run_within_an_epoch():
    _, history = trained(epochs=9, batch_size=8, callbacks=[StopAt(4)])
    assert history.steps.rows == 4 and history["step"].tolist() == [3, 4] and history.stopped == "callback"


def test_an_error_in_a_callback_comes_out():
    with pytest.raises(ZeroDivisionError):
        trained(callbacks=lambda report: 1 / 0)


class Scripted(Line):
    """A model whose validation loss follows a script, and whose weights change every epoch."""

    def __init__(self, losses):
        super().__init__()
        self.losses = iter(losses)

    def evaluate(self, *arguments):
        return {"loss": next(self.losses)}


@pytest.mark.parametrize(
    ("losses", "options", "epochs", "best"),
    [
        ([5, 4, 3, 3, 3, 3, 3, 3], {"patience": 2}, 5, 3),
        ([5, 4, 3, 2, 1, 1, 1, 1], {"patience": 2}, 7, 5),
        ([5, 6, 4, 6, 6, 6, 6, 6], {"patience": 2}, 5, 3),
        ([5, 4.5, 4.2, 3.9, 1, 1, 1, 1], {"patience": 3, "min_delta": 1.0}, 8, 5),
        ([math.nan, math.nan, 1, 2, 3], {"patience": 3}, 5, 3),
        ([math.nan, math.inf, math.nan], {"patience": 3}, 3, 0),
        ([1, 2, 3, 3, 3, 3], {"patience": 1, "maximize": True}, 4, 3),
    ],
)
def test_early_stopping(losses, options, epochs, best):
    weights = []
    stopping = EarlyStopping(**options)
    callbacks = [stopping, lambda report: weights.append(report.model.params.flat.copy())]
    final, history = trained(Scripted(losses), validation=DATA, epochs=len(losses), callbacks=callbacks)
    assert history.epochs.rows == epochs and stopping.best_epoch == best
    assert final.tobytes() == weights[best - 1].tobytes()


@pytest.mark.parametrize(("restore_best", "epoch"), [(True, 2), (False, 4)])
def test_early_stopping_restores_the_best_also_when_patience_never_ended_and_only_if_asked(restore_best, epoch):
    weights = []
    callbacks = [
        EarlyStopping(restore_best=restore_best),
        lambda report: weights.append(report.model.params.flat.copy()),
    ]
    final, _ = trained(Scripted([3, 1, 2, 2]), validation=DATA, epochs=4, callbacks=callbacks)
    assert final.tobytes() == weights[epoch - 1].tobytes()


def test_early_stopping_can_serve_again_and_names_what_it_could_monitor():
    stopping = EarlyStopping(patience=2)
    for _ in range(2):
        _, history = trained(Scripted([2, 1, 3, 3, 3]), validation=DATA, epochs=5, callbacks=stopping)
        assert history.epochs.rows == 4
    with pytest.raises(ValueError, match="monitor: one of epoch, step, loss, .* is required; got 'validation_loss'"):
        trained(callbacks=stopping)
    with pytest.raises(ValueError, match="patience: an integer at least 1 is required; got 0"):
        EarlyStopping(patience=0)


# Numbers that are not finite ------------------------------------------------------------------------------------------


class Bad(Line):
    """A model in which step `at` goes wrong."""

    def __init__(self, what, at=4, dtype="float64"):
        super().__init__(dtype=dtype)
        self.what, self.at, self.count = what, at, 0

    def passes(self, *arguments, **options):
        for item in super().passes(*arguments, **options):
            self.count += 1
            if self.count == self.at:
                if self.what == "loss":
                    item = item._replace(loss=math.nan)
                else:
                    item.grads[self.what][...] = np.inf
            yield item


@pytest.mark.parametrize("what", ["loss", "w", "b"])
def test_the_run_stops_at_the_step_and_keeps_the_last_good_state(what, tmp_path):
    model = Bad(what)
    path = tmp_path / "checkpoint"
    with pytest.raises(NonFiniteError, match=rf"fit: step 4: .*{what}.* is not finite; .* weights of step 3") as caught:
        fit(model, DATA, optimizer=sgd(), epochs=9, batch_size=8, checkpoint=path)
    error = caught.value
    assert isinstance(error, FloatingPointError)
    assert (error.step, error.tensor) == (4, what)
    assert error.history.steps.rows == 3 and error.history.stopped == "error"
    assert model.params.flat.tobytes() == trained(steps=3, batch_size=8)[0].tobytes()
    assert io.load_checkpoint(path)["position"]["step"] == 3


def test_weights_that_overflow_are_taken_back():
    model = Line(dtype="float32")
    with pytest.raises(NonFiniteError, match="step 2: the updated value of 'w' is not finite") as caught:
        fit(model, [DATA], optimizer=SGD(Jump()), epochs=9)
    assert caught.value.tensor == "w"
    expected = Line(dtype="float32")
    fit(expected, [DATA], optimizer=SGD(Jump()), steps=1)
    assert model.params.flat.tobytes() == expected.params.flat.tobytes() and np.isfinite(model.params.flat).all()


class Jump(CosineDecay):
    """A rate that is absurd from the second update on."""

    def __init__(self):
        super().__init__(0.01, 10)

    def __call__(self, step):
        return 0.01 if step == 0 else 3e38


def test_large_finite_weights_are_no_overflow():
    model = Line(dtype="float32")
    model.params.flat[:2] = 3e38, 3e38  # whose sum overflows
    data = [(np.zeros((1, 2, 2)), np.zeros(2))]
    fit(model, data, optimizer=SGD(0.1))
    assert np.isfinite(model.params.flat).all()


# Interrupts and resumption --------------------------------------------------------------------------------------------


class Ticks:
    """Ctrl-C at a chosen moment: the instrumented places call this, and call number `at` raises the signal."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __call__(self, *ignored):
        self.count += 1
        if self.count == self.at:
            signal.raise_signal(signal.SIGINT)


class TickingSGD(SGD):
    """Interrupted within an update, before and after the weights have changed."""

    ticks: Any = None  # on the class, so that the run's copy has it

    def _apply(self, params, *arguments):
        if params.size > 1:  # not the run's trial update
            type(self).ticks()
        super()._apply(params, *arguments)
        if params.size > 1:
            type(self).ticks()

    def config(self):
        return super().config() | {"kind": "SGD"}


class TickingCallback(Callback):
    """Interrupted before and after it has counted; its count must be right in the end."""

    def __init__(self, ticks):
        self.ticks, self.steps, self.epochs = ticks, 0, 0

    def step(self, report):
        self.ticks()
        self.steps += 1
        self.ticks()

    def epoch(self, report):
        self.ticks()
        self.epochs += 1
        self.ticks()

    def state(self):
        self.ticks()
        return {"steps": self.steps, "epochs": self.epochs}

    def restore(self, state):
        self.steps, self.epochs = state["steps"], state["epochs"]


def windows_of(x, target):
    return [(x[:2], target), (x[2:], target)]


SCENARIOS = {
    "full": {"data": DATA, "batch_size": 8, "epochs": 2},
    "truncated": {"data": DATA, "batch_size": 10, "bptt": 2, "epochs": 2},
    "carried": {"data": windows_of(*DATA[:2]), "bptt": 2, "carry_state": True, "epochs": 2},
    "stream": {
        "data": stream(lambda n, rng: line_data(n, seed=int(rng.integers(99))), batch_size=4),
        "steps": 6,
        "epochs": 3,
    },
    "steps": {"data": DATA, "batch_size": 10, "bptt": 2, "steps": 5},
}


def run(scenario, at=None, **options):
    """Train in a scenario with an interrupt at a tick; weights, history, callback, number of ticks."""
    ticks = Ticks(at)
    TickingSGD.ticks = ticks
    optimizer = TickingSGD(ReduceOnPlateau(0.02, factor=0.5, patience=0, threshold=0.7), momentum=0.5)
    counting, model = TickingCallback(ticks), Line(dropout=0.2, hook=ticks)
    callbacks = [counting, EarlyStopping("validation_loss", patience=2)]
    settings = SCENARIOS[scenario] | {
        "validation": line_data(6, seed=3),
        "callbacks": callbacks,
        "optimizer": optimizer,
    }
    history = fit(model, **settings, **options)
    return model.params.flat.copy(), history, (counting.steps, counting.epochs), ticks.count


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_interrupted_anywhere_and_resumed_is_as_never_stopped(scenario, tmp_path):
    weights, history, counts, ticks = run(scenario, checkpoint=tmp_path / "uninterrupted")
    assert run(scenario)[0].tobytes() == weights.tobytes()
    for at in range(1, ticks + 1):
        path = tmp_path / f"{at}"
        _, partial, _, _ = run(scenario, at, checkpoint=path)
        assert partial.interrupted
        resumed, resumed_history, resumed_counts, _ = run(scenario, checkpoint=path, resume=True)
        assert resumed.tobytes() == weights.tobytes(), at
        assert columns(resumed_history) == columns(history), at
        assert resumed_counts == counts, at
        assert resumed_history.stopped == history.stopped


def test_an_interrupt_leaves_the_model_after_a_completed_step():
    _, history, _, ticks = run("full")
    after = {0: bytes(24)}
    for at in range(1, ticks + 1):
        weights, partial, _, _ = run("full", at)
        step = partial.steps.rows
        assert partial.interrupted and step <= history.steps.rows
        assert after.setdefault(step, weights.tobytes()) == weights.tobytes()
        assert partial.steps.records() == history.steps.records()[:step]
    assert set(after) == set(range(history.steps.rows + 1))


def test_an_interrupt_is_noticed_at_once_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGINT)
    ticks = Ticks(3)
    _, history = trained(Line(hook=ticks), epochs=100)
    assert history.interrupted and history.steps.rows == 2 and ticks.count == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_many_times_is_as_never_stopped(tmp_path):
    weights, history, counts, _ = run("full", checkpoint=tmp_path / "a")
    rounds = 0
    while True:
        resumed = run("full", 7, checkpoint=tmp_path / "b", resume=True)
        rounds += 1
        if not resumed[1].interrupted:
            break
    assert rounds > 3
    assert (
        resumed[0].tobytes() == weights.tobytes() and columns(resumed[1]) == columns(history) and resumed[2] == counts
    )


def test_a_finished_run_is_continued_with_more_epochs(tmp_path):
    path = tmp_path / "checkpoint"
    weights, history = trained(epochs=5, batch_size=8)
    trained(epochs=2, batch_size=8, checkpoint=path)
    resumed, resumed_history = trained(epochs=5, batch_size=8, checkpoint=path, resume=True)
    assert resumed.tobytes() == weights.tobytes() and columns(resumed_history) == columns(history)
    again, again_history = trained(epochs=5, batch_size=8, checkpoint=path, resume=True)
    assert again.tobytes() == weights.tobytes() and columns(again_history) == columns(history)


@pytest.mark.parametrize("bptt", [1, 3])
def test_a_run_ended_by_steps_is_continued_with_more_steps(tmp_path, bptt):
    path = tmp_path / "checkpoint"
    options = {"batch_size": 10, "bptt": bptt}
    weights, history = trained(steps=11, **options)
    trained(steps=5, checkpoint=path, **options)
    resumed, resumed_history = trained(steps=11, checkpoint=path, resume=True, **options)
    assert resumed.tobytes() == weights.tobytes() and columns(resumed_history) == columns(history)


def test_a_run_that_a_callback_ended_stays_ended_with_its_best_weights(tmp_path):
    def go(losses, **options):
        stopping = EarlyStopping(patience=2)
        return trained(
            Scripted(losses), validation=DATA, epochs=9, callbacks=stopping, checkpoint=tmp_path / "c", **options
        )

    weights, history = go([2, 1, 3, 3])
    resumed, resumed_history = go([], resume=True)
    assert resumed.tobytes() == weights.tobytes() and columns(resumed_history) == columns(history)
    assert resumed_history.stopped == "callback"


def test_resuming_without_a_checkpoint_starts_and_without_asking_starts_anew(tmp_path):
    path = tmp_path / "checkpoint"
    first, _ = trained(checkpoint=path, resume=True)
    assert trained()[0].tobytes() == first.tobytes()
    assert trained(checkpoint=path)[0].tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": Adam()}, "optimizer"),
        ({"optimizer": sgd(0.03)}, "optimizer"),
        ({"model": Line(3)}, "model"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 10}, "data"),
        ({"bptt": 2}, "bptt"),
        ({"callbacks": [EarlyStopping("loss")]}, "callbacks"),
    ],
)
def test_resuming_another_run_is_refused(tmp_path, changes, named):
    path = tmp_path / "checkpoint"
    trained(batch_size=8, checkpoint=path)
    with pytest.raises(ValueError, match=f"resume: the checkpoint's {named} is required again"):
        trained(**({"batch_size": 8, "epochs": 2, "checkpoint": path, "resume": True} | changes))


def test_a_damaged_checkpoint_is_refused_and_the_model_untouched(tmp_path):
    path = tmp_path / "checkpoint"
    trained(checkpoint=path)
    tree = io.load_checkpoint(path)
    damages = [
        {"arrays": {}},
        {"arrays": tree["arrays"] | {"params": np.zeros(2)}},
        {"arrays": tree["arrays"] | {"params": None}},
        {"arrays": tree["arrays"] | {"momentum": np.zeros(3, "float32")}},
        {"position": {"epoch": "1"}},
        {"position": tree["position"] | {"batch": -1}},
        {"position": {"unknown": 1}},
        {"optimizer_step": None},
        {"schedule": {"rate": 1.0}},
        {"history": {"steps": {"loss": np.zeros((2, 2))}, "epochs": {}}},
        {"history": None},
        {"stopped": "error"},
        {"callbacks": None},
        {"settings": None},
        {"settings": {}},
    ]
    for damage in damages:
        io.save_checkpoint(path, tree | damage)
        model = Line()
        with pytest.raises(FileFormatError):
            fit(model, DATA, optimizer=sgd(), epochs=2, checkpoint=path, resume=True)
        assert not model.params.flat.any(), damage
    path.write_bytes(b"noise")
    with pytest.raises(FileFormatError):
        trained(checkpoint=path, resume=True)


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    trained(checkpoint=path)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            trained(epochs=2, checkpoint=path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["checkpoint"]


# A real network -------------------------------------------------------------------------------------------------------


def network():
    layers = GRU(2, 6, recurrent_dropout=0.2, seed=1), Linear(6, 2, seed=2)
    return Model(*layers, loss=CrossEntropy(), readout="every")


def signs(n=24, T=9, seed=0):
    """At every step, whether the inputs so far sum to more than zero; lengths differ, and NaN lies behind them."""
    rng = np.random.default_rng(seed)
    x, lengths = rng.normal(size=(T, n, 2)).astype("float32"), rng.integers(1, T + 1, n)
    target = (x[:, :, 0].cumsum(0) > 0).astype(int)
    x[np.arange(T)[:, None] >= lengths] = np.nan
    return x, target, lengths


@pytest.mark.parametrize("bptt", [Full(), Truncated(4, 2)], ids=["full", "truncated"])
def test_a_network_learns_and_resumes_bit_for_bit(bptt, tmp_path):
    settings = {"validation": signs(16, seed=5), "epochs": 8, "batch_size": 8, "bucket": True, "bptt": bptt}
    settings |= {"optimizer": Adam(0.05, clip_norm=1.0)}
    model = network()
    history = fit(model, signs(), **settings)
    assert history["loss"][-1] < 0.8 * history["loss"][0] and history["validation_accuracy"][-1] > 0.7
    whole = model.evaluate(*signs(16, seed=5))
    np.testing.assert_allclose(history["validation_accuracy"][-1], whole["accuracy"], rtol=1e-12)
    np.testing.assert_allclose(history["validation_loss"][-1], whole["loss"], rtol=1e-6)

    path = tmp_path / "checkpoint"
    for at in (1, 4, 7, 9, None):
        ticks, resumed = Ticks(at), network()

        class Interrupt(Callback):
            def step(self, report, ticks=ticks):
                ticks()

        resumed_history = fit(resumed, signs(), checkpoint=path, resume=True, callbacks=[Interrupt()], **settings)
        assert resumed_history.interrupted == (at is not None)
    assert resumed.params.flat.tobytes() == model.params.flat.tobytes()
    assert columns(resumed_history) == columns(history)

    io.save(resumed, tmp_path / "model")
    x, _, lengths = signs()
    assert io.load(tmp_path / "model").predict(x, lengths).tobytes() == model.predict(x, lengths).tobytes()


def test_validation_in_windows_carries_its_state_and_arrays_do_not():
    x, target, _ = signs()
    x = np.nan_to_num(x)
    windows = [(x[k : k + 3], target[k : k + 3]) for k in (0, 3, 6)]

    def validated(validation, **options):
        model = network()
        history = fit(model, windows, validation=validation, optimizer=SGD(0.1), **options)
        return model, history["validation_loss"][0]

    model, carried = validated(windows, carry_state=True)
    np.testing.assert_allclose(carried, model.evaluate(x, target)["loss"], rtol=1e-12)
    afresh = np.mean([model.evaluate(*window)["loss"] for window in windows])
    assert abs(carried - afresh) > 1e-4
    model, cut = validated((x, target), carry_state=True, batch_size=None)
    np.testing.assert_allclose(cut, model.evaluate(x, target)["loss"], rtol=1e-12)
    model, apart = validated(windows)
    np.testing.assert_allclose(apart, np.mean([model.evaluate(*window)["loss"] for window in windows]), rtol=1e-12)


@pytest.mark.parametrize("listed", [False, True])
def test_several_tokens_a_step_come_as_arrays(listed):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (4, 6, 3))
    target = x[-1, :, 0] % 2

    def trained(data):
        layers = Embedding(5, 2, group=3, seed=1), GRU(6, 6, seed=1), Linear(6, 2, seed=2)
        model = Model(*layers, loss=CrossEntropy(), readout="last")
        fit(model, data, optimizer=SGD(0.1), **({} if isinstance(data, list) else {"batch_size": 6, "shuffle": False}))
        return model.params.flat.tobytes()

    given = ([x[:, b] for b in range(6)] if listed else x, target)
    assert trained(given) == trained([Batch(x, target, np.full(6, 4))])


def test_integers_are_numbers_to_a_network_without_an_embedding():
    x, target = np.arange(24).reshape(4, 3, 2) % 3, np.array([0, 1, 0])

    def trained(x):
        model = Model(GRU(2, 6, seed=1), Linear(6, 2, seed=2), loss=CrossEntropy())
        fit(model, (x, target), optimizer=SGD(0.1))
        return model.params.flat.tobytes()

    assert trained(x) == trained(x.astype("float32")) == trained(x.astype("uint8"))


def test_a_network_given_nan_stops_and_is_as_before():
    model = network()
    x, target, lengths = signs()
    x[0, 3] = np.nan
    before = model.params.flat.copy()
    with pytest.raises(NonFiniteError, match="step 1") as caught:
        fit(model, [(x, target, lengths)])
    assert caught.value.step == 1 and model.params.flat.tobytes() == before.tobytes()


def test_training_in_another_thread():
    result = []
    thread = threading.Thread(target=lambda: result.append(trained(epochs=2)))
    thread.start()
    thread.join()
    assert result[0][0].tobytes() == trained(epochs=2)[0].tobytes()


def test_progress_is_shown_where_asked_and_nothing_is_printed_where_not(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    trained(epochs=2, batch_size=8)
    assert capsys.readouterr() == ("", "")
    _, history = trained(epochs=2, batch_size=8, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fit: 6/6 batches, epoch 2, loss ")
    trained(steps=2, batch_size=8, progress=True)
    assert capsys.readouterr().err.startswith("fit: 2/2 steps")

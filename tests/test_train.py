"""fit: what it does to a model, what it reports, and how it stops."""

import math
import sys
import threading

import numpy as np
import pytest
from line_model import DATA, Line, Scripted, columns, line_data, sgd, trained

from fastrnn import io
from fastrnn.callbacks import Callback, EarlyStopping
from fastrnn.data import Batches, stream
from fastrnn.optimizers import SGD, Adam
from fastrnn.schedules import CosineDecay, ReduceOnPlateau
from fastrnn.train import NonFiniteError, fit

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


# Around it -------------------------------------------------------------------------------------------------------------


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

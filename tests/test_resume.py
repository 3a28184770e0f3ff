"""fit, interrupted anywhere and resumed: as never having stopped."""

import os
import signal
from typing import Any

import numpy as np
import pytest
from line_model import DATA, Line, Scripted, Ticks, columns, line_data, sgd, trained

from fastrnn import io
from fastrnn.callbacks import Callback, EarlyStopping
from fastrnn.data import stream
from fastrnn.io import FileFormatError
from fastrnn.optimizers import SGD, Adam
from fastrnn.schedules import ReduceOnPlateau
from fastrnn.train import fit


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

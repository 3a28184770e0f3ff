"""fit, of a real network."""

import numpy as np
import pytest
from line_model import Ticks, columns

from fastrnn import io
from fastrnn.bptt import Full, Truncated
from fastrnn.callbacks import Callback
from fastrnn.data import Batch
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.networks import GRU
from fastrnn.losses import CrossEntropy
from fastrnn.model import Model
from fastrnn.optimizers import SGD, Adam
from fastrnn.train import NonFiniteError, fit


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

"""Ensembles: each member has the bits of its model trained alone; what ends, fails, stops and resumes does so member by member."""

import copy
import math

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import io
from fastrnn._advance import Together

T, N, D, V = 9, 22, 2, 5


def numbers(n=N, seed=0, steps=T, nan=True):
    """x, lengths of n sequences of real numbers, NaN behind their ends."""
    rng = np.random.default_rng(seed)
    x, lengths = rng.normal(size=(steps, n, D)).astype("float32"), rng.integers(0, steps + 1, n)
    x[np.arange(steps)[:, None] >= lengths] = np.nan if nan else 0.0
    return x, lengths


def labelled(n=N, seed=0, every=False, **options):
    """A data set to classify: by the sign of a running sum."""
    x, lengths = numbers(n, seed, **options)
    target = (np.nan_to_num(x[:, :, 0]).cumsum(0) > 0).astype(int)
    return x, target if every else target[-1], lengths


def tokens(n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, V, (T, n))
    return x, np.roll(x, -1, axis=0), rng.integers(1, T + 1, n)


def network(cell="lstm", layers=1, readout="last", both=False, loss=None, **options):
    recurrent = fr.Recurrent(cell, D, 5, num_layers=layers, bidirectional=both, **options)
    linear = fr.Linear(recurrent.output_size, 2, dtype=options.get("dtype", "float32"))
    return fr.Model(recurrent, linear, loss=loss or fr.CrossEntropy(), readout=readout)


def columns(history):
    return [{name: (c.dtype, c.tobytes()) for name, c in table.items()} for table in (history.steps, history.epochs)]


def pick(value, e, name="data"):
    """Member e's entry of an option; a list is one of the members only where `fit` takes it for that."""
    if isinstance(value, fr.PerMember):
        return value.sets[e]
    return value[e] if isinstance(value, list) and name in ("optimizer", "bptt") else value


def assert_as_alone(model, data, members=3, seeds=(0, 1, 2, 3, 4, 5), **options):
    """Train an ensemble, and each member alone; returns the ensemble and its history."""
    ensemble = model if isinstance(model, fr.Ensemble) else fr.Ensemble(model, members, seeds=seeds[:members])
    before, start = copy.deepcopy(ensemble), ensemble.params.flat.copy()
    callbacks = options.pop("callbacks", [])
    history = fr.fit(ensemble, data, callbacks=callbacks, **options)
    for e, member in enumerate(before.members):
        own = {name: pick(value, e, name) for name, value in options.items()}
        try:
            alone = fr.fit(member, pick(data, e), seed=before.seeds[e], callbacks=copy.deepcopy(callbacks), **own)
        except fr.NonFiniteError as error:
            alone = error.history
            assert (history.errors[e].step, history.errors[e].tensor, str(history.errors[e])) == (error.step, error.tensor, str(error))
        assert member.params.flat.tobytes() == ensemble.members[e].params.flat.tobytes(), e
        assert columns(alone) == columns(history.members[e]), e
        assert alone.stopped == history.stopped[e]
    assert (ensemble.params.flat != start).any(axis=1).all() or history.errors
    return ensemble, history


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request, monkeypatch):
    """However many threads, and with everything that can be cut into tasks cut."""
    before = fr.get_num_threads()
    fr.set_num_threads(request.param)
    monkeypatch.setattr("fastrnn._threads.SERIAL_WORK", 0.0)
    yield request.param
    fr.set_num_threads(before)


# A member is the model alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last", "every", "mean"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_cell_and_readout(cell, readout):
    data, validation = (labelled(seed=s, every=readout == "every") for s in (0, 1))
    assert_as_alone(network(cell, readout=readout), data, validation=validation, epochs=2, batch_size=8)


def test_layers_directions_lengths_and_dropout(threads):
    model = network("gru", 2, "every", both=True, dropout=0.3, recurrent_dropout=0.2, initial_state="learned")
    model = fr.Model(model.layers[0], fr.Dropout(0.2), model.layers[1], loss=model.loss, readout="every")
    assert_as_alone(model, labelled(every=True), seeds=[4, 1, 4], epochs=2, batch_size=8, bucket=True, optimizer=fr.SGD(0.1))


def test_members_of_large_batches_have_many_slices(threads, monkeypatch):
    monkeypatch.setattr("fastrnn._advance.FEWEST", 2)
    monkeypatch.setattr("fastrnn._advance.TAPE_BYTES", 1.0)
    assert_as_alone(network("lstm", both=True), labelled(70), members=5, epochs=1, batch_size=35)


@pytest.mark.parametrize("merge", ["sum", "product"])
def test_merges_and_inputs_from_a_linear_layer(merge):
    layers = fr.Linear(D, 3, activation="tanh"), fr.Recurrent("gru", 3, 5, bidirectional=True, merge=merge), fr.Linear(5, 1)
    x, lengths = numbers()
    target = np.nan_to_num(x).sum((0, 2))
    assert_as_alone(fr.Model(*layers, loss=fr.MeanSquaredError()), (x, target, lengths), epochs=1, batch_size=8)


@pytest.mark.parametrize("bptt", [fr.Truncated(4, 2), fr.Truncated(3, clip=0.01)], ids=str)
def test_symbols_in_truncated_runs(bptt):
    layers = fr.Embedding(V, 3), fr.LSTM(3, 5, num_layers=2, dropout=0.2, recurrent_dropout=0.2), fr.Linear(5, V)
    model = fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")
    assert_as_alone(model, tokens(), bptt=bptt, epochs=2, batch_size=6, validation=tokens(seed=1))


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_truncated_from_the_end(readout):
    model = network("lstm", readout=readout, recurrent_dropout=0.2, dropout=0.2, layers=2)
    assert_as_alone(model, labelled(), bptt=fr.Truncated(3), epochs=1, batch_size=8)


@pytest.mark.parametrize("readout", ["last", "every", "mean"])
def test_models_without_memory(readout):
    layers = fr.Dropout(0.1), fr.Linear(D, 4, activation="relu"), fr.Linear(4, 2)
    model = fr.Model(*layers, loss=fr.CrossEntropy(), readout=readout)
    data = labelled(every=readout == "every")
    assert_as_alone(model, data, epochs=2, batch_size=8, validation=data)


def test_weights_and_steps():
    x, target, lengths = labelled(every=True)
    weights = np.random.default_rng(0).random((T, N))
    assert_as_alone(network(readout="every"), (x, target, lengths, weights), steps=5, batch_size=8)
    assert_as_alone(network(readout="every"), (x, target, lengths, weights[0]), steps=4, batch_size=8, bptt=fr.Truncated(4))


@pytest.mark.parametrize(
    "optimizers",
    [
        [fr.Adam(0.01), fr.Adam(0.3, clip_norm=0.1, betas=(0.5, 0.9)), fr.Adam(fr.schedules.CosineDecay(0.1, 5), weight_decay=0.1)],
        [fr.AdamW(0.01), fr.AdamW(0.3, clip_value=0.01), fr.AdamW(0.1, weight_decay=0.2)],
        [fr.SGD(0.01, momentum=0.5), fr.SGD(0.3, momentum=0.9, nesterov=True), fr.SGD(0.1, momentum=0.1, clip_norm=1e-3)],
        [fr.SGD(0.01), fr.SGD(fr.schedules.ReduceOnPlateau(0.3, factor=0.5, patience=0)), fr.SGD(1.0, clip_value=0.1)],
        [fr.RMSprop(0.01), fr.RMSprop(0.03, alpha=0.5), fr.RMSprop(0.1, weight_decay=0.1)],
        [fr.RMSprop(0.01, centered=True, momentum=0.5), fr.RMSprop(0.03, centered=True, momentum=0.1, eps=1e-3)] * 2,
    ],
    ids=lambda optimizers: type(optimizers[0]).__name__,
)
def test_an_optimizer_a_member(optimizers, threads):
    _, history = assert_as_alone(network("rnn"), labelled(), members=len(optimizers), optimizer=optimizers, epochs=3, batch_size=8)
    assert len({row.tobytes() for row in history.column("learning_rate", "step")}) == len({str(own) for own in optimizers})


class Own(fr.SGD):
    """An optimizer of one's own, which knows nothing of members."""

    def _apply(self, params, grad, moments, clip, rate, step):
        params -= rate * np.sign(grad)


def test_an_optimizer_of_ones_own():
    assert_as_alone(network("rnn"), labelled(), optimizer=Own(0.01), epochs=2, batch_size=8)


def test_a_truncation_a_member():
    windows = [fr.Truncated(4, 2), fr.Full(), fr.Full(clip=1e-3), fr.Truncated(4, 2), None]
    assert_as_alone(network("rnn", readout="every"), labelled(every=True), members=5, bptt=windows, epochs=2, batch_size=8)


def test_data_of_ones_own():
    """Of different sizes, lengths, batch counts; one member's validation too."""
    sets = [labelled(n, seed=n, steps=steps) for n, steps in ((5, 4), (30, 9), (17, 9))]
    _, history = assert_as_alone(network(), fr.PerMember(sets), validation=fr.PerMember(sets[::-1]), epochs=3, batch_size=8)
    assert [member.steps.rows for member in history.members] == [3, 12, 9]
    assert np.isnan(history.column("loss", "step")).sum(axis=1).tolist() == [9, 0, 3]


@pytest.mark.parametrize("kind", ["stream", "list", "batches"])
def test_data_in_batches(kind):
    options, x = {"steps": 4}, labelled(every=True, nan=False)
    if kind == "stream":
        data = fr.data.stream(lambda n, rng: labelled(n, int(rng.integers(99)), every=True), batch_size=6)
    elif kind == "list":
        data, options = [tuple(part[k : k + 3] for part in x[:2]) for k in (0, 3, 6)], {"epochs": 2, "carry_state": True}
        options["validation"] = data
    else:
        data = fr.data.Batches(*x, batch_size=8, seed=3)
    assert_as_alone(network(readout="every"), data, **options)


def test_double_precision_and_fixed_parameters_of_each_member():
    model = network("leaky", dtype="float64", initializers={"log_tau": fr.initializers.Uniform(1.0)}, initial_state="learned")
    ensemble, _ = assert_as_alone(model, labelled(), epochs=1, batch_size=8)
    fixed = [member.layers[0].constants.flat for member in ensemble]
    assert not np.array_equal(fixed[0], fixed[1])
    x, _, lengths = labelled()
    predicted = ensemble.predict(x, lengths)
    assert all(member.predict(x, lengths).tobytes() == own.tobytes() for member, own in zip(ensemble, predicted))


# Ends --------------------------------------------------------------------------------------------------------------------


class Until(fr.Callback):
    """Ends a run after some updates."""

    def __init__(self, *steps):
        self.steps = steps

    def step(self, report):
        return report.step >= self.steps[report.member % len(self.steps)]




@pytest.mark.parametrize("bptt", [fr.Full(), fr.Truncated(4, 2)], ids=["full", "truncated"])
def test_members_end_one_by_one_within_an_epoch(bptt):
    ends = (3, 100, 5, 1)
    ensemble = fr.Ensemble(network(readout="every"), members=4)
    before = copy.deepcopy(ensemble)
    data = labelled(every=True)
    history = fr.fit(ensemble, data, epochs=2, batch_size=8, bptt=bptt, callbacks=Until(*ends))
    for e, member in enumerate(before):
        alone = fr.fit(member, data, epochs=2, batch_size=8, bptt=bptt, seed=e, callbacks=Until(ends[e]))
        assert columns(alone) == columns(history.members[e]) and alone.stopped == history.stopped[e]
        assert member.params.flat.tobytes() == ensemble.members[e].params.flat.tobytes()
    assert history.stopped == ("callback", "epochs", "callback", "callback")


def test_early_stopping_is_each_members_own_and_all_may_stop_at_once():
    callbacks = [fr.EarlyStopping("validation_loss", patience=1)]
    optimizers = [fr.SGD(rate) for rate in (0.01, 3.0, 10.0, 0.1)]
    settings = {"validation": labelled(seed=1), "optimizer": optimizers, "epochs": 6, "batch_size": 8, "callbacks": callbacks}
    _, history = assert_as_alone(network("rnn"), labelled(), members=4, **settings)
    rows = [member.epochs.rows for member in history.members]
    assert len(set(rows)) > 1 and history["loss"].shape == (4, max(rows))
    assert np.isfinite(history["loss"]).sum(axis=1).tolist() == rows
    _, history = assert_as_alone(network("rnn"), labelled(), epochs=3, callbacks=[Until(1)])
    assert set(history.stopped) == {"callback"}


@pytest.mark.parametrize("bptt", [fr.Full(), fr.Truncated(4, 2)], ids=["full", "truncated"])
def test_a_member_that_fails_ends_and_the_others_go_on(bptt):
    sets = [labelled(seed=e, every=True, nan=False) for e in range(4)]
    sets[0][0][0, :, 0] = np.nan  # the very first gradient
    sets[2][0][0, 3, 0] = np.nan  # the loss of some step
    optimizers = [fr.SGD(0.1), fr.SGD(3e38), fr.SGD(0.1), fr.SGD(0.1)]
    ensemble, history = assert_as_alone(
        network("rnn", readout="every"), fr.PerMember(sets), members=4, optimizer=optimizers, epochs=2, batch_size=8, bptt=bptt
    )
    assert history.stopped == ("error", "error", "error", "epochs") and sorted(history.errors) == [0, 1, 2]
    assert np.isfinite(ensemble.params.flat).all() and history.members[0].steps.rows == 0


def test_an_error_in_a_callback_names_the_member():
    def fail(report):
        if report.member == 1:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        fr.fit(fr.Ensemble(network("rnn"), members=3), labelled(), callbacks=fail)
    assert caught.value.__notes__ == ["fit: in the course of member 1"]


# Interrupts and resumption -----------------------------------------------------------------------------------------------


class Interrupt(fr.Callback):
    """Ctrl-C at update number `at`, counted over all members."""

    count, at = 0, None

    def step(self, report):
        Interrupt.count += 1
        if Interrupt.count == Interrupt.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bptt", [fr.Full(), fr.Truncated(4, 2)], ids=["full", "truncated"])
def test_interrupted_anywhere_and_resumed_is_as_never_stopped(bptt, tmp_path):
    settings = {"validation": labelled(seed=1, every=True), "epochs": 3, "batch_size": 8, "bptt": bptt, "progress": False}
    settings |= {"optimizer": fr.SGD(0.3, momentum=0.5), "callbacks": [Interrupt(), fr.EarlyStopping(patience=1)]}

    def go(at, **options):
        Interrupt.count, Interrupt.at = 0, at
        ensemble = fr.Ensemble(network("rnn", readout="every", recurrent_dropout=0.2), seeds=[3, 5, 8])
        return ensemble, fr.fit(ensemble, fr.PerMember([labelled(n, n, every=True) for n in (22, 22, 12)]), **settings, **options)

    whole, history = go(None)
    total = Interrupt.count
    for at in {1, 2, 3, 7, total // 2, total - 1, total}:
        path = tmp_path / f"{at}"
        _, partial = go(at, checkpoint=path)
        assert partial.interrupted
        resumed, again = go(None, checkpoint=path, resume=True)
        assert resumed.params.flat.tobytes() == whole.params.flat.tobytes(), at
        assert [columns(m) for m in again.members] == [columns(m) for m in history.members] and again.stopped == history.stopped
    with pytest.raises(ValueError, match="resume: the checkpoint's model is required again"):
        fr.fit(fr.Ensemble(network("rnn", readout="every"), seeds=[0, 5, 8]), labelled(every=True), checkpoint=path, resume=True)


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    path, data = tmp_path / "c", labelled()
    fr.fit(network("rnn"), data, checkpoint=path)
    with pytest.raises(fr.FileFormatError, match="with 2 members is required; got another"):
        fr.fit(fr.Ensemble(network("rnn"), members=2), data, checkpoint=path, resume=True)
    fr.fit(fr.Ensemble(network("rnn"), members=2), data, checkpoint=path)
    with pytest.raises(fr.FileFormatError):
        fr.fit(network("rnn"), data, checkpoint=path, resume=True)
    ensemble = fr.Ensemble(network("rnn"), members=2)
    before, tree = ensemble.params.flat.copy(), io.load_checkpoint(path)
    tree["members"][1]["arrays"]["params"] = np.zeros(2)
    io.save_checkpoint(path, tree)
    with pytest.raises(fr.FileFormatError):
        fr.fit(ensemble, data, checkpoint=path, resume=True)
    assert ensemble.params.flat.tobytes() == before.tobytes()


# What an ensemble is ------------------------------------------------------------------------------------------------------


def test_members_are_built_as_documented():
    model = fr.Model(fr.LSTM(2, 3, initializers={"weight_hh": fr.initializers.Orthogonal()}), fr.Linear(3, 2), loss=fr.CrossEntropy())
    before = model.params.flat.copy()
    ensemble = fr.Ensemble(model, seeds=[5, 0, 5], gain=[1.0, 1.0, 0.5])
    assert model.params.flat.tobytes() == before.tobytes()
    layers = fr.LSTM(2, 3, initializers={"weight_hh": fr.initializers.Orthogonal()}, seed=10), fr.Linear(3, 2, seed=11)
    alone = fr.Model(*layers, loss=fr.CrossEntropy())
    assert ensemble.members[0].params.flat.tobytes() == alone.params.flat.tobytes()
    assert ensemble.members[0].config() == alone.config() and ensemble.seeds == (5, 0, 5)
    expected = alone.params.copy()
    expected["0.weight_hh_l0"] = 0.5 * expected["0.weight_hh_l0"]
    assert ensemble.members[2].params.flat.tobytes() == expected.flat.tobytes()
    assert len(fr.Ensemble(model, 2)) == 2 and fr.Ensemble(model, 2, gain=2.0).members[1].params["0.bias_hh_l0"].any()


def test_parameters_are_rows_of_one_buffer(tmp_path):
    ensemble = fr.Ensemble(network(), members=3)
    ensemble.members[1].layers[1].params["bias"] = [1.0, 2.0]
    assert ensemble.params["1.bias"][1].tolist() == [1.0, 2.0]
    ensemble.params.flat[2] = 0.5
    assert set(ensemble.members[2].layers[0].params["weight_ih_l0"].ravel().tolist()) == {0.5}
    ensemble.members[2].save(tmp_path / "member")
    assert fr.load(tmp_path / "member").params.flat.tobytes() == ensemble.params.flat[2].tobytes()
    with pytest.raises(TypeError, match="got Ensemble. Of an Ensemble, save the members one by one"):
        fr.save(ensemble, tmp_path / "all")
    other = copy.deepcopy(ensemble)
    other.params.flat[...] = 0.0
    assert ensemble.params.flat.any() and not other.members[0].params.flat.any() and other.seeds == ensemble.seeds


def test_an_ensemble_of_models_given():
    models = [network(seed=s) for s in range(3)]
    values = [model.params.flat.copy() for model in models]
    ensemble = fr.Ensemble.of(models, seeds=[7, 8, 9])
    assert all(a is b for a, b in zip(ensemble.members, models))
    assert np.stack(values).tobytes() == ensemble.params.flat.tobytes()
    assert_as_alone(ensemble, labelled(), epochs=1)


def test_predictions_and_evaluations_are_the_members_own():
    for readout in ("last", "every", "mean"):
        ensemble = fr.Ensemble(network("gru", 2, readout, both=True), members=3)
        x, target, lengths = labelled(every=readout == "every")
        predicted, found = ensemble.predict(x, lengths), ensemble.evaluate(x, target, lengths)
        for e, member in enumerate(ensemble):
            assert member.predict(x, lengths).tobytes() == predicted[e].tobytes()
            assert member.evaluate(x, target, lengths) == {name: column[e] for name, column in found.items()}
    few = ensemble.evaluate(x, target, lengths, rows=[2, 0])
    assert few["loss"].tolist() == found["loss"][[2, 0]].tolist()


def test_callbacks_are_each_members_own_and_functions_are_shared():
    class Recorder:
        entries = ()

        def note(self, report):
            self.entries += ((report.member, report.epoch, report.model),)

    class Counting(fr.Callback):
        count = 0

        def epoch(self, report):
            self.count += 1
            return self.count > 2

    recorder, counting, ensemble = Recorder(), Counting(), fr.Ensemble(network("rnn"), members=3)
    fr.fit(ensemble, labelled(), epochs=2, callbacks=[counting, recorder.note])
    seen = recorder.entries
    assert counting.count == 0
    assert sorted(entry[:2] for entry in seen) == [(e, epoch) for e in range(3) for epoch in (1, 2)]
    assert all(model is ensemble.members[e] for e, _, model in seen)


def test_one_member_is_an_ensemble_too(capsys):
    _, history = assert_as_alone(network(), labelled(), members=1, epochs=2)
    assert history["loss"].shape == (1, 2) and repr(history) == "EnsembleHistory(1 members: 1 epochs)"


def test_members_advance_together_and_ended_ones_leave_the_batch(monkeypatch):
    sizes = []
    passes = Together.passes
    monkeypatch.setattr(Together, "passes", lambda self, courses, batches: sizes.append(len(courses)) or passes(self, courses, batches))
    fr.fit(fr.Ensemble(network(), members=6), labelled(24), epochs=2, batch_size=8, callbacks=Until(2, 4, 99))
    assert sizes == [6, 6, 4, 4, 2, 2]


def test_progress_counts_all_members(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    fr.fit(fr.Ensemble(network("rnn"), members=3), labelled(), epochs=2, batch_size=8, progress=True)
    assert capsys.readouterr().err.startswith("fit 3 members: 18/18 batches, epoch 2, loss ")


# History -----------------------------------------------------------------------------------------------------------------


def test_the_history_has_a_member_axis():
    _, history = assert_as_alone(network("rnn"), labelled(), epochs=2, batch_size=8, validation=labelled(seed=1))
    assert history["validation_accuracy"].shape == history["loss"].shape == (3, 2) and history["weight"].shape == (3, 6)
    table = history.table("step")
    assert [row["member"] for row in table] == [e for e in range(3) for _ in range(6)]
    lines = history.csv().splitlines()
    assert lines[0].startswith("member,epoch,step,loss,") and len(lines) == 7
    with pytest.raises(KeyError, match="no column 'lost'; there are step, epoch, loss"):
        history["lost"]
    import matplotlib.pyplot as plt

    for own in (history, fr.EnsembleHistory([fr.History()])):
        ax = own.plot()
        assert ax.get_ylabel() == "loss"
        plt.close(ax.figure)


def test_a_plot_is_the_median_and_the_quartiles():
    import matplotlib.pyplot as plt

    members = [fr.History() for _ in range(5)]
    for e, member in enumerate(members):
        for epoch in range(1, 4 - (e == 4)):
            member.epochs.append({"epoch": epoch, "loss": float(10 ** (e + epoch))})
    ax = fr.EnsembleHistory(members).plot()
    values = np.array([[10.0 ** (e + k) for k in (1, 2, 3)] for e in range(5)])
    values[4, 2] = np.nan
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.nanmedian(values, axis=0))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert {round(v, 6) for v in np.nanpercentile(values, (25, 75), axis=0).ravel()} <= {round(v, 6) for v in band}
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "epoch"
    plt.close(ax.figure)


# What is refused ---------------------------------------------------------------------------------------------------------

IMAGES = fr.Model(fr.Recurrent2D("rnn", 1, 2), fr.Linear(2, 2), loss=fr.CrossEntropy())
LABELS = fr.Model(fr.RNN(2, 3), fr.Linear(3, 3), loss=fr.CTC(), readout="every")


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: fr.Ensemble("lstm", 2), TypeError, "model: a fastrnn.Model is required; got str"),
    (lambda: fr.Ensemble(network()), ValueError, "members: their number, or seeds, is required"),
    (lambda: fr.Ensemble(network(), 0), ValueError, "members: an integer at least 1"),
    (lambda: fr.Ensemble(network(), 2, seeds=[1]), ValueError, "seeds: 2, one a member, are required; got 1"),
    (lambda: fr.Ensemble(network(), seeds=[-1]), ValueError, r"seeds\[0\]: an integer at least 0"),
    (lambda: fr.Ensemble(network(), 2, gain=[1.0]), ValueError, "gain: a number, or 2 of them, one a member, is required; got 1"),
    (lambda: fr.Ensemble(network(), 2, gain=math.nan), ValueError, "gain: a finite number"),
    (lambda: fr.Ensemble(IMAGES, 2), ValueError, "layers of an ensemble are Recurrent, Linear, Embedding, Dropout; got Recurrent2D"),
    (lambda: fr.Ensemble(LABELS, 2), ValueError, "CTC is not for an ensemble"),
    (lambda: fr.Ensemble.of([]), TypeError, "models: at least one fastrnn.Model is required; got none"),
    (lambda: fr.Ensemble.of([network(), network("gru")]), ValueError, "number 1 differs from the first in more than seeds"),
    (lambda: fr.Ensemble.of([network()] * 2), ValueError, "each model may appear once"),
    (lambda: fr.PerMember([]), ValueError, "sets: one data set a member is required"),
])  # fmt: skip
def test_bad_ensembles_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"seed": 1}, ValueError, "seed: None is required with an Ensemble"),
    ({"optimizer": [fr.SGD()]}, ValueError, "optimizer: one for all, or a list of 2, one a member, is required; got 1 entries"),
    ({"optimizer": [fr.SGD(), fr.Adam()]}, ValueError, "optimizer: one kind, with the same moments, is required of all members"),
    ({"optimizer": [fr.SGD(), fr.SGD(momentum=0.5)]}, ValueError, "optimizer: one kind, with the same moments"),
    ({"bptt": [fr.Full()] * 3}, ValueError, "bptt: one for all, or a list of 2"),
    ({"bptt": fr.Full(memory=10**6)}, ValueError, r"bptt: Full\(\) without memory= is required with an Ensemble"),
    ({"bptt": 3}, TypeError, r"bptt: Full\(\) or Truncated\(...\) is required; got 3"),
    ({"forcing": fr.FreeRunning()}, ValueError, "forcing: None is required with an Ensemble"),
    ({"data": fr.PerMember([labelled()])}, ValueError, "data: PerMember is for an Ensemble, one set a member; got 1 sets for 2 model"),
    ({"validation": fr.PerMember([labelled()] * 3)}, ValueError, "validation: PerMember is for an Ensemble"),
    ({"data": iter([labelled()])}, TypeError, "data: data that every member can go through is required; got an iterator"),
    ({"data": (np.zeros((3, 4, 7)), np.zeros(4, int))}, ValueError, r"x: shape \(T, B, 2\)"),
    ({"data": (np.zeros((3, 4, 2)), np.full(4, 9))}, ValueError, "target: labels from 0 to 1 are required"),
])  # fmt: skip
def test_what_fit_does_not_do_with_an_ensemble_is_named(options, error, words):
    ensemble = fr.Ensemble(network(), members=2)
    before = ensemble.params.flat.copy()
    with pytest.raises(error, match=words):
        fr.fit(ensemble, options.pop("data", labelled()), **options)
    assert ensemble.params.flat.tobytes() == before.tobytes()


def test_what_is_for_ensembles_is_refused_for_a_model():
    for options, words in (({"optimizer": [fr.SGD()]}, "which is for an Ensemble"), ({"bptt": [fr.Full()]}, "which is for an Ensemble")):
        with pytest.raises(ValueError, match=words):
            fr.fit(network(), labelled(), **options)
    with pytest.raises(ValueError, match="data: PerMember is for an Ensemble"):
        fr.fit(network(), fr.PerMember([labelled()]))


def test_truncation_needs_a_present():
    with pytest.raises(ValueError, match=r"bptt: Full\(\) is required for a network that runs from right to left"):
        fr.fit(fr.Ensemble(network(both=True), members=2), labelled(), bptt=fr.Truncated(3))

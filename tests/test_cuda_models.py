"""Models and ensembles on a GPU that is simulated: what training makes of them is, to rounding, what it makes of them on the CPU."""

import importlib

import numpy as np
import pytest
from processes import ROOT
from test_cuda import assert_alike
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn import cli, losses
from fastrnn.kernels.cuda import chains, plan, product, target

T, B, D, O = 5, 4, 2, 3
LENGTHS = np.array([3, 5, 0, 4])


def values(readout, symbols=False, classes=False, seed=0):
    """(x, target, lengths), with NaN past the ends of real-valued sequences."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 6, (T, B)) if symbols else rng.normal(size=(T, B, D))
    shape = (T, B) if readout == "every" else (B,)
    target = rng.integers(0, O, shape) if classes else rng.uniform(size=(*shape, O))
    if not symbols:
        x[np.arange(T)[:, None] >= LENGTHS] = np.nan
    return x, target, LENGTHS


def symbols(device):
    layers = fr.Embedding(6, 3, device=device, dtype="float64"), fr.LSTM(3, 4, device=device, dtype="float64", seed=1)
    top = fr.Linear(4, O, device=device, dtype="float64", seed=2)
    return fr.Model(*layers, fr.Dropout(0.3), top, loss=fr.CrossEntropy(), readout="every")


def last(device):
    net = fr.GRU(D, 3, device=device, dtype="float64", bidirectional=True, num_layers=2, dropout=0.2, initial_state="learned")
    return fr.Model(net, fr.Linear(6, O, device=device, dtype="float64"), loss=fr.MeanSquaredError(), readout="last")


def mean(device):
    net = fr.RNN(D, 4, device=device, dtype="float64", recurrent_dropout=0.2)
    below = fr.Linear(D, D, device=device, dtype="float64", activation="tanh", seed=3)
    return fr.Model(below, net, fr.Linear(4, O, device=device, dtype="float64"), loss=fr.BinaryCrossEntropy(), readout="mean")


MODELS = {"symbols": (symbols, ("every", True, True)), "last": (last, ("last",)), "mean": (mean, ("mean",))}
OPTIMIZERS = {
    "sgd": fr.SGD(0.1, clip_norm=0.01),
    "momentum": fr.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": fr.RMSprop(0.01, clip_value=0.001),
    "centered": fr.RMSprop(0.01, centered=True, momentum=0.5),
    "adam": fr.Adam(0.01, clip_norm=0.05),
    "adamw": fr.AdamW(0.01),
}


def assert_trained_alike(one, other, histories):
    for name in one.params:
        assert_alike(other.params[name], one.params[name], name)
    for name in ("loss", "gradient_norm"):
        assert_alike(histories[1].steps[name], histories[0].steps[name], name)


@pytest.mark.parametrize("name", MODELS)
def test_training(name, gpu):
    build, data = MODELS[name]
    models, data = [build("cpu"), build("cuda")], values(*data)
    histories = [fr.fit(model, data, validation=data, epochs=3, batch_size=3, seed=1, optimizer=OPTIMIZERS["adam"]) for model in models]
    assert_trained_alike(*models, histories)
    assert np.allclose(histories[1]["validation_loss"], histories[0]["validation_loss"], rtol=TOLERANCES["devices"], atol=0)
    assert_alike(models[1].predict(data[0], data[2]), models[0].predict(data[0], data[2]), "prediction")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, gpu):
    models, data = [mean("cpu"), mean("cuda")], values("mean")
    histories = [fr.fit(model, data, epochs=3, seed=1, optimizer=OPTIMIZERS[name]) for model in models]
    assert_trained_alike(*models, histories)


@pytest.mark.parametrize("name", ["symbols", "mean"])
def test_truncation_and_a_carried_state(name, gpu):
    build, data = MODELS[name]
    models, data = [build("cpu"), build("cuda")], values(*data)
    options = {"epochs": 2, "bptt": fr.Truncated(2), "shuffle": False, "carry_state": True}
    histories = [fr.fit(model, data, **options) for model in models]
    assert_trained_alike(*models, histories)


def test_float32(gpu):
    x, target, lengths = values("last")
    models = []
    for device in ("cpu", "cuda"):
        net = fr.LSTM(D, 4, device=device), fr.Linear(4, O, device=device)
        models.append(fr.Model(*net, loss=fr.MeanSquaredError()))
        fr.fit(models[-1], (x, target, lengths), epochs=2)
    for name in models[0].params:
        assert_alike(models[1].params[name], models[0].params[name], name)


def test_arrays_of_the_device_enter_as_they_are(gpu):
    model, (x, target, lengths) = last("cuda"), values("last")
    put = model.device.put
    got, want = model.gradient(put(x), put(target), lengths), model.gradient(x, target, lengths)
    assert (got.grads.flat == want.grads.flat).all() and got.loss == want.loss


class Tensor:
    """Another library's array on the GPU, as PyTorch's: an interface, and no `get`."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)

    def __len__(self):
        return len(self.numbers)

    @property
    def __cuda_array_interface__(self):
        return self.numbers.__array_interface__


@pytest.mark.parametrize("name", ["symbols", "last"])
def test_tensors_of_another_library_enter(name, gpu):
    build, data = MODELS[name]
    model, (x, target, lengths) = build("cuda"), values(*data)
    weights = np.array([1.0, 2.0, 0.0, 0.5])
    want = model.gradient(x, target, lengths, weights=weights)
    got = model.gradient(*map(Tensor, (x, target, lengths)), weights=Tensor(weights))
    assert (got.grads.flat == want.grads.flat).all() and got.loss == want.loss
    assert model.evaluate(*map(Tensor, (x, target, lengths))) == model.evaluate(x, target, lengths)


def test_a_run_goes_on_from_its_checkpoint_with_the_same_bits(gpu, tmp_path):
    data, path = values("last"), tmp_path / "run"
    whole, parts = last("cuda"), last("cuda")
    fr.fit(whole, data, epochs=4, batch_size=2)
    fr.fit(parts, data, epochs=2, batch_size=2, checkpoint=path)
    parts = last("cuda")
    fr.fit(parts, data, epochs=4, batch_size=2, checkpoint=path, resume=True)
    assert (parts.params.flat == whole.params.flat).all()


def test_a_saved_model_is_read_on_the_cpu(gpu, tmp_path):
    model = symbols("cuda")
    model.save(tmp_path / "model")
    again = fr.load(tmp_path / "model")
    assert again.device.name == "cpu"
    assert (again.params.flat == model.params.flat.get()).all()


def test_a_gradient_that_is_not_finite_changes_nothing(gpu):
    model, (x, target, lengths) = last("cuda"), values("last")
    x[0] = np.inf
    before = model.params.flat.get()
    with pytest.raises(fr.NonFiniteError):
        fr.fit(model, (x, target, lengths), epochs=1)
    assert (model.params.flat.get() == before).all()


@pytest.mark.parametrize("name", MODELS)
def test_ensembles(name, gpu):
    """As on the CPU to rounding, and each member with the bits of its model alone."""
    build, data = MODELS[name]
    data = values(*data)
    rates = [fr.Adam(rate) for rate in (1e-3, 1e-2, 1e-1)]
    ensembles = [fr.Ensemble(build(device), seeds=(3, 1, 4)) for device in ("cpu", "cuda")]
    alone = fr.Ensemble(build("cuda"), seeds=(3, 1, 4)).members
    histories = [fr.fit(ensemble, data, validation=data, epochs=2, batch_size=3, optimizer=rates) for ensemble in ensembles]
    assert_alike(ensembles[1].params.flat, ensembles[0].params.flat, "parameters")
    assert_alike(histories[1]["loss"], histories[0]["loss"], "loss")
    for seed, model, rate, member in zip((3, 1, 4), alone, rates, ensembles[1].members):
        fr.fit(model, data, validation=data, epochs=2, batch_size=3, optimizer=rate, seed=seed)
        assert (member.params.flat == model.params.flat).all()


def test_members_whose_weights_have_no_room(gpu, monkeypatch):
    """Read at every step, each member's own, with zeros behind the last."""
    monkeypatch.setattr(chains, "STREAM", 1)
    monkeypatch.setattr(plan, "STREAM", 1)
    monkeypatch.setattr(plan, "SPLITS", (1,))
    monkeypatch.setattr(plan, "RESIDENT", 4)

    def build(device):
        options = {"dtype": "float64", "device": device}
        return fr.Model(fr.LSTM(2, 15, **options), fr.Linear(15, 2, **options), loss=fr.MeanSquaredError())

    ensembles, rng = [fr.Ensemble(build(device), members=2) for device in ("cpu", "cuda")], np.random.default_rng(0)
    data = rng.standard_normal((3, 4, 2)), rng.standard_normal((4, 2))
    found = plan.chains(fr.cells.build("lstm"), 15, np.dtype("float64"))
    assert (found.blocks, found.held, found.tall) == (8, 0, 16)
    histories = [fr.fit(ensemble, data, epochs=2, optimizer=fr.SGD(0.5)) for ensemble in ensembles]
    assert_alike(ensembles[1].params.flat, ensembles[0].params.flat, "parameters")
    assert_alike(histories[1]["loss"], histories[0]["loss"], "loss")


def test_members_of_an_ensemble_that_end_early(gpu):
    data = values("last")
    ensembles = [fr.Ensemble(last(device), members=3) for device in ("cpu", "cuda")]

    def ends(report):
        return report.model.layers[0].seed % 4 == 2  # the second one's

    for ensemble in ensembles:
        fr.fit(ensemble, data, epochs=3, callbacks=ends)
    assert_alike(ensembles[1].params.flat, ensembles[0].params.flat, "parameters")


def test_layers_on_two_devices_are_refused(gpu):
    with pytest.raises(ValueError, match=r"layers: one device is required for all; got \['cpu', 'cuda'\]"):
        fr.Model(fr.LSTM(2, 3, device="cuda"), fr.Linear(3, 2), loss=fr.CrossEntropy())


class Own(losses.MeanSquaredError):
    """A loss that no device but the host knows: under a name of its own, or under its parent's."""


@pytest.mark.parametrize("members", [1, 2])
def test_a_loss_of_ones_own_is_computed_on_the_host(members, gpu):
    data, found = values("last"), []
    data = data[0], np.random.default_rng(0).normal(size=(len(data[1]), O)), *data[2:]
    for device in ("cpu", "cuda"):
        layers = fr.LSTM(D, 3, device=device, dtype="float64"), fr.Linear(3, O, device=device, dtype="float64")
        ensemble = fr.Ensemble(fr.Model(*layers, loss=Own()), members=members)
        fr.fit(ensemble if members > 1 else ensemble.members[0], data, epochs=2)
        found.append(ensemble.members[0].params.flat)
    assert_alike(found[1], found[0])


def looped(device, kind, dtype="float64"):
    """A model whose output can enter at the next step: real values beside another input, symbols of an embedding, or one-hot symbols.

    Its cells are those of test_forcing and test_decode, whose kernels on the CPU take a minute to compile.
    """
    options, size = {"device": device, "dtype": dtype}, {"values": D + O, "embedded": 3, "one-hot": O}[kind]
    first = [fr.Embedding(O, 3, **options)] if kind == "embedded" else []
    own = {"initial_state": "learned"} if kind == "values" else {"recurrent_dropout": 0.2}
    layers = *first, fr.GRU(size, 4, **own, **options), fr.Linear(4, O, **options)
    return fr.Model(*layers, loss=fr.MeanSquaredError() if kind == "values" else fr.CrossEntropy(), readout="every")


def loop_data(kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "values":
        x = rng.normal(size=(T, B, D + O))
        x[np.arange(T)[:, None] >= LENGTHS] = np.nan
        return x, rng.normal(size=(T, B, O)), LENGTHS
    x = rng.integers(0, O, (T, B))
    return (x if kind == "embedded" else np.eye(O)[x]), rng.integers(0, O, (T, B)), LENGTHS


FORCINGS = [
    ("values", fr.FreeRunning()),
    ("values", fr.ScheduledSampling(0.5)),
    *((kind, fr.ScheduledSampling(0.7, feed=feed)) for kind in ("embedded", "one-hot") for feed in ("probabilities", "sample", "argmax")),
]


@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("kind, forcing", FORCINGS, ids=str)
def test_forcing(kind, forcing, clip, gpu):
    results = []
    for device in ("cpu", "cuda"):
        model = looped(device, kind)
        rng, bptt = np.random.default_rng(3), fr.Full(clip=clip)
        results.append(model.gradient(*loop_data(kind), forcing=forcing, rng=rng, bptt=bptt))
    want, got = results
    assert np.isclose(got.loss, want.loss, rtol=TOLERANCES["devices"])
    assert_alike(got.prediction, want.prediction, "prediction")
    for name in want.grads:
        assert_alike(got.grads[name], want.grads[name], name)
    assert_alike(np.array(got.clipped, float), np.array(want.clipped, float), "clipped")
    assert_alike(got.state[0], want.state[0], "state")


def test_generalized_forcing(gpu):
    results = []
    for device in ("cpu", "cuda"):
        net = fr.RNN(D, 4, device=device, dtype="float64"), fr.Linear(4, O, device=device, dtype="float64")
        model = fr.Model(*net, loss=fr.MeanSquaredError(), readout="every")
        x, target, lengths = values("every")
        results.append(model.gradient(x, target, lengths, forcing=fr.GeneralizedForcing(0.3)).grads.flat)
    assert_alike(results[1], results[0])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.8, "top_k": 2, "top_p": 0.9, "stop": 1}], ids=str)
@pytest.mark.parametrize("kind", ["values", "embedded", "one-hot"])
def test_generation(kind, options, gpu):
    if kind == "values":
        options = {"inputs": np.random.default_rng(1).normal(size=(5, 2, D))}
    x, _, _ = loop_data(kind)
    want, got = (looped(device, kind, "float32").generate(x[:, :2], 6, lengths=[3, 5], seed=4, **options) for device in ("cpu", "cuda"))
    assert_alike(got.outputs, want.outputs, "outputs")
    assert (got.lengths == want.lengths).all()
    assert got.symbols is want.symbols is None or (got.symbols == want.symbols).all()


@pytest.mark.parametrize("kind", ["embedded", "one-hot"])
def test_beam_search(kind, gpu):
    x, _, _ = loop_data(kind)
    want, got = (looped(device, kind, "float32").beam_search(x[:, :2], 5, width=3, lengths=[3, 5], stop=1) for device in ("cpu", "cuda"))
    assert (got.symbols == want.symbols).all()
    assert_alike(got.log_probabilities.astype(np.float32), want.log_probabilities.astype(np.float32))


def test_a_model_with_ctc(gpu):
    (x, _, lengths), found = values("every"), []
    batch = x, [[1]] * B, lengths
    for device in ("cpu", "cuda"):
        layers = fr.LSTM(D, 3, device=device, dtype="float64"), fr.Linear(3, O, device=device, dtype="float64")
        model = fr.Model(*layers, loss=fr.CTC(infeasible="zero"), readout="every")
        item = model.gradient(*batch)
        found.append((item.grads.flat, np.array(item.loss), np.array([*model.evaluate(*batch).values()])))
    for want, got in zip(*found):
        assert_alike(got, want)


def test_encoder_and_decoder(gpu):
    rng, found = np.random.default_rng(0), []
    x, target, lengths = rng.integers(0, 5, (3, 4)), [[1, 2], [3], [], [2, 2]], np.array([3, 1, 2, 3])
    for device in ("cpu", "cuda"):
        options = {"device": device, "dtype": "float64"}
        encoder = fr.Embedding(5, 3, **options), fr.GRU(3, 4, **options)
        decoder = fr.Embedding(5, 3, **options, seed=1), fr.GRU(3, 4, **options, seed=1), fr.Linear(4, 5, **options)
        model = fr.EncoderDecoder(encoder, decoder, stop=4)
        fr.fit(model, (x, target, lengths), epochs=2)
        found.append((model.params.flat, model.evaluate(x, target, lengths)["loss"]))
        assert len(model.predict(x, lengths, steps=3)) == 4
    for want, got in zip(*found):
        assert_alike(np.asarray(got) if np.ndim(got) == 0 else got, np.asarray(want))


@pytest.mark.parametrize("precision", ["exact", "tf32"])
def test_warmup(precision, gpu, capsys, monkeypatch):
    monkeypatch.setattr(product, "SIDE", 8)
    assert cli.main(["warmup", "--device", "cuda", "--cells", "gru", "--units", "3", "--precisions", precision]) == 0
    lines, jobs = capsys.readouterr().out.splitlines(), 9 if precision == "exact" else 10
    assert lines[0].startswith(f"[1/{jobs}] gru of 3 units, {precision} float32 ... ") and lines[-1].startswith("ready in ")


def test_warmup_of_what_has_no_room(gpu, capsys):
    assert cli.main(["warmup", "--device", "cuda", "--cells", "lstm", "--units", "9999", "--precisions", "tf32"]) == 2
    assert "units of a 'lstm' layer are required with precision='tf32'; got 9999" in capsys.readouterr().err


def test_warmup_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(target, "missing", lambda: ["a driver"])
    assert cli.main(["warmup", "--device", "cuda"]) == 2
    assert "needs a GPU that can be used; missing here: a driver" in capsys.readouterr().err


def test_an_optimizer_of_ones_own_is_refused(gpu):
    class Own(fr.SGD):
        pass

    with pytest.raises(ValueError, match="optimizer: SGD, .* are required of a model on a GPU; got Own"):
        fr.fit(last("cuda"), values("last"), epochs=1, optimizer=Own(0.1))


@pytest.mark.parametrize("kind", ["model", "ensemble", "forced", "labelled"])
def test_what_make_gpu_compares_is_the_same_here(kind, gpu, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("_gpu")
    assert kind in module.TRAINED and module.trained(kind, T=3, B=2, hidden=2) <= module.TOLERANCES["float64"]
    assert module.difference("lstm", {}, "float32", 3, T=3, B=2, D=2) <= module.TOLERANCES["float32"]


def test_linear_maps_of_many_members(gpu, monkeypatch):
    monkeypatch.setattr(product, "SHARES", {8: (4,)})
    rng = np.random.default_rng(0)
    host, device = fr.Linear(3, 5, dtype="float64"), fr.Linear(3, 5, dtype="float64", device="cuda")
    x, dy = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7, 5))
    (y, tape), (y2, tape2) = host.forward(x), device.forward(x)
    assert_alike(y2, y)
    (dx, grads), (dx2, grads2) = host.backward(tape, dy), device.backward(tape2, dy)
    assert_alike(dx2, dx)
    assert_alike(grads2.flat, grads.flat)

"""What is fed back: gradients by differences, limits that must hold bit for bit, draws that depend on nothing beside them."""

import numpy as np
import pytest
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn import _feedback
from fastrnn.forcing import ExponentialDecay, InverseSigmoidDecay, LinearDecay, uniforms

T, B, V = 6, 5, 4
LENGTHS = np.array([6, 3, 0, 5, 6])
RNG = np.random.default_rng(0)
SERIES, VALUES = RNG.standard_normal((T, B, 4)), RNG.standard_normal((T, B, 3))
TOKENS, NEXT = RNG.integers(0, V, (T, B)), RNG.integers(0, V, (T, B))
ONE_HOT = np.concatenate([RNG.standard_normal((T, B, 1)), np.eye(V)[TOKENS]], axis=2)
DOUBLE = {"dtype": "float64"}


def values(kind="gru", **options):
    """A model of real values with two recurrent layers, for a gru one, or ("linear") none, which is fed its output only."""
    if kind == "linear":
        layers = fr.Linear(4, 6, activation="tanh", **DOUBLE), fr.Linear(6, 3, **DOUBLE)
    else:
        layers = fr.Recurrent(kind, 4, 6, num_layers=1 if kind == "gru" else 2, **DOUBLE, **options), fr.Linear(6, 3, **DOUBLE)
    return fr.Model(*layers, loss=fr.MeanSquaredError(), readout="every")


def symbols(embedded=True):
    first = (fr.Embedding(V, 3, **DOUBLE),) if embedded else ()
    layers = *first, fr.GRU(3 if embedded else V + 1, 6, **DOUBLE), fr.Linear(6, V, **DOUBLE)
    return fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")


def gradient(model, x, target, forcing, **options):
    return model.gradient(x, target, LENGTHS, forcing=forcing, rng=np.random.default_rng(3), **options)


def differences(loss, flat, places, step=2e-4):
    """Fourth-order differences of loss() by some entries of flat."""
    result = np.zeros(len(places))
    for n, i in enumerate(places):
        old = flat[i]
        for k, weight in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)):
            flat[i] = old + k * step
            result[n] += weight / step * loss()
        flat[i] = old
    return result


def valid(array) -> list[bytes]:
    """The bits of every sequence's own steps."""
    return [array[:length, b].tobytes() for b, length in enumerate(LENGTHS)]


def assert_gradient(model, x, target, forcing, places):
    found = gradient(model, x, target, forcing).grads.flat[places]
    true = differences(lambda: gradient(model, x, target, forcing).loss, model.params.flat, places)
    assert np.abs(found - true).max() <= TOLERANCES["forcing_gradient"] * np.abs(true).max()


CASES = [
    (values, ("gru",), SERIES, VALUES, fr.FreeRunning()),
    (values, ("gru",), SERIES, VALUES, fr.SparseForcing(3)),
    (values, ("gru",), SERIES, VALUES, fr.ScheduledSampling(0.5)),
    (values, ("linear",), SERIES, VALUES, fr.FreeRunning()),
    (symbols, (True,), TOKENS, NEXT, fr.FreeRunning("probabilities")),
    (symbols, (True,), TOKENS, NEXT, fr.ScheduledSampling(0.4)),
    (symbols, (True,), TOKENS, NEXT, fr.ScheduledSampling(0.4, "argmax")),
    (symbols, (False,), ONE_HOT, NEXT, fr.FreeRunning("probabilities")),
    (symbols, (False,), ONE_HOT, NEXT, fr.FreeRunning("sample")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[1][0]}-{case[4]}")
def test_gradients_through_what_is_fed_back(case):
    make, options, x, target, forcing = case
    model = make(*options)
    size = model.params.flat.size
    assert_gradient(model, x, target, forcing, np.random.default_rng(1).choice(size, min(80, size), replace=False))


def test_the_gradient_does_pass():
    """It is not the gradient of the same inputs, held fixed."""
    model = values()
    free = gradient(model, SERIES, VALUES, fr.FreeRunning())
    x = SERIES.copy()
    x[1:, :, 1:] = free.prediction[:-1]
    held = gradient(model, x, VALUES, None)
    assert valid(held.prediction) == valid(free.prediction)
    assert np.abs(held.grads.flat - free.grads.flat).max() > 1e-3 * np.abs(free.grads.flat).max()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_learned_state_and_a_clip_go_through_the_closed_loop(cell):
    model = values(cell, initial_state="learned")
    start = sum(array.size for name, array in model.params.items() if "initial" not in name and name.startswith("0."))
    assert_gradient(model, SERIES, VALUES, fr.FreeRunning(), np.arange(start - 4, model.layers[0].params.flat.size, 3))
    found = gradient(model, SERIES, VALUES, fr.FreeRunning())
    clipped = gradient(model, SERIES, VALUES, fr.FreeRunning(), bptt=fr.Full(clip=1e-4))
    assert clipped.clipped[0].entries > 0 and 0 < clipped.clipped[0].fraction < 1
    wide = gradient(model, SERIES, VALUES, fr.FreeRunning(), bptt=fr.Full(clip=1e6))
    assert wide.clipped[0].entries == 0 and (wide.grads.flat == found.grads.flat).all()


def test_the_limits_hold_bit_for_bit():
    """A teacher with probability 1 is teacher forcing, with 0 free running; alpha 0 is the model as it is."""
    model = values(recurrent_dropout=0.3)
    plain = gradient(model, SERIES, VALUES, None)
    for forcing in (fr.TeacherForcing(), fr.ScheduledSampling(1.0), fr.SparseForcing(1), fr.GeneralizedForcing(0.0)):
        same = gradient(model, SERIES, VALUES, forcing)
        assert same.loss == plain.loss and same.grads.flat.tobytes() == plain.grads.flat.tobytes()
    free, never = (gradient(model, SERIES, VALUES, forcing) for forcing in (fr.FreeRunning(), fr.ScheduledSampling(0.0)))
    assert free.loss == never.loss != plain.loss and free.grads.flat.tobytes() == never.grads.flat.tobytes()
    assert gradient(model, SERIES, VALUES, fr.SparseForcing(T)).grads.flat.tobytes() == free.grads.flat.tobytes()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_closed_loop_that_is_fed_the_teachers_values_has_the_bits_of_the_open_one(cell):
    model = values(cell)
    drawn = _feedback.Drawn(0, np.zeros((T, B), bool), np.zeros((T, B)), 1.0)
    prediction, trace, state = model._closed(SERIES, LENGTHS, None, None, drawn)
    open_prediction, open_trace, open_state = model._forward(SERIES, LENGTHS, None, None)
    assert valid(prediction) == valid(open_prediction)
    for (ours,), (theirs,) in zip(trace.tapes[0].layers, open_trace.tapes[0].layers):
        for name in ("y", "others", "saved"):
            assert valid(getattr(ours, name)[0]) == valid(getattr(theirs, name)[0])
    assert np.array(state).tobytes() == np.array(open_state).tobytes()


@pytest.mark.parametrize("forcing", [fr.ScheduledSampling(0.5), fr.FreeRunning("sample"), fr.FreeRunning("probabilities")], ids=repr)
def test_the_same_draws_in_any_batch_and_for_any_threads(forcing):
    model, threads = symbols(), fr.get_num_threads()
    x, target, lengths = np.tile(TOKENS, 30), np.tile(NEXT, 30), np.tile(LENGTHS, 30)
    whole = model.gradient(x, target, lengths, forcing=forcing, rng=np.random.default_rng(3))
    part = model.gradient(x[:, :7], target[:, :7], lengths[:7], forcing=forcing, rng=np.random.default_rng(3))
    assert np.ascontiguousarray(whole.prediction[:, :7]).tobytes() == part.prediction.tobytes()
    try:
        fr.set_num_threads(1)
        one = model.gradient(x, target, lengths, forcing=forcing, rng=np.random.default_rng(3))
    finally:
        fr.set_num_threads(threads)
    assert one.prediction.tobytes() == whole.prediction.tobytes() and one.grads.flat.tobytes() == whole.grads.flat.tobytes()


@pytest.mark.parametrize("forcing", [fr.FreeRunning(), fr.GeneralizedForcing(0.3), fr.GeneralizedForcing("adaptive")], ids=repr)
def test_padding_reaches_nothing(forcing):
    layers = fr.GRU(4, 6, **DOUBLE, initializers={"weight_hh": fr.initializers.SpectralRadius(4.0)}), fr.Linear(6, 3, **DOUBLE)
    model = fr.Model(*layers, loss=fr.MeanSquaredError(), readout="every")
    x, target = SERIES.copy(), VALUES.copy()
    clean = gradient(model, x, target, forcing)
    for b, length in enumerate(LENGTHS):
        x[length:, b], target[length:, b] = np.nan, np.nan
    assert gradient(model, x, target, forcing).grads.flat.tobytes() == clean.grads.flat.tobytes()


# Generalized forcing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_gradient_of_a_state_that_is_pulled(cell):
    rng, network = np.random.default_rng(2), fr.Recurrent(cell, 4, 6, initial_state="learned", num_layers=2, **DOUBLE)
    goal, weights, alpha = rng.standard_normal((T, B, 6)), rng.standard_normal((T, B, 6)), np.array([0.3, 1.0, 0.0, 0.5, 0.1, 0.9])
    S = len(network.cell.states)

    def loss():
        y, state, _ = network.forward(SERIES, lengths=LENGTHS, pull=(goal, alpha))
        return float((y * weights).sum() + np.sum(state))

    _, _, tape = network.forward(SERIES, lengths=LENGTHS, pull=(goal, alpha))
    ends = (np.ones((2, B, 6)),) * S
    grads = network.backward(tape, weights, ends if S > 1 else ends[0]).params.flat
    places = rng.choice(grads.size, 60, replace=False)
    assert np.abs(grads[places] - differences(loss, network.params.flat, places)).max() <= 1e-9 * np.abs(grads).max()


def test_a_state_pulled_all_the_way_is_the_goal():
    network, goal = fr.GRU(4, 6, **DOUBLE), np.random.default_rng(5).standard_normal((T, B, 6))
    y, _, _ = network.forward(SERIES, pull=(goal, np.ones(T)))
    alone = [network(SERIES[t : t + 1], goal[t - 1][None] if t else None)[0] for t in range(T)]
    assert np.concatenate(alone).tobytes() == y.tobytes()


def test_generalized_forcing_pulls_towards_the_state_that_puts_out_the_target():
    model = fr.Model(fr.GRU(4, 6, **DOUBLE), fr.Linear(6, 3, **DOUBLE), loss=fr.MeanSquaredError(), readout="every")
    pull = _feedback.entering(model, fr.GeneralizedForcing(0.25), SERIES, VALUES, LENGTHS, None, 0)
    np.testing.assert_allclose(pull.goal @ model.params["1.weight"].T + model.params["1.bias"], VALUES, rtol=0, atol=1e-12)
    assert (pull.alpha == 0.25).all()
    # the readout's own weights also move the goal, which counts as given
    assert_gradient(model, SERIES, VALUES, fr.GeneralizedForcing(0.25), np.arange(0, model.layers[0].params.flat.size, 7))


def test_alpha_adapts_to_the_jacobians():
    """h' = W h with all singular values s: alpha = 1 - 1/s where s > 1, else 0."""
    model = fr.Model(
        fr.RNN(4, 6, activation="identity", **DOUBLE), fr.Linear(6, 3, **DOUBLE), loss=fr.MeanSquaredError(), readout="every"
    )
    weight = model.layers[0].params["weight_hh_l0"]
    weight[...] = 2.0 * np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    pull = _feedback.entering(model, fr.GeneralizedForcing("adaptive"), SERIES, VALUES, LENGTHS, None, 0)
    np.testing.assert_allclose(pull.alpha, 0.5, rtol=1e-12)
    weight /= 4
    assert (_feedback.entering(model, fr.GeneralizedForcing("adaptive"), SERIES, VALUES, LENGTHS, None, 0).alpha == 0).all()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_jacobians_against_differences(cell):
    network, rng = fr.Recurrent(cell, 3, 4, **DOUBLE), np.random.default_rng(0)
    S, x = len(network.cell.states), rng.standard_normal((2, 3))
    state = rng.standard_normal((S, 2, 4))

    def step(state):
        _, new = network(x[None], tuple(state[:, None]) if S > 1 else state[0][None])
        return np.concatenate([part[0] for part in (new if S > 1 else (new,))], axis=1)

    J = fr.jacobian(network, x, tuple(state) if S > 1 else state[0])
    for j in range(4 * S):
        nudge = np.zeros_like(state)
        nudge[j // 4, :, j % 4] = 1e-5
        np.testing.assert_allclose(J[:, :, j], (step(state + nudge) - step(state - nudge)) / 2e-5, rtol=0, atol=1e-9)


# Draws, decays ------------------------------------------------------------------------------------------------------


def test_uniform_numbers():
    u = uniforms(7, 400, 500)
    assert ((u >= 0) & (u < 1)).all() and len(np.unique(u)) == u.size
    assert (uniforms(7, 40, 50) == u[:40, :50]).all() and (uniforms(8, 40, 50) != u[:40, :50]).all()
    counts = np.bincount((u.ravel() * 100).astype(int))
    assert ((counts - 2000) ** 2 / 2000).sum() < 150  # chi-squared, 99 degrees of freedom: 148 has probability .001
    for product in (u[1:] - 0.5) * (u[:-1] - 0.5), (u[:, 1:] - 0.5) * (u[:, :-1] - 0.5):
        assert abs(product.mean()) < 4 / 12 / np.sqrt(product.size)


def test_decays():
    assert [LinearDecay(0.9, 0.5, 4)(i) for i in (0, 2, 4, 9)] == pytest.approx([0.9, 0.7, 0.5, 0.5])
    assert ExponentialDecay(0.9)(3) == pytest.approx(0.729)
    assert InverseSigmoidDecay(10.0)(0) == pytest.approx(10 / 11) and InverseSigmoidDecay(1.0)(10**6) == pytest.approx(0.0)


def test_fit_tells_the_forcing_the_number_of_the_update():
    seen, x = [], RNG.standard_normal((T, 8, 4))

    def decay(update):
        seen.append(update)
        return 0.5

    fr.fit(values(), (x, x[:, :, 1:]), forcing=fr.ScheduledSampling(decay), epochs=2, batch_size=4)
    assert seen == [0, 1, 2, 3]


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fr.SparseForcing(0), "every: an integer at least 1"),
        (lambda: fr.GeneralizedForcing(1.5), "alpha: a number of at most 1"),
        (lambda: fr.GeneralizedForcing("often"), "alpha: one of 'adaptive'"),
        (lambda: fr.ScheduledSampling(-0.1), "probability: a number of at least 0"),
        (lambda: fr.FreeRunning("logits"), "feed: one of 'output'"),
        (lambda: gradient(values(), SERIES, VALUES, fr.FreeRunning("sample")), "feed: one of 'output' is required"),
        (lambda: gradient(symbols(), TOKENS, NEXT, fr.FreeRunning("output")), "feed: one of 'probabilities'"),
        (lambda: gradient(symbols(), TOKENS, NEXT, fr.GeneralizedForcing(0.5)), "forcing: GeneralizedForcing requires"),
        (lambda: gradient(values(), SERIES, VALUES, fr.FreeRunning(), bptt=fr.Full(memory=10**6)), "memory: None is required"),
        (lambda: values().gradient(SERIES, VALUES, forcing=fr.ScheduledSampling(0.5)), "rng: a numpy.random.Generator is required"),
        (lambda: list(values().passes(SERIES, VALUES, forcing=fr.FreeRunning(), bptt=fr.Truncated(2))), "bptt: Full"),
        (lambda: values().layers[0].forward(SERIES, pull=(VALUES, np.ones(T))), "pull: goal: shape"),
        (lambda: values().layers[0].forward(SERIES, pull=(np.zeros((T, B, 6)), np.full(T, 2.0))), "pull: alpha from 0 to 1"),
        (lambda: gradient(values(), SERIES, VALUES, 0.5), "forcing: a forcing"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_the_first_input_is_never_ones_own():
    class Always(fr.forcing.Forcing):
        feed = "probabilities"

        def own(self, T, B, key, update):
            return np.ones((T, B), bool)

    found, free = (gradient(symbols(), TOKENS, NEXT, forcing) for forcing in (Always(), fr.FreeRunning("probabilities")))
    assert found.loss == free.loss and found.grads.flat.tobytes() == free.grads.flat.tobytes()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
@pytest.mark.parametrize("forcing", [fr.FreeRunning(), fr.GeneralizedForcing(0.3), fr.GeneralizedForcing("adaptive")], ids=repr)
def test_nothing_comes_of_nothing(forcing, shape):
    model = fr.Model(fr.GRU(4, 6, **DOUBLE), fr.Linear(6, 3, **DOUBLE), loss=fr.MeanSquaredError(), readout="every")
    found = model.gradient(np.zeros((*shape, 4)), np.zeros((*shape, 3)), forcing=forcing)
    assert found.loss == 0.0 and not found.grads.flat.any()


def test_a_run_with_a_forcing_of_ones_own_can_be_resumed(tmp_path):
    x, settings = RNG.standard_normal((T, 8, 4)), []

    def half(update):
        return 0.5

    for epochs in (1, 2):
        options = {"forcing": fr.ScheduledSampling(half), "batch_size": 4, "checkpoint": tmp_path / "run", "resume": epochs > 1}
        settings.append(fr.fit(values(), (x, x[:, :, 1:]), epochs=epochs, **options))
    assert len(settings[1]["loss"]) == 2
    with pytest.raises(ValueError, match="the checkpoint's forcing is required again"):
        fr.fit(values(), (x, x[:, :, 1:]), epochs=3, batch_size=4, checkpoint=tmp_path / "run", resume=True)


def test_a_forcing_of_ones_own_is_checked():
    class Wrong(fr.forcing.Forcing):
        def own(self, T, B, key, update):
            return np.ones((T + 1, B), bool)

    with pytest.raises(ValueError, match=r"own\(\) is required to return bool of shape"):
        gradient(values(), SERIES, VALUES, Wrong())


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ((fr.GRU(2, 4), fr.Linear(4, 3)), {"readout": "every"}, "at least 3 inputs are required"),
        ((fr.GRU(3, 4, bidirectional=True), fr.Linear(8, 3)), {"readout": "every"}, "left to right"),
        ((fr.GRU(3, 4, dropout=0.5), fr.Linear(4, 3)), {"readout": "every"}, "dropout=0 between layers"),
        ((fr.GRU(3, 4), fr.Linear(4, 3)), {}, 'readout="every"'),
    ],
)
def test_a_model_that_cannot_be_fed_back_is_named(layers, options, message):
    model, D = fr.Model(*layers, loss=fr.MeanSquaredError(), **options), layers[0].input_size
    with pytest.raises(ValueError, match=message):
        model.gradient(np.zeros((3, 1, D)), np.zeros((3, 1, 3) if options else (1, 3)), forcing=fr.FreeRunning())

"""Generation: what a loop in Python over `Model.run` gives, draws from the right distribution, and the same bits in any company."""

import itertools

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.kernels import _feedback

V, B = 7, 3
RNG = np.random.default_rng(0)
PREFIX, LENGTHS = RNG.integers(0, V, (4, B)), np.array([4, 2, 1])


@pytest.fixture(scope="module")
def symbols():
    layers = fr.Embedding(V, 5), fr.GRU(5, 6, initializers={"weight_hh": fr.initializers.SpectralRadius(3.0)}), fr.Linear(6, V)
    model = fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")
    model.params["2.weight"] *= 4
    return model


@pytest.fixture(scope="module")
def values():
    return fr.Model(fr.GRU(4, 6), fr.Linear(6, 3), loss=fr.MeanSquaredError(), readout="every")


def test_symbols_are_those_of_a_python_loop(symbols):
    got = symbols.generate(PREFIX, 9, lengths=LENGTHS, temperature=0)
    for b, length in enumerate(LENGTHS):
        x, state = PREFIX[:length, b : b + 1], None
        for s in range(9):
            logits, state = symbols.run(x, state=state)
            assert logits[-1, 0].tobytes() == got.outputs[s, b].tobytes()
            x = logits[-1:].argmax(axis=2)
            assert x[0, 0] == got.symbols[s, b]
    assert got.outputs.shape == (9, B, V) and (got.lengths == 9).all() and len(set(got.symbols.ravel())) > 1


def test_values_are_those_of_a_python_loop(values):
    prefix, inputs = RNG.standard_normal((3, B, 4)).astype("f4"), RNG.standard_normal((5, B, 1)).astype("f4")
    got = values.generate(prefix, 6, inputs=inputs)
    x, state = prefix, None
    for s in range(6):
        y, state = values.run(x, state=state)
        assert y[-1].tobytes() == got.outputs[s].tobytes()
        if s < 5:
            x = np.concatenate([inputs[s], y[-1]], axis=1)[None]
    assert state[0].tobytes() == got.state[0].tobytes() and got.symbols is None


def test_one_hot_symbols_are_fed_back_like_embedded_ones():
    """An Embedding whose table is the identity is a one-hot input."""
    table = fr.Embedding(V, V)
    embedded = fr.Model(table, fr.GRU(V, 6), fr.Linear(6, V), loss=fr.CrossEntropy(), readout="every")
    embedded.params["0.weight"] = np.eye(V)
    plain = fr.Model(fr.GRU(V, 6), fr.Linear(6, V), loss=fr.CrossEntropy(), readout="every")
    a, b = embedded.generate(PREFIX, 8, seed=5), plain.generate(np.eye(V)[PREFIX], 8, seed=5)
    assert (a.symbols == b.symbols).all() and a.outputs.tobytes() == b.outputs.tobytes()


def test_generation_goes_on_from_its_state(symbols):
    whole = symbols.generate(PREFIX, 8, temperature=0)
    first = symbols.generate(PREFIX, 5, temperature=0)
    rest = symbols.generate(first.symbols[-1:], 3, state=first.state, temperature=0)
    assert (np.concatenate([first.symbols, rest.symbols]) == whole.symbols).all()
    assert rest.outputs.tobytes() == whole.outputs[5:].tobytes()


def test_the_same_symbols_in_any_batch_for_any_threads_and_in_any_pieces(symbols, monkeypatch):
    prefix, threads = np.tile(PREFIX, 40), fr.get_num_threads()
    whole = symbols.generate(prefix, 20, seed=3)
    few = symbols.generate(prefix[:, :5], 20, seed=3)
    assert (whole.symbols[:, :5] == few.symbols).all() and whole.outputs[:, :5].tobytes() == few.outputs.tobytes()
    monkeypatch.setattr("fastrnn.layers._chain.SPAN_WORK", 1.0)  # a step a call
    try:
        fr.set_num_threads(3)
        assert (symbols.generate(prefix, 20, seed=3).symbols == whole.symbols).all()
    finally:
        fr.set_num_threads(threads)
    assert (symbols.generate(prefix, 20, seed=4).symbols != whole.symbols).any()


def test_a_sequence_ends_with_its_stop_symbol(symbols):
    free = symbols.generate(PREFIX, 40, seed=1)
    stop = int(free.symbols[3, 0])
    got = symbols.generate(PREFIX, 40, seed=1, stop=stop)
    for b in range(B):
        hits = np.flatnonzero(free.symbols[:, b] == stop)
        end = hits[0] + 1 if len(hits) else 40
        assert got.lengths[b] == end and (got.symbols[:end, b] == free.symbols[:end, b]).all()
        assert (got.symbols[end:, b] == -1).all() and (got.outputs[end:, b] == 0).all()
    assert got.lengths.min() <= 4


def draw(logits, u, temperature=1.0, top_k=None, top_p=1.0):
    n = len(logits)
    return _feedback.choose(logits, u, temperature, top_k or n, top_p, np.empty(n), np.empty(n, np.int64))


def frequencies(logits, n=4000, **options):
    """Shares of the symbols over equally spaced u: the measure of each one's interval."""
    picked = [draw(logits, (i + 0.5) / n, **options) for i in range(n)]
    return np.bincount(picked, minlength=len(logits)) / n


def expected(logits, temperature, top_k, top_p):
    """The rule written out with NumPy, sorting whole."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = np.lexsort((np.arange(len(p)), -p))[:top_k]
    kept = np.cumsum(p[order]) / p[order].sum()
    order = order[: np.searchsorted(kept, top_p - 1e-12) + 1]
    result = np.zeros(len(p))
    result[order] = p[order] / p[order].sum()
    return result


@pytest.mark.parametrize("options", [(1.0, 9, 1.0), (0.5, 9, 1.0), (1.0, 3, 1.0), (1.0, 9, 0.6), (2.0, 5, 0.7), (1.0, 9, 1e-9)])
def test_symbols_are_drawn_from_their_distribution(options):
    temperature, top_k, top_p = options
    for seed in range(3):
        logits = np.random.default_rng(seed).standard_normal(9)
        got = frequencies(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        np.testing.assert_allclose(got, expected(logits, *options), rtol=0, atol=1 / 4000 + 1e-9)


def test_draws_at_the_edges():
    assert draw(np.array([1.0, 3.0, 3.0]), 0.5, temperature=0.0) == 1  # the first of equals
    assert frequencies(np.zeros(4), top_k=2)[:2].tolist() == [0.5, 0.5]
    assert draw(np.array([1e4, -1e4]), 1 - 2**-53) == 0 and draw(np.array([-1e4, 1e4]), 0.0) == 1
    assert draw(np.array([0.0, 0.0, -1e4]), 1 - 2**-53) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: an integer at least 1"),
        ({"temperature": -1.0}, "temperature: a number of at least 0"),
        ({"top_k": 0}, "top_k: an integer at least 1"),
        ({"top_p": 0.0}, "top_p: a number greater than 0"),
        ({"top_p": 1.5}, "top_p: a number of at most 1"),
        ({"stop": V}, "stop: an integer from 0 to"),
        ({"seed": -1}, "seed: an integer from 0 to"),
        ({"lengths": [1, 0, 1]}, "prefix: at least one step is required"),
        ({"prefix": np.zeros((0, B), int)}, "prefix: at least one step is required"),
        ({"inputs": np.zeros((1, B, 2))}, "inputs: shape"),
    ],
)
def test_bad_input_is_named(symbols, options, message):
    with pytest.raises(ValueError, match=message):
        symbols.generate(**({"prefix": PREFIX, "steps": 2} | options))


def test_inputs_beside_the_outputs_are_asked_for(values):
    with pytest.raises(ValueError, match=r"inputs: shape \(3, 2, 1\) is required"):
        values.generate(np.zeros((1, 2, 4)), 4)
    with pytest.raises(ValueError, match="stop: None is required"):
        values.generate(np.zeros((1, 2, 4)), 1, stop=0)
    last = fr.Model(fr.GRU(4, 6), fr.Linear(6, 4), loss=fr.MeanSquaredError())
    with pytest.raises(ValueError, match='readout: "every"'):
        last.generate(np.zeros((1, 2, 4)), 1)


# Beam search --------------------------------------------------------------------------------------------------------


def continuations(model, prefix, steps, stop=None):
    """{symbols: log probability} of every continuation of one sequence, by the open model; those that stop end there."""
    found = {}
    for symbols in itertools.product(range(V), repeat=steps):
        if stop in symbols:
            symbols = symbols[: symbols.index(stop) + 1]
        x = np.array([*prefix, *symbols[:-1]])[:, None]
        z = model.predict(x)[len(prefix) - 1 :, 0].astype(np.float64)
        logs = z - np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) - z.max(axis=1, keepdims=True)
        found[symbols] = logs[np.arange(len(symbols)), symbols].sum()
    return found


@pytest.mark.parametrize("stop", [None, 2])
def test_a_wide_beam_finds_everything(symbols, stop):
    beams = symbols.beam_search(PREFIX, 2, V * V, lengths=LENGTHS, stop=stop)
    for b, length in enumerate(LENGTHS):
        every = continuations(symbols, PREFIX[:length, b], 2, stop)
        ranked = sorted(every, key=lambda symbols: -every[symbols])
        assert np.isfinite(beams.log_probabilities[b]).sum() == len(every) and (beams.lengths[b] > 0).sum() == len(every)
        for w, expected in enumerate(ranked):
            got = tuple(beams.symbols[: beams.lengths[b, w], b, w].tolist())
            assert every[got] == pytest.approx(every[expected], abs=1e-6)
            assert beams.log_probabilities[b, w] == pytest.approx(every[got], abs=1e-6)


def test_a_beam_of_one_is_the_likeliest_symbol(symbols):
    greedy = symbols.generate(PREFIX, 12, lengths=LENGTHS, temperature=0, stop=3)
    beams = symbols.beam_search(PREFIX, 12, 1, lengths=LENGTHS, stop=3)
    assert (beams.symbols[:, :, 0] == greedy.symbols).all() and (beams.lengths[:, 0] == greedy.lengths).all()


def test_beams_go_on_from_their_states(symbols):
    """What is likeliest after a beam's symbols, read anew, is what its state leads to."""
    beams = symbols.beam_search(PREFIX, 4, 3)
    after = symbols.generate(beams.symbols[-1].reshape(1, -1), 5, state=beams.state, temperature=0)
    for b in range(B):
        for w in range(3):
            read = np.concatenate([PREFIX[:, b], beams.symbols[:, b, w]])[:, None]
            alone = symbols.generate(read, 5, temperature=0)
            assert (alone.symbols[:, 0] == after.symbols[:, 3 * b + w]).all()
            assert alone.outputs[:, 0].tobytes() == np.ascontiguousarray(after.outputs[:, 3 * b + w]).tobytes()


def test_beams_do_not_depend_on_the_batch(symbols):
    whole, alone = symbols.beam_search(np.tile(PREFIX, 9), 7, 4, stop=1), symbols.beam_search(PREFIX[:, :1], 7, 4, stop=1)
    assert (whole.symbols[:, :1] == alone.symbols).all() and (whole.log_probabilities[:1] == alone.log_probabilities).all()


def test_a_beam_search_wants_symbols(values):
    with pytest.raises(ValueError, match="CrossEntropy, are required"):
        values.beam_search(np.zeros((1, 2, 4)), 4, 2)


def test_logits_that_are_not_finite_are_no_symbols():
    model = fr.Model(fr.Embedding(V, 5), fr.GRU(5, 6), fr.Linear(6, V), loss=fr.CrossEntropy(), readout="every")
    model.params["2.weight"] = np.nan
    with pytest.raises(FloatingPointError, match="generate: step 0 of sequence 0"):
        model.generate(PREFIX, 3)
    with pytest.raises(FloatingPointError, match="beam_search"):
        model.beam_search(PREFIX, 3, 2)

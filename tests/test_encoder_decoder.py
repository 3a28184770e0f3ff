"""Reading and writing: gradients through both networks, what is fed and what is asked for, and tasks that are learned."""

import copy

import numpy as np
import pytest
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn.data import NumberWords, Reversal

RNG = np.random.default_rng(0)
X, LENGTHS = RNG.integers(0, 5, (4, 3)), np.array([4, 1, 2])
TARGET = np.array([[1, 2, 0], [3, -1, -1], [-1, -1, -1]])


def network(cell="gru", dtype="float64", units=6, inputs=5, outputs=5, layers=1, **options):
    encoder = fr.Embedding(inputs, 4, dtype=dtype), fr.Recurrent(cell, 4, units, num_layers=layers, dtype=dtype, **options)
    decoder = fr.Embedding(outputs, 4, dtype=dtype), fr.Recurrent(cell, 4, units, num_layers=layers, dtype=dtype, seed=1)
    return fr.EncoderDecoder(encoder, (*decoder, fr.Linear(units, outputs, dtype=dtype)), stop=outputs - 1)


@pytest.mark.parametrize("options", [{"cell": "gru"}, {"cell": "gru", "reverse": True, "layers": 2}, {"cell": "lstm"}], ids=str)
def test_gradients_through_decoder_and_encoder(options):
    model = network(**options)
    grads = model.gradient(X, TARGET, LENGTHS, weights=[1.0, 2.0, 0.5]).grads.flat
    places, true, flat = np.random.default_rng(1).choice(grads.size, 70, replace=False), [], model.params.flat
    for i in places:
        old, total = flat[i], 0.0
        for k, weight in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)):
            flat[i] = old + k * 1e-3
            total += weight / 1e-3 * model.gradient(X, TARGET, LENGTHS, weights=[1.0, 2.0, 0.5]).loss
        flat[i] = old
        true.append(total)
    assert np.abs(grads[places] - true).max() <= TOLERANCES["forcing_gradient"] * np.abs(grads).max()
    assert np.abs(model.encoder.params.flat).max() > 0 and np.shares_memory(model.encoder.layers[1].params.flat, flat)


def test_what_the_decoder_is_fed_and_asked_for():
    """The loss is that of the decoder's own model on stop, labels -> labels, stop, begun from the encoder's last state."""
    model = network()
    _, state = model.encoder.run(X, LENGTHS)
    fed, asked = np.array([[4, 4, 4], [1, 3, 4], [2, 4, 4], [0, 4, 4]]), np.array([[1, 3, 4], [2, 4, 4], [0, 4, 4], [4, 4, 4]])
    expected = model.decoder.gradient(fed, asked, [4, 2, 1], state=state)
    found = model.gradient(X, TARGET, LENGTHS)
    assert found.loss == expected.loss and found.weight == 7
    assert found.grads.flat[model.encoder.params.flat.size :].tobytes() == expected.grads.flat.tobytes()
    ragged = model.gradient(X, [[1, 2, 0], [3], []], LENGTHS)
    assert ragged.loss == found.loss


def test_padding_reaches_nothing():
    model, x = network(), X.copy()
    clean = model.gradient(X, TARGET, LENGTHS)
    for b, length in enumerate(LENGTHS):
        x[length:, b] = 0
    longer = model.gradient(np.concatenate([x, x]), np.concatenate([TARGET, TARGET * 0 - 1], axis=1), LENGTHS)
    assert longer.loss == pytest.approx(clean.loss, rel=1e-14)
    np.testing.assert_allclose(longer.grads.flat, clean.grads.flat, rtol=0, atol=1e-14)


def test_it_learns_to_reverse_and_survives_a_file(tmp_path):
    task = Reversal(5, symbols=5)
    model = network(dtype="float32", units=48, inputs=task.num_inputs, outputs=task.num_outputs, reverse=True)
    x, target, lengths = task.sample(1500, np.random.default_rng(0))
    rate = fr.schedules.CosineDecay(1e-2, steps=25 * 24)
    history = fr.fit(model, (x, target, lengths), epochs=25, batch_size=64, optimizer=fr.Adam(rate, clip_norm=1.0))
    assert history["loss"][-1] < 0.05 * history["loss"][0]
    fresh = task.sample(300, np.random.default_rng(1))
    scores = model.evaluate(*fresh)
    assert scores["exact"] >= 0.97 and task.chance < 0.06
    model.save(tmp_path / "model.rnn")
    again = fr.load(tmp_path / "model.rnn")
    written = again.predict(fresh[0], fresh[2], steps=7)
    exact = np.mean([row.tolist() == target[target >= 0].tolist() for row, target in zip(written, fresh[1])])
    assert exact == pytest.approx(scores["exact"])
    beams = again.beam_search(fresh[0][:, :20], 7, 3, lengths=fresh[2][:20])
    assert (beams.log_probabilities[:, 0] >= beams.log_probabilities[:, 1]).all()


def test_scheduled_sampling_and_validation():
    task = NumberWords(2)
    model = network(dtype="float32", units=8, inputs=10, outputs=task.num_outputs)
    x, target, lengths = task.sample(64, np.random.default_rng(0))
    forced = fr.fit(model, (x, target, lengths), validation=(x, target, lengths), forcing=fr.ScheduledSampling(0.5), epochs=2)
    assert len(forced["validation_exact"]) == 2 and np.isfinite(forced["validation_loss"]).all()


def test_a_copy_learns_by_itself():
    model, (x, target, lengths) = network(dtype="float32"), (X, TARGET, LENGTHS)
    before, other = model.params.flat.copy(), copy.deepcopy(model)
    fr.fit(other, (x, target, lengths), epochs=3)
    assert model.params.flat.tobytes() == before.tobytes() != other.params.flat.tobytes()
    for one in (other, other.encoder, other.encoder.layers[1], other.decoder.layers[2]):
        assert np.shares_memory(one.params.flat, other.params.flat)
    assert other.gradient(x, target, lengths).loss < model.gradient(x, target, lengths).loss


def test_validation_weighs_exact_by_sequences():
    model, calls = network(dtype="float32"), iter([1.0, 0.0])
    batches = [(X[:, :1], TARGET[:1], LENGTHS[:1]), (X[:, 1:], TARGET[1:], LENGTHS[1:])]
    evaluate = model.evaluate
    model.evaluate = lambda *batch: evaluate(*batch) | {"exact": next(calls)}
    history = fr.fit(model, batches, validation=batches, epochs=1)
    np.testing.assert_allclose(history["validation_exact"], [1 / 3])


# The tasks ----------------------------------------------------------------------------------------------------------


def test_reversal():
    x, target, lengths = Reversal(6, symbols=3).sample(200, np.random.default_rng(0))
    assert x.shape == (6, 200) and set(lengths) == set(range(1, 7)) and set(x.ravel()) == {0, 1, 2}
    for b, length in enumerate(lengths):
        assert target[b, :length].tolist() == x[:length, b][::-1].tolist() and (target[b, length:] == -1).all()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"), (7, "seven"), (13, "thirteen"), (40, "forty"), (85, "eighty five"), (100, "one hundred"), (407, "four hundred seven"),
        (1000, "one thousand"), (12_019, "twelve thousand nineteen"), (300_042, "three hundred thousand forty two"),
        (999_999_999, "nine hundred ninety nine million nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)  # fmt: skip
def test_numbers_in_words(number, words):
    task = NumberWords(9)
    assert " ".join(task.words[k] for k in task.write(number)) == words


def test_samples_of_numbers():
    task = NumberWords(3)
    x, target, lengths = task.sample(500, np.random.default_rng(0))
    for b, length in enumerate(lengths):
        digits = x[:length, b]
        assert digits[0] > 0 or length == 1
        assert target[b][target[b] >= 0].tolist() == task.write(int("".join(map(str, digits))))
    assert set(lengths) == {1, 2, 3} and task.stop == task.num_outputs - 1 not in target


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[1, 5, 0]] * 3, "labels from 0 to 4 but the stop symbol 4"),
        ([[1, 4, 0]] * 3, "labels from 0 to 4 but the stop symbol 4"),
        ([[1, -1, 0]] * 3, "-1 is required behind"),
        ([[1, 2]], "target"),
    ],
)
def test_bad_targets_are_named(target, message):
    with pytest.raises(ValueError, match=message):
        network().gradient(X, target, LENGTHS)


def test_networks_that_do_not_fit_are_named():
    encoder, decoder = (fr.Embedding(5, 4), fr.GRU(4, 6)), (fr.Embedding(5, 4), fr.GRU(4, 6), fr.Linear(6, 5))
    with pytest.raises(ValueError, match="decoder: the encoder's"):
        fr.EncoderDecoder((fr.Embedding(5, 4), fr.LSTM(4, 6)), decoder, stop=4)
    with pytest.raises(ValueError, match="encoder: Recurrent layers of one direction"):
        fr.EncoderDecoder((fr.Embedding(5, 4), fr.GRU(4, 6, bidirectional=True)), decoder, stop=4)
    with pytest.raises(ValueError, match="stop: an integer from 0 to 4"):
        fr.EncoderDecoder(encoder, decoder, stop=5)
    with pytest.raises(ValueError, match="6 outputs and CrossEntropy are required"):
        fr.EncoderDecoder(encoder, (fr.Embedding(6, 4), *decoder[1:]), stop=4)
    with pytest.raises(ValueError, match="layers of its own are required"):
        fr.EncoderDecoder(encoder, (encoder[0], *decoder[1:]), stop=4)
    with pytest.raises(ValueError, match="weights: shape"):
        network().gradient(X, TARGET, LENGTHS, weights=np.ones((4, 3)))
    with pytest.raises(ValueError, match="state: None is required"):
        network().gradient(X, TARGET, LENGTHS, state=())
    with pytest.raises(ValueError, match=r"bptt: Full\(\) is required"):
        network().gradient(X, TARGET, LENGTHS, bptt=fr.Truncated(2))

"""The network with weights of its own for every step, and the arithmetic of the study that it serves."""

import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from tolerances import TOLERANCES

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import _study
import parameter_sharing as study
from _unshared import Unshared

LENGTHS = np.array([4, 1, 3, 3, 2, 1])  # no sequence of five steps: the last step's weights have no gradient


def batch(rng):
    x = rng.normal(size=(5, len(LENGTHS), 2))
    x[np.arange(5)[:, None] >= LENGTHS] = np.nan  # padding reaches nothing
    return x, rng.integers(3, size=len(LENGTHS)), LENGTHS


def twin_loss(params, x, target, lengths):
    """The mean cross-entropy, sequence by sequence, each step with the weights named after it; complex weights allowed."""
    total = 0.0
    for b, length in enumerate(lengths):
        h = np.zeros(params["0.step.weight_hh_l0"].shape[0])
        for t in range(length):
            p = {name: params[f"{t}.step.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            h = np.tanh(p["weight_ih"] @ x[t, b] + p["bias_ih"] + p["weight_hh"] @ h + p["bias_hh"])
        logits = params[f"{length - 1}.readout.weight"] @ h + params[f"{length - 1}.readout.bias"]
        total = total + np.log(np.exp(logits).sum()) - logits[target[b]]
    return total / len(lengths)


def test_every_gradient_is_that_of_the_complex_step():
    net, (x, target, lengths) = Unshared(5, 2, 3, 3, dtype="float64", seed=4), batch(np.random.default_rng(0))
    loss, grads = net.gradient(x, target, lengths)
    assert loss == pytest.approx(twin_loss(net.params, x, target, lengths), rel=1e-14)
    exact = np.zeros(grads.flat.size)
    for k in range(len(exact)):
        flat = net.params.flat.astype(complex)
        flat[k] += 1j * reference.STEP
        exact[k] = twin_loss(fr.Params(net.params.shapes, complex, flat), x, target, lengths).imag / reference.STEP
    assert np.linalg.norm(grads.flat - exact) <= TOLERANCES["gradient_normwise"] * np.linalg.norm(exact)
    assert not any(grads[name].any() for name in grads if name.startswith("4."))


def test_with_the_same_weights_at_every_step_it_is_the_shared_network():
    shared = fr.Model(fr.RNN(2, 3, dtype="float64"), fr.Linear(3, 3, dtype="float64"), loss=fr.CrossEntropy())
    net, (x, target, lengths) = Unshared(5, 2, 3, 3, dtype="float64"), batch(np.random.default_rng(1))
    for t in range(5):
        net.cells[t].load_state_dict(shared.layers[0].state_dict())
        net.readouts[t].params.flat[:] = shared.layers[1].params.flat
    np.testing.assert_array_equal(net.predict(x, lengths), shared.predict(x, lengths))
    expected = shared.gradient(x, target, lengths)
    loss, grads = net.gradient(x, target, lengths)
    assert loss == expected.loss
    for name, prefix in (("0.", "step."), ("1.", "readout.")):
        for key in (key for key in shared.params if key.startswith(name)):
            total = sum(grads[f"{t}.{prefix}{key.removeprefix(name)}"] for t in range(5))
            np.testing.assert_allclose(total, expected.grads[key], rtol=0, atol=1e-15)


def test_there_is_nothing_beyond_the_last_step_unless_its_weights_are_used_again():
    net, x = Unshared(3, 2, 4, 3, dtype="float64"), np.random.default_rng(2).normal(size=(5, 6, 2))
    lengths = np.array([5, 4, 3, 2, 1, 5])
    with pytest.raises(ValueError, match="x: at most 3 steps are required, as no later one has weights; got 5"):
        net.predict(x, lengths)
    longer = net.continued(5)
    logits = longer.predict(x, lengths)
    np.testing.assert_array_equal(logits[2:5], net.predict(x[:3, 2:5], lengths[2:5]))
    named = dict(net.params) | {f"{t}.{name.partition('.')[2]}": net.params[name] for t in (3, 4) for name in net.params if name[0] == "2"}
    target = np.zeros(6, np.int64)
    assert longer.loss(logits, target) == pytest.approx(twin_loss(named, x, target, lengths), rel=1e-13)
    assert len(net.cells) == 3


def test_networks_have_the_sizes_they_are_named_after():
    sizes = {kind: study.network(kind, 0).params.flat.size for kind in study.NETWORKS}
    assert sizes["own"] == study.STEPS * sizes["shared"]
    assert sizes["wide"] == pytest.approx(sizes["own"], rel=0.02)


def test_no_key_stands_in_the_gap():
    x, target, lengths = study.sequences(2000, True, np.random.default_rng(0))
    where = study.places(x)
    assert x.shape == (study.STEPS, 2000, 8) and set(where) == set(range(study.STEPS)) - set(range(*study.GAP))
    np.testing.assert_array_equal(x[where, np.arange(2000)].argmax(-1), target)
    assert np.all(where < lengths)
    assert set(study.places(study.sequences(2000, False, np.random.default_rng(0))[0])) == set(range(study.STEPS))


def test_the_number_needed_is_interpolated_in_logarithms():
    rows = [{"panel": "b", "network": "own", "number": n, "mean": m} for n, m in ((10, 0.2), (100, 0.4), (1000, 1.0))]
    assert study.needed(rows, "own", 0.7) == pytest.approx(10**2.5)
    assert study.needed(rows, "own", 0.2) == 10 and study.needed(rows[:2], "own", 0.5) == np.inf


def test_at_best():
    assert [study.at_best(T) for T in (10, 20, 40)] == [1.0, 1.0, 0.625]


def test_a_tiny_study_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "sizes", lambda arguments: {"numbers": [8, 16], "updates": 2, "test": 40, "seeds": arguments.seeds})
    monkeypatch.setattr(study, "LENGTHS", (20, 25, 200))
    given = study.sizes(_study.parse("", seeds=(2, 2), argv=[]))
    names = [name for name, _ in study.jobs(given)]
    assert len(set(names)) == len(names) == 16
    argv = ["--out", str(tmp_path), "--workers", "1"]
    assert _study.run(study.__file__, "", study.compute, study.draw, seeds=(2, 2), argv=argv) == 0
    assert (tmp_path / "parameter_sharing.png").stat().st_size > 1000
    rows, record = _study.load(tmp_path / "parameter_sharing")
    assert record["claims"][0]["holds"] and record["claims"][0]["value"] == study.STEPS
    assert {(row["network"], row["length"]) for row in rows if row["panel"] == "a"} == {
        *((kind, T) for kind in ("shared", "wide") for T in (20, 25, 200)),
        ("own", 20),
        *((kind, T) for kind in study.BEYOND for T in (25, 200)),
    }
    assert len(_study.select(rows, panel="c")) == 2 * study.STEPS

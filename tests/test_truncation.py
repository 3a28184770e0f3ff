"""The arithmetic of the truncation study: terms by lag, the bound, influence balancing."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import _study
import _truncation
import truncation as study

SETTINGS = {"task": "temporal order", "length": 10, "hidden": 16, "batch": 4, "seed": 0, "updates": 3, "learning_rate": 0.01}


@pytest.mark.parametrize("cell", study.CELLS)
def test_terms_are_what_the_gradient_gains_by_one_step_more_of_window(cell):
    model, task = _truncation.model_for(SETTINGS | {"cell": cell})
    x, target, lengths = task.sample(3, np.random.default_rng(0))
    found = _truncation.term_norms(model, (x, target, lengths))
    for b in range(3):
        one = x[:, b : b + 1], target[b : b + 1], lengths[b : b + 1]
        grads = [_truncation.recurrent_gradient(model, one, fr.Truncated(window)) for window in range(1, 11)]
        np.testing.assert_allclose(grads[-1], _truncation.recurrent_gradient(model, one, fr.Full()), rtol=0, atol=1e-14)
        terms = np.linalg.norm(np.diff([np.zeros_like(grads[0]), *grads], axis=0), axis=1)
        np.testing.assert_allclose(found[:, b], terms, rtol=1e-9, atol=1e-14)


def test_a_window_as_long_as_the_sequence_has_no_bias():
    settings = SETTINGS | {"cell": "lstm 1", "windows": [1, 5, 10], "batches": 3}
    model, task = _truncation.model_for(settings)
    found = _truncation.measure(model, task, settings, np.random.default_rng(1))
    assert found["bias"][0] > found["bias"][1] > found["bias"][2] < 1e-14
    assert found["cosine"][0] < found["cosine"][1] < found["cosine"][2] == pytest.approx(1, abs=1e-14)
    assert found["norm"][2] == pytest.approx(found["full"], rel=1e-13)
    batches = [task.sample(4, rng) for rng in [np.random.default_rng(1)] for _ in range(3)]
    whole = tuple(np.concatenate(part, axis=axis) for part, axis in zip(zip(*batches), (1, 0, 0)))
    short, full = (_truncation.recurrent_gradient(model, whole, bptt) for bptt in (fr.Truncated(5), fr.Full()))
    assert found["bias"][1] == pytest.approx(np.linalg.norm(short - full) / np.linalg.norm(full), rel=1e-12)
    assert found["loss"] == pytest.approx(model.evaluate(*whole)["loss"], rel=1e-13)


def test_before_and_after_differ_by_training_alone():
    settings = SETTINGS | {"cell": "lstm 1", "windows": [2, 9], "batches": 2}
    found = _truncation.before_and_after(settings)
    assert found["bias"].shape == (2, 2) and found["terms"].shape == (2, 10) and found["loss"].shape == (2,)
    model, task = _truncation.model_for(settings)
    before = _truncation.measure(model, task, settings, np.random.default_rng((0, 5)))
    np.testing.assert_array_equal(found["terms"][0], before["terms"])
    assert (found["terms"][1] != before["terms"]).any()


def test_decay_is_the_factor_of_a_geometric_series():
    terms = 3 * 0.7 ** np.arange(20)
    terms[:4] = 1.0
    assert _truncation.decay(terms, 4, 15) == pytest.approx(0.7, rel=1e-12)


def test_the_bound_is_reached_by_terms_of_one_direction_in_an_endless_sequence():
    """|g_K| = Σ_{k<K} β^k, of which a window leaves out β^K / (1 - β): the relative bias is β^K, and so is the bound."""
    beta, windows = 0.8, np.array([2, 5, 10])
    norms = (1 - beta**windows) / (1 - beta)
    found = _truncation.bound(beta ** np.arange(12.0), beta, 3, windows, norms)
    known = np.maximum.accumulate(norms - beta**windows / (1 - beta))
    expected = np.where(known > 0, beta**windows / (1 - beta) / known, np.inf)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.isinf(found[0]) and (found[1:] >= beta ** windows[1:]).all()
    assert np.isinf(_truncation.bound(np.ones(12), 1.0, 3, windows, norms)).all()


def test_the_first_unit_rests_where_its_influences_balance():
    A = (np.eye(23) + np.eye(23, k=1)) / 2
    drive = np.repeat([1.0, -1.0], [10, 13])
    rest = _truncation.at_rest(0.5)[0, 0]
    np.testing.assert_allclose(A @ rest + 0.5 * drive, rest, rtol=0, atol=1e-14)
    assert _truncation.at_rest(_truncation.OPTIMUM)[0, 0, 0] == pytest.approx(1, abs=1e-14)
    assert _truncation.influence_model().predict(np.ones((3, 1, 1)), state=(rest.reshape(1, 1, -1),))[-1, 0, 0] == pytest.approx(-3)


def test_the_closed_form_of_the_influence_is_that_of_the_chain():
    A, drive, seen, reached = (np.eye(23) + np.eye(23, k=1)) / 2, np.repeat([1.0, -1.0], [10, 13]), [], np.zeros(23)
    for _ in range(60):
        reached = A @ reached + drive
        seen.append(reached[0])
    np.testing.assert_allclose(_truncation.influence(np.arange(1, 61)), seen, rtol=0, atol=1e-12)
    assert _truncation.influence([2000])[0] == pytest.approx(-6, abs=1e-9)
    assert _truncation.mean_influence(40, 1) > 0 > _truncation.mean_influence(41, 1)
    assert _truncation.mean_influence(109, 109) > 0 > _truncation.mean_influence(110, 110)


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (12, 12), (14, 5)])
def test_the_truncated_gradient_sees_what_the_closed_form_says(window, stride):
    assert _truncation.measured_influence(window, stride) == pytest.approx(_truncation.mean_influence(window, stride), abs=1e-13)


@pytest.mark.parametrize(("window", "stride"), [(12, 5), (8, 8)])
def test_descent_follows_the_chains_own_recursion(window, stride):
    found = _truncation.balance({"window": window, "stride": stride, "updates": 12, "learning_rate": 1e-2})
    assert found["theta"].shape == (13,) and found["theta"][0] == 0.5 and found["theta"][-1] > 0.6
    np.testing.assert_allclose(found["theta"], found["expected"], rtol=1e-12)


def test_a_tiny_study_from_end_to_end(tmp_path, monkeypatch):
    small = {"model": {key: SETTINGS[key] for key in ("length", "hidden", "batch", "updates", "learning_rate")}, "batches": 2}
    small |= {"windows": [1, 3, 5, 8], "training_windows": [1, 2, 3, 4, 5, 7, 10]}
    monkeypatch.setattr(study, "sizes", lambda arguments: small | {"seeds": arguments.seeds})
    monkeypatch.setattr(study, "SLIDING", (1, 3))
    monkeypatch.setattr(study, "CHUNKED", (9, 12))
    monkeypatch.setattr(study, "COURSES", ((10, 10), (3, 3)))
    monkeypatch.setattr(study, "BALANCE", {"updates": 10, "learning_rate": 1e-3})
    two = small | {"seeds": 2}
    names = [name for name, _ in (*study.bias_jobs(two), *study.training_jobs(two), *study.influence_jobs())]
    assert len(set(names)) == len(names) == 2 * 2 * 3 + 2 + 4
    argv = ["--out", str(tmp_path), "--workers", "1"]
    assert _study.run(study.__file__, "", study.compute, study.draw, seeds=(1, 1), argv=argv) == 0
    assert (tmp_path / "truncation.png").stat().st_size > 1000
    rows, record = _study.load(tmp_path / "truncation")
    assert {row["panel"] for row in rows} == {"a", "c", "d", "e"}
    exact = [claim for claim in record["claims"] if "deviation" in claim["claim"]]
    assert len(exact) == 2 and all(claim["holds"] for claim in exact)

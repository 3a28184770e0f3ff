"""The arithmetic of the study of exposure bias; no study is run here."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from tolerances import TOLERANCES

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import _forecasting as f
import _study
import exposure_bias as study

HORIZON = {"lorenz": 25, "laser": 25, "text": 8}
SETTINGS = {"task": "lorenz", "network": "gru", "hidden": 5, "forcing": "teacher", "seed": 0, "length": 6, "updates": 3, "rate": 1e-2}
SETTINGS |= {"batch": 2, "evaluations": 2, "starts": 8, "horizon": HORIZON, "long": 30, "runs": 2}


@pytest.fixture
def small(monkeypatch):
    """Small data in place of what is loaded."""
    rng = np.random.default_rng(0)
    waves = np.sin(0.3 * np.arange(200)[:, None, None] + rng.uniform(0, 6, (1, 2, 3)))
    text = rng.integers(4, size=(300, 1))
    found = {"lorenz": f.Data(waves, waves[::-1], 0.01), "text": f.Data(text, text, 1.0, 4)}
    found["laser"] = f.Data(waves[:, :1, :1], waves[:, :1, :1], 1.0)
    monkeypatch.setattr(f, "load", found.__getitem__)
    return found


def model_of(small, **settings):
    settings = SETTINGS | settings
    return f.build(small[settings["task"]], settings)


# Data and numbers


def test_windows_are_stretches_of_one_trajectory():
    series = np.arange(40.0).reshape(10, 2, 2)
    windows = f.draw(series, 50, 4, np.random.default_rng(0))
    assert windows.shape == (4, 50, 2)
    np.testing.assert_array_equal(np.diff(windows, axis=0), 4.0)
    assert set(windows[0, :, 0]) == set(series[:7, :, 0].ravel())
    assert f.draw(np.arange(9)[:, None], 3, 9, np.random.default_rng(0)).T.tolist() == [list(range(9))] * 3


def test_bits_of_a_uniform_distribution():
    assert f.bits(np.zeros((3, 2, 8)), np.ones((3, 2), int)) == pytest.approx(3)
    logits = np.log([[[0.25, 0.75]]])
    assert f.bits(logits, np.array([[0]]))[0, 0] == pytest.approx(2)


def test_points_of_state_space():
    three = np.arange(24.0).reshape(4, 2, 3)
    np.testing.assert_array_equal(f.embed(three), three.reshape(8, 3))
    one = np.arange(7.0).reshape(7, 1, 1)
    np.testing.assert_array_equal(f.embed(one), [[4, 2, 0], [5, 3, 1], [6, 4, 2]])


def test_divergence_of_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.integers(3, size=(500, 2)), rng.integers(3, size=(400, 1)) ** 2 // 2
    assert f.pair_divergence(a, a, 3) == 0
    assert f.pair_divergence(np.zeros((9, 1), int), np.ones((9, 1), int), 3) == pytest.approx(1)
    counts = []
    for text in (a, b):
        count = np.zeros((3, 3))
        for column in text.T:
            for pair in zip(column, column[1:]):
                count[pair] += 1
        counts.append(count.ravel() / count.sum())
    assert f.pair_divergence(a, b, 3) == pytest.approx(jensenshannon(*counts, base=2) ** 2, rel=TOLERANCES["measures"])


# Networks shown the truth, and left alone


@pytest.mark.parametrize(("task", "network"), [("lorenz", "gru"), ("laser", "output"), ("text", "gru")])
def test_shown_the_truth_they_predict_as_the_model_does(small, task, network):
    model = model_of(small, task=task, network=network)
    window = f.draw(small[task].test, 4, 12, np.random.default_rng(0))
    prediction, states, _ = f.forced(model, window, None)
    np.testing.assert_array_equal(prediction, model.predict(window[:-1]))
    np.testing.assert_array_equal(prediction, model.layers[-1].forward(states)[0])


@pytest.mark.parametrize("network", ["gru", "output"])
def test_left_alone_they_read_what_they_wrote(small, network):
    model = model_of(small, network=network)
    prefix = f.draw(small["lorenz"].test, 3, 7, np.random.default_rng(0))
    run, states = f.generate(model, prefix, 5, None, 0)
    y, state = model.run(prefix)
    for t in range(5):
        np.testing.assert_array_equal(run[t], y[-1])
        y, state = model.run(y[-1:], state=state)
    np.testing.assert_array_equal(model.layers[-1].forward(states)[0], run)


def test_a_text_is_gone_on_with_by_its_own_symbols(small):
    model = model_of(small, task="text")
    prefix = f.draw(small["text"].test, 3, 7, np.random.default_rng(0))
    run, states = f.generate(model, prefix, 6, None, 0)
    assert run.shape == (6, 3) and set(run.ravel()) <= set(range(4))
    expected = model.predict(np.concatenate([prefix, run]))[6:-1]
    np.testing.assert_array_equal(model.layers[-1].forward(states)[0], expected)


def test_a_state_drawn_all_the_way_gives_the_true_value(small):
    """With alpha = 1 the network starts every step from the smallest state that puts out the truth."""
    model = model_of(small, forcing="generalized 1")
    window = f.draw(small["lorenz"].test, 3, 6, np.random.default_rng(0))
    prediction, _, state = f.forced(model, window, 1.0)
    np.testing.assert_allclose(model.layers[-1].forward(state[0])[0], window[-1], atol=1e-5)
    run, _ = f.generate(model, window, 4, 1.0, 0)
    y, _ = model.layers[0](np.zeros((4, 3, 1)), state)
    np.testing.assert_array_equal(run, model.layers[-1].forward(y)[0])
    again, _, _ = f.forced(model, window[2:5], 1.0)
    np.testing.assert_array_equal(again, prediction[2:4])  # the past is forgotten


@pytest.mark.parametrize("forcing", ["teacher", "scheduled .5", "free", "generalized .3"])
def test_a_run_of_training_measures_and_is_a_function_of_its_settings(small, forcing):
    settings = SETTINGS | {"forcing": forcing}
    found, again = f.train(settings), f.train(settings)
    assert found["update"].tolist() == [1, 3] and found["curve"].shape == (25,) and found["valid"].shape == (8,)
    for name in ("one_step", "free_20", "one", "curve", "states", "states_floor", "d_stsp", "d_h", "pe20", "valid"):
        assert np.isfinite(found[name]).all(), name
        np.testing.assert_array_equal(found[name], again[name])
    assert 0 < found["one"] and 0 <= found["states"] <= 1 and found["d_stsp_floor"] < found["d_stsp"]


def test_a_text_is_measured_in_bits(small):
    found = f.train(SETTINGS | {"task": "text", "forcing": "scheduled 0"})
    assert found["one"] == pytest.approx(2, abs=0.5) and found["curve"].shape == (8,)  # four symbols drawn at random
    assert "valid" not in found and 0 <= found["d_stsp"] <= 1


# Rows, claims, figure


def test_every_run_has_a_name_of_its_own():
    for argv in ([], ["--quick"]):
        settings = study.sizes(_study.parse("", seeds=(2, 5), argv=argv))
        jobs = [*study.forcing_jobs(settings, 3), *study.network_jobs(settings, 3), *study.speed_jobs(settings)]
        assert len({name for name, _ in jobs}) == len(jobs) > 40


def test_when_an_error_is_reached():
    course = [{"update": u, "seconds": u / 10, "one_step": e} for u, e in ((1, 1.0), (10, 0.3), (100, 0.1))]
    assert study.reached(course, 0.3, "update") == 10 and study.reached(course, 0.2, "seconds") == 10
    assert study.reached(course, 0.05, "update") == math.inf


def test_the_numbers_are_drawn_and_claimed(small, monkeypatch):
    settings = study.sizes(_study.parse("", seeds=(2, 5), argv=["--quick"])) | {"horizon": HORIZON}
    monkeypatch.setattr(study, "JUDGED", {"laser": 20, "lorenz": 20, "text": 8})
    rng = np.random.default_rng(0)

    def fake(job):
        horizon = HORIZON[job["task"]]
        names = ["one", "states", "states_floor", "d_stsp", "d_stsp_floor", "weights"]
        names += [] if job["task"] == "text" else ["d_h", "d_h_floor", "pe20"]
        found = {name: rng.uniform(0.1, 1) for name in names}
        found |= {"curve": rng.uniform(0.1, 1, horizon), "example": rng.normal(size=(2, horizon))}
        found |= {name: np.sort(rng.uniform(0.1, 1, 4))[:: 1 if name in ("update", "seconds") else -1] for name in COURSE}
        return found if job["task"] == "text" else found | {"valid": rng.uniform(0, 9, 5)}

    runs = [(job, fake(job)) for _, job in study.forcing_jobs(settings, 2)]
    compared = [(job, fake(job)) for _, job in study.network_jobs(settings, 2)]
    times = {name: {"milliseconds": rng.uniform(1, 2, 9)} for name, _ in study.speed_jobs(settings)}
    rows = study.table(runs, compared, times)
    for row in rows:
        assert all(isinstance(value, str) or np.ndim(value) == 0 for value in row.values())
    claims = study.claims(rows)
    assert len({claim.claim for claim in claims}) == len(claims) > 20
    import matplotlib.pyplot as plt

    figure = study.draw(rows, {})
    assert sum(len(part.axes) for part in figure.subfigs) == 15
    plt.close(figure)


COURSE = ("update", "seconds", "one_step", "free_20")


def test_claims_compare_the_gru_alone():
    rows = [{"panel": "summary", "network": n, "task": "laser", "forcing": "teacher", "one": v} for n, v in (("gru", 1.0), ("rnn", 5.0))]
    assert study.mean(rows, "one", task="laser", forcing="teacher") == 1.0
    assert study.mean(rows, "one", task="laser", network="rnn") == 5.0


def test_lorenz_data_are_clean_where_they_are_judged():
    data = f.load("lorenz")
    assert data.step == pytest.approx(0.009056)
    rough, smooth = (np.abs(np.diff(x, 2, axis=0)).mean() for x in (data.train, data.test))
    assert rough > 0.05 > smooth

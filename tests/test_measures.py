"""Measures of free runs: closed forms, SciPy, and a naive count over all boxes."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.stats import energy_distance, entropy
from tolerances import TOLERANCES

from fastrnn import measures

REL = TOLERANCES["measures"]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


class TestErrors:
    def test_by_horizon(self, rng):
        target = rng.standard_normal((4, 50, 3))
        offsets = np.array([1.0, 2.0, 0.0, 3.0])
        prediction = target + offsets[:, None, None] * [1, 2, 3]
        np.testing.assert_allclose(measures.prediction_error(prediction, target), offsets**2 * 14 / 3, rtol=REL)
        np.testing.assert_allclose(measures.normalized_error(prediction, target, [2, 4, 6]), offsets / 2, rtol=REL)

    def test_the_mean_is_1_and_another_draw_root_2(self, rng):
        target, other = 5 * rng.standard_normal((2, 2, 40_000, 2))
        np.testing.assert_allclose(measures.normalized_error(np.zeros_like(target), target, 5.0), 1, atol=0.02)
        np.testing.assert_allclose(measures.normalized_error(other, target, 5.0), np.sqrt(2), atol=0.03)


class TestValidTime:
    def test_of_an_error_that_grows_by_an_exponential(self):
        """1e-3 e^(λ t) reaches .5 at t = ln(500) / λ: ln(500) Lyapunov times, whatever λ and dt."""
        for rate in (0.01, 0.003):
            target = np.zeros((4000, 2, 3))
            prediction = target + 1e-3 * np.exp(rate * np.arange(4000))[:, None, None]
            found = measures.valid_time(prediction, target, 1.0, step=rate)
            np.testing.assert_allclose(found, np.log(500), atol=rate)

    def test_it_ends_at_the_first_bad_step(self):
        prediction = np.zeros((6, 4, 1))
        prediction[3, 1] = prediction[0, 2] = 0.5
        prediction[2, 3] = np.nan
        np.testing.assert_array_equal(measures.valid_time(prediction, np.zeros((6, 4, 1)), 1.0), [6, 3, 0, 2])
        np.testing.assert_array_equal(measures.valid_time(prediction, np.zeros((6, 4, 1)), 1.0, threshold=0.6), [6, 6, 6, 2])
        np.testing.assert_array_equal(measures.valid_time(prediction, np.zeros((6, 4, 1)), 0.5, threshold=1.0), [6, 3, 0, 2])

    def test_the_error_of_a_step_is_the_root_of_the_mean_over_variables(self):
        prediction = np.broadcast_to([0.6, 0.0], (5, 1, 2))
        assert measures.valid_time(prediction, np.zeros((5, 1, 2)), 1.0, threshold=0.43)[0] == 5  # .6 / √2 = .424
        assert measures.valid_time(prediction, np.zeros((5, 1, 2)), 1.0, threshold=0.42)[0] == 0


def naive_divergence(target, run, bins, smoothing):
    """D_stsp over all boxes, by NumPy's histogram, for a run that stays inside."""
    margin = 0.1 * target.std(axis=0)
    bounds = list(zip(target.min(axis=0) - margin, target.max(axis=0) + margin))
    p, q = (np.histogramdd(states, bins, bounds)[0].ravel() + smoothing for states in (target, run))
    return entropy(p / p.sum(), q / q.sum())


class TestStateSpaceDivergence:
    @pytest.mark.parametrize(("D", "bins"), [(1, 30), (2, 30), (3, 7)])
    def test_is_the_entropy_of_all_boxes(self, D, bins, rng):
        target = rng.uniform(-1, 1, (3000, D))
        run = 0.9 * rng.uniform(-1, 1, (2000, D)) ** 3
        for smoothing in (1e-5, 0.5):
            found = measures.state_space_divergence(target, run, bins=bins, smoothing=smoothing)
            assert found == pytest.approx(naive_divergence(target, run, bins, smoothing), rel=REL)

    def test_two_draws_of_one_distribution_are_near_and_others_are_not(self, rng):
        target, alike, other = rng.standard_normal((3, 20_000, 1))
        assert measures.state_space_divergence(target, target) == 0
        assert measures.state_space_divergence(target, alike) < 0.01
        # of normal distributions a mean apart of .5: .5² / 2 = .125
        assert measures.state_space_divergence(target, other + 0.5) == pytest.approx(0.125, abs=0.02)

    def test_of_distributions_on_different_boxes(self):
        """All of the target in one box, all of the run in another: ln((N + ε) / ε) but for terms of order ε."""
        target = np.array([[0.0], [10.0]] * 50)
        run = np.full((100, 1), 5.0)
        expected = np.log(50 / 1e-5)
        assert measures.state_space_divergence(target, run) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("beyond", [np.inf, np.nan, 1e300, -7.0])
    def test_what_left_the_boxes_counts_against_a_run(self, beyond, rng):
        target = rng.uniform(0, 1, (1000, 2))
        run = np.concatenate([target, np.full((1000, 2), beyond)])
        assert measures.state_space_divergence(target, run) == pytest.approx(np.log(2), abs=1e-4)
        assert measures.state_space_divergence(target, run[1000:]) > 10

    def test_many_dimensions_cost_no_memory(self, rng):
        target = rng.standard_normal((500, 10))
        assert measures.state_space_divergence(target, target) == 0

    def test_a_variable_that_stands_still(self):
        target = np.stack([np.arange(10.0), np.ones(10)], axis=1)
        assert measures.state_space_divergence(target, target) == 0
        assert measures.state_space_divergence(target, target + [0, 1]) > 5


class TestSpectrumDistance:
    def test_is_the_definition(self, rng):
        target, run = rng.standard_normal((2, 500, 2)).cumsum(axis=1)
        expected = []
        for a, b in zip(target.T, run.T):
            F, G = (gaussian_filter1d(np.abs(np.fft.rfft((z - z.mean()) / z.std())) ** 2, 20) for z in (a, b))
            expected.append(np.sqrt(1 - np.sum(np.sqrt(F / F.sum() * G / G.sum()))))
        assert measures.spectrum_distance(target, run) == pytest.approx(np.mean(expected), rel=REL)

    def test_closed_forms_without_smoothing(self):
        t = np.arange(1024)[:, None] * (2 * np.pi / 1024)
        one, other = np.sin(20 * t), np.cos(90 * t)
        assert measures.spectrum_distance(one, 3 * np.cos(20 * t) + 7, sigma=0) < 1e-7
        assert measures.spectrum_distance(one, other, sigma=0) == pytest.approx(1, abs=1e-7)
        # half of the power at the frequency of the other: √(1 - √½)
        assert measures.spectrum_distance(one, one + other, sigma=0) == pytest.approx(np.sqrt(1 - np.sqrt(0.5)), rel=1e-7)

    def test_of_two_smoothed_lines(self):
        """Gaussians of width σ, d apart: √(1 - exp(-d² / 8 σ²)), but for the ends of the kernel."""
        t = np.arange(20_000)[:, None] * (2 * np.pi / 20_000)
        found = measures.spectrum_distance(np.sin(1000 * t), np.sin(1040 * t))
        assert found == pytest.approx(np.sqrt(1 - np.exp(-(40**2) / (8 * 20**2))), abs=2e-3)

    def test_a_variable_that_stands_still(self, rng):
        moving = rng.standard_normal((100, 1))
        still = np.ones((100, 1))
        assert measures.spectrum_distance(moving, still) == measures.spectrum_distance(still, moving) == 1
        assert measures.spectrum_distance(still, 2 * still) == 0
        assert measures.spectrum_distance(np.hstack([moving, still]), np.hstack([moving, moving])) == 0.5


class TestEnergyCoefficient:
    def test_is_scipys_in_one_dimension(self, rng):
        a, b = rng.standard_normal(200), rng.standard_normal(300) * 2 + 1
        between = 2 * np.abs(a[:, None] - b).mean()
        expected = energy_distance(a, b) ** 2 / between
        assert measures.energy_coefficient(a[:, None], b[:, None]) == pytest.approx(expected, rel=REL)

    def test_is_the_definition_in_three(self, rng):
        a, b = rng.standard_normal((20, 3)), rng.standard_normal((30, 3)) + [1, 0, 0]

        def mean(u, v):
            return np.mean([np.linalg.norm(p - q) for p in u for q in v])

        expected = 1 - (mean(a, a) + mean(b, b)) / (2 * mean(a, b))
        assert measures.energy_coefficient(a, b) == pytest.approx(expected, rel=REL)

    def test_limits(self, rng):
        a = rng.standard_normal((40, 5))
        assert measures.energy_coefficient(a, a) == measures.energy_coefficient(a, a[::-1]) == 0
        assert measures.energy_coefficient(a, a + 1e8) == pytest.approx(1, abs=1e-6)
        assert measures.energy_coefficient(np.ones((3, 2)), np.ones((4, 2))) == 0


GOOD, CLOUD = np.zeros((3, 2, 1)), np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: measures.prediction_error(GOOD[0], GOOD[0]), ValueError, r"target: shape \(T, N, D\) is required"),
        (lambda: measures.prediction_error(GOOD[:2], GOOD), ValueError, r"prediction: shape \(3, 2, 1\) \(that of target\)"),
        (lambda: measures.prediction_error(GOOD[:0], GOOD[:0]), ValueError, "target: at least one value"),
        (lambda: measures.normalized_error(GOOD, GOOD, 0.0), ValueError, "spread: numbers greater than 0"),
        (lambda: measures.normalized_error(GOOD, GOOD, [1, 2]), ValueError, r"spread: shape \(1,\)"),
        (lambda: measures.valid_time(GOOD, GOOD, 1.0, threshold=0), ValueError, "threshold: a number greater than 0"),
        (lambda: measures.valid_time(GOOD, GOOD, 1.0, step=-1), ValueError, "step: a number greater than 0"),
        (lambda: measures.state_space_divergence(CLOUD, CLOUD[:, :1]), ValueError, "run: as many variables as target has, 2"),
        (lambda: measures.state_space_divergence(CLOUD * np.nan, CLOUD), ValueError, "target: .*finite ones"),
        (lambda: measures.state_space_divergence(CLOUD, CLOUD[:0]), ValueError, "run: at least one state"),
        (lambda: measures.state_space_divergence(CLOUD, CLOUD, bins=2**30), ValueError, r"bins: bins\^D of at most"),
        (lambda: measures.state_space_divergence(CLOUD, CLOUD, smoothing=0), ValueError, "smoothing: a number greater than 0"),
        (lambda: measures.spectrum_distance(CLOUD, CLOUD[:3]), ValueError, r"run: shape \(4, 2\)"),
        (lambda: measures.spectrum_distance(CLOUD, CLOUD * np.inf), ValueError, "run: .*finite ones"),
        (lambda: measures.spectrum_distance(CLOUD, CLOUD, sigma=-1), ValueError, "sigma: a number of at least 0"),
        (lambda: measures.energy_coefficient(CLOUD, CLOUD[:, :1]), ValueError, "b: as many variables as a has, 2"),
        (lambda: measures.energy_coefficient(CLOUD, [[np.nan, 0]]), ValueError, "b: .*finite ones"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()

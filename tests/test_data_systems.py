"""Chaotic systems: the solver against SciPy's, the attractor's numbers, the Lyapunov exponent, and what a seed decides."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from tolerances import TOLERANCES

from fastrnn.data import Lorenz63, Lorenz96

SYSTEMS = [Lorenz63(), Lorenz96()]


def lorenz63(t, z):
    return [10 * (z[1] - z[0]), z[0] * (28 - z[2]) - z[1], z[0] * z[1] - 8 / 3 * z[2]]


def lorenz96(t, z):
    D = len(z)
    return [(z[(i + 1) % D] - z[i - 2]) * z[i - 1] - z[i] + 8 for i in range(D)]


def name(system):
    return type(system).__name__


@pytest.mark.parametrize(("system", "derivative"), [*zip(SYSTEMS, (lorenz63, lorenz96))], ids=map(name, SYSTEMS))
def test_a_trajectory_is_scipys(system, derivative):
    states = system.sample(101, seed=3)[:, 0] * system.spread + system.mean
    times = system.dt * np.arange(101)
    exact = solve_ivp(derivative, (0, times[-1]), states[0], method="DOP853", t_eval=times, rtol=1e-12, atol=1e-12).y.T
    error = np.abs(states - exact).max() / np.abs(exact).max()
    assert error < TOLERANCES["runge_kutta"]


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_the_largest_exponent_is_the_known_one(system):
    """Pairs that start 1e-8 apart, brought back to that distance every 20 steps [Benettin et al. 1980]."""
    n, every, rounds, h = 120, 20, 150, system.LONGEST_STEP
    z = system.trajectory(np.array(system.mean)[:, None] + np.random.default_rng(0).standard_normal((system.dimension, n)), 1)[0].T
    near, logs = z + 1e-8 * np.random.default_rng(1).standard_normal(z.shape), []
    for _ in range(rounds):
        distance = np.linalg.norm(near - z, axis=0)
        near = z + (near - z) * (1e-8 / distance)
        for _ in range(every):
            z, near = system.advance(z, h), system.advance(near, h)
        logs.append(np.log(np.linalg.norm(near - z, axis=0) / 1e-8))
    found = np.mean(logs[rounds // 5 :], axis=0) / (every * h)  # past the time until the fastest direction has won
    error = 4 * found.std() / np.sqrt(n)
    assert found.mean() == pytest.approx(system.lyapunov, abs=error + 0.01 * system.lyapunov)
    assert error < 0.08 * system.lyapunov


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_samples_are_standardized_and_on_the_attractor(system):
    x = system.sample(300, n=60)
    assert x.shape == (300, 60, system.dimension) and x.dtype == np.float64
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=0.15)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, atol=0.08)
    # the first sample is as the others: what a random start does before it has come to the attractor is not there
    assert x[0].std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_a_trajectory_depends_on_seed_and_number_alone(system):
    x = system.sample(20, n=3, seed=5)
    np.testing.assert_array_equal(system.sample(9, n=2, seed=5), x[:9, :2])
    assert not np.array_equal(system.sample(20, n=3, seed=6), x)
    assert np.abs(x[:, 0] - x[:, 1]).max() > 0.1


def test_noise_is_added_to_what_is_observed():
    clean, noisy = (Lorenz63().sample(1000, n=2, seed=1, noise=noise) for noise in (0, 0.05))
    difference = noisy - clean
    assert difference.std() == pytest.approx(0.05, rel=0.03) and abs(difference.mean()) < 3e-3
    assert abs(np.corrcoef(difference[1:, 0, 0], difference[:-1, 0, 0])[0, 1]) < 0.1  # white, not carried along
    np.testing.assert_allclose(Lorenz63().sample(1000, n=2, seed=1, noise=0.1) - clean, 2 * difference, rtol=0, atol=1e-13)


def test_samples_of_another_interval_are_of_the_same_trajectory():
    """Once from one step to the next, once over a time that is cut into the same steps."""
    fine, coarse = Lorenz63(0.005).sample(41, seed=2), Lorenz63(0.02).sample(11, seed=2)
    np.testing.assert_array_equal(coarse, fine[::4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Lorenz63(0.0), ValueError, "dt: a number greater than 0"),
        (lambda: Lorenz63("fast"), TypeError, "dt: a real number"),
        (lambda: Lorenz63().sample(0), ValueError, "steps: an integer at least 1"),
        (lambda: Lorenz63().sample(5, n=0), ValueError, "n: an integer at least 1"),
        (lambda: Lorenz63().sample(5, seed=-1), ValueError, "seed: an integer at least 0"),
        (lambda: Lorenz63().sample(5, noise=-0.1), ValueError, "noise: a number of at least 0"),
        (lambda: Lorenz63().trajectory(np.zeros((2, 1)), 5), ValueError, r"start: shape \(3, n\)"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()

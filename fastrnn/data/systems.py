"""Chaotic systems with a known largest Lyapunov exponent, solved by Runge and Kutta's method of fourth order.

The step is fixed and the arithmetic is sums and products alone, so that a seed gives the same bits on every machine.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .. import _check as check


class System(ABC):
    """What every system offers.

    Attributes
    ----------
    dt : float
        Time between two samples, in the system's unit of time.
    dimension : int
        D, the number of variables.
    lyapunov : float
        The largest Lyapunov exponent, per unit of time: a small error grows as exp(lyapunov · t).
    mean, spread : tuple of D floats
        Mean and standard deviation of every variable on the attractor.
    """

    dt: float
    dimension: int
    lyapunov: float
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    LONGEST_STEP = 0.005  # of the solver
    SETTLE = 10.0  # time after which a random start is on the attractor

    def __post_init__(self):
        check.real("dt", self.dt, positive=True)

    @staticmethod
    @abstractmethod
    def derivative(z: np.ndarray) -> np.ndarray:
        """dz/dt for states (D, n)."""

    def sample(self, steps: int, n: int = 1, *, seed: int = 0, noise: float = 0.0) -> np.ndarray:
        """`n` trajectories on the attractor from independent starts, standardized by `mean` and `spread`.

        Parameters
        ----------
        steps : int
            T, the number of samples, `dt` apart.
        n : int
            Trajectories.
        seed : int
            Of starts and noise. Trajectory k is a function of `seed` and k; more of them, or longer ones, leave it as it is.
        noise : float
            Standard deviation of the Gaussian noise on every observation, in units of `spread`: .05 is 5 %.

        Returns
        -------
        ndarray, shape (T, n, D), float64

        Raises
        ------
        TypeError, ValueError
            Naming the argument, what was required and what came.
        """
        steps, n = check.integer("steps", steps, 1), check.integer("n", n, 1)
        seed, noise = check.integer("seed", seed, 0), check.real("noise", noise, 0.0)
        starts, noises = zip(*(np.random.SeedSequence(seed, spawn_key=(k,)).spawn(2) for k in range(n)))
        z = np.stack([np.random.default_rng(own).standard_normal(self.dimension) for own in starts], axis=1)
        mean, spread = np.array(self.mean), np.array(self.spread)
        x = (self.trajectory(mean[:, None] + spread[:, None] * z, steps) - mean) / spread
        if noise:
            x += noise * np.stack([np.random.default_rng(own).standard_normal((steps, self.dimension)) for own in noises], axis=1)
        return x

    def trajectory(self, start, steps: int) -> np.ndarray:
        """(steps, n, D) states, `dt` apart, from what `start` (D, n) has become after the time `SETTLE`; not standardized."""
        z = check.array("start", start, (self.dimension, "n"), np.float64)
        steps = check.integer("steps", steps, 1)
        count = math.ceil(self.dt / self.LONGEST_STEP)
        h = self.dt / count
        for _ in range(math.ceil(self.SETTLE / h)):
            z = self.advance(z, h)
        states = np.empty((steps, z.shape[1], self.dimension))
        states[0] = z.T
        for t in range(1, steps):
            for _ in range(count):
                z = self.advance(z, h)
            states[t] = z.T
        return states

    def advance(self, z: np.ndarray, h: float) -> np.ndarray:
        """States (D, n) a time `h` later, by one step of the solver."""
        k1 = self.derivative(z)
        k2 = self.derivative(z + h / 2 * k1)
        k3 = self.derivative(z + h / 2 * k2)
        k4 = self.derivative(z + h * k3)
        return z + h / 6 * (k1 + 2 * (k2 + k3) + k4)


@dataclass(frozen=True)
class Lorenz63(System):
    """Lorenz' model of convection: dx/dt = 10 (y - x), dy/dt = x (28 - z) - y, dz/dt = x y - 8/3 z.

    Largest Lyapunov exponent .9056 per unit of time.

    Parameters
    ----------
    dt : float

    References
    ----------
    Lorenz 1963, "Deterministic nonperiodic flow", J. Atmos. Sci. 20; the exponent: Sprott 2003, Chaos and Time-Series
    Analysis. dt = .01 and 5 % noise: Hess et al. 2023, "Generalized teacher forcing for learning chaotic dynamics".

    Examples
    --------
    >>> system = Lorenz63()
    >>> system.sample(100, n=4, noise=0.05).shape, system.lyapunov
    ((100, 4, 3), 0.9056)
    """

    dt: float = 0.01

    dimension = 3
    lyapunov = 0.9056
    mean = (0.0, 0.0, 23.55)
    spread = (7.92, 9.01, 8.62)

    @staticmethod
    def derivative(z):
        x, y, w = z
        return np.stack([10.0 * (y - x), x * (28.0 - w) - y, x * y - 8.0 / 3.0 * w])


@dataclass(frozen=True)
class Lorenz96(System):
    """Forty variables on a ring, a model of the weather along a circle of latitude: dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + 8.

    Largest Lyapunov exponent 1.68 per unit of time.

    Parameters
    ----------
    dt : float

    References
    ----------
    Lorenz 1996, "Predictability: a problem partly solved", ECMWF; Lorenz & Emanuel 1998, J. Atmos. Sci. 55. The exponent:
    recalled, 1.67 to 1.69; 1.70 ± .01 with this solver.

    Examples
    --------
    >>> Lorenz96(dt=0.05).sample(10).shape
    (10, 1, 40)
    """

    dt: float = 0.01

    dimension = 40
    lyapunov = 1.68
    mean = (2.34,) * 40
    spread = (3.64,) * 40

    @staticmethod
    def derivative(z):
        ring = np.concatenate([z[-2:], z, z[:1]])
        return (ring[3:] - ring[:-3]) * ring[1:-2] - z + 8.0

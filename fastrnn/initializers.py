"""Initial weights: `initializer(shape, rng, hidden_size=H)` draws a float64 array.

A recurrent layer's weights (G·H, n) hold the G gates one below the other, and every gate is a matrix of its own:
Glorot, Orthogonal, Identity and SpectralRadius work on each (H, n) block by itself. A matrix whose rows are no multiple
of H is one block.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import numpy as np

from . import _check


class Initializer(ABC):
    """A rule for drawing initial weights. One of one's own is a frozen dataclass that defines `_draw`."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator, *, hidden_size: int) -> np.ndarray:
        """Weights of the given shape.

        Parameters
        ----------
        shape : tuple of int
            (G·H, n) for the weights of G gates, (G·H,) for their biases.
        rng : numpy.random.Generator
        hidden_size : int
            H, the number of units.

        Returns
        -------
        weights : ndarray, shape `shape`, float64

        Raises
        ------
        ValueError
            If the shape is none that the rule can fill.
        """
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"rng: a numpy.random.Generator is required; got {rng!r}. Use numpy.random.default_rng(seed)"
            )
        shape = tuple(_check.integer("shape", n, 0) for n in shape)
        return self._draw(shape, rng, _check.integer("hidden_size", hidden_size, 1))

    @abstractmethod
    def _draw(self, shape, rng, hidden_size) -> np.ndarray: ...

    def config(self) -> dict:
        """What `from_config` needs to build this initializer again."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": type(self).__name__} | {
            name: value.config() if isinstance(value, Initializer) else value for name, value in options.items()
        }

    def _settle(self, **options) -> None:
        """Set checked options; the way around `frozen` that dataclasses leave to `__post_init__`."""
        for name, value in options.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform on [-scale, scale); scale 1 / sqrt(hidden_size) by default, as PyTorch's recurrent layers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Uniform
    >>> weights = Uniform()((12, 5), np.random.default_rng(0), hidden_size=4)
    >>> bool(abs(weights).max() < 0.5)
    True
    """

    scale: float | None = None

    def __post_init__(self):
        self._settle(scale=None if self.scale is None else _check.real("scale", self.scale, 0.0))

    def _draw(self, shape, rng, hidden_size):
        scale = 1.0 / math.sqrt(hidden_size) if self.scale is None else self.scale
        return rng.uniform(-scale, scale, shape)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with mean 0 and standard deviation `std`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Normal
    >>> Normal(0.1)((3,), np.random.default_rng(0), hidden_size=3).shape
    (3,)
    """

    std: float

    def __post_init__(self):
        self._settle(std=_check.real("std", self.std, 0.0))

    def _draw(self, shape, rng, hidden_size):
        return self.std * rng.standard_normal(shape)


@dataclass(frozen=True)
class Glorot(Initializer):
    """Uniform on [-a, a) with a = sqrt(6 / (rows + columns)) of a gate's block.

    Glorot & Bengio 2010, equation 16. For matrices only.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Glorot
    >>> weights = Glorot()((8, 20), np.random.default_rng(0), hidden_size=4)
    >>> bool(abs(weights).max() <= 0.5)
    True
    """

    def _draw(self, shape, rng, hidden_size):
        return _by_block(shape, hidden_size, lambda rows, columns: _glorot(rows, columns, rng))


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """Each gate's block `gain` times a random matrix with orthonormal rows or columns, whichever are fewer.

    Saxe, McClelland & Ganguli 2014; uniform over the orthogonal group (Mezzadri 2007: QR of a normal matrix, signs put
    right).

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Orthogonal
    >>> q = Orthogonal()((4, 4), np.random.default_rng(0), hidden_size=4)
    >>> bool(np.allclose(q @ q.T, np.eye(4)))
    True
    """

    gain: float = 1.0

    def __post_init__(self):
        self._settle(gain=_check.real("gain", self.gain))

    def _draw(self, shape, rng, hidden_size):
        return self.gain * _by_block(shape, hidden_size, lambda rows, columns: _orthogonal(rows, columns, rng))


@dataclass(frozen=True)
class Identity(Initializer):
    """Each gate's block `scale` times the identity (zeros outside the diagonal where it is not square).

    Le, Jaitly & Hinton 2015 (the IRNN).

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Identity
    >>> Identity(0.5)((2, 2), np.random.default_rng(0), hidden_size=2)
    array([[0.5, 0. ],
           [0. , 0.5]])
    """

    scale: float = 1.0

    def __post_init__(self):
        self._settle(scale=_check.real("scale", self.scale))

    def _draw(self, shape, rng, hidden_size):
        return self.scale * _by_block(shape, hidden_size, np.eye)


@dataclass(frozen=True)
class Sparse(Initializer):
    """Each row `nonzeros` normal weights at random places (all, where it has no more), and 0 elsewhere.

    Martens 2010; 15 is his number.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Sparse
    >>> weights = Sparse(3)((10, 10), np.random.default_rng(0), hidden_size=10)
    >>> (weights != 0).sum(axis=1).tolist()
    [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """

    nonzeros: int = 15
    std: float = 1.0

    def __post_init__(self):
        self._settle(nonzeros=_check.integer("nonzeros", self.nonzeros, 0), std=_check.real("std", self.std, 0.0))

    def _draw(self, shape, rng, hidden_size):
        rows, columns = _matrix(shape)
        places = rng.permuted(np.tile(np.arange(columns), (rows, 1)), axis=1)[:, : self.nonzeros]
        weights = np.zeros(shape)
        np.put_along_axis(weights, places, self.std * rng.standard_normal(places.shape), axis=1)
        return weights


@dataclass(frozen=True)
class SpectralRadius(Initializer):
    """Draw from `base` (Normal(1.0) by default), then scale each gate's square block to the given spectral radius.

    The spectral radius is the largest modulus of an eigenvalue. Jaeger 2001; Pascanu et al. 2013 start their "smart
    tanh" networks with ``SpectralRadius(0.95, Sparse(15, 0.01))``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import SpectralRadius
    >>> weights = SpectralRadius(0.9)((50, 50), np.random.default_rng(0), hidden_size=50)
    >>> round(float(abs(np.linalg.eigvals(weights)).max()), 12)
    0.9
    """

    radius: float
    base: Initializer | None = None

    def __post_init__(self):
        base = Normal(1.0) if self.base is None else self.base
        if not isinstance(base, Initializer):
            raise TypeError(f"base: an initializer is required; got {base!r}. Use for example Normal(1.0)")
        self._settle(radius=_check.real("radius", self.radius, 0.0), base=base)

    def _draw(self, shape, rng, hidden_size):
        rows, columns = _block(shape, hidden_size)
        if rows != columns or not columns:
            raise ValueError(f"shape: square blocks, (G·H, H), are required; got {shape}, with H = {hidden_size}")
        weights = self.base._draw(shape, rng, hidden_size)
        for block in weights.reshape(-1, rows, columns):
            radius = np.abs(np.linalg.eigvals(block)).max()
            if not radius > 0.0:
                raise ValueError(
                    f"base: a spectral radius greater than 0 is required; {self.base} drew one of {radius}"
                )
            block *= self.radius / radius
        return weights


@dataclass(frozen=True)
class Constant(Initializer):
    """The same number everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.initializers import Constant
    >>> Constant(1.0)((3,), np.random.default_rng(0), hidden_size=3)
    array([1., 1., 1.])
    """

    value: float

    def __post_init__(self):
        self._settle(value=_check.real("value", self.value))

    def _draw(self, shape, rng, hidden_size):
        return np.full(shape, self.value)


REGISTRY = {
    kind.__name__: kind for kind in (Uniform, Normal, Glorot, Orthogonal, Identity, Sparse, SpectralRadius, Constant)
}


def from_config(config: dict) -> Initializer:
    """The initializer that `config` describes, of the kinds in `REGISTRY` and no others."""
    options = {name: from_config(value) if isinstance(value, dict) else value for name, value in dict(config).items()}
    return REGISTRY[_check.choice("initializer", options.pop("kind", None), REGISTRY)](**options)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"shape: a matrix is required; got {shape}. Use Uniform, Normal or Constant for a vector")
    return shape


def _block(shape: tuple[int, ...], hidden_size: int) -> tuple[int, int]:
    """Rows and columns of one gate's block."""
    rows, columns = _matrix(shape)
    return (hidden_size if rows and rows % hidden_size == 0 else rows), columns


def _by_block(shape: tuple[int, ...], hidden_size: int, draw) -> np.ndarray:
    """`draw(rows, columns)` for every gate's block, in order."""
    rows, columns = _block(shape, hidden_size)
    return np.concatenate([draw(rows, columns) for _ in range(shape[0] // rows)]) if rows else np.zeros(shape)


def _glorot(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    limit = math.sqrt(6.0 / (rows + columns))
    return rng.uniform(-limit, limit, (rows, columns))


def _orthogonal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0.0, -1.0, 1.0)
    return q if rows >= columns else q.T

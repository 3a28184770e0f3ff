"""Layers without memory: linear maps, embeddings, dropout. They act on the last axis, at every step alike."""

import numpy as np

from .. import _check, _memory, _threads
from .._math import ACTIVATIONS
from .._params import Params
from ..initializers import Uniform
from ..kernels.cpu.affine import BLOCK, AffineScratch, affine, affine_backward, embed_backward
from ..kernels.cpu.packing import add_transposed, pack_columns, pack_rows
from ..kernels.cpu.product import WIDE, lanes, padded
from ..kernels.cpu.units import activate, activate_backward
from ._direction import over_members
from .recurrent import dropout_mask

ITEMS = 16  # pieces at most into which rows are cut


class Linear:
    """y = f(W x + b) on the last axis.

    Parameters
    ----------
    input_size, output_size : int
    activation : str
        The name of an activation f; "identity" by default.
    dtype : {"float32", "float64"}
    seed : int
        Weights and biases are drawn uniformly from ±1/√input_size, as in PyTorch.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> y, tape = fr.Linear(3, 2).forward(np.ones((4, 5, 3)))
    >>> y.shape
    (4, 5, 2)
    """

    def __init__(self, input_size: int, output_size: int, *, activation: str = "identity", dtype: str = "float32", seed: int = 0):
        self.input_size = _check.integer("input_size", input_size, minimum=1)
        self.output_size = _check.integer("output_size", output_size, minimum=1)
        self.activation = _check.choice("activation", activation, ACTIVATIONS)
        self.dtype, self.seed = _check.dtype(dtype), _check.integer("seed", seed, minimum=0)
        self.params = Params({"weight": (output_size, input_size), "bias": (output_size,)}, self.dtype)
        rng = np.random.default_rng(seed)
        for name, shape in self.params.shapes.items():
            self.params[name] = Uniform()(shape, rng, hidden_size=input_size)

    def config(self) -> dict:
        names = ("input_size", "output_size", "activation", "seed")
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def _shared(self, N: int, products: int):
        """(team, items, rows of an item, working memory): the items are a function of N alone."""
        Op, Dp = padded(self.output_size, self.dtype), padded(self.input_size, self.dtype)
        team, size = _threads.team(2.0 * products * N * self.input_size * self.output_size), max(2 * BLOCK, -(-N // ITEMS))
        threads, panel = _threads.size(team), max(BLOCK * WIDE * lanes(self.dtype), Op)
        rows = _memory.aligned((threads, BLOCK + 1, max(Op, Dp)), self.dtype)
        return team, -(-N // size), size, AffineScratch(rows, _memory.aligned((threads, padded(panel, self.dtype)), self.dtype))

    def forward(self, x, *, rng=None):
        """(y, tape) for x (..., input_size)."""
        x = _check.array("x", x, (*_any(_ndim(x) - 1), self.input_size), self.dtype)
        N, O, Op = x[..., 0].size, self.output_size, padded(self.output_size, self.dtype)
        weight, bias = _memory.aligned((1, self.input_size * Op), self.dtype), np.zeros(Op, self.dtype)
        y = _memory.empty((N, O), self.dtype)
        over_members(pack_columns, weight, *self.params.at("weight"), self.input_size, np.arange(O), weight)
        bias[:O] = self.params["bias"]
        team, items, size, scratch = self._shared(N, 1)
        affine(team, items, size, x.reshape(N, self.input_size), weight[0], bias, y, scratch)
        if self.activation != "identity":
            activate(self.activation)(y.reshape(-1))
        y = y.reshape(*x.shape[:-1], O)
        return y, (x, y)

    def backward(self, tape, dy):
        """(dx, grads) from dL/dy."""
        x, y = tape
        dy = _check.array("dy", dy, y.shape, self.dtype)
        N, D, O, Op = y[..., 0].size, self.input_size, self.output_size, padded(self.output_size, self.dtype)
        if self.activation != "identity":
            dy = dy.copy()
            activate_backward(self.activation)(y.reshape(-1), dy.reshape(-1))
        weight, dx = _memory.aligned((1, O * padded(D, self.dtype)), self.dtype), _memory.empty((N, D), self.dtype)
        over_members(pack_rows, weight, *self.params.at("weight"), D, np.arange(O), weight)
        team, items, size, scratch = self._shared(N, 2)
        dweight, dbias = np.zeros((items, D * Op), self.dtype), np.zeros((items, Op), self.dtype)
        affine_backward(team, items, size, x.reshape(N, D), weight[0], dy.reshape(N, O), dx, dweight, dbias, scratch)
        grads = self.params.like()
        if items:
            over_members(add_transposed, dweight.reshape(1, -1), dweight, items, np.arange(O), D, *grads.at("weight"))
            grads["bias"] += dbias.sum(axis=0)[:O]
        return dx.reshape(x.shape), grads


class Embedding:
    """A learned vector for every symbol: integers (...,) to (..., dimension); with `group` = n, (..., n) to (..., n · dimension).

    Parameters
    ----------
    num_symbols, dimension : int
    group : int, optional
        The last axis of the input holds so many symbols, whose vectors are put side by side.
    dtype : {"float32", "float64"}
    seed : int
        Vectors are drawn from a standard normal distribution, as in PyTorch.

    Examples
    --------
    >>> import fastrnn as fr
    >>> y, tape = fr.Embedding(5, 3).forward([[0, 4, 1]])
    >>> y.shape
    (1, 3, 3)
    """

    def __init__(self, num_symbols: int, dimension: int, *, group: int | None = None, dtype: str = "float32", seed: int = 0):
        self.num_symbols = _check.integer("num_symbols", num_symbols, minimum=1)
        self.dimension = _check.integer("dimension", dimension, minimum=1)
        self.group = None if group is None else _check.integer("group", group, minimum=1)
        self.dtype, self.seed = _check.dtype(dtype), _check.integer("seed", seed, minimum=0)
        self.params = Params({"weight": (num_symbols, dimension)}, self.dtype)
        self.params["weight"] = np.random.default_rng(seed).standard_normal((num_symbols, dimension))

    @property
    def output_size(self) -> int:
        return self.dimension * (self.group or 1)

    def config(self) -> dict:
        names = ("num_symbols", "dimension", "group", "seed")
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def forward(self, x, *, rng=None):
        """(y, tape) for integers x in [0, num_symbols)."""
        shape = _any(_ndim(x) - 1) + (self.group,) if self.group else _any(_ndim(x))
        tokens = _check.integers("x", x, shape, 0, self.num_symbols - 1, meaning="(symbols)")
        y = self.params["weight"][tokens]
        return (y.reshape(*tokens.shape[:-1], self.output_size) if self.group else y), tokens

    def backward(self, tape, dy):
        """(None, grads) from dL/dy: integers have no gradient."""
        grads = self.params.like()
        dy = _check.array("dy", dy, (*(tape.shape[:-1] if self.group else tape.shape), self.output_size), self.dtype)
        embed_backward(tape.reshape(-1), dy.reshape(tape.size, self.dimension), grads["weight"])
        return None, grads


class Dropout:
    """Zero a fraction of the entries, scale the others by 1 / (1 - rate); nothing where forward is given no `rng`.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> y, tape = fr.Dropout(0.5).forward(np.ones((2, 3)), rng=np.random.default_rng(0))
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    """

    def __init__(self, rate: float):
        self.rate, self.params = _check.fraction("rate", rate), Params({}, "float32")

    def config(self) -> dict:
        return {"rate": self.rate}

    def forward(self, x, *, rng=None):
        """(y, tape) for x of any shape."""
        if rng is None or self.rate == 0.0:
            return x, None
        given = getattr(x, "dtype", None)
        x = _check.array("x", x, _any(_ndim(x)), given if given in _check.FLOATS else "float64")
        mask = dropout_mask(rng, x.shape, self.rate, x.dtype)
        return x * mask, mask

    def backward(self, tape, dy):
        """(dx, no gradients) from dL/dy."""
        return (dy if tape is None else _check.array("dy", dy, tape.shape, tape.dtype) * tape), Params({}, "float32")


def _ndim(x) -> int:
    """Axes of an array_like; 1 where it has none in common, which the check that follows words."""
    try:
        return np.ndim(x)
    except ValueError:
        return 1


def _any(n: int) -> tuple[str, ...]:
    """n axes of any size, for `_check`."""
    return ("...",) * n

"""Layers without memory: linear maps, embeddings, dropout. They act on the last axis, at every step alike."""

import numpy as np

from .. import _check, _device, _memory, _threads
from .._math import ACTIVATIONS
from .._params import Params
from ..initializers import Uniform
from ..kernels.cpu.affine import BLOCK, AffineScratch, affine, affine_backward, embed, embed_backward
from ..kernels.cpu.packing import add_transposed, pack_columns, pack_rows
from ..kernels.cpu.product import WIDE, lanes, padded
from ..kernels.cpu.units import activate, activate_backward
from ._direction import MOVED_WORK, over_members
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
    device : {"cpu", "cuda"}
    precision : {"exact", "split", "tf32", "bf16"}
        See `Recurrent`.
    seed : int
        Weights and biases are drawn uniformly from ±1/√input_size, as in PyTorch.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> y, tape = fr.Linear(3, 2).forward(np.ones((4, 5, 3)))
    >>> y.shape
    (4, 5, 2)
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        activation: str = "identity",
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "exact",
        seed: int = 0,
    ):
        self.input_size = _check.integer("input_size", input_size, minimum=1)
        self.output_size = _check.integer("output_size", output_size, minimum=1)
        self.activation = _check.choice("activation", activation, ACTIVATIONS)
        self.dtype, self.seed = _check.dtype(dtype), _check.integer("seed", seed, minimum=0)
        self.device = _device.device(device, precision, self.dtype)
        shapes = {"weight": (self.output_size, self.input_size), "bias": (self.output_size,)}
        self.params = Params(shapes, self.dtype, self.device.put(Params(shapes, self.dtype).flat))
        self._rows, self.made = np.arange(output_size), _device.Made(self.device)
        self.draw(self.seed)

    def draw(self, seed: int) -> None:
        """Draw every weight anew, as a layer built with this seed has them."""
        self.seed, rng = seed, np.random.default_rng(seed)
        for name, shape in self.params.shapes.items():
            self.params[name] = self.device.put(Uniform()(shape, rng, hidden_size=self.input_size))

    def config(self) -> dict:
        names = ("input_size", "output_size", "activation", "seed")
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def _items(self, N: int) -> tuple[int, int]:
        """(rows of an item, how many items) of one member: a function of N alone."""
        size = max(2 * BLOCK, -(-N // ITEMS))
        return size, -(-N // size)

    def _shared(self, rows: int) -> tuple[np.ndarray, AffineScratch]:
        """(team, working memory of its threads) for so many rows."""
        Op, Dp = padded(self.output_size, self.dtype), padded(self.input_size, self.dtype)
        team = _threads.team(2.0 * rows * self.input_size * Op)
        threads, panel = _threads.size(team), max(BLOCK * WIDE * lanes(self.dtype), Op)
        room = (threads, BLOCK + 1, max(Op, Dp)), (threads, padded(panel, self.dtype))
        return team, AffineScratch(*(_memory.aligned(shape, self.dtype) for shape in room))

    def forward(self, x, *, rng=None):
        """(y, tape) for x (..., input_size)."""
        x = self.device.array("x", x, (*_any(_ndim(x) - 1), self.input_size), self.dtype)
        y = self.run(self.params, x.reshape(1, -1, self.input_size)).reshape(*x.shape[:-1], self.output_size)
        return y, (x, y)

    def backward(self, tape, dy):
        """(dx, grads) from dL/dy."""
        (x, y), grads = tape, self.params.like()
        dy = self.device.array("dy", dy, y.shape, self.dtype)
        rows = [array.reshape(1, -1, array.shape[-1]) for array in (x, y, dy)]
        return self.run_back(self.params, *rows, grads).reshape(x.shape), grads

    def run(self, params, x) -> np.ndarray:
        """y (E, N, O) of x (E or 1, N, D), for E models whose parameters are in `params`."""
        if self.device.name != "cpu":
            return _elsewhere().linear(self, params, x)
        (flat, start), D, O = params.at("weight"), self.input_size, self.output_size
        E, (size, items), Op = len(flat), self._items(x.shape[1]), padded(O, self.dtype)
        weight, bias = _memory.aligned((E, D * Op), self.dtype), np.zeros((E, Op), self.dtype)
        over_members(pack_columns, weight, flat, start, D, self._rows, weight)
        bias[:, :O] = params.at("bias").part(slice(0, O))
        y = _memory.empty((E, x.shape[1], O), self.dtype)
        team, scratch = self._shared(y.shape[0] * y.shape[1])
        affine(team, E * items, size, x, weight, bias, y, scratch)
        if self.activation != "identity":
            activate(self.activation)(y.reshape(-1))
        return y

    def run_back(self, params, x, y, dy, grads) -> np.ndarray:
        """dx (E, N, D) from dL/dy (E, N, O) of `run`; adds to `grads`."""
        if self.device.name != "cpu":
            return _elsewhere().linear_backward(self, params, x, y, dy, grads)
        (flat, start), (E, N, O), D = params.at("weight"), y.shape, self.input_size
        if self.activation != "identity":
            dy = dy.copy()
            activate_backward(self.activation)(y.reshape(-1), dy.reshape(-1))
        (size, items), Op, Dp = self._items(N), padded(O, self.dtype), padded(D, self.dtype)
        weight, dx = _memory.aligned((E, O * Dp), self.dtype), _memory.empty((E, N, D), self.dtype)
        over_members(pack_rows, weight, flat, start, D, self._rows, weight)
        dweight, dbias = np.zeros((E * items, D * Op), self.dtype), np.zeros((E * items, Op), self.dtype)
        team, scratch = self._shared(2 * E * N)
        affine_backward(team, E * items, size, x, weight, dy, dx, dweight, dbias, scratch)
        over_members(add_transposed, dweight.reshape(E, -1), dweight, items, self._rows, D, *grads.at("weight"))
        total = dbias if items == 1 else dbias.reshape(E, items, Op).sum(axis=1)
        grads.at("bias").part(slice(0, O))[...] += total[:, :O]
        return dx


class Embedding:
    """A learned vector for every symbol: integers (...,) to (..., dimension); with `group` = n, (..., n) to (..., n · dimension).

    Parameters
    ----------
    num_symbols, dimension : int
    group : int, optional
        The last axis of the input holds so many symbols, whose vectors are put side by side.
    dtype : {"float32", "float64"}
    device : {"cpu", "cuda"}
    seed : int
        Vectors are drawn from a standard normal distribution, as in PyTorch.

    Examples
    --------
    >>> import fastrnn as fr
    >>> y, tape = fr.Embedding(5, 3).forward([[0, 4, 1]])
    >>> y.shape
    (1, 3, 3)
    """

    def __init__(
        self, num_symbols: int, dimension: int, *, group: int | None = None, dtype: str = "float32", device: str = "cpu", seed: int = 0
    ):
        self.num_symbols = _check.integer("num_symbols", num_symbols, minimum=1)
        self.dimension = _check.integer("dimension", dimension, minimum=1)
        self.group = None if group is None else _check.integer("group", group, minimum=1)
        self.dtype, self.seed = _check.dtype(dtype), _check.integer("seed", seed, minimum=0)
        self.device = _device.device(device)
        shapes = {"weight": (self.num_symbols, self.dimension)}
        self.params = Params(shapes, self.dtype, self.device.put(Params(shapes, self.dtype).flat))
        self.draw(self.seed)

    def draw(self, seed: int) -> None:
        """Draw every vector anew, as a layer built with this seed has them."""
        self.seed = seed
        drawn = np.random.default_rng(seed).standard_normal((self.num_symbols, self.dimension))
        self.params["weight"] = self.device.put(drawn)

    @property
    def output_size(self) -> int:
        return self.dimension * (self.group or 1)

    def config(self) -> dict:
        names = ("num_symbols", "dimension", "group", "seed")
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def forward(self, x, *, rng=None):
        """(y, tape) for integers x in [0, num_symbols)."""
        x = _device.host(x)
        shape = _any(_ndim(x) - 1) + (self.group,) if self.group else _any(_ndim(x))
        tokens = _check.integers("x", x, shape, 0, self.num_symbols - 1, meaning="(symbols)")
        tokens = self.device.put(tokens)
        return self.run(self.params, tokens.reshape(1, -1)).reshape(self._shape(tokens)), tokens

    def backward(self, tape, dy):
        """(None, grads) from dL/dy: integers have no gradient."""
        grads = self.params.like()
        dy = self.device.array("dy", dy, self._shape(tape), self.dtype)
        self.run_back(tape.reshape(1, -1), dy.reshape(1, tape.size, self.dimension), grads)
        return None, grads

    def _shape(self, tokens) -> tuple[int, ...]:
        """The shape of the output for `tokens`."""
        return (*(tokens.shape[:-1] if self.group else tokens.shape), self.output_size)

    def run(self, params, tokens) -> np.ndarray:
        """y (E, N, dimension) of tokens (E or 1, N), for E models whose tables are in `params`."""
        if self.device.name != "cpu":
            return _elsewhere().embed(self, params, tokens)
        flat, start = params.at("weight")
        y = _memory.empty((len(flat), tokens.shape[1], self.dimension), self.dtype)
        embed(_threads.team(MOVED_WORK * y.size), len(flat), tokens, flat, start, y)
        return y

    def run_back(self, tokens, dy, grads) -> None:
        """Add to `grads`, from dL/dy (E, N, dimension)."""
        if self.device.name != "cpu":
            return _elsewhere().embed_backward(self, tokens, dy, grads)
        embed_backward(_threads.team(MOVED_WORK * dy.size), len(dy), tokens, dy, *grads.at("weight"))


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

    def draw(self, seed: int) -> None:
        """Nothing: there are no weights."""

    def config(self) -> dict:
        return {"rate": self.rate}

    def forward(self, x, *, rng=None):
        """(y, tape) for x of any shape."""
        if rng is None or self.rate == 0.0:
            return x, None
        given, device = getattr(x, "dtype", None), _device.of(x)
        x = device.array("x", x, _any(_ndim(x)), given if given in _check.FLOATS else "float64")
        mask = device.put(dropout_mask(rng, x.shape, self.rate, x.dtype))
        return x * mask, mask

    def backward(self, tape, dy):
        """(dx, no gradients) from dL/dy."""
        return (dy if tape is None else _device.of(tape).array("dy", dy, tape.shape, tape.dtype) * tape), Params({}, "float32")


def _elsewhere():
    """What computes on a GPU; imported only where it is wanted."""
    from . import _cuda_flat

    return _cuda_flat


def _ndim(x) -> int:
    """Axes of an array_like; 1 where it has none in common, which the check that follows words."""
    try:
        return np.ndim(x)
    except ValueError:
        return 1


def _any(n: int) -> tuple[str, ...]:
    """n axes of any size, for `_check`."""
    return ("...",) * n

"""Recurrent networks over a grid: a pixel sees the pixels above and to the left of it, from one corner or from all four."""

import numpy as np

from .. import _check, _memory
from .._params import At, Params
from ..cells2d import Cell2D, build
from ..initializers import Initializer, Uniform
from ..kernels.cpu.grid import Flow, Images
from ._corner import Corner, Kept, Shown
from ._direction import dealt
from ._network import Network
from .recurrent import Gradients

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


class Tape2D:
    """What forward keeps for backward, and what of it can be looked at.

    Attributes
    ----------
    h, c : ndarray, shape (corners, R, C, B, H)
        The states at every pixel, zero beyond an image's size.
    """

    def __init__(self, network: "Recurrent2D", images: Images, kept: list[Kept]):
        self.network, self.images, self.kept = network, images, kept

    @property
    def h(self) -> np.ndarray:
        return np.stack([kept.y[..., kept.column : kept.column + self.network.hidden_size] for kept in self.kept])

    @property
    def c(self) -> np.ndarray:
        return self.gate("c")

    def gate(self, name: str) -> np.ndarray:
        """A state, or a quantity that the cell saves, by name: (corners, R, C, B, H), zero beyond the sizes."""
        cell = self.network.cell
        _check.choice("name", name, cell.states + cell.saved)
        if name == cell.states[0]:
            return self.h
        if name in cell.states:
            return np.stack([kept.others[..., cell.states.index(name) - 1, :] for kept in self.kept])
        return np.stack([kept.saved[..., cell.saved.index(name), :] for kept in self.kept])

    def preactivation(self, name: str) -> np.ndarray:
        """The sum that enters a slot's nonlinearity, biases included: (corners, R, C, B, H). Needs ``details=True``."""
        slots = tuple(slot.name for slot in self.network.cell.slots)
        _check.choice("name", name, slots)
        if self.kept[0].preactivations.shape[0] == 0:
            raise ValueError("tape: pre-activations were not kept; call forward(..., details=True)")
        return np.stack([kept.preactivations[..., slots.index(name), :] for kept in self.kept])


class Recurrent2D:
    """A recurrent layer over images [Graves, Fernandez & Schmidhuber 2007].

    h[i, j] = cell(W x[i, j] + U_up h[i-1, j] + U_left h[i, j-1] + b), and what the cell takes of the neighbours' states beside h.
    From another corner the image is seen flipped, and `up` and `left` are what lies nearer to that corner.

    Parameters
    ----------
    cell : Cell2D or {"rnn", "lstm", "gru"}
        A built-in cell's name, or a `Cell2D` of your own.
    input_size, hidden_size : int
    cell_options : dict, optional
        What a built-in cell is given, such as ``{"activation": "relu"}``.
    corner : {"top_left", "top_right", "bottom_left", "bottom_right", "all"}
        Where the run begins; "all" runs four times, with weights of their own, so that every output has seen the whole image.
    merge : {"concat", "sum"}
        Of the outputs of the four corners.
    dtype : {"float32", "float64"}
    initializers : dict of str to Initializer, optional
        By parameter name without suffix: ``weight_ih`` (G·H, D), ``weight_up``, ``weight_left`` (G·H, H), ``bias_ih``, ``bias_hh``
        (G·H,); uniform from ±1/√H otherwise. In `params` a suffix names the corner: ``weight_up_tl``, ``weight_up_br``, ...
    seed : int

    Notes
    -----
    Images are space first, as sequences are time first: x (R, C, B, D) for R rows, C columns, B images, D channels, so that x[i] is a
    batch of sequences. An image of one row is a sequence: y, state and gradients have the bits of the one-dimensional network with
    the same weights (``weight_left`` is its ``weight_hh``). One exception: parameter gradients are sums over blocks, which long images
    of many units may cut elsewhere; they then agree to rounding.

    The first call compiles the cell's kernels (some seconds; kept on disk; ``fastrnn warmup`` does it ahead of time).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> net = fr.Recurrent2D("lstm", 1, 5, corner="all")
    >>> y, (h, c) = net(np.zeros((8, 6, 2, 1)), sizes=[[8, 6], [3, 4]])
    >>> y.shape, h.shape
    ((8, 6, 2, 20), (4, 2, 5))
    """

    def __init__(
        self,
        cell: Cell2D | str,
        input_size: int,
        hidden_size: int,
        *,
        cell_options: dict | None = None,
        corner: str = "top_left",
        merge: str = "concat",
        dtype: str = "float32",
        initializers: dict[str, Initializer] | None = None,
        seed: int = 0,
    ):
        self.cell_options = dict(cell_options or {})
        self.cell = build(cell, **self.cell_options) if isinstance(cell, str) else cell
        if not isinstance(self.cell, Cell2D):
            raise TypeError(f"cell: the name of a cell or a fastrnn.Cell2D is required; got {type(cell).__name__}")
        self.input_size = _check.integer("input_size", input_size, minimum=1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, minimum=1)
        self.corner = _check.choice("corner", corner, (*CORNERS, "all"))
        self.merge = _check.choice("merge", merge, ("concat", "sum"))
        self.dtype = _check.dtype(dtype)
        self.seed = _check.integer("seed", seed, minimum=0)
        begin = CORNERS if corner == "all" else (corner,)
        self._corners = [Corner(self.cell, input_size, hidden_size, name.startswith("bottom"), name.endswith("right")) for name in begin]
        self._suffixes = ["_" + "".join(word[0] for word in name.split("_")) for name in begin]
        self._concat = merge == "concat" or len(begin) == 1
        self._draw(initializers or {})

    def _draw(self, initializers: dict) -> None:
        """Make `params` and fill them."""
        shapes = self._corners[0].shapes()
        for name in initializers:
            if name not in shapes:
                raise ValueError(f"initializers: keys from {sorted(shapes)} are required; got {name!r}")
        names = {name + suffix: shape for suffix in self._suffixes for name, shape in shapes.items()}
        self.params, rng, uniform = Params(names, self.dtype), np.random.default_rng(self.seed), Uniform()
        for suffix in self._suffixes:
            for name, shape in shapes.items():
                self.params[name + suffix] = initializers.get(name, uniform)(shape, rng, hidden_size=self.hidden_size)

    @property
    def output_size(self) -> int:
        return self.hidden_size * (len(self._corners) if self._concat else 1)

    def config(self) -> dict:
        """What builds this network again, but for its weights."""
        names = ("input_size", "hidden_size", "cell_options", "corner", "merge", "seed")
        return {"cell": self.cell.name} | {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    state_dict, load_state_dict, device = Network.state_dict, Network.load_state_dict, Network.device

    def __call__(self, x, *, sizes=None):
        """Forward only, nothing kept: (y, state), as `forward` returns them."""
        return self._run(x, sizes, False, False)[:2]

    def forward(self, x, *, sizes=None, details=False):
        """Run the network and keep what backward needs.

        Parameters
        ----------
        x : array_like, shape (R, C, B, D)
            Not copied where it is contiguous and of the network's dtype: leave it unchanged until backward.
        sizes : array_like of int, shape (B, 2), optional
            Rows and columns of each image, at least 1; it lies at the top left of x. What x holds beyond reaches nothing.
        details : bool
            Keep every pre-activation too.

        Returns
        -------
        y : ndarray, shape (R, C, B, output_size), read-only
            Zero beyond the sizes.
        state : ndarray or tuple of ndarray, shape (corners, B, H)
            The state where each run ends: in the corner opposite to its own.
        tape : Tape2D
        """
        y, state, images, kept = self._run(x, sizes, True, bool(details))
        y = y.view()  # what is kept stays writeable: for Numba a read-only array is another type
        y.flags.writeable = False
        return y, state, Tape2D(self, images, kept)

    def _run(self, x, sizes, record: bool, details: bool):
        """(y, state, images, what every corner kept)."""
        images = self._images(x, sizes)
        x, (R, C, B, _), H, cell = images.x, images.x.shape, self.hidden_size, self.cell
        S, K, G, dtype = len(cell.states), len(cell.saved), len(cell.slots), self.dtype
        shared = _memory.zeros((R, C, B, self.output_size), dtype) if self._concat else None
        kept, states = [], []
        for n, (corner, suffix) in enumerate(zip(self._corners, self._suffixes)):
            y = shared if self._concat else _memory.zeros((R, C, B, H), dtype)
            others, saved, slots = (
                _memory.zeros((R * wanted, C, B, count, H), dtype) for wanted, count in ((record, S - 1), (record, K), (details, G))
            )
            kept.append(Kept(y, n * H * self._concat, others, saved, slots))
            states.append(np.zeros((B, R, S, H), dtype))
            corner.forward(corner.pack(self._named(self.params, suffix), False), images, kept[n], states[n])
        last = images.sizes[:, 0] - 1
        y = shared if self._concat else kept[0].y + kept[1].y + kept[2].y + kept[3].y
        return y, self._state_out([state[np.arange(B), last] for state in states]), images, kept

    def backward(self, tape: Tape2D, dy=None, dstate=None, *, details=False) -> Gradients:
        """Gradients of a scalar L from dL/dy and dL/dstate (each 0 where not given).

        Parameters
        ----------
        tape : Tape2D
        dy : array_like, shape of y, optional
        dstate : array_like or tuple, shape of the state, optional
        details : bool
            Return dL/dh, dL/dc and dL/da of every pixel too: `Gradients.h`, `c` and `preactivations`, (corners, R, C, B, H) each, with
            the states at a pixel as independent coordinates.

        Returns
        -------
        Gradients
            Its `state` is None: a run begins with nothing.
        """
        images, dtype, grads = tape.images, self.dtype, self.params.like()
        (R, C, B, _), H, S, G = images.x.shape, self.hidden_size, len(self.cell.states), len(self.cell.slots)
        dy = np.empty((0, C, B, 0), dtype) if dy is None else _check.array("dy", dy, (R, C, B, self.output_size), dtype)
        dstates, last = self._states_in(dstate, B), images.sizes[:, 0] - 1
        dx, sums, shown = [], [], []
        for corner, suffix, kept, ending in zip(self._corners, self._suffixes, tape.kept, dstates):
            dx.append(_memory.zeros(images.x.shape, dtype))
            sums.append(corner.sums(corner.grid(R, C, B, dtype).slices, dtype))
            shown.append(Shown(*(np.zeros((R * bool(details), C, B, count, H), dtype) for count in (S, G))))
            running = np.zeros((B, R, S, H), dtype)
            running[np.arange(B), last] = ending
            weights, flow = corner.pack(self._named(self.params, suffix), True), Flow(dy, dx[-1], *shown[-1])
            corner.backward(weights, images, kept, sums[-1], flow, running)
        for corner, suffix, found in zip(self._corners, self._suffixes, sums):
            corner.add_gradients(found, self._named(grads, suffix))
        total = dx[0]
        for part in dx[1:]:
            total += part
        if not details:
            return Gradients(total, None, grads)
        states = [np.stack([s.dstates[..., i, :] for s in shown]) for i in range(S)]
        slots = {slot.name: np.stack([s.dpreactivations[..., g, :] for s in shown]) for g, slot in enumerate(self.cell.slots)}
        return Gradients(total, None, grads, None, states[0], states[1] if S > 1 else None, slots)

    def final_output(self, state) -> np.ndarray:
        """The outputs where the runs end, merged: (B, output_size), from the state."""
        h = state[0] if isinstance(state, tuple) else state
        return np.concatenate(list(h), axis=1) if self._concat else h[0] + h[1] + h[2] + h[3]

    def final_output_backward(self, state, dy):
        """dL/dstate from the gradient of `final_output`."""
        parts = state if isinstance(state, tuple) else (state,)
        result = tuple(np.zeros_like(part) for part in parts)
        for n, dh in enumerate(result[0]):
            dh[:] = dy[:, n * self.hidden_size : (n + 1) * self.hidden_size] if self._concat else dy
        return result if len(parts) > 1 else result[0]

    # Between the arrays of the caller and those of the corners

    def _named(self, params: Params, suffix: str) -> dict[str, At]:
        """Where the arrays of one corner lie, by name without suffix."""
        return {name: params.at(name + suffix) for name in self._corners[0].shapes()}

    def _images(self, x, sizes) -> Images:
        x = _check.array("x", x, ("R", "C", "B", self.input_size), self.dtype, meaning="(rows, columns, images, channels)")
        if 0 in x.shape[:2]:
            raise ValueError(f"x: at least one row and one column are required; got shape {x.shape}")
        sizes = _check.sizes(sizes, *x.shape[:3])
        diagonals = sizes.sum(axis=1)
        order = np.argsort(-diagonals, kind="stable")
        if (diagonals != diagonals[:1]).any():
            order = order[dealt(x.shape[2], self._corners[0].grid(*x.shape[:3], x.dtype).rows)]
        return Images(x, order, sizes)

    def _states_in(self, dstate, B: int) -> list[np.ndarray]:
        """dL/d(final state) of every corner, (B, S, H)."""
        count, S, H = len(self._corners), len(self.cell.states), self.hidden_size
        if dstate is None:
            return [np.zeros((B, S, H), self.dtype)] * count
        parts = dstate if isinstance(dstate, (tuple, list)) else (dstate,)
        if len(parts) != S:
            raise ValueError(f"dstate: {S} array{'s' * (S > 1)} ({', '.join(self.cell.states)}) required for this cell; got {len(parts)}")
        parts = [_check.array(f"dstate {k}", part, (count, B, H), self.dtype) for k, part in zip(self.cell.states, parts)]
        return list(np.stack(parts, axis=2))

    def _state_out(self, states: list[np.ndarray]):
        """(corners, B, H): one array, or a tuple where the cell has more than one state."""
        parts = tuple(np.stack([state[:, i] for state in states]) for i in range(len(self.cell.states)))
        return parts if len(parts) > 1 else parts[0]

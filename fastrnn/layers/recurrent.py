"""Stacks of recurrent layers: any cell, either direction or both, lengths, states, everything visible."""

from typing import NamedTuple

import numpy as np

from .. import _check, _device
from .._params import At, Params
from ..cells import Cell, build
from ..initializers import Initializer, Uniform
from ._layer import Layer, Rows
from ._merge import MERGES, merged, merged_backward
from ._network import Network


class Gradients(NamedTuple):
    """What backward returns. The last five only on request (`details=True`), by time, one entry a (layer, direction).

    Attributes
    ----------
    x : ndarray, shape (T, B, D), or None
    state : ndarray or tuple of ndarray, shape (layers * directions, B, H)
    params : Params
    clipped : Clipped or None
        What the clip inside the recursion cut off.
    h, c : ndarray, shape (layers * directions, T, B, H), or None
        dL/dh_t and dL/dc_t with h_t and c_t as independent coordinates of the state: what `state` would be, were the sequence cut
        after step t. c is None where the cell has no second state.
    preactivations : dict of str to ndarray
        dL/da_t of every slot.
    """

    x: np.ndarray
    state: object
    params: Params
    clipped: "Clipped | None" = None
    h: np.ndarray | None = None
    c: np.ndarray | None = None
    preactivations: dict | None = None


class Clipped(NamedTuple):
    """What clipping inside the recursion did.

    Attributes
    ----------
    entries : int
        How many were clipped.
    cut, total : float
        What was cut off, and the sum of all magnitudes before.
    """

    entries: int
    cut: float
    total: float

    @property
    def fraction(self) -> float:
        """Which part of the sum of magnitudes was cut off."""
        return self.cut / self.total if self.total else 0.0

    @classmethod
    def of(cls, cut) -> "Clipped":
        """From the kernels' count: entries, magnitude cut off, magnitude before."""
        return cls(int(cut[0]), float(cut[1]), float(cut[2]))


class Masks(NamedTuple):
    """Dropout of one run: `recurrent`, (E, B, H) or None, one a (layer, direction); `between`, (E, T, B, D) or None, one a layer."""

    recurrent: list
    between: list

    @classmethod
    def none(cls, network: "Recurrent") -> "Masks":
        return cls([None] * len(network._directions), [None] * network.num_layers)


class Tape:
    """What forward keeps for backward, and what of it can be looked at.

    Attributes
    ----------
    h, c : ndarray, shape (layers * directions, T, B, H)
        The states after every step, by time, zero beyond a sequence's length.
    """

    def __init__(self, network: "Recurrent", rows: Rows, T: int, learned: bool):
        self.network, self.rows, self.T, self.learned = network, rows, T, learned
        self.layers: list[list] = []  # one list of `Kept` a layer
        self.between: list = []  # the dropout mask on each layer's input, or None

    @property
    def h(self) -> np.ndarray:
        H = self.network.hidden_size
        return self.network.device.xp.stack([kept.y[0, :, :, kept.column : kept.column + H] for layer in self.layers for kept in layer])

    @property
    def c(self) -> np.ndarray:
        return self.gate("c")

    def gate(self, name: str) -> np.ndarray:
        """A state, or a quantity that the cell saves, by name: (layers * directions, T, B, H), zero beyond the lengths."""
        cell = self.network.cell
        _check.choice("name", name, cell.states + cell.saved)
        if name == cell.states[0]:
            return self.h
        if any(kept.segment < self.rows.steps for layer in self.layers for kept in layer):
            raise ValueError(f"tape: {name!r} is kept only where everything is; call forward without memory=")
        if name in cell.states:
            return self._by_time(lambda kept: kept.others[0, :, :, cell.states.index(name) - 1])
        return self._by_time(lambda kept: kept.saved[0, :, :, cell.saved.index(name)])

    def preactivation(self, name: str) -> np.ndarray:
        """The sum that enters a slot's nonlinearity, biases included: (layers * directions, T, B, H). Needs ``details=True``."""
        slots = tuple(slot.name for slot in self.network.cell.slots)
        _check.choice("name", name, slots)
        if self.rows.steps and self.layers[0][0].preactivations.shape[1] == 0:
            raise ValueError("tape: pre-activations were not kept; call forward(..., details=True)")
        return self._by_time(lambda kept: kept.preactivations[0, :, :, slots.index(name)])

    def _by_time(self, pick) -> np.ndarray:
        kept, net = [kept for layer in self.layers for kept in layer], self.network
        parts = [by_time(pick(k), self.rows.lengths[0], self.T, d.reverse, net.device) for k, d in zip(kept, net._directions)]
        return net.device.xp.stack(parts)


def by_time(array, lengths: np.ndarray, T: int, reverse: bool, device: _device.Device):
    """(steps, B, H) counted in the order of processing -> (T, B, H) by time, zero beyond each length."""
    result = device.zeros((T, *array.shape[1:]), array.dtype)
    for b, length in enumerate(lengths):
        result[:length, b] = array[:length, b][::-1] if reverse else array[:length, b]
    return result


class Recurrent(Network):
    """A stack of recurrent layers of one cell.

    Parameters
    ----------
    cell : Cell or str
        A built-in cell's name, or a `Cell` of your own.
    input_size, hidden_size : int
    cell_options : dict, optional
        What a built-in cell is given, such as ``{"activation": "relu"}``.
    num_layers : int
    bidirectional : bool
        Both directions; their outputs are merged by `merge`.
    reverse : bool
        One direction only, from each sequence's last step to its first.
    merge : {"concat", "sum", "mean", "product"}
    dropout : float in [0, 1)
        Between layers, where forward is given `rng`.
    recurrent_dropout : float in [0, 1)
        On the operand of the recurrent product, one mask a sequence for all steps [Gal & Ghahramani 2016].
    initial_state : {"zero", "learned"}
        What enters the first step where no state is given; "learned" adds parameters ``initial_h_l0``, ...
    batch_first : bool
        x and y as (B, T, .) rather than (T, B, .).
    dtype : {"float32", "float64"}
    device : {"cpu", "cuda"}
        Where the network runs, and its arrays are. On the GPU they are CuPy's; what enters may be on either side, and may be another
        library's (a CUDA tensor of PyTorch's is not copied).
    precision : {"exact", "split", "tf32", "bf16"}
        How products of matrices are computed on the GPU, in float32: exactly, or on tensor cores, of factors in tf32 (11 significant bits),
        bf16 (8), or split into two in tf32 (22); sums, states and all else are in float32 in any case.
    initializers : dict of str to Initializer, optional
        By parameter name without layer suffix, such as ``{"weight_hh": fr.initializers.Orthogonal()}``; PyTorch's uniform otherwise.
    seed : int

    Notes
    -----
    The first call compiles the cell's kernels (some seconds; kept on disk; ``fastrnn warmup`` does it ahead of time, for the GPU
    ``fastrnn warmup --device cuda``).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> net = fr.Recurrent("gru", 3, 5, bidirectional=True)
    >>> y, h = net(np.zeros((7, 2, 3)), lengths=[7, 4])
    >>> y.shape, h.shape
    ((7, 2, 10), (2, 2, 5))
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        *,
        cell_options: dict | None = None,
        num_layers: int = 1,
        bidirectional: bool = False,
        reverse: bool = False,
        merge: str = "concat",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        initial_state: str = "zero",
        batch_first: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "exact",
        initializers: dict[str, Initializer] | None = None,
        seed: int = 0,
    ):
        self.cell_options = dict(cell_options or {})
        self.cell = build(cell, **self.cell_options) if isinstance(cell, str) else cell
        if not isinstance(self.cell, Cell):
            raise TypeError(f"cell: the name of a cell or a fastrnn.Cell is required; got {type(cell).__name__}")
        self.input_size = _check.integer("input_size", input_size, minimum=1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, minimum=1)
        self.num_layers = _check.integer("num_layers", num_layers, minimum=1)
        self.bidirectional = _check.choice("bidirectional", bidirectional, (False, True))
        self.reverse = _check.choice("reverse", reverse, (False, True))
        if bidirectional and reverse:
            raise ValueError("reverse: False is required with bidirectional=True, which runs both directions; got True")
        self.merge = _check.choice("merge", merge, MERGES)
        self.dropout = _check.fraction("dropout", dropout)
        self.recurrent_dropout = _check.fraction("recurrent_dropout", recurrent_dropout)
        self.initial_state = _check.choice("initial_state", initial_state, ("zero", "learned"))
        self.batch_first = _check.choice("batch_first", batch_first, (False, True))
        self.dtype = _check.dtype(dtype)
        self.device = _device.device(device, precision, self.dtype)
        self.seed = _check.integer("seed", seed, minimum=0)
        reversals = (False, True) if bidirectional else (reverse,)
        self._layers = [
            Layer(self.cell, self.output_size if layer else self.input_size, self.hidden_size, reversals, merge, self.device)
            for layer in range(num_layers)
        ]
        self._directions = [direction for layer in self._layers for direction in layer.directions]
        self._suffixes = [f"_l{k}" + "_reverse" * (n > 0) for k in range(num_layers) for n in range(len(reversals))]
        self.initializers = dict(initializers or {})
        self._make()
        self.draw(self.seed)

    def _make(self) -> None:
        """Make `params` (learned) and `constants` (fixed)."""
        shapes, constants, fixed = {}, {}, self.cell.fixed
        self._names = [  # one list a (layer, direction): name, name with suffix, whether it is fixed
            [(name, name + suffix, name in fixed) for name in direction.shapes()]
            for direction, suffix in zip(self._directions, self._suffixes)
        ]
        for direction, suffix in zip(self._directions, self._suffixes):
            for name, shape in direction.shapes().items():
                (constants if name in fixed else shapes)[name + suffix] = shape
            if self.initial_state == "learned":
                shapes |= {f"initial_{state}{suffix}": (self.hidden_size,) for state in self.cell.states}
        known = {name for direction in self._directions for name in direction.shapes()}
        for name in self.initializers:
            if name not in known:
                raise ValueError(f"initializers: keys from {sorted(known)} are required; got {name!r}")
        self._directions[0].grid(1, self.dtype)  # which refuses a size that the device has no room for
        self.params, self.constants = (
            Params(named, self.dtype, self.device.put(Params(named, self.dtype).flat)) for named in (shapes, constants)
        )

    def draw(self, seed: int) -> None:
        """Draw every weight anew, as a network built with this seed has them."""
        self.seed, rng, uniform = seed, np.random.default_rng(seed), Uniform()
        self.params.flat[...] = 0.0  # a learned initial state begins there
        defaults = dict(zip(self.cell.parameters, self.cell.defaults))
        for direction, names in zip(self._directions, self._names):
            shapes = direction.shapes()
            for name, full, fixed in names:
                target = self.constants if fixed else self.params
                if defaults.get(name) is not None and name not in self.initializers:
                    target[full] = defaults[name]
                else:
                    drawn = self.initializers.get(name, uniform)(shapes[name], rng, hidden_size=self.hidden_size)
                    target[full] = self.device.put(drawn)

    @property
    def output_size(self) -> int:
        return self.hidden_size * (2 if self.bidirectional and self.merge == "concat" else 1)

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def causal(self) -> bool:
        return not (self.bidirectional or self.reverse)

    def config(self) -> dict:
        """What builds this network again, but for its weights."""
        names = ("input_size", "hidden_size", "cell_options", "num_layers", "bidirectional", "reverse", "merge", "dropout")
        names += ("recurrent_dropout", "initial_state", "batch_first", "seed")
        return {"cell": self.cell.name} | {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def __call__(self, x, state=None, *, lengths=None):
        """Forward only, nothing kept: (y, state), as `forward` returns them."""
        x, rows = self._batch_in(x, lengths)
        states, _ = self._start(state, rows)
        y, final, _ = self.run(self.params, x[None], rows, states, Masks.none(self), None)
        return self._batch_out(y[0]), self._state_out(final)

    def forward(self, x, state=None, *, lengths=None, details=False, memory=None, rng=None, masks=None, pull=None):
        """Run the network and keep what backward needs.

        Parameters
        ----------
        x : array_like, shape (T, B, D)
            Not copied where it is contiguous and of the network's dtype: leave it unchanged until backward.
        state : array_like or tuple, shape (layers * directions, B, H) each, optional
        lengths : array_like of int, shape (B,), optional
            Valid steps of each sequence, in any order, 0 allowed. What x holds beyond them reaches nothing.
        details : bool
            Keep every pre-activation too.
        memory : int, optional
            Bytes the tape may take. If everything fits, everything is kept; otherwise states at intervals, from which backward
            computes the rest again, with the same bits.
        rng : numpy.random.Generator, optional
            Draws dropout masks; without it there is no dropout.
        masks : list, optional
            Recurrent dropout masks from `draw_masks`, to go on with those of a sequence cut in time; drawn from `rng` otherwise.
        pull : (array_like, array_like), shapes (T, B, H) and (T,), optional
            Generalized teacher forcing [Hess et al. 2023]: goal z and alpha in [0, 1]; after step t the top layer's state h goes on as
            (1 - alpha_t) h_t + alpha_t z_t, while y_t is h_t. The goal counts as given. Not for networks that run from right to left.

        Returns
        -------
        y : ndarray, shape (T, B, output_size), read-only
        state : ndarray or tuple
            The state at each sequence's end.
        tape : Tape
        """
        x, rows = self._batch_in(x, lengths)
        (T, B), (states, learned) = x.shape[:2], self._start(state, rows)
        tape, segment = Tape(self, rows, T, learned), self._segment(T, rows, memory)
        masks = self.draw_masks(B, rng) if masks is None else masks
        put = self.device.put
        drawn = Masks([None if mask is None else put(mask)[None] for mask in masks], self.draw_between((1, T, B), rng))
        pull = None if pull is None else self._pull_in(pull, T, B)
        y, final, tape.layers = self.run(self.params, x[None], rows, states, drawn, segment, bool(details), pull)
        tape.between = drawn.between
        y = self._batch_out(y[0])
        if self.device.name == "cpu":  # arrays on the GPU know no such flag
            y.flags.writeable = False
        return y, self._state_out(final), tape

    # For E models of one shape, which one alone is, too: parameters where `params.at` says, arrays with the member axis first

    def run(self, params: Params, x, rows: Rows, states, masks: "Masks", segment: int | None, details: bool = False, pull=None):
        """(y (E, T, B, output_size), final states, what every layer kept) of E models whose parameters are in `params`.

        x (E or 1, T, B, D), states one (E, S, B, H) a (layer, direction); `segment` and `pull` as `Layer.forward` has them.
        """
        final, tapes = [], []
        for k, layer in enumerate(self._layers):
            places = self._places(k)
            if masks.between[k] is not None:
                x = x * masks.between[k]
            x, kept, ends = layer.forward(
                x, [self._named(p, params) for p in places], rows, [states[p] for p in places], [masks.recurrent[p] for p in places],
                segment, details, pull if k + 1 == self.num_layers else None,
            )  # fmt: skip
            final += ends
            tapes.append(kept)
        return x, final, tapes

    def backward(self, tape: Tape, dy=None, dstate=None, *, details=False, clip=None, begin=0, inputs=True):
        """Gradients of a scalar L from dL/dy and dL/dstate (each 0 where not given), by back-propagation through time.

        Parameters
        ----------
        tape : Tape
        dy : array_like, shape of y, optional
        dstate : array_like or tuple, shape of the state, optional
        details : bool
            Return dL/dh_t, dL/dc_t and dL/da_t of every step too.
        clip : float, optional
            Bound on every entry of dL/da_t inside the recursion [Graves 2013]; `Gradients.clipped` reports what it cut.
        begin : int
            Go back to this step only (truncation); the gradient of the state is then that at `begin`. Not for networks that run
            from right to left.
        inputs : bool
            Whether dL/dx is wanted: a sixth of the work. Without it `Gradients.x` is None.

        Returns
        -------
        Gradients
        """
        T, rows = tape.T, tape.rows
        begin = _check.integer("begin", begin, 0, T)
        if begin and not self.causal:
            raise ValueError("begin: 0 is required for a network that runs from right to left, whose first step is the last in time")
        limit = self.dtype.type(np.inf if clip is None else _check.real("clip", clip, positive=True))
        dy, flows, grads = self._dy_in(dy, T, rows), self._states_in("dstate", dstate, rows), self.params.like()
        dx, flows, cut, shown = self.run_back(
            self.params, tape, None if dy is None else dy[None], flows, grads, begin, limit, bool(details), bool(inputs)
        )
        clipped = None if clip is None else Clipped.of(cut[0])
        dx = self._batch_out(dx[0]) if inputs else None
        return Gradients(dx, self._state_out(flows), grads, clipped, *(self._shown(shown, tape) if details else ()))

    def run_back(self, params: Params, tape: Tape, dy, flows: list, grads: Params, begin: int, limit, details=False, inputs=True):
        """(dx, dL/d(start states), what was cut (E, 3), what `details` shows) of what `run` kept; adds to `grads`."""
        cut, shown, flows = 0.0, [], list(flows)
        for k in reversed(range(self.num_layers)):
            places = self._places(k)
            named, targets = [self._named(p, params) for p in places], [self._learned(p, grads) for p in places]
            dy, starts, found, arrays = self._layers[k].backward(
                tape.layers[k], named, tape.rows, dy, [flows[p] for p in places], targets, begin, limit, details, inputs or k > 0
            )
            flows[places.start : places.stop], cut, shown = starts, cut + found, arrays + shown
            if tape.between[k] is not None:
                dy = dy * tape.between[k]
        if tape.learned and begin == 0:
            self._add_initial(grads, flows)
        return dy, flows, cut, shown

    def _add_initial(self, grads: Params, flows) -> None:
        """The gradient of the learned initial state, from that of the state (E, S, B, H) that entered each (layer, direction)."""
        for direction, suffix, flow in zip(self._directions, self._suffixes, flows):
            total = direction.over_batch(flow)
            for i, name in enumerate(self.cell.states):
                at = grads.at(f"initial_{name}{suffix}")
                at.part(slice(0, self.hidden_size))[...] += total[:, i]

    def _shown(self, shown: list, tape: Tape):
        """(h, c, preactivations) of `Gradients` from what every direction recorded."""
        lengths, T = tape.rows.lengths[0], tape.T

        def stack(pick):
            parts = [by_time(pick(s), lengths, T, d.reverse, self.device) for s, d in zip(shown, self._directions)]
            return self.device.xp.stack(parts)

        states = [stack(lambda s, i=i: s.dstates[0, :, :, i]) for i in range(len(self.cell.states))]
        slots = {slot.name: stack(lambda s, g=g: s.dpreactivations[0, :, :, g]) for g, slot in enumerate(self.cell.slots)}
        return states[0], states[1] if len(states) > 1 else None, slots

    # Between the arrays of the caller and those of the layers

    def _places(self, layer: int) -> range:
        """The (layer, direction) indices of one layer."""
        return range(layer * self.num_directions, (layer + 1) * self.num_directions)

    def _named(self, place: int, params: Params) -> dict[str, At]:
        """Where the parameters of one direction, learned or fixed, lie, by name without suffix."""
        return {name: (self.constants if fixed else params).at(full) for name, full, fixed in self._names[place]}

    def _learned(self, place: int, grads: Params) -> dict[str, At]:
        """Where the gradients of one direction lie, by name without suffix."""
        return {name: grads.at(full) for name, full, fixed in self._names[place] if not fixed}

    def _batch_in(self, x, lengths) -> tuple[np.ndarray, Rows]:
        words, lengths = ("B", "T") if self.batch_first else ("T", "B"), _device.host(lengths)
        x = self.device.array("x", x, (*words, self.input_size), self.dtype, meaning="(time first, unless batch_first=True)")
        if self.batch_first:
            x = self._swapped(x)
        T, B = x.shape[:2]
        lengths = None if lengths is None else _check.lengths(lengths, T, B)
        return x, Rows.full(T, B) if lengths is None or (lengths == T).all() else Rows.of(lengths[None])

    def _pull_in(self, pull, T: int, B: int) -> tuple[np.ndarray, np.ndarray]:
        if self.bidirectional or self.reverse:
            raise ValueError("pull: a network that runs from left to right is required; this one runs from right to left, or both ways")
        if not isinstance(pull, (tuple, list)) or len(pull) != 2:
            raise ValueError(f"pull: (goal, alpha) is required; got {type(pull).__name__}")
        goal = self.device.array("pull: goal", pull[0], (T, B, self.hidden_size), self.dtype, meaning="(steps, batch, hidden units)")
        alpha = self.device.array("pull: alpha", pull[1], (T,), self.dtype)
        if not ((alpha >= 0) & (alpha <= 1)).all():
            raise ValueError(f"pull: alpha from 0 to 1 is required; got {alpha[~((alpha >= 0) & (alpha <= 1))][0]}")
        return goal[None], alpha

    def _batch_out(self, y):
        return self._swapped(y) if self.batch_first else y

    def _swapped(self, array):
        """(B, T, .) from (T, B, .), and back."""
        return self.device.xp.ascontiguousarray(array.swapaxes(0, 1))

    def _dy_in(self, dy, T: int, rows: Rows):
        if dy is None:
            return None
        B = rows.order.shape[1]
        dy = self.device.array("dy", dy, (B, T, self.output_size) if self.batch_first else (T, B, self.output_size), self.dtype)
        return self._swapped(dy) if self.batch_first else dy

    def _start(self, state, rows: Rows) -> tuple[list[np.ndarray], bool]:
        """The state that enters, one (1, S, B, H) a (layer, direction), and whether it is the learned one."""
        if state is not None or self.initial_state == "zero":
            return self._states_in("state", state, rows), False
        B, xp = rows.order.shape[1], self.device.xp
        return [
            xp.stack([xp.tile(self.params[f"initial_{name}{suffix}"], (B, 1)) for name in self.cell.states])[None]
            for suffix in self._suffixes
        ], True

    def _states_in(self, name: str, state, rows: Rows) -> list[np.ndarray]:
        count, S, shape = len(self._directions), len(self.cell.states), (len(self._directions), rows.order.shape[1], self.hidden_size)
        if state is None:
            return [self.device.zeros((1, S, *shape[1:]), self.dtype) for _ in range(count)]
        parts = state if isinstance(state, (tuple, list)) else (state,)
        if len(parts) != S:
            raise ValueError(f"{name}: {S} array{'s' * (S > 1)} ({', '.join(self.cell.states)}) required for this cell; got {len(parts)}")
        parts = [self.device.array(f"{name} {k}", part, shape, self.dtype) for k, part in zip(self.cell.states, parts)]
        return [self.device.xp.stack([part[place] for part in parts])[None] for place in range(count)]

    def _state_out(self, states: list[np.ndarray]):
        """(layers * directions, B, H): one array, or a tuple where the cell has more than one state."""
        if len(states) == 1:
            parts = tuple(states[0][0, :, None])
        else:
            parts = tuple(self.device.xp.stack([state[0, i] for state in states]) for i in range(len(self.cell.states)))
        return parts if len(parts) > 1 else parts[0]

    def draw_masks(self, B: int, rng) -> list:
        """Recurrent dropout masks (B, H), one a (layer, direction), already divided by the probability to keep; None without `rng`."""
        if rng is None or not self.recurrent_dropout:
            return [None] * len(self._directions)
        return [dropout_mask(rng, (B, self.hidden_size), self.recurrent_dropout, self.dtype) for _ in self._directions]

    def draw_between(self, shape: tuple, rng) -> list:
        """Dropout masks (*shape, features) on the input of every layer, (T, B) or more in `shape`; None where there is none."""
        width = self._layers[-1].directions[0].D
        drops = rng is not None and self.dropout
        put = self.device.put
        return [put(dropout_mask(rng, (*shape, width), self.dropout, self.dtype)) if drops and k else None for k in range(self.num_layers)]

    def final_output(self, state) -> np.ndarray:
        """The top layer's output at the end of its run, both directions merged: (B, output_size), from the state."""
        h = (state[0] if isinstance(state, tuple) else state)[-self.num_directions :]
        return h[0] if self.num_directions == 1 else merged(self.merge, h[0], h[1])

    def final_output_backward(self, state, dy):
        """dL/dstate from the gradient of `final_output`."""
        parts = state if isinstance(state, tuple) else (state,)
        result = tuple(np.zeros_like(part) for part in parts)
        h, dh = parts[0][-self.num_directions :], result[0][-self.num_directions :]
        if self.num_directions == 1:
            dh[0] = dy
        else:
            dh[0], dh[1] = merged_backward(self.merge, h[0], h[1], dy)
        return result if len(parts) > 1 else result[0]

    def _segment(self, T: int, rows: Rows, memory) -> int:
        """How many steps' tape to hold at a time so that it fits `memory` bytes: all, or the most that leave room for the states."""
        steps, B = max(rows.steps, 1), rows.order.shape[1]
        if memory is None:
            return steps
        memory = _check.integer("memory", memory, minimum=1)
        outputs = sum(T * B * self.hidden_size * self.num_directions * self.dtype.itemsize for _ in self._layers)
        a_step = [layer.step_bytes(B, self.dtype) for layer in self._layers]
        if outputs + steps * sum(a_step) <= memory:
            return steps
        block = max(d.grid(B, self.dtype).block for d in self._directions)
        state = len(self._directions) * len(self.cell.states) * B * self.hidden_size * self.dtype.itemsize
        best, needed = None, None
        for segment in range(block, steps + block, block):
            cost = outputs + -(-steps // segment) * state + segment * max(a_step)
            needed = cost if needed is None else min(needed, cost)
            if cost <= memory:
                best = segment
        if best is None:
            raise ValueError(f"memory: at least {needed} bytes are required for {steps} steps of {B} sequences; got {memory}")
        return best


def dropout_mask(rng: np.random.Generator, shape, rate: float, dtype) -> np.ndarray:
    """0 with probability `rate`, else 1 / (1 - rate)."""
    return ((rng.random(shape, dtype=np.float32) >= rate) / (1.0 - rate)).astype(dtype)

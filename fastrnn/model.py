"""Layers, a readout and a loss: predict, evaluate, gradients."""

import copy
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from . import _check, _device, _extent, _feedback, losses
from ._params import Params
from .bptt import Full, Pass, Truncated
from .cells import CELLS, Cell
from .cells2d import CELLS2D, Cell2D
from .ctc import CTC
from .data.batches import Batch
from .decode import Beams, Generated, beam_search, generate
from .layers._chain import Chain, chain
from .layers._network import Network
from .layers.bidirectional import Bidirectional
from .layers.delayed import Delayed
from .layers.feedforward import Dropout, Embedding, Linear
from .layers.recurrent import Recurrent
from .layers.recurrent2d import Recurrent2D

READOUTS = ("last", "every", "mean")
LAYERS = {"Recurrent": Recurrent, "Bidirectional": Bidirectional, "Delayed": Delayed, "Recurrent2D": Recurrent2D}
LAYERS |= {"Linear": Linear, "Embedding": Embedding, "Dropout": Dropout}
LOSSES = losses.REGISTRY | {"CTC": CTC}
MEMORY = (Network, Recurrent2D)
KNOWN = {"Recurrent": CELLS, "Recurrent2D": CELLS2D}  # the built-in cells of each


class Trace(NamedTuple):
    """What one forward pass keeps for its backward pass: a tape a layer, and how the readout was taken."""

    tapes: list
    masks: list  # recurrent dropout masks, one list a recurrent layer
    shape: tuple  # of the features that the readout took
    lengths: np.ndarray
    counted: np.ndarray  # steps over which the mean was taken
    finals: tuple  # the states at the end
    loop: object = None  # what a closed loop left, where gradients pass through what was fed back


class Model:
    """Layers in a row, a readout of the recurrent ones, and a loss.

    Parameters
    ----------
    *layers : Recurrent, Bidirectional, Delayed, Linear, Embedding, Dropout; or Recurrent2D, Linear, Dropout
        The output of each is the input of the next. An Embedding comes first. All of one dtype and device. With Recurrent2D the data are
        images: x (R, C, B, D), `lengths` the rows and columns of each, (B, 2), and a step is a pixel.
    loss : CrossEntropy, BinaryCrossEntropy, MeanSquaredError, CTC
    readout : {"last", "every", "mean"}
        What the layers after the last recurrent one see: its final state (of both directions, where it has two), its output at
        every step, or the mean of its output over the valid steps.

    Attributes
    ----------
    params : Params
        All parameters, in one buffer: ``model.params["1.weight"]`` is `weight` of the second layer. The layers' own `params` are
        views of it.

    Notes
    -----
    The first call compiles kernels (some seconds; kept on disk; ``fastrnn warmup`` does it ahead of time).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> model = fr.Model(fr.LSTM(2, 8), fr.Linear(8, 3), loss=fr.CrossEntropy(), readout="last")
    >>> model.predict(np.zeros((10, 4, 2)), lengths=[10, 3, 0, 7]).shape
    (4, 3)
    """

    def __init__(self, *layers, loss: losses.Loss, readout: str = "last"):
        if not layers or not all(isinstance(layer, tuple(LAYERS.values())) for layer in layers):
            got = ", ".join(type(layer).__name__ for layer in layers) or "none"
            raise TypeError(f"layers: at least one of {', '.join(LAYERS)} is required; got {got}")
        if not isinstance(loss, losses.Loss):
            raise TypeError(f"loss: a fastrnn loss such as CrossEntropy() is required; got {type(loss).__name__}")
        self.layers, self.loss, self.readout = tuple(layers), loss, _check.choice("readout", readout, READOUTS)
        if loss.per_sequence and readout != "every":
            raise ValueError(f'readout: "every" is required with {type(loss).__name__}, which needs all steps; got {readout!r}')
        self._recurrent = [layer for layer in layers if isinstance(layer, MEMORY)]
        self._images = any(isinstance(layer, Recurrent2D) for layer in layers)
        memory = max((k for k, layer in enumerate(layers) if isinstance(layer, MEMORY)), default=-1)
        self._pool_at = max(1 + memory, int(isinstance(layers[0], Embedding)))  # how many layers stand before the readout
        self._check_layers()
        self.own(Params.join({str(k): layer.params for k, layer in enumerate(layers)})[0])
        self.dtype, self.device = self.params.dtype, _device.of(self.params.flat)

    def __deepcopy__(self, memo) -> "Model":
        new = object.__new__(type(self))
        memo[id(self)] = new
        vars(new).update(copy.deepcopy({name: value for name, value in vars(self).items() if name != "_chain"}, memo))
        new.own(new.params)
        return new

    def own(self, params: Params) -> None:
        """Take these for `params`, of the same names and shapes, and give every layer views of them."""
        self.params = params
        for layer, flat in zip(self.layers, self._sections(params.flat)):
            layer.params = Params(layer.params.shapes, params.dtype, flat)

    def _check_layers(self) -> None:
        size = None
        if self._images and any(isinstance(layer, (Recurrent, Embedding)) for layer in self.layers):
            raise ValueError("layers: Recurrent2D, Linear and Dropout are required of a model of images; got a Recurrent or an Embedding")
        for k, layer in enumerate(self.layers):
            if isinstance(layer, Embedding) and k:
                raise ValueError(f"layers: an Embedding must be the first layer; got it at place {k}")
            if isinstance(layer, Network) and layer.batch_first:
                raise ValueError("layers: batch_first=False is required in a Model, whose data are time first; got True")
            if not isinstance(layer, (Embedding, Dropout)) and size is not None and layer.input_size != size:
                raise ValueError(f"layers: input_size {size} is required of layer {k}, to fit the layer before it; got {layer.input_size}")
            size = getattr(layer, "output_size", size)
        dtypes = {layer.dtype.name for layer in self.layers if not isinstance(layer, Dropout)}
        if len(dtypes) != 1:
            raise ValueError(f"layers: one dtype is required for all; got {sorted(dtypes)}")
        places = {layer.device.name for layer in self.layers if not isinstance(layer, Dropout)}
        if len(places) != 1:
            raise ValueError(f"layers: one device is required for all; got {sorted(places)}")
        everyone = [part for layer in self.layers for part in (layer, *getattr(layer, "networks", ()))]
        if len({id(part) for part in everyone}) < len(everyone):
            raise ValueError("layers: each layer may appear once; build a second one for a second place")

    # Use

    def predict(self, x, lengths=None, state=None) -> np.ndarray:
        """The output for x (T, B, D), or (T, B) integers: (B, O), or (T, B, O) with readout "every". Logits for the entropies.

        For images x (R, C, B, D), `lengths` (B, 2) their rows and columns: (B, O), or (R, C, B, O).
        """
        x, lengths = self._inputs(x, lengths)
        return self._forward(x, lengths, state, None, record=False)[0]

    def run(self, x, lengths=None, state=None) -> tuple[np.ndarray, tuple]:
        """(prediction, state): as `predict`, and the state of every recurrent layer, to go on from."""
        x, lengths = self._inputs(x, lengths)
        prediction, _, state = self._forward(x, lengths, state, None, record=False)
        return prediction, state

    def evaluate(self, x, target, lengths=None, weights=None, state=None) -> dict[str, float]:
        """The loss and the loss's metrics, such as accuracy."""
        return self._evaluate(Batch(x, target, lengths, weights), state)[0]

    def gradient(
        self, x, target, lengths=None, *, weights=None, state=None, bptt: Full | None = None, rng=None, forcing=None, update: int = 0
    ) -> Pass:
        """Loss, gradients of every parameter, state and prediction of one batch, by full back-propagation through time."""
        if isinstance(bptt, Truncated):
            raise ValueError("bptt: Full() is required for one gradient; with Truncated iterate over model.passes(...), one a stride")
        options = {"weights": weights, "state": state, "bptt": bptt, "rng": rng, "forcing": forcing, "update": update}
        return next(self.passes(x, target, lengths, **options))

    def passes(
        self,
        x,
        target,
        lengths=None,
        *,
        weights=None,
        state=None,
        bptt: Full | Truncated | None = None,
        rng=None,
        forcing=None,
        update: int = 0,
    ) -> Iterator[Pass]:
        """One `Pass` for every update of the weights; `params` may be changed between them.

        Parameters
        ----------
        x : array_like, shape (T, B, D), or (T, B) integers, or (R, C, B, D)
        target : array_like, shape (B,) or (B, O); with readout "every" (T, B) or (T, B, O), or (R, C, B) or (R, C, B, O);
            with CTC (B, S)
        lengths : array_like of int, shape (B,), or (B, 2) for images, optional
        weights : array_like, shape (B,), (T, B) or (R, C, B), optional
        state : tuple, optional
            `Pass.state` of an earlier call; zero, or learned, without it.
        bptt : Full or Truncated, optional
        rng : numpy.random.Generator, optional
            Draws dropout masks, without it there is no dropout; and what `forcing` leaves to chance.
        forcing : optional
            What enters at every step, such as ``fr.ScheduledSampling(0.5)``; the teacher's values by default. With full BPTT only.
        update : int
            The number of the update, for a forcing that changes with it.
        """
        x, lengths = self._inputs(x, lengths)
        target = _check.labels("target", target, x.shape[1]) if self.loss.per_sequence else np.asarray(_device.host(target))
        shape = x.shape[: 3 if self._images else 2]
        if self.readout == "every" and not self.loss.per_sequence and target.shape[: len(shape)] != shape:
            wanted = ", ".join(map(str, shape))
            raise ValueError(f'target: shape ({wanted}, ...) is required with readout="every"; got {target.shape}')
        weights, bptt = None if weights is None else np.asarray(_device.host(weights)), bptt or Full()
        if self._images and bptt != Full():
            raise ValueError(f"bptt: Full() without memory= or clip= is required for a network over a grid; got {bptt}")
        entering = _feedback.entering(self, forcing, x, target, lengths, rng, update)
        yield from bptt.passes(self, Batch(x, target, lengths, weights), state, rng, entering)

    def generate(
        self, prefix, steps: int, *, lengths=None, inputs=None, state=None, temperature=1.0, top_k=None, top_p=1.0, stop=None, seed=0
    ) -> Generated:
        """Read a prefix, then let every output enter at the next step, in one compiled loop.

        A model whose readout is "every", and whose training data said at every step what comes next. Cross-entropy means symbols: the
        input is that of an `Embedding`, or has a one-hot symbol in its last O columns. Mean squared error means real values: they enter
        in the last O columns.

        Parameters
        ----------
        prefix : array_like, shape (T, B, D), or (T, B) integers
            At least one step of every sequence.
        steps : int
            How many outputs to generate.
        lengths : array_like of int, shape (B,), optional
            Of the prefixes.
        inputs : array_like, shape (steps - 1, B, D - O), optional
            What enters beside the outputs, at every step after the prefix.
        state : tuple, optional
            State before the prefix, one entry a recurrent layer.
        temperature : float
            Symbols are drawn from softmax(logits / temperature); 0 takes the largest.
        top_k : int, optional
            Draw from so many most probable symbols only.
        top_p : float in (0, 1]
            Of those, draw from the smallest set that has this probability [Holtzman et al. 2020].
        stop : int, optional
            The symbol that ends a sequence.
        seed : int
            Sequence b's draws are a function of the seed, b and the step alone.

        Returns
        -------
        Generated

        Raises
        ------
        FloatingPointError
            Where logits are not finite; real-valued outputs may be anything.

        Notes
        -----
        The first call compiles the loop for this kind of layers (some seconds; kept on disk; ``fastrnn warmup`` does it ahead of time for
        one recurrent layer and its readout).

        Examples
        --------
        >>> import numpy as np, fastrnn as fr
        >>> layers = fr.Embedding(5, 4), fr.LSTM(4, 8), fr.Linear(8, 5)
        >>> model = fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")
        >>> model.generate([[0, 1], [2, 3]], 6, temperature=0).symbols.shape
        (6, 2)
        """
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "stop": stop, "seed": seed}
        return generate(self, prefix, steps, lengths=lengths, inputs=inputs, state=state, **options)

    def beam_search(self, prefix, steps: int, width: int, *, lengths=None, state=None, stop=None) -> Beams:
        """Read a prefix, then find continuations of high probability, keeping `width` of every sequence at every step.

        Parameters
        ----------
        prefix, steps, lengths, state, stop
            As of `generate`.
        width : int
            1 is `generate` with temperature 0.

        Returns
        -------
        Beams

        Notes
        -----
        Ranked by total log probability, which falls with every symbol: divide by `Beams.lengths` to compare lengths fairly. The first call
        compiles, as that of `generate` does.

        Examples
        --------
        >>> import numpy as np, fastrnn as fr
        >>> layers = fr.Embedding(5, 4), fr.LSTM(4, 8), fr.Linear(8, 5)
        >>> model = fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")
        >>> model.beam_search([[0, 1]], 6, width=3).symbols.shape
        (6, 2, 3)
        """
        return beam_search(self, prefix, steps, width, lengths=lengths, state=state, stop=stop)

    def save(self, path) -> None:
        """Write configuration and parameters to a file that `fastrnn.load` reads."""
        from .io import save

        save(self, path)

    def config(self) -> dict:
        """What builds this model again, but for its weights: nothing but JSON types."""
        kinds = [next(name for name, kind in LAYERS.items() if isinstance(layer, kind)) for layer in self.layers]
        layers = [{"kind": kind} | layer.config() for kind, layer in zip(kinds, self.layers)]
        return {"layers": layers, "loss": self.loss.config(), "readout": self.readout}

    @classmethod
    def from_config(cls, config: dict, cells: dict[str, Cell | Cell2D] | None = None) -> "Model":
        """The model that `config` describes; `cells` gives by name the cells that are not built in."""
        layers = [_layer(entry, cells or {}) for entry in config["layers"]]
        return cls(*layers, loss=losses.from_config(config["loss"], LOSSES), readout=config["readout"])

    # What bptt and fit work with

    def _evaluate(self, batch: Batch, state) -> tuple[dict[str, float], tuple]:
        """(loss and metrics, state), as `run`."""
        x, lengths = self._inputs(batch.x, batch.lengths)
        prediction, _, state = self._forward(x, lengths, state, None, record=False)
        valid = self._valid(batch._replace(lengths=lengths))
        return {"loss": self.loss(prediction, batch.target, *valid)} | self.loss.metrics(prediction, batch.target, *valid), state

    def _inputs(self, x, lengths) -> tuple[np.ndarray, np.ndarray]:
        """x as a contiguous array and lengths as int64. Recurrent layers see to padding themselves; before others it is cleared."""
        first, lengths = self.layers[0], _device.host(lengths)
        if isinstance(first, Embedding):
            x = np.asarray(_device.host(x))
            rank = 3 if first.group else 2
            if x.ndim != rank:
                shape = "(T, B)" if rank == 2 else f"(T, B, {first.group})"
                raise ValueError(f"x: integers of shape {shape} are required; got shape {x.shape}")
            lengths = _check.lengths(lengths, *x.shape[:2])
            x = _cleared(x, lengths)
            return _check.integers("x", x, x.shape, 0, first.num_symbols - 1, meaning="(symbols)"), lengths
        size = next((layer.input_size for layer in self.layers if hasattr(layer, "input_size")), "D")
        if self._images:
            x = _check.array("x", x, ("R", "C", "B", size), self.dtype, meaning="(rows, columns, images, channels)")
        else:
            x = self.device.array("x", x, ("T", "B", size), self.dtype, meaning="(steps, batch, features)")
        lengths = _extent.checked(lengths, x.shape[:-1])
        return (x if isinstance(first, MEMORY) else _cleared(x, lengths)), lengths

    def _target_weight(self, batch: Batch, metric: str) -> float:
        """The sum of the weights of what a metric is a mean over: the batch's valid targets."""
        shape = np.shape(batch.x)[: 3 if self._images else 2]
        weights = np.ones(shape[-1]) if batch.weights is None else np.asarray(batch.weights, float)
        if self.readout != "every" or self.loss.per_sequence:
            return float(weights.sum())
        extent = _extent.checked(batch.lengths, shape)
        if weights.ndim == 1:
            return float(weights @ _extent.counts(extent))
        return float(weights.sum(where=_extent.valid(extent, shape)))

    def _check_causal(self) -> None:
        if self.loss.per_sequence:
            raise ValueError(f"bptt: Full() is required with {type(self.loss).__name__}, whose target belongs to the sequence as a whole")
        for layer in self._recurrent:
            if not layer.causal:
                wanted = "bptt: Full() is required for a network that runs from right to left, or with a delay"
                raise ValueError(f"{wanted}: it has no present to truncate from")

    def _valid(self, batch: Batch) -> tuple:
        """(lengths, weights) as the loss takes them."""
        return (batch.lengths if self.readout == "every" else None), batch.weights

    def _measure(self, prediction, batch: Batch) -> tuple[float, np.ndarray, float]:
        """(loss, dL/d(prediction), weight) of a batch."""
        return self.loss.value_and_gradient(prediction, batch.target, *self._valid(batch))

    def _draw_masks(self, B: int, rng) -> list:
        """Recurrent dropout masks for sequences that will be cut in time."""
        return [layer.draw_masks(B, rng) for layer in self._recurrent]

    def _read(self, x, lengths, state, rng, masks) -> tuple[np.ndarray, tuple]:
        """(sum of the last recurrent layer's outputs over each sequence's valid steps, state), nothing kept."""
        states, finals, used = self._states(state), [], 0
        for layer in self.layers[: self._pool_at]:
            if isinstance(layer, Network):
                if rng is None:
                    x, final = layer(x, states[used], lengths=lengths)
                else:  # with dropout, which only comes with a tape
                    x, final, _ = layer.forward(x, states[used], lengths=lengths, rng=rng, masks=masks[used])
                finals.append(final)
                used += 1
            else:
                x, _ = layer.forward(x, rng=rng)
        return _valid_sum(x, lengths), tuple(finals)

    def _states(self, state) -> tuple:
        """One state, or None, a recurrent layer."""
        count = len(self._recurrent)
        if state is None:
            return (None,) * count
        if self._images:
            raise ValueError("state: None is required for a network over a grid, where a run begins with nothing; got a state")
        if not isinstance(state, tuple) or len(state) != count:
            raise ValueError(f"state: a tuple of {count} states, one a recurrent layer, is required; got {type(state).__name__}")
        return state

    @cached_property
    def _chain(self) -> Chain:
        return chain(self.layers)

    def _closed(self, x, lengths, state, rng, drawn):
        """`_forward` where the network's own outputs enter."""
        prediction, tapes, masks, finals, loop = _feedback.forward(self, x, lengths, self._states(state), rng, drawn)
        passes = drawn.kind != _feedback.SYMBOL  # a gradient, through what is fed back
        return prediction, Trace(tapes, masks, prediction.shape, lengths, lengths, finals, loop if passes else None), finals

    def _forward(self, x, lengths, state, rng, *, memory=None, masks=None, head=None, record=True, pull=None):
        """(prediction, trace, state). `head`: (sum of outputs, steps) of a part of the sequences already read."""
        states, tapes, finals, drawn, shape, counted = self._states(state), [], [], [], None, _extent.counts(lengths)
        if self._pool_at == 0:
            x, shape, counted = self._pool(x, lengths, (), head)
        for k, layer in enumerate(self.layers):
            if isinstance(layer, Network):
                n = len(finals)
                if record:
                    given = masks[n] if masks is not None else layer.draw_masks(x.shape[1], rng)
                    pulled = {"pull": pull} if pull is not None and layer is self._recurrent[-1] else {}
                    x, final, tape = layer.forward(x, states[n], lengths=lengths, memory=memory, rng=rng, masks=given, **pulled)
                    drawn.append(given)
                else:
                    (x, final), tape = layer(x, states[n], lengths=lengths), None
                finals.append(final)
            elif isinstance(layer, Recurrent2D):
                x, final, tape = layer.forward(x, sizes=lengths) if record else (*layer(x, sizes=lengths), None)
                finals.append(final)
            else:
                x, tape = layer.forward(x, rng=rng)
            tapes.append(tape)
            if k + 1 == self._pool_at:
                x, shape, counted = self._pool(x, lengths, finals, head)
        return x, Trace(tapes, drawn, shape, lengths, counted, tuple(finals)), tuple(finals)

    def _pool(self, y, lengths, finals, head):
        """What the readout sees of y (T, B, F), the shape of y, and how many steps a mean was over."""
        counted = _extent.counts(lengths)
        if self.readout == "every":
            return y, y.shape, counted
        if self.readout == "last":
            return (self._recurrent[-1].final_output(finals[-1]) if finals else _last_valid(y, lengths)), y.shape, counted
        total = _valid_sum(y, lengths)
        if head is not None:
            total, counted = total + head[0], lengths + head[1]
        return total / self.device.put(np.maximum(counted, 1).astype(y.dtype))[:, None], y.shape, counted

    def _backward(self, trace: Trace, dy, dstates, grads: Params, *, clip=None, begin=0):
        """(dL/d(initial states), what was clipped). Adds to `grads`; with dy None only `dstates` flow in. Back to step `begin`."""
        own = self._sections(grads.flat)
        if trace.loop is not None:
            return _feedback.backward(self, trace, dy, own, clip)
        dstates, starts, clipped = list(dstates or (None,) * len(self._recurrent)), [], []
        for k in reversed(range(len(self.layers))):
            layer = self.layers[k]
            if k + 1 == self._pool_at:
                dy, dstates = self._unpool(trace, dy, dstates)
            if isinstance(layer, Recurrent2D):
                g = layer.backward(trace.tapes[k], dy, dstates.pop())
                own[k] += g.params.flat
                dy = g.x
            elif isinstance(layer, Network):
                unread = {"inputs": False} if k == 0 and isinstance(layer, Recurrent) else {}  # dL/dx of the data
                g = layer.backward(trace.tapes[k], dy, dstates.pop(), clip=clip, begin=begin, **unread)
                own[k] += g.params.flat
                dy = g.x
                starts.insert(0, g.state)
                if g.clipped is not None:
                    clipped.insert(0, g.clipped)
            elif dy is not None:
                dy, found = layer.backward(trace.tapes[k], dy)
                if len(found):
                    own[k] += found.flat
        return tuple(starts), tuple(clipped)

    def _sections(self, flat: np.ndarray) -> list[np.ndarray]:
        """Each layer's part of a buffer like that of `params`."""
        ends = list(accumulate(layer.params.flat.size for layer in self.layers))
        return [flat[begin:end] for begin, end in zip([0, *ends], ends)]

    def _unpool(self, trace: Trace, dy, dstates):
        """The inverse of `_pool` for gradients: what flows into every step, and into the final state."""
        if dy is None or self.readout == "every":
            return dy, dstates
        if self.readout == "last" and self._recurrent:
            top = self._recurrent[-1].final_output_backward(trace.finals[-1], dy)
            return None, dstates[:-1] + [top if dstates[-1] is None else _add(dstates[-1], top)]
        if self.readout == "last":
            T, at = trace.shape[0], np.arange(trace.shape[0])[:, None]
            chosen = (at == np.where(trace.lengths > 0, trace.lengths - 1, T)).astype(dy.dtype)
            return self.device.put(chosen)[:, :, None] * dy, dstates
        share = _extent.valid(trace.lengths, trace.shape[:-1]) / np.maximum(trace.counted, 1)
        return self.device.put(share.astype(dy.dtype))[..., None] * dy, dstates


def _layer(entry: dict, cells: dict[str, Cell]):
    """The layer that an entry of a configuration describes."""
    options = {name: value for name, value in entry.items() if name != "kind"}
    kind = _check.choice("kind", entry.get("kind"), LAYERS)
    if kind in KNOWN and options["cell"] not in KNOWN[kind]:
        if options["cell"] not in cells:
            raise ValueError(f"cells: a cell named {options['cell']!r} is required, which is not built in; got {list(cells)}")
        options["cell"] = cells[options["cell"]]
    for name in {"Bidirectional": ("forward", "backward"), "Delayed": ("network",)}.get(kind, ()):
        options[name] = _layer(options[name] | {"kind": "Recurrent"}, cells)
    return LAYERS[kind](**options)


def _add(a, b):
    """Sum of two states, each an array or a tuple of arrays."""
    return tuple(p + q for p, q in zip(a, b)) if isinstance(a, tuple) else a + b


def _cleared(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """x (T, B, ...) with 0 beyond each sequence's end, or (R, C, B, ...) beyond each image's size."""
    valid = _extent.valid(lengths, x.shape[: 2 if lengths.ndim == 1 else 3])
    if valid.all():
        return x
    valid = _device.of(x).put(valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim)))
    return np.where(valid, x, x.dtype.type(0))


def _valid_sum(y: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of y (T, B, F) or (R, C, B, F) over each entry's valid steps, in the order of time, whatever else is in the batch."""
    device, steps = _device.of(y), y.reshape(-1, *y.shape[-2:])
    valid, total = device.put(_extent.valid(lengths, y.shape[:-1]).reshape(-1, y.shape[-2], 1)), device.zeros(y.shape[-2:], y.dtype)
    for t in range(len(steps)):
        total += np.where(valid[t], steps[t], y.dtype.type(0))
    return total


def _last_valid(y: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """y at each sequence's last valid step; 0 where there is none."""
    device = _device.of(y)
    if y.shape[0] == 0:
        return device.zeros(y.shape[1:], y.dtype)
    last = np.take_along_axis(y, device.put(np.maximum(lengths - 1, 0)[None, :, None]), axis=0)[0]
    return np.where(device.put((lengths > 0)[:, None]), last, y.dtype.type(0))

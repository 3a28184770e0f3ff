"""Between a model and its closed loop: what enters at every step of one batch, and the way forward and back with it."""

from typing import NamedTuple

import numpy as np

from . import _check, _device
from ._params import Params
from .diagnose import jacobian
from .forcing import Forcing, GeneralizedForcing, ScheduledSampling, TeacherForcing, uniforms
from .kernels._feedback import OUTPUT, PROBABILITIES, SYMBOL, Feedback
from .layers._chain import Chain
from .layers._layer import Rows
from .layers.feedforward import Linear
from .layers.recurrent import Clipped, Recurrent
from .losses import CrossEntropy, MeanSquaredError

KINDS = {"output": OUTPUT, "probabilities": PROBABILITIES, "sample": SYMBOL, "argmax": SYMBOL}


class Drawn(NamedTuple):
    """What one batch is fed: `own` (T, B) says where the network's own output enters, `kind` in which form, `uniform` draws the symbols."""

    kind: int
    own: np.ndarray
    uniform: np.ndarray
    temperature: float


class Pull(NamedTuple):
    """Generalized forcing of one batch: goal (T, B, H) of the last recurrent layer's state, and alpha (T,)."""

    goal: np.ndarray
    alpha: np.ndarray


def entering(model, forcing, x, target, lengths, rng, update: int) -> Drawn | Pull | None:
    """What `forcing` comes to for one batch; None where only the teacher's values enter."""
    if forcing is None or isinstance(forcing, TeacherForcing):
        return None
    if not isinstance(forcing, (Forcing, GeneralizedForcing)):
        raise TypeError(f"forcing: a forcing such as ScheduledSampling(0.5) is required; got {type(forcing).__name__}")
    if model.readout != "every":
        raise ValueError(f'forcing: readout="every" is required, as an output at every step is fed back; got {model.readout!r}')
    if isinstance(forcing, GeneralizedForcing):
        return _pull(model, forcing, x, target, lengths)
    feed = feed_of(model, forcing.feed)
    if rng is None and (isinstance(forcing, ScheduledSampling) or feed == "sample"):
        raise ValueError(f"rng: a numpy.random.Generator is required to draw for {type(forcing).__name__}; got None")
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: a numpy.random.Generator is required; got {type(rng).__name__}")
    T, B = x.shape[:2]
    # a child of its own: the generator's other draws, dropout masks, are what they are without forcing
    coins, symbols = (0, 0) if rng is None else _child(rng).integers(2**63, size=2)
    own = np.array(forcing.own(T, B, int(coins), update))
    if own.shape != (T, B) or own.dtype != bool:
        raise ValueError(f"forcing: own() is required to return bool of shape ({T}, {B}); got {own.dtype} of shape {own.shape}")
    own[:1] = False  # there is no output before the first
    if not own.any():
        return None
    return Drawn(KINDS[feed], own, uniforms(int(symbols), T, B), 0.0 if feed == "argmax" else 1.0)


def _child(rng: np.random.Generator) -> np.random.Generator:
    try:
        return rng.spawn(1)[0]
    except TypeError as error:
        raise TypeError(f"rng: a Generator that can spawn is required, such as numpy.random.default_rng(seed); {error}") from None


def feed_of(model, feed: str | None) -> str:
    """The form in which the model's output is fed back; whether the model can take it."""
    chain = model._chain
    symbolic, O = isinstance(model.loss, CrossEntropy), chain.output_size
    if not symbolic and not isinstance(model.loss, MeanSquaredError):
        raise ValueError(f"forcing: CrossEntropy or MeanSquaredError is required, to know what an output means; got {model.loss!r}")
    if feed is None:
        feed = "sample" if symbolic else "output"
    if (feed == "output") == symbolic:
        allowed = ("probabilities", "sample", "argmax") if symbolic else ("output",)
        raise ValueError(f"feed: one of {', '.join(map(repr, allowed))} is required with {model.loss!r}; got {feed!r}")
    if chain.embedding is not None:
        if not symbolic or chain.embedding.num_symbols != O:
            n = chain.embedding.num_symbols
            raise ValueError(f"forcing: {n} outputs and CrossEntropy are required, an output for every symbol; got {O}, {model.loss!r}")
    elif chain.input_size < O:
        raise ValueError(f"forcing: at least {O} inputs are required, the last of which the {O} outputs replace; got {chain.input_size}")
    return feed


def _pull(model, forcing: GeneralizedForcing, x, target, lengths) -> Pull | None:
    last = max((k for k, layer in enumerate(model.layers) if isinstance(layer, Recurrent)), default=None)
    above = () if last is None else model.layers[last + 1 :]
    plain = len(above) == 1 and isinstance(above[0], Linear) and above[0].activation == "identity"
    if not plain or not isinstance(model.loss, MeanSquaredError):
        raise ValueError("forcing: GeneralizedForcing requires a Recurrent, one Linear without activation on it, and MeanSquaredError")
    if forcing.alpha == 0.0:
        return None
    (T, B), O = x.shape[:2], above[0].output_size
    target = np.asarray(target)
    target = _check.array("target", target[:, :, None] if target.ndim == 2 and O == 1 else target, (T, B, O), "float64")
    weight, bias = (_device.host(above[0].params[name]).astype(np.float64) for name in ("weight", "bias"))
    goal = ((target - bias) @ np.linalg.pinv(weight).T).astype(model.dtype)
    alpha = _adapted(model, last, x, goal, lengths, forcing.points) if forcing.alpha == "adaptive" else forcing.alpha
    return Pull(goal, np.full(x.shape[0], alpha, model.dtype))


def _adapted(model, last: int, x, goal, lengths, points: int) -> float:
    """max(0, 1 - 1 / σ), σ the geometric mean of the Jacobians' spectral norms along the batch forced all the way."""
    network = model.layers[last]
    if last != 0 or network.num_layers > 1:
        raise ValueError('alpha: "adaptive" requires a model whose first layer is its only recurrent one, of one layer; got another')
    T, B = x.shape[:2]
    steps = np.flatnonzero(np.arange(1, T)[:, None] < lengths)  # with a state before them, and no padding
    if not steps.size:
        return 0.0
    _, _, tape = network.forward(x, lengths=lengths, pull=(goal, np.ones(T)))
    chosen = steps[np.linspace(0, steps.size - 1, min(points, steps.size)).astype(int)]
    states = [goal[:-1].reshape(-1, network.hidden_size)[chosen]]
    states += [tape.gate(name)[0, :-1].reshape(-1, network.hidden_size)[chosen] for name in network.cell.states[1:]]
    J = jacobian(network, x[1:].reshape((T - 1) * B, -1)[chosen], tuple(states))
    norms = np.linalg.norm(J.astype(np.float64), 2, axis=(1, 2))
    return max(0.0, 1.0 - 1.0 / max(float(np.exp(np.log(np.maximum(norms, 1e-300)).mean())), 1e-300))


def feedback(chain: Chain, drawn: Drawn, x, tokens, top_k: int | None = None, top_p: float = 1.0):
    """A function that makes the kernel's Feedback from the array that the output will stand in."""
    B, O, dtype, device = x.shape[1], chain.output_size, x.dtype, _device.of(x)
    table = device.empty((0, 0), dtype) if chain.embedding is None else chain.embedding.params["weight"]
    work, rank = device.empty((B, 2, O), np.float64), device.empty((B, O), np.int64)
    own, uniform, tokens = device.put(drawn.own), device.put(drawn.uniform), device.put(tokens)

    def make(output):
        return Feedback(
            drawn.kind, own, x, output, table, tokens, uniform, work, rank, float(drawn.temperature), top_k or O, float(top_p)
        )  # fmt: skip

    return make


def enter(chain: Chain, x) -> tuple[np.ndarray, np.ndarray]:
    """(input of the first link, a copy that may be written; the symbols, where there are any)."""
    if chain.embedding is None:
        return x.copy(), np.zeros(x.shape[:2], np.int64)
    tokens = np.array(_check.integers("x", x, ("T", "B"), 0, chain.embedding.num_symbols - 1))
    device = chain.embedding.device
    return device.xp.ascontiguousarray(chain.embedding.params["weight"][device.put(tokens)]), tokens


def forward(model, x, lengths, states, rng, drawn: Drawn) -> tuple:
    """(prediction, tapes, masks, finals, loop) of a batch whose inputs are partly the network's own outputs."""
    chain = model._chain
    rows = Rows.of(lengths[None])
    drawn_masks = [layer.draw_masks(x.shape[1], rng) for layer in model._recurrent]
    masks = _spread(model, chain, drawn_masks)
    inputs, tokens = enter(chain, x)
    entered, learned = chain.states(states, rows)
    loop = chain.forward(inputs, rows, entered, masks, feedback(chain, drawn, inputs, tokens))
    return loop.kept[-1].y[0], chain.tapes(loop, inputs, learned), drawn_masks, chain.finals(entered), loop


def _spread(model, chain: Chain, masks: list) -> list:
    """One recurrent dropout mask, or None, a link."""
    by_layer = dict(zip((k for k, layer in enumerate(model.layers) if isinstance(layer, Recurrent)), masks))
    return [by_layer[place.layer][place.depth] if place.layer in by_layer else None for place in chain.places]


def backward(model, trace, dy, sections: list[np.ndarray], clip) -> tuple[tuple, tuple]:
    """(dL/d(initial states), what was clipped), through the network and through what was fed back; adds to each layer's section."""
    chain, loop = model._chain, trace.loop
    own = [Params(layer.params.shapes, model.dtype, flat) for layer, flat in zip(model.layers, sections)]
    dx, dtable, dstates, cuts = chain.backward(loop, dy, own, model.dtype.type(np.inf if clip is None else clip))
    if chain.embedding is not None:  # a mean of rows has added to dtable; what entered as a symbol is looked up
        _, grads = chain.embedding.backward(loop.feedback.tokens, np.where(loop.feedback.own[:, :, None], dx.dtype.type(0), dx))
        sections[0] += grads.flat
        own[0]["weight"][...] += dtable
    clipped = []
    for k, layer in enumerate(model.layers):
        if isinstance(layer, Recurrent):
            parts = [n for n, place in enumerate(chain.places) if place.layer == k]
            if trace.tapes[k].learned:
                layer._add_initial(own[k], [dstates[n] for n in parts])
            if clip is not None:
                clipped.append(Clipped.of(sum(cuts[n] for n in parts)))
    return chain.finals(dstates), tuple(clipped)

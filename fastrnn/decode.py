"""Closed-loop generation: a prefix is read, then what comes out goes in again, in one compiled loop."""

from typing import NamedTuple

import numpy as np

from . import _check, _device, _feedback
from .forcing import uniforms
from .kernels._feedback import SYMBOL
from .layers._layer import Rows


class Generated(NamedTuple):
    """What `Model.generate` returns.

    Attributes
    ----------
    outputs : ndarray, shape (steps, B, O)
        The output after the prefix, and after everything generated but the last; logits for symbols. 0 beyond a sequence's end.
    symbols : ndarray of int64, shape (steps, B), or None
        The symbols drawn from them; -1 beyond a sequence's end. None for real-valued outputs.
    lengths : ndarray of int64, shape (B,)
        Steps of each sequence, the one that drew the stop symbol included.
    state : tuple
        The state of every recurrent layer before the last output is read: go on with ``generate(outputs[-1:], ..., state=state)``,
        or the last symbols. Undefined for sequences that stopped.
    """

    outputs: np.ndarray
    symbols: np.ndarray | None
    lengths: np.ndarray
    state: tuple


class Beams(NamedTuple):
    """What `Model.beam_search` returns: the best continuations of every sequence, the best first.

    Attributes
    ----------
    symbols : ndarray of int64, shape (steps, B, width)
        -1 beyond an end, and where there are fewer continuations.
    log_probabilities : ndarray of float64, shape (B, width)
        Of the whole continuation, natural logarithm; -inf where there is none.
    lengths : ndarray of int64, shape (B, width)
        The stop symbol included.
    state : tuple
        The state of every recurrent layer, (layers, B · width, H) arrays, the beams of a sequence one after another, before the last
        symbols are read: go on with ``generate(symbols[-1].reshape(1, -1), ..., state=state)``. Undefined for beams that have ended.
    """

    symbols: np.ndarray
    log_probabilities: np.ndarray
    lengths: np.ndarray
    state: tuple


def generate(model, prefix, steps, *, lengths=None, inputs=None, state=None, temperature=1.0, top_k=None, top_p=1.0, stop=None, seed=0):
    """See `Model.generate`."""
    chain = model._chain
    steps = _check.integer("steps", steps, minimum=1)
    temperature = _check.real("temperature", temperature, minimum=0.0)
    feed = _feedback.feed_of(model, None)
    symbolic, O = feed != "output", chain.output_size
    top_k = O if top_k is None else _check.integer("top_k", top_k, minimum=1)
    top_p = _check.real("top_p", top_p, maximum=1.0, positive=True)
    stop = -1 if stop is None else _check.integer("stop", stop, 0, O - 1)
    if stop >= 0 and not symbolic:
        raise ValueError(f"stop: None is required for real-valued outputs; got {stop}")
    x, tokens, entered = _read(model, prefix, lengths, state)
    B = x.shape[1]
    inputs = _other_inputs(model, inputs, steps, B)
    drawn = _feedback.Drawn(
        _feedback.KINDS[feed], np.ones((1, B), bool), uniforms(_check.integer("seed", seed, 0, 2**64 - 1), steps, B), temperature
    )
    put, get = model.device.put, model.device.get
    symbols, ends = put(np.full((steps, B), -1, np.int64)), put(np.full(B, steps, np.int64))
    outputs = model.device.zeros((steps, B, O), model.dtype)
    chain.generate(x, entered, _feedback.feedback(chain, drawn, x, symbols, top_k, top_p), outputs, inputs, stop, ends)
    symbols, ends = get(symbols), get(ends)
    if drawn.kind == SYMBOL and not np.isfinite(outputs).all():
        step, b = np.argwhere(~np.isfinite(_device.host(outputs)).all(axis=2))[0]
        raise FloatingPointError(f"generate: step {step} of sequence {b}: the logits are not finite. Check the model's parameters")
    return Generated(outputs, symbols if drawn.kind == SYMBOL else None, ends, chain.finals(entered))


def beam_search(model, prefix, steps, width, *, lengths=None, state=None, stop=None):
    """See `Model.beam_search`."""
    chain = model._chain
    steps, width = _check.integer("steps", steps, minimum=1), _check.integer("width", width, minimum=1)
    if _feedback.feed_of(model, None) == "output":
        raise ValueError(f"model: symbols, CrossEntropy, are required for a beam search; got {model.loss!r}")
    stop = -1 if stop is None else _check.integer("stop", stop, 0, chain.output_size - 1)
    x, tokens, entered = _read(model, prefix, lengths, state)
    if chain.embedding is None and chain.input_size > chain.output_size:
        raise ValueError(f"model: {chain.output_size} inputs are required for a beam search, the symbol alone; got {chain.input_size}")
    B = x.shape[1]
    x, tokens, entered = np.repeat(x, width, axis=1), np.zeros((1, B * width), np.int64), [np.repeat(s, width, axis=2) for s in entered]
    drawn = _feedback.Drawn(SYMBOL, np.ones((1, B * width), bool), np.zeros((1, B * width)), 0.0)
    scores = np.where(np.arange(width) == 0, 0.0, -np.inf) + np.zeros((B, 1))
    put, get = model.device.put, model.device.get
    parents, symbols = put(np.zeros((steps, B, width), np.int64)), put(np.full((steps, B, width), -1, np.int64))
    scores = put(scores)
    chain.beam_search(x, entered, _feedback.feedback(chain, drawn, x, tokens), width, stop, scores, parents, symbols)
    scores, parents, symbols = get(scores), get(parents), get(symbols)
    if np.isnan(scores).any():
        raise FloatingPointError("beam_search: the logits are not finite. Check the model's parameters")
    symbols = _trace_back(parents, symbols, scores)
    return Beams(symbols, scores, (symbols >= 0).sum(axis=0), chain.finals(entered))


def _trace_back(parents, symbols, scores) -> np.ndarray:
    """The symbols (steps, B, width) of every beam, from its last step back to its first."""
    result, at = np.empty_like(symbols), np.tile(np.arange(symbols.shape[2]), (symbols.shape[1], 1))
    for s in range(symbols.shape[0] - 1, -1, -1):
        result[s] = np.take_along_axis(symbols[s], at, axis=1)
        untouched = (symbols[s] < 0).all(axis=1)  # all beams of a sequence had ended: nothing was chosen
        at = np.where(untouched[:, None], at, np.take_along_axis(parents[s], at, axis=1))
    result[:, scores == -np.inf] = -1
    return result


def _read(model, prefix, lengths, state):
    """(x (1, B, D) the last input of every prefix, its symbol, the state of every link before it)."""
    if model.readout != "every":
        raise ValueError(f'readout: "every" is required to generate, as an output at every step is fed back; got {model.readout!r}')
    prefix, lengths = model._inputs(prefix, lengths)
    T, B = prefix.shape[:2]
    if (lengths < 1).any() or T == 0:
        raise ValueError(f"prefix: at least one step is required of every sequence; got lengths {lengths.tolist()[:8]}, {T} steps")
    _, _, states = model._forward(prefix, lengths - 1, state, None, record=False)
    x, tokens = _feedback.enter(model._chain, np.take_along_axis(prefix, _device.of(prefix).put(_last(lengths, prefix.ndim)), axis=0))
    entered, _ = model._chain.states(states, Rows.of(np.ones((1, B), np.int64)))
    return x, tokens, entered


def _other_inputs(model, inputs, steps: int, B: int) -> np.ndarray:
    """What enters beside the output at every step after the first: (steps - 1, B, D - O), 0 columns where there is nothing else."""
    chain = model._chain
    others = 0 if chain.embedding is not None else chain.input_size - chain.output_size
    if inputs is None and others:
        raise ValueError(f"inputs: shape ({steps - 1}, {B}, {others}) is required, what enters beside the outputs; got None")
    inputs = np.empty((steps - 1, B, 0)) if inputs is None else inputs
    return model.device.array("inputs", inputs, (steps - 1, B, others), model.dtype, meaning="(steps after the first, batch, other inputs)")


def _last(lengths: np.ndarray, ndim: int) -> np.ndarray:
    return (lengths - 1).reshape((1, -1) + (1,) * (ndim - 2))

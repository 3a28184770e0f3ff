"""Sequence to sequence: one network reads, its last state is the first of another, which writes."""

import copy
from collections.abc import Iterator

import numpy as np

from . import _check, _feedback
from ._params import Params
from .bptt import Full, Pass
from .cells import Cell
from .data.batches import Batch
from .decode import Beams, Generated
from .layers.recurrent import Recurrent
from .losses import CrossEntropy, MeanSquaredError
from .model import Model


class _LabelSequences(CrossEntropy):
    """Cross-entropy of targets that are whole label sequences."""

    per_sequence = True


class EncoderDecoder:
    """An encoder reads a sequence; a decoder, begun from its last state, writes another of another length [Cho et al. 2014].

    Goodfellow et al. 2016, section 10.4. In training the decoder is fed the target's labels (or what `forcing` says), in use its own.

    Parameters
    ----------
    encoder : tuple of layers
        As of a `Model`: an `Embedding` or none, then `Recurrent` layers, in one direction (``reverse=True`` reads backwards, which
        helps [Sutskever et al. 2014]).
    decoder : tuple of layers
        An `Embedding` of as many symbols as there are outputs, `Recurrent` layers, and a `Linear` of logits. Its recurrent layers have
        the encoder's cells, sizes and numbers.
    stop : int
        The symbol that ends a target, one of the decoder's; also what the decoder is given first. It does not stand in the data.

    Attributes
    ----------
    params : Params
        All parameters: ``params["encoder.0.weight"]``, ``params["decoder.1.weight_hh_l0"]``, ...

    Notes
    -----
    Targets are label sequences (B, S), -1 behind their ends, or a list of sequences. The first call compiles kernels (some seconds; kept
    on disk; ``fastrnn warmup`` does it ahead of time).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> encoder = fr.Embedding(10, 8), fr.GRU(8, 16)
    >>> decoder = fr.Embedding(11, 8), fr.GRU(8, 16), fr.Linear(16, 11)
    >>> model = fr.EncoderDecoder(encoder, decoder, stop=10)
    >>> x, target = np.array([[1, 2], [3, 4], [5, 6]]), [[5, 3, 1], [6, 4]]
    >>> history = fr.fit(model, (x, target, [3, 2]), epochs=2)
    >>> model.generate(x, 4, lengths=[3, 2]).symbols.shape
    (4, 2)
    """

    readout = "every"

    def __init__(self, encoder, decoder, *, stop: int):
        self.encoder = Model(*encoder, loss=MeanSquaredError(), readout="every")
        self.decoder = Model(*decoder, loss=CrossEntropy(), readout="every")
        self.loss = _LabelSequences()
        for name, model in (("encoder", self.encoder), ("decoder", self.decoder)):
            for layer in model._recurrent:
                if not isinstance(layer, Recurrent) or layer.bidirectional:
                    raise ValueError(f"{name}: Recurrent layers of one direction are required (reverse=True reads backwards)")
        if not isinstance(encoder[-1], Recurrent):
            raise ValueError(f"encoder: a Recurrent is required as its last layer; got {type(encoder[-1]).__name__}")
        theirs, ours = ([_shape(layer) for layer in model._recurrent] for model in (self.encoder, self.decoder))
        if theirs != ours:
            raise ValueError(f"decoder: the encoder's (cell states, layers, units) {theirs} are required; got {ours}")
        if self.encoder.dtype != self.decoder.dtype:
            raise ValueError(f"decoder: dtype {self.encoder.dtype} is required, the encoder's; got {self.decoder.dtype}")
        places = self.encoder.device.name, self.decoder.device.name
        if places[0] != places[1]:
            raise ValueError(f"decoder: device={places[0]!r} is required, the encoder's; got {places[1]!r}")
        _feedback.feed_of(self.decoder, None)
        if self.decoder._chain.embedding is None:
            raise ValueError(f"decoder: an Embedding is required as its first layer; got {type(decoder[0]).__name__}")
        self.num_symbols = self.decoder._chain.output_size
        self.stop = _check.integer("stop", stop, 0, self.num_symbols - 1)
        if {id(layer) for layer in self.encoder.layers} & {id(layer) for layer in self.decoder.layers}:
            raise ValueError("decoder: layers of its own are required; got one of the encoder's. Build a second one for a second place")
        self.own(Params.join({"encoder": self.encoder.params, "decoder": self.decoder.params})[0])
        self.dtype, self.device = self.params.dtype, self.encoder.device

    def __deepcopy__(self, memo) -> "EncoderDecoder":
        new = object.__new__(type(self))
        memo[id(self)] = new
        vars(new).update(copy.deepcopy(vars(self), memo))
        new.own(new.params)
        return new

    def own(self, params: Params) -> None:
        """Take these for `params`, of the same names and shapes, and give both models views of them."""
        self.params = params
        for model, flat in zip((self.encoder, self.decoder), self._halves(params)):
            model.own(Params(model.params.shapes, params.dtype, flat))

    def _halves(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
        """The encoder's part of a buffer, and the decoder's."""
        size = self.encoder.params.flat.size
        return params.flat[:size], params.flat[size:]

    # Use

    def generate(self, x, steps: int, *, lengths=None, temperature=0.0, top_k=None, top_p=1.0, seed=0) -> Generated:
        """Read x (T, B, D) or (T, B), then write at most `steps` symbols, each sequence up to its stop symbol.

        The other arguments are those of `Model.generate`; by default the likeliest symbol is taken.
        """
        start, state = self._start(x, lengths)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        return self.decoder.generate(start, steps, state=state, stop=self.stop, **options)

    def beam_search(self, x, steps: int, width: int, *, lengths=None) -> Beams:
        """Read x, then find outputs of high probability; see `Model.beam_search`."""
        start, state = self._start(x, lengths)
        return self.decoder.beam_search(start, steps, width, state=state, stop=self.stop)

    def predict(self, x, lengths=None, steps: int = 100) -> list[np.ndarray]:
        """The symbols written for each sequence, the likeliest at every step, without the stop symbol."""
        symbols, ends = (found := self.generate(x, steps, lengths=lengths)).symbols, found.lengths
        return [row[:end][row[:end] != self.stop] for row, end in zip(symbols.T, ends)]

    def evaluate(self, x, target, lengths=None, weights=None, state=None) -> dict[str, float]:
        """``loss`` and ``accuracy`` of symbols, the decoder fed the target's; ``exact``, the share of sequences written right."""
        return self._evaluate(Batch(x, target, lengths, weights), state)[0]

    # What fit works with

    def gradient(self, x, target, lengths=None, **options) -> Pass:
        """Loss and gradients of one batch; arguments as of `passes`."""
        return next(self.passes(x, target, lengths, **options))

    def passes(
        self, x, target, lengths=None, *, weights=None, state=None, bptt: Full | None = None, rng=None, forcing=None, update: int = 0
    ) -> Iterator[Pass]:
        """One `Pass`, through the decoder and back into the encoder.

        Parameters
        ----------
        x : array_like, shape (T, B, D), or (T, B) integers
        target : array_like of int, shape (B, S), -1 behind each sequence's end; or a list of B sequences
        lengths : array_like of int, shape (B,), optional
            Of x.
        weights : array_like, shape (B,), optional
        bptt : Full, optional
        rng, forcing, update : optional
            As of `Model.passes`; what is forced is the decoder.
        """
        if state is not None:
            raise ValueError("state: None is required, as the decoder begins where the encoder ends; fit with carry_state=False")
        if bptt is not None and not isinstance(bptt, Full):
            raise ValueError(f"bptt: Full() is required for an EncoderDecoder; got {type(bptt).__name__}")
        bptt = bptt or Full()
        x, lengths = self.encoder._inputs(x, lengths)
        batch = self._written(x, target, weights)
        _, read, finals = self.encoder._forward(x, lengths, None, rng, memory=bptt.memory)
        entering = _feedback.entering(self.decoder, forcing, batch.x, batch.target, batch.lengths, rng, update)
        item = bptt.forward(self.decoder, batch, finals, rng, entering)
        grads = self.params.like()
        models = self.encoder, self.decoder
        encoded, decoded = (Params(model.params.shapes, self.dtype, flat) for model, flat in zip(models, self._halves(grads)))
        starts, clipped = self.decoder._backward(item.trace, item.dprediction, None, decoded, clip=bptt.clip)
        _, cut = self.encoder._backward(read, None, starts, encoded, clip=bptt.clip)
        yield Pass(item.loss, grads, (), item.prediction, item.weight, cut + clipped)

    def _evaluate(self, batch: Batch, state) -> tuple[dict[str, float], tuple]:
        if state is not None:
            raise ValueError("state: None is required, as the decoder begins where the encoder ends")
        x, lengths = self.encoder._inputs(batch.x, batch.lengths)
        written = self._written(x, batch.target, batch.weights)
        _, _, finals = self.encoder._forward(x, lengths, None, None, record=False)
        values = self.decoder.evaluate(written.x, written.target, written.lengths, written.weights, state=finals)
        found = self.decoder.generate(written.x[:1], written.x.shape[0], state=finals, stop=self.stop, temperature=0.0)
        inside = np.arange(written.x.shape[0])[:, None] < written.lengths
        right = (found.lengths == written.lengths) & ((found.symbols == written.target) | ~inside).all(axis=0)
        weights = np.ones(x.shape[1]) if batch.weights is None else np.asarray(batch.weights, float)
        return values | {"exact": float(right @ weights / weights.sum()) if weights.sum() else 0.0}, ()

    def _written(self, x, target, weights) -> Batch:
        """What the decoder is fed and should write: (S + 1, B) symbols, begun and ended by the stop symbol."""
        labels = _check.labels("target", target, x.shape[1])
        inside = labels >= 0
        ends = inside.sum(axis=1)
        if (inside != (np.arange(labels.shape[1]) < ends[:, None])).any():
            raise ValueError("target: -1 is required behind a label sequence's end only; got labels after a negative one")
        if (labels >= self.num_symbols).any() or (labels == self.stop).any():
            worst = labels[(labels >= self.num_symbols) | (labels == self.stop)][0]
            raise ValueError(f"target: labels from 0 to {self.num_symbols - 1} but the stop symbol {self.stop} are required; got {worst}")
        weights = None if weights is None else _check.array("weights", weights, (labels.shape[0],), "float64", meaning="(one a sequence)")
        fed = np.full((labels.shape[1] + 1, labels.shape[0]), self.stop)
        fed[1:] = np.where(inside, labels, self.stop).T
        return Batch(fed, np.concatenate([fed[1:], fed[:1]]), ends + 1, weights)

    def _target_weight(self, batch: Batch, metric: str) -> float:
        """The sum of the weights of what a metric is a mean over: the symbols to write, or the sequences."""
        written = self._written(np.asarray(batch.x), batch.target, batch.weights)
        weights = np.ones(len(written.lengths)) if written.weights is None else written.weights
        return float(weights.sum() if metric == "exact" else written.lengths @ weights)

    def _start(self, x, lengths) -> tuple[np.ndarray, tuple]:
        """What the decoder is given first, and the state that it begins from."""
        x, lengths = self.encoder._inputs(x, lengths)
        _, _, finals = self.encoder._forward(x, lengths, None, None, record=False)
        return np.full((1, x.shape[1]), self.stop), finals

    # Files

    def save(self, path) -> None:
        """Write configuration and parameters to a file that `fastrnn.load` reads."""
        from .io import save

        save(self, path)

    def config(self) -> dict:
        """What builds this model again, but for its weights: nothing but JSON types."""
        return {"encoder": self.encoder.config(), "decoder": self.decoder.config(), "stop": self.stop}

    @classmethod
    def from_config(cls, config: dict, cells: dict[str, Cell] | None = None) -> "EncoderDecoder":
        """The model that `config` describes; `cells` gives by name the cells that are not built in."""
        parts = [Model.from_config(config[name], cells).layers for name in ("encoder", "decoder")]
        return cls(*parts, stop=config["stop"])


def _shape(layer: Recurrent) -> tuple:
    return layer.cell.states, layer.num_layers, layer.hidden_size

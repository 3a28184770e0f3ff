"""A network with weights of its own for every step: what an Elman network would be without parameter sharing."""

import copy

import numpy as np

import fastrnn as fr


class Unshared:
    """h_t = tanh(W_t x_t + U_t h_{t-1} + b_t), and at a sequence's end the logits V_t h_t + c_t: nothing is common to two steps.

    Each step is a recurrent network run for one step, so the gradient, exact, is chained by hand through their states. There is
    nothing for a sequence longer than the number of steps.

    Parameters
    ----------
    steps, input_size, hidden_size, output_size : int
    dtype : {"float32", "float64"}
    seed : int

    Examples
    --------
    >>> net = Unshared(20, 8, 16, 4)
    >>> x, target, lengths = fr.data.Needle((1, 20)).sample(5, np.random.default_rng(0))
    >>> net.predict(x, lengths).shape, net.params.flat.size
    ((5, 4), 9680)
    """

    def __init__(self, steps: int, input_size: int, hidden_size: int, output_size: int, *, dtype: str = "float32", seed: int = 0):
        seeds = [int(state) for state in np.random.SeedSequence(seed).generate_state(2 * steps)]
        self.cells = [fr.RNN(input_size, hidden_size, dtype=dtype, seed=k) for k in seeds[:steps]]
        self.readouts = [fr.Linear(hidden_size, output_size, dtype=dtype, seed=k) for k in seeds[steps:]]
        layers = {f"{t}.step": cell for t, cell in enumerate(self.cells)} | {f"{t}.readout": layer for t, layer in enumerate(self.readouts)}
        self.params, parts = fr.Params.join({name: layer.params for name, layer in layers.items()})
        for name, layer in layers.items():
            layer.params = parts[name]
        self.hidden_size, self.output_size, self.loss = hidden_size, output_size, fr.CrossEntropy()

    def continued(self, steps: int) -> "Unshared":
        """To predict with: the same network with the last step's weights used again at every later step, up to `steps`."""
        longer, more = copy.copy(self), steps - len(self.cells)
        longer.cells, longer.readouts = self.cells + self.cells[-1:] * more, self.readouts + self.readouts[-1:] * more
        return longer

    def predict(self, x, lengths) -> np.ndarray:
        """Logits (B, O) at each sequence's end, for x (T, B, D) and lengths (B,) of at least 1."""
        return self._forward(x, lengths)[0]

    def gradient(self, x, target, lengths) -> tuple[float, fr.Params]:
        """The mean loss and its gradient by every parameter; zero for the steps that no sequence reaches."""
        logits, tapes = self._forward(x, lengths)
        loss, dlogits, _ = self.loss.value_and_gradient(logits, target)
        dh, grads = np.zeros((1, len(logits), self.hidden_size), logits.dtype), self.params.like()
        for t, (tape, ends, kept) in reversed(list(enumerate(tapes))):
            dend, found = self.readouts[t].backward(kept, dlogits[ends])
            self._add(grads, f"{t}.readout", found)
            dh[0, ends] += dend
            back = self.cells[t].backward(tape, dstate=dh)
            self._add(grads, f"{t}.step", back.params)
            dh = back.state
        return loss, grads

    def _forward(self, x, lengths):
        """Logits, and for every step the tape of the cell, which sequences end there, and the tape of the readout."""
        if len(x) > len(self.cells):
            raise ValueError(f"x: at most {len(self.cells)} steps are required, as no later one has weights; got {len(x)}")
        logits, tapes, h = np.zeros((len(lengths), self.output_size), self.params.dtype), [], None
        for t, (cell, readout) in enumerate(zip(self.cells[: len(x)], self.readouts)):
            _, h, tape = cell.forward(x[t : t + 1], h, lengths=np.clip(lengths - t, 0, 1))  # who has ended stays as he is
            ends = np.flatnonzero(lengths == t + 1)
            logits[ends], kept = readout.forward(h[0, ends])
            tapes.append((tape, ends, kept))
        return logits, tapes

    @staticmethod
    def _add(grads: fr.Params, prefix: str, found: fr.Params) -> None:
        for name, array in found.items():
            grads[f"{prefix}.{name}"] += array

"""A one-way network whose outputs come some steps late, so that each may depend on what follows."""

import numpy as np

from .. import _check, _device
from .._params import Params
from ._network import Combined
from .recurrent import Gradients, Recurrent, Tape


class Delayed(Combined):
    """y at step t is what the network puts out at step t + delay: it has seen x up to t + delay [Graves & Schmidhuber 2005, sec. 3].

    Each sequence is read on for `delay` steps of zeros beyond its own end, so that it has an output at every step, also where the delay
    is longer than the sequence. A sequence of length 0 is not read on.

    Parameters
    ----------
    network : Recurrent
        One way, in the direction of time.
    delay : int
        At least 1.

    Attributes
    ----------
    networks : tuple of one Recurrent
        Its parameters and names are this network's.

    Notes
    -----
    The tape, and gradients by step (`details=True`), are those of the network itself: T + delay steps. The state that comes out has
    seen the zeros; it is the readout of the last step, and nothing to go on from.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> net = fr.Delayed(fr.GRU(3, 4), 2)
    >>> x = np.zeros((7, 1, 3), "float32")
    >>> y, h = net(x)
    >>> x[3] = 1.0
    >>> [int(t) for t in np.flatnonzero((net(x)[0] != y).any(axis=(1, 2)))]
    [1, 2, 3, 4, 5, 6]
    """

    def __init__(self, network: Recurrent, delay: int):
        if not isinstance(network, Recurrent):
            raise TypeError(f"network: a Recurrent, such as LSTM(...), is required; got {type(network).__name__}")
        for option in ("bidirectional", "reverse", "batch_first"):
            if getattr(network, option):
                raise ValueError(f"network: a network with {option}=False is required; got {option}=True")
        self.networks, self.delay = (network,), _check.integer("delay", delay, minimum=1)

    @property
    def params(self) -> Params:
        return self.networks[0].params

    @params.setter
    def params(self, params: Params) -> None:
        self.networks[0].params = params

    @property
    def output_size(self) -> int:
        return self.networks[0].output_size

    def config(self) -> dict:
        """What builds this network again, but for its weights."""
        return {"network": self.networks[0].config(), "delay": self.delay}

    def __call__(self, x, state=None, *, lengths=None):
        """Forward only, nothing kept: (y, state), as `forward` returns them."""
        x, lengths = self._read_on(x, lengths)
        y, state = self.networks[0](x, state, lengths=lengths)
        return y[self.delay :], state

    def forward(self, x, state=None, *, lengths=None, **options):
        """(y, state, tape) as `Recurrent.forward` returns them, y (T, B, output_size) ahead of its time; the same options."""
        x, lengths = self._read_on(x, lengths)
        y, state, tape = self.networks[0].forward(x, state, lengths=lengths, **options)
        return y[self.delay :], state, tape

    def backward(self, tape: Tape, dy=None, dstate=None, *, details=False, clip=None, begin=0) -> Gradients:
        """Gradients of a scalar L from dL/dy and dL/dstate (each 0 where not given), by back-propagation through time.

        `begin` must be 0: with a delay there is no present to go back from.
        """
        if begin != 0:
            raise ValueError(f"begin: 0 is required for a network with a delay, which has no present to go back from; got {begin}")
        T, lengths = tape.T - self.delay, tape.rows.lengths[0] - self.delay
        if dy is not None:
            dy = self.device.array("dy", dy, (T, len(lengths), self.output_size), self.dtype)
            dy = self.device.xp.concatenate([self.device.zeros((self.delay, *dy.shape[1:]), self.dtype), dy])
        grads = self.networks[0].backward(tape, dy, dstate, details=details, clip=clip)
        return grads._replace(x=self._within(grads.x[:T], lengths))

    def draw_masks(self, B: int, rng) -> list:
        """Recurrent dropout masks of the network."""
        return self.networks[0].draw_masks(B, rng)

    def final_output(self, state) -> np.ndarray:
        """The output at each sequence's last step: (B, output_size), from the state."""
        return self.networks[0].final_output(state)

    def final_output_backward(self, state, dy):
        """dL/dstate from the gradient of `final_output`."""
        return self.networks[0].final_output_backward(state, dy)

    def _read_on(self, x, lengths) -> tuple[np.ndarray, np.ndarray]:
        """x (T + delay, B, D) with zeros beyond each sequence's end, and lengths that take in `delay` of them."""
        x = self.device.array("x", x, ("T", "B", self.input_size), self.dtype, meaning="(time first)")
        (T, B, D), lengths = x.shape, _check.lengths(_device.host(lengths), *x.shape[:2])
        longer = self.device.zeros((T + self.delay, B, D), self.dtype)
        longer[:T] = self._within(x, lengths)
        return longer, np.where(lengths > 0, lengths + self.delay, 0)

    def _within(self, array, lengths: np.ndarray):
        """An array (T, B, ...) with zeros beyond each sequence's end."""
        valid = self.device.put(np.arange(len(array))[:, None, None] < lengths[:, None])
        return self.device.xp.where(valid, array, self.dtype.type(0))

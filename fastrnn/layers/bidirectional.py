"""Two one-way networks side by side, of any two cells and sizes: one from the first step to the last, one back."""

from typing import NamedTuple

import numpy as np

from .. import _check
from .._params import Params
from ._merge import MERGES, merged, merged_backward
from ._network import Combined
from .recurrent import Clipped, Gradients, Recurrent, Tape


class BidirectionalTape(NamedTuple):
    """What `Bidirectional.forward` keeps: the tape of each direction, where every state and gate can be seen, and its output.

    Attributes
    ----------
    forward, backward : Tape
    y : tuple of two ndarrays, shape (T, B, H) each
    """

    forward: Tape
    backward: Tape
    y: tuple[np.ndarray, np.ndarray]


class Bidirectional(Combined):
    """Two networks on the same input, one from each sequence's first step to its last, one back [Schuster & Paliwal 1997].

    For directions that differ: in cell, size, number of layers, or options. The two meet in the merged output and nowhere else; for a
    stack in which every layer sees both directions of the one below, put one after the other in a `Model`. Directions that are alike
    are ``Recurrent(..., bidirectional=True)``, of the same bits, under PyTorch's names.

    Parameters
    ----------
    forward : Recurrent
        One way.
    backward : Recurrent
        One way, with ``reverse=True``. Give it a `seed` of its own: equal networks with equal seeds start with equal weights.
    merge : {"concat", "sum", "mean", "product"}
        All but "concat" need equal hidden sizes.

    Attributes
    ----------
    networks : tuple of two Recurrent
        Their parameters are views of this network's, which are called ``forward.weight_ih_l0``, ``backward.weight_ih_l0``, ...

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> net = fr.Bidirectional(fr.LSTM(3, 4), fr.GRU(3, 6, seed=1, reverse=True))
    >>> y, ((h, c), h_back) = net(np.zeros((7, 2, 3)), lengths=[7, 4])
    >>> y.shape, h.shape, h_back.shape
    ((7, 2, 10), (1, 2, 4), (1, 2, 6))
    """

    def __init__(self, forward: Recurrent, backward: Recurrent, *, merge: str = "concat"):
        for name, network, reverse in (("forward", forward, False), ("backward", backward, True)):
            if not isinstance(network, Recurrent):
                raise TypeError(f"{name}: a Recurrent, such as LSTM(...), is required; got {type(network).__name__}")
            for option, value in (("bidirectional", False), ("reverse", reverse), ("batch_first", False)):
                if getattr(network, option) is not value:
                    raise ValueError(f"{name}: a network with {option}={value} is required; got {option}={not value}")
        self.merge = _check.choice("merge", merge, MERGES)
        for name in ("input_size", "dtype") + ("output_size",) * (merge != "concat"):
            a, b = getattr(forward, name), getattr(backward, name)
            if a != b:
                raise ValueError(f"backward: {name} {a}, that of the forward network, is required; got {b}")
        places = [network.device.name for network in (forward, backward)]
        if places[0] != places[1]:
            raise ValueError(f"backward: device={places[0]!r}, that of the forward network, is required; got {places[1]!r}")
        self.networks = forward, backward
        self.params, _ = Params.join({"forward": forward.params, "backward": backward.params})

    @property
    def params(self) -> Params:
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self._params, start = params, 0
        for network in self.networks:
            stop = start + network.params.flat.size
            network.params = Params(network.params.shapes, params.dtype, params.flat[start:stop])
            start = stop

    @property
    def output_size(self) -> int:
        sizes = [network.output_size for network in self.networks]
        return sum(sizes) if self.merge == "concat" else sizes[0]

    def config(self) -> dict:
        """What builds this network again, but for its weights."""
        forward, backward = self.networks
        return {"forward": forward.config(), "backward": backward.config(), "merge": self.merge}

    def __call__(self, x, state=None, *, lengths=None):
        """Forward only, nothing kept: (y, state), as `forward` returns them."""
        x = self._input(x)
        outputs, finals = zip(*(net(x, s, lengths=lengths) for net, s in zip(self.networks, _pair("state", state))))
        return merged(self.merge, *outputs), finals

    def forward(self, x, state=None, *, lengths=None, details=False, memory=None, rng=None, masks=None):
        """Run both networks and keep what backward needs.

        Parameters
        ----------
        x : array_like, shape (T, B, D)
        state : pair of states, optional
            That of the forward network and that of the backward one, each as its `forward` takes it, or None.
        lengths, details, rng : optional
            As `Recurrent.forward` takes them.
        memory : int, optional
            Bytes that the tapes may take, half of them each.
        masks : pair, optional
            From `draw_masks`.

        Returns
        -------
        y : ndarray, shape (T, B, output_size), read-only
        state : pair of states
            The forward network's at each sequence's end, the backward one's at its beginning.
        tape : BidirectionalTape
        """
        x = self._input(x)
        masks = self.draw_masks(x.shape[1], rng) if masks is None else masks
        options = {"lengths": lengths, "details": details, "rng": rng}
        options["memory"] = None if memory is None else _check.integer("memory", memory, minimum=2) // 2
        runs = [net.forward(x, s, masks=m, **options) for net, s, m in zip(self.networks, _pair("state", state), masks)]
        outputs, finals, tapes = zip(*runs)
        y = merged(self.merge, *outputs)
        if self.device.name == "cpu":  # arrays on the GPU know no such flag
            y.flags.writeable = False
        return y, finals, BidirectionalTape(*tapes, outputs)

    def backward(self, tape: BidirectionalTape, dy=None, dstate=None, *, details=False, clip=None, begin=0) -> Gradients:
        """Gradients of a scalar L from dL/dy and dL/dstate (each 0 where not given), by back-propagation through time.

        `dstate` is a pair, as the state is; so are `state`, `h`, `c` and `preactivations` of what is returned. `begin` must be 0: a
        network that runs from right to left has its first step last in time.
        """
        dys = None, None
        if dy is not None:
            dy = self.device.array("dy", dy, (*tape.y[0].shape[:2], self.output_size), self.dtype)
            dys = merged_backward(self.merge, *tape.y, dy)
        options = {"details": details, "clip": clip, "begin": begin}
        flows = _pair("dstate", dstate)
        # the backward network first, which refuses another beginning
        b, a = (self.networks[n].backward(tape[n], dys[n], flows[n], **options) for n in (1, 0))
        params = Params(self.params.shapes, self.dtype, self.device.xp.concatenate([a.params.flat, b.params.flat]))
        clipped = None if clip is None else Clipped(*(p + q for p, q in zip(a.clipped, b.clipped)))
        return Gradients(a.x + b.x, (a.state, b.state), params, clipped, *(zip(a[4:], b[4:]) if details else ()))

    def draw_masks(self, B: int, rng) -> tuple:
        """Recurrent dropout masks of both networks."""
        return tuple(network.draw_masks(B, rng) for network in self.networks)

    def final_output(self, state) -> np.ndarray:
        """Both networks' outputs at the end of their runs, merged: (B, output_size), from the state."""
        return merged(self.merge, *(network.final_output(s) for network, s in zip(self.networks, state)))

    def final_output_backward(self, state, dy) -> tuple:
        """dL/dstate from the gradient of `final_output`."""
        ends = [network.final_output(s) for network, s in zip(self.networks, state)]
        dys = merged_backward(self.merge, *ends, dy)
        return tuple(network.final_output_backward(s, d) for network, s, d in zip(self.networks, state, dys))

    def _input(self, x) -> np.ndarray:
        return self.device.array("x", x, ("T", "B", self.input_size), self.dtype, meaning="(time first)")


def _pair(name: str, state) -> tuple:
    """The states of the two networks."""
    if state is None:
        return None, None
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        came = f"{len(state)} entries" if isinstance(state, (tuple, list)) else type(state).__name__
        raise ValueError(f"{name}: a pair, of the forward and of the backward network, is required; got {came}")
    return tuple(state)

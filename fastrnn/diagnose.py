"""Looking into trained networks: Jacobians of the state."""

import numpy as np

from .layers.recurrent import Recurrent


def jacobian(network: Recurrent, x, state) -> np.ndarray:
    """The derivative of the state after a step by the state before it, at N points.

    Parameters
    ----------
    network : Recurrent
        Of one layer and one direction.
    x : array_like, shape (N, D)
        What enters at the step.
    state : array_like or tuple, shape (N, H) each
        h, or (h, c), before the step.

    Returns
    -------
    ndarray, shape (N, S H, S H), on the network's device
        J[n, i, j] = ds'_i / ds_j, s = (h, c) one after the other.

    Notes
    -----
    Exact: S H backward steps of N sequences of length 1 (Goodfellow et al. 2016, section 10.7 for what is made of them).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> rnn = fr.RNN(1, 2, activation="identity")
    >>> J = fr.jacobian(rnn, np.zeros((1, 1)), np.zeros((1, 2)))
    >>> bool(np.allclose(J[0], rnn.params["weight_hh_l0"]))
    True
    """
    if not isinstance(network, Recurrent) or network.num_layers > 1 or network.bidirectional or network.batch_first:
        raise ValueError("network: a Recurrent of one layer and one direction, time first, is required")
    device = network.device
    x = device.array("x", x, ("N", network.input_size), network.dtype)
    H, names, N = network.hidden_size, network.cell.states, x.shape[0]
    parts = state if isinstance(state, tuple) or (isinstance(state, list) and len(names) > 1) else (state,)
    if len(parts) != len(names):
        raise ValueError(f"state: {len(names)} array(s) ({', '.join(names)}) are required; got {len(parts)}")
    parts = [device.array(f"state {name}", part, (N, H), network.dtype)[None] for name, part in zip(names, parts)]
    _, _, tape = network.forward(x[None], _state(parts))
    result = device.empty((N, len(names) * H, len(names) * H), network.dtype)
    for i in range(len(names) * H):
        dstate = [device.zeros((1, N, H), network.dtype) for _ in names]
        dstate[i // H][:, :, i % H] = 1.0
        found = network.backward(tape, dstate=_state(dstate)).state
        result[:, i] = device.xp.concatenate([part[0] for part in (found if isinstance(found, tuple) else (found,))], axis=1)
    return result


def _state(parts: list):
    return parts[0] if len(parts) == 1 else tuple(parts)

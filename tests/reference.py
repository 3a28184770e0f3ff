"""The textbook in NumPy: the oracle that everything else is held against. Imports nothing from fastrnn.

Written to be read, not to be fast. Every function works in float64, in longdouble, and in their complex counterparts, so that
derivatives come from complex steps [Squire & Trapp 1998]: f'(a) = Im f(a + ih) / h has no cancellation, hence no step size to
choose, and is right to rounding. Piecewise functions decide on the real part.

Every array may carry one leading axis P of perturbed copies: weights (P, G*H, D), input (P, T, B, D), states (P, K, B, H), ...
Copies are evaluated side by side, and what does not depend on the perturbed array is computed once.

A parameter's gradient, as the tests take it:

>>> rng = np.random.default_rng(0)
>>> params = draw_params("gru", {}, 3, 5, rng, num_layers=2, bidirectional=True)
>>> x, state = rng.normal(size=(6, 4, 3)), rng.normal(size=(4, 4, 5))
>>> y, state_n = network("gru", {}, params, x, state, [6, 2, 0, 5], num_layers=2, bidirectional=True)
>>> exact = network_gradient(
...     "gru", {}, params, x, state, [6, 2, 0, 5], num_layers=2, bidirectional=True, dy=np.ones(y.shape), dstate=state_n
... )
>>> exact.params["weight_hh_l1_reverse"].shape
(15, 5)
"""

from typing import NamedTuple

import numpy as np

STEP = 1e-30  # its square is far below rounding, and small gradients do not underflow
STATES = {"rnn": ("h",), "lstm": ("h", "c"), "gru": ("h",), "indrnn": ("h",), "leaky": ("h",)}


# Activations ------------------------------------------------------------------------------------------------------


def sigmoid(x):
    """1 / (1 + e^-x), from e^-|x| so that nothing overflows and the lower tail keeps its relative accuracy."""
    e = np.exp(np.where(x.real < 0, x, -x))
    return np.where(x.real < 0, e, 1) / (1 + e)


def relu(x):
    """Slope 0 at 0, as in PyTorch; NaN stays NaN."""
    return np.where(x.real <= 0, 0, x)


def hard_sigmoid(x):
    """clip(x / 6 + 1 / 2, 0, 1), as in PyTorch."""
    return np.where(x.real <= -3, 0, np.where(x.real >= 3, 1, x / 6 + 0.5))


def elu(x):
    return np.where(x.real > 0, x, np.expm1(np.where(x.real > 0, 0, x)))


def selu(x):
    """Klambauer et al. 2017, eq. 2."""
    number = x.real.dtype.type  # from text, so that longdouble gets all its digits
    scale, alpha = number("1.0507009873554804934193349852946"), number("1.6732632423543772848170429916717")
    return scale * np.where(x.real > 0, x, alpha * np.expm1(np.where(x.real > 0, 0, x)))


def identity(x):
    return x


def activation(name: str):
    """The activation function of that name."""
    functions = (relu, sigmoid, hard_sigmoid, elu, selu, identity)
    return {"tanh": np.tanh, **{function.__name__: function for function in functions}}[name]


# One step ---------------------------------------------------------------------------------------------------------


def gates_of(cell: str, options: dict) -> str:
    """The blocks of rows of the weights, in order, one letter each."""
    return {"rnn": "h", "lstm": "igo" if options.get("coupled") else "ifgo", "gru": "rzn", "indrnn": "h", "leaky": "h"}[cell]


def step(cell: str, options: dict, params: dict, x, state: tuple, mask=1.0, nudge: dict | None = None):
    """One time step of one layer in one direction.

    Parameters
    ----------
    cell, options : str, dict
    params : dict
        ``weight_ih`` (G*H, D), ``weight_hh`` (G*H, H), ``bias_ih``, ``bias_hh`` (G*H,), and the cell's vectors (H,): names
        without a layer's suffix.
    x : ndarray, shape (B, D)
    state : tuple of ndarray, shape (B, H)
    mask : ndarray, shape (B, H)
        Multiplies the operand of the recurrent product (dropout).
    nudge : dict, optional
        What to add to the pre-activations, by name (``a_i``, ...), each (B, H).

    Returns
    -------
    state : tuple of ndarray, shape (B, H)
    internals : dict
        Gates by name, and the pre-activations ``a_<gate>``: products with the weights and their biases alone, that is before
        peepholes, a clip, or a unit's own recurrence.
    """
    function = {"rnn": _rnn, "lstm": _lstm, "gru": _gru, "indrnn": _indrnn, "leaky": _leaky}[cell]
    return function(options, params, x, state, mask, nudge or {})


def _times(x, weight):
    """x W^T, copy by copy."""
    return x @ np.swapaxes(weight, -1, -2)


def _vector(v):
    """A vector (H,), or its copies (P, H), such that it adds to (P, B, H)."""
    return v[..., None, :]


def _input_part(params, x):
    return _times(x, params["weight_ih"]) + _vector(params["bias_ih"])


def _recurrent_part(params, h):
    return _times(h, params["weight_hh"]) + _vector(params["bias_hh"])


def _rnn(options, params, x, state, mask, nudge):
    """Goodfellow et al. 2016, eq. 10.8-10.9."""
    (h,) = state
    f = activation(options.get("activation", "tanh"))
    a = _input_part(params, x) + _recurrent_part(params, h * mask) + nudge.get("a_h", 0)
    return (f(a),), {"a_h": a}


def _lstm(options, params, x, state, mask, nudge):
    """Goodfellow et al. 2016, eq. 10.40-10.44; peepholes: Gers & Schmidhuber 2000; coupled: Greff et al. 2017; clip: ONNX."""
    h, c = state
    gate = activation(options.get("gate_activation", "sigmoid"))
    squash = activation(options.get("activation", "tanh"))
    output = activation(options.get("output_activation", "tanh"))
    clip = options.get("clip")
    names = gates_of("lstm", options)

    def clipped(a):
        return a if clip is None else np.where(a.real <= -clip, -clip, np.where(a.real >= clip, clip, a))

    def peephole(name, cell_state):
        return _vector(params[f"peephole_{name}"]) * cell_state if options.get("peepholes") else 0

    blocks = np.split(_input_part(params, x) + _recurrent_part(params, h * mask), len(names), axis=-1)
    a = {name: block + nudge.get(f"a_{name}", 0) for name, block in zip(names, blocks)}
    i = gate(clipped(a["i"] + peephole("i", c)))
    f = 1 - i if options.get("coupled") else gate(clipped(a["f"] + peephole("f", c)))
    g = squash(clipped(a["g"]))
    c_new = f * c + i * g
    o = gate(clipped(a["o"] + peephole("o", c_new)))
    h_new = o * output(c_new)
    return (h_new, c_new), {"i": i, "f": f, "g": g, "o": o} | {f"a_{name}": block for name, block in a.items()}


def _gru(options, params, x, state, mask, nudge):
    """Cho et al. 2014 (reset before the product), and as PyTorch and cuDNN have it (after)."""
    (h,) = state
    gate, squash = activation(options.get("gate_activation", "sigmoid")), activation(options.get("activation", "tanh"))
    x_r, x_z, x_n = np.split(_input_part(params, x), 3, axis=-1)
    h_r, h_z, h_n = np.split(_recurrent_part(params, h * mask), 3, axis=-1)
    a_r, a_z = x_r + h_r + nudge.get("a_r", 0), x_z + h_z + nudge.get("a_z", 0)
    r, z = gate(a_r), gate(a_z)
    if options.get("reset_after", True):
        a_n, u_n = x_n + nudge.get("a_n", 0), h_n + nudge.get("a_u_n", 0)
        n, extra = squash(a_n + r * u_n), {"u_n": u_n, "a_u_n": u_n}
    else:
        h_n = np.split(_recurrent_part(params, r * h * mask), 3, axis=-1)[2]
        a_n = x_n + h_n + nudge.get("a_n", 0)
        n, extra = squash(a_n), {}
    return ((1 - z) * n + z * h,), {"r": r, "z": z, "n": n, "a_r": a_r, "a_z": a_z, "a_n": a_n} | extra


def _indrnn(options, params, x, state, mask, nudge):
    """Li et al. 2018, eq. 2. There is no recurrent product, so `mask` does nothing."""
    (h,) = state
    f = activation(options.get("activation", "relu"))
    a = _input_part(params, x) + nudge.get("a_h", 0)
    return (f(a + _vector(params["weight_hh"]) * h),), {"a_h": a}


def _leaky(options, params, x, state, mask, nudge):
    """tau dh/dt = -h + f(...), the right side's f held for a time dt."""
    (h,) = state
    f = activation(options.get("activation", "tanh"))
    log_tau, dt = _vector(params["log_tau"]), _vector(params["dt"])
    a = _input_part(params, x) + _recurrent_part(params, h * mask) + nudge.get("a_h", 0)
    alpha = -np.expm1(-dt / np.exp(log_tau))  # 1 - e^(-dt / tau)
    return ((1 - alpha) * h + alpha * f(a),), {"f": f(a), "a_h": a}


# Networks ---------------------------------------------------------------------------------------------------------


def draw_params(cell, options, D, H, rng, *, num_layers=1, bidirectional=False, merge="concat", scale=0.5) -> dict:
    """Parameters by name, normal with standard deviation `scale`. Leaky: tau from about 0.05 to 0.2, dt 0.05 seconds."""
    rows, params = len(gates_of(cell, options)) * H, {}
    for layer in range(num_layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 1 + bidirectional]:
            shapes = {"weight_ih": (rows, D), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
            if cell == "indrnn":
                shapes = {"weight_ih": (H, D), "bias_ih": (H,), "weight_hh": (H,)}
            if options.get("peepholes"):
                shapes |= {f"peephole_{gate}": (H,) for gate in gates_of(cell, options) if gate != "g"}
            params |= {name + suffix: scale * rng.standard_normal(shape) for name, shape in shapes.items()}
            if cell == "leaky":
                params |= {"log_tau" + suffix: np.log(0.1) + 0.35 * rng.standard_normal(H), "dt" + suffix: np.full(H, 0.05)}
        D = H * (2 if bidirectional and merge == "concat" else 1)
    return params


def network(
    cell,
    options,
    params,
    x,
    state=None,
    lengths=None,
    num_layers=1,
    bidirectional=False,
    reverse=False,
    merge="concat",
    *,
    masks=None,
    nudges=None,
    details=False,
):
    """A stack of recurrent layers.

    Parameters
    ----------
    cell, options : str, dict
        As `step` has them.
    params : dict
        By PyTorch's names: ``weight_ih_l0``, ``weight_hh_l1_reverse``, ``peephole_i_l0``, ...
    x : ndarray, shape (T, B, D)
    state : ndarray or tuple of ndarray, shape (layers * directions, B, H), optional
        Layer by layer, within it forward before reverse; zeros by default. A tuple where the cell has two states.
    lengths : array_like, shape (B,), optional
        What x holds beyond a sequence's length reaches nothing; y is zero there; the reverse direction starts at the end.
    reverse : bool
        One direction only, backwards in time; its parameters bear no ``_reverse``.
    merge : {"concat", "sum", "mean", "product"}
    masks : list, optional
        A layer: (mask on its input or None, one mask (B, H) or None a direction).
    nudges : dict, optional
        What to add at every step to a state once computed (``h``, ``c``) or to a pre-activation (``a_i``, ...), each of shape
        (layers * directions, T, B, H). Its derivative at 0 is dL/dh_t, dL/da_t, ...
    details : bool

    Returns
    -------
    y : ndarray, shape (T, B, H * directions if concatenated else H)
    state_n : ndarray or tuple of ndarray, shape of `state`
        At each sequence's end, in the direction of processing.
    internals : dict, only with details=True
        States, gates and pre-activations of every step by name, (layers * directions, T, B, H), by time, zero beyond the lengths.
    """
    T, B, _ = x.shape[-3:]
    H = params["weight_hh_l0"].shape[-1]
    directions = 2 if bidirectional else 1
    places = num_layers * directions
    names = STATES[cell]
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    states = (np.zeros((places, B, H)),) * len(names) if state is None else state if isinstance(state, tuple) else (state,)
    y = np.where((np.arange(T)[:, None] < lengths)[..., None], x, 0)
    finals, seen = [], []
    for layer in range(num_layers):
        between, recurrent = (None, [None] * directions) if masks is None else masks[layer]
        layer_input, outputs = y if between is None else y * between, []
        for n in range(directions):
            place = layer * directions + n
            suffix = f"_l{layer}" + "_reverse" * (n == 1)
            own = {name.removesuffix(suffix): array for name, array in params.items() if name.endswith(suffix)}
            start = tuple(s[..., place, :, :] for s in states)
            nudge = {name: array[..., place, :, :, :] for name, array in (nudges or {}).items()}
            mask = 1.0 if recurrent[n] is None else recurrent[n]
            steps, final = _direction(cell, options, own, layer_input, start, lengths, reverse or n == 1, mask, nudge, details)
            outputs.append(_stack([at["h"] for at in steps], axis=-3) if T else np.zeros((*x.shape[:-1], H)))
            finals.append(final)
            seen.append(steps)
        y = _merge(outputs, merge)
    state_n = tuple(_stack([final[k] for final in finals], axis=-3) for k in range(len(names)))
    state_n = state_n if len(names) > 1 else state_n[0]
    if not details:
        return y, state_n
    known = seen[0][0] if T else {}
    return y, state_n, {k: _stack([_stack([at[k] for at in steps], axis=-3) for steps in seen], axis=-4) for k in known}


def _direction(cell, options, params, x, state, lengths, backwards, mask, nudge, details):
    """One direction of one layer: what every step gave, by time (a list of dicts), and the final state."""
    T = x.shape[-3]
    steps = [{}] * T
    for t in reversed(range(T)) if backwards else range(T):
        at = {name: array[..., t, :, :] for name, array in nudge.items()}
        new, internals = step(cell, options, params, x[..., t, :, :], state, mask, at)
        new = tuple(s + at.get(name, 0) for name, s in zip(STATES[cell], new))
        valid = (t < lengths)[:, None]
        state = tuple(np.where(valid, after, before) for after, before in zip(new, state))
        shown = dict(zip(STATES[cell], new)) | internals if details else {"h": new[0]}
        steps[t] = {name: np.where(valid, array, 0) for name, array in shown.items()}
    return steps, state


def _merge(outputs, merge):
    if len(outputs) == 1:
        return outputs[0]
    forward, backward = np.broadcast_arrays(*outputs)
    if merge == "concat":
        return np.concatenate((forward, backward), axis=-1)
    return {"sum": forward + backward, "mean": (forward + backward) / 2, "product": forward * backward}[merge]


def _stack(arrays, axis):
    return np.stack(np.broadcast_arrays(*arrays), axis=axis)


# Derivatives ------------------------------------------------------------------------------------------------------


def complex_step(f, array):
    """Gradient of f: array -> real scalar, element by element. `f` must take complex arrays without conjugating them."""
    array = np.asarray(array)
    gradient = np.zeros(array.shape, np.result_type(array, np.float64))
    for index in np.ndindex(array.shape):
        perturbed = array.astype(np.result_type(array, np.complex128))
        perturbed[index] += 1j * STEP
        gradient[index] = np.imag(f(perturbed)) / STEP
    return gradient


def complex_step_copies(f, array, chunk=256):
    """The same, `chunk` elements at a time: f takes copies (P, *array.shape) to P scalars (P,), and a copy's from it alone."""
    array = np.asarray(array)
    gradient = np.zeros(array.size, np.result_type(array, np.float64))
    for start in range(0, array.size, chunk):
        P = min(chunk, array.size - start)
        copies = np.tile(array.ravel().astype(np.result_type(array, np.complex128)), (P, 1))
        copies[np.arange(P), start + np.arange(P)] += 1j * STEP
        value = np.asarray(f(copies.reshape(P, *array.shape)))
        if value.shape != (P,) and not (value.shape == () and value.dtype.kind == "f"):  # a real scalar: f ignores the array
            raise ValueError(f"f: one value a copy, shape ({P},), is required; got {value.shape}")
        gradient[start : start + P] = np.imag(value) / STEP
    return gradient.reshape(array.shape)


class Gradients(NamedTuple):
    """dL/d of everything, each of the shape of what it is the gradient of; `details` by name as `network` takes nudges."""

    x: np.ndarray
    state: object
    params: dict
    details: dict


def network_gradient(cell, options, params, x, state=None, lengths=None, *, dy=None, dstate=None, details=(), **settings) -> Gradients:
    """Gradients of L = sum(dy * y) + sum(dstate * state_n) for `network`, by complex steps.

    Parameters
    ----------
    dy : ndarray, shape of y, optional
    dstate : ndarray or tuple, shape of the state, optional
    details : sequence of str
        Names of `nudges` whose gradients are wanted too: ``h`` gives dL/dh_t with the state's components as independent
        coordinates (y_t counts as h_t), ``a_i`` gives dL/da_i.
    **settings
        The rest of `network`'s arguments.
    """
    places = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
    (T, B, _), H = x.shape, params["weight_hh_l0"].shape[-1]
    states = (np.zeros((places, B, H)),) * len(STATES[cell]) if state is None else state if isinstance(state, tuple) else (state,)
    dstates = dstate if isinstance(dstate, tuple) else (dstate,)

    def loss(params=params, x=x, states=states, nudges=None):
        y, state_n = network(cell, options, params, x, states, lengths, nudges=nudges, **settings)
        finals = state_n if isinstance(state_n, tuple) else (state_n,)
        terms = [(d * array).sum(axis=(-3, -2, -1)) for d, array in zip((dy, *dstates), (y, *finals)) if d is not None]
        return sum(terms, np.float64(0))

    dx = complex_step_copies(lambda copies: loss(x=copies), x)
    start = tuple(
        complex_step_copies(lambda copies, k=k: loss(states=states[:k] + (copies,) + states[k + 1 :]), states[k])
        for k in range(len(states))
    )
    grads = {
        name: complex_step_copies(lambda copies, name=name: loss(params=params | {name: copies}), array) for name, array in params.items()
    }
    at_steps = {
        name: complex_step_copies(lambda copies, name=name: loss(nudges={name: copies}), np.zeros((places, T, B, H))) for name in details
    }
    return Gradients(dx, start if len(start) > 1 else start[0], grads, at_steps)


def bptt_truncated(
    cell, options, params, x, state=None, lengths=None, *, window, stride=1, dy=None, dstate=None, num_layers=1
) -> list[Gradients]:
    """BPTT(h; h') of Williams & Peng [1990] with h = `window`, h' = `stride`, written out from its definition.

    There is an update after every `stride` steps, and after the last step. The update at time t takes the errors of the steps since
    the one before, and sends them back to step t - `window`, whose initial state counts as a constant. `dstate`, the error of the
    final state, belongs to the last update. The parameters are held fixed: BPTT's gradient is the sum of what is returned.

    Returns
    -------
    list of Gradients
        One an update; `x` of the full length; `state` zero unless the update reaches back to the first step.
    """
    T, B, _ = x.shape
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    updates, previous = [], 0
    for time in [*range(stride, T, stride), T]:
        start = max(0, time - window)
        _, at_start = network(cell, options, params, x[:start], state, lengths, num_layers)
        dy_since = None if dy is None else np.where(np.arange(start, time)[:, None, None] >= previous, dy[start:time], 0)
        gradients = network_gradient(
            cell, options, params, x[start:time], at_start, np.clip(lengths, start, time) - start,
            dy=dy_since, dstate=dstate if time == T else None, num_layers=num_layers,
        )  # fmt: skip
        dx = np.zeros(x.shape, gradients.x.dtype)
        dx[start:time] = gradients.x
        kept = gradients.state if start == 0 else _scaled(gradients.state, 0)
        updates.append(Gradients(dx, kept, gradients.params, {}))
        previous = time
    return updates


def _scaled(state, factor):
    return tuple(s * factor for s in state) if isinstance(state, tuple) else state * factor


# How far two gradients are apart ----------------------------------------------------------------------------------


def normwise(got, exact) -> float:
    """|got - exact| / |exact|, Euclidean; 0 / 0 = 0."""
    error, size = np.linalg.norm(np.ravel(got - exact)), np.linalg.norm(np.ravel(exact))
    return float(error / size) if size else float("inf" if error else 0.0)


def elementwise(got, exact) -> float:
    """The largest relative error of an element, those below a millionth of the largest being held to that."""
    largest = np.abs(exact).max(initial=0.0)
    if largest == 0:
        return float("inf" if np.any(got) else 0.0)
    return float((np.abs(got - exact) / np.maximum(np.abs(exact), 1e-6 * largest)).max())

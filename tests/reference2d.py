"""Recurrent networks over a grid in NumPy, pixel by pixel: the oracle of `Recurrent2D`. Imports nothing from fastrnn.

As in `reference`, every array may carry one leading axis of perturbed copies, and numbers may be complex.
"""

import numpy as np
from reference import Gradients, activation, complex_step_copies, sigmoid

GATES = {"rnn": ("h",), "lstm": ("i", "f_up", "f_left", "g", "o"), "gru": ("r", "z", "n", "m")}
STATES = {"rnn": ("h",), "lstm": ("h", "c"), "gru": ("h",)}
SLOTS = {"rnn": ("h",), "lstm": GATES["lstm"], "gru": ("n", "r", "z", "m", "u_n")}
CORNERS = {"top_left": "tl", "top_right": "tr", "bottom_left": "bl", "bottom_right": "br"}


def times(v, weight):
    """weight v, copy by copy: v (..., D), weight (..., N, D)."""
    return (weight @ v[..., None])[..., 0]


def step(cell, options, params, x, up, left, nudge):
    """One pixel of one image: x (..., D); `up` and `left` are tuples of states (..., H), or None beyond the border."""
    names = GATES[cell]
    inputs = times(x, params["weight_ih"]) + params["bias_ih"]
    recurrent = 0 * inputs + params["bias_hh"]
    for neighbour, weight in ((up, "weight_up"), (left, "weight_left")):
        if neighbour is not None:
            recurrent = recurrent + times(neighbour[0], params[weight])
    W, U = (dict(zip(names, np.split(part, len(names), axis=-1))) for part in (inputs, recurrent))
    a = {name: W[name] + U[name] + nudge.get(f"a_{name}", 0) for name in names}
    if cell == "rnn":
        return (activation(options.get("activation", "tanh"))(a["h"]),), {"a_h": a["h"]}
    if cell == "lstm":
        i, f_up, f_left, g, o = (np.tanh(a[name]) if name == "g" else sigmoid(a[name]) for name in names)
        c = i * g
        if up is not None:
            c = c + f_up * up[1]
        if left is not None:
            c = c + f_left * left[1]
        seen = {"i": i, "f_up": f_up, "f_left": f_left, "g": g, "o": o}
        return (o * np.tanh(c), c), seen | {f"a_{name}": a[name] for name in names}
    r, z, m = sigmoid(a["r"]), sigmoid(a["z"]), sigmoid(a["m"])
    a_n, u_n = W["n"] + nudge.get("a_n", 0), U["n"] + nudge.get("a_u_n", 0)
    n = np.tanh(a_n + r * u_n)
    if up is None and left is None:
        old, m = 0 * n, 0 * m
    elif up is None or left is None:
        old, m = (left or up)[0], 0 * m + (up is not None)
    else:
        old = m * up[0] + (1 - m) * left[0]
    seen = {"r": r, "z": z, "n": n, "m": m, "u_n": u_n, "a_n": a_n, "a_u_n": u_n, "a_r": a["r"], "a_z": a["z"], "a_m": a["m"]}
    return ((1 - z) * n + z * old,), seen


def network(cell, params, x, sizes=None, *, options=None, corner="top_left", merge="concat", nudges=None, details=False):
    """(y, final states), and with details everything by name, (corners, R, C, B, H). x (R, C, B, D), by pixel; zero beyond sizes."""
    R, C, B, _ = x.shape[-4:]
    H = params[next(name for name in params if name.startswith("weight_up"))].shape[-1]
    sizes = np.tile([R, C], (B, 1)) if sizes is None else np.asarray(sizes)
    corners = list(CORNERS) if corner == "all" else [corner]
    kind = np.result_type(x, *params.values(), *(nudges or {}).values(), np.float64)
    copies = np.broadcast_shapes(x.shape[:-4], *(p.shape[: p.ndim - 1 - name.startswith("weight")] for name, p in params.items()),
                                 *(n.shape[:-5] for n in (nudges or {}).values()))  # fmt: skip
    seen = {}
    finals = [np.zeros((*copies, len(corners), B, H), kind) for _ in STATES[cell]]
    y = np.zeros((*copies, len(corners), R, C, B, H), kind)
    for k, name in enumerate(corners):
        own = {key[:-3]: array for key, array in params.items() if key.endswith("_" + CORNERS[name])}
        for b, (rows, columns) in enumerate(sizes):
            states = {}
            for i in range(rows):
                for j in range(columns):
                    row = rows - 1 - i if name.startswith("bottom") else i
                    column = columns - 1 - j if name.endswith("right") else j
                    at = {key: array[..., k, row, column, b, :] for key, array in (nudges or {}).items()}
                    up, left = states.get((i - 1, j)), states.get((i, j - 1))
                    new, inner = step(cell, options or {}, own, x[..., row, column, b, :], up, left, at)
                    states[i, j] = tuple(s + at.get(key, 0) for key, s in zip(STATES[cell], new))
                    y[..., k, row, column, b, :] = states[i, j][0]
                    for key, value in (inner | dict(zip(STATES[cell], states[i, j]))).items() if details else ():
                        seen.setdefault(key, np.zeros(y.shape, kind))[..., k, row, column, b, :] = value
            for final, value in zip(finals, states[rows - 1, columns - 1]):
                final[..., k, b, :] = value
    parts = [y[..., k, :, :, :, :] for k in range(len(corners))]
    out = np.concatenate(parts, axis=-1) if merge == "concat" else sum(parts)
    return (out, tuple(finals), seen) if details else (out, tuple(finals))


def network_gradient(cell, params, x, sizes=None, *, dy, dstate, details=(), **settings) -> Gradients:
    """Gradients of L = sum(dy * y) + sum(dstate * final states), by complex steps; `details` as in `reference`."""

    def loss(params=params, x=x, nudges=None):
        y, finals = network(cell, params, x, sizes, nudges=nudges, **settings)
        return (dy * y).sum(axis=(-4, -3, -2, -1)) + sum((d * s).sum(axis=(-3, -2, -1)) for d, s in zip(dstate, finals))

    dx = complex_step_copies(lambda copies: loss(x=copies), x)
    grads = {
        name: complex_step_copies(lambda copies, name=name: loss(params=params | {name: copies}), array) for name, array in params.items()
    }
    shape = (dstate[0].shape[0], *x.shape[:3], dstate[0].shape[-1])
    at_pixels = {name: complex_step_copies(lambda copies, name=name: loss(nudges={name: copies}), np.zeros(shape)) for name in details}
    return Gradients(dx, None, grads, at_pixels)

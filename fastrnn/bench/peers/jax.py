"""JAX: `lax.scan` over the steps, the input product ahead of it, compiled as a whole."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from ..cases import Case, Data
from . import Built, Lacking

jax.config.update("jax_enable_x64", True)


def set_threads(n: int) -> None:
    """XLA makes a thread for every processor that the process may run on, and has no other setting."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) != n:
        raise Lacking(f"its threads are as many as processors, and this process cannot be held to {n} of them")


def build(case: Case, data: Data) -> Built:
    if case.variant == "training":
        raise Lacking("optimizers are another package's (optax)")
    weights = jax.tree.map(jnp.asarray, data.weights)
    if case.variant == "generation":
        return _generation(case, weights, jax.tree.map(jnp.asarray, data.readout))
    x, dy = jnp.asarray(data.x), jnp.asarray(data.dy)
    valid = None if data.lengths is None else jnp.arange(case.T)[:, None, None] < jnp.asarray(data.lengths)[:, None]

    def run(weights, x):
        y = x
        for layer in range(case.layers):
            ways = [_direction(case.cell, _named(weights, f"_l{layer}"), y, valid)]
            if case.directions == 2:
                ways.append(_direction(case.cell, _named(weights, f"_l{layer}_reverse"), y[::-1], valid)[::-1])
            y = jnp.concatenate(ways, axis=-1)
        return y

    forward = jax.jit(run)

    @jax.jit
    def gradient(weights, x):
        y, back = jax.vjp(run, weights, x)
        return y, back(dy)

    def arrays():
        y, (by_weights, dx) = gradient(weights, x)
        return {name: np.asarray(array) for name, array in ({"y": y, "dx": dx} | by_weights).items()}

    passes = {"forward": lambda: forward(weights, x).block_until_ready(), "both": lambda: jax.block_until_ready(gradient(weights, x))}
    return Built(passes, arrays)


def _named(weights: dict, suffix: str) -> dict:
    return {name.removesuffix(suffix): array for name, array in weights.items() if name.endswith(suffix)}


def _direction(cell: str, w: dict, x, valid):
    """One layer in one direction: x (T, B, D) to y (T, B, H); where `valid` is given, zero past each sequence's end."""
    H = w["weight_hh"].shape[1]
    z = x @ w["weight_ih"].T + _input_bias(cell, w)

    def step(state, at):
        z, inside = at
        new = _step(cell, w, state, z)
        if inside is not None:
            new = tuple(jnp.where(inside, a, b) for a, b in zip(new, state))
        return new, new[0] if inside is None else jnp.where(inside, new[0], 0)

    return jax.lax.scan(step, _start(cell, x.shape[1], H, x.dtype), (z, valid))[1]


def _start(cell: str, B: int, H: int, dtype) -> tuple:
    return (jnp.zeros((B, H), dtype),) * (2 if cell == "lstm" else 1)


def _input_bias(cell: str, w: dict):
    return w["bias_ih"] if cell == "gru" else w["bias_ih"] + w["bias_hh"]


def _step(cell: str, w: dict, state: tuple, z):
    """The state after a step whose input product is z."""
    h, sigmoid = state[0], jax.nn.sigmoid
    u = h @ w["weight_hh"].T
    if cell == "rnn":
        return (jnp.tanh(z + u),)
    if cell == "lstm":
        i, f, g, o = jnp.split(z + u, 4, -1)
        c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
        return sigmoid(o) * jnp.tanh(c), c
    (z_r, z_z, z_n), (u_r, u_z, u_n) = jnp.split(z, 3, -1), jnp.split(u + w["bias_hh"], 3, -1)
    r, keep = sigmoid(z_r + u_r), sigmoid(z_z + u_z)
    return ((1 - keep) * jnp.tanh(z_n + r * u_n) + keep * h,)


def _generation(case: Case, weights: dict, readout: dict) -> Built:
    w = _named(weights, "_l0")

    def step(carry, _):
        state, x = carry
        state = _step(case.cell, w, state, x @ w["weight_ih"].T + _input_bias(case.cell, w))
        x = state[0] @ readout["weight"].T + readout["bias"]
        return (state, x), x

    @jax.jit
    def run(x):
        return jax.lax.scan(step, (_start(case.cell, case.B, case.H, x.dtype), x), None, length=case.T)[1]

    x = jnp.zeros((case.B, case.D), case.dtype)
    return Built({"generate": lambda: run(x).block_until_ready()}, lambda: {"outputs": np.asarray(run(x))})

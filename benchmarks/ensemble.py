"""An ensemble in one `fit` beside PyTorch, one model after another, and JAX's vmap over members: the same weights, float32, in turns.

    python benchmarks/ensemble.py [--members N] [--rounds N] [--threads N] [--cells lstm ...]

A network (2 -> 32) and Linear(32 -> 2) on the final state, T = 100, B = 16: an update is forward, loss, backward and Adam. Prints
milliseconds an update and member (medians over rounds), the ratios to fastrnn's (above 1 where fastrnn is faster), and whether the
losses agree. PyTorch goes through a few of the members, as it takes each for itself. Without PyTorch or JAX their columns are empty.
"""

import argparse
import os
import platform
import sys

import numpy as np
from _turns import rounds, torch

import fastrnn as fr

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None

LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
T, B, D, H, O = 100, 16, 2, 32, 2
RATE = 1e-3
FEW = 8  # members that PyTorch goes through
UPDATES = 4  # of every member in one call of fit
TOLERANCE = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=fr.get_num_threads())
    parser.add_argument("--cells", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    given = parser.parse_args()
    fr.set_num_threads(given.threads)
    if torch is not None:
        torch.set_num_threads(given.threads)
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is not quiet (load {load:.1f}): these numbers mean little", file=sys.stderr)
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (np, fr, torch, jax) if m is not None)
    print(f"{versions}; {platform.machine()}, {given.threads} threads; {given.members} members, {D} -> {H}, T = {T}, B = {B}")
    print(f"{'cell':<5} {'fastrnn ms':>10} {'PyTorch ms':>11} {'ratio':>6} {'vmap ms':>8} {'ratio':>6}  agree")
    agree = True
    for cell in given.cells:
        calls, losses = _case(cell, given.members)
        seconds = rounds(calls, given.rounds)
        spread = max(np.abs(losses[name] - losses["fastrnn"][: len(losses[name])]).max() for name in losses)
        agree &= bool(spread <= TOLERANCE)
        per_member = {"fastrnn": given.members * UPDATES, "torch": min(FEW, given.members), "jax": given.members}
        each = {name: 1e3 * own / per_member[name] for name, own in seconds.items()}
        line = f"{cell:<5} {np.median(each['fastrnn']):>10.3f}"
        for name, width in (("torch", 11), ("jax", 8)):
            shown = name in each and f" {np.median(each[name]):>{width}.3f} {np.median(each[name] / each['fastrnn']):>6.1f}"
            line += shown or " " * (width + 8)
        print(f"{line}  {'yes' if spread <= TOLERANCE else 'NO'} ({spread:.0e})", flush=True)
    return 0 if agree else 1


def _case(cell: str, members: int) -> tuple[dict, dict]:
    """Calls to time by library, each of one update (`UPDATES` of fastrnn's) of all its members, and the losses of the first update."""
    model = fr.Model(fr.Recurrent(cell, D, H), fr.Linear(H, O), loss=fr.CrossEntropy())
    ensemble, rng = fr.Ensemble(model, members), np.random.default_rng(0)
    x, target = rng.standard_normal((members, T, B, D)).astype(np.float32), rng.integers(0, O, (members, B))
    data = fr.PerMember([[(x[e], target[e])] for e in range(members)])
    weights = {name: array.copy() for name, array in ensemble.params.items()}
    calls = {"fastrnn": lambda: fr.fit(ensemble, data, optimizer=fr.Adam(RATE), epochs=UPDATES)}
    losses = {"fastrnn": calls["fastrnn"]()["loss"][:, 0]}
    if torch is not None:
        calls["torch"] = _torch(cell, weights, x, target)
        losses["torch"] = np.array(calls["torch"]())
    if jax is not None and cell == "lstm":
        calls["jax"] = _jax(weights, x, target)
        losses["jax"] = calls["jax"]()
    return calls, losses


def _torch(cell: str, weights: dict, x, target):
    members = []
    for e in range(min(FEW, len(x))):
        network, linear = getattr(torch.nn, LAYERS[cell])(D, H), torch.nn.Linear(H, O)
        own = {name: torch.from_numpy(array[e].copy()) for name, array in weights.items()}
        network.load_state_dict({name[2:]: value for name, value in own.items() if name.startswith("0.")})
        linear.load_state_dict({name[2:]: value for name, value in own.items() if name.startswith("1.")})
        optimizer = torch.optim.Adam([*network.parameters(), *linear.parameters()], RATE)
        members.append((network, linear, optimizer, torch.from_numpy(x[e]), torch.from_numpy(target[e])))

    def update():
        losses = []
        for network, linear, optimizer, inputs, labels in members:
            optimizer.zero_grad()
            y, _ = network(inputs)
            loss = torch.nn.functional.cross_entropy(linear(y[-1]), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return update


def _jax(weights: dict, x, target):
    def loss(p, x, target):
        def step(state, x):
            h, c = state
            a = x @ p["0.weight_ih_l0"].T + h @ p["0.weight_hh_l0"].T + p["0.bias_ih_l0"] + p["0.bias_hh_l0"]
            i, f, g, o = jnp.split(a, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        (h, _), _ = jax.lax.scan(step, (jnp.zeros((B, H)), jnp.zeros((B, H))), x)
        logits = jax.nn.log_softmax(h @ p["1.weight"].T + p["1.bias"])
        return -jnp.take_along_axis(logits, target[:, None], axis=1).mean()

    def adam(p, g, m, v, t):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        return p - RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v

    @jax.jit
    def update(p, m, v, t):
        value, grads = jax.vmap(jax.value_and_grad(loss))(p, x, target)
        moved = {name: adam(p[name], grads[name], m[name], v[name], t) for name in p}
        return value, *({name: entry[k] for name, entry in moved.items()} for k in range(3))

    x, target, p = jnp.asarray(x), jnp.asarray(target), {name: jnp.asarray(array) for name, array in weights.items()}
    held = [p, jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p), 0]

    def once():
        held[3] += 1
        value, *held[:3] = update(*held)
        return np.asarray(value)

    return once


if __name__ == "__main__":
    sys.exit(main())

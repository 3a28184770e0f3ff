"""Small networks run forward and backward, everything they return in one dict: compiled, with bounds checks, or in the interpreter.

As a script, for processes with other settings of Numba: ``python small_runs.py out.npz dtype case...``.
"""

import sys

import numpy as np

import fastrnn as fr
from fastrnn._jit import kernel, pointwise
from fastrnn.math import sigmoid, sigmoid_backward, tanh, tanh_backward


def everything() -> fr.Cell:
    """A cell that uses all a cell can have: two states, unit parameters, and slots of every kind."""

    @pointwise
    def modulate(a, h, p):
        return sigmoid(a[1]) * h

    @pointwise
    def step(a, s, p):
        a_u, a_g, a_v, a_m = a
        g, n = sigmoid(a_g), tanh(a_u + a_m + p[0] * a_v)
        c = g * s[1] + n
        return (tanh(c) + p[1] * s[0], c), (g, n, a_v)

    @pointwise
    def step_backward(saved, s, s_new, p, ds_new):
        g, n, a_v = saved
        y = tanh(s_new[1])
        dc = ds_new[1] + ds_new[0] * tanh_backward(y)
        dn = dc * tanh_backward(n)
        return (dn, dc * s[1] * sigmoid_backward(g), dn * p[0], dn), (ds_new[0] * p[1], dc * g), (dn * a_v, ds_new[0] * s[0])

    @pointwise
    def modulate_backward(saved, h, p, du):
        g = saved[0]
        zero = type(h)(0.0)
        return g * h, (zero, du * h * sigmoid_backward(g), zero, zero), (du * g, zero)

    slots = (fr.Slot("u", "u", None), fr.Slot("g", "g", "g"), fr.Slot("v", None, "v"), fr.Slot("m", None, "m", modulated=True))
    return fr.Cell(
        "everything", ("u", "g", "v", "m"), slots, ("h", "c"), ("g", "n", "v"), step, step_backward,
        parameters=("scale", "skip"), defaults=(0.5, 0.1), modulate=modulate, modulate_backward=modulate_backward,
    )  # fmt: skip


CASES = {
    "everything": (everything, {}),
    "rnn": ("rnn", {}),
    "lstm": ("lstm", {}),
    "lstm_full": ("lstm", {"peepholes": True, "clip": 0.5}),
    "lstm_coupled": ("lstm", {"peepholes": True, "coupled": True}),
    "gru": ("gru", {}),
    "gru_before": ("gru", {"reset_after": False}),
    "indrnn": ("indrnn", {}),
    "leaky": ("leaky", {"learn_tau": True}),
}
SHAPES = ((5, 3, 2, 3, (5, 2, 0)), (3, 1, 1, 1, None), (2, 2, 19, 17, (1, 2)))  # T, B, D, H, lengths


def network(case: str, D: int, H: int, **options):
    cell, cell_options = CASES[case]
    cell = cell if isinstance(cell, str) else _once(cell)
    return fr.Recurrent(cell, D, H, cell_options=cell_options or None, **options)


def _once(make, made={}):  # noqa: B006
    """One object a cell, so that its kernels are compiled once."""
    if make not in made:
        made[make] = make()
    return made[make]


def flat(arrays) -> np.ndarray:
    """A state, or a tuple of states, in one array."""
    return np.stack(arrays) if isinstance(arrays, tuple) else arrays


def run(case: str, dtype: str) -> dict[str, np.ndarray]:
    """Everything that a forward and a backward of `case` return, over all SHAPES, both directions, two layers, masks and clipping."""
    found = {}
    for n, (T, B, D, H, lengths) in enumerate(SHAPES):
        net = network(case, D, H, dtype=dtype, num_layers=2, bidirectional=True, recurrent_dropout=0.3, seed=n)
        rng = np.random.default_rng(n)
        x = rng.standard_normal((T, B, D))
        state = [rng.standard_normal((4, B, H)) for _ in net.cell.states]
        y, end, tape = net.forward(x, state, lengths=lengths, details=True, rng=rng)
        dy, dend = rng.standard_normal(y.shape), [rng.standard_normal((4, B, H)) for _ in net.cell.states]
        grads = net.backward(tape, dy, dend, details=True)
        clipped = net.backward(tape, dy, dend, clip=0.05)
        arrays = {"y": y, "end": flat(end), "x": grads.x, "state": flat(grads.state), "params": grads.params.flat, "h": grads.h}
        arrays |= {"clipped": clipped.params.flat, "entries": np.array(clipped.clipped.entries)} | grads.preactivations
        arrays |= {f"tape_{name}": tape.gate(name) for name in net.cell.states + net.cell.saved}
        found |= {f"{case} {n} {name}": array for name, array in arrays.items()}
    return found


IMAGES = ((3, 4, 3, 2, 3, [[3, 4], [1, 2], [2, 1]]), (1, 1, 1, 1, 1, None), (3, 2, 2, 19, 17, [[2, 2], [3, 1]]))  # R, C, B, D, H, sizes


def grid(cell: str, dtype: str) -> dict[str, np.ndarray]:
    """Everything that a forward and a backward over images return, from all corners."""
    found = {}
    for n, (R, C, B, D, H, sizes) in enumerate(IMAGES):
        net, rng = fr.Recurrent2D(cell, D, H, corner="all", dtype=dtype, seed=n), np.random.default_rng(n)
        y, end, tape = net.forward(rng.standard_normal((R, C, B, D)), sizes=sizes, details=True)
        dend = [rng.standard_normal((4, B, H)) for _ in net.cell.states]
        grads = net.backward(tape, rng.standard_normal(y.shape), dend, details=True)
        arrays = {"y": y, "end": flat(end), "x": grads.x, "params": grads.params.flat, "h": grads.h} | grads.preactivations
        arrays |= {f"tape_{name}": tape.gate(name) for name in net.cell.states + net.cell.saved}
        arrays |= {f"a_{slot.name}": tape.preactivation(slot.name) for slot in net.cell.slots}
        found |= {f"grid {cell} {n} {name}": array for name, array in arrays.items()}
    return found


def closed(case: str, dtype: str) -> dict[str, np.ndarray]:
    """Everything that a closed loop returns: of values, and of symbols from a table; forward, backward, generated.

    Both go through a Linear, the cell and another Linear, and so through the same kernels, which take long to compile.
    """
    rng, found, (T, B, H, V) = np.random.default_rng(0), {}, (5, 4, 5, 3)
    lengths, read = np.array([5, 2, 0, 4]), np.array([2, 1, 2, 1])
    options = {"dtype": dtype, "initial_state": "learned", "recurrent_dropout": 0.3}

    def linear(D, O):
        return fr.Linear(D, O, activation="elu", dtype=dtype)

    def chain(seed):
        return linear(4, 4), network(case, 4, H, seed=seed, **options), linear(H, V)

    values = fr.Model(*chain(0), loss=fr.MeanSquaredError(), readout="every")
    symbols = fr.Model(fr.Embedding(V, 4, dtype=dtype), *chain(1), loss=fr.CrossEntropy(), readout="every")
    series, tokens = rng.standard_normal((T, B, 4)), rng.integers(0, V, (T, B))
    for name, model, x, target, feeds in (
        ("values", values, series, series[:, :, :3], ("output",)),
        ("symbols", symbols, tokens, tokens, ("probabilities", "sample")),
    ):
        for feed in feeds:
            forcing = fr.ScheduledSampling(0.3, feed)
            item = model.gradient(x, target, lengths, forcing=forcing, rng=np.random.default_rng(1), bptt=fr.Full(clip=0.02))
            found[f"{name} {feed} grads"] = item.grads.flat
            found |= {f"{name} {feed} prediction {b}": item.prediction[:length, b] for b, length in enumerate(lengths)}
            found |= {f"{name} {feed} state {n}": flat(state) for n, state in enumerate(item.state)}
    generated = values.generate(series, 4, lengths=read, inputs=rng.standard_normal((3, B, 1)))
    found |= {"generated values": generated.outputs, "generated values state": flat(generated.state[0])}
    drawn = symbols.generate(tokens, 6, lengths=read, stop=1, top_k=2, top_p=0.9)
    found |= {"generated symbols": drawn.symbols, "generated logits": drawn.outputs}
    beams = symbols.beam_search(tokens, 4, 5, lengths=read, stop=1)
    found |= {"beams": beams.symbols, "beams' scores": beams.log_probabilities}
    return {f"closed {case} {name}": array for name, array in found.items()}


def feedforward(dtype: str) -> dict[str, np.ndarray]:
    """A linear layer with every activation, and an embedding."""
    rng, found = np.random.default_rng(0), {}
    for name in ("tanh", "relu", "sigmoid", "hard_sigmoid", "elu", "selu", "identity"):
        layer = fr.Linear(5, 3, activation=name, dtype=dtype)
        y, tape = layer.forward(rng.standard_normal((7, 5)))
        dx, grads = layer.backward(tape, rng.standard_normal(y.shape))
        found |= {f"{name} y": y, f"{name} dx": dx, f"{name} params": grads.flat}
    layer = fr.Embedding(4, 3, dtype=dtype)
    y, tape = layer.forward([[0, 3], [3, 1]])
    found |= {"embedding y": y, "embedding params": layer.backward(tape, rng.standard_normal(y.shape))[1].flat}
    return found


@kernel
def read(array, n, result):
    """result[0] = array[n], which a bounds check refuses for n beyond the end."""
    result[0] = array[n]


def main(path: str, dtype: str, *cases: str) -> None:
    found = {}
    for case in cases:
        kind, _, name = case.rpartition(" ")
        if kind:
            found |= {"grid": grid, "closed": closed}[kind](name, dtype)
        else:
            found |= feedforward(dtype) if case == "feedforward" else run(case, dtype)
    try:
        read(np.zeros(4)[:2], 3, np.empty(1))
        found["checked"] = np.array(False)
    except IndexError:
        found["checked"] = np.array(True)
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

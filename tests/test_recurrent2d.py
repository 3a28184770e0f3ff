"""Networks over a grid against the NumPy twin, the one-dimensional networks, closed forms, and themselves."""

from math import comb

import numpy as np
import pytest
import reference
import reference2d
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn.cells2d import build

R, C, B, D, H = 4, 5, 3, 2, 3
SIZES = np.array([[4, 5], [1, 3], [3, 2]])
CELLS = tuple(reference2d.GATES)
CORNERS = tuple(reference2d.CORNERS)


def tuple_of(state):
    return state if isinstance(state, tuple) else (state,)


def network(cell, *, dtype="float64", seed=0, D=D, H=H, **options):
    """A network of moderately large weights, and its parameters as the twin takes them."""
    net = fr.Recurrent2D(cell, D, H, dtype=dtype, **options)
    net.params.flat[:] = 0.6 * np.random.default_rng(seed).normal(size=net.params.flat.size)
    return net, {key: array.astype(float) for key, array in net.params.items()}


def beyond(sizes, R=R, C=C):
    rows, columns = np.indices((R, C))
    return (rows[..., None] >= sizes[:, 0]) | (columns[..., None] >= sizes[:, 1])


def batch(net, seed=1, R=R, C=C, sizes=SIZES):
    """x and dL/dy with NaN in their padding, and dL/dstate."""
    rng, B, count = np.random.default_rng(seed), len(sizes), len(net._corners)
    x, dy = rng.normal(size=(R, C, B, net.input_size)), rng.normal(size=(R, C, B, net.output_size))
    x[beyond(sizes, R, C)] = dy[beyond(sizes, R, C)] = np.nan
    return x, dy, tuple(rng.normal(size=(count, B, net.hidden_size)) for _ in net.cell.states)


def gradients(net, x, dy, dstate, sizes=SIZES, **options):
    y, state, tape = net.forward(x, sizes=sizes)
    return y, state, net.backward(tape, dy, dstate, **options)


def assert_close(got, exact, what):
    normwise, elementwise = reference.normwise(got, exact), reference.elementwise(got, exact)
    assert normwise <= TOLERANCES["gradient_normwise"], (what, normwise)
    assert elementwise <= TOLERANCES["gradient_elementwise"], (what, elementwise)


def assert_same_bits(a, b):
    for left, right in zip(tuple_of(a), tuple_of(b), strict=True):
        assert np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()


# The pointwise pair -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", CELLS)
def test_step_backward_is_the_derivative_of_step(name, there):
    cell, rng, h = build(name), np.random.default_rng(7), 1e-30
    for _ in range(20):
        a, up, left, weights = (tuple(rng.normal(size=len(names)).tolist()) for names in (cell.slots, *(cell.states,) * 3))
        up, left = (v if real else (0.0,) * len(v) for v, real in zip((up, left), there))
        s_new, saved = cell.step(a, up, left, there)
        groups = cell.step_backward(saved, up, left, there, s_new, weights)
        for g, real in enumerate((True, *there)):
            for k, got in enumerate(groups[g]) if real else ():
                given = [[complex(v) for v in group] for group in (a, up, left)]
                given[g][k] += h * 1j
                exact = sum(w * v for w, v in zip(weights, cell.step(*map(tuple, given), there)[0])).imag / h
                assert got == pytest.approx(exact, rel=1e-12, abs=1e-15), (g, k)


# Against the twin -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_every_array_against_the_twin(cell):
    net, params = network(cell, corner="all")
    x, dy, dstate = batch(net)
    y, state, tape = net.forward(x, sizes=SIZES, details=True)
    grads = net.backward(tape, dy, dstate, details=True)
    clean, slots = np.nan_to_num(x), [f"a_{name}" for name in reference2d.SLOTS[cell]]
    y_ref, state_ref, seen = reference2d.network(cell, params, clean, SIZES, corner="all", details=True)
    assert_close(y, y_ref, "y")
    for name, got, exact in zip(net.cell.states, tuple_of(state), state_ref):
        assert_close(got, exact, f"final {name}")
    for name in net.cell.states + net.cell.saved:
        assert_close(tape.gate(name), seen[name], name)
    for name in slots:
        assert_close(tape.preactivation(name[2:]), seen[name], name)
    dy = np.nan_to_num(dy)
    exact = reference2d.network_gradient(
        cell, params, clean, SIZES, corner="all", dy=dy, dstate=dstate, details=[*net.cell.states, *slots]
    )
    assert_close(grads.x, exact.x, "x")
    for name, got in grads.params.items():
        assert_close(got, exact.params[name], name)
    assert_close(grads.h, exact.details["h"], "dL/dh")
    if grads.c is not None:
        assert_close(grads.c, exact.details["c"], "dL/dc")
    for name in slots:
        assert_close(grads.preactivations[name[2:]], exact.details[name], name)
    assert_same_bits(net(x, sizes=SIZES)[0], y)


@pytest.mark.parametrize("corner", [*CORNERS, "all"])
def test_corners_and_their_sum(corner):
    net, params = network("rnn", corner=corner, merge="sum")
    x, dy, dstate = batch(net)
    y, state, grads = gradients(net, x, dy, dstate)
    settings = {"corner": corner, "merge": "sum"}
    y_ref, state_ref = reference2d.network("rnn", params, np.nan_to_num(x), SIZES, **settings)
    assert_close(y, y_ref, "y")
    assert_close(state, state_ref[0], "state")
    exact = reference2d.network_gradient("rnn", params, np.nan_to_num(x), SIZES, dy=np.nan_to_num(dy), dstate=dstate, **settings)
    assert_close(grads.x, exact.x, "x")
    for name, got in grads.params.items():
        assert_close(got, exact.params[name], name)


def test_float32():
    wide, narrow = (fr.Recurrent2D("lstm", D, 8, corner="all", dtype=dtype, seed=3) for dtype in ("float64", "float32"))
    wide.load_state_dict(narrow.state_dict())  # the same numbers in both
    x, dy, dstate = batch(narrow)
    results = [gradients(net, x.astype("f4"), dy.astype("f4"), tuple(d.astype("f4") for d in dstate)) for net in (narrow, wide)]
    assert results[0][0].dtype == np.float32
    for got, exact in zip(*([y, g.x, g.params.flat] for y, _, g in results)):
        assert reference.normwise(np.nan_to_num(got), np.nan_to_num(exact)) <= TOLERANCES["float32_gradient"]


# One dimension is a special case -------------------------------------------------------------------------------------


@pytest.mark.parametrize("upright", [False, True], ids=["row", "column"])
@pytest.mark.parametrize("cell", CELLS)
def test_one_row_or_column_is_a_sequence_bit_for_bit(cell, upright):
    W, H = 40, 7
    line = fr.Recurrent(cell, D, H, dtype="float64")
    line.params.flat[:] = 0.6 * np.random.default_rng(2).normal(size=line.params.flat.size)
    net, _ = network(cell, H=H)
    blocks = [net.cell.gates.index(gate) for gate in line.cell.gates if gate != "f"]
    blocks += [net.cell.gates.index("f_up" if upright else "f_left")] if cell == "lstm" else []
    order = [line.cell.gates.index(gate) for gate in line.cell.gates if gate != "f"] + [1] * (cell == "lstm")
    rows, theirs = ((np.array(gates)[:, None] * H + np.arange(H)).ravel() for gates in (blocks, order))
    along = "weight_up_tl" if upright else "weight_left_tl"
    pairs = {"weight_ih_l0": "weight_ih_tl", "weight_hh_l0": along, "bias_ih_l0": "bias_ih_tl", "bias_hh_l0": "bias_hh_tl"}
    for name, twin in pairs.items():
        net.params[twin][rows] = line.params[name][theirs]
    lengths = np.random.default_rng(3).integers(1, W + 1, size=9)
    sizes = np.stack([np.ones_like(lengths), lengths], axis=1)
    x, dy, dstate = batch(net, R=1, C=W, sizes=sizes)
    dstate = dstate if len(dstate) > 1 else dstate[0]
    y, state, tape = line.forward(x[0], lengths=lengths)
    exact = line.backward(tape, dy[0], dstate, details=True)

    def turned(array):
        return np.swapaxes(array, 0, 1) if upright else array

    y2, state2, grads = gradients(net, turned(x), turned(dy), dstate, sizes[:, ::-1] if upright else sizes, details=True)
    assert_same_bits(turned(y2)[0], y)
    assert_same_bits(state2, state)
    assert_same_bits(turned(grads.x)[0], exact.x)
    np.testing.assert_array_equal(grads.h[:, :, 0] if upright else grads.h[:, 0], exact.h)
    for name, twin in pairs.items():
        assert_same_bits(grads.params[twin][rows], exact.params[name][theirs])
    assert not grads.params["weight_left_tl" if upright else "weight_up_tl"].any()


# Relations ------------------------------------------------------------------------------------------------------------


def swapped(net, cell):
    """The same network with rows and columns in each other's place."""
    twin, _ = network(cell)
    twin.load_state_dict(net.state_dict())
    up, left = twin.params["weight_up_tl"], twin.params["weight_left_tl"]
    up[:], left[:] = left.copy(), up.copy()
    if cell == "lstm":
        for array in twin.params.values():
            array.reshape(5, H, -1)[[1, 2]] = array.reshape(5, H, -1)[[2, 1]].copy()
    if cell == "gru":  # 1 - sigmoid(a) = sigmoid(-a)
        for array in twin.params.values():
            array.reshape(4, H, -1)[3] *= -1
    return twin


@pytest.mark.parametrize("cell", CELLS)
def test_transposing_the_image_transposes_the_network(cell):
    net, _ = network(cell)
    x, dy, dstate = batch(net)
    y, state, grads = gradients(net, x, dy, dstate)
    twin = swapped(net, cell)
    y2, state2, grads2 = gradients(twin, np.swapaxes(x, 0, 1), np.swapaxes(dy, 0, 1), dstate, SIZES[:, ::-1])
    assert_close(np.swapaxes(y2, 0, 1), y, "y")
    assert_close(np.swapaxes(grads2.x, 0, 1), grads.x, "x")
    for got, exact in zip(tuple_of(state2), tuple_of(state)):
        assert_close(got, exact, "state")
    sign = -1 if cell == "gru" else 1
    rows = slice(3 * H, None) if cell == "gru" else slice(None) if cell == "rnn" else slice(0, H)
    assert_close(sign * grads2.params["weight_up_tl"][rows], grads.params["weight_left_tl"][rows], "weight_left")


@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner_is_a_flip(corner):
    first, _ = network("gru")
    net, _ = network("gru", corner=corner)
    net.params.flat[:] = first.params.flat
    x, dy, dstate = batch(net)

    def flipped(array):
        result = np.zeros_like(array)
        for b, (rows, columns) in enumerate(SIZES):
            part = array[:rows, :columns, b]
            part = part[::-1] if corner.startswith("bottom") else part
            result[:rows, :columns, b] = part[:, ::-1] if corner.endswith("right") else part
        return result

    y, state, grads = gradients(net, x, dy, dstate)
    y2, state2, grads2 = gradients(first, flipped(x), flipped(dy), dstate)
    assert_same_bits((y, state, grads.x, grads.params.flat), (flipped(y2), state2, flipped(grads2.x), grads2.params.flat))


def test_the_forget_gates_gradient_counts_paths():
    """Without recurrent weights dL/dc falls by f on every step of every path: binom(i + j, i) f^(i + j) [Leifert et al. 2016]."""
    net = fr.Recurrent2D("lstm", 1, 1, dtype="float64", initializers={"weight_up": fr.initializers.Constant(0.0)}
                         | {"weight_left": fr.initializers.Constant(0.0), "weight_ih": fr.initializers.Constant(0.0)})  # fmt: skip
    net.params["bias_hh_tl"] = 0.0
    net.params["bias_ih_tl"][1:3] = 1.0, -0.5
    f_up, f_left = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(0.5))
    _, _, tape = net.forward(np.zeros((R, C, 1, 1)))
    grads = net.backward(tape, None, (np.zeros((1, 1, 1)), np.ones((1, 1, 1))), details=True)
    for i in range(R):
        for j in range(C):
            up, left = R - 1 - i, C - 1 - j
            assert grads.c[0, i, j, 0, 0] == pytest.approx(comb(up + left, up) * f_up**up * f_left**left, rel=1e-13)


# The same bits ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    """Forty images of many sizes: several slices, several blocks of diagonals."""
    net, _ = network("lstm", corner="all")
    rng = np.random.default_rng(4)
    sizes = np.stack([rng.integers(1, 13, size=40), rng.integers(1, 18, size=40)], axis=1)
    sizes[0] = 12, 17
    return net, sizes, batch(net, R=12, C=17, sizes=sizes)


def test_an_image_alone_is_the_same_as_in_a_batch(many):
    net, sizes, (x, dy, dstate) = many
    y, state, grads = gradients(net, x, dy, dstate, sizes)
    for b in (0, 1, 7, 39):
        rows, columns = sizes[b]
        one = np.s_[:rows, :columns, b : b + 1]
        y1, state1, grads1 = gradients(net, x[one], dy[one], tuple(d[:, b : b + 1] for d in dstate), None)
        assert_same_bits((y1, grads1.x, *state1), (y[one], grads.x[one], *(s[:, b : b + 1] for s in state)))
    assert not y[beyond(sizes, 12, 17)].any() and not grads.x[beyond(sizes, 12, 17)].any()


def test_threads_and_the_length_of_calls_change_nothing(many, monkeypatch, at_work):
    net, sizes, (x, dy, dstate) = many
    runs = []
    for threads, work in ((1, 2e10), (3, 2e10), (2, 1.0), (2, 2e10), (2, 2e10)):
        at_work(threads)
        monkeypatch.setattr("fastrnn.layers._corner.SPAN_WORK", work)
        y, state, grads = gradients(net, x, dy, dstate, sizes)
        runs.append((y, *state, grads.x, grads.params.flat))
    assert net._corners[0].grid(12, 17, 40, net.dtype).block < 28
    for other in runs[1:]:
        assert_same_bits(runs[0], other)


# Input that is odd but plain, and input that is wrong -------------------------------------------------------------------


def test_plain_but_odd_input_works():
    net, _ = network("rnn")
    x, _, _ = batch(net, sizes=np.tile([R, C], (B, 1)))
    y, _ = net(x)
    for odd in (x.tolist(), np.asfortranarray(x), x.astype(">f8")):
        assert_same_bits(net(odd)[0], y)
    y, state, tape = net.forward(np.zeros((2, 3, 0, D)))
    grads = net.backward(tape, y, state)
    assert y.shape == (2, 3, 0, H) and state.shape == (1, 0, H) and grads.x.shape == (2, 3, 0, D) and not grads.params.flat.any()
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: n(x[0]), r"x: shape \(R, C, B, 2\).*required; got \(5, 3, 2\)"),
        (lambda n, x: n(x[:0]), "x: at least one row and one column are required"),
        (lambda n, x: n(x, sizes=[[4, 5], [0, 3], [1, 1]]), "sizes: from 1 to 4 rows and from 1 to 5 columns.*got 0 and 3 for image 1"),
        (lambda n, x: n(x, sizes=[[4, 5], [5, 4], [1, 1]]), "sizes: .*got 5 and 4 for image 1"),
        (lambda n, x: n(x, sizes=[4, 5]), r"sizes: shape \(3, 2\)"),
        (lambda n, x: n(x, sizes=[[4.0, 5.0]] * 3), "sizes: integers are required"),
        (lambda n, x: n.backward(n.forward(x)[2], x[..., :1]), r"dy: shape \(4, 5, 3, 3\) is required"),
        (lambda n, x: n.backward(n.forward(x)[2], dstate=np.zeros((1, 3, 3))), r"dstate: 2 arrays \(h, c\) required"),
        (lambda n, x: n.forward(x)[2].gate("f"), "name: one of 'h', 'c', 'i', 'f_up'"),
        (lambda n, x: n.forward(x)[2].preactivation("i"), "pre-activations were not kept"),
        (lambda n, x: fr.Recurrent2D("lstm", 2, 3, corner="left"), "corner: one of 'top_left'"),
        (lambda n, x: fr.Recurrent2D("lstm", 2, 3, merge="mean"), "merge: one of 'concat', 'sum'"),
        (lambda n, x: fr.Recurrent2D("indrnn", 2, 3), "cell: one of 'gru', 'lstm', 'rnn'"),
        (lambda n, x: fr.Recurrent2D(fr.CELLS["lstm"](), 2, 3), "cell: the name of a cell or a fastrnn.Cell2D is required; got Cell"),
        (lambda n, x: fr.Recurrent2D("lstm", 2, 3, cell_options={"clip": 1.0}), "cell_options: for 'lstm' one of none is required"),
        (lambda n, x: fr.Recurrent2D("lstm", 2, 3, initializers={"weight_hh": None}), "initializers: keys from"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    net = fr.Recurrent2D("lstm", D, H, dtype="float64")
    with pytest.raises((ValueError, TypeError), match=message):
        call(net, np.zeros((R, C, B, D)))

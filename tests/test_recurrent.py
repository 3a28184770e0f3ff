"""Recurrent networks against the NumPy twin, PyTorch, and themselves."""

import numpy as np
import pytest
import reference
from tolerances import TOLERANCES
from variants import COMPILED, label

import fastrnn as fr
from fastrnn._params import Params
from fastrnn.kernels.cpu import packing
from fastrnn.layers._direction import slice_rows
from fastrnn.layers._layer import Rows
from fastrnn.layers.recurrent import Masks, Tape

T, B, D, H, LAYERS = 7, 5, 3, 4, 3
LENGTHS = np.array([4, 7, 0, 1, 6])


def tuple_of(state):
    return state if isinstance(state, tuple) else (state,)


def network(variant, *, dtype="float64", seed=0, D=D, H=H, **options):
    """A network of moderately large weights, all parameters drawn, and its parameters as the twin takes them."""
    name, cell_options = variant
    net = fr.Recurrent(name, D, H, cell_options=cell_options, dtype=dtype, **options)
    rng = np.random.default_rng(seed)
    for params in (net.params, net.constants):
        for key, shape in params.shapes.items():
            params[key] = np.log(0.1) + 0.3 * rng.normal(size=shape) if key.startswith("log_tau") else 0.6 * rng.normal(size=shape)
            if key.startswith("dt"):
                params[key] = 0.05
    return net, {key: array.astype(float) for key, array in (*net.params.items(), *net.constants.items())}


def batch(net, seed=1, T=T, lengths=LENGTHS):
    """x with NaN in its padding, a state, dL/dy and dL/dstate."""
    rng = np.random.default_rng(seed)
    B, places = len(lengths), net.num_layers * net.num_directions
    x = rng.normal(size=(T, B, net.input_size))
    x[np.arange(T)[:, None] >= lengths] = np.nan
    dy = rng.normal(size=(T, B, net.output_size))
    states = [tuple(rng.normal(size=(places, B, net.hidden_size)) for _ in net.cell.states) for _ in range(2)]
    state, dstate = (s if len(s) > 1 else s[0] for s in states)
    return x, state, dy, dstate


def gradients(net, x, state, dy, dstate, lengths=LENGTHS, **options):
    y, final, tape = net.forward(x, state, lengths=lengths, **options)
    return y, final, net.backward(tape, dy, dstate)


def assert_close(got, exact, what):
    normwise, elementwise = reference.normwise(got, exact), reference.elementwise(got, exact)
    assert normwise <= TOLERANCES["gradient_normwise"], (what, normwise)
    assert elementwise <= TOLERANCES["gradient_elementwise"], (what, elementwise)


def assert_same_bits(a, b):
    for left, right in zip(tuple_of(a), tuple_of(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("variant", [v for v in COMPILED if v[0] in reference.STATES], ids=label)
def test_every_array_against_the_twin(variant):
    net, params = network(variant, num_layers=LAYERS, bidirectional=True)
    x, state, dy, dstate = batch(net)
    y, final, grads = gradients(net, x, state, dy, dstate)
    settings = {"num_layers": LAYERS, "bidirectional": True}
    y_ref, final_ref = reference.network(*variant, params, x, state, LENGTHS, **settings)
    assert_close(y, y_ref, "y")
    for got, exact in zip(tuple_of(final), tuple_of(final_ref)):
        assert_close(got, exact, "final state")
    exact = reference.network_gradient(*variant, params, np.nan_to_num(x), state, LENGTHS, dy=dy, dstate=dstate, **settings)
    assert_close(grads.x, exact.x, "x")
    for got, want in zip(tuple_of(grads.state), tuple_of(exact.state)):
        assert_close(got, want, "state")
    for name, got in grads.params.items():
        assert_close(got, exact.params[name], name)


@pytest.mark.parametrize("variant", [("lstm", {}), ("gru", {"reset_after": False})], ids=label)
def test_everything_is_visible(variant):
    net, params = network(variant, num_layers=2, bidirectional=True)
    x, state, dy, dstate = batch(net)
    y, _, tape = net.forward(x, state, lengths=LENGTHS, details=True)
    grads = net.backward(tape, dy, dstate, details=True)
    settings = {"num_layers": 2, "bidirectional": True}
    _, _, seen = reference.network(*variant, params, x, state, LENGTHS, details=True, **settings)
    names = net.cell.states + net.cell.saved
    for name in names:
        assert_close(tape.gate(name), seen[name], name)
    slots = [slot.name for slot in net.cell.slots]
    for name in slots:
        assert_close(tape.preactivation(name), seen[f"a_{name}"], f"a_{name}")
    wanted = [*net.cell.states, *(f"a_{name}" for name in slots)]
    exact = reference.network_gradient(
        *variant, params, np.nan_to_num(x), state, LENGTHS, dy=dy, dstate=dstate, details=wanted, **settings
    ).details
    # the twin nudges y along with h: dL/dh_t is what flows into h_t from everywhere
    assert_close(grads.h, exact["h"], "dL/dh")
    if "c" in net.cell.states:
        assert_close(grads.c, exact["c"], "dL/dc")
    for name in slots:
        assert_close(grads.preactivations[name], exact[f"a_{name}"], f"dL/da_{name}")


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "product"])
def test_merges(merge):
    net, params = network(("rnn", {}), num_layers=2, bidirectional=True, merge=merge)
    x, state, dy, dstate = batch(net)
    y, _, grads = gradients(net, x, state, dy, dstate)
    settings = {"num_layers": 2, "bidirectional": True, "merge": merge}
    assert_close(y, reference.network("rnn", {}, params, x, state, LENGTHS, **settings)[0], "y")
    exact = reference.network_gradient("rnn", {}, params, np.nan_to_num(x), state, LENGTHS, dy=dy, dstate=dstate, **settings)
    assert_close(grads.x, exact.x, "x")
    for name, got in grads.params.items():
        assert_close(got, exact.params[name], name)


@pytest.mark.parametrize("variant", [("rnn", {}), ("lstm", {}), ("gru", {"reset_after": False})], ids=label)
def test_dropout_against_the_twin(variant):
    net, params = network(variant, num_layers=2, bidirectional=True, dropout=0.3, recurrent_dropout=0.4)
    x, state, dy, dstate = batch(net)
    y, _, tape = net.forward(x, state, lengths=LENGTHS, rng=np.random.default_rng(5))
    grads = net.backward(tape, dy, dstate)
    masks = [
        (between, [k.batch.mask[0] for k in kept]) for between, kept in zip(tape.between, tape.layers)
    ]
    assert all(set(np.unique(mask)) == {0.0, 1 / 0.6} for _, recurrent in masks for mask in recurrent)
    settings = {"num_layers": 2, "bidirectional": True, "masks": masks}
    assert_close(y, reference.network(*variant, params, x, state, LENGTHS, **settings)[0], "y")
    exact = reference.network_gradient(*variant, params, np.nan_to_num(x), state, LENGTHS, dy=dy, dstate=dstate, **settings)
    assert_close(grads.x, exact.x, "x")
    for name, got in grads.params.items():
        assert_close(got, exact.params[name], name)
    again = net.forward(x, state, lengths=LENGTHS, rng=np.random.default_rng(5))[0]
    assert_same_bits(y, again)
    assert not np.array_equal(y, net(x, state, lengths=LENGTHS)[0])


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_against_pytorch(name, dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    theirs = getattr(torch.nn, name)(D, H, num_layers=LAYERS, bidirectional=True, dtype=kind)
    net = getattr(fr, name)(D, H, num_layers=LAYERS, bidirectional=True, dtype=dtype)
    net.load_state_dict(theirs.state_dict())
    lengths = np.array([4, 7, 2, 1, 6])  # PyTorch knows no empty sequence
    x, state, dy, dstate = batch(net, lengths=lengths)
    x = np.nan_to_num(x)
    y, final, grads = gradients(net, x, state, dy, dstate, lengths)
    leaf = [torch.tensor(array, dtype=kind, requires_grad=True) for array in (x, *tuple_of(state))]
    packed = torch.nn.utils.rnn.pack_padded_sequence(leaf[0], torch.tensor(lengths), enforce_sorted=False)
    out, last = theirs(packed, tuple(leaf[1:]) if len(leaf) > 2 else leaf[1])
    out, last = torch.nn.utils.rnn.pad_packed_sequence(out, total_length=T)[0], last if isinstance(last, tuple) else (last,)
    loss = (out * torch.tensor(dy, dtype=kind)).sum()
    loss = loss + sum((a * torch.tensor(b, dtype=kind)).sum() for a, b in zip(last, tuple_of(dstate)))
    loss.backward()
    bound = TOLERANCES["torch"] if dtype == "float64" else TOLERANCES["float32_gradient"]
    pairs = [(y, out), *zip(tuple_of(final), last), (grads.x, leaf[0].grad)]
    pairs += [(g, t.grad) for g, t in zip(tuple_of(grads.state), leaf[1:])]
    pairs += [(grads.params[key], value.grad) for key, value in theirs.named_parameters()]
    for got, exact in pairs:
        assert reference.normwise(got, exact.detach().numpy()) <= bound


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_float32_gradients(name):
    wide = fr.Recurrent(name, D, 16, num_layers=2, dtype="float64")
    narrow = fr.Recurrent(name, D, 16, num_layers=2, dtype="float32")
    wide.load_state_dict(narrow.state_dict())  # the same numbers in both
    lengths = np.array([100, 3, 77, 100])
    x, state, dy, dstate = batch(wide, T=100, lengths=lengths)
    to32 = lambda s: tuple(a.astype("f4").astype("f8") for a in tuple_of(s))  # noqa: E731
    x, dy, state, dstate = np.nan_to_num(x).astype("f4"), dy.astype("f4"), to32(state), to32(dstate)
    _, _, exact = gradients(wide, x, state, dy, dstate, lengths)
    _, _, got = gradients(narrow, x, state, dy, dstate, lengths)
    for key in got.params:
        assert reference.normwise(got.params[key], exact.params[key]) <= TOLERANCES["float32_gradient"], key
    assert reference.normwise(got.x, exact.x) <= TOLERANCES["float32_gradient"]


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_float32_gradients_of_very_long_sequences(name):
    wide = fr.Recurrent(name, 2, 4, dtype="float64", seed=3)
    narrow = fr.Recurrent(name, 2, 4, dtype="float32", seed=3)
    wide.load_state_dict(narrow.state_dict())
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(100_000, 1, 2)).astype("f4"), rng.normal(size=(100_000, 1, 4)).astype("f4") + np.float32(1.0)
    results = []
    for net in (narrow, wide):
        _, _, tape = net.forward(x)
        results.append(net.backward(tape, dy))
    for key in results[0].params:
        assert reference.normwise(results[0].params[key], results[1].params[key]) <= TOLERANCES["float32_gradient_long"], key


# The same bits ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[("lstm", {}), ("gru", {"reset_after": False}), ("rnn", {})], ids=label)
def pair(request):
    """A two-layer one-way network and a batch of 40 ragged sequences, several slices of rows, several blocks of time."""
    net, _ = network(request.param, H=5, num_layers=2)
    lengths = np.random.default_rng(4).integers(0, 61, size=40)
    lengths[:2] = 60, 0
    return net, lengths, batch(net, T=60, lengths=lengths)


def test_a_sequence_alone_is_the_same_as_in_a_batch(pair):
    net, lengths, (x, state, dy, dstate) = pair
    y, final, grads = gradients(net, x, state, dy, dstate, lengths)
    for b in (0, 1, 7, 39):
        one = slice(b, b + 1)
        part = [tuple(a[:, one] for a in tuple_of(s)) for s in (state, dstate)]
        y1, final1, grads1 = gradients(net, x[:, one], part[0], dy[:, one], part[1], lengths[one])
        assert_same_bits(y1, y[:, one])
        assert_same_bits(final1, tuple(a[:, one] for a in tuple_of(final)) if isinstance(final, tuple) else final[:, one])
        assert_same_bits(grads1.x, grads.x[:, one])
        assert_same_bits(tuple_of(grads1.state), tuple(a[:, one] for a in tuple_of(grads.state)))


def test_batch_permutation_permutes(pair):
    net, lengths, (x, state, dy, dstate) = pair
    y, _, grads = gradients(net, x, state, dy, dstate, lengths)
    p = np.random.default_rng(0).permutation(len(lengths))
    moved = [tuple(a[:, p] for a in tuple_of(s)) for s in (state, dstate)]
    y2, _, grads2 = gradients(net, x[:, p], moved[0], dy[:, p], moved[1], lengths[p])
    assert_same_bits(y2, y[:, p])
    assert_same_bits(grads2.x, grads.x[:, p])
    for key in grads.params:
        assert reference.normwise(grads2.params[key], grads.params[key]) <= TOLERANCES["gradient_normwise"]


@pytest.mark.parametrize("cuts", [(30,), (1, 2, 59), (32, 33), (16, 48)])
def test_chunks_are_the_same_as_the_whole(pair, cuts):
    net, lengths, (x, state, dy, dstate) = pair
    y, final, grads = gradients(net, x, state, dy, dstate, lengths)
    edges, tapes, parts = [0, *cuts, 60], [], []
    for begin, end in zip(edges, edges[1:]):
        part, state, tape = net.forward(x[begin:end], state, lengths=np.clip(lengths - begin, 0, end - begin))
        parts.append(part)
        tapes.append(tape)
    assert_same_bits(np.concatenate(parts), y)
    assert_same_bits(state, final)
    total, dxs = np.zeros_like(net.params.flat), []
    for tape, begin, end in reversed(list(zip(tapes, edges, edges[1:]))):
        chunk = net.backward(tape, dy[begin:end], dstate)
        dstate, total = chunk.state, total + chunk.params.flat
        dxs.insert(0, chunk.x)
    assert_same_bits(np.concatenate(dxs), grads.x)
    assert_same_bits(dstate, grads.state)
    assert reference.normwise(total, grads.params.flat) <= TOLERANCES["gradient_normwise"]


def test_many_kernel_calls_are_the_same_as_one(pair, monkeypatch):
    """Long work is cut into calls of bounded length; here each takes one block of steps."""
    net, lengths, (x, state, dy, dstate) = pair
    y, final, grads = gradients(net, x, state, dy, dstate, lengths)
    assert net._directions[0].grid(40, net.dtype).block < 60
    monkeypatch.setattr("fastrnn.layers._direction.SPAN_WORK", 1.0)
    y2, final2, grads2 = gradients(net, x, state, dy, dstate, lengths)
    assert_same_bits((y, grads.x, grads.params.flat), (y2, grads2.x, grads2.params.flat))
    assert_same_bits(final, final2)
    assert_same_bits(grads.state, grads2.state)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("variant", [("lstm", {}), ("gru", {"reset_after": False})], ids=label)
def test_checkpoints_give_the_same_bits(variant, bidirectional):
    net, _ = network(variant, H=5, num_layers=2, bidirectional=bidirectional)
    lengths = np.random.default_rng(4).integers(0, 3001, size=3)
    lengths[0] = 3000
    x, state, dy, dstate = batch(net, T=3000, lengths=lengths)
    y, final, tape = net.forward(x, state, lengths=lengths)
    whole = net.backward(tape, dy, dstate, details=True)
    full = sum(k.others.nbytes + k.saved.nbytes for kept in tape.layers for k in kept)
    limit = sum(k.y.nbytes for kept in tape.layers for k in {id(k.y): k for k in kept}.values()) + full // 3
    y2, final2, tape2 = net.forward(x, state, lengths=lengths, memory=limit)
    assert all(k.segment < 3000 and k.saved.size == 0 for kept in tape2.layers for k in kept)
    again = net.backward(tape2, dy, dstate, details=True)
    assert_same_bits(y, y2)
    assert_same_bits(final, final2)
    assert_same_bits((whole.x, whole.params.flat, whole.h), (again.x, again.params.flat, again.h))
    assert_same_bits(whole.state, again.state)
    with pytest.raises(ValueError, match="kept only where everything is"):
        tape2.gate(net.cell.saved[0])
    with pytest.raises(ValueError, match="memory: at least [0-9]+ bytes are required"):
        net.forward(x, state, memory=1000)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("common", [False, True], ids=["own input", "common input"])
@pytest.mark.parametrize("variant", [("lstm", {"peepholes": True}), ("gru", {"reset_after": False})], ids=label)
def test_members_have_the_bits_of_models_alone(variant, common, threads, monkeypatch):
    """E models of one shape in one call: own weights, inputs, orders, lengths, masks, states; several slices, two layers, both ways."""
    E, B, before = 3, 37, fr.get_num_threads()
    rng, limit = np.random.default_rng(0), np.float64(0.05)
    nets = [network(variant, seed=e, H=5, num_layers=2, bidirectional=True, initial_state="learned")[0] for e in range(E)]
    x = rng.normal(size=(1 if common else E, T, B, D))
    lengths = rng.integers(0, T + 1, size=(1 if common else E, B))
    masks = Masks([rng.normal(size=(E, B, 5)) for _ in range(4)], [None, rng.normal(size=(E, T, B, 10))])
    states = [rng.normal(size=(E, len(nets[0].cell.states), B, 5)) for _ in range(4)]
    dstates = [rng.normal(size=state.shape) for state in states]
    dy = rng.normal(size=(E, T, B, 10))
    params = Params(nets[0].params.shapes, "float64", np.stack([net.params.flat for net in nets]))
    monkeypatch.setattr("fastrnn._threads.SERIAL_WORK", 0.0)
    monkeypatch.setattr("fastrnn.layers._direction.PIECE", 7)

    def everything(net, params, members):
        """What a forward and a backward of `members` give; a common input has but one row."""
        one = slice(0, 1) if common else members
        rows = Rows.of(lengths[one])
        drawn = Masks([mask[members] for mask in masks.recurrent], [None, masks.between[1][members]])
        tape, grads = Tape(net, rows, T, True), params.like()
        y, final, tape.layers = net.run(params, x[one], rows, [state[members] for state in states], drawn, T)
        tape.between = drawn.between
        back = net.run_back(params, tape, dy[members], [state[members] for state in dstates], grads, 0, limit)
        no_inputs = net.run_back(params, tape, dy[members], [state[members] for state in dstates], params.like(), 0, limit, inputs=False)
        assert no_inputs[0].shape[1] == 0
        return [y, *final, back[0], *back[1], back[2], grads.flat.reshape(len(y), -1)]

    try:
        fr.set_num_threads(threads)
        together = everything(nets[0], params, slice(0, E))
        for e, net in enumerate(nets):
            alone = everything(net, net.params, slice(e, e + 1))
            assert_same_bits(tuple(array[e : e + 1] for array in together), tuple(alone))
    finally:
        fr.set_num_threads(before)


def test_tape_is_no_larger_than_promised():
    net = fr.LSTM(3, 8)
    _, _, tape = net.forward(np.zeros((50, 6, 3), "f4"))
    kept = tape.layers[0][0]
    numbers = kept.y.size + kept.others.size + kept.saved.size
    assert numbers <= (len(net.cell.states) + len(net.cell.saved)) * 50 * 6 * 8


# Relations between networks --------------------------------------------------------------------------------------------


def test_reverse_is_the_forward_network_on_reversed_sequences():
    forward, _ = network(("lstm", {}), num_layers=1)
    backward = fr.Recurrent("lstm", D, H, dtype="float64", reverse=True)
    backward.load_state_dict(forward.state_dict())
    x, state, _, _ = batch(forward)
    flipped = np.zeros_like(x)
    for b, length in enumerate(LENGTHS):
        flipped[:length, b] = x[:length, b][::-1]
    y, final = backward(x, state, lengths=LENGTHS)
    y2, final2 = forward(flipped, state, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(y[:length, b], y2[:length, b][::-1])
    assert_same_bits(final, final2)


def test_tied_directions_are_symmetric():
    net, _ = network(("gru", {}), bidirectional=True, merge="sum")
    for name in list(net.params):
        if name.endswith("_reverse"):
            net.params[name] = net.params[name.removesuffix("_reverse")]
    x, _, _, _ = batch(net, lengths=np.full(B, T))
    np.testing.assert_array_equal(net(x)[0], net(x[::-1])[0][::-1])


def test_every_length_in_one_batch():
    net, params = network(("lstm", {}), bidirectional=True)
    lengths = np.arange(T + 1)
    x, state, _, _ = batch(net, lengths=lengths)
    y, final = net(x, state, lengths=lengths)
    y_ref, final_ref = reference.network("lstm", {}, params, x, state, lengths, bidirectional=True)
    assert_close(y, y_ref, "y")
    for got, exact, start in zip(final, final_ref, state):
        assert_close(got, exact, "state")
        np.testing.assert_array_equal(got[:, 0], start[:, 0])


def test_learned_initial_state():
    net, params = network(("lstm", {}), num_layers=2, bidirectional=True, initial_state="learned")
    x, _, dy, dstate = batch(net)
    starts = tuple(
        np.stack([np.tile(net.params[f"initial_{s}{suffix}"], (B, 1)) for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse")])
        for s in "hc"
    )
    y, _, grads = gradients(net, x, None, dy, dstate)
    y2, _, given = gradients(net, x, starts, dy, dstate)
    assert_same_bits(y, y2)
    for place, suffix in enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse")):
        assert_close(grads.params[f"initial_c{suffix}"], given.state[1][place].sum(axis=0), suffix)
        assert not given.params[f"initial_c{suffix}"].any()


def test_batch_first():
    net, _ = network(("gru", {}), bidirectional=True, batch_first=True)
    twin, _ = network(("gru", {}), bidirectional=True)
    x, state, dy, dstate = batch(twin)
    y, _, grads = gradients(net, x.swapaxes(0, 1), state, dy.swapaxes(0, 1), dstate)
    y2, _, grads2 = gradients(twin, x, state, dy, dstate)
    assert_same_bits((y.swapaxes(0, 1), grads.x.swapaxes(0, 1), grads.params.flat), (y2, grads2.x, grads2.params.flat))


def test_clip_inside_the_recursion():
    net, _ = network(("rnn", {}), H=6)
    x, state, dy, dstate = batch(net)
    _, _, tape = net.forward(x, state, lengths=LENGTHS)
    free = net.backward(tape, dy, dstate, details=True)
    loose = net.backward(tape, dy, dstate, clip=1e6)
    assert_same_bits(loose.params.flat, free.params.flat)
    assert loose.clipped.entries == 0 and loose.clipped.fraction == 0.0
    tight = net.backward(tape, dy, dstate, details=True, clip=0.1)
    a = tight.preactivations["h"]
    assert abs(a).max() == 0.1
    assert tight.clipped.entries == (abs(a) == 0.1).sum() > 0
    assert 0 < tight.clipped.fraction < 1
    # one step further back than a clipped one, by hand
    t = LENGTHS[1] - 1
    dh = dy[t - 1, 1] + a[0, t, 1] @ net.params["weight_hh_l0"]
    np.testing.assert_allclose(tight.h[0, t - 1, 1], dh, rtol=1e-13)


def test_begin_stops_the_way_back():
    net, _ = network(("lstm", {}), num_layers=2)
    x, state, dy, _ = batch(net, lengths=np.full(B, T))
    _, middle, _ = net.forward(x[:3], state)
    _, _, tail = net.forward(x[3:], middle)
    exact = net.backward(tail, dy[3:])
    _, _, tape = net.forward(x, state)
    got = net.backward(tape, dy, begin=3)
    assert_same_bits(got.state, exact.state)
    assert_same_bits(got.x[3:], exact.x)
    assert not got.x[:3].any()
    assert reference.normwise(got.params.flat, exact.params.flat) <= TOLERANCES["gradient_normwise"]
    both, _ = network(("lstm", {}), bidirectional=True)
    with pytest.raises(ValueError, match="begin: 0 is required"):
        both.backward(both.forward(x)[2], begin=1)


def test_linear_network_is_a_matrix_power():
    """dh_t/dh_k = W^(t-k) [Pascanu et al. 2013, eq. 5]."""
    net, _ = network(("rnn", {"activation": "identity"}))
    _, _, tape = net.forward(np.zeros((6, 1, D)))
    dstate = np.random.default_rng(0).normal(size=(1, 1, H))
    grads = net.backward(tape, None, dstate, details=True)
    W = net.params["weight_hh_l0"]
    for k in range(6):
        np.testing.assert_allclose(grads.h[0, 5 - k, 0], dstate[0, 0] @ np.linalg.matrix_power(W, k), rtol=1e-12)


# Input that is odd but plain, and input that is wrong -----------------------------------------------------------------------


def test_plain_but_odd_input_works():
    net, _ = network(("gru", {}))
    x, state, _, _ = batch(net, lengths=np.full(B, T))
    y, _ = net(x, state)
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((T, B, 2 * D))
    wide[..., ::2] = x
    for odd in (x.tolist(), frozen, np.asfortranarray(x), x.astype(">f8"), wide[..., ::2]):
        assert_same_bits(net(odd, state)[0], y)
    assert net(np.zeros((0, 2, D)))[0].shape == (0, 2, H)
    assert net(np.zeros((3, 0, D)))[0].shape == (3, 0, H)
    _, start, tape = net.forward(np.zeros((0, 2, D)), np.ones((1, 2, H)))
    grads = net.backward(tape, dstate=np.ones((1, 2, H)))
    assert (start == 1).all() and (grads.state == 1).all() and grads.x.shape == (0, 2, D) and not grads.params.flat.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: n(x[0]), r"x: shape \(T, B, 3\).*required; got \(5, 3\)"),
        (lambda n, x: n(x[..., :2]), r"x: shape \(T, B, 3\).*got \(7, 5, 2\)"),
        (lambda n, x: n(x.astype(object)), "x: real numbers are required; got dtype object"),
        (lambda n, x: n(x + 1j), "x: real numbers are required; got dtype complex128"),
        (lambda n, x: n(np.full(x.shape, "a")), "x: real numbers are required"),
        (lambda n, x: n([[[1.0], [2.0, 3.0]]]), "x"),
        (lambda n, x: n(x, lengths=[1, 2]), r"lengths: shape \(5,\).*got \(2,\)"),
        (lambda n, x: n(x, lengths=[1, 2, 3, 4, 8]), "lengths: integers from 0 to 7 are required; got 8"),
        (lambda n, x: n(x, lengths=[1, 2, 3, 4, -1]), "lengths: integers from 0 to 7 are required; got -1"),
        (lambda n, x: n(x, lengths=[1.0, 2, 3, 4, 5]), "lengths: integers are required; got dtype float64"),
        (lambda n, x: n(x, np.zeros((2, 5, 4))), r"state h: shape \(1, 5, 4\) is required; got \(2, 5, 4\)"),
        (lambda n, x: n(x, (np.zeros((1, 5, 4)),) * 2), "state: 1 array .h. required for this cell; got 2"),
        (lambda n, x: n.backward(n.forward(x)[2], x), r"dy: shape \(7, 5, 4\) is required; got \(7, 5, 3\)"),
        (lambda n, x: n.backward(n.forward(x)[2], clip=0.0), "clip: a number greater than 0"),
        (lambda n, x: n.forward(x)[2].gate("q"), "name: one of 'h', 'r', 'z'"),
        (lambda n, x: n.forward(x)[2].preactivation("r"), "pre-activations were not kept"),
        (lambda n, x: n.load_state_dict({}), "arrays: exactly the names"),
        (lambda n, x: fr.GRU(0, 4), "input_size: an integer at least 1 is required; got 0"),
        (lambda n, x: fr.GRU(3, 2.5), "hidden_size: an integer is required; got 2.5"),
        (lambda n, x: fr.GRU(3, 4, merge="add"), "merge: one of 'concat'"),
        (lambda n, x: fr.GRU(3, 4, dtype="float16"), "dtype: 'float32' or 'float64' is required"),
        (lambda n, x: fr.GRU(3, 4, dropout=1.0), "dropout: a number from 0"),
        (lambda n, x: fr.GRU(3, 4, bidirectional=True, reverse=True), "reverse: False is required"),
        (lambda n, x: fr.GRU(3, 4, initializers={"weight": None}), "initializers: keys from"),
        (lambda n, x: fr.Recurrent(3, 3, 4), "cell: the name of a cell or a fastrnn.Cell is required; got int"),
        (lambda n, x: fr.LSTM(3, 4, coupled=True, forget_bias=1.0), "forget_bias: None is required"),
    ],
)
def test_bad_input_is_named(call, message):
    net = fr.GRU(D, H, dtype="float64")
    with pytest.raises((ValueError, TypeError), match=message):
        call(net, np.zeros((T, B, D)))


def test_outputs_with_a_tape_are_read_only():
    y, _, _ = fr.GRU(D, H, dtype="float64").forward(np.zeros((T, B, D)))
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 1.0


@pytest.mark.parametrize("layers", [1, 2])
def test_without_the_inputs_gradient_everything_else_has_the_same_bits(layers):
    net = fr.LSTM(3, 4, num_layers=layers, bidirectional=True, dtype="float64")
    y, _, tape = net.forward(np.random.default_rng(0).standard_normal((5, 6, 3)), lengths=[5, 0, 3, 1, 5, 2])
    whole, part = (net.backward(tape, np.ones_like(y), inputs=inputs) for inputs in (True, False))
    assert part.x is None and whole.x.any()
    assert part.params.flat.tobytes() == whole.params.flat.tobytes()
    assert [a.tobytes() for a in part.state] == [a.tobytes() for a in whole.state]


def test_weights_that_change_are_packed_anew():
    """Calls without a tape keep the packed weights; a change of any one of them, by whatever way, must show at once."""
    net, x = fr.GRU(3, 40, num_layers=2, dtype="float32"), np.random.default_rng(0).standard_normal((5, 2, 3)).astype("f4")
    assert min(d.size for d in net._directions) > packing.STRETCH
    for name in net.params:
        for at in (0, -1):
            before = net(x)[0]
            net.params[name].reshape(-1)[at] += np.float32(0.25)
            after = net(x)[0]
            assert (after != before).any() and after.tobytes() == net.forward(x)[0].tobytes()


@pytest.mark.parametrize("B", [1, 2, 3, 16, 37, 64, 100])
def test_ragged_sequences_are_dealt_out_evenly(B):
    """Every slice has its longest first; full slices differ by less than the longest sequence in what they have to do."""
    lengths, rows = np.random.default_rng(B).integers(0, 51, (2, B)), slice_rows(B)
    lengths[1] = 7
    batch = Rows.of(lengths)
    assert (np.sort(batch.order, axis=1) == np.arange(B)).all() and (batch.order[1] == np.arange(B)).all()
    slices = [lengths[0, batch.order[0, first : first + rows]] for first in range(0, B, rows)]
    assert all((np.diff(own) <= 0).all() for own in slices)
    full = [own.sum() for own in slices if len(own) == rows]
    assert not full or max(full) - min(full) <= lengths[0].max()

"""Full and truncated back-propagation through time, against their definition."""

import numpy as np
import pytest
import reference
from tolerances import TOLERANCES

import fastrnn as fr

T, B, D, H, O = 11, 4, 3, 4, 2
LENGTHS = np.array([11, 5, 0, 8])


def model(readout="every", cell="lstm", *, num_layers=2, **options):
    net = fr.Recurrent(cell, D, H, num_layers=num_layers, dtype="float64", seed=1, **options)
    net.params.flat[:] *= 2.0
    return fr.Model(net, fr.Linear(H * net.num_directions, O, dtype="float64", seed=2), loss=fr.MeanSquaredError(), readout=readout)


def data(readout="every", seed=0):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(T, B, O) if readout == "every" else (B, O))
    return rng.normal(size=(T, B, D)), target, LENGTHS


def total_gradient(passes):
    """What the sum of squares' gradient is, from means over each pass's targets."""
    return sum(p.weight * p.grads.flat for p in passes)


@pytest.mark.parametrize(("window", "stride"), [(3, 3), (4, 1), (5, 2), (4, 3), (7, 5), (1, 1)])
def test_truncated_is_williams_and_peng(window, stride):
    m = model()
    x, target, lengths = data()
    passes = list(m.passes(x, target, lengths, bptt=fr.Truncated(window, stride)))
    full = next(m.passes(x, target, lengths))
    assert len(passes) == -(-T // stride)
    weight = sum(p.weight for p in passes)
    assert weight == full.weight == LENGTHS.sum()
    np.testing.assert_allclose(sum(p.loss * p.weight for p in passes), full.loss * weight, rtol=1e-13)
    dprediction = 2 * (full.prediction - target) / O
    dprediction[np.arange(T)[:, None] >= lengths] = 0.0
    dy = dprediction @ m.params["1.weight"]
    net = m.layers[0]
    updates = reference.bptt_truncated("lstm", {}, dict(net.params), x, None, lengths, window=window, stride=stride, dy=dy, num_layers=2)
    for name in net.params:
        got = sum(p.weight * p.grads[f"0.{name}"] for p in passes)
        exact = sum(update.params[name] for update in updates)
        assert reference.normwise(got, exact) <= TOLERANCES["gradient_normwise"], name
        assert reference.elementwise(got, exact) <= TOLERANCES["gradient_elementwise"], name


@pytest.mark.parametrize("window", [T, 3 * T])
def test_window_of_the_whole_length_is_full(window):
    m = model()
    x, target, lengths = data()
    full = m.gradient(x, target, lengths)
    (only,) = m.passes(x, target, lengths, bptt=fr.Truncated(window))
    np.testing.assert_array_equal(only.grads.flat, full.grads.flat)
    by_steps = total_gradient(m.passes(x, target, lengths, bptt=fr.Truncated(window, stride=1)))
    assert reference.normwise(by_steps, full.weight * full.grads.flat) <= TOLERANCES["gradient_normwise"]


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("window", [2, 6])
def test_truncation_where_a_sequence_is_read_once(readout, window):
    """Back from each sequence's own end: the same as full BPTT from the state `window` steps before it, held fixed."""
    m = model(readout, cell="rnn", num_layers=1)
    x, target, lengths = data(readout)
    (got,) = m.passes(x, target, lengths, bptt=fr.Truncated(window))
    full = m.gradient(x, target, lengths)
    np.testing.assert_allclose(got.prediction, full.prediction, rtol=1e-13)
    np.testing.assert_allclose(got.loss, full.loss, rtol=1e-13)
    exact = m.params.like()
    net = m.layers[0]
    for b, length in enumerate(lengths):
        begin = max(length - window, 0)
        _, start, head = net.forward(x[:begin, b : b + 1])
        y, _, tape = net.forward(x[begin:length, b : b + 1], start)
        seen = np.concatenate([head.h[0], y])
        pooled = (seen.mean(axis=0) if readout == "mean" else seen[-1]) if length else np.zeros((1, H))
        out = pooled @ m.params["1.weight"].T + m.params["1.bias"]
        dout = 2 * (out - target[b]) / (O * B)
        dpool = dout @ m.params["1.weight"]
        at = np.arange(begin, length)[:, None, None]
        share = np.full(at.shape, 1 / max(length, 1)) if readout == "mean" else at == length - 1
        if length:
            found = net.backward(tape, share * dpool).params
            for name in net.params:
                exact[f"0.{name}"][...] += found[name]
        exact["1.weight"][...] += dout.T @ pooled
        exact["1.bias"][...] += dout[0]
    assert reference.normwise(got.grads.flat, exact.flat) <= TOLERANCES["gradient_normwise"]


def test_clip_is_reported():
    m = model()
    x, target, lengths = data()
    p = m.gradient(x, target, lengths, bptt=fr.Full(clip=1e-4))
    assert len(p.clipped) == 1 and p.clipped[0].entries > 0 and 0 < p.clipped[0].fraction < 1
    assert all(p.clipped[0].entries >= 0 for p in m.passes(x, target, lengths, bptt=fr.Truncated(4, 2, clip=1e-4)))
    assert m.gradient(x, target, lengths).clipped == ()


def test_memory_changes_no_bits():
    m = model()
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(2000, 2, D)), rng.normal(size=(2000, 2, O))
    whole = m.gradient(x, target)
    for memory in (700_000, 10**9):
        np.testing.assert_array_equal(m.gradient(x, target, bptt=fr.Full(memory=memory)).grads.flat, whole.grads.flat)


def test_state_is_carried_through_the_weights_changes():
    """An update between two strides acts on what follows, and the state goes on."""
    m = model(cell="rnn", num_layers=1)
    x, target, _ = data()
    passes = m.passes(x, target, bptt=fr.Truncated(4))
    first = next(passes)
    m.params.flat[:] += 0.1
    second = next(passes)
    expected, _ = m.run(x[4:8], state=first.state)
    np.testing.assert_array_equal(second.prediction, expected)


def test_bad_input():
    with pytest.raises(ValueError, match="window: an integer at least 1 is required; got 0"):
        fr.Truncated(0)
    with pytest.raises(ValueError, match="stride: an integer from 1 to 4 is required; got 5"):
        fr.Truncated(4, stride=5)
    with pytest.raises(ValueError, match="memory: an integer at least 1"):
        fr.Full(memory=0)
    with pytest.raises(ValueError, match="clip: a number greater than 0"):
        fr.Full(clip=-1.0)
    both = model(bidirectional=True, num_layers=1)
    x, target, lengths = data()
    with pytest.raises(ValueError, match="bptt: Full.. is required for a network that runs from right to left"):
        next(both.passes(x, target, lengths, bptt=fr.Truncated(3)))
    with pytest.raises(ValueError, match="bptt: Full.. is required for one gradient"):
        model().gradient(x, target, lengths, bptt=fr.Truncated(3))

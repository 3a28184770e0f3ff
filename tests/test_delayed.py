"""Delayed outputs: against a twin that reads each sequence on by itself, what they can and cannot see, and bad input."""

import numpy as np
import pytest
import reference
from test_bidirectional import LENGTHS, B, D, T, assert_close, assert_same_bits, batch, draw, leaves, run, truncated

import fastrnn as fr


def delayed(cell, delay, **options):
    return draw(fr.Delayed(fr.Recurrent(cell, D, 4, dtype="float64", **options), delay))


@pytest.mark.parametrize(("cell", "delay"), [("lstm", 2), ("gru", 9), ("rnn", 1)])
def test_every_gradient_against_complex_steps(cell, delay):
    """The delays are shorter and longer than the sequences, which the twin takes one by one, `delay` zeros put behind each."""
    net = delayed(cell, delay)
    x, state, dy, dstate = batch(net, LENGTHS, T)
    y, final, grads = run(net, x, state, dy, dstate, LENGTHS)
    start = {f"start {k}": array for k, array in enumerate(leaves(state))}
    given = {name: array.copy() for name, array in net.params.items()} | start | {"x": np.nan_to_num(x)}

    def twin(**changed):
        """Sum of dy * y and of dstate * state, y and the states, sequence by sequence."""
        arrays, loss, outputs, ends = given | changed, np.float64(0), np.zeros((T, B, 4)), []
        params = {name: arrays[name] for name in net.params}
        for b, length in enumerate(LENGTHS):
            begin = tuple(arrays[name][..., b : b + 1, :] for name in start)
            own = arrays["x"][..., :length, b : b + 1, :]
            own = np.concatenate([own, np.zeros((*own.shape[:-3], delay * (length > 0), 1, D))], axis=-3)
            out, end = reference.network(cell, {}, params, own, begin)
            out = out[..., delay:, :, :] if length else out
            loss = loss + (out * dy[:length, b : b + 1]).sum(axis=(-3, -2, -1))
            loss = loss + sum((e * d[:, b : b + 1]).sum(axis=(-3, -2, -1)) for e, d in zip(leaves(end), leaves(dstate)))
            if not changed:
                outputs[:length, b : b + 1] = out
                ends.append(leaves(end))
        return loss, outputs, [np.concatenate(parts, axis=1) for parts in zip(*ends)]

    _, outputs, ends = twin()
    assert_close(y, outputs)
    for got, exact in zip(leaves(final), ends, strict=True):
        assert_close(got, exact)
    found = dict(grads.params.items()) | dict(zip(start, leaves(grads.state))) | {"x": grads.x}
    for name, got in found.items():
        assert_close(got, reference.complex_step_copies(lambda copies, name=name: twin(**{name: copies})[0], given[name]))


def test_an_output_sees_so_far_ahead_and_no_further():
    net, lengths = delayed("gru", 2, num_layers=2), np.array([T, 3])
    x = np.random.default_rng(0).normal(size=(T, 2, D))
    y = net(x, lengths=lengths)[0]
    for b, length in enumerate(lengths):
        for t in range(length):
            other = x.copy()
            other[t, b] += 1.0
            changed = (net(other, lengths=lengths)[0] != y).any(axis=2)
            expected = (np.arange(T) >= t - 2) & (np.arange(T) < length)
            np.testing.assert_array_equal(changed, np.stack([expected * (k == b) for k in range(2)], axis=1))


def test_the_readout_of_the_end_is_the_last_output():
    net = delayed("lstm", 3)
    x, state, _, _ = batch(net, LENGTHS, T)
    y, final = net(x, state, lengths=LENGTHS)
    some = LENGTHS > 0
    assert_same_bits(net.final_output(final)[some], y[LENGTHS - 1, np.arange(B)][some])
    assert_same_bits(net.final_output(final)[~some], state[0][0][~some])


def test_dropout_memory_and_details_are_the_networks_own():
    net = fr.Delayed(fr.Recurrent("gru", D, 4, dtype="float64", num_layers=2, dropout=0.3, recurrent_dropout=0.3), 2)
    x, state, dy, _ = batch(net, LENGTHS, T)
    longer = np.concatenate([np.where(np.isnan(x), 0.0, x), np.zeros((2, B, D))])
    more = np.where(LENGTHS > 0, LENGTHS + 2, 0)
    results = []
    for network, inputs, lengths in ((net, x, LENGTHS), (net.networks[0], longer, more)):
        y, _, tape = network.forward(inputs, state, lengths=lengths, rng=np.random.default_rng(5), memory=10**6, details=True)
        results.append((y, tape.gate("r"), tape.preactivation("u_n")))
    assert_same_bits(results[0], (results[1][0][2:], *results[1][1:]))
    grads = net.backward(tape, dy, details=True, clip=0.05)
    assert grads.h.shape == (2, T + 2, B, 4) and grads.clipped.entries > 0


def gru(**options):
    return fr.GRU(3, 4, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fr.Delayed("gru", 1), "network: a Recurrent, such as LSTM.*got str"),
        (lambda: fr.Delayed(fr.Delayed(gru(), 1), 1), "network: a Recurrent.*got Delayed"),
        (lambda: fr.Delayed(gru(bidirectional=True), 1), "network: a network with bidirectional=False is required"),
        (lambda: fr.Delayed(gru(reverse=True), 1), "network: a network with reverse=False is required"),
        (lambda: fr.Delayed(gru(batch_first=True), 1), "network: a network with batch_first=False is required"),
        (lambda: fr.Delayed(gru(), 0), "delay: an integer at least 1 is required; got 0"),
        (lambda: fr.Delayed(gru(), 1.5), "delay: an integer is required; got 1.5"),
        (lambda: fr.Delayed(gru(), 2)(np.zeros((2, 3))), r"x: shape \(T, B, 3\) \(time first\) is required; got \(2, 3\)"),
        (lambda: fr.Delayed(gru(), 2)(np.zeros((2, 1, 3)), lengths=[4]), "lengths: integers from 0 to 2 are required; got 4"),
        (lambda: back(dy=np.zeros((4, 1, 4))), r"dy: shape \(2, 1, 4\) is required; got \(4, 1, 4\)"),
        (lambda: back(begin=1), "begin: 0 is required for a network with a delay.*got 1"),
        (lambda: truncated(fr.Delayed(gru(), 1)), "bptt: Full.. is required for a network that .* with a delay"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def back(**options):
    net = fr.Delayed(gru(), 2)
    return net.backward(net.forward(np.zeros((2, 1, 3)))[2], **options)

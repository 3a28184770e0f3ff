"""What a call on a GPU asks of the host: few launches and operations, and nothing that is older than the parameters."""

import copy
import threading

import numpy as np
import pytest
from device_arrays import SYNCHRONOUS, counted
from test_cuda import GRU, LSTM, T, assert_alike, batch, compare, on_both
from test_cuda import run as results
from tolerances import TOLERANCES
from variants import COMPILED, label

import fastrnn as fr
from fastrnn import _device
from fastrnn._device import Made
from fastrnn.kernels.cuda import product, target
from fastrnn.layers import _cuda

EVEN = np.full(5, T)


@pytest.fixture
def asked(gpu):
    """What a function asks for when it is called once more: names of kernels, operations on arrays, those that wait. Nothing is run."""
    driver = target.arrays().cuda.driver
    driver.idle = True

    def asks(function):
        function()
        driver.launched.clear()
        counted.clear()
        function()
        names = [kernel.py_func.__name__ for kernel in driver.launched]
        return names, sum(counted.values()), sum(counted[name] for name in SYNCHRONOUS)

    return asks


# launches and operations of a layer: without a tape, and both ways. On tensor cores weights are laid out once more.
CASES = {"exact": ((3, 3), (11, 11)), "tf32": ((4, 3), (13, 11))}


@pytest.mark.parametrize("precision", CASES)
def test_a_layer_asks_for_little(precision, asked):
    net = fr.LSTM(8, 16, device="cuda", precision=precision)
    x, dy = (net.device.put(np.zeros((6, 5, size), np.float32)) for size in (8, 16))

    def both_ways():
        *_, tape = net.forward(x)
        net.backward(tape, dy)

    for call, (launches, operations) in zip((lambda: net(x), both_ways), CASES[precision]):
        names, found, waiting = asked(call)
        assert len(names) == launches and found <= operations and not waiting, (names, found, counted)


def test_a_longer_sequence_asks_for_no_more(asked):
    net, found = fr.GRU(2, 16, device="cuda", bidirectional=True), []
    for steps in (8, 1000):
        x, dy = (net.device.put(np.zeros((steps, 64, size), np.float32)) for size in (2, 32))
        names, operations, _ = asked(lambda x=x, dy=dy: net.backward(net.forward(x)[2], dy))
        found.append((len(names), operations))
    assert found[0] == found[1]


def test_a_model_asks_for_little(asked):
    layers = fr.Embedding(5, 4, device="cuda"), fr.LSTM(4, 8, device="cuda"), fr.Linear(8, 5, device="cuda")
    model = fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")
    x = np.zeros((6, 5), int)
    names, operations, waiting = asked(lambda: model.gradient(x, x))
    assert len(names) == 23 and operations <= 30 and waiting == 1, (names, operations, counted)


@pytest.mark.parametrize("variant", COMPILED, ids=label)
def test_batches_without_padding(variant, gpu):
    """Nothing is cleared there that kernels fill: what they leave out would be NaN."""
    host, device = on_both(variant, bidirectional=True)
    compare(host, device, batch(host, lengths=EVEN), lengths=None)


@pytest.fixture
def tiles(gpu, monkeypatch):
    """Squares that tiles of tensor cores fit."""
    monkeypatch.setattr(product, "SIDE", 8)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_batches_without_padding_on_tensor_cores(name, tiles):
    host, device = on_both((name, {}), dtype="float32", precision="tf32")
    inputs = batch(host, lengths=EVEN)
    for (what, want), (_, got) in zip(results(host, inputs, lengths=None), results(device, inputs, lengths=None), strict=True):
        want, got = np.asarray(want), got.get()
        assert np.isfinite(got).all() and np.abs(got - want).max() <= TOLERANCES["tf32"] * max(1.0, np.abs(want).max()), what


def by_name(net, name, factor):
    net.params[name] = net.params[name] * factor


def through_a_view(net, name, factor):
    net.params[name][...] *= factor


def whole(net, name, factor):
    net.params.flat[...] *= factor


def loaded(net, name, factor):
    net.load_state_dict(net.state_dict() | {name: net.state_dict()[name] * factor})


@pytest.mark.parametrize("change, precision", [(by_name, "exact"), (through_a_view, "exact"), (whole, "tf32"), (loaded, "exact")])
def test_a_change_of_parameters_is_seen_by_the_next_call(change, precision, tiles):
    host, device = on_both(LSTM, dtype="float32", precision=precision)
    x, state, dy, _ = batch(host, lengths=EVEN)
    before = None
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l0"):
        for net in (host, device):
            change(net, name, net.dtype.type(0.5))
        outputs, gradients = [], []
        for net in (host, device):
            outputs += net(x, state)[0], net.forward(x, state)[0]
            gradients.append(net.backward(net.forward(x, state)[2], dy))
        want, _, got, again = outputs
        limit = TOLERANCES["devices_float32" if precision == "exact" else "tf32"]
        assert (again == got).all() and np.abs(got.get() - want).max() <= limit
        for one in host.params:
            wanted, found = gradients[0].params[one], gradients[1].params[one].get()
            assert np.abs(found - wanted).max() <= limit * max(1.0, np.abs(wanted).max()), one
        assert before is None or (got.get() != before).any()
        before = got.get()


def test_a_change_of_what_is_fixed_is_seen_by_the_next_call(gpu):
    host, device = on_both(("leaky", {}))
    x, *_ = batch(host, lengths=EVEN)
    for factor in (1.0, 3.0):
        for net in (host, device):
            net.constants["dt_l0"] = net.constants["dt_l0"] * factor
        assert_alike(device(x)[0], host(x)[0])


def test_batches_of_any_shape_take_turns(gpu):
    """Even ones and ragged ones, of one size or another: what is kept of one does not enter another."""
    host, device = on_both(GRU)
    for lengths in (np.full(3, 2), EVEN[:3], np.array([4, 4, 1]), EVEN, np.array([1, 4, 3, 0, 2]), np.full(5, 2), EVEN):
        compare(host, device, batch(host, lengths=lengths), lengths=lengths)


def test_what_is_made_once_is_made_once_and_not_kept_without_end(monkeypatch):
    made, calls = Made(_device.CPU), []
    monkeypatch.setattr(Made, "MOST", 3)
    for key in (1, 1, 2, 3, 1, 4, 1):
        assert made.once((key,), lambda key=key: calls.append(key) or [key]) == [key]
    assert calls == [1, 2, 3, 4, 1]


def test_each_stream_has_what_it_needs_of_its_own(gpu, monkeypatch):
    """What one has made may not be there yet, or be gone, when another one asks for it."""
    kept, seen = Made.once, {1: [], 2: []}

    def once(self, key, make):
        found = kept(self, key, make)
        seen[target.stream()] += [found] if hasattr(found, "__cuda_array_interface__") else []
        return found

    monkeypatch.setattr(Made, "once", once)
    net = fr.LSTM(2, 3, device="cuda")
    for stream in (1, 2):
        monkeypatch.setattr(target, "stream", lambda stream=stream: stream)
        _, _, tape = net.forward(np.zeros((1, 2, 2), np.float32))
        net.backward(tape, np.zeros((1, 2, 3), np.float32))
    assert len(seen[1]) == len(seen[2]) > 0 and not set(map(id, seen[1])) & set(map(id, seen[2]))


def test_threads_whose_streams_have_one_name_and_copies_make_their_own(gpu, monkeypatch):
    monkeypatch.setattr(target, "stream", lambda: _device.PER_THREAD)
    made, found = Made(_device.device("cuda")), []
    thread = threading.Thread(target=lambda: found.append(made.once(("a",), object)))
    thread.start()
    thread.join()
    own = made.once(("a",), object)
    assert own is made.once(("a",), object) is not found[0]
    assert copy.deepcopy(made).once(("a",), object) is not own


def test_plans_and_layouts_are_kept(monkeypatch):
    monkeypatch.setattr(target, "capability", lambda: (9, 0))
    arguments = fr.cells.build("lstm"), 16, np.dtype("float32"), "exact"
    assert _cuda.plan(*arguments) is _cuda.plan(*arguments)
    assert _cuda.plan(*arguments[:3], "tf32") is not _cuda.plan(*arguments)

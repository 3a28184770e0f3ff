"""What a layer launches, noted once and done again with other arrays: the same bits as if it were found anew each time."""

import ctypes
import operator
from threading import Thread, local
from types import SimpleNamespace

import numpy as np
import pytest
from device_arrays import counted
from test_cuda import GRU, LSTM, batch, compare, on_both
from test_cuda import run as results
from variants import COMPILED

import fastrnn as fr
from fastrnn._device import device
from fastrnn.kernels.cuda import product, program, target
from fastrnn.kernels.cuda.program import Clear, Notes, Program, Slot
from fastrnn.kernels.cuda.target import Launch
from fastrnn.layers._cuda import CudaDirection

EVEN, RAGGED, F32 = np.full(3, 3), np.array([1, 3, 2]), np.dtype("float32")


@pytest.fixture
def noted(gpu, monkeypatch):
    """How many programs have been made; and a function after which none is used."""
    made, make = [], Program.__init__
    monkeypatch.setattr(Program, "__init__", lambda self, *arguments: (made.append(self), make(self, *arguments))[1])
    return made, lambda: monkeypatch.setattr(CudaDirection, "_is_noted", lambda *arguments: False)


@pytest.mark.parametrize("variant, lengths", [*((variant, EVEN) for variant in COMPILED), (LSTM, RAGGED), (GRU, RAGGED)], ids=str)
def test_the_same_bits_as_anew(variant, lengths, noted):
    """Of the first pass and of a second one, with other numbers in other arrays; of other parameters, too."""
    (programs, forget), (_, net) = noted, on_both(variant, bidirectional=True)
    inputs, found = [batch(net, T=3, lengths=lengths) for _ in range(2)], []
    for again in (False, True):
        for own in inputs:
            found.append([*results(net, own, lengths=lengths)])
            net.params.flat[...] *= 0.5
        net.params.flat[...] *= 4.0
        if not again:
            assert len(programs) == 4  # both ways of two directions
            forget()
    assert len(programs) == 4
    for old, new in zip(found[:2], found[2:], strict=True):
        for (name, one), (_, other) in zip(old, new, strict=True):
            assert (one.get() == other.get()).all(), name


@pytest.mark.parametrize("precision", ["exact", "tf32"])
def test_other_shapes_have_other_programs(precision, noted, monkeypatch):
    monkeypatch.setattr(product, "SIDE", 8)  # squares that tiles of tensor cores fit
    (programs, forget), (_, net) = noted, on_both(LSTM, dtype="float32", precision=precision)
    shapes, found = [(3, 4), (2, 4), (3, 2), (3, 4)], []
    for _ in range(2):
        for steps, rows in shapes:
            x = net.device.put(np.random.default_rng(steps * rows).standard_normal((steps, rows, net.input_size), np.float32))
            y, _, tape = net.forward(x)
            found.append((y.get(), net.backward(tape, y).x.get()))
        forget()
    assert len(programs) == 6
    for old, new in zip(found[:4], found[4:]):
        assert all((one == other).all() for one, other in zip(old, new))


@pytest.mark.parametrize("variant", [LSTM, GRU], ids=str)
def test_what_is_not_written_is_cleared_where_sequences_are_shorter(variant, noted):
    """Shapes are the same; from right to left so are the arrays' steps in memory."""
    (programs, _), (host, net) = noted, on_both(variant, reverse=True)
    for lengths in (EVEN, RAGGED, EVEN):
        compare(host, net, batch(host, T=3, lengths=lengths), lengths=lengths)
    assert len(programs) == 3  # of the way forward one


@pytest.mark.parametrize("options", [{"clip": 0.1}, {"details": True}, {"begin": 1}, {"inputs": False}], ids=str)
def test_a_way_back_of_another_kind_has_the_same_bits(options, noted):
    (programs, forget), (_, net) = noted, on_both(GRU)
    x, state, dy, _ = batch(net, T=3, lengths=EVEN)
    found = []
    for _ in range(2):
        for _ in range(2):
            details = {"details": True} if "details" in options else {}
            grads = net.backward(net.forward(x, state, **details)[2], dy, **options)
            found.append([grads.params.flat, grads.state, *([] if grads.x is None else [grads.x]), *([grads.h] if details else [])])
        forget()
    assert len(programs) == 1 + (not options.keys() & {"clip", "begin"})
    for other in found[1:]:
        assert all((one.get() == another.get()).all() for one, another in zip(found[0], other, strict=True))


def test_what_was_noted_is_looked_for_no_more(noted):
    _, (_, net) = noted, on_both(LSTM)
    x, *_ = batch(net, T=3, lengths=EVEN)
    net(x)
    before = counted.total()
    net(x)
    assert counted.total() - before <= 6


def test_to_note_what_is_done_once_would_not_pay(noted, monkeypatch):
    (programs, _), (_, net) = noted, on_both(LSTM)
    monkeypatch.setattr(program.Repeated, "NOTED", 1)
    x, _, dy, _ = batch(net, T=3, lengths=EVEN)
    found = []
    for wanted in (0, 2, 2, 2):
        y, _, tape = net.forward(x)
        found.append([array.get() for array in (y, net.backward(tape, dy).params.flat)])
        assert len(programs) == wanted
    assert all((one == another).all() for other in found[1:] for one, another in zip(found[0], other))


def test_each_thread_has_its_own(noted):
    """One that comes after another, with its number, too: the driver does not know it yet."""
    (programs, _), (_, net) = noted, on_both(LSTM)
    x, *_ = batch(net, T=3, lengths=EVEN)
    want, found = net(x)[0], []
    for made in (2, 3):
        thread = Thread(target=lambda: found.append(net(x)[0]))
        thread.start()
        thread.join()
        net(x)
        assert len(programs) == made and (found[-1].get() == want.get()).all()


def test_sizes_may_be_numbers_of_numpys(noted):
    net, x = fr.LSTM(np.int64(2), np.int64(3), device="cuda"), np.ones((3, 2, 2), np.float32)
    want, _ = fr.LSTM(2, 3)(x)
    for _ in range(3):
        assert np.abs(net(x)[0].get() - want).max() < 1e-6
    slot = Slot(1, np.int64(8), (np.int64(4), np.int64(3)), F32)
    for own in (slot, slot[np.int64(1) :], slot.reshape(np.int64(2), -1)[1:]):
        assert type(own.ptr) is type(own.size) is type(own.nbytes) is int


def test_steps_of_generation_are_noted_from_the_second_on(noted, monkeypatch):
    programs, _ = noted
    monkeypatch.setattr(program.Repeated, "NOTED", 1)
    layers = fr.RNN(2, 3, device="cuda"), fr.Linear(3, 2, device="cuda")
    model, found = fr.Model(*layers, loss=fr.MeanSquaredError(), readout="every"), []
    for steps, wanted in ((1, 0), (1, 1), (1, 1), (4, 2)):  # the second one notes how a prefix is read
        found.append(device("cuda").get(model.generate(np.ones((1, 2, 2), np.float32), steps).outputs))
        assert len(programs) == wanted
    assert all((found[-1][: len(other)] == other).all() for other in found)


def test_what_is_kept_is_made_and_not_noted(gpu):
    made = []

    def function(x):
        with target.noting(None):
            made.append(target.zeros((2,), F32))
        made.append(target.zeros((2,), F32))

    Program(function, (target.zeros((3,), F32),))
    assert not isinstance(made[0], Slot) and isinstance(made[1], Slot)
    assert not isinstance(target.zeros((2,), F32), Slot)


def test_an_error_ends_the_notes(gpu):
    with pytest.raises(KeyError):
        Program(lambda: {}[0], ())
    for wrong in (lambda x: x + 1, lambda x: operator.setitem(x, 0, 1), lambda x: np.exp(x), lambda x: x.copy()):
        with pytest.raises((TypeError, AttributeError)):
            Program(wrong, (target.zeros((3,), F32),))
    assert not isinstance(target.empty((2,), F32), Slot)


def test_neighbours_alone_are_taken(gpu):
    wide = np.zeros((4, 6), np.float32)
    for array in (wide[:, :3], wide[::2], wide.T):
        with pytest.raises(ValueError, match="contiguous"):
            Program(lambda x: None, (array,))


def test_a_slot_has_the_shape_of_an_array():
    array = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    slot = Slot(3, 0, array.shape, array.dtype)
    for change in (
        lambda x: x[1:3], lambda x: x[2:], lambda x: x[:0], lambda x: x[4:2], lambda x: x[-2:], lambda x: x.reshape(-1),
        lambda x: x.reshape(20, -1)[7:9], lambda x: x.reshape((2, 30)), lambda x: x.reshape(-1)[8:20].reshape(3, -1, 2)[1:],
        lambda x: x[:0].reshape(0, 7), lambda x: x[:0].reshape(-1, 7),
    ):  # fmt: skip
        want, got = change(array), change(slot)
        assert (got.shape, got.ndim, got.size, len(got), got.nbytes) == (want.shape, want.ndim, want.size, len(want), want.nbytes)
        if want.size:
            assert got.strides == want.strides
            assert got.at == want.__array_interface__["data"][0] - array.__array_interface__["data"][0]
    for wrong in (lambda: slot[::2], lambda: slot[::-1], lambda: slot.reshape(7, -1), lambda: slot.reshape(61)):
        with pytest.raises(ValueError, match="required"):
            wrong()


def test_what_is_asked_for_lies_side_by_side(gpu):
    notes = Notes([])
    with target.noting(notes):
        one, two, three = target.empty((65,), F32), target.zeros((2, 3), np.dtype("float64")), target.empty(1, np.dtype("int32"))
    assert [(slot.which, slot.at, slot.shape) for slot in (one, two, three)] == [(0, 0, (65,)), (0, 512, (2, 3)), (0, 768, (1,))]
    assert notes.size == 1024 and notes.steps == [Clear(two)]


def test_addresses_alone_change(monkeypatch):
    """The driver is given numbers as they were noted, and the addresses of the arrays at hand."""
    done, stand = [], SimpleNamespace

    def launch_kernel(function, x, y, z, threads, *rest):
        *_, shared, stream, parameters, _ = rest
        addresses = (ctypes.c_int64 * 16).from_address(parameters)
        done.append((function, (x, y, z), threads, shared, stream, [ctypes.c_int64.from_address(a).value for a in addresses]))

    runtime = stand(memsetAsync=lambda *arguments: done.append(arguments), getDevice=lambda: 0, memGetInfo=lambda: None)
    cuda = stand(driver=stand(launchKernel=launch_kernel), runtime=runtime)
    monkeypatch.setattr(target, "arrays", lambda: stand(cuda=cuda))
    monkeypatch.setattr(target, "stream", lambda: 3)
    monkeypatch.setattr(target, "_thread", local())
    monkeypatch.setattr(target, "_function", lambda kernel, arguments: stand(kernel=stand(ptr=7)))
    given, room = Slot(0, 0, (4,), F32), Slot(1, 256, (2,), F32)
    constant = stand(ndim=1, dtype=F32, size=0, shape=(0,), strides=(4,), flags=stand(c_contiguous=True), data=stand(ptr=0))
    one, other = (given[1:], -9, room, True), (constant, given, -1, -2)
    steps = [Clear(room), Launch(None, (5, 6), 32, 64, one, True), Launch(None, (1,), 32, 0, other, False)]
    go = program.prepared(steps)
    for first, second in ((2**40, 2**47 - 512), (2**56, 4096)):
        done.clear()
        go([stand(data=stand(ptr=first)), stand(data=stand(ptr=second))])
        clear, one, other = done
        assert clear == (second + 256, 0, 8, 3)
        assert one == (7, (5, 6, 1), 32, 64, 3, [0, 0, 3, 4, first + 4, 3, 4, -9, 0, 0, 2, 4, second + 256, 2, 4, 1])
        assert other == (7, (1, 1, 1), 32, 0, 3, [0, 0, 0, 4, 0, 0, 4, 0, 0, 4, 4, first, 4, 4, -1, -2])


def test_a_device_that_is_the_host_has_no_notes():
    with device("cpu").at_once():
        assert target._notes() is None

"""Networks on a GPU that is simulated, against those on the CPU: the same numbers to rounding."""

import copy
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
from test_recurrent import batch as batch_of
from test_recurrent import network, tuple_of
from tolerances import TOLERANCES
from variants import COMPILED, label

import fastrnn as fr
from fastrnn import _device
from fastrnn.cells import build
from fastrnn.kernels.cuda import chains, loop, plan, product, target
from fastrnn.layers._cuda import CudaDirection

T, LENGTHS = 4, np.array([2, 4, 0, 1, 3])  # small: a step of a thread takes milliseconds here
LSTM, GRU = ("lstm", {}), ("gru", {"reset_after": False})


def on_both(variant, **options):
    """The same network on the CPU and on the GPU, all its parameters drawn."""
    precision = options.pop("precision", "exact")
    host, _ = network(variant, **options)
    options = {"dtype": "float64", "cell_options": variant[1], **options}
    device = fr.Recurrent(variant[0], host.input_size, options.pop("H", host.hidden_size), device="cuda", precision=precision, **options)
    device.load_state_dict(host.state_dict())
    for name in host.constants:
        device.constants[name] = device.device.put(host.constants[name])
    return host, device


def batch(net, T=T, lengths=LENGTHS):
    return batch_of(net, T=T, lengths=lengths)


def assert_alike(got, want, what=""):
    got, want = (got.get() if hasattr(got, "get") else np.asarray(got)), np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype, what
    limit = TOLERANCES["devices_float32" if want.dtype == np.float32 else "devices"]
    assert np.isfinite(got).all(), what
    assert np.abs(got - want).max(initial=0.0) <= limit * max(1.0, np.abs(want).max(initial=0.0)), (what, np.abs(got - want).max())


def run(net, inputs, forward=None, backward=None, lengths=LENGTHS):
    """(name, array) of everything that forward and backward give."""
    (x, state, dy, dstate), forward = inputs, dict(forward or {})
    if "rng" in forward:
        forward["rng"] = np.random.default_rng(forward["rng"])
    y, final, tape = net.forward(x, state, lengths=lengths, **forward)
    grads = net.backward(tape, dy, dstate, **(backward or {}))
    yield "y", y
    for name, array in zip(net.cell.states, tuple_of(final)):
        yield f"final {name}", array
    yield "dL/dx", grads.x
    for name, array in zip(net.cell.states, tuple_of(grads.state)):
        yield f"dL/dstate {name}", array
    for name in grads.params:
        yield f"dL/d{name}", grads.params[name]
    if grads.clipped is not None:
        yield "clipped", np.array(grads.clipped, net.dtype)
    if grads.h is not None:
        yield "dL/dh", grads.h
        for name in grads.preactivations:
            yield f"a {name}", tape.preactivation(name)
            yield f"dL/da {name}", grads.preactivations[name]
        for name in net.cell.states + net.cell.saved:
            yield f"gate {name}", tape.gate(name)


def compare(host, device, inputs=None, **options):
    inputs = inputs or batch(host)
    for (name, want), (same, got) in zip(run(host, inputs, **options), run(device, inputs, **options), strict=True):
        assert same == name
        assert_alike(got, want, name)


@pytest.mark.parametrize("variant", COMPILED, ids=label)
def test_every_cell(variant, gpu):
    details = {"details": True}
    compare(*on_both(variant, num_layers=2, bidirectional=True), forward=details, backward=details)


@pytest.mark.parametrize("rows", loop.ROWS)
@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_any_order_and_any_block_gives_the_same_bits(variant, rows, gpu, monkeypatch):
    monkeypatch.setattr(plan, "RESIDENT", 0)
    monkeypatch.setattr(loop, "ROWS", (1,))
    _, device = on_both(variant, dtype="float32")
    want = dict(run(device, batch(device)))
    monkeypatch.setattr(loop, "ROWS", (rows,))
    for seed in range(3):
        gpu(order="random", seed=seed)
        for name, got in run(device, batch(device)):
            assert (got == want[name]).all(), name


@pytest.mark.parametrize(
    "blocks, splits, dtype", [(1, 2, "float64"), (2, 1, "float32"), (2, 4, "float64"), (4, 2, "float32"), (4, 1, "float64")]
)
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_parts_of_k_and_clusters(name, blocks, splits, dtype, gpu, monkeypatch):
    monkeypatch.setattr(plan, "BLOCKS", (blocks,))
    monkeypatch.setattr(plan, "SPLITS", (splits,))
    host, device = on_both((name, {}), dtype=dtype, H=7, recurrent_dropout=0.3)
    shape = plan.chains(device.cell, 7, device.dtype)
    assert (shape.blocks, shape.splits) == (blocks, splits)
    gpu(order="uneven", seed=blocks)
    compare(host, device, forward={"details": True, "rng": 1}, backward={"details": True})


@pytest.mark.parametrize(
    "blocks, H, dtype, message", [(4, 8, "float32", 4), (8, 16, "float32", 4), (2, 8, "float64", 2), (2, 7, "float32", 1)]
)
def test_numbers_that_are_sent_at_once(blocks, H, dtype, message, gpu, monkeypatch):
    monkeypatch.setattr(plan, "BLOCKS", (blocks,))
    monkeypatch.setattr(plan, "SPLITS", (1,))
    host, device = on_both(LSTM, dtype=dtype, H=H)
    assert plan.chains(device.cell, H, device.dtype).message == message
    gpu(order="random", seed=blocks)
    compare(host, device)


@pytest.mark.parametrize("name, dtype", [("lstm", "float32"), ("gru", "float64")])
def test_weights_that_have_no_room_are_read_at_every_step(name, dtype, gpu, monkeypatch):
    """In a cluster, some of them or all."""
    monkeypatch.setattr(chains, "STREAM", 1)
    monkeypatch.setattr(plan, "STREAM", 1)
    monkeypatch.setattr(plan, "SPLITS", (1,))
    host, device = on_both((name, {}), dtype=dtype, H=15, recurrent_dropout=0.3)
    for most in (6, 2):
        monkeypatch.setattr(plan, "RESIDENT", most * device.dtype.itemsize // 4)
        shape = plan.chains(device.cell, 15, device.dtype)
        assert shape.blocks == 8 and shape.held == most - 2 < shape.depth < shape.tall + 1 == 17
        gpu(order="random", seed=most)
        compare(host, device, forward={"rng": 1})


def test_a_gpu_that_cannot_fetch_ahead_has_no_resident_loop(monkeypatch):
    monkeypatch.setattr(target, "capability", lambda: (7, 5))
    assert plan.chains(build("lstm"), 64, np.dtype("float32")) is None
    assert plan.plan(build("lstm"), 64, np.dtype("float32"), "exact").blocks == 1


def test_every_block_of_a_cluster_has_a_unit(gpu):
    for name, dtype in (("rnn", "float32"), ("gru", "float32"), ("lstm", "float64")):
        found = [shape for H in range(1, 300) if (shape := plan.chains(build(name), H, np.dtype(dtype)))]
        assert any(shape.blocks > 1 for shape in found)
        assert all(shape.units * (shape.blocks - 1) < shape.H for shape in found)


def test_no_block_of_a_cluster_without_a_unit_is_planned(gpu, monkeypatch):
    monkeypatch.setattr(plan, "BLOCKS", (4,))
    assert plan.chains(build("rnn"), 9, np.dtype("float32")) is None  # of 3, 3, 3 and 0 units
    assert plan.chains(build("rnn"), 10, np.dtype("float32")).blocks == 4


def test_more_steps_than_rows_can_be_counted(gpu):
    direction = CudaDirection(_device.device("cuda"), build("rnn"), 1, 1, False)
    kept = SimpleNamespace(y=np.broadcast_to(np.float32(0), (2**16, 2**10, 2**6, 1)))
    with pytest.raises(ValueError, match=r"x: fewer than 2\*\*32 steps .* got 65536 x 1024 x 64"):
        direction._span(kept, 0, 1, 0, 0)


@pytest.mark.parametrize("resident", [0, plan.RESIDENT])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_weights_in_registers_or_not(name, dtype, resident, gpu, monkeypatch):
    monkeypatch.setattr(plan, "RESIDENT", resident)
    host, device = on_both((name, {}), dtype=dtype)
    assert bool(plan.chains(device.cell, device.hidden_size, device.dtype)) == bool(resident)
    compare(host, device, forward={"details": True}, backward={"details": True})
    want = dict(run(device, batch(device)))
    gpu(order="random", seed=1)
    for name, got in run(device, batch(device)):
        assert (got == want[name]).all(), name


@pytest.mark.parametrize(
    "options, forward, backward",
    [
        ({"reverse": True}, {}, {}),
        ({"num_layers": 2, "bidirectional": True, "merge": "sum"}, {}, {}),
        ({"num_layers": 2, "bidirectional": True, "merge": "product"}, {}, {}),
        ({"num_layers": 2, "dropout": 0.4, "recurrent_dropout": 0.3}, {"rng": 5}, {}),
        ({}, {}, {"details": True}),
        ({}, {}, {"begin": 2}),
        ({}, {}, {"clip": 0.05}),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_options(variant, options, forward, backward, gpu):
    host, device = on_both(variant, **options)
    forward = {"details": bool(backward.get("details"))} | forward
    compare(host, device, forward=forward, backward=backward)


def pull_of(net, inputs) -> dict:
    (T, B), rng = inputs[0].shape[:2], np.random.default_rng(3)
    return {"pull": (rng.normal(size=(T, B, net.hidden_size)), rng.uniform(size=T))}


@pytest.mark.parametrize("backward", [{"details": True}, {"begin": 2}, {"clip": 0.02}, {"pull": True}], ids=str)
@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_the_tape_within_a_memory_budget_has_the_same_bits(variant, backward, gpu, monkeypatch):
    monkeypatch.setattr("fastrnn.layers._cuda.PART", len(LENGTHS))  # sums of one step each, that segments may be short
    _, device = on_both(variant, num_layers=2)
    inputs, details = batch(device), {"details": "details" in backward}
    if "pull" in backward:
        backward, details = {}, details | pull_of(device, inputs)
    with pytest.raises(ValueError, match="memory: at least") as error:
        device.forward(*inputs[:2], lengths=LENGTHS, memory=1)
    least = {"memory": int(re.search(r"at least (\d+) bytes", str(error.value))[1])}
    *_, tape = device.forward(*inputs[:2], lengths=LENGTHS, **least)
    assert tape.layers[0][0].segment < T
    whole = dict(run(device, inputs, details, backward))
    again = run(device, inputs, details | least, backward)
    for name in [name for name in whole if not name.startswith("gate")]:  # the tape's own, which come last, are gone
        same, array = next(again)
        assert same == name and (array == whole[name]).all(), name


@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_pull(variant, gpu):
    host, device = on_both(variant, num_layers=2)
    inputs = batch(host)
    compare(host, device, inputs, forward=pull_of(host, inputs))


def test_learned_initial_state_and_batch_first(gpu):
    host, device = on_both(LSTM, initial_state="learned", batch_first=True)
    x, _, dy, dstate = batch(host)
    compare(host, device, (x.swapaxes(0, 1), None, dy.swapaxes(0, 1), dstate))


@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_float32(variant, gpu):
    compare(*on_both(variant, dtype="float32", bidirectional=True))


@pytest.mark.parametrize("B, T, H", [(0, 4, 3), (1, 5, 1), (3, 0, 3), (2, 2, 33)])
def test_odd_sizes(B, T, H, gpu):
    host, device = on_both(LSTM, H=H)
    compare(host, device, batch(host, T=T, lengths=np.full(B, T)), lengths=None)


def test_no_gradient_of_the_input_and_no_tape(gpu):
    host, device = on_both(LSTM, num_layers=2)
    x, state, dy, _ = batch(host)
    y, _, tape = device.forward(x, state, lengths=LENGTHS)
    assert device.backward(tape, dy, inputs=False).x is None
    assert_alike(device(x, state, lengths=LENGTHS)[0], y.get())


def test_nan_in_padding_reaches_nothing(gpu):
    host, device = on_both(GRU, bidirectional=True)
    inputs = batch(host)
    clean = tuple(np.nan_to_num(part) if isinstance(part, np.ndarray) else part for part in inputs)
    for (name, got), (_, want) in zip(run(device, inputs), run(device, clean)):
        assert (got == want).all(), name


def test_results_are_the_devices_and_move_to_the_host(gpu):
    _, device = on_both(LSTM)
    x, *_ = batch(device)
    y, (h, c) = device(x, lengths=LENGTHS)
    assert type(y) is type(h) is type(c) is type(device.params["weight_hh_l0"])
    assert all(type(array) is np.ndarray for array in device.state_dict().values())
    again, _ = device(device.device.put(x), lengths=LENGTHS)
    assert (again == y).all()


def test_copies_and_pickles_stay_on_the_device(gpu):
    _, device = on_both(LSTM)
    x, *_ = batch(device)
    twin = copy.deepcopy(device)
    assert twin.device.name == "cuda" and (twin(x, lengths=LENGTHS)[0] == device(x, lengths=LENGTHS)[0]).all()
    assert pickle.loads(pickle.dumps(device.device)).name == "cuda"


def test_without_a_gpu_the_error_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(target, "missing", lambda: ["an NVIDIA driver", "the package cupy (pip install 'fastrnn[cuda]')"])
    said = r"device: .*missing here: an NVIDIA driver and the package cupy .*fastrnn\[cuda\].*device='cpu'"
    with pytest.raises(RuntimeError, match=said):
        fr.LSTM(2, 3, device="cuda")


def test_a_device_that_is_none():
    with pytest.raises(ValueError, match="device: one of .*cpu.*cuda.* is required; got 'gpu'"):
        fr.LSTM(2, 3, device="gpu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_too_large_for_shared_memory_is_refused(dtype, gpu):
    most = loop.largest_hidden_size(build("lstm"), np.dtype(dtype).itemsize)
    assert loop.block_rows(build("lstm"), most, np.dtype(dtype).itemsize) == 1
    with pytest.raises(ValueError, match=f"hidden_size: at most {most} units .*got {most + 1}"):
        fr.LSTM(2, most + 1, dtype=dtype, device="cuda")


def test_too_little_memory_is_said_before_anything_is_begun(gpu, monkeypatch):
    _, device = on_both(LSTM, num_layers=2)
    x, state, dy, _ = batch(device)
    _, _, tape = device.forward(x, state, lengths=LENGTHS)
    monkeypatch.setattr(target, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="device: about .* MB .* are required for 4 steps of 5 sequences forward; got 0 MB"):
        device.forward(x, state, lengths=LENGTHS)
    with pytest.raises(MemoryError, match="backward"):
        device.backward(tape, dy)


class Exchanged:
    """An array on a GPU, of a library that knows DLPack alone."""

    def __init__(self, array):
        self.held = array

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        return self.held.__dlpack__()


def test_arrays_come_by_dlpack(gpu):
    _, device = on_both(LSTM)
    x, *_ = batch(device)
    want, _ = device(x, lengths=LENGTHS)
    got, _ = device(Exchanged(x), lengths=Exchanged(LENGTHS))
    assert (got == want).all()
    loss, (values, labels) = fr.CrossEntropy(), (np.ones((2, 3)), np.array([0, 2]))
    assert loss(Exchanged(values), Exchanged(labels)) == loss(device.device.put(values), labels) == pytest.approx(np.log(3))


def both_ways(device):
    nets = fr.LSTM(2, 3, device=device, dtype="float64"), fr.GRU(2, 4, device=device, dtype="float64", seed=1, reverse=True)
    return fr.Bidirectional(*nets)


@pytest.mark.parametrize("build", [both_ways, lambda device: fr.Delayed(fr.LSTM(2, 3, device=device, dtype="float64"), 2)])
def test_networks_of_networks(build, gpu):
    host, device = build("cpu"), build("cuda")
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(T, 5, 2)), rng.normal(size=(T, 5, host.output_size))
    found = []
    for net in (host, device):
        y, state, tape = net.forward(x, lengths=LENGTHS)
        grads = net.backward(tape, dy)
        again, _ = net(x, lengths=net.device.put(LENGTHS))
        assert (again == y).all()
        pair = state if isinstance(net, fr.Bidirectional) else (state,)
        ends = [part for one in pair for part in tuple_of(one)]
        found.append([y, *ends, net.final_output(state), grads.x, grads.params.flat])
    for want, got in zip(*found):
        assert_alike(got, want)


def test_directions_on_two_devices_are_refused(gpu):
    with pytest.raises(ValueError, match="backward: device='cuda', that of the forward network, is required; got 'cpu'"):
        fr.Bidirectional(fr.LSTM(2, 3, device="cuda"), fr.LSTM(2, 3, reverse=True))


def test_jacobian(gpu):
    host, device = on_both(LSTM)
    rng = np.random.default_rng(0)
    x, state = rng.normal(size=(3, host.input_size)), tuple(rng.normal(size=(2, 3, host.hidden_size)))
    assert_alike(fr.jacobian(device, x, state), fr.jacobian(host, x, state))


@pytest.mark.parametrize("side, shares", [(4, (2,)), (8, (2, 4)), (16, (4,))])
@pytest.mark.parametrize("M, K, N, most", [(1, 1, 1, 0), (17, 16, 5, 0), (70, 3, 65, 0), (70, 3, 5, 900), (5, 33, 64, 0), (0, 3, 2, 0)])
def test_products(M, K, N, most, side, shares, gpu, monkeypatch):
    monkeypatch.setattr(product, "SIDE", side)
    monkeypatch.setattr(product, "SHARES", {8: shares})
    monkeypatch.setattr(product, "PARTS", 2)
    monkeypatch.setattr(product, "PARTS_BYTES", most)
    rng, device = np.random.default_rng(0), _device.device("cuda")
    put = device.put
    a, b, start = rng.normal(size=(1, M, K + 2)), rng.normal(size=(2, K, N)), rng.normal(size=(2, N + 3))
    c = device.empty((2, M, N + 3), np.float64)
    product.product(put(a), 2, put(b), put(start), c, 1, N + 1)
    want = np.tile(start[:, None], (1, M, 1))
    want[:, :, 1 : N + 1] += a[..., 2:] @ b
    assert_alike(c, want)
    wide = rng.normal(size=(2, M, N + 3))
    total, columns = put(rng.normal(size=(2, K + 2, N))), put(rng.normal(size=(2, N + 3)))
    want, sums = total.get() + np.swapaxes(a, 1, 2) @ wide[..., 3:], columns.get() + wide.sum(axis=1)
    product.add_transposed(put(a), put(wide), 3, total, device.empty, product.Parts(8))
    product.add_columns(put(wide), columns, device.empty, product.Parts(8))
    assert_alike(total, want)
    assert_alike(columns, sums)


@pytest.mark.parametrize("precision, shares", [("exact", (2, 4, 8)), ("tf32", (2, 4)), ("bf16", (2, 4)), ("split", (2, 4))])
def test_products_have_the_same_bits_in_any_rectangles(precision, shares, gpu, monkeypatch):
    """And where the columns of a row begin at a multiple of what is written at once, or do not."""
    rng, device, dtype, found = np.random.default_rng(0), _device.device("cuda"), np.dtype("float32"), []
    a, b, start = rng.normal(size=(1, 19, 12)), rng.normal(size=(2, 11, 18)), rng.normal(size=(2, 24))
    wide = rng.normal(size=(2, 19, 24))
    monkeypatch.setattr(product, "SIDE", 8)
    for rows in shares:
        for columns in shares:
            for begin, N in ((4, 24), (3, 23)):
                monkeypatch.setattr(
                    product, "_products", lambda *_, share=(rows, columns): product.make_products(dtype, precision, 8, *share)
                )
                c, total = device.empty((2, 19, N), dtype), device.zeros((2, 12, 18), dtype)
                at = start[:, 4 - begin : 4 - begin + N].copy()
                product.product(
                    *(device.put(a.astype(dtype)), 1),
                    *(device.put(part.astype(dtype)) for part in (b, at)),
                    c,
                    begin,
                    begin + 18,
                    precision,
                )
                product.add_transposed(
                    device.put(a.astype(dtype)), device.put(wide.astype(dtype)), 3, total, device.empty, product.Parts(8), precision
                )
                c = c.get()
                assert (c[:, :, :begin] == at[:, None, :begin].astype(dtype)).all() and (
                    c[:, :, begin + 18 :] == at[:, None, begin + 18 :].astype(dtype)
                ).all()
                found.append((c[:, :, begin : begin + 18], total.get()))
    for pair in found:
        for got, want in zip(pair, found[0]):
            assert (got == want).all()


def test_the_rectangle_is_one_that_fits():
    """Few columns, or few blocks, take small ones; what is large in both takes the largest."""
    best = product._fastest.__wrapped__
    assert best((4, 8), 16, 32768, 1024, 1) == (8, 8) and best((4, 8), 16, 64, 256, 1) == (4, 4)
    assert best((4, 8), 16, 32768, 64, 1)[1] == 4 and best((4, 8), 16, 64, 256, 64)[0] == 4


def test_warmup_runs_every_kernel_that_a_product_may_take(gpu, monkeypatch):
    monkeypatch.setattr(product, "SIDE", 8)
    monkeypatch.setattr(product, "SHARES", {4: (2, 4)})
    dtype = np.dtype("float32")
    product.run_each(dtype, "tf32", _device.device("cuda").zeros)
    made = [product.make_products(dtype, "tf32", 8, rows, columns) for rows in (2, 4) for columns in (2, 4)]
    launched = set(target.arrays().cuda.driver.launched)
    assert launched == {kernel for kernels in made for kernel in (kernels.product, kernels.transposed)} and len(launched) == 8


def test_what_is_not_finite_stays_where_there_is_a_product(gpu):
    """An infinite input says nothing to the slots that have none; nor do the rows and columns that fill a rectangle."""
    device, a = _device.device("cuda"), np.ones((1, 3, 2))
    a[0, 1] = np.inf
    c = device.empty((1, 3, 7), np.float64)
    product.product(device.put(a), 0, device.put(np.ones((1, 2, 3))), device.put(np.zeros((1, 7))), c, 2, 5)
    want = np.zeros((1, 3, 7))
    want[0, :, 2:5] = [[2], [np.inf], [2]]
    assert (c.get() == want).all()


def test_rows_that_are_summed_in_several_calls_have_the_same_bits(gpu):
    rng, device = np.random.default_rng(0), _device.device("cuda")
    a, b = device.put(rng.normal(size=(1, 22, 3))), device.put(rng.normal(size=(1, 22, 2)))
    whole, cut = device.zeros((1, 3, 2), np.float64), device.zeros((1, 3, 2), np.float64)
    product.add_transposed(a, b, 0, whole, device.empty, product.Parts(4, 2))
    for begin, end, skip in ((14, 22, 0), (6, 14, 0), (0, 6, 2)):
        product.add_transposed(a[:, begin:end], b[:, begin:end], 0, cut, device.empty, product.Parts(4, skip))
    assert (cut == whole).all()

"""Networks on a GPU's tensor cores, all simulated, against the CPU's: as near as what their operands are rounded to."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from test_cuda import LENGTHS, assert_alike, batch, compare, on_both, pull_of, run
from tolerances import TOLERANCES
from variants import COMPILED, label

import fastrnn as fr
from fastrnn import _device
from fastrnn.cells import build
from fastrnn.cells._cell import Cell, Slot
from fastrnn.kernels.cuda import fragments, plan, product, target

TENSOR = ["split", "tf32", "bf16"]
ONE_PRODUCT = [variant for variant in COMPILED if variant[1].get("reset_after", True)]
LSTM, GRU, RNN = ("lstm", {}), ("gru", {}), ("rnn", {})
WIDE = 40  # units: three warps, of which the last has units that there are not


@pytest.fixture
def gpu(gpu, monkeypatch):
    """Squares of the least size that warps can share."""
    monkeypatch.setattr(product, "SIDE", 8)
    return gpu


def assert_near(got, want, limit, what):
    got = got.get() if hasattr(got, "get") else np.asarray(got)
    assert np.isfinite(got).all() and np.abs(got - want).max(initial=0.0) <= limit * np.abs(want).max(initial=1e-30), what


def bits(net, inputs, **options):
    return {name: array.get() if hasattr(array, "get") else array for name, array in run(net, inputs, **options)}


@pytest.mark.parametrize("variant", ONE_PRODUCT, ids=label)
def test_every_cell_in_split_precision_is_as_good_as_exact(variant, gpu):
    details = {"details": True}
    host, device = on_both(variant, dtype="float32", precision="split", num_layers=2, bidirectional=True)
    compare(host, device, forward=details, backward=details)


@pytest.mark.parametrize("variant, precision", [(LSTM, "tf32"), (GRU, "bf16"), (RNN, "tf32"), (RNN, "bf16")], ids=str)
def test_fewer_bits_are_near(variant, precision, gpu):
    host, device = on_both(variant, dtype="float32", precision=precision, H=WIDE)
    host.load_state_dict({name: array / 3 for name, array in host.state_dict().items()})  # so that no error grows from step to step
    device.load_state_dict(host.state_dict())
    inputs, largest = batch(host), 0.0
    for (name, want), (same, got) in zip(run(host, inputs), run(device, inputs), strict=True):
        assert same == name
        assert_near(got, want, TOLERANCES[precision], name)
        largest = max(largest, np.abs(got.get() - want).max() / np.abs(want).max())
    assert largest > TOLERANCES["devices_float32"]  # rounded they are, and not computed as always


@pytest.mark.parametrize(
    "options, forward, backward",
    [
        ({"reverse": True}, {}, {}),
        ({"num_layers": 2, "dropout": 0.4, "recurrent_dropout": 0.3}, {"rng": 5}, {}),
        ({}, {}, {"details": True, "begin": 2}),
        ({}, {}, {"clip": 0.05}),
        ({"initial_state": "learned"}, {}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_options(variant, options, forward, backward, gpu):
    host, device = on_both(variant, dtype="float32", precision="split", **options)
    compare(host, device, forward={"details": bool(backward.get("details"))} | forward, backward=backward)


@pytest.mark.parametrize("blocks", [1, 2])
def test_pull(blocks, gpu, monkeypatch):
    monkeypatch.setattr(plan, "BLOCKS", (blocks,))
    host, device = on_both(LSTM, dtype="float32", precision="split", num_layers=2, H=WIDE)
    inputs = batch(host)
    compare(host, device, inputs, forward=pull_of(host, inputs))


@pytest.mark.parametrize("variant, precision", [(LSTM, "split"), (GRU, "tf32"), (LSTM, "bf16")], ids=str)
def test_weights_held_or_read_and_any_order_give_the_same_bits(variant, precision, gpu, monkeypatch):
    """With one place or two for the operands of the way back, too; for one part of k."""
    monkeypatch.setattr(plan, "BLOCKS", (1,))
    monkeypatch.setattr(plan, "SPLITS", (1,))
    _, device = on_both(variant, dtype="float32", precision=precision, H=WIDE)
    inputs, cell = batch(device), device.cell
    want = bits(device, inputs)
    held = [shape.held for shape in plan.shapes(cell, WIDE, precision)]
    while any(shape.held in (shape.steps, before) for shape, before in zip(plan.shapes(cell, WIDE, precision), held)):
        monkeypatch.setattr(plan, "LANE", plan.LANE + 1)
    _, back = plan.shapes(cell, WIDE, precision)
    shared = plan.plan(cell, WIDE, device.dtype, precision).backward.shared
    monkeypatch.setattr(target, "more_shared", lambda: shared + 2 * 8 * (back.rows + 1) - 1)
    assert shared - plan.plan(cell, WIDE, device.dtype, precision).backward.shared == 4 * back.operand_words(back.slots)
    gpu(order="random", seed=1)
    for name, array in bits(device, inputs).items():
        assert (array == want[name]).all(), name


@pytest.mark.parametrize(
    "precision, blocks, splits", [("tf32", 1, 2), ("bf16", 1, 4), ("split", 2, 1), ("bf16", 2, 2), ("tf32", 4, 1), ("bf16", 4, 1)]
)
def test_parts_of_k_and_clusters(precision, blocks, splits, gpu, monkeypatch):
    """Near to what they should be, and the same bits in any order of threads and whether weights are held or read."""
    monkeypatch.setattr(plan, "BLOCKS", (blocks,))
    monkeypatch.setattr(plan, "SPLITS", (splits,))
    host, device = on_both(LSTM, dtype="float32", precision=precision, H=WIDE, recurrent_dropout=0.3)
    inputs = batch(host)
    want = bits(device, inputs, forward={"rng": 1})
    for (name, exact), got in zip(run(host, inputs, forward={"rng": 1}), want.values()):
        assert_near(got, exact, TOLERANCES[precision if precision != "split" else "devices_float32"], name)
    shape, _ = plan.shapes(device.cell, WIDE, precision)
    assert (shape.blocks, shape.splits, shape.rows) == (blocks, splits, 2 * splits)
    monkeypatch.setattr(plan, "LANE", shape.registers - plan.AGAIN - 100)
    gpu(order="random", seed=splits)
    for name, array in bits(device, inputs, forward={"rng": 1}).items():
        assert (array == want[name]).all(), name


def test_one_place_for_operands_that_are_not_met_for(gpu, monkeypatch):
    """Of both ways; a cell with many slots, of which few have a product, has no room for two where there is little."""
    monkeypatch.setattr(plan, "BLOCKS", (1,))
    monkeypatch.setattr(plan, "SPLITS", (1,))
    monkeypatch.setattr(plan, "places", lambda shape, operands, numbers: 1)
    _, device = on_both(LSTM, dtype="float32", precision="tf32", H=WIDE)
    want = bits(device, batch(device))
    gpu(order="random", seed=2)
    for name, array in bits(device, batch(device)).items():
        assert (array == want[name]).all(), name


def test_shared_memory_has_room_for_what_either_way_reads(monkeypatch):
    """A cell that reads more forward than back: 8 slots without a product, and 4 with one."""
    monkeypatch.setattr(target, "capability", lambda: (8, 6))
    names = tuple("abcdefghijkl")
    slots = tuple(Slot(name, name, None) for name in names[:8]) + tuple(Slot(name, name, name) for name in names[8:])
    cell = Cell("many", names, slots, states=("h",), saved=(), step=len, step_backward=len)
    most = max(H for H in range(16, 400, 16) if plan.shapes(cell, H, "tf32"))
    for H in range(16, most + 1, 16):
        own = plan.plan(cell, H, np.dtype("float32"), "tf32")
        assert max(own.forward.shared, own.backward.shared) + 2 * 8 * (own.rows + 1) <= target.more_shared()


@pytest.mark.parametrize("precision", TENSOR)
def test_a_sequence_has_the_same_bits_in_any_batch(precision, gpu):
    _, device = on_both(LSTM, dtype="float32", precision=precision, bidirectional=True)
    lengths = np.array([2, 4, 0, 1, 3, 4])  # two slices
    x, (h, c), *_ = batch(device, lengths=lengths)
    whole = device(x, (h, c), lengths=lengths)[0].get()
    for b in (1, 5):
        alone = device(x[:, b : b + 1], (h[:, b : b + 1], c[:, b : b + 1]), lengths=lengths[b : b + 1])[0].get()
        assert (alone[:, 0] == whole[:, b]).all()


@pytest.mark.parametrize("variant", [LSTM, GRU], ids=label)
def test_the_tape_within_a_memory_budget_has_the_same_bits(variant, gpu, monkeypatch):
    monkeypatch.setattr("fastrnn.layers._cuda.PART", len(LENGTHS))
    _, device = on_both(variant, dtype="float32", precision="bf16", num_layers=2)
    inputs = batch(device)
    with pytest.raises(ValueError, match="memory: at least") as error:
        device.forward(*inputs[:2], lengths=LENGTHS, memory=1)
    least = int(re.search(r"at least (\d+) bytes", str(error.value))[1])
    *_, tape = device.forward(*inputs[:2], lengths=LENGTHS, memory=least)
    assert tape.layers[0][0].segment < 4
    whole = bits(device, inputs)
    for name, array in bits(device, inputs, forward={"memory": least}).items():
        assert (array == whole[name]).all(), name


def test_nan_in_padding_reaches_nothing(gpu):
    _, device = on_both(GRU, dtype="float32", precision="bf16", bidirectional=True)
    inputs = batch(device)
    clean = tuple(np.nan_to_num(part) if isinstance(part, np.ndarray) else part for part in inputs)
    want = bits(device, clean)
    for name, got in bits(device, inputs).items():
        assert (got == want[name]).all(), name


def test_odd_sizes(gpu):
    for B, T, H in ((0, 4, 3), (1, 2, 1), (3, 0, 3), (9, 2, 16), (2, 2, 17)):
        host, device = on_both(LSTM, dtype="float32", precision="split", H=H)
        inputs = batch(host, T=T, lengths=np.full(B, T))
        for (name, want), (_, got) in zip(run(host, inputs, lengths=None), run(device, inputs, lengths=None), strict=True):
            assert_alike(got, want, name)


@pytest.mark.parametrize("side, shares", [(8, (2,)), (8, (2, 4)), (16, (4,))])
@pytest.mark.parametrize("precision", TENSOR)
def test_products_of_what_needs_no_rounding_are_exact(precision, side, shares, gpu, monkeypatch):
    monkeypatch.setattr(product, "SIDE", side)
    monkeypatch.setattr(product, "SHARES", {4: shares})
    rng, device = np.random.default_rng(0), _device.device("cuda")

    def whole(*shape):
        return rng.integers(-9, 10, shape).astype(np.float32)

    for M, K, N in ((1, 1, 1), (17, 33, 5), (70, 3, 65), (0, 3, 2)):
        a, b, start, wide = whole(1, M, K + 2), whole(2, K, N), whole(2, N + 3), whole(2, M, N + 3)
        c, total = device.empty((2, M, N + 3), np.float32), device.put(whole(2, K + 2, N))
        product.product(device.put(a), 2, device.put(b), device.put(start), c, 1, N + 1, precision)
        want = np.tile(start[:, None], (1, M, 1))
        want[:, :, 1 : N + 1] += a[..., 2:] @ b
        assert (c.get() == want).all()
        want = total.get() + np.swapaxes(a, 1, 2) @ wide[..., 3:]
        product.add_transposed(device.put(a), device.put(wide), 3, total, device.empty, product.Parts(24, 5), precision)
        assert (total.get() == want).all()


@pytest.mark.parametrize("splits", plan.SPLITS)
@pytest.mark.parametrize("precision", TENSOR)
def test_weights_lie_as_lanes_read_them(precision, splits, gpu):
    shape, rng, device = fragments.Shape(precision, 20, 2, 1, splits, 0), np.random.default_rng(0), _device.device("cuda")
    weight, numbers = rng.integers(-9, 10, (2, 40, 20)).astype(np.float32), 2 if precision == "bf16" else 1
    for transposed in (False, True):
        words = fragments.lay_out(shape, device.put(weight), transposed, device.empty).get()
        words = words.reshape(2, shape.tiles, splits * shape.steps, 2, -1, 32, 4)[..., 0, :, :]  # the high part
        for e, w, k, s, lane, i in rng.integers(0, words.shape, (200, 6)):
            row, first = 16 * w + lane // 4 + 8 * (i % 2), numbers * (8 * k + lane % 4 * 2 + i // 2)
            bits = words[e, w, k, s, lane, i]
            found = [(bits << 16).view(np.float32), (bits & np.int32(-65536)).view(np.float32)] if numbers == 2 else [bits.view(np.float32)]
            for j, value in enumerate(found):
                there, own = row < 20 and first + j < 20, weight[e, 20 * s : 20 * s + 20]
                want = (own.T if transposed else own)[row, first + j] if there else 0.0
                assert value == want


def model(precision, **options):
    layers = fr.Embedding(5, 3, device="cuda"), fr.GRU(3, 4, device="cuda", precision=precision)
    return fr.Model(*layers, fr.Linear(4, 5, device="cuda", precision=precision), loss=fr.CrossEntropy(), readout="every", **options)


@pytest.mark.parametrize("precision", TENSOR)
def test_training(precision, gpu):
    """A member of an ensemble has the bits of its model; and what is learned is near to what is learned exactly."""
    rng, losses, options = np.random.default_rng(0), {}, {"epochs": 3, "optimizer": fr.Adam(0.01)}
    data = rng.integers(0, 5, (3, 4)), rng.integers(0, 5, (3, 4))
    for own in (precision, "exact"):
        ensemble, alone = fr.Ensemble(model(own), seeds=(3, 1)), fr.Ensemble(model(own), seeds=(3, 1)).members[1]
        fr.fit(ensemble, data, **options)
        losses[own] = fr.fit(alone, data, seed=1, **options)["loss"]
        assert (ensemble.members[1].params.flat == alone.params.flat).all()
    assert losses[precision] == pytest.approx(losses["exact"], rel=TOLERANCES[precision if precision != "split" else "devices_float32"])
    assert precision == "split" or (losses[precision] != losses["exact"]).any()


@pytest.mark.parametrize("precision", TENSOR)
def test_a_closed_loop_computes_what_an_open_one_does(precision, gpu):
    own, prefix = model(precision), np.array([[1, 2], [3, 4]])
    generated = own.generate(prefix, 4, temperature=0)
    symbols = np.concatenate([prefix, generated.symbols[:-1]])
    logits, _ = own.run(symbols)
    assert (own.device.get(logits)[1:] == own.device.get(generated.outputs)).all()


@pytest.mark.parametrize("precision", TENSOR)
def test_what_make_gpu_compares_is_the_same_here(precision, gpu, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    module, measured = importlib.import_module("gpu"), importlib.import_module("_gpu")
    assert measured.difference("lstm", {}, precision, 3, T=3, B=2, D=2) <= measured.TOLERANCES[precision]
    cells = {f"fastrnn {name}": (2.0, 4.0) for name in module.PEERS} | {"cudnn tf32": [3.0, 9.0], "fastrnn bf16": "no room"}
    lines = [*module.table([{"times": "LSTM", "H": 64, "B": 8, "T": 512} | cells])]
    assert "| LSTM | 64 | 8 | tf32 | 2 | 1.50 | 4 | 2.25 |  |" in lines and "| LSTM | 64 | 8 | bf16 | no room |" in lines


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda **options: fr.LSTM(2, 3, **options), lambda **options: fr.Linear(2, 3, **options)])
def test_where_there_are_no_tensor_cores(build, gpu):
    with pytest.raises(ValueError, match="precision: 'exact' is required unless device='cuda' .*got 'tf32' with device='cpu'"):
        build(precision="tf32")
    with pytest.raises(ValueError, match="precision: 'exact' is required unless .*dtype='float32'.*and dtype='float64'"):
        build(precision="bf16", device="cuda", dtype="float64")
    with pytest.raises(ValueError, match="precision: one of .*'split'.* is required; got 'fp8'"):
        build(precision="fp8", device="cuda")


def test_what_has_no_room_or_two_products(gpu, monkeypatch):
    monkeypatch.setattr(plan, "BLOCKS", (1,))
    most = max(H for H in range(1, 600) if plan.shapes(build("lstm"), H, "tf32"))
    fr.LSTM(2, most, device="cuda", precision="tf32")
    with pytest.raises(ValueError, match=f"hidden_size: at most {most} units .* precision='tf32'; got {most + 1}. Use precision='exact'"):
        fr.LSTM(2, most + 1, device="cuda", precision="tf32")
    with pytest.raises(ValueError, match="precision: 'exact' is required of a 'gru' layer whose gates come before a product; got 'bf16'"):
        fr.GRU(2, 3, reset_after=False, device="cuda", precision="bf16")


def test_an_old_device(monkeypatch):
    monkeypatch.setattr(target, "missing", list)
    monkeypatch.setattr(target, "capability", lambda: (7, 5))
    with pytest.raises(RuntimeError, match="precision: 'tf32' needs a GPU of compute capability 8.0 or later; got 7.5"):
        fr.LSTM(2, 3, device="cuda", precision="tf32")

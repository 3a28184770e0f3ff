"""Every kernel for the GPU, compiled and assembled ahead of time: what no GPU is needed to see."""

import ctypes
import re
import subprocess
from pathlib import Path
from threading import Thread, get_ident, local
from types import SimpleNamespace

import numpy as np
import pytest
from variants import COMPILED, label

from fastrnn._jit import is_whole
from fastrnn._math import ACTIVATIONS
from fastrnn.cells import build
from fastrnn.kernels._feedback import Feedback
from fastrnn.kernels._loop import Batch, Flow, Trace
from fastrnn.kernels.cuda import backward, closed, compiler, ctc, forward, fragments, loop, losses, plan, product, target, units, updates
from fastrnn.kernels.cuda.loop import Back, Run, Span, Weights
from fastrnn.kernels.cuda.packing import THREADS, make_move, make_turns

ARCHITECTURES = {"sm_80": (8, 0), "sm_90": (9, 0)}
DTYPES = [np.dtype("float32"), np.dtype("float64")]
TENSOR = ["tf32", "bf16", "split"]
PARAMETERS = {"l": "u64", "L": "u64", "q": "u64", "Q": "u64", "f": "f32", "d": "f64", "?": "u8"}  # by the types of NumPy's numbers


ROOT, CAPABILITY = compiler.toolkit(), target.capability
pytestmark = pytest.mark.skipif(
    ROOT is None or not (ROOT / "bin" / "ptxas").is_file(),
    reason="NO KERNEL FOR THE GPU IS COMPILED: neither the packages nvidia-nvvm and nvidia-cuda-nvcc nor a CUDA toolkit found"
)


@pytest.fixture(autouse=True)
def an_old_device(monkeypatch):
    monkeypatch.setattr(target, "capability", lambda: (8, 0))


def ptx_of(kernel, *arguments) -> str:
    """PTX for the oldest architecture, which runs on later ones, from arguments like those of a launch, whose parameters it has."""
    text = kernel.ptx(arguments, min(ARCHITECTURES.values()))
    parameters = re.findall(r"\.param \.(\w+) kernel_param_\d+", text)
    assert parameters == [PARAMETERS[word.dtype.char] for word in words(arguments_of(arguments))]
    return text


class Elsewhere:
    """An array as CuPy's are."""

    def __init__(self, array):
        for name in ("shape", "strides", "dtype", "ndim", "size", "itemsize", "flags"):
            setattr(self, name, getattr(array, name))
        self.data = SimpleNamespace(ptr=0)


def arguments_of(value):
    """Arguments of a launch like these."""
    if isinstance(value, tuple):
        parts = map(arguments_of, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return Elsewhere(value) if isinstance(value, np.ndarray) else value


def assembled(ptx: str, architecture: str, folder: Path) -> dict[str, int]:
    """What the assembler says of the only kernel in `ptx`."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = [ROOT / "bin" / "ptxas", "-v", f"-arch={architecture}", source, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    local = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", said)
    shared, registers = re.search(r"(\d+) bytes smem", said), re.search(r"Used (\d+) registers", said)
    return {"local": sum(map(int, local)), "registers": int(registers[1]), "shared": int(shared[1]) if shared else 0}


def assert_sound(ptx: str, dtype, threads: int, folder: Path, single: bool = True) -> None:
    """`single`: whether float32 kernels compute in float32."""
    if dtype == np.float32 and single:
        assert ".f64" not in ptx  # one constant without a type makes an expression double, and sixty times as slow
    for architecture in ARCHITECTURES:
        found = assembled(ptx, architecture, folder)
        assert found["local"] == 0 and found["registers"] <= loop.registers_of(threads), (architecture, found)
        assert found["shared"] <= 48 * 1024, (architecture, found)


def test_a_toolkit_of_the_system_does_not_take_the_place_of_the_one_that_is_asked_for(tmp_path, monkeypatch):
    """It may be too old to know what the kernels say."""
    for root in ("pip/nvidia/cu13", "system"):
        (tmp_path / root / "nvvm").mkdir(parents=True)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "system"))
    monkeypatch.setattr(compiler.sys, "path", [str(tmp_path / "pip")])
    assert compiler.toolkit.__wrapped__() == tmp_path / "pip" / "nvidia" / "cu13"
    monkeypatch.setattr(compiler.sys, "path", [])
    assert compiler.toolkit.__wrapped__() == tmp_path / "system"


def flat_arguments(dtype):
    """(run, flat array) of the types of a launch."""
    flat, whole = np.empty(0, dtype), np.empty(0, np.int64)
    batch = Batch(flat, whole, whole, flat, flat, flat)
    span = Span(*(0 for _ in Span._fields))
    return Run(span, batch, Weights(*(flat for _ in Weights._fields)), Trace(*(flat for _ in Trace._fields))), flat


def ptx_of_loops(forth, back, dtype, recurrent=None):
    """PTX of both ways; `recurrent`: an array like that of the recurrent weights, where it is not of `dtype`."""
    run, flat = flat_arguments(dtype)
    if recurrent is not None:
        run = run._replace(weights=run.weights._replace(recurrent=recurrent))
    flow, left = Flow(*(flat for _ in Flow._fields)), Back(*(flat for _ in Back._fields))
    yield ptx_of(forth, run, flat, flat)
    yield ptx_of(back, run, flat, flow, flat, dtype.type(1), left)


def assert_loops_sound(forth, back, dtype, threads: int, folder: Path) -> None:
    for ptx in ptx_of_loops(forth, back, dtype):
        assert_sound(ptx, dtype, threads, folder)


def products_a_number(precision: str) -> int:
    """How many products of tiles one of exact numbers takes."""
    return 3 if precision == "split" else 1


BASIC = [("rnn", {}), ("gru", {}), ("lstm", {})]
TWO_PRODUCTS = ("gru", {"reset_after": False})
OTHERS = [variant for variant in COMPILED if variant not in (*BASIC, TWO_PRODUCTS)]  # in one dtype or precision each, which take turns


def has_product(variant) -> bool:
    return variant[0] != "indrnn"


def in_dtypes(both, one) -> list:
    """Cases of a variant and a dtype: in both, or in one of them by turns."""
    return [(variant, dtype) for variant in both for dtype in DTYPES] + [*zip(one, 4 * DTYPES)]


def named(value) -> str:
    return label(value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(
    "variant, precision, sizes",
    [(variant, precision, 2 if precision == "tf32" else 1) for variant in BASIC for precision in TENSOR]
    + [(variant, precision, 1) for variant, precision in zip(filter(has_product, OTHERS), 2 * TENSOR)],
    ids=named,
)
def test_the_time_loop_on_tensor_cores(variant, precision, sizes, tmp_path, monkeypatch):
    """Of one block, at the most units that there is room for; some at 64, too, where weights are in registers, all or most of them."""
    monkeypatch.setattr(target, "capability", lambda: (8, 0))
    cell = build(variant[0], **variant[1])
    most = max(H for H in range(1, 1024) if plan.shapes(cell, H, precision))
    for H in (most, 64)[:sizes]:
        assert_products_sound(cell, H, precision, target.more_shared(), tmp_path)


@pytest.mark.parametrize(
    "name, H, precision",
    [("lstm", 128, "tf32"), ("lstm", 192, "bf16"), ("lstm", 256, "tf32"), ("lstm", 512, "bf16"), ("lstm", 128, "split"),
     ("gru", 256, "bf16"), ("gru", 512, "tf32"), ("rnn", 256, "split"), ("rnn", 512, "tf32")],
)  # fmt: skip
def test_the_time_loop_in_clusters(name, H, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(target, "capability", lambda: (9, 0))
    monkeypatch.delitem(ARCHITECTURES, "sm_80")
    assert plan.shapes(build(name), H, precision)[0].blocks > 1
    assert_products_sound(build(name), H, precision, target.more_shared(), tmp_path)


@pytest.mark.parametrize(
    "variant, H, dtype",
    [("lstm", 128, "float32"), ("lstm", 168, "float32"), ("lstm", 184, "float32"), ("lstm", 256, "float32"), ("lstm", 128, "float64"),
     ("gru", 192, "float32"), ("gru", 256, "float32"), ("rnn", 512, "float32"),
     ("lstm", 512, "float32"), ("lstm", 250, "float64"), (("rnn", {"activation": "identity"}), 640, "float32")],
)  # fmt: skip
def test_the_exact_time_loop_in_clusters(variant, H, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(target, "capability", lambda: (9, 0))
    monkeypatch.delitem(ARCHITECTURES, "sm_80")
    name, options = (variant, {}) if isinstance(variant, str) else variant
    cell, dtype = build(name, **options), np.dtype(dtype)
    own, shape = plan.plan(cell, H, dtype, "exact"), plan.chains(cell, H, dtype)
    assert shape.blocks > 1
    for ptx in ptx_of_loops(own.forward.kernel(), own.backward.kernel(), dtype):
        assert_sound(ptx, dtype, own.threads, tmp_path)
        assert f".reqnctapercluster {shape.blocks}, 1, 1" in ptx and "barrier.cluster" in ptx


def assert_products_sound(cell, H: int, precision: str, room: int, folder: Path) -> None:
    own, shapes, dtype = plan.plan(cell, H, DTYPES[0], precision), plan.shapes(cell, H, precision), DTYPES[0]
    ways = own.forward, own.backward
    for way, ptx, shape in zip(ways, ptx_of_loops(*(way.kernel() for way in ways), dtype, np.empty(0, np.int32)), shapes):
        assert_sound(ptx, dtype, own.threads, folder)
        found, each = ptx.count("mma.sync"), shape.slots * products_a_number(precision)
        assert found == each * shape.steps if shape.held == shape.steps else found > each * shape.held
        assert way.shared + 2 * 8 * shape.rows <= room
        assert (f".reqnctapercluster {shape.blocks}, 1, 1" in ptx) == (shape.blocks > 1) == ("barrier.cluster" in ptx)


def test_registers_are_given_out_in_eights_and_for_warps_by_fours():
    assert [loop.registers_of(threads) for threads in (32, 256, 288, 384, 512, 1024)] == [256, 256, 168, 168, 128, 64]


def test_a_device_with_clusters_and_less_shared_memory(monkeypatch):
    """Compute capability 12: 99 KB a block."""
    monkeypatch.setattr(target, "capability", lambda: (12, 0))
    for H in (136, 256, 512):
        own = plan.plan(build("lstm"), H, DTYPES[0], "split")
        assert own.blocks > 1 and max(own.forward.shared, own.backward.shared) < 99 * 1024 - 2 * 8 * (own.rows + 1)


@pytest.mark.parametrize("precision", TENSOR)
def test_weights_for_tensor_cores(precision, tmp_path):
    arguments = np.empty((0, 0, 0), DTYPES[0]), 0, 0, 0, 0, np.empty(0, np.int32)
    assert_sound(ptx_of(fragments.make_fragments(precision), *arguments), DTYPES[0], fragments.THREADS, tmp_path)


@pytest.mark.parametrize("variant, dtype", in_dtypes([*BASIC, TWO_PRODUCTS], OTHERS), ids=named)
def test_the_time_loop(variant, dtype, tmp_path):
    """With the most rows a block and the most threads."""
    cell, rows = build(variant[0], **variant[1]), loop.WIDE // dtype.itemsize
    threads = loop.block_threads(cell, 10**4, rows)
    registers = loop.registers_of(threads)
    kernels = (make(cell, dtype, rows, registers) for make in (forward.make_forward, backward.make_backward))
    assert_loops_sound(*kernels, dtype, threads, tmp_path)


@pytest.mark.parametrize("variant, dtype", in_dtypes(BASIC, filter(has_product, OTHERS)), ids=named)
def test_the_time_loop_with_weights_in_registers(variant, dtype, tmp_path):
    """At the largest size that it is chosen for."""
    cell = build(variant[0], **variant[1])
    own = plan.plan(cell, max(H for H in range(1, 200) if plan.chains(cell, H, dtype)), dtype, "exact")
    assert_loops_sound(own.forward.kernel(), own.backward.kernel(), dtype, own.threads, tmp_path)


def products_of(dtype, precision: str, rows: int, columns: int):
    """PTX of both kernels."""
    kernels, flat = product.make_products(dtype, precision, product.SIDE, rows, columns), np.empty(0, dtype)
    yield ptx_of(kernels.product, flat, flat, flat, flat, product.Sizes(*[0] * 8))
    yield ptx_of(kernels.transposed, flat, flat, flat, product.SumSizes(*[0] * 12))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products(dtype, tmp_path):
    flat, sums, shares = np.empty(0, dtype), product.make_sums(dtype), product.SHARES[dtype.itemsize]
    for rows in shares:
        for columns in shares:
            for ptx in products_of(dtype, "exact", rows, columns):
                assert_sound(ptx, dtype, 2 * product.SIDE**2, tmp_path)
                assert "mma.sync" not in ptx and re.search(r"ld\.shared\.v[24]", ptx) and re.search(r"st\.global\.v[24]", ptx)
    assert_sound(ptx_of(sums.columns, flat, *[0] * 7, flat), dtype, product.ELEMENTS, tmp_path)
    assert_sound(ptx_of(sums.add_parts, flat, 0, 0, flat), dtype, product.ELEMENTS, tmp_path)


@pytest.mark.parametrize("precision, other", [*zip(TENSOR, [(4, 4), (4, 8), (8, 4)])])
def test_products_on_tensor_cores(precision, other, tmp_path):
    """The largest rectangle, which has the fewest registers to spare, and another one."""
    for rows, columns in ((max(product.SHARES[4]),) * 2, other):
        for ptx in products_of(DTYPES[0], precision, rows, columns):
            assert_sound(ptx, DTYPES[0], 2 * product.SIDE**2, tmp_path)
            each = rows * columns // 4 * products_a_number(precision)
            assert ptx.count("mma.sync") == 2 * each  # of a piece in the loop, and of the last one


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packing(dtype, tmp_path):
    flat, whole, (by_step, by_time) = np.empty(0, dtype), np.empty(0, np.int64), make_turns(dtype)
    assert_sound(ptx_of(make_move(dtype), whole, 0, flat, flat, flat), dtype, THREADS, tmp_path)
    assert_sound(ptx_of(by_step, flat, whole, True, 0, 0, 0, flat), dtype, THREADS, tmp_path)
    assert_sound(ptx_of(by_time, flat, whole, 0, 0, 0, 0, 0, flat), dtype, THREADS, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updates(dtype, tmp_path):
    kernels, two, real = updates.make_updates(), np.empty((0, 0), dtype), np.empty((0, 0))
    ptx = [ptx_of(kernels.squares, two, 1.0, real)]
    for kind, moments in (("sgd", 1), ("rmsprop", 3), ("adam", 2)):
        ptx.append(ptx_of(getattr(kernels, kind), two, two, (two,) * moments, real))
    for text in ptx:
        assert_sound(text, dtype, updates.THREADS, tmp_path, single=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
def test_losses(name, dtype, tmp_path):
    two, flat, real = np.empty((0, 0), dtype), np.empty(0), np.empty((0, 0))
    wanted = np.empty(0, np.int64) if name == "cross_entropy" else real
    for ptx in (ptx_of(losses.make_loss(name), two, wanted, flat, two, flat, real), ptx_of(losses.make_total(), real, flat)):
        assert_sound(ptx, dtype, losses.THREADS, tmp_path, single=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ctc(dtype, tmp_path):
    three, two, flat, whole = np.empty((0, 0, 0), dtype), np.empty((0, 0)), np.empty(0), np.empty(0, np.int64)
    labellings, steps = ctc.Labellings(np.empty((0, 0), np.int64), whole, whole), ctc.Softmax(two, two, two)
    cells = ctc.Cells(np.empty((0, 0, 0, 0)), np.empty((0, 0, 0, 0)), np.empty((0, 0, 0)))
    assert_sound(ptx_of(ctc.softmax, three, labellings, flat, steps), dtype, ctc.THREADS, tmp_path, single=False)
    text = ptx_of(ctc.ctc, 0, three, labellings, 0, flat, steps, cells, flat, three)
    assert_sound(text, dtype, ctc.THREADS, tmp_path, single=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_without_memory(dtype, tmp_path):
    flat, three = np.empty(0, dtype), np.empty((0, 0, 0), dtype)
    for name in ACTIVATIONS:
        apply, apply_backward = units.make_activations(name)
        assert_sound(ptx_of(apply, flat), dtype, units.THREADS, tmp_path)
        assert_sound(ptx_of(apply_backward, flat, flat), dtype, units.THREADS, tmp_path)
    tokens, two, (embed, embed_backward) = np.empty((0, 0), np.int64), np.empty((0, 0), dtype), units.make_embed(dtype)
    assert_sound(ptx_of(embed, tokens, two, 0, three), dtype, units.THREADS, tmp_path)
    assert_sound(ptx_of(embed_backward, tokens, three, two, 0, 0), dtype, units.THREADS, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_closed_loop(dtype, tmp_path):
    two, three = np.empty((0, 0), dtype), np.empty((0, 0, 0), dtype)
    whole, integers, real, cube = np.empty(0, np.int64), np.empty((0, 0), np.int64), np.empty((0, 0)), np.empty((0, 0, 0))
    feedback = Feedback(0, integers.astype(bool), three, three, two, integers, real, cube, integers, 1.0, 1, 1.0)
    beams = cube.astype(np.int64)
    arguments = {
        "enter": (feedback, whole, 0),
        "leave": (feedback, whole, three, three, three, 0),
        "emit": (feedback, three, three, 0, whole, 0),
        "extend": (feedback, 0, real, real, beams, beams, whole, 0),
    }
    for name, given in arguments.items():
        ptx = ptx_of(getattr(closed.make_closed(), name), *given)
        assert_sound(ptx, dtype, closed.THREADS, tmp_path, single=False)


# Kept, and launched -------------------------------------------------------------------------------------------------


@target.kernel
def double(x, n):
    x[n] = x[n] + x[n]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    return tmp_path


def test_a_kernel_is_compiled_once_for_its_content_and_types(kept, monkeypatch):
    x, capability = np.empty(3, np.float32), (8, 0)
    path = target.kernel(double.py_func).path((x, 1), capability)
    assert is_whole(path) and path.parent == kept
    again = target.kernel(double.py_func)
    with monkeypatch.context() as patch:
        patch.setattr(compiler.Kernel, "ptx", None)  # nothing is compiled now
        assert again.path((np.empty(7, np.float32), 2), capability) == path

    @target.kernel
    def triple(x, n):
        x[n] = x[n] + x[n] + x[n]

    others = [triple.path((x, 1), capability), double.path((x.astype(float), 1), capability), double.path((x, 1), (9, 0))]
    others.append(target.kernel_within(40)(double.py_func).path((x, 1), capability))
    assert len({path, *others}) == 5 and ".maxnreg 40" in others[-1].read_text() and ".maxnreg" not in path.read_text()


@pytest.mark.parametrize("precision", ["exact", "tf32"])
def test_time_loops_are_kept_by_their_content(precision, kept):
    names = set()
    for name in ("rnn", "gru"):
        own = plan.plan(build(name), 16, DTYPES[0], precision)
        run, flat = flat_arguments(DTYPES[0])
        if precision != "exact":
            run = run._replace(weights=run.weights._replace(recurrent=np.empty(0, np.int32)))
        names.add(own.forward.kernel().path((run, flat, flat), (8, 0)))
    assert len(names) == 2 and all(map(is_whole, names))


def test_a_damaged_file_is_written_anew(kept):
    x, capability = np.empty(3, np.float32), (8, 0)
    path = target.kernel(double.py_func).path((x, 1), capability)
    whole = path.read_text()
    for content in (whole[:-200], whole.replace("add.f32", "sub.f32"), ""):
        path.write_text(content)
        assert not is_whole(path)
        assert target.kernel(double.py_func).path((x, 1), capability) == path and is_whole(path)


def test_a_launch(kept, monkeypatch):
    """Everything up to the driver: it is given the file, the name, the grid, and one number a parameter, in a thread that it knows."""
    loaded, launched, known = [], [], []

    class Module:
        def __init__(self, path):
            self.text = Path(path).read_text()

        def get_function(self, name):
            assert f".entry {name}(" in self.text
            loaded.append(self.text)
            return SimpleNamespace(kernel=SimpleNamespace(ptr=7))

    def launch_kernel(function, x, y, z, threads, *rest):
        *block, shared, stream, parameters, extra = rest
        addresses = np.ctypeslib.as_array((ctypes.c_int64 * 8).from_address(parameters))
        launched.append([ctypes.c_int64.from_address(int(address)).value for address in addresses])
        assert (function, x, y, z, threads, *block, shared, stream, extra) == (7, 5, 1, 1, 32, 1, 1, 64, 3, 0)

    device = SimpleNamespace(compute_capability="90")
    runtime = SimpleNamespace(getDevice=lambda: 0, memGetInfo=lambda: known.append(get_ident()))
    cuda = SimpleNamespace(runtime=runtime, Device=lambda number: device)
    cuda.driver, cuda.get_current_stream = SimpleNamespace(launchKernel=launch_kernel), lambda: SimpleNamespace(ptr=3)
    monkeypatch.setattr(target, "arrays", lambda: SimpleNamespace(cuda=cuda, RawModule=Module))
    monkeypatch.setattr(target, "capability", CAPABILITY)
    monkeypatch.setattr(target, "_capability", target._capability.__wrapped__)
    monkeypatch.setattr(target, "_thread", local())
    monkeypatch.setattr(target, "_loaded", {})
    for n in (1, 2, 3):
        target.launch(double, 5, 32, 64, Elsewhere(np.empty(3, np.float32)), n)
    assert launched == [[0, 0, 3, 4, 0, 3, 4, n] for n in (1, 2, 3)]
    assert len(loaded) == 1 and ".target sm_90" in loaded[0] and known == [get_ident()]
    with pytest.raises(ValueError, match="contiguous"):
        target.launch(double, 5, 32, 64, Elsewhere(np.empty(6, np.float32)[::2]), 1)
    thread = Thread(target=target.launch, args=(double, 5, 32, 64, Elsewhere(np.empty(3, np.float32)), 1))
    thread.start()
    thread.join()
    assert len(launched) == 4 and len(loaded) == 1 and len(set(known)) == len(known) == 2


@pytest.mark.parametrize("one_axis", [False, True])
def test_parameters_in_a_hurry_are_those_of_numba(one_axis):
    """Each number in its place and form, of everything that a kernel may be given."""
    arrays = Elsewhere(np.empty((2, 3, 5), np.float32)), Elsewhere(np.empty((4, 0))), Elsewhere(np.empty(7, bool))
    for n, array in enumerate(arrays):
        array.data, array.reshape = SimpleNamespace(ptr=2**40 + n), lambda shape, array=array: Flat(array)
    span = Span(*range(-2, len(Span._fields) - 2))
    given = (span, (arrays[0], (True, arrays[1])), -3, 2.5, np.float32(0.1), np.float64(0.1), np.int64(-(2**40)), np.bool_(True), arrays[2])
    kinds, numbers = [], []
    compiler.spread(given, one_axis, kinds, numbers)
    parameters = compiler.Parameters(numbers)
    wanted = [*words(compiler.flat(given) if one_axis else given)]
    for _ in range(2):
        parameters.fill(numbers)
        addresses = (ctypes.c_int64 * len(wanted)).from_address(parameters.address)
        for address, word in zip(addresses, wanted, strict=True):
            assert ctypes.string_at(address, word.itemsize) == word.tobytes()


def words(value):
    """The parameters that Numba makes of an argument: of an array owner and parent (none here), size, itemsize, data, shape, strides."""
    if isinstance(value, tuple):
        for part in value:
            yield from words(part)
    elif getattr(value, "ndim", 0):
        yield from (np.uint64(0), np.uint64(0), np.int64(value.size), np.int64(value.itemsize), np.uint64(value.data.ptr))
        yield from map(np.int64, value.shape)
        yield from map(np.int64, value.strides)
    else:
        yield value if isinstance(value, np.generic) else {bool: np.bool_, int: np.int64, float: np.float64}[type(value)](value)


class Flat:
    """An array of `Elsewhere` as reshape(-1) gives it."""

    def __init__(self, array):
        self.ndim, self.shape, self.strides, self.flags = 1, (array.size,), (array.itemsize,), array.flags
        self.dtype, self.size, self.itemsize, self.data = array.dtype, array.size, array.itemsize, array.data


def test_what_a_kernel_is_compiled_anew_for_is_told_apart():
    x, y, n = Elsewhere(np.empty((2, 3), np.float32)), Elsewhere(np.empty((2, 3))), Elsewhere(np.empty(6, np.float32))
    given = [(x,), (y,), (n,), (x, n), (n, x), ((x, n),), ((x,), n), (x, (n,)), (Back(x, x, x, x, x),), ((x, x, x, x, x),)]
    given += [(number,) for number in (1, 1.0, True, np.float32(1), np.float64(1), np.int64(1))]
    found = set()
    for arguments in given:
        kinds = []
        compiler.spread(arguments, False, kinds, [])
        found.add(tuple(kinds))
    assert len(found) == len(given)

"""Every kernel for the GPU, compiled and assembled ahead of time: what no GPU is needed to see."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba import cuda
from variants import COMPILED, label

from fastrnn._math import ACTIVATIONS
from fastrnn.cells import build
from fastrnn.kernels._feedback import Feedback
from fastrnn.kernels._loop import Batch, Flow, Trace
from fastrnn.kernels.cuda import backward, closed, forward, loop, losses, product, units, updates
from fastrnn.kernels.cuda.loop import Back, Run, Span, Weights

ARCHITECTURES = {"sm_80": (8, 0), "sm_90": (9, 0)}
DTYPES = [np.dtype("float32"), np.dtype("float64")]


def toolkit() -> Path | None:
    """Where pip, or the system, has put NVVM and the assembler."""
    candidates = [Path(site, "nvidia", "cu13") for site in sys.path] + [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))]
    return next((root for root in candidates if (root / "nvvm").is_dir() and (root / "bin" / "ptxas").is_file()), None)


ROOT = toolkit()
pytestmark = pytest.mark.skipif(
    ROOT is None, reason="NO KERNEL FOR THE GPU IS COMPILED: neither the packages nvidia-nvvm and nvidia-cuda-nvcc nor a CUDA toolkit found"
)


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(ROOT))  # where Numba looks for NVVM
    device = SimpleNamespace(compute_capability=ARCHITECTURES["sm_80"])
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)  # which functions within kernels are compiled for


def ptx_of(kernel, *arguments) -> str:
    """PTX for the older architecture, which runs on later ones, from arguments like those of a launch."""
    signature = numba.void(*map(numba.typeof, arguments))
    return cuda.compile(kernel.py_func, signature, cc=ARCHITECTURES["sm_80"], device=False, abi="numba", output="ptx")[0]


def assembled(ptx: str, architecture: str, folder: Path) -> dict[str, int]:
    """What the assembler says of the only kernel in `ptx`."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = [ROOT / "bin" / "ptxas", "-v", f"-arch={architecture}", source, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled, registers = re.findall(r"(\d+) bytes spill (?:stores|loads)", said), re.search(r"Used (\d+) registers", said)
    shared = re.search(r"(\d+) bytes smem", said)
    return {"spilled": sum(map(int, spilled)), "registers": int(registers[1]), "shared": int(shared[1]) if shared else 0}


def assert_sound(ptx: str, dtype, threads: int, folder: Path, single: bool = True) -> None:
    """`single`: whether float32 kernels compute in float32."""
    if dtype == np.float32 and single:
        assert ".f64" not in ptx  # one constant without a type makes an expression double, and sixty times as slow
    for architecture in ARCHITECTURES:
        found = assembled(ptx, architecture, folder)
        held = -(-found["registers"] // 8) * 8 * loop.held_threads(threads)  # as the hardware counts
        assert found["spilled"] == 0 and held <= loop.REGISTERS and found["shared"] <= 48 * 1024, (architecture, found)


def flat_arguments(dtype):
    """(run, flat array) of the types of a launch."""
    flat, whole = np.empty(0, dtype), np.empty(0, np.int64)
    batch = Batch(flat, whole, whole, flat, flat, flat)
    span = Span(*(0 for _ in Span._fields))
    return Run(span, batch, Weights(*(flat for _ in Weights._fields)), Trace(*(flat for _ in Trace._fields))), flat


def assert_loops_sound(cell, dtype, rows: int, units: int, threads: int, folder: Path) -> None:
    run, flat = flat_arguments(dtype)
    flow, back = Flow(*(flat for _ in Flow._fields)), Back(*(flat for _ in Back._fields))
    assert_sound(ptx_of(forward.make_forward(cell, dtype, rows, units, 255), run, flat, flat), dtype, threads, folder)
    way_back = ptx_of(backward.make_backward(cell, dtype, rows, units, 255), run, flat, flow, flat, dtype.type(1), back)
    assert_sound(way_back, dtype, threads, folder)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", COMPILED, ids=label)
def test_the_time_loop(variant, dtype, tmp_path):
    """With the most rows a block and the most threads."""
    cell, rows = build(variant[0], **variant[1]), loop.WIDE // dtype.itemsize
    assert_loops_sound(cell, dtype, rows, 0, loop.block_threads(cell, 10**4, rows), tmp_path)


@pytest.mark.parametrize("rows, dtype", [(loop.WIDE // DTYPES[0].itemsize, DTYPES[0]), (1, DTYPES[1])], ids=str)
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_the_time_loop_with_weights_in_registers(name, dtype, rows, tmp_path):
    """At the largest size that it is chosen for."""
    cell = build(name)
    units = max(H for H in range(1, 200) if loop.resident_units(cell, H, rows, dtype.itemsize))
    assert_loops_sound(cell, dtype, rows, units, loop.block_threads(cell, units, rows), tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products(dtype, tmp_path):
    kernels, three, two = product.make_products(dtype, product.SIDE, product.EDGE), np.empty((0, 0, 0), dtype), np.empty((0, 0), dtype)
    assert_sound(ptx_of(kernels.product, three, 0, three, two, three, 0, 0), dtype, product.SIDE**2, tmp_path)
    assert_sound(ptx_of(kernels.transposed, three, three, 0, 0, 0, np.empty((0,) * 4, dtype)), dtype, product.SIDE**2, tmp_path)
    assert_sound(ptx_of(kernels.columns, three, 0, 0, three), dtype, product.ELEMENTS, tmp_path)
    assert_sound(ptx_of(kernels.add_parts, three, two), dtype, product.ELEMENTS, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updates(dtype, tmp_path):
    kernels, whole, two, real = updates.make_updates(), np.empty(0, np.int64), np.empty((0, 0), dtype), np.empty((0, 0))
    ptx = [ptx_of(kernels.squares, two, np.empty(0), real)]
    for kind, moments in (("sgd", 1), ("rmsprop", 3), ("adam", 2)):
        ptx.append(ptx_of(getattr(kernels, kind), whole, whole, two, two, (two,) * moments, real))
    for text in ptx:
        assert_sound(text, dtype, updates.THREADS, tmp_path, single=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
def test_losses(name, dtype, tmp_path):
    two, flat, real = np.empty((0, 0), dtype), np.empty(0), np.empty((0, 0))
    wanted = np.empty(0, np.int64) if name == "cross_entropy" else real
    for ptx in (ptx_of(losses.make_loss(name), two, wanted, flat, flat, two, flat, real), ptx_of(losses.make_total(), real, flat)):
        assert_sound(ptx, dtype, losses.THREADS, tmp_path, single=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_without_memory(dtype, tmp_path):
    flat, three = np.empty(0, dtype), np.empty((0, 0, 0), dtype)
    for name in ACTIVATIONS:
        apply, apply_backward = units.make_activations(name)
        assert_sound(ptx_of(apply, flat), dtype, units.THREADS, tmp_path)
        assert_sound(ptx_of(apply_backward, flat, flat), dtype, units.THREADS, tmp_path)
    assert_sound(ptx_of(units.make_embed_backward(), np.empty((0, 0), np.int64), three, three), dtype, units.THREADS, tmp_path)


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

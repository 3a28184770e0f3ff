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

from fastrnn.cells import build
from fastrnn.kernels._loop import Batch, Flow, Trace
from fastrnn.kernels.cuda import loop, product, target
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


def assert_sound(ptx: str, dtype, threads: int, folder: Path) -> None:
    if dtype == np.float32:
        assert ".f64" not in ptx  # one constant without a type makes an expression double, and sixty times as slow
    for architecture in ARCHITECTURES:
        found = assembled(ptx, architecture, folder)
        assert found["spilled"] == 0 and found["registers"] * threads <= 65536 and found["shared"] <= 48 * 1024, (architecture, found)


def flat_arguments(dtype):
    """(run, flat array) of the types of a launch."""
    flat, whole = np.empty(0, dtype), np.empty(0, np.int64)
    batch = Batch(flat, whole, whole, flat, flat, flat)
    span = Span(*(0 for _ in Span._fields))
    return Run(span, batch, Weights(*(flat for _ in Weights._fields)), Trace(*(flat for _ in Trace._fields))), flat


@pytest.mark.parametrize("rows", [max(loop.ROWS), 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", COMPILED, ids=label)
def test_the_time_loop(variant, dtype, rows, tmp_path):
    cell = build(variant[0], **variant[1])
    run, flat = flat_arguments(dtype)
    flow, back = Flow(*(flat for _ in Flow._fields)), Back(*(flat for _ in Back._fields))
    assert_sound(ptx_of(loop.make_forward(cell, dtype, rows), run, flat, flat), dtype, target.THREADS, tmp_path)
    backward = ptx_of(loop.make_backward(cell, dtype, rows), run, flat, flow, flat, dtype.type(1), back)
    assert_sound(backward, dtype, target.THREADS, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products(dtype, tmp_path):
    kernels, three, two = product.make_products(dtype, product.EDGE), np.empty((0, 0, 0), dtype), np.empty((0, 0), dtype)
    assert_sound(ptx_of(kernels.product, three, 0, three, two, three, 0, 0), dtype, product.THREADS, tmp_path)
    assert_sound(ptx_of(kernels.transposed, three, three, 0, 0, np.empty((0,) * 4, dtype)), dtype, product.THREADS, tmp_path)

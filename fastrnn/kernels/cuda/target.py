"""The CUDA target: what compiles kernels, what launches them, and whose arrays they fill. Nobody else asks.

Kernels keep to what `numba.cuda` as Numba ships it and the package `numba-cuda`, which takes its place where it is installed, have
in common. Arrays are CuPy's: it brings a pool of memory, NumPy's functions, and exchange with other libraries.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import numba
import numpy as np
from numba import cuda
from numba.cuda import dispatcher
from numba.cuda.extending import intrinsic  # noqa: F401

try:  # numba-cuda has types of its own
    from numba.cuda import types
    from numba.cuda.typing import signature
except ImportError:
    from numba.core import types  # noqa: F401
    from numba.core.typing import signature  # noqa: F401

dispatcher.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # at every launch: a batch of few sequences does not fill a device, and need not

SHARED = 48 * 1024  # bytes of a block's shared memory that any device gives
WARP = 32
THREADS = 512  # of a block at most: leaves each 128 registers
TENSOR_CORES = (8, 0)  # the first compute capability whose tensor cores know tf32 and bf16
EXTRA = "pip install 'fastrnn[cuda]'"


def kernel(function):
    """Compile `function` for the GPU in use when it is first launched."""
    return cuda.jit(function)


def kernel_within(registers: int):
    """`kernel` with at most so many registers a thread, rounded down to what they are held in: eights."""
    return cuda.jit(max_registers=min(registers // 8 * 8, 255))


def number(dtype: np.dtype):
    """Numba's type of `dtype`, as shared and local arrays take it."""
    return numba.float64 if dtype == np.float64 else numba.float32


def launch(kernel, blocks, threads: int, shared: int, *arguments) -> None:
    """Run `kernel` on a grid of `blocks`, in the order of the arrays' current stream; `shared` bytes of dynamic shared memory."""
    kernel[blocks, threads, _stream(arrays().cuda.get_current_stream().ptr), shared](*map(_argument, arguments))


@cache
def _stream(pointer: int):
    return cuda.external_stream(pointer)


def _argument(value):
    """Numba's view of an array, or of those in a tuple."""
    if isinstance(value, tuple):
        return type(value)(*map(_argument, value)) if hasattr(value, "_fields") else tuple(map(_argument, value))
    return cuda.as_cuda_array(value, sync=False) if hasattr(value, "__cuda_array_interface__") else value


def arrays():
    """The module of arrays on the GPU."""
    return import_module("cupy")


def missing() -> list[str]:
    """What this machine lacks to run anything on a GPU, and how to get it; empty where nothing is missing."""
    found = []
    if not cuda.is_available():
        found.append("an NVIDIA driver with a device that Numba can use")
    try:
        arrays()
    except ImportError:
        found.append(f"the package cupy ({EXTRA})")
    return found


def require(precision: str) -> None:
    """Raise where nothing can be run on a GPU, or not in this precision."""
    lacking = missing()
    if lacking:
        raise RuntimeError(f"device: 'cuda' needs a GPU that can be used; missing here: {' and '.join(lacking)}. Use device='cpu'")
    capability = tuple(cuda.get_current_device().compute_capability)
    if precision != "exact" and capability < TENSOR_CORES:
        raise RuntimeError(
            f"precision: {precision!r} needs a GPU of compute capability {'.'.join(map(str, TENSOR_CORES))} or later; "
            f"got {'.'.join(map(str, capability))}. Use precision='exact'"
        )


def free_memory() -> int:
    """Bytes that arrays can still take on the GPU in use."""
    cupy = arrays()
    free, _ = cupy.cuda.runtime.memGetInfo()
    return free + cupy.get_default_memory_pool().free_bytes()


def describe() -> Iterator[tuple[str, str]]:
    """Names and values for `fastrnn info`."""
    lacking = missing()
    if lacking:
        yield "CUDA", f"none; missing: {' and '.join(lacking)}"
        return
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    yield "CUDA", f"{name}, compute capability {'.'.join(map(str, device.compute_capability))}"
    try:
        yield "CUDA target", f"numba-cuda {version('numba-cuda')}"
    except PackageNotFoundError:
        yield "CUDA target", f"numba.cuda of Numba {numba.__version__}"
    yield "cupy", arrays().__version__
    yield "CUDA cache", "none: every process compiles anew"

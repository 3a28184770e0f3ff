"""The CUDA target: what compiles kernels, what launches them, and whose arrays they fill. Nobody else asks.

Kernels keep to what `numba.cuda` as Numba ships it and the package `numba-cuda`, which takes its place where it is installed, have
in common. Those compile; arrays and launches are CuPy's: it brings a pool of memory, NumPy's functions, and exchange with other libraries.
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import import_module
from typing import NamedTuple

import numba
import numpy as np
from numba.cuda.extending import intrinsic  # noqa: F401

from .compiler import ENTRY, Kernel, Parameters, flat, folder, kind, provider, spread, toolkit

try:  # numba-cuda has types of its own
    from numba.cuda import types
    from numba.cuda.typing import signature
except ImportError:
    from numba.core import types  # noqa: F401
    from numba.core.typing import signature  # noqa: F401

SHARED = 48 * 1024  # bytes of a block's shared memory that any device gives
WARP = 32
THREADS = 512  # of a block at most: leaves each 128 registers
TENSOR_CORES = (8, 0)  # the first compute capability whose tensor cores know tf32 and bf16
EXTRA = "pip install 'fastrnn[cuda]'"

_loaded = {}  # what was launched before, by kernel, device and types
_thread = threading.local()  # what is ready in this thread, what it alone has, and the notes that it takes


class Launch(NamedTuple):
    """A kernel on a grid of blocks, (x,), (x, y) or (x, y, z), with so many bytes of dynamic shared memory.

    `one_axis`: it takes arrays that have one axis each.
    """

    kernel: Kernel
    blocks: tuple
    threads: int
    shared: int
    arguments: tuple
    one_axis: bool


class Ready(NamedTuple):
    """A function of the driver's, what keeps it loaded, and room for its parameters."""

    function: int
    loaded: object
    parameters: Parameters


def kernel(function) -> Kernel:
    """`function` as a kernel, compiled when it is first launched."""
    return Kernel(function)


def kernel_within(registers: int, blocks: int = 1):
    """`kernel` with at most so many registers a thread, rounded down to what they are held in: eights; in clusters of so many blocks."""
    return lambda function: Kernel(function, min(registers // 8 * 8, 255), blocks)


def number(dtype: np.dtype):
    """Numba's type of `dtype`, as shared and local arrays take it."""
    return numba.float64 if dtype == np.float64 else numba.float32


def launch(kernel: Kernel, blocks, threads: int, shared: int, *arguments) -> None:
    """Run `kernel` on a grid of `blocks`, in the order of the arrays' current stream; `shared` bytes of dynamic shared memory."""
    _launch(Launch(kernel, blocks if isinstance(blocks, tuple) else (blocks,), threads, shared, arguments, False))


def launch_flat(kernel: Kernel, blocks, threads: int, shared: int, *arguments) -> None:
    """`launch` with arrays that have one axis each: index arithmetic over five keeps more in registers than a thread has."""
    _launch(Launch(kernel, blocks if isinstance(blocks, tuple) else (blocks,), threads, shared, arguments, True))


def _launch(launch: Launch) -> None:
    notes = _notes()
    if notes is None:
        run(launch)
    else:
        notes.steps.append(launch)


def run(launch: Launch) -> None:
    """By the driver itself: what CuPy makes of each parameter on the way there takes as long as a short kernel runs."""
    found, numbers = ready(launch)
    found.parameters.fill(numbers)
    start(launch, found, stream())


def start(launch: Launch, ready: Ready, stream: int) -> None:
    """Launch with the parameters that are in its memory."""
    x, y, z = (*launch.blocks, 1, 1)[:3]
    driver, address = arrays().cuda.driver, ready.parameters.address
    driver.launchKernel(ready.function, x, y, z, launch.threads, 1, 1, launch.shared, stream, address, 0)


def ready(launch: Launch) -> tuple[Ready, list]:
    """What this thread needs to launch kernels of this kind, and the values of this one's parameters."""
    kinds, numbers, mine = [], [], vars(_thread).setdefault("ready", {})
    spread(launch.arguments, launch.one_axis, kinds, numbers)
    key = launch.kernel, arrays().cuda.runtime.getDevice(), launch.one_axis, *kinds
    found = mine.get(key)
    if found is None:
        loaded = _function(launch.kernel, flat(launch.arguments) if launch.one_axis else launch.arguments)
        if launch.shared > SHARED - 256:  # what a block has beside it counts, too
            loaded.max_dynamic_shared_size_bytes = launch.shared
        arrays().cuda.runtime.memGetInfo()  # the first function of the runtime's that a thread calls makes the driver know it
        mine[key] = found = Ready(loaded.kernel.ptr, loaded.kernel, Parameters(numbers))
    return found, numbers


def _function(kernel: Kernel, arguments: tuple):
    """CuPy's function for a kernel and the types of its arguments, on the current device."""
    cupy = arrays()
    key = kernel, cupy.cuda.runtime.getDevice(), kind(arguments)
    if key not in _loaded:
        _loaded[key] = cupy.RawModule(path=str(kernel.path(arguments, capability()))).get_function(ENTRY)
    return _loaded[key]


# Notes, see `program` ------------------------------------------------------------------------------------------------------


def thread() -> object:
    """What this thread alone has; its number may be another's after it."""
    return vars(_thread).setdefault("own", object())


def _notes():
    return vars(_thread).get("notes")


@contextlib.contextmanager
def noting(notes) -> Iterator[None]:
    """Let this thread put into `notes` what it launches, and take from there the arrays that it makes; with None, have it done at once."""
    before, _thread.notes = _notes(), notes
    try:
        yield
    finally:
        _thread.notes = before


@cache
def arrays():
    """The module of arrays on the GPU."""
    return import_module("cupy")


def empty(shape, dtype):
    """As NumPy's; where there are no numbers, the same array each time."""
    return _nothing(arrays().empty, shape, dtype) if _is_of_nothing(shape) else (_notes() or arrays()).empty(shape, dtype)


def zeros(shape, dtype):
    """As `empty`."""
    return _nothing(arrays().zeros, shape, dtype) if _is_of_nothing(shape) else (_notes() or arrays()).zeros(shape, dtype)


def _is_of_nothing(shape) -> bool:
    return shape == 0 or isinstance(shape, tuple) and 0 in shape


@lru_cache(256)
def _nothing(make, shape, dtype):
    return make(shape, dtype)


def stream() -> int:
    """The current stream, as the driver knows it."""
    return arrays().cuda.get_current_stream().ptr


def capability() -> tuple[int, int]:
    """The compute capability of the GPU in use."""
    return _capability(arrays().cuda.runtime.getDevice())


@cache
def _capability(device: int) -> tuple[int, int]:
    digits = arrays().cuda.Device(device).compute_capability
    return int(digits[:-1]), int(digits[-1])


def more_shared() -> int:
    """Bytes of shared memory that a block gets, if asked, on the GPU in use, of compute capability 8.0 or later."""
    return {(8, 0): 162, (8, 7): 162, (9, 0): 226, (10, 0): 226, (10, 3): 226}.get(capability(), 98) * 1024  # 1 less than there are


def missing() -> list[str]:
    """What this machine lacks to run anything on a GPU, and how to get it; empty where nothing is missing."""
    found = []
    try:
        cupy = arrays()
    except ImportError:
        found += ["an NVIDIA driver with a device, or what asks for one", f"the package cupy ({EXTRA})"]
    else:
        try:
            devices = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError:
            devices = 0
        if not devices:
            found.append("an NVIDIA driver with a device that CuPy can use")
    if toolkit() is None:
        found.append(f"the compiler's library, in the package nvidia-nvvm ({EXTRA})")
    return found


def require(precision: str) -> None:
    """Raise where nothing can be run on a GPU, or not in this precision."""
    lacking = missing()
    if lacking:
        raise RuntimeError(f"device: 'cuda' needs a GPU that can be used; missing here: {' and '.join(lacking)}. Use device='cpu'")
    if precision != "exact" and capability() < TENSOR_CORES:
        raise RuntimeError(
            f"precision: {precision!r} needs a GPU of compute capability {'.'.join(map(str, TENSOR_CORES))} or later; "
            f"got {'.'.join(map(str, capability()))}. Use precision='exact'"
        )


def kept_memory() -> int:
    """Bytes that no array has, and the driver need not be asked for."""
    return arrays().get_default_memory_pool().free_bytes()


def free_memory() -> int:
    """Bytes that arrays can still take on the GPU in use."""
    free, _ = arrays().cuda.runtime.memGetInfo()
    return free + kept_memory()


def describe() -> Iterator[tuple[str, str]]:
    """Names and values for `fastrnn info`."""
    lacking = missing()
    if lacking:
        yield "CUDA", f"none; missing: {' and '.join(lacking)}"
        return
    cupy = arrays()
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"].decode()
    yield "CUDA", f"{name}, compute capability {'.'.join(map(str, capability()))}"
    yield "CUDA target", provider()
    yield "cupy", cupy.__version__
    kept = [path.stat().st_size for path in folder().glob("*.ptx")]
    yield "CUDA cache", f"{len(kept)} kernels, {sum(kept) / 1e6:.1f} MB, in {folder()}"

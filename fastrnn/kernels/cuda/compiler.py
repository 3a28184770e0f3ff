"""How kernels for the GPU are compiled, and where what comes of it is kept: PTX, made by Numba, which the driver assembles.

A kernel is compiled for the types of what it is launched with. Its text is a file in this user's folder of compiled code, under a name
made of its content: of the sources, of everything that its function can reach, of the types, the device and the compiler.
"""

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import RLock
from types import SimpleNamespace

import numba
import numpy as np
from numba import cuda
from numba.cuda import dispatcher

from ..._jit import cache_folder, fingerprint, kept_text, sources_hash

try:  # numba-cuda has types of its own
    from numba.cuda.types import void
    from numba.cuda.typing.typeof import typeof
except ImportError:
    from numba import typeof, void

ENTRY = "kernel"  # its name in the text
_lock = RLock()  # what `_compiling_for` sets is the process's


class Kernel:
    """A function for the GPU, with at most `registers` registers a thread, 0 for as many as it likes, in clusters of so many blocks."""

    def __init__(self, function, registers: int = 0, blocks: int = 1):
        self.py_func, self.registers, self.blocks = function, registers, blocks
        self._paths = {}

    def path(self, arguments: tuple, capability: tuple[int, int]) -> Path:
        """The file with the PTX for arguments like these; compiled where there is none."""
        key = kind(arguments), capability
        with _lock:
            if key not in self._paths:
                self._paths[key] = self._found(arguments, key)
            return self._paths[key]

    def _found(self, arguments: tuple, key: tuple) -> Path:
        made = self.registers, self.blocks, repr(key), provider(), str(toolkit())
        content = fingerprint(self.py_func), *made, sources_hash("kernels/cuda/*.py")
        name = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
        return kept_text(folder() / f"{name}.ptx", lambda: self.ptx(arguments, key[1]))

    def ptx(self, arguments: tuple, capability: tuple[int, int]) -> str:
        """PTX for arguments like these and devices of this compute capability and later ones."""
        signature = void(*(typeof(like(argument)) for argument in arguments))
        with _lock, _compiling_for(capability):
            text, _ = cuda.compile(self.py_func, signature, cc=capability, device=False, abi="numba", output="ptx")
        text = re.sub(r"(\.shared \.align) \d+", r"\1 16", text)  # as reads of several numbers at once need it
        entry = re.search(r"\.visible \.entry (\w+)\(", text)[1]
        head, body = text.replace(entry, ENTRY).split(f".entry {ENTRY}(", 1)
        parameters, rest = body.split(")", 1)
        most = f"\n.maxnreg {self.registers}\n" if self.registers else ""
        if self.blocks > 1:
            most += f"\n.explicitcluster\n.reqnctapercluster {self.blocks}, 1, 1\n"
        return f"{head}.entry {ENTRY}({parameters}){most}{rest}"


@cache
def folder() -> Path:
    """Where PTX is kept: with what is compiled for the CPU, or where there is no such folder, in one that ends with the process."""
    kept = cache_folder()
    if kept is None:
        temporary = tempfile.mkdtemp(prefix="fastrnn-cuda-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)
    path = kept / "cuda"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@cache
def provider() -> str:
    """Whose compiler it is."""
    try:
        return f"numba-cuda {version('numba-cuda')}"
    except PackageNotFoundError:
        return f"numba.cuda of Numba {numba.__version__}"


@cache
def toolkit() -> Path | None:
    """Where pip has put the compiler's library, of the package nvidia-nvvm; or, of whatever version, the system a toolkit."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [*(Path(site, "nvidia", "cu13") for site in sys.path), *map(Path, homes), Path("/usr/local/cuda")]
    return next((root for root in candidates if (root / "nvvm").is_dir()), None)


@contextlib.contextmanager
def _compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Let Numba compile what kernels call for this device, be it there or not, and find its library where pip puts it."""
    current, home = dispatcher.get_current_device, os.environ.get("CUDA_HOME")
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    if toolkit() is not None:
        os.environ["CUDA_HOME"] = str(toolkit())
    try:
        yield
    finally:
        dispatcher.get_current_device = current
        os.environ.pop("CUDA_HOME", None)
        if home is not None:
            os.environ["CUDA_HOME"] = home


# Arguments: tuples, named or not, of arrays and numbers -------------------------------------------------------------------


def _is_array(value) -> bool:
    return bool(getattr(value, "ndim", 0)) and hasattr(value, "dtype")


def kind(value):
    """What a kernel is compiled anew for."""
    if isinstance(value, tuple):
        return type(value).__name__, *map(kind, value)
    return (value.dtype.char, value.ndim) if _is_array(value) else type(value).__name__


def like(value):
    """Something of NumPy's that has the type."""
    if isinstance(value, tuple):
        parts = map(like, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return np.empty((0,) * value.ndim, value.dtype) if _is_array(value) else value


def flat(value):
    """Arrays in tuples, each with one axis."""
    if isinstance(value, tuple):
        return type(value)(*map(flat, value)) if hasattr(value, "_fields") else tuple(map(flat, value))
    if not _is_array(value):
        return value
    require_contiguous(value)
    return value.reshape(-1)


def require_contiguous(array) -> None:
    if not array.flags.c_contiguous:
        raise ValueError("kernels: contiguous arrays are required")  # a copy would take what they write with it


FORMS = {bool: "?7x", int: "q", float: "d", np.bool_: "?7x", np.int64: "q", np.float32: "f4x", np.float64: "d"}  # in eight bytes each


def spread(value: tuple, one_axis: bool, kinds: list, numbers: list) -> None:
    """Add to `numbers` the values of the parameters that Numba makes of arguments, and to `kinds` what a kernel is compiled anew for.

    Of an array these are owner and parent (none here), size, itemsize, address, shape and strides, as `flat` has it for `one_axis`.
    """
    for part in value:
        what = type(part)
        if what in FORMS:
            kinds.append(what)
            numbers.append(part)
        elif isinstance(part, tuple):
            kinds.append(what)
            kinds.append(len(part))
            spread(part, one_axis, kinds, numbers)
        else:
            dtype, size = part.dtype, part.size
            if size and not part.flags.c_contiguous:
                require_contiguous(part)
            itemsize, place = dtype.itemsize, part.data.ptr
            kinds.append(dtype.char)
            if one_axis:
                numbers += 0, 0, size, itemsize, place, size, itemsize
            else:
                kinds.append(part.ndim)
                numbers += 0, 0, size, itemsize, place, *part.shape, *part.strides


class Parameters:
    """Memory for the parameters of launches of one kind, eight bytes each, and for their addresses, which the driver asks for.

    It has read them when a launch returns; until then nobody else may write there.
    """

    def __init__(self, numbers: list, form: struct.Struct | None = None):
        self._form = form or struct.Struct("".join([FORMS[type(number)] for number in numbers]))
        memory = np.empty((2, len(numbers)), np.int64)
        memory[1] = np.arange(memory.ctypes.data, memory.ctypes.data + memory[0].nbytes, 8)
        self.values, self.address = memoryview(memory[0]), memory.ctypes.data + memory[0].nbytes
        self.fill(numbers)

    def another(self, numbers: list) -> "Parameters":
        """Memory for those of one more launch of this kind."""
        return Parameters(numbers, self._form)

    def fill(self, numbers: list) -> None:
        self._form.pack_into(self.values, 0, *numbers)

"""A driver for arrays that pretend to be on a GPU: it is given addresses and numbers, as the real one is; the simulator runs kernels.

So all but the driver is what it is with a GPU: what is launched, which numbers lie in which memory, what is noted and done again.
"""

import ctypes
from types import SimpleNamespace

import gridsim
import numpy as np

from fastrnn.kernels.cuda import compiler

NUMBERS = {
    bool: ctypes.c_bool, np.bool_: ctypes.c_bool, int: ctypes.c_int64, np.int64: ctypes.c_int64, float: ctypes.c_double,
    np.float64: ctypes.c_double, np.float32: ctypes.c_float,
}  # fmt: skip
HIGHEST = 1 << 57  # of all addresses


class Driver:
    """CuPy's ``cuda.driver`` and ``cuda.runtime``, those functions that are used.

    Attributes
    ----------
    launched : list of Kernel
    idle : bool
        Whether nothing is run.
    """

    def __init__(self, settings: dict):
        self.settings, self.functions, self.launched, self.idle = settings, [], [], False

    def load(self, kernel, arguments):
        """What `target` takes for CuPy's function; of the arguments the driver knows types alone."""
        self.functions.append((kernel, compiler.like(arguments)))
        return SimpleNamespace(kernel=SimpleNamespace(ptr=len(self.functions) - 1))

    def getDevice(self) -> int:
        return 0

    def memGetInfo(self) -> tuple[int, int]:
        return 10**8, 10**9

    def memsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        assert 0 < address < HIGHEST
        ctypes.memset(address, value, size)

    def launchKernel(self, function, x, y, z, threads, two, three, shared, stream, parameters, extra) -> None:
        kernel, kinds = self.functions[function]
        assert two == three == 1 and extra == 0
        arguments = tuple(_at(kind, words) for words in [_words(parameters)] for kind in kinds)
        self.launched.append(kernel)
        if not self.idle:
            gridsim.launch(kernel, (x, y, z), threads, shared, *arguments, **self.settings)


def _words(parameters: int):
    """The addresses of parameters, one after the other."""
    while True:
        yield ctypes.c_int64.from_address(parameters).value
        parameters += 8


def _at(kind, words):
    """An argument of this type, from the words that it is in: of an array, memory that somebody has."""
    if isinstance(kind, tuple):
        parts = [_at(part, words) for part in kind]
        return type(kind)(*parts) if hasattr(kind, "_fields") else tuple(parts)
    if not isinstance(kind, np.ndarray):
        return type(kind)(NUMBERS[type(kind)].from_address(next(words)).value)
    owner, parent, size, itemsize, place, *rest = (ctypes.c_int64.from_address(next(words)).value for _ in range(5 + 2 * kind.ndim))
    shape, strides = rest[: kind.ndim], rest[kind.ndim :]
    assert owner == parent == 0 and itemsize == kind.itemsize and size == np.prod(shape) and 0 <= place < HIGHEST
    if not size:
        return np.empty(shape, kind.dtype)
    found = np.frombuffer((ctypes.c_char * (size * itemsize)).from_address(place), kind.dtype).reshape(shape)
    assert all(one == other for one, other, length in zip(found.strides, strides, shape) if length > 1)
    return found

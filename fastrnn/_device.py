"""Where a network's arrays are, and what makes them there. The device is chosen here and nowhere else."""

import contextlib
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import NamedTuple

import numpy as np

from . import _check, _memory

DEVICES = ("cpu", "cuda")
PRECISIONS = ("exact", "split", "tf32", "bf16")
DLPACK_CUDA = 2  # kDLCUDA, the kind of device
PER_THREAD = 2  # cudaStreamPerThread: a stream of its own in every thread


class Device(NamedTuple):
    """Arrays in one place.

    Attributes
    ----------
    name : {"cpu", "cuda"}
    xp : module
        NumPy, or CuPy, which has its functions for arrays on the GPU.
    empty, zeros : callable
        As NumPy's, of shape and dtype.
    precision : str
        How it multiplies matrices, one of `PRECISIONS`.
    """

    name: str
    xp: object
    empty: Callable
    zeros: Callable
    precision: str = "exact"

    def __reduce__(self):
        return device, (self.name, self.precision)  # copies and pickles know a device by its name

    def array(self, name: str, value, shape: tuple, dtype, *, meaning: str = ""):
        """`value`, from wherever it is, checked and converted as `_check.array` has it."""
        return _check.array(name, self.here(value), shape, dtype, meaning=meaning, xp=self.xp)

    def here(self, value):
        """Another library's array on the GPU as one of CuPy's, not copied; all else as it is."""
        if self.name == "cpu" or isinstance(value, (np.ndarray, self.xp.ndarray)) or of(value).name == "cpu":
            return value
        return self.xp.from_dlpack(value) if _exchanged(value) else self.xp.asarray(value)

    def put(self, array: np.ndarray):
        """A NumPy array, here."""
        return self.xp.asarray(array)

    def get(self, array) -> np.ndarray:
        """An array from here as a NumPy array."""
        return array if self.name == "cpu" else array.get()

    def stream(self) -> tuple:
        """What orders what is computed now; nothing on the host."""
        if self.name == "cpu":
            return ()
        found = _target().stream()
        return (found, threading.get_ident()) if found == PER_THREAD else (found,)

    def at_once(self):
        """Where what is asked of a GPU is done, also while it is noted (see `kernels.cuda.program`)."""
        return contextlib.nullcontext() if self.name == "cpu" else _target().noting(None)

    def free(self) -> int:
        """Bytes that arrays can still take on a GPU."""
        return _target().free_memory()

    def require_room(self, numbers: int, dtype, what: str) -> None:
        """Raise before anything is begun where a GPU has no memory for so many numbers; a host's memory is the system's business."""
        if self.name == "cpu":
            return
        size = numbers * np.dtype(dtype).itemsize
        if size > _target().kept_memory() and size > (free := self.free()):  # the driver takes its time to answer
            raise MemoryError(
                f"device: about {size / 1e6:.0f} MB of the GPU's memory are required for {what}; got {free / 1e6:.0f} MB that are free. "
                "Use a smaller batch or shorter sequences, or let go of other arrays"
            )


class Made:
    """What is made once of shapes alone, and kept where it is used; what is on a device is written no more.

    Each stream of a GPU has its own: another one would not wait until it is there, or with what takes its place until it is read.
    """

    MOST = 512

    def __init__(self, device: Device):
        self._device, self._found = device, {}

    def __reduce__(self):
        return Made, (self._device,)  # a copy makes its own, on its own stream

    def once(self, key: tuple, make: Callable):
        """What `make` gives, which may depend on nothing but `key`, and what never changes in the one who asks."""
        key = *self._device.stream(), *key
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= self.MOST:
                self._found.pop(list(self._found)[0], None)  # the oldest, if no other thread was faster
            with self._device.at_once():
                self._found[key] = found = make()
        return found  # which another thread may have let go of


CPU = Device("cpu", np, _memory.empty, _memory.zeros)


def of(array) -> Device:
    """Where an array is, CuPy's or another library's."""
    if type(array) is np.ndarray or array is None:
        return CPU
    return _cuda() if hasattr(array, "__cuda_array_interface__") or _exchanged(array) else CPU


def host(array):
    """`array` as NumPy can take it."""
    device = of(array)
    return array if device is CPU else device.here(array).get()


def _exchanged(array) -> bool:
    """Whether it is one on a GPU that is handed over by DLPack and in no other way."""
    there = getattr(array, "__dlpack_device__", None)
    return there is not None and not hasattr(array, "__cuda_array_interface__") and int(there()[0]) == DLPACK_CUDA


def device(name: str, precision: str = "exact", dtype=np.float32) -> Device:
    """The device of this name, which can be used, and multiplies in this precision, or an error says what is missing."""
    _check.choice("device", name, DEVICES)
    _check.choice("precision", precision, PRECISIONS)
    if precision != "exact" and (name == "cpu" or dtype != np.float32):
        raise ValueError(
            f"precision: 'exact' is required unless device='cuda' and dtype='float32', whose products tensor cores can compute; "
            f"got {precision!r} with device={name!r} and dtype={np.dtype(dtype).name!r}"
        )
    if name == "cpu":
        return CPU
    _target().require(precision)
    return _cuda()._replace(precision=precision)


def _cuda() -> Device:
    target = _target()
    return Device("cuda", target.arrays(), target.empty, target.zeros)


@cache
def _target():
    """What knows the GPU: a tenth of a second, which those who have none need not wait."""
    return import_module(".kernels.cuda.target", __package__)

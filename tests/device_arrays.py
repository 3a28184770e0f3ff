"""A stand-in for CuPy: arrays that refuse what arrays on a GPU refuse, so that the path to the GPU can be tested without one.

They are no NumPy arrays: making one of them without `get`, or mixing the two, is an error. What `empty` gives is NaN. What takes more than
another view of an array is counted.
"""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

WHAT_CUPY_LACKS = {"require", "errstate", "asfortranarray"}
VIEWS = {"reshape", "ravel", "swapaxes", "broadcast_to", "ndim", "shape"}

counted = Counter()  # operations by name; those that wait for the device are SYNCHRONOUS
SYNCHRONOUS = {"get", "bool", "float"}


def _plain(value, what):
    """What NumPy takes for it."""
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(part, what) for part in value)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"{what}: an array of the host among those of the device")
    return value.numbers if isinstance(value, DeviceArray) else value


def _wrapped(value):
    if isinstance(value, tuple):
        return tuple(map(_wrapped, value))
    return DeviceArray(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value  # a shape is of the host


def _call(function, args, kwargs):
    name = getattr(function, "__name__", str(function))
    counted.update({name} - VIEWS)
    return _wrapped(function(*_plain(args, name), **{key: _plain(value, name) for key, value in kwargs.items()}))


class DeviceArray(NDArrayOperatorsMixin):
    """Has CuPy's attributes, those that are used."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        if out:
            counted[ufunc.__name__] += 1
            getattr(ufunc, method)(*_plain(inputs, ufunc.__name__), out=tuple(array.numbers for array in out), **options)
            return out[0]
        return _call(getattr(ufunc, method), inputs, options)

    def __array_function__(self, function, types, args, kwargs):
        return _call(function, args, kwargs)

    def __getattr__(self, name):
        if name not in ("shape", "strides", "dtype", "ndim", "size", "itemsize", "nbytes", "flags"):
            raise AttributeError(name)
        return getattr(self.numbers, name)

    @property
    def __cuda_array_interface__(self):
        return self.numbers.__array_interface__

    @property
    def flags(self):
        class Flags:
            c_contiguous = self.numbers.flags.c_contiguous

        return Flags

    @property
    def data(self):
        return SimpleNamespace(ptr=self.numbers.ctypes.data if self.numbers.size else 0)

    def get(self) -> np.ndarray:
        counted["get"] += 1
        return self.numbers.copy()

    def __getitem__(self, index):
        found = np.asarray(self.numbers[_plain(index, "index")])
        counted["take"] += not np.may_share_memory(found, self.numbers) and found.size > 0
        return DeviceArray(found)

    def __setitem__(self, index, value):
        counted["put"] += 1
        self.numbers[_plain(index, "index")] = _plain(value, "assignment")

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))

    def __bool__(self):
        counted["bool"] += 1
        return bool(self.numbers)

    def __float__(self):
        counted["float"] += 1
        return float(self.numbers)

    def __reduce__(self):
        return DeviceArray, (self.numbers,)

    def __deepcopy__(self, memo):
        return DeviceArray(self.numbers.copy())


def _method(name):
    return lambda self, *args, **kwargs: _call(getattr(self.numbers, name), args, kwargs)


for name in ("reshape", "ravel", "swapaxes", "astype", "copy", "sum", "max", "all", "any"):
    setattr(DeviceArray, name, _method(name))


class Arrays:
    """The module, but for what is the driver's."""

    cuda, ndarray = None, DeviceArray

    @staticmethod
    def asarray(value):
        if isinstance(value, DeviceArray):
            return value
        if hasattr(value, "__cuda_array_interface__"):  # another library's, not copied
            return DeviceArray(np.asarray(SimpleNamespace(__array_interface__=value.__cuda_array_interface__)))
        counted["asarray"] += 1
        return DeviceArray(np.array(value))

    @staticmethod
    def from_dlpack(value):
        assert value.__dlpack_device__()[0] == 2
        return DeviceArray(np.from_dlpack(value.held))

    @staticmethod
    def ascontiguousarray(value, dtype=None):
        given = Arrays.asarray(value).numbers
        found = np.ascontiguousarray(given, dtype)
        counted["ascontiguousarray"] += not np.may_share_memory(found, given)
        return DeviceArray(found)

    @staticmethod
    def empty(shape, dtype):
        counted["empty"] += 1
        found = DeviceArray(np.empty(shape, dtype))
        found.numbers.reshape(-1).view(np.uint8)[...] = 255  # of floats NaN, whose room it may become
        return found

    def __getattr__(self, name):
        if name in WHAT_CUPY_LACKS:
            raise AttributeError(f"cupy has no {name}")
        return lambda *args, **kwargs: _call(getattr(np, name), args, kwargs)

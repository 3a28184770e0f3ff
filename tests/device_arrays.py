"""A stand-in for CuPy: NumPy arrays that refuse what arrays on a GPU refuse, so that the path to the GPU can be tested without one.

Mixing them with arrays of the host is an error, as is a kernel's reading what nobody has written (NaN).
"""

import numpy as np


def _refuse_host_arrays(values, what):
    for value in values:
        if isinstance(value, (tuple, list)):
            _refuse_host_arrays(value, what)
        elif isinstance(value, np.ndarray) and value.ndim and not isinstance(value, DeviceArray):
            raise TypeError(f"{what}: an array of the host among those of the device")


def _plain(value):
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _wrapped(value):
    return tuple(map(_wrapped, value)) if isinstance(value, tuple) else np.asarray(value).view(DeviceArray)


def _call(function, name, args, kwargs):
    _refuse_host_arrays([*args, *kwargs.values()], name)
    return _wrapped(function(*map(_plain, args), **{key: _plain(value) for key, value in kwargs.items()}))


class DeviceArray(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        result = _call(getattr(ufunc, method), ufunc.__name__, inputs, options)
        return options["out"][0] if "out" in options else result

    def __array_function__(self, function, types, args, kwargs):
        return _call(function, function.__name__, args, kwargs)

    def __getitem__(self, index):
        _refuse_host_arrays(index if isinstance(index, tuple) else (index,), "index")
        return np.asarray(super().__getitem__(index)).view(DeviceArray)

    def __setitem__(self, index, value):
        _refuse_host_arrays([*(index if isinstance(index, tuple) else (index,)), value], "assignment")
        super().__setitem__(index, value)

    def get(self) -> np.ndarray:
        return np.array(self.view(np.ndarray))


class Arrays:
    """The module."""

    @staticmethod
    def asarray(value):
        return value if isinstance(value, DeviceArray) else np.array(value).view(DeviceArray)

    @staticmethod
    def empty(shape, dtype):
        return np.full(shape, np.nan, dtype).view(DeviceArray)

    def __getattr__(self, name):
        return lambda *args, **kwargs: _call(getattr(np, name), name, args, kwargs)

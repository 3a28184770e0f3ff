"""Argument checks: one wording for every error (what was required, what came, what to do)."""

import operator

import numpy as np

FLOATS = ("float32", "float64")


def choice(name: str, value, allowed):
    """`value`, which must be one of `allowed`."""
    allowed = tuple(allowed)
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        raise ValueError(f"{name}: one of {', '.join(map(repr, allowed))} is required; got {value!r}")
    return value


def integer(name: str, value, minimum: int | None = None, maximum: int | None = None) -> int:
    """`value` as an int within [minimum, maximum]."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: an integer is required; got {value!r} ({type(value).__name__})") from None
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name}: an integer {bounds} is required; got {number}")
    return number


def real(name: str, value, minimum: float | None = None, maximum: float | None = None, *, positive: bool = False) -> float:
    """`value` as a finite float within [minimum, maximum]."""
    try:
        if isinstance(value, (bool, np.bool_, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: a real number is required; got {value!r} ({type(value).__name__})") from None
    if not np.isfinite(number):
        raise ValueError(f"{name}: a finite number is required; got {number}")
    if positive and not number > 0:
        raise ValueError(f"{name}: a number greater than 0 is required; got {number}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: a number of at least {minimum} is required; got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: a number of at most {maximum} is required; got {number}")
    return number


def fraction(name: str, value) -> float:
    """`value` as a float in [0, 1)."""
    number = real(name, value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name}: a number from 0 up to but not including 1 is required; got {number}")
    return number


def dtype(value) -> np.dtype:
    """float32 or float64, in native byte order."""
    try:
        result = np.dtype(value)
    except TypeError:
        result = None
    if result is None or result.name not in FLOATS:
        raise ValueError(f"dtype: 'float32' or 'float64' is required; got {value!r}")
    return result.newbyteorder("=")


def array(name: str, value, shape: tuple, dtype, *, meaning: str = "", xp=np) -> np.ndarray:
    """`value` as a C-contiguous array of `dtype`; `shape` holds ints (required), or strings (any size, named in errors).

    Lists, other float or integer types, byte-swapped, non-contiguous and read-only arrays are accepted and converted;
    object, string and complex arrays are not. The array is one of `xp`, NumPy or a module with its functions.
    """
    try:
        given = xp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: an array of shape {_words(shape)} is required; got {type(value).__name__}: {error}") from None
    if given.dtype.kind not in "fiub":
        remedy = f"Convert it with numpy.asarray(..., dtype='{np.dtype(dtype)}')"
        raise TypeError(f"{name}: real numbers are required; got dtype {given.dtype}. {remedy}")
    if given.ndim != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, given.shape)):
        raise ValueError(f"{name}: shape {_words(shape)}{meaning and ' ' + meaning} is required; got {given.shape}")
    result = xp.ascontiguousarray(given, dtype=dtype)
    # Numba compiles kernels anew for read-only arrays; there are none on a GPU
    return result if getattr(result.flags, "writeable", True) else result.copy()


def integers(name: str, value, shape: tuple, minimum: int, maximum: int, *, meaning: str = "") -> np.ndarray:
    """`value` as a C-contiguous int64 array with every entry in [minimum, maximum]."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: an integer array of shape {_words(shape)} is required; got {type(value).__name__}: {error}") from None
    if given.size == 0 and given.dtype.kind == "f":
        given = given.astype(np.int64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name}: integers are required; got dtype {given.dtype}. Convert it with .astype('int64')")
    if given.ndim != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, given.shape)):
        raise ValueError(f"{name}: shape {_words(shape)}{meaning and ' ' + meaning} is required; got {given.shape}")
    if given.size and (given.min() < minimum or given.max() > maximum):
        worst = given.min() if given.min() < minimum else given.max()
        raise ValueError(f"{name}: integers from {minimum} to {maximum} are required; got {worst}")
    result = np.ascontiguousarray(given, dtype=np.int64)
    return result if result.flags.writeable else result.copy()


def lengths(value, T: int, B: int) -> np.ndarray:
    """The number of valid steps of each sequence, (B,) int64 in [0, T]; all T where `value` is None."""
    if value is None:
        return np.full(B, T, np.int64)
    return integers("lengths", value, (B,), 0, T, meaning="(one length a sequence)")


def labels(name: str, value, B: int) -> np.ndarray:
    """B label sequences as (B, S) int64, -1 behind their ends; a list of sequences of different lengths is padded here."""
    limits = np.iinfo(np.int64)
    if not is_ragged(value):
        return integers(name, value, (B, "S"), limits.min, limits.max, meaning="(one row a sequence, -1 behind its end)")
    if len(value) != B:
        raise ValueError(f"{name}: {B} label sequences are required, one for each sequence; got {len(value)}")
    rows = [integers(f"{name}[{b}]", row, ("S_b",), limits.min, limits.max, meaning="(labels)") for b, row in enumerate(value)]
    result = np.full((B, max(map(len, rows))), -1, np.int64)
    for row, given in zip(result, rows):
        row[: len(given)] = given
    return result


def is_ragged(value) -> bool:
    """Whether `value` is a list of sequences of different lengths."""
    return isinstance(value, (list, tuple)) and len({len(row) if np.iterable(row) else -1 for row in value}) > 1


def sizes(value, R: int, C: int, B: int) -> np.ndarray:
    """Rows and columns of each image, (B, 2) int64 from (1, 1) to (R, C); all (R, C) where `value` is None."""
    if value is None:
        return np.tile(np.array([R, C], np.int64), (B, 1))
    any_int64 = np.iinfo(np.int64)
    result = integers("sizes", value, (B, 2), any_int64.min, any_int64.max, meaning="(rows and columns of each image)")
    wrong = ((result < 1) | (result > (R, C))).any(axis=1)
    if wrong.any():
        b = int(wrong.argmax())
        raise ValueError(
            f"sizes: from 1 to {R} rows and from 1 to {C} columns are required; got {result[b, 0]} and {result[b, 1]} for image {b}. "
            "Leave empty images out"
        )
    return result


def _words(shape: tuple) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"

"""What batches are gathered from: values one a sequence, values one a step, lists of sequences; and their checks."""

from typing import NamedTuple

import numpy as np

from .. import _check as check
from .. import _extent


class Rows(NamedTuple):
    """Values (N, ...), one a sequence."""

    values: np.ndarray

    def take(self, index: np.ndarray, longest: tuple[int, ...]) -> np.ndarray:
        return self.values[index]


class Steps(NamedTuple):
    """Values (T, N, ...), one a step, or (R, C, N, ...), one a pixel; padded."""

    values: np.ndarray

    def take(self, index: np.ndarray, longest: tuple[int, ...]) -> np.ndarray:
        return np.take(self.values[tuple(map(slice, longest))], index, axis=len(longest))


class Ragged(NamedTuple):
    """N arrays (T_i, ...), one value a step; padded a batch at a time: one long sequence does not cost N times."""

    values: list[np.ndarray]

    def take(self, index: np.ndarray, longest: tuple[int, ...]) -> np.ndarray:
        return fill([self.values[i] for i in index], *longest)


def from_arrays(x, target, lengths, weights, per_step: bool | None):
    """The columns x, target, weights (or None) and the lengths of a data set given as time-first arrays."""
    x = inputs(x)
    shape = places(x)
    labels = per_step is False and check.is_ragged(target)
    target = check.labels("target", target, shape[-1]) if labels else numbers("target", target)
    weights = array_weights(weights, shape)
    return (
        Steps(x),
        Steps(target) if _has_steps(target, shape, per_step) else Rows(target),
        None if weights is None else Rows(weights) if weights.ndim == 1 else Steps(weights),
        _extent.checked(lengths, shape),
    )


def from_lists(x, target, weights, per_step: bool | None):
    """The columns x, target, weights (or None) and the lengths of a data set given as a list of sequences."""
    arrays = sequences("x", x)
    if arrays[0].ndim == 1 and arrays[0].dtype.kind == "f":
        arrays = [array[:, None] for array in arrays]
    if arrays[0].ndim > 2 or 0 in arrays[0].shape[1:]:
        raise ValueError(f"x[0]: shape (T_i, D) with D of at least 1, or (T_i,), is required; got {arrays[0].shape}")
    lengths = lengths_of(arrays)
    return (
        Ragged(arrays),
        _listed("target", target, lengths, per_step),
        None if weights is None else _listed("weights", weights, lengths, None, vectors=False),
        lengths,
    )


def _listed(name: str, values, lengths: np.ndarray, per_step: bool | None, *, vectors: bool = True) -> Rows | Ragged:
    """The column of one entry a sequence: a number, a vector, or the numbers (or vectors) of its steps."""
    N = len(lengths)
    if not isinstance(values, (list, tuple)):
        values = list(np.atleast_1d(values))
    if len(values) != N:
        raise ValueError(f"{name}: {N} entries, one for each sequence of x, are required; got {len(values)}")
    if not per_step and not isinstance(values[0], (list, tuple)) and np.ndim(values[0]) == 0:
        return Rows(numbers(name, values))
    if per_step is False and all(np.iterable(value) and len(value) == 0 for value in values):
        return Rows(np.zeros((N, 0), np.int64))
    arrays = sequences(name, values)
    steps = lengths_of(arrays)
    if per_step is False and arrays[0].ndim == 1 and arrays[0].dtype.kind == "i":
        return Rows(check.labels(name, arrays, N))
    if per_step is not False and np.array_equal(steps, lengths) and arrays[0].ndim <= (2 if vectors else 1):
        return Ragged(arrays)
    if not per_step and vectors and arrays[0].ndim == 1 and np.all(steps == steps[0]):
        return Rows(np.stack(arrays))
    # Where the entries could have been steps, the first sequence that does not fit is the one to name.
    i = int(np.argmax(steps != lengths))
    steps_of_x = f"{lengths[i]} steps, as x[{i}] has"
    wanted = {None: f"{steps_of_x}, or vectors of one length", False: "vectors of one length", True: steps_of_x}[
        per_step
    ]
    if not vectors:
        wanted = f"{steps_of_x}, of one number each"
    advice = ". Label sequences of any length: per_step=False" if vectors and per_step is None else ""
    raise ValueError(f"{name}[{i}]: {wanted} are required; got shape {arrays[i].shape}{advice}")


def places(x: np.ndarray) -> tuple[int, ...]:
    """(T, N), or (R, C, N) where x holds images."""
    return x.shape[: 3 if x.ndim == 4 else 2]


def check_target(target: np.ndarray, shape: tuple[int, ...], per_step: bool | None = None) -> tuple[bool, bool]:
    """Whether the shape of `target` is one of values a step, and of values a sequence; an error where it is neither."""
    n, N = len(shape), shape[-1]
    step = per_step is not False and target.ndim in (n, n + 1) and target.shape[:n] == shape
    sequence = not per_step and target.ndim in (1, 2) and target.shape[0] == N
    if not step and not sequence:
        each, place = ("a sequence", "a step") if n == 2 else ("an image", "a pixel")
        sequences = f"({N},) or ({N}, O), one {each}"
        steps = f"{shape} or ({', '.join(map(str, shape))}, O), one {place}"
        wanted = {None: f"{sequences}, or {steps}", False: sequences, True: steps}[per_step]
        raise ValueError(f"target: shape {wanted}, is required; got {target.shape}")
    return step, sequence


def _has_steps(target: np.ndarray, shape: tuple[int, ...], per_step: bool | None) -> bool:
    step, sequence = check_target(target, shape, per_step)
    if step and sequence:
        raise ValueError(
            f"target: shape {target.shape} can be (T, N), one a step, or (N, O), one a sequence; "
            "say which with per_step=True or per_step=False"
        )
    return step


def inputs(x) -> np.ndarray:
    """Time-first inputs: (T, N, D) or (R, C, N, D) in float32, float64 or int64, or (T, N) in int64, none of the sizes zero."""
    x = numbers("x", x, "Pass sequences of different lengths as a list of (T_i, D) arrays")
    if x.ndim == 2 and x.dtype.kind == "f":
        raise ValueError(
            f"x: shape (T, N, D) is required for real numbers; got {x.shape}. "
            "Write series of one feature as x[:, :, None], and tokens as integers"
        )
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"x: shape (T, N, D), (R, C, N, D) for images, or (T, N) for integer tokens, is required; got {x.shape}")
    if 0 in x.shape:
        raise ValueError(f"x: at least one step, one sequence and one feature are required; got shape {x.shape}")
    return x.astype(np.float32) if x.ndim == 4 and x.dtype.kind == "i" else x


def array_weights(weights, shape: tuple[int, ...]) -> np.ndarray | None:
    if weights is None:
        return None
    weights = numbers("weights", weights)
    if weights.shape not in (shape[-1:], shape):
        each, place = ("a sequence", "a step") if len(shape) == 2 else ("an image", "a pixel")
        raise ValueError(f"weights: shape {shape[-1:]}, one {each}, or {shape}, one {place}, is required; got {weights.shape}")
    return weights


def numbers(name: str, value, advice: str = "") -> np.ndarray:
    """`value` as an array of int64, float32 or float64."""
    if name.startswith("target"):
        advice = "Write labels as integers from 0, with numpy.unique(labels, return_inverse=True)[1]"
    advice = advice and f". {advice}"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: an array is required; got {type(value).__name__}: {error}{advice}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: real numbers are required; got dtype {array.dtype}{advice}")
    return array.astype(_plain(array.dtype), copy=False)


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind != "f":
        return np.dtype(np.int64)
    return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)


def sequences(name: str, values) -> list[np.ndarray]:
    """`values` as arrays of one dtype and one rank that differ in their first axis only."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name}: a list of arrays is required; got {type(values).__name__}")
    if not values:
        raise ValueError(f"{name}: at least one sequence is required; got an empty list")
    arrays = [numbers(f"{name}[{i}]", value) for i, value in enumerate(values)]
    for i, array in enumerate(arrays):
        if array.ndim == 0:
            raise ValueError(f"{name}[{i}]: shape (T_i,) or (T_i, D) is required; got the number {array[()]}")
    filled = [i for i, array in enumerate(arrays) if len(array)]
    if not filled:
        raise ValueError(f"{name}: at least one step is required; got {len(arrays)} sequences of length 0")
    first, shape = filled[0], arrays[filled[0]].shape[1:]
    for i in filled:
        if arrays[i].shape[1:] != shape:
            wanted = f"(T_i{''.join(f', {size}' for size in shape)}{'' if shape else ','})"
            raise ValueError(f"{name}[{i}]: shape {wanted}, as in {name}[{first}], is required; got {arrays[i].shape}")
    # An empty list carries neither a dtype nor a number of features: the others decide.
    dtype = np.result_type(*{arrays[i].dtype for i in filled})
    return [array.astype(dtype, copy=False) if len(array) else np.zeros((0, *shape), dtype) for array in arrays]


def images(name: str, values) -> list[np.ndarray]:
    """`values` as arrays (R_i, C_i) or (R_i, C_i, D) of one dtype and one D, none of them empty."""
    if not isinstance(values, (list, tuple)) or not values:
        got = "an empty one" if isinstance(values, (list, tuple)) else type(values).__name__
        raise TypeError(f"{name}: a list of at least one array is required; got {got}")
    arrays = [numbers(f"{name}[{i}]", value) for i, value in enumerate(values)]
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3) or 0 in array.shape or array.shape[2:] != arrays[0].shape[2:]:
            wanted = f"(R_i, C_i{''.join(f', {size}' for size in arrays[0].shape[2:])})"
            raise ValueError(f"{name}[{i}]: shape {wanted}, no size of it 0, is required; got {array.shape}")
    dtype = np.result_type(*{array.dtype for array in arrays})
    return [array.astype(dtype, copy=False) for array in arrays]


def lengths_of(arrays: list[np.ndarray]) -> np.ndarray:
    return np.array([len(array) for array in arrays], np.int64)


def fill(arrays: list[np.ndarray], longest: int) -> np.ndarray:
    """Arrays (T_i, ...) side by side in (longest, N, ...), zeros behind their ends."""
    out = np.zeros((longest, len(arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    for i, array in enumerate(arrays):
        out[: len(array), i] = array
    return out

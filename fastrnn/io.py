"""Files: models and checkpoints, as a JSON header and raw arrays under a SHA-256.

The container (version 1), all numbers little-endian::

    magic      12 bytes   89 "fastrnn" 0D 0A 1A 0A   (a text-mode transfer or a truncation shows at once)
    size        8 bytes   length of the header, unsigned
    header   size bytes   JSON in UTF-8, padded with spaces so that the arrays start at a multiple of 64
    arrays                the raw values in C order, one after the other, each padded with zeros to a multiple of 64
    digest     32 bytes   SHA-256 of everything before it

The header is ``{"format": 1, "header": {...}, "arrays": [{"name", "dtype", "shape", "offset"}, ...]}``, offsets counted
from the first array. The layout is a function of the shapes, and a file that deviates from it in any way is refused, so
there are no overlaps, gaps or out-of-range offsets to think about. Nothing is ever unpickled, evaluated or imported by
name.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import _device

MAGIC = b"\x89fastrnn\r\n\x1a\n"
FORMAT = 1
DTYPES = ("float32", "float64", "int64")

_PREFIX = struct.Struct("<12sQ")
_DIGEST = hashlib.sha256().digest_size
_ALIGNMENT = 64
_HEADER_LIMIT = 1 << 24
_RANK_LIMIT = 8

# What reading attacker-chosen JSON, and building what it describes, can raise.
_DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, RecursionError)


class FileFormatError(ValueError):
    """The file is not a sound fastrnn file: foreign, truncated, damaged, hostile, or of a newer version."""


# ---------------------------------------------------------------------------------------------------------------------
# The container


def write(path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `header` and `arrays` to `path`, whole or not at all.

    The bytes go to a temporary name in the same folder, are flushed to the disk, and then renamed over `path`: a
    reader, or a crash, sees the old file or the new one.

    Parameters
    ----------
    path : str or path-like
    header : mapping
        Anything that JSON can hold; no NaN or infinity.
    arrays : mapping of str to ndarray of float32, float64 or int64
        Any shape and memory layout.

    Raises
    ------
    TypeError, ValueError
        What cannot be stored, by name. Nothing has been written then.
    OSError
        From the file system; the old file, if any, is intact.
    """
    values, entries, offset = [], [], 0
    for name, array in arrays.items():
        value = np.asarray(_device.host(array))
        if value.dtype.name not in DTYPES:
            raise TypeError(f"arrays: {', '.join(DTYPES)} can be stored; got dtype {value.dtype} for {name!r}")
        if value.ndim > _RANK_LIMIT:
            raise ValueError(f"arrays: at most {_RANK_LIMIT} dimensions can be stored; got {value.ndim} for {name!r}")
        value = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
        values.append(value)
        entries.append({"name": name, "dtype": value.dtype.name, "shape": list(value.shape), "offset": offset})
        offset += _padded(value.nbytes)
    text = json.dumps({"format": FORMAT, "header": dict(header), "arrays": entries}, allow_nan=False).encode()
    text += b" " * (-(_PREFIX.size + len(text)) % _ALIGNMENT)
    if len(text) > _HEADER_LIMIT:
        raise ValueError(
            f"header: at most {_HEADER_LIMIT} bytes of JSON can be stored; got {len(text)}. Put large values in arrays"
        )

    with _replacing(path) as file:
        digest = hashlib.sha256()
        for piece in _pieces(text, values):
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


def read(path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file that :func:`write` made.

    Raises
    ------
    FileFormatError
        For anything but a sound file; the message says what is wrong with it.
    OSError
        Where the file system has no such file or refuses it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastrnn import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "some.rnn")
    ...     io.write(path, {"kind": "note"}, {"a": np.arange(3)})
    ...     io.read(path)
    ({'kind': 'note'}, {'a': array([0, 1, 2])})
    """
    # A pipe or a device could block or never end; open without waiting, and look before reading.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise FileFormatError("a regular file is required")
            return _read(file, status.st_size)
        except FileFormatError as error:
            raise FileFormatError(f"{os.fspath(path)!r}: {error}") from error.__cause__
        except _DAMAGE as error:
            raise FileFormatError(f"{os.fspath(path)!r}: {type(error).__name__}: {error}") from error


def _read(file, size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`read` on an open file of `size` bytes."""
    prefix = file.read(_PREFIX.size)
    if not prefix.startswith(MAGIC):
        raise FileFormatError("not a fastrnn file (its first bytes are not ours)")
    if len(prefix) < _PREFIX.size:
        raise FileFormatError("truncated within the first bytes")
    header_size = _PREFIX.unpack(prefix)[1]
    if header_size > min(size, _HEADER_LIMIT):
        raise FileFormatError(f"a header of {header_size} bytes cannot be in a file of {size}")
    digest = hashlib.sha256(prefix)
    text = _exactly(file, header_size, digest)
    header, entries = _parse(text)
    body = sum(_padded(nbytes) for *_, nbytes in entries)
    described = _PREFIX.size + header_size + body + _DIGEST
    if described != size:
        raise FileFormatError(f"truncated or extended: {described} bytes are described, {size} are there")

    arrays = {}
    for name, dtype, shape, nbytes in entries:
        array = np.empty(shape, np.dtype(dtype).newbyteorder("<"))
        raw = array.reshape(-1).view(np.uint8)
        if file.readinto(raw) != nbytes:
            raise FileFormatError(f"truncated within array {name!r}")
        digest.update(raw)
        _exactly(file, _padded(nbytes) - nbytes, digest)
        arrays[name] = array.astype(dtype, copy=False)
    if file.read(_DIGEST) != digest.digest():
        raise FileFormatError("damaged: the SHA-256 does not match the content")
    return header, arrays


def _parse(text: bytes) -> tuple[dict[str, Any], list[tuple[str, str, tuple[int, ...], int]]]:
    """The user's header, and (name, dtype, shape, bytes) of every array; the layout checked."""
    try:
        whole = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the header is not sound JSON: {type(error).__name__}") from error
    if not isinstance(whole, dict):
        raise FileFormatError("the header is not a JSON object")
    version = whole.get("format")
    if type(version) is int and version > FORMAT:
        raise FileFormatError(
            f"format version {version} is newer than {FORMAT}, the newest this fastrnn knows. Upgrade fastrnn"
        )
    if type(version) is not int or version < 1:
        raise FileFormatError("the header has no format version")
    header, listed = whole.get("header"), whole.get("arrays")
    if not isinstance(header, dict) or not isinstance(listed, list):
        raise FileFormatError("the header lacks its fields 'header' and 'arrays'")
    entries, names, offset = [], set(), 0
    for entry in listed:
        if not isinstance(entry, dict) or set(entry) != {"name", "dtype", "shape", "offset"}:
            raise FileFormatError("an array is described by other fields than name, dtype, shape and offset")
        name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
        if not isinstance(name, str) or name in names:
            raise FileFormatError(f"array names must be distinct strings; got {name!r}")
        if dtype not in DTYPES:
            raise FileFormatError(f"array {name!r} has dtype {dtype!r}, not one of {', '.join(DTYPES)}")
        if (
            not isinstance(shape, list)
            or len(shape) > _RANK_LIMIT
            or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
        ):
            raise FileFormatError(f"array {name!r} has the impossible shape {shape!r}")
        if type(entry["offset"]) is not int or entry["offset"] != offset:
            raise FileFormatError(f"array {name!r} does not lie where its predecessors end")
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        names.add(name)
        entries.append((name, dtype, tuple(shape), nbytes))
        offset += _padded(nbytes)
    return header, entries


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _pieces(text: bytes, values: list[np.ndarray]):
    yield _PREFIX.pack(MAGIC, len(text))
    yield text
    for value in values:
        yield value.reshape(-1).view(np.uint8)
        yield bytes(_padded(value.nbytes) - value.nbytes)


def _exactly(file, count: int, digest) -> bytes:
    """The next `count` bytes, taken into `digest`."""
    data = file.read(count)
    if len(data) != count:
        raise FileFormatError("truncated")
    digest.update(data)
    return data


@contextlib.contextmanager
def _replacing(path):
    """A file to write that takes the place of `path` when all went well, and leaves no trace when not."""
    target = Path(os.path.realpath(path))  # through a link, to the file that the user means
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name itself must survive a power cut, too
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Models


def save(model, path) -> None:
    """Write `model` (its configuration and its parameters) to `path`.

    Parameters
    ----------
    model : Model or EncoderDecoder
    path : str or path-like
        Written whole or not at all; an existing file is replaced.

    See Also
    --------
    load
    """
    if not hasattr(model, "config"):
        got = f"got {type(model).__name__}. Of an Ensemble, save the members one by one"
        raise TypeError(f"model: a Model or an EncoderDecoder is required; {got}")
    write(path, {"kind": "model", "config": model.config()}, model.params)


def load(path, cells=None):
    """The model that :func:`save` wrote: the same configuration, the same parameters to the last bit.

    Parameters
    ----------
    path : str or path-like
    cells : dict of str to Cell, optional
        The cells that are not built in, by name: a file holds no code.

    Raises
    ------
    FileFormatError
        If the file is damaged, hostile, of a newer version, or no model.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastrnn as fr
    >>> model = fr.Model(fr.GRU(3, 4), fr.Linear(4, 2), loss=fr.CrossEntropy())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(os.path.join(folder, "model.rnn"))
    ...     again = fr.load(os.path.join(folder, "model.rnn"))
    >>> bool((again.params.flat == model.params.flat).all())
    True
    """
    from .encoder_decoder import EncoderDecoder  # here and not above: their `save` calls this module
    from .model import Model

    header, arrays = read(path)
    if header.get("kind") != "model":
        raise FileFormatError(f"{os.fspath(path)!r}: a saved model is required; this is a {header.get('kind')!r}")
    try:
        stored = sum(array.size for array in arrays.values())
        if _parameters_at_least(header["config"]) > stored:
            raise FileFormatError(f"the configuration describes more than the {stored} parameters that are stored")
        kind = EncoderDecoder if "decoder" in header["config"] else Model
        model = kind.from_config(header["config"], cells)
        same_shapes = {name: array.shape for name, array in arrays.items()} == model.params.shapes
        if not same_shapes or any(array.dtype != model.params.dtype for array in arrays.values()):
            raise FileFormatError("the arrays are not the parameters of the configuration")
    except _DAMAGE as error:
        raise FileFormatError(f"{os.fspath(path)!r}: no sound model: {error}") from error
    for name, array in arrays.items():
        model.params[name] = array
    return model


_SIZES = ("input_size", "output_size", "hidden_size", "num_layers", "num_symbols", "dimension")


def _parameters_at_least(config) -> int:
    """A lower bound on the parameters that a configuration describes.

    A hostile file must not make us allocate what it only claims to hold; so this is asked before a model is made.
    """
    if isinstance(config, list):
        return sum(map(_parameters_at_least, config))
    if not isinstance(config, dict):
        return 0
    inner = sum(map(_parameters_at_least, config.values()))
    size = {name: value for name, value in config.items() if name in _SIZES}
    for name, value in size.items():
        if type(value) is not int or value < 1:
            raise FileFormatError(f"{name} cannot be {value!r}")
    D, layers = size.get("input_size", 1), size.get("num_layers", 1)
    if "hidden_size" not in size:
        return inner + D * size.get("output_size", 0) + size.get("num_symbols", 0) * size.get("dimension", 0)
    H = size["hidden_size"]
    recurrent = H * H if config.get("cell") in ("rnn", "lstm", "gru", "leaky") else H
    return inner + H * D + (layers - 1) * H * H + layers * recurrent


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(path, tree) -> None:
    """Write nested dicts, lists and tuples of arrays, numbers, strings and None to `path`, bit for bit.

    Unlike JSON alone, this keeps tuples, NaN and infinities, integers of any size, and arrays.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastrnn import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "some.checkpoint")
    ...     io.save_checkpoint(path, {"state": (np.zeros(2), None), "loss": float("nan")})
    ...     io.load_checkpoint(path)
    {'state': (array([0., 0.]), None), 'loss': nan}
    """
    arrays: dict[str, np.ndarray] = {}
    write(path, {"kind": "checkpoint", "tree": _pack(tree, arrays, "")}, arrays)


def load_checkpoint(path):
    """What :func:`save_checkpoint` was given; FileFormatError where the file is not sound or no checkpoint."""
    header, arrays = read(path)
    if header.get("kind") != "checkpoint":
        raise FileFormatError(f"{os.fspath(path)!r}: a checkpoint is required; this is a {header.get('kind')!r}")
    try:
        return _unpack(header["tree"], arrays)
    except _DAMAGE as error:
        raise FileFormatError(f"{os.fspath(path)!r}: no sound checkpoint: {type(error).__name__}: {error}") from error


def _pack(tree, arrays: dict[str, np.ndarray], name: str):
    """`tree` as JSON, each array moved to `arrays` and each value that JSON lacks wrapped in a one-entry object."""
    tree = _device.host(tree)
    if isinstance(tree, np.ndarray):
        arrays[name] = tree
        return {"array": name}
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _pack(value, arrays, f"{name}/{key}") for key, value in tree.items()}}
    if isinstance(tree, (list, tuple)):
        items = [_pack(value, arrays, f"{name}/{i}") for i, value in enumerate(tree)]
        return {"tuple": items} if isinstance(tree, tuple) else items
    raise TypeError(
        "checkpoint: arrays, numbers, strings, None, and dicts, lists and tuples of them are required; "
        f"got {type(tree).__name__} at {name or '/'}"
    )


def _unpack(tree, arrays: Mapping[str, np.ndarray]):
    if isinstance(tree, list):
        return [_unpack(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "array":
        return arrays[value]
    if kind == "float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value]
    if kind == "tuple":
        return tuple(_unpack(item, arrays) for item in value)
    if kind == "dict":
        return {key: _unpack(item, arrays) for key, item in value.items()}
    raise ValueError(f"unknown kind of value {kind!r}")

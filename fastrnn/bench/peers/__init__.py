"""The libraries that are timed, one module each: imported in the worker's process only, and only the one that runs there.

A module has ``set_threads(n)`` and ``build(case, data) -> Built``; it raises `Lacking` for what its library cannot do.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

#: The packages that each peer needs, itself first.
PEERS = {"torch": ("torch",), "jax": ("jax", "jaxlib"), "onnxruntime": ("onnxruntime", "onnx"), "tensorflow": ("tensorflow", "keras")}
LIBRARIES = ("fastrnn", *PEERS)


class Lacking(Exception):
    """The library has no such network, or the system no such setting; says which."""


class Built(NamedTuple):
    """A case as one library does it, ready to be timed.

    Attributes
    ----------
    passes : dict
        By the names of `cases.PASSES`: a function that returns when all is computed; what it lacks is left out.
    arrays : callable
        The results as a dict of ndarray: y, dx and gradients by the weights' names, or loss and weights after training, or outputs.
    counts : dict
        How many units (training steps) a call of a pass makes, where not 1.
    """

    passes: dict[str, Callable[[], object]]
    arrays: Callable[[], dict]
    counts: dict[str, int] = {}


def load(library: str):
    """The module of one library."""
    return import_module(f"{__name__}.{library}")


def installed(library: str) -> bool:
    """Whether it could be imported; nothing is."""
    return all(find_spec(name) is not None for name in PEERS[library])


def versions(libraries) -> dict[str, str]:
    """Of every package that the peers given need."""
    found = {}
    for name in (name for library in libraries for name in PEERS[library]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # under another name, such as tensorflow-cpu
            found[name] = "unknown"
    return found

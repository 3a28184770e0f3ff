"""The cells, one file each; a new cell is one new file that defines a function of its own name returning a `Cell`."""

from functools import cache
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules

from .. import _check
from ._cell import Cell as Cell
from ._cell import Slot as Slot
from ._cell import both as both

CELLS = {
    name: getattr(import_module(f".{name}", __name__), name)
    for _, name, _ in iter_modules(__path__)
    if not name.startswith("_")
}


def build(name: str, **options) -> Cell:
    """The cell `name` with `options`; the same object for the same options, so that its kernels are compiled once."""
    _check.choice("cell", name, CELLS)
    known = signature(CELLS[name]).parameters
    for option in options:
        if option not in known:
            raise TypeError(f"cell_options: for {name!r} one of {', '.join(known)} is required; got {option!r}")
    return _build(name, tuple((option, options.get(option, known[option].default)) for option in known))


@cache
def _build(name: str, options: tuple[tuple[str, object], ...]) -> Cell:
    return CELLS[name](**dict(options))

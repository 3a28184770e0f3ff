"""The cells of two dimensions, one file each, found as those of one are: a function of the file's name returns a `Cell2D`."""

from functools import cache
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules

from .. import _check
from ._cell import Cell2D as Cell2D

CELLS2D = {
    name: getattr(import_module(f".{name}", __name__), name)
    for _, name, _ in iter_modules(__path__)
    if not name.startswith("_")
}


def build(name: str, **options) -> Cell2D:
    """The cell `name` with `options`; the same object for the same options, so that its kernels are compiled once."""
    _check.choice("cell", name, CELLS2D)
    known = signature(CELLS2D[name]).parameters
    for option in options:
        if option not in known:
            raise TypeError(f"cell_options: for {name!r} one of {', '.join(known) or 'none'} is required; got {option!r}")
    return _build(name, tuple((option, options.get(option, known[option].default)) for option in known))


@cache
def _build(name: str, options: tuple[tuple[str, object], ...]) -> Cell2D:
    return CELLS2D[name](**dict(options))

"""Cells found by walking a folder, and built by name."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules

from .. import _check


def collect(path: list[str], package: str) -> dict[str, Callable]:
    """The functions that build the cells of a folder: each file's function of the file's own name."""
    names = [name for _, name, _ in iter_modules(path) if not name.startswith("_")]
    return {name: getattr(import_module(f".{name}", package), name) for name in names}


def builder(cells: dict[str, Callable]) -> Callable:
    """``build(name, **options)`` of these cells; the same object for the same options, so that its kernels are compiled once."""

    @cache
    def made(name: str, options: tuple[tuple[str, object], ...]):
        return cells[name](**dict(options))

    def build(name: str, **options):
        """The cell `name` with `options`."""
        _check.choice("cell", name, cells)
        known = signature(cells[name]).parameters
        for option in options:
            if option not in known:
                raise TypeError(f"cell_options: for {name!r} one of {', '.join(known) or 'none'} is required; got {option!r}")
        return made(name, tuple((option, options.get(option, known[option].default)) for option in known))

    return build

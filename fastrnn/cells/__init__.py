"""The cells, one file each; a new cell is one new file that defines a function of its own name returning a `Cell`."""

from ._cell import Cell as Cell
from ._cell import Slot as Slot
from ._cell import both as both
from ._registry import builder, collect

CELLS = collect(__path__, __name__)
build = builder(CELLS)

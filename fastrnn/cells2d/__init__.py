"""The cells of two dimensions, one file each, found as those of one are: a function of the file's name returns a `Cell2D`."""

from ..cells._registry import builder, collect
from ._cell import Cell2D as Cell2D

CELLS2D = collect(__path__, __name__)
build = builder(CELLS2D)

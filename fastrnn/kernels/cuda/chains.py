"""The recurrent product in exact arithmetic, of weights that stay in registers: a thread a sum, which is one chain of fused multiply-adds.

Thread t has slot t // H and unit t % H of the sums, for which it holds the weights; the first H threads have the units. Operands and sums
go through shared memory: (slots, H) of the operand, then the sums (slots, H).
"""

from functools import cache
from typing import NamedTuple

from numba import cuda

from ..._jit import pointwise
from ..._math import fma
from .loop import REGISTERS, held_threads, u
from .resident import Place, Product
from .target import WARP, number


class Chains(NamedTuple):
    """Sizes of the product of a layer: H units, slots to be summed."""

    dtype: object
    H: int
    slots: int
    rows, blocks = 1, 1  # where weights stay in registers, more rows would share nothing

    @property
    def threads(self) -> int:
        return -(-self.slots * self.H // WARP) * WARP

    @property
    def registers(self) -> int:
        """Of a thread, of as many as there are."""
        return min(REGISTERS // held_threads(self.threads), 256)

    def shared_bytes(self, operands: int) -> int:
        """Of a block, but for its rows and lengths."""
        return self.dtype.itemsize * self.H * (operands + self.slots)

    def product(self, operands: int, places: int) -> Product:
        return make_chains(self, operands)


@cache
def make_chains(shape: Chains, operands: int) -> Product:
    """The functions of one kernel, whose operand has `operands` slots: one for all sums, or one for each, and then a unit has one sum.

    Weights are (E, k, slots, H), or, where the operand has several slots, (E, slots, k, H).
    """
    real, H, R, words = number(shape.dtype), shape.H, shape.slots, shape.H * operands
    several = operands > 1

    @pointwise
    def stand():
        t = cuda.threadIdx.x
        return Place(t if t < H else H, 0, t, 0, 0, 0)

    @pointwise
    def wait():
        cuda.syncthreads()

    @pointwise
    def clear(memory):
        pass

    @pointwise
    def hold(w, weights, member, place):
        if place.own < R * H:
            at = ((member * R + place.own // H) * H * H + place.own % H) if several else member * H * R * H + place.own
            for k in range(H):
                w[k] = weights[u(at + k * (H if several else R * H))]

    @pointwise
    def give(slot, x, memory, base, place):
        if place.unit < H:
            memory[u(base + slot * H + place.unit)] = x

    @pointwise
    def begin(acc, start, first, place):
        acc[0, 0] = real(0.0)

    @pointwise
    def multiply(acc, w, weights, member, memory, base, place):
        if place.own < R * H:
            at = u(base + (place.own // H * H if several else 0))
            for k in range(H):
                acc[0, 0] = fma(memory[at + u(k)], w[k], acc[0, 0])

    @pointwise
    def collect(total, first, acc, memory, place):
        if place.own < R * H:
            memory[u(words + place.own)] = acc[0, 0]
        cuda.syncthreads()
        if place.unit < H:
            for v in range(R):
                total[first + (0 if several else v), 0] += memory[u(words + v * H + place.unit)]

    return Product(words, real, H, (1, 1), True, stand, wait, clear, hold, give, begin, multiply, collect)

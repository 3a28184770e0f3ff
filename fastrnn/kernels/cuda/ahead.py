"""What a step reads of memory, on its way some steps ahead: a number takes as long to come as a step does, or two.

It comes into shared memory, by `cp.async`, where every thread has a ring of its own, of as many steps as are a power of two. Registers
would not do: where a loop goes round, what is ahead moves from one to another, and who moves what is still on its way waits for it.
(PTX ISA, "cp.async": numbers of a step are a group; groups come in order.)
"""

from functools import cache
from typing import NamedTuple

from llvmlite import ir
from numba import cuda, int32

from ..._jit import pointwise
from .loop import u
from .mma import HALF, address, address_in_shared, as_number, assembly
from .target import intrinsic, signature, types

AHEAD = 3  # steps that are on their way
PLACES = 4  # of a ring: those, and one that is read
ASYNC = (8, 0)  # the first compute capability that can


class Ring(NamedTuple):
    """Where a thread's numbers of a step are in shared memory: number i at `at` + i times the numbers from one to the next."""

    place: object  # ``place(n)``: `at` of step n
    apart: int
    read: object  # ``read(memory, place)``: a number


def ring_words(threads: int, numbers: int) -> int:
    """Of shared memory, for the rings of so many threads, with so many numbers a step."""
    return PLACES * numbers * threads


@cache
def make_ring(word, threads: int, numbers: int, begin: int) -> Ring:
    """Of the first threads of a block, behind `begin` words of shared memory; a word is a number, or what holds a float32's bits."""

    @pointwise
    def place(n):
        return u(begin + (n & PLACES - 1) * numbers * threads + cuda.threadIdx.x)

    @pointwise
    def number(memory, at):
        return memory[u(at)]

    @pointwise
    def number_of_bits(memory, at):
        return as_number(memory[u(at)])

    return Ring(place, threads, number_of_bits if word is int32 else number)


def _fetch(context, builder, number, to, source, there):
    size = number.bitwidth // 8
    count = builder.select(there, HALF(size), HALF(0))  # what does not come is 0
    text = f"cp.async.ca.shared.global [$0], [$1], {size}, $2;"
    assembly(builder, ir.VoidType(), [to, source, count], text, "r,l,r", side_effect=True)
    return context.get_dummy_value()


@intrinsic
def fetch(typing_context, memory, at, array, place, there):
    """Begin to bring array[place], if it is `there`, else 0, to memory[at], in shared memory, a word for a number."""

    def codegen(context, builder, signature, args):
        kinds = signature.args
        source = address(context, builder, kinds[2], *args[2:4])
        return _fetch(context, builder, array.dtype, address_in_shared(context, builder, kinds[0], *args[:2]), source, args[4])

    return signature(types.void, memory, types.uint64, array, types.uint64, types.boolean), codegen


@intrinsic
def fetch_either(typing_context, memory, at, array, place, other, other_place, first, there):
    """As `fetch`, of array[place] if it is the `first`, else of other[other_place]."""

    def codegen(context, builder, signature, args):
        kinds = signature.args
        one, another = (address(context, builder, kinds[i], args[i], args[i + 1]) for i in (2, 4))
        to = address_in_shared(context, builder, kinds[0], *args[:2])
        return _fetch(context, builder, array.dtype, to, builder.select(args[6], one, another), args[7])

    flag = types.boolean
    return signature(types.void, memory, types.uint64, array, types.uint64, other, types.uint64, flag, flag), codegen


@intrinsic
def close(typing_context):
    """What the thread has begun to fetch since the last time is a group."""

    def codegen(context, builder, signature, args):
        assembly(builder, ir.VoidType(), [], "cp.async.commit_group;", "", side_effect=True)
        return context.get_dummy_value()

    return signature(types.void), codegen


@intrinsic
def await_step(typing_context):
    """Wait until all groups but the last AHEAD - 1 have come, so that the thread sees them."""

    def codegen(context, builder, signature, args):
        assembly(builder, ir.VoidType(), [], f"cp.async.wait_group {AHEAD - 1};", "~{memory}", side_effect=True)
        return context.get_dummy_value()

    return signature(types.void), codegen

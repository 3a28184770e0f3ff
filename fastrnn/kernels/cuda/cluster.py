"""Clusters: blocks that run at the same time and write into each other's shared memory, from compute capability 9.0 on.

Blocks of a cluster have neighbouring numbers. What one sends into the shared memory of another is counted at a door there, in bytes: who
waits at the door goes on when as much has come as was expected, and the door is shut again. So no block waits for anything else: a barrier
of the cluster would wait for all that its blocks have written to memory, too. (PTX ISA, "mbarrier", "st.async", "mapa".)
"""

from llvmlite import ir
from numba import cuda, int32

from ..._jit import pointwise
from .loop import u
from .mma import HALF, address_in_shared, assembly
from .target import WARP, intrinsic, signature, types

SIZES = (1, 2, 4, 8)  # of a cluster, as any device with clusters can have them
CLUSTERS = (9, 0)  # the first compute capability with clusters
DOORS = 2  # of a block: one for each of two operands that take turns, as the two places of those do


def _elsewhere(builder, address, rank):
    """The same place in block `rank` of the cluster."""
    return assembly(builder, HALF, [address, rank], "mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r")


def _nothing(context, builder, operands, text: str, constraints: str, attributes=()):
    assembly(builder, ir.VoidType(), operands, text, f"{constraints}~{{memory}}", attributes, side_effect=True)
    return context.get_dummy_value()


@intrinsic
def meet(typing_context):
    """Wait for all threads of the cluster, and see what they have written."""

    def codegen(context, builder, signature, args):
        text = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
        return _nothing(context, builder, [], text, "", ("convergent",))

    return signature(types.void), codegen


@intrinsic
def converge(typing_context):
    """Wait for all threads of the warp."""

    def codegen(context, builder, signature, args):
        return _nothing(context, builder, [], "bar.warp.sync 0xffffffff;", "", ("convergent",))

    return signature(types.void), codegen


@intrinsic
def make_door(typing_context, doors, door):
    """Make doors[door] one that is opened by one `expect` and by what it expects."""

    def codegen(context, builder, signature, args):
        text = "mbarrier.init.shared::cta.b64 [$0], 1; fence.mbarrier_init.release.cluster;"
        return _nothing(context, builder, [address_in_shared(context, builder, signature.args[0], *args)], text, "r,")

    return signature(types.void, doors, types.uint64), codegen


@intrinsic
def expect(typing_context, doors, door, size):
    """Let so many bytes open doors[door]."""

    def codegen(context, builder, signature, args):
        text = "{ .reg .b64 n; mbarrier.arrive.expect_tx.shared::cta.b64 n, [$0], $1; }"
        return _nothing(context, builder, [address_in_shared(context, builder, signature.args[0], *args[:2]), args[2]], text, "r,r,")

    return signature(types.void, doors, types.uint64, types.int32), codegen


@intrinsic
def is_open(typing_context, doors, door, odd):
    """Whether doors[door] has been opened for the first time, the third, ..., or if `odd` is 1 for the second, the fourth, ...

    Then what was sent there is seen: in shared memory, of which there are no copies, so it is enough to acquire in the block. To acquire in
    the cluster would be to empty the cache of what was written to memory, and a fence would wait for all that is fetched ahead.
    """

    def codegen(context, builder, signature, args):
        text = "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [$1], $2; selp.u32 $0, 1, 0, p; }"
        operands = [address_in_shared(context, builder, signature.args[0], *args[:2]), args[2]]
        found = assembly(builder, HALF, operands, text, "=r,r,r,~{memory}", side_effect=True)
        return builder.icmp_unsigned("!=", found, HALF(0))

    return signature(types.boolean, doors, types.uint64, types.int32), codegen


def _sent(array, place, rank, values, doors, door):
    """The types and the code of `send`, `send_two` and `send_four`: array[place : place + n] = values in one message.

    In the shared memory of block `rank` of the cluster, counted at its doors[door]; place is a multiple of n.
    """
    n, letter = len(values), {types.int32: "r", types.float32: "f", types.float64: "d"}[array.dtype]
    bits = f"b{array.dtype.bitwidth}" if n > 1 or letter == "r" else f"f{array.dtype.bitwidth}"

    def codegen(context, builder, signature, args):
        there = _elsewhere(builder, address_in_shared(context, builder, signature.args[0], *args[:2]), args[2])
        at = _elsewhere(builder, address_in_shared(context, builder, signature.args[-2], *args[-2:]), args[2])
        given, size = ", ".join(f"${1 + i}" for i in range(n)), f".v{n}" if n > 1 else ""
        given = f"{{{given}}}" if n > 1 else given
        text = f"st.async.shared::cluster.mbarrier::complete_tx::bytes{size}.{bits} [$0], {given}, [${1 + n}];"
        return _nothing(context, builder, [there, *args[3 : 3 + n], at], text, f"r,{f'{letter},' * n}r,")

    return signature(types.void, array, types.uint64, types.int32, *[array.dtype] * n, doors, types.uint64), codegen


@intrinsic
def send(typing_context, array, place, rank, value, doors, door):
    return _sent(array, place, rank, [value], doors, door)


@intrinsic
def send_two(typing_context, array, place, rank, a, b, doors, door):
    return _sent(array, place, rank, [a, b], doors, door)


@intrinsic
def send_four(typing_context, array, place, rank, a, b, c, d, doors, door):
    return _sent(array, place, rank, [a, b, c, d], doors, door)


def make_waits(blocks: int, size: int):
    """(begin, wait): make the doors, each for `size` bytes, and wait for all; ``wait(doors, turn)`` for operand `turn`, counted from 0."""

    @pointwise
    def begin(doors):
        if blocks > 1:
            if cuda.threadIdx.x == 0:
                for door in range(DOORS):
                    make_door(doors, door)
                    expect(doors, door, int32(size))
            meet()
        else:
            cuda.syncthreads()

    @pointwise
    def wait(doors, turn):
        if blocks > 1:
            while not is_open(doors, turn & 1, int32(turn >> 1 & 1)):
                pass
            converge()
            if cuda.threadIdx.x == 0:
                expect(doors, turn & 1, int32(size))
        else:
            cuda.syncthreads()

    return begin, wait


def make_put(blocks: int, apart: int, words: int, copies: int = 1):
    """``put(memory, at, value, doors, turn, there)``: into the shared memory of every block, as part of operand `turn`, if it is `there`.

    Sending takes as long for four words as for one. So the words of `words` lanes, each `apart` from the next, are one message: they are
    neighbours in memory, from a multiple of so many on. All of these lanes then have it, and so have `copies` of each that lie nearer and
    had the same word: they share the blocks among them. All lanes of a warp come here; those of a message are all `there`, or none.
    """
    sharing = words * copies
    own, near, middle = blocks // sharing, apart // copies, 2 * apart

    @pointwise
    def send_all(memory, at, a, b, c, d, doors, turn, which):
        for block in range(own):
            rank = int32(which * own + block)
            if words == 4:
                send_four(memory, at, rank, a, b, c, d, doors, turn & 1)
            elif words == 2:
                send_two(memory, at, rank, a, b, doors, turn & 1)
            else:
                send(memory, at, rank, a, doors, turn & 1)

    @pointwise
    def put(memory, at, value, doors, turn, there):
        lane = cuda.threadIdx.x % WARP
        if blocks == 1:
            if there and lane // near % copies == 0:
                memory[at] = value
            return
        a, b, c, d, index = value, value, value, value, lane // apart % words
        if words > 1:
            other = cuda.shfl_xor_sync(0xFFFFFFFF, value, apart)
            a, b = (other, value) if index & 1 else (value, other)
        if words > 2:
            first, second = cuda.shfl_xor_sync(0xFFFFFFFF, a, middle), cuda.shfl_xor_sync(0xFFFFFFFF, b, middle)
            c, d = (a, b) if index & 2 else (first, second)
            a, b = (first, second) if index & 2 else (a, b)
        if sharing > 1:
            converge()  # what other lanes have read may be written anew when this one's message has come
        if there:
            send_all(memory, at - u(index), a, b, c, d, doors, turn, lane // near % copies * words + index)

    return put

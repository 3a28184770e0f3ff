"""Clusters: blocks that run at the same time and write into each other's shared memory, from compute capability 9.0 on.

Blocks of a cluster have neighbouring numbers. What one sends into the shared memory of another is counted at a door there, in bytes: who
waits at the door goes on when as much has come as was expected, and the door is shut again. So no block waits for anything else: a barrier
of the cluster would wait for all that its blocks have written to memory, too. (PTX ISA, "mbarrier", "st.async", "mapa".)
"""

from llvmlite import ir
from numba import cuda, int32

from ..._jit import pointwise
from .mma import HALF, address_in_shared, assembly
from .target import intrinsic, signature, types

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

    Then what was sent there is seen. A wait that acquires by itself sees what was written to memory, too, and empties the cache for that.
    """

    def codegen(context, builder, signature, args):
        wait = "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [$1], $2; selp.u32 $0, 1, 0, p;"
        text = f"{{ .reg .pred p; {wait} fence.acquire.sync_restrict::shared::cluster.cluster; }}"
        operands = [address_in_shared(context, builder, signature.args[0], *args[:2]), args[2]]
        found = assembly(builder, HALF, operands, text, "=r,r,r,~{memory}", side_effect=True)
        return builder.icmp_unsigned("!=", found, HALF(0))

    return signature(types.boolean, doors, types.uint64, types.int32), codegen


@intrinsic
def send(typing_context, array, place, rank, value, doors, door):
    """array[place] = value, in the shared memory of block `rank` of the cluster, counted at its doors[door]."""

    def codegen(context, builder, signature, args):
        kind, bits = {types.int32: ("r", "b32"), types.float32: ("f", "f32"), types.float64: ("d", "f64")}[array.dtype]
        there = _elsewhere(builder, address_in_shared(context, builder, signature.args[0], *args[:2]), args[2])
        at = _elsewhere(builder, address_in_shared(context, builder, signature.args[4], *args[4:]), args[2])
        text = f"st.async.shared::cluster.mbarrier::complete_tx::bytes.{bits} [$0], $1, [$2];"
        return _nothing(context, builder, [there, args[3], at], text, f"r,{kind},r,")

    return signature(types.void, array, types.uint64, types.int32, array.dtype, doors, types.uint64), codegen


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


def make_put(blocks: int, several: int = 1):
    """``put(memory, at, value, doors, turn, which)``: into the shared memory of every block, as part of operand `turn`.

    `several` threads have the same to put: they share the blocks, of which the `which`-th takes its part; of one block the first has all.
    """
    own = blocks // several

    @pointwise
    def put(memory, at, value, doors, turn, which):
        if blocks > 1:
            for block in range(own):
                send(memory, at, int32(which * own + block), value, doors, turn & 1)
        elif which == 0:
            memory[at] = value

    return put

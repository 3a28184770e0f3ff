"""Clusters: blocks that run at the same time and write into each other's shared memory, from compute capability 9.0 on.

Blocks of a cluster have neighbouring numbers. (PTX ISA, "mapa", "st", "barrier.cluster".)
"""

from llvmlite import ir

from .mma import address, assembly
from .target import intrinsic, signature, types

SIZES = (1, 2, 4, 8)  # of a cluster, as any device with clusters can have them
CLUSTERS = (9, 0)  # the first compute capability with clusters


@intrinsic
def put_in(typing_context, array, place, rank, value):
    """array[place] = value, in the shared memory of block `rank` of the cluster."""

    def codegen(context, builder, signature, args):
        there = "cvta.to.shared.u64 a, $0; cvt.u32.u64 s, a; mapa.shared::cluster.u32 t, s, $1;"
        kind, bits = {types.int32: ("r", "b32"), types.float32: ("f", "f32"), types.float64: ("d", "f64")}[array.dtype]
        text = f"{{ .reg .u64 a; .reg .u32 s, t; {there} st.shared::cluster.{bits} [t], $2; }}"
        operands = [address(context, builder, signature.args[0], *args[:2]), *args[2:]]
        assembly(builder, ir.VoidType(), operands, text, f"l,r,{kind},~{{memory}}", side_effect=True)
        return context.get_dummy_value()

    return signature(types.void, array, types.uint64, types.int32, array.dtype), codegen


@intrinsic
def meet(typing_context):
    """Wait for all threads of the cluster, and see what they have written."""

    def codegen(context, builder, signature, args):
        text = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
        assembly(builder, ir.VoidType(), [], text, "~{memory}", ("convergent",), side_effect=True)
        return context.get_dummy_value()

    return signature(types.void), codegen

"""What the machine itself can do: multiply-adds that touch nothing but registers, and reading from wherever an array lies.

The time loop is held against these two. Both go through vectors explicitly, as the tile product does.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._jit import FUSED, JIT_DISABLED, VECTOR_BYTES, kernel
from .product import lanes

CHAINS = 12  # sums that wait for nobody: two units of four cycles' latency need eight, sixteen registers hold no more
FACTOR = 0.5  # of z -> z / 2 + 1 / 2, which stays in range for ever


def registers(dtype) -> int:
    """Numbers that `multiply_add` and `read` work on at a time."""
    return CHAINS * lanes(dtype)


def _vectors(builder, context, array, array_type):
    """The type of a vector register, its width in numbers, and a pointer to the array's first number."""
    bits = array_type.dtype.bitwidth
    width = VECTOR_BYTES * 8 // bits
    scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
    return ir.VectorType(scalar, width), width, cgutils.create_struct_proxy(array_type)(context, builder, array).data


def _place(builder, vector, data, offset, width: int, k: int):
    """Pointer to vector k after `offset`."""
    return builder.bitcast(builder.gep(data, [builder.add(offset, ir.Constant(ir.IntType(64), k * width))]), vector.as_pointer())


def _loaded(builder, pointer, itemsize: int):
    value = builder.load(pointer)
    value.align = itemsize
    return value


@intrinsic
def _multiply_add(typing_context, sums, n):
    def codegen(context, builder, signature, args):
        vector, width, data = _vectors(builder, context, args[0], signature.args[0])
        itemsize, zero, half = VECTOR_BYTES // width, ir.Constant(ir.IntType(64), 0), ir.Constant(vector, [FACTOR] * width)
        held = [cgutils.alloca_once(builder, vector) for _ in range(CHAINS)]
        for k in range(CHAINS):
            builder.store(_loaded(builder, _place(builder, vector, data, zero, width, k), itemsize), held[k])
        name, shape = f"llvm.fma.v{width}f{8 * itemsize}", ir.FunctionType(vector, [vector] * 3)
        with cgutils.for_range(builder, args[1]):
            for k in range(CHAINS):
                z = builder.load(held[k])
                if FUSED:
                    z = builder.call(cgutils.get_or_insert_function(builder.module, shape, name), [z, half, half])
                else:
                    z = builder.fadd(builder.fmul(z, half), half)
                builder.store(z, held[k])
        for k in range(CHAINS):
            builder.store(builder.load(held[k]), _place(builder, vector, data, zero, width, k)).align = itemsize
        return context.get_dummy_value()

    return types.void(sums, types.intp), codegen


@intrinsic
def _read(typing_context, array, sums, steps):
    def codegen(context, builder, signature, args):
        vector, width, data = _vectors(builder, context, args[0], signature.args[0])
        _, _, target = _vectors(builder, context, args[1], signature.args[1])
        itemsize, zero = VECTOR_BYTES // width, ir.Constant(ir.IntType(64), 0)
        held = [cgutils.alloca_once(builder, vector) for _ in range(CHAINS)]
        for k in range(CHAINS):
            builder.store(_loaded(builder, _place(builder, vector, target, zero, width, k), itemsize), held[k])
        with cgutils.for_range(builder, args[2]) as step:
            start = builder.mul(step.index, ir.Constant(ir.IntType(64), CHAINS * width))
            for k in range(CHAINS):
                found = _loaded(builder, _place(builder, vector, data, start, width, k), itemsize)
                builder.store(builder.fadd(builder.load(held[k]), found), held[k])
        for k in range(CHAINS):
            builder.store(builder.load(held[k]), _place(builder, vector, target, zero, width, k)).align = itemsize
        return context.get_dummy_value()

    return types.void(array, sums, types.intp), codegen


def _compiled_multiply_add(sums, n):
    _multiply_add(sums, n)


def _compiled_read(array, sums, times):
    for _ in range(times):
        _read(array, sums, array.shape[0] // sums.shape[0])


def _plain_multiply_add(sums, n):
    """`multiply_add` in NumPy, for the interpreter."""
    for _ in range(n):
        sums[:] = sums * sums.dtype.type(FACTOR) + sums.dtype.type(FACTOR)


def _plain_read(array, sums, times):
    """`read` in NumPy."""
    for _ in range(times):
        for part in array[: array.shape[0] // sums.shape[0] * sums.shape[0]].reshape(-1, sums.shape[0]):
            sums += part


#: multiply_add(sums, n): n times sums = sums / 2 + 1 / 2; sums (registers(dtype),)
multiply_add = _plain_multiply_add if JIT_DISABLED else kernel(_compiled_multiply_add)
#: read(array, sums, times): so many times add all of array (n,), in pieces as long as sums, to sums (registers(dtype),)
read = _plain_read if JIT_DISABLED else kernel(_compiled_read)


def working_set(nbytes: int, dtype) -> np.ndarray:
    """An array for `read` of about so many bytes, every page of it written to, in whole pieces."""
    return np.ones(max(1, nbytes // (CHAINS * VECTOR_BYTES)) * registers(dtype), dtype)

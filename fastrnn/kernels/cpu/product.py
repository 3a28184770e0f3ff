"""C += A B with the accumulators in vector registers, every sum in one fixed order.

LLVM vectorizes plain loops but keeps no tile of accumulators in registers; an `@intrinsic` of forty lines does. Each element of C
is one chain of fused multiply-adds over k ascending, begun from C: the result depends neither on the tile that computed it, nor on
the rows beside it, nor on where a longer sum was cut.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._jit import FUSED, JIT_DISABLED, VECTOR_BYTES, X86, kernel, loop, pointwise
from ..._team import LED, THREADS, enter, next_item
from .rows import copy_row

WIDE = 4 if VECTOR_BYTES == 64 or not X86 else 2  # vectors of a full panel: 6 x 4 accumulators of 32 registers, or 6 x 2 of 16
TALL = 6
PIECE_BYTES = 32 * 1024  # of a panel: two thirds of a first-level cache


def lanes(dtype) -> int:
    """Numbers in one vector register of this machine."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def padded(n: int, dtype) -> int:
    """n rounded up to whole vectors."""
    return -(-n // lanes(dtype)) * lanes(dtype)


def _make_tile(rows: int, vectors: int):
    """C[rows, vectors * lanes] += A[rows, K] B[K, vectors * lanes], operands given as flat arrays, offsets and strides.

    Where `apart` is not 0, the product is summed from 0 and then added to C, instead of the sum being begun from C.
    """

    @intrinsic
    def tile(typing_context, a, a0, a_row, a_k, b, b0, c, c0, c_row, depth, apart):
        signature = types.void(a, *[types.intp] * 3, b, types.intp, c, *[types.intp] * 4)
        bits = a.dtype.bitwidth
        width = VECTOR_BYTES * 8 // bits

        def codegen(context, builder, sig, args):
            a_arr, a0, a_row, a_k, b_arr, b0, c_arr, c0, c_row, depth, apart = args
            scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
            vector, i64, i32 = ir.VectorType(scalar, width), ir.IntType(64), ir.IntType(32)
            undefined = ir.Constant(vector, ir.Undefined)
            spread = ir.Constant(ir.VectorType(i32, width), [0] * width)

            def start(k, array, offset):
                data = cgutils.create_struct_proxy(sig.args[k])(context, builder, array).data
                return builder.gep(data, [offset])

            def at(pointer, offset):
                return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

            def load(pointer, offset):
                value = builder.load(at(pointer, offset))
                value.align = bits // 8
                return value

            def fused(x, y, z):
                if not FUSED:
                    return builder.fadd(builder.fmul(x, y), z)
                name = f"llvm.fma.v{width}f{bits}"
                return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name), [x, y, z])

            A, B, C = start(0, a_arr, a0), start(4, b_arr, b0), start(6, c_arr, c0)
            from_zero, zero = builder.icmp_signed("!=", apart, i64(0)), ir.Constant(vector, [0.0] * width)
            row_a = [builder.gep(A, [builder.mul(a_row, i64(m))]) for m in range(rows)]
            row_c = [builder.gep(C, [builder.mul(c_row, i64(m))]) for m in range(rows)]
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
            for m in range(rows):
                for v in range(vectors):
                    builder.store(builder.select(from_zero, zero, load(row_c[m], i64(v * width))), sums[m][v])
            with cgutils.for_range(builder, depth) as step:
                row_b = builder.gep(B, [builder.mul(step.index, i64(vectors * width))])
                b_v = [load(row_b, i64(v * width)) for v in range(vectors)]
                for m in range(rows):
                    one = builder.load(builder.gep(row_a[m], [builder.mul(step.index, a_k)]))
                    every = builder.shuffle_vector(builder.insert_element(undefined, one, i32(0)), undefined, spread)
                    for v in range(vectors):
                        builder.store(fused(every, b_v[v], builder.load(sums[m][v])), sums[m][v])
            with builder.if_then(from_zero):
                for m in range(rows):
                    for v in range(vectors):
                        builder.store(builder.fadd(load(row_c[m], i64(v * width)), builder.load(sums[m][v])), sums[m][v])
            for m in range(rows):
                for v in range(vectors):
                    builder.store(builder.load(sums[m][v]), at(row_c[m], i64(v * width))).align = bits // 8
            return context.get_dummy_value()

        return signature, codegen

    return tile


_t64, _t44, _t24, _t14 = (_make_tile(rows, WIDE) for rows in (TALL, 4, 2, 1))
_t62, _t42, _t22, _t12 = (_make_tile(rows, 2) for rows in (TALL, 4, 2, 1))
_t61, _t41, _t21, _t11 = (_make_tile(rows, 1) for rows in (TALL, 4, 2, 1))


@loop
def _strip(a, a0, a_row, a_k, b, b0, c, c0, c_row, M, vectors, K, apart):
    """One panel's columns of C for all M rows, tile by tile."""
    m = 0
    while m < M:
        rows = TALL if M - m >= TALL else (4 if M - m >= 4 else (2 if M - m >= 2 else 1))
        a_m, c_m = a0 + m * a_row, c0 + m * c_row
        if vectors == WIDE:
            if rows == TALL:
                _t64(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
            elif rows == 4:
                _t44(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
            elif rows == 2:
                _t24(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
            else:
                _t14(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
        elif vectors == 2:
            if rows == TALL:
                _t62(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
            elif rows == 4:
                _t42(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
            elif rows == 2:
                _t22(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
            else:
                _t12(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
        elif rows == TALL:
            _t61(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
        elif rows == 4:
            _t41(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
        elif rows == 2:
            _t21(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
        else:
            _t11(a, a_m, a_row, a_k, b, b0, c, c_m, c_row, K, apart)
        m += rows


@pointwise
def panel_vectors(left):
    """Width in vectors of the next panel, where so many vectors of columns are left."""
    return WIDE if left >= WIDE else (2 if left >= 2 else 1)


def _product(a, a0, a_row, a_k, b, b0, c, c0, c_row, sizes):
    """C[M, N] += A[M, K] B[K, N] with sizes = (M, N, K), N in whole vectors.

    A and C are flat arrays with an offset and the stride of a row (and of k, for A). B is packed by `packing`: panels one after
    another, each contiguous. A panel is gone through in pieces that stay in the first-level cache while all rows meet them.
    """
    M, N, K = sizes
    one = VECTOR_BYTES // c.itemsize
    n = 0
    while n < N:
        vectors = panel_vectors((N - n) // one)
        depth = PIECE_BYTES // (vectors * VECTOR_BYTES)
        for k in range(0, K, depth):
            _strip(a, a0 + k * a_k, a_row, a_k, b, b0 + n * K + k * vectors * one, c, c0 + n, c_row, M, vectors, min(depth, K - k), 0)
        n += vectors * one


def _product_transposed(a, M, dz, z0, width, target, K, panel, begin, end):
    """target (M, N) += A^T dz over K rows, summed apart first: short sums added, not one long chain. a (K * M,), dz (K, width) from z0.

    Of columns [begin, end), begin that of a full panel. Each panel of dz is copied together first (`panel`, at least K * WIDE vectors):
    rows a power of two apart would evict each other.
    """
    N = target.shape[0] // M
    one = VECTOR_BYTES // target.itemsize
    n = begin
    while n < end:
        vectors = panel_vectors((end - n) // one)
        wide = vectors * one
        for k in range(K):
            copy_row(dz[k * width + z0 + n : k * width + z0 + n + wide], panel[k * wide : k * wide + wide])
        _strip(a, 0, 1, M, panel, 0, target, n, N, M, vectors, K, 1)
        n += wide


def _plain_product(a, a0, a_row, a_k, b, b0, c, c0, c_row, sizes):
    """`_product` in NumPy, for the interpreter: bounds are checked, and nothing is compiled."""
    M, N, K = sizes
    if M == 0 or N == 0 or K == 0:
        return
    k, row, column = np.arange(K), np.arange(M)[:, None], np.arange(N)
    start, wide = _panel_of(column, N, VECTOR_BYTES // c.itemsize)
    A, B = a[a0 + row * a_row + k * a_k], b[b0 + start * K + k[:, None] * wide + (column - start)]
    at_c = c0 + row * c_row + column
    c[at_c] = (c[at_c].astype(np.float64) + A.astype(np.float64) @ B.astype(np.float64)).astype(c.dtype)


def _plain_product_transposed(a, M, dz, z0, width, target, K, panel, begin, end):
    """`_product_transposed` in NumPy."""
    if K == 0:
        return
    at_z = z0 + np.arange(K)[:, None] * width + np.arange(begin, end)
    A, dz = a[: K * M].reshape(K, M).astype(np.float64), dz[at_z].astype(np.float64)
    target.reshape(M, -1)[:, begin:end] += (A.T @ dz).astype(target.dtype)


def _panel_of(column, N: int, one: int):
    """First column and width of the panel that each column stands in."""
    start, wide = np.empty_like(column), np.empty_like(column)
    n = 0
    while n < N:
        w = panel_vectors((N - n) // one) * one
        start[n : n + w], wide[n : n + w] = n, w
        n += w
    return start, wide


product = _plain_product if JIT_DISABLED else kernel(_product)
product_transposed = _plain_product_transposed if JIT_DISABLED else kernel(_product_transposed)


@loop
def _piece(N, parts, item, one):
    """Columns [begin, end) of one of `parts` pieces of N, in whole panels but for the last."""
    wide = WIDE * one
    panels = N // wide
    return panels * item // parts * wide, panels * (item + 1) // parts * wide if item + 1 < parts else N


@loop
def team_product(team, count, a, a0, a_row, a_k, b, b0, c, c0, c_row, sizes):
    """`product`, by all threads of a team, each of which has the same panels in every call: they stay in its cache. `count`: its size."""
    role, parts, (M, N, K) = enter(team, count), team[THREADS], sizes
    if role == LED:
        return
    k, item = next_item(team, count, role, 0, -1)
    while item >= 0:
        begin, end = _piece(N, parts, item, VECTOR_BYTES // c.itemsize)
        product(a, a0, a_row, a_k, b, b0 + begin * K, c, c0 + begin, c_row, (M, end - begin, K))
        k, item = next_item(team, count, role, k, item)


@loop
def team_product_transposed(team, count, a, M, dz, z0, width, target, K, who, panel):
    """`product_transposed`, by all threads of a team; `panel` has room for each of them."""
    role, parts = enter(team, count), team[THREADS]
    if role == LED:
        return
    k, item = next_item(team, count, role, 0, -1)
    while item >= 0:
        begin, end = _piece(target.shape[0] // M, parts, item, VECTOR_BYTES // target.itemsize)
        product_transposed(a, M, dz, z0, width, target, K, panel[who + max(role, 0)], begin, end)
        k, item = next_item(team, count, role, k, item)

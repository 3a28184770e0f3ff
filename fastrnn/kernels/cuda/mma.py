"""Tensor cores: what a warp multiplies at once, and in which numbers.

`mma.sync` adds to a tile C (16, 8), in float32, the product of A (16, k) and B (k, 8), of operands that are held in words of 32 bits, eight
words along k: one number a word in tf32 (8 bits of exponent, 11 of significand), two in bf16 (8 and 8). Lane l of the warp, g = l // 4 and
t = l % 4, has of A the words (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); of B (t, g), (t + 4, g); of C (g, 2 t), (g, 2 t + 1),
(g + 8, 2 t), (g + 8, 2 t + 1). (PTX ISA, "Matrix fragments for mma.m16n8k8 and m16n8k16".)

Split operands are the sum of two in tf32, x = high + low, with 22 bits of significand: the product is high high' + high low' + low high'.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from llvmlite import ir

from ..._jit import pointwise
from .target import intrinsic, signature, types

LINE = 8  # words along k, rows of B's transpose, and columns of C
TILE = 16  # rows of A
HALF = ir.IntType(32)  # what holds one number in tf32, or two in bf16
SINGLE = ir.FloatType()


class Form(NamedTuple):
    """How the operands of a product are held.

    Attributes
    ----------
    parts : int
        Words that a number is the sum of.
    numbers : int
        Numbers in a word, neighbours along k.
    word : callable
        ``word(part, x, y)``: the word of part `part` of x, and, where there are two, of y.
    multiply_add : callable
        ``multiply_add(a, b, c)``: C of a lane (4 float32), from A (4 words), B (2 words), and C.
    """

    parts: int
    numbers: int
    word: Callable
    multiply_add: Callable


def assembly(builder, result, arguments, text: str, constraints: str, attributes=(), side_effect: bool = False):
    """One instruction, a function of its operands alone unless it has a side effect."""
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(ir.InlineAsm(function, text, constraints, side_effect), arguments, attrs=attributes)


def _unpacked(builder, value, n: int) -> list:
    return [builder.extract_value(value, i) for i in range(n)]


def _multiply_add(instruction: str):
    """An intrinsic for one kind of `mma.sync`.

    All lanes of a warp take part: the compiler must not move it to where only those go that need its result, so it is convergent.
    """
    operands = "{$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13}"
    text = f"mma.sync.aligned.{instruction} {{$0,$1,$2,$3}}, {operands};"
    constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)

    @intrinsic
    def multiply_add(typing_context, a, b, c):
        four = types.UniTuple(types.float32, 4)

        def codegen(context, builder, signature, args):
            words = _unpacked(builder, args[0], 4) + _unpacked(builder, args[1], 2) + _unpacked(builder, args[2], 4)
            found = assembly(builder, ir.LiteralStructType([SINGLE] * 4), words, text, constraints, ("convergent",))
            result = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
            for i, value in enumerate(_unpacked(builder, found, 4)):
                result = builder.insert_value(result, value, i)
            return result

        return signature(four, types.UniTuple(types.int32, 4), types.UniTuple(types.int32, 2), four), codegen

    return multiply_add


multiply_add_tf32 = _multiply_add("m16n8k8.row.col.f32.tf32.tf32.f32")
multiply_add_bf16 = _multiply_add("m16n8k16.row.col.f32.bf16.bf16.f32")


@intrinsic
def round_tf32(typing_context, x):
    """The bits of x in tf32, rounded to nearest, ties away from zero."""

    def codegen(context, builder, signature, args):
        return assembly(builder, HALF, args, "cvt.rna.tf32.f32 $0, $1;", "=r,f")

    return signature(types.int32, types.float32), codegen


@intrinsic
def pack_bf16(typing_context, low, high):
    """Two numbers in bf16, rounded to nearest, ties to even, in one word."""

    def codegen(context, builder, signature, args):
        return assembly(builder, HALF, [args[1], args[0]], "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f")

    return signature(types.int32, types.float32, types.float32), codegen


@intrinsic
def as_number(typing_context, word):
    """The float32 of these bits."""
    return signature(types.float32, types.int32), lambda context, builder, signature, args: builder.bitcast(args[0], SINGLE)


@intrinsic
def as_word(typing_context, x):
    """The bits of a float32."""
    return signature(types.int32, types.float32), lambda context, builder, signature, args: builder.bitcast(args[0], HALF)


@intrinsic
def anew(typing_context, x):
    """x, which the compiler does not see to be what it had before: what is computed of it is computed again, and not kept."""

    def codegen(context, builder, signature, args):
        return assembly(builder, HALF, args, "mov.b32 $0, $1;", "=r,r", side_effect=True)

    return signature(types.int32, types.int32), codegen


# Where there are branches, the assembler parts what comes before from what comes after.


def address(context, builder, kind, array, place):
    return builder.ptrtoint(builder.gep(context.make_array(kind)(context, builder, array).data, [place]), ir.IntType(64))


def address_in_shared(context, builder, kind, array, place):
    """Of 32 bits, of place `place` of an array of this kind in shared memory."""
    data = builder.ptrtoint(context.make_array(kind)(context, builder, array).data, ir.IntType(64))
    base = assembly(builder, HALF, [data], "{ .reg .u64 a; cvta.to.shared.u64 a, $1; cvt.u32.u64 $0, a; }", "=r,l")
    return builder.add(base, builder.mul(builder.trunc(place, HALF), HALF(kind.dtype.bitwidth // 8)))


def _kind(number) -> tuple[str, int]:
    return ("f", 32) if number == types.float32 else ("d", 64)


@intrinsic
def put_if(typing_context, array, place, value, there):
    """array[place] = value, if it is `there`, with no branch."""

    def codegen(context, builder, signature, args):
        kind, bits = _kind(array.dtype)
        text = f"{{ .reg .pred p; setp.ne.u32 p, $2, 0; @p st.global.f{bits} [$0], $1; }}"
        operands = [address(context, builder, signature.args[0], *args[:2]), args[2], builder.zext(args[3], HALF)]
        assembly(builder, ir.VoidType(), operands, text, f"l,{kind},r", side_effect=True)
        return context.get_dummy_value()

    return signature(types.void, array, types.uint64, array.dtype, types.boolean), codegen


def _get(context, builder, number, one, other, first, there):
    """The number at address `one`, or at the `other`."""
    kind, bits = _kind(number)
    nothing = f"0{kind}{'0' * (bits // 4)}"
    choice = "setp.ne.u32 p, $3, 0; selp.b64 a, $1, $2, p; setp.ne.u32 p, $4, 0;"
    text = f"{{ .reg .pred p; .reg .b64 a; {choice} mov.f{bits} $0, {nothing}; @p ld.global.f{bits} $0, [a]; }}"
    operands = [one, other, builder.zext(first, HALF), builder.zext(there, HALF)]
    return assembly(builder, context.get_value_type(number), operands, text, f"=&{kind},l,l,r,r")


@intrinsic
def get_if(typing_context, array, place, there):
    """array[place], which no thread writes, if it is `there`, else 0, with no branch."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], *args[:2])
        return _get(context, builder, array.dtype, at, at, args[2], args[2])

    return signature(array.dtype, array, types.uint64, types.boolean), codegen


@intrinsic
def get_either(typing_context, array, place, other, other_place, first, there):
    """As `get_if`, of array[place] if it is the `first`, else of other[other_place]."""

    def codegen(context, builder, signature, args):
        one = address(context, builder, signature.args[0], *args[:2])
        another = address(context, builder, signature.args[2], *args[2:4])
        return _get(context, builder, array.dtype, one, another, *args[4:])

    flag = types.boolean
    return signature(array.dtype, array, types.uint64, other, types.uint64, flag, flag), codegen


def _neighbours(n: int):
    """An intrinsic, array[place : place + n] in one read; the array begins at a multiple of their bytes, and place is one of n."""

    @intrinsic
    def neighbours(typing_context, array, place):
        def codegen(context, builder, signature, args):
            kind = context.get_value_type(array.dtype)
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.VectorType(kind, n).as_pointer())
            found = builder.load(pointer, align=n * array.dtype.bitwidth // 8)
            result = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
            for i in range(n):
                result = builder.insert_value(result, builder.extract_element(found, ir.Constant(HALF, i)), i)
            return result

        return signature(types.UniTuple(array.dtype, n), array, types.uint64), codegen

    return neighbours


two_at, four_at = _neighbours(2), _neighbours(4)


def _put_neighbours(array, place, *values):
    """The types and the code of `put_two` and `put_four`: array[place : place + n] = values in one write, aligned as above."""
    n = len(values)

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(array.dtype)
        data = context.make_array(array)(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.VectorType(kind, n).as_pointer())
        whole = ir.Constant(ir.VectorType(kind, n), ir.Undefined)
        for i in range(n):
            whole = builder.insert_element(whole, args[2 + i], ir.Constant(HALF, i))
        builder.store(whole, pointer, align=n * array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature(types.void, array, types.uint64, *[array.dtype] * n), codegen


@intrinsic
def put_two(typing_context, array, place, a, b):
    return _put_neighbours(array, place, a, b)


@intrinsic
def put_four(typing_context, array, place, a, b, c, d):
    return _put_neighbours(array, place, a, b, c, d)


@pointwise
def _word_tf32(part, x, y):
    high = round_tf32(x)
    return high if part == 0 else round_tf32(x - as_number(high))


@pointwise
def _word_bf16(part, x, y):
    return pack_bf16(x, y)


@cache
def form(precision: str) -> Form:
    """By the name that a layer is given."""
    return {
        "split": Form(2, 1, _word_tf32, multiply_add_tf32),
        "tf32": Form(1, 1, _word_tf32, multiply_add_tf32),
        "bf16": Form(1, 2, _word_bf16, multiply_add_bf16),
    }[precision]

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


def _call(builder, result, arguments, text: str, constraints: str, attributes=()):
    """One instruction, a function of its operands alone."""
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(ir.InlineAsm(function, text, constraints), arguments, attrs=attributes)


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
            found = _call(builder, ir.LiteralStructType([SINGLE] * 4), words, text, constraints, ("convergent",))
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
        return _call(builder, HALF, args, "cvt.rna.tf32.f32 $0, $1;", "=r,f")

    return signature(types.int32, types.float32), codegen


@intrinsic
def pack_bf16(typing_context, low, high):
    """Two numbers in bf16, rounded to nearest, ties to even, in one word."""

    def codegen(context, builder, signature, args):
        return _call(builder, HALF, [args[1], args[0]], "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f")

    return signature(types.int32, types.float32, types.float32), codegen


@intrinsic
def as_number(typing_context, word):
    """The float32 of these bits."""
    return signature(types.float32, types.int32), lambda context, builder, signature, args: builder.bitcast(args[0], SINGLE)


@intrinsic
def four_words(typing_context, array, place):
    """array[place : place + 4], one read of 16 bytes; `place` is a multiple of 4 and array begins at one of 16 bytes."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.VectorType(HALF, 4).as_pointer())
        found = builder.load(pointer, align=16)
        result = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
        for i in range(4):
            result = builder.insert_value(result, builder.extract_element(found, ir.Constant(HALF, i)), i)
        return result

    return signature(types.UniTuple(types.int32, 4), array, types.uint64), codegen


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

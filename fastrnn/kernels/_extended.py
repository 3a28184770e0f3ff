"""Numbers of any size in two floats, m 2**n: sums and products of probabilities that no float64 could hold.

The mantissa m stays within a few binades of 1 and n is a whole number (Smith, Olver & Lozier 1981, "Extended-range arithmetic").
A sum costs a few powers of two, made from bits, where a sum of logarithms costs exponentials and a logarithm; and its relative
error is a rounding, where a logarithm of size 1000 has lost ten bits. All is branch-free. Zero is any mantissa with an exponent
below `ZERO`, and adds nothing to any other number.
"""

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from .._jit import INLINE
from .._math import _reduced

ABSENT = -(2.0**60)  # the exponent zero begins with
ZERO = -(2.0**55)  # a million factors of exp(SMALLEST) stay above it
SMALLEST = -2e9  # exp of less than this is zero
_MAGIC = 6755399441055744.0  # 1.5 * 2**52


def exp_parts(x):
    """e**x as (m, n), for x <= 0."""
    if not x >= SMALLEST:
        return (x, x) if math.isnan(x) else (1.0, ABSENT)
    n = round(x * 1.4426950408889634)
    return math.exp((x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10), float(n)


@overload(exp_parts, jit_options=INLINE)
def _exp_parts_overload(x):
    def exp_parts(x):
        p, t = _reduced(SMALLEST if x < SMALLEST else x)
        return 1.0 + p, ABSENT if x < SMALLEST else t - _MAGIC

    return exp_parts


def power(n):
    """2**n for a whole number n <= 1023; below -960 as at -960, which is as good as 0 beside 1, and not slow to multiply with."""
    return math.ldexp(1.0, int(max(n, -960.0)))


@overload(power, jit_options=INLINE)
def _power_overload(n):
    def power(n):
        return _from_exponent((n if n > -960.0 else -960.0) + (_MAGIC + 1023.0))

    return power


def parts(x):
    """A normal number x > 0 as (m, n), with m in [1, 2)."""
    m, n = math.frexp(x)
    return 2.0 * m, n - 1.0


@overload(parts, jit_options=INLINE)
def _parts_overload(x):
    return lambda x: (_mantissa(x), _exponent(x))


@intrinsic
def _from_exponent(typing_context, t):
    """2**n from t = magic + 1023 + n, whose low mantissa bits, shifted up, are the bits of an exponent."""

    def codegen(context, builder, signature, args):
        integer = ir.IntType(64)
        return builder.bitcast(builder.shl(builder.bitcast(args[0], integer), integer(52)), ir.DoubleType())

    return types.float64(types.float64), codegen


@intrinsic
def _mantissa(typing_context, x):
    def codegen(context, builder, signature, args):
        integer = ir.IntType(64)
        bits = builder.and_(builder.bitcast(args[0], integer), integer((1 << 52) - 1))
        return builder.bitcast(builder.or_(bits, integer(1023 << 52)), ir.DoubleType())

    return types.float64(types.float64), codegen


@intrinsic
def _exponent(typing_context, x):
    """Exponent bits put into the mantissa of 2**52, which is taken off again: a conversion that vector registers have."""

    def codegen(context, builder, signature, args):
        integer, double = ir.IntType(64), ir.DoubleType()
        bits = builder.lshr(builder.bitcast(args[0], integer), integer(52))
        lifted = builder.bitcast(builder.or_(bits, integer((1023 + 52) << 52)), double)
        return builder.fsub(lifted, double(2.0**52 + 1023.0))

    return types.float64(types.float64), codegen

"""Scalar functions for cells: branch-free, vectorizable, exact at the special values, in the precision of their argument.

In plain Python the same functions take a float, or a complex number for complex-step differentiation. `exp(r)` follows Tang
(1989): r = x - n ln 2 in two parts, a minimax polynomial on |r| <= ln(2)/2, and 2**n made from bits. `tanh` and `sigmoid` are
within 2.5 ulp over all 2**32 float32 numbers (`tests/exhaustive_math.py` visits every one), and within 4 ulp in float64.
"""

import cmath
import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ._jit import FUSED, INLINE, pointwise

_MAGIC = {types.float32: 12582912.0, types.float64: 6755399441055744.0}  # 1.5 * 2**mantissa: adding it rounds to an integer


@intrinsic
def fma(typing_context, x, y, z):
    """x y + z in one rounding, where the machine has it. Compiled code only."""

    def codegen(context, builder, signature, args):
        if FUSED:
            return builder.fma(*args)
        return builder.fadd(builder.fmul(args[0], args[1]), args[2])

    return x(x, x, x), codegen


@intrinsic
def _power_of_two(typing_context, t):
    """2**n from t = magic + n: the low mantissa bits of t are n; shifted up they are an exponent."""
    bits, shift, bias = (32, 23, 127) if t == types.float32 else (64, 52, 1023)

    def codegen(context, builder, signature, args):
        integer = ir.IntType(bits)
        exponent = builder.shl(builder.bitcast(args[0], integer), integer(shift))
        return builder.bitcast(builder.add(exponent, integer(bias << shift)), context.get_value_type(signature.return_type))

    return t(t), codegen


@intrinsic
def _over(typing_context, x, y):
    """x / y. On a GPU, in float32, within 2 ulp for y in [2**-126, 2**126]: to round rightly takes a branch, for which all else waits."""

    def codegen(context, builder, signature, args):
        if x == types.float64 or "nvptx" not in builder.module.triple:
            return builder.fdiv(*args)
        single = ir.FloatType()
        reciprocal = ir.InlineAsm(ir.FunctionType(single, [single]), "rcp.approx.ftz.f32 $0, $1;", "=f,f")
        return builder.fmul(args[0], builder.call(reciprocal, [args[1]]))

    return x(x, x), codegen


def _reduced(x):
    """(p, t): expm1(r) and the rounded exponent, with exp(x) = 2**n (1 + p). Compiled code only."""
    raise NotImplementedError("only compiled code reduces its argument; plain Python calls the math module")


@overload(_reduced, jit_options=INLINE)
def _reduced_overload(x):
    if x == types.float32:

        def reduced(x):
            f = type(x)
            t = fma(x, f(1.4426950408889634), f(12582912.0))
            n = t - f(12582912.0)
            r = fma(-n, f(-2.12194440e-4), fma(-n, f(0.693359375), x))
            p = fma(f(1.9890990824673654e-04), r, f(1.3933649996309251e-03))
            p = fma(p, r, f(8.3333109254809e-03))
            p = fma(p, r, f(4.1666464925285904e-02))
            p = fma(p, r, f(1.6666666681623232e-01))
            p = fma(p, r, f(5.00000001346581e-01))
            return fma(p, r * r, r), t

    else:

        def reduced(x):
            f = type(x)
            t = fma(x, f(1.4426950408889634), f(6755399441055744.0))
            n = t - f(6755399441055744.0)
            r = fma(-n, f(1.90821492927058770002e-10), fma(-n, f(6.93147180369123816490e-01), x))
            p = fma(f(2.0914686968086876e-09), r, f(2.5105217004720745e-08))
            p = fma(p, r, f(2.75572736431103e-07))
            p = fma(p, r, f(2.7557255400206422e-06))
            p = fma(p, r, f(2.4801587325547743e-05))
            p = fma(p, r, f(1.9841269874820627e-04))
            p = fma(p, r, f(1.3888888888883748e-03))
            p = fma(p, r, f(8.333333333326136e-03))
            p = fma(p, r, f(4.166666666666667e-02))
            p = fma(p, r, f(1.666666666666667e-01))
            p = fma(p, r, f(0.5))
            return fma(p, r * r, r), t

    return reduced


def _limits(x):
    """Where tanh has rounded to 1, where exp(-x) has rounded to 0, and the largest argument of exp, by type."""
    return {types.float32: (9.02, 104.0, 88.0), types.float64: (19.07, 746.0, 709.0)}[x]


def exp(x):
    """e**x for x <= 88 (float32) or 709 (float64), above which the argument is clamped; gradual underflow below."""
    return cmath.exp(x) if isinstance(x, complex) else type(x)(math.exp(min(x, _top(x))))


def _top(x) -> float:
    """The largest argument of exp, for plain Python."""
    return 88.0 if type(x).__name__ == "float32" else 709.0


@overload(exp, jit_options=INLINE)
def _exp_overload(x):
    _, low, high = _limits(x)

    def exp(x):
        f = type(x)
        a = f(high) if x > f(high) else x
        a = f(-low) if a < f(-low) else a
        p, t = _reduced(a)
        # below 1, 2**(n + 64) is normal even where 2**n is not: one rounding, in the last product
        scale = _power_of_two(t + f(64.0) if a < f(0.0) else t)
        return fma(scale, p, scale) * (f(2.0**-64) if a < f(0.0) else f(1.0))

    return exp


def expm1(x):
    """e**x - 1 without cancellation near 0, for x <= 88 (float32) or 709 (float64)."""
    if isinstance(x, complex):
        return cmath.exp(x / 2) * 2 * cmath.sinh(x / 2)
    return type(x)(math.expm1(min(x, _top(x))))


@overload(expm1, jit_options=INLINE)
def _expm1_overload(x):
    _, _, high = _limits(x)
    low = 20.0 if x == types.float32 else 40.0  # expm1 has rounded to -1

    def expm1(x):
        f = type(x)
        a = f(high) if x > f(high) else x
        a = f(-low) if a < f(-low) else a
        p, t = _reduced(a)
        scale = _power_of_two(t)
        return fma(scale, p, scale - f(1.0))

    return expm1


def tanh(x):
    """Hyperbolic tangent, of |x| with the sign put back: odd, monotone, 1 at infinity."""
    return cmath.tanh(x) if isinstance(x, complex) else type(x)(math.tanh(x))


@overload(tanh, jit_options=INLINE)
def _tanh_overload(x):
    one_at, _, _ = _limits(x)

    def tanh(x):
        f = type(x)
        a = abs(x)
        far = _tanh_far(a if not a > f(one_at) else f(one_at))
        return math.copysign(_tanh_near(a) if a < f(0.35) else far, x)

    return tanh


@pointwise
def _tanh_far(a):
    """1 - 2 / (e**2a + 1): every operation is monotone, and so is their chain."""
    f = type(a)
    p, t = _reduced(a + a)
    scale = _power_of_two(t)
    return f(1.0) - _over(f(2.0), fma(scale, p, scale + f(1.0)))


def _tanh_near(a):
    """a + a**3 P(a**2) for 0 <= a < 0.35, P minimax: the correction is so small that its rounding never outweighs a step of a."""
    raise NotImplementedError("only compiled code uses the polynomial; plain Python calls the math module")


@overload(_tanh_near, jit_options=INLINE)
def _tanh_near_overload(a):
    if a == types.float32:

        def near(a):
            f = type(a)
            z = a * a
            p = fma(f(0.01942095168), z, f(-0.05372263273))
            p = fma(p, z, f(0.1333234894))
            p = fma(p, z, f(-0.33333321))
            return fma(a * z, p, a)

    else:

        def near(a):
            f = type(a)
            z = a * a
            p = fma(f(0.00047463507538357465), z, f(-0.0014306920552077987))
            p = fma(p, z, f(0.003589118149446514))
            p = fma(p, z, f(-0.008863024670018448))
            p = fma(p, z, f(0.021869479889706087))
            p = fma(p, z, f(-0.05396825377159457))
            p = fma(p, z, f(0.13333333333116645))
            p = fma(p, z, f(-0.33333333333332515))
            return fma(a * z, p, a)

    return near


def sigmoid(x):
    """Logistic function 1 / (1 + e**-x): monotone, no overflow, full relative accuracy in the tail."""
    if isinstance(x, complex):
        return 1 / (1 + cmath.exp(-x)) if x.real > 0 else cmath.exp(x) / (1 + cmath.exp(x))
    e = math.exp(-abs(x))
    return type(x)((e if x < 0 else 1.0) / (1.0 + e))


@overload(sigmoid, jit_options=INLINE)
def _sigmoid_overload(x):
    _, zero_at, _ = _limits(x)

    def sigmoid(x):
        f = type(x)
        a = f(zero_at) if -x > f(zero_at) else -x
        a = f(-40.0) if a < f(-40.0) else a  # the sum below has rounded to 1 long before
        p, t = _reduced(a)
        # all times 2**-64, which changes no rounding, and e**104 stays finite; every operation is monotone
        scale, one = _power_of_two(t - f(64.0)), f(2.0**-64)
        return _over(one, fma(scale, p, scale + one))

    return sigmoid


def _real(x):
    """The real part, on which piecewise functions decide."""
    return x.real


@overload(_real, jit_options=INLINE)
def _real_overload(x):
    return lambda x: x


# Activations: y = f(a), and df/da written as a function of y, so that backward needs no pre-activation ----------------


@pointwise
def relu(a):
    zero = type(a)(0.0)
    return zero if _real(a) < 0.0 else a  # NaN stays NaN


@pointwise
def hard_sigmoid(a):
    """clip(a / 6 + 1 / 2, 0, 1), as in PyTorch and ONNX's HardSwish."""
    f = type(a)
    y = a * f(1.0 / 6.0) + f(0.5)
    y = f(0.0) if _real(y) < 0.0 else y
    return f(1.0) if _real(y) > 1.0 else y


@pointwise
def elu(a):
    return a if _real(a) > 0.0 else expm1(a)


@pointwise
def selu(a):
    """Klambauer et al. 2017: scale 1.0507..., alpha 1.6732..."""
    f = type(a)
    return f(1.0507009873554804934193349852946) * (
        a if _real(a) > 0.0 else f(1.6732632423543772848170429916717) * expm1(a)
    )


@pointwise
def identity(a):
    return a


@pointwise
def tanh_backward(y):
    return type(y)(1.0) - y * y


@pointwise
def sigmoid_backward(y):
    return y * (type(y)(1.0) - y)


@pointwise
def relu_backward(y):
    f = type(y)
    return f(1.0) if y > f(0.0) else f(0.0)


@pointwise
def hard_sigmoid_backward(y):
    f = type(y)
    return f(1.0 / 6.0) if (y > f(0.0)) & (y < f(1.0)) else f(0.0)


@pointwise
def elu_backward(y):
    f = type(y)
    return f(1.0) if y > f(0.0) else y + f(1.0)


@pointwise
def selu_backward(y):
    f = type(y)
    scale = f(1.0507009873554804934193349852946)
    return scale if y > f(0.0) else y + scale * f(1.6732632423543772848170429916717)


@pointwise
def identity_backward(y):
    return type(y)(1.0)


ACTIVATIONS = {
    "tanh": (tanh, tanh_backward),
    "relu": (relu, relu_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_backward),
    "elu": (elu, elu_backward),
    "selu": (selu, selu_backward),
    "identity": (identity, identity_backward),
}


def activations(**named):
    """(f, df) for one keyword argument whose value names an activation; `df` takes f's output."""
    ((argument, name),) = named.items()
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"{argument}: one of {', '.join(map(repr, ACTIVATIONS))} is required; got {name!r}")
    return ACTIVATIONS[name]

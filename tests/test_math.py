"""Scalar functions: accuracy in ulp, special values, derivatives, and the compiled code against its plain-Python twin."""

import math

import numpy as np
import pytest
from tolerances import TOLERANCES

from fastrnn._jit import kernel
from fastrnn._math import ACTIVATIONS, activations, exp, expm1, sigmoid, tanh

NAMES = ("exp", "expm1", *ACTIVATIONS)
PLAIN = (exp, expm1, *(f for f, _ in ACTIVATIONS.values()))
DERIVATIVES = (None, None, *(df for _, df in ACTIVATIONS.values()))
_FORWARD, _BACKWARD = zip(*ACTIVATIONS.values())
f0, f1, f2, f3, f4, f5, f6 = _FORWARD
g0, g1, g2, g3, g4, g5, g6 = _BACKWARD
LARGEST = {"float32": 88.0, "float64": 709.0}  # documented limits of exp


@kernel
def _every_function(x, y, dy):
    """y[k] = the k-th of NAMES at x, dy[k] its derivative from y[k]."""
    for n in range(x.shape[0]):
        a = x[n]
        y[0, n], y[1, n] = exp(a), expm1(a)
        y[2, n], y[3, n], y[4, n], y[5, n] = f0(a), f1(a), f2(a), f3(a)
        y[6, n], y[7, n], y[8, n] = f4(a), f5(a), f6(a)
        dy[0, n], dy[1, n] = y[0, n], y[1, n] + 1
        dy[2, n], dy[3, n], dy[4, n], dy[5, n] = g0(y[2, n]), g1(y[3, n]), g2(y[4, n]), g3(y[5, n])
        dy[6, n], dy[7, n], dy[8, n] = g4(y[6, n]), g5(y[7, n]), g6(y[8, n])


def compiled(x):
    """{name: f(x)} and {name: f'(x)} from compiled code, in x's precision."""
    y, dy = np.empty((2, len(NAMES), x.size), x.dtype)
    _every_function(x, y, dy)
    return dict(zip(NAMES, y)), dict(zip(NAMES, dy))


def ulp_error(y, true):
    """|y - true| in units of the spacing of y's type at `true`."""
    info = np.finfo(y.dtype)
    exponent = np.maximum(np.frexp(true)[1], info.minexp + 1)
    with np.errstate(under="ignore"):
        return np.ldexp(np.abs(y.astype(true.dtype) - true), info.nmant + 1 - exponent)


def true_values(x):
    """tanh and sigmoid in a wider type than x's, which must be NaN-free."""
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    if np.finfo(wide).nmant <= np.finfo(x.dtype).nmant + 8:
        pytest.skip("this platform has no floating-point type wider than float64")
    a = x.astype(wide)
    with np.errstate(under="ignore", over="ignore"):
        e = np.exp(-np.abs(a))
    return {"tanh": np.tanh(a), "sigmoid": np.where(a < 0, e, 1) / (1 + e)}


def neighbourhood(values, dtype, count=40):
    """`count` consecutive numbers on either side of every value, ascending, without repetition."""
    bits = np.uint32 if dtype == np.float32 else np.uint64
    centers = np.asarray(values, dtype).view(bits)
    around = centers[:, None] + np.arange(-count, count + 1).astype(bits)
    return around.reshape(-1).view(dtype)


def arguments(dtype):
    """Finite numbers ascending: a stride of all bit patterns, and all that is special: neighbourhoods of every switching point."""
    rng = np.random.default_rng(0)
    if dtype == np.float32:
        stride = np.arange(0, 0x7F800000, 4099, dtype=np.uint32).view(dtype)
        switches = [9.02, 104.0, 103.97, 88.0, 87.34, 20.0, 17.33]
    else:
        stride = np.exp(rng.uniform(np.log(1e-320), np.log(1e308), 200_000))
        switches = [19.07, 746.0, 745.13, 709.0, 708.4, 40.0, 37.43]
    grid = np.log(2.0) * (np.arange(1, 64) - 0.5)  # where the reduced argument jumps from one end of its interval to the other
    x = np.concatenate([
        stride, neighbourhood(switches, dtype), neighbourhood(grid, dtype), neighbourhood(grid / 2, dtype),
        rng.uniform(0.0, 25.0, 100_000).astype(dtype), neighbourhood([np.finfo(dtype).tiny, 1e-4, 0.5, 1.0, 3.0], dtype),
        np.arange(1, 40, dtype=np.uint32 if dtype == np.float32 else np.uint64).view(dtype), [np.finfo(dtype).max],
    ]).astype(dtype)  # fmt: skip
    return np.unique(np.concatenate([-x, x]))


@pytest.fixture(scope="module", params=["float32", "float64"])
def values(request):
    """(x, f(x), f'(x)) over `arguments`."""
    x = arguments(np.dtype(request.param).type)
    return x, *compiled(x)


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_error_in_ulp_over_a_stride_of_all_numbers(values, name):
    x, y, _ = values
    assert np.max(ulp_error(y[name], true_values(x)[name])) <= TOLERANCES[f"{name}_ulp_{x.dtype}"]


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu", "hard_sigmoid", "elu", "selu", "identity", "exp", "expm1"])
def test_monotone(values, name):
    x, y, _ = values
    assert x.size > 500_000 and (np.diff(x) > 0).all()
    assert (y[name][1:] >= y[name][:-1]).all()


def test_tanh_is_odd_bit_for_bit(values):
    x, y, _ = values
    positive, negative = y["tanh"][x > 0], y["tanh"][x < 0][::-1]
    assert np.array_equal(x[x > 0], -x[x < 0][::-1])
    assert positive.tobytes() == (-negative).tobytes()


def test_ranges(values):
    x, y, dy = values
    assert np.abs(y["tanh"]).max() == 1.0 and y["sigmoid"].max() == 1.0 and y["sigmoid"].min() == 0.0
    assert dy["tanh"].min() == 0.0 and dy["sigmoid"].min() == 0.0 and dy["sigmoid"].max() <= 0.25
    assert y["hard_sigmoid"].min() == 0.0 and y["hard_sigmoid"].max() == 1.0
    assert y["exp"].min() == 0.0 and y["expm1"].min() == -1.0 and np.isfinite(y["exp"]).all()


@pytest.mark.parametrize("name", ["exp", "expm1"])
def test_exponentials_in_ulp(values, name):
    x, y, _ = values
    inside = x <= LARGEST[x.dtype.name]
    x, got = x[inside], y[name][inside]
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    if np.finfo(wide).nmant <= np.finfo(x.dtype).nmant + 8:
        pytest.skip("this platform has no floating-point type wider than float64")
    with np.errstate(under="ignore"):
        true = getattr(np, name)(x.astype(wide))
    assert np.max(ulp_error(got, true)) <= TOLERANCES[f"{name}_ulp"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_are_exact(dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan], dtype)
    y, _ = compiled(x)
    expected = {
        "exp": [1.0, 1.0, None, 0.0], "expm1": [0.0, 0.0, None, -1.0], "tanh": [0.0, 0.0, 1.0, -1.0], "sigmoid": [0.5, 0.5, 1.0, 0.0],
        "relu": [0.0, 0.0, np.inf, 0.0], "hard_sigmoid": [0.5, 0.5, 1.0, 0.0], "identity": [0.0, 0.0, np.inf, -np.inf],
        "elu": [0.0, 0.0, np.inf, -1.0],
    }  # fmt: skip
    for name, numbers in expected.items():
        assert [got for got, want in zip(y[name], numbers) if want is not None] == [want for want in numbers if want is not None], name
    for name in NAMES:
        assert np.isnan(y[name][4:]).all(), name
    assert np.signbit(y["tanh"][:2]).tolist() == [False, True]  # -0 stays -0


def test_exp_is_clamped_where_it_says_so():
    for dtype, top in LARGEST.items():
        x = np.array([top, np.nextafter(np.dtype(dtype).type(top), np.inf), np.inf], dtype)
        y, _ = compiled(x)
        assert np.isfinite(y["exp"]).all() and len(set(y["exp"].tolist())) == 1
        assert y["exp"][0] == pytest.approx(math.exp(top), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_equals_plain_python(dtype):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-12.0, 12.0, 1500), [0.0, -0.0, 1e-30, -1e-30, 30.0, -30.0, 80.0, -80.0]]).astype(dtype)
    y, dy = compiled(x)
    eps = np.finfo(dtype).eps
    for name, f, df in zip(NAMES, PLAIN, DERIVATIVES):
        plain = np.array([f(a) for a in x])
        assert plain.dtype == dtype, name
        cancels = eps if name == "hard_sigmoid" else 0.0  # near -3, where the compiled code fuses and Python rounds twice
        np.testing.assert_allclose(y[name], plain, rtol=TOLERANCES["plain_twin_eps"] * eps, atol=cancels, err_msg=name)
        if df is not None:  # 1 - y y is fused when compiled: no rounding of y y
            np.testing.assert_allclose(dy[name], np.array([df(b) for b in y[name]]), rtol=eps, atol=eps, err_msg=name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_from_output_against_complex_step(name):
    """The plain twin at x + ih [Squire & Trapp 1998]: no subtraction, so exact to rounding."""
    f, df = ACTIVATIONS[name]
    corners = {"relu": [0], "hard_sigmoid": [-3, 3], "elu": [0], "selu": [0]}.get(name, [])
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(-8.0, 8.0, 400), [-40.0, -20.0, 20.0, 40.0, 1e-8, -1e-8]])
    x = x[np.all([np.abs(x - c) > 1e-9 for c in corners], axis=0)] if corners else x
    for a in x:
        step = f(complex(a, 1e-30))
        true = complex(step).imag / 1e-30
        assert df(f(a)) == pytest.approx(true, rel=1e-9, abs=1e-15), a
        assert complex(step).real == pytest.approx(f(a), rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("name", ["exp", "expm1"])
def test_exponentials_take_complex_numbers(name):
    f = {"exp": exp, "expm1": expm1}[name]
    for a in (-30.0, -1.0, -1e-9, 0.0, 1e-9, 2.0):
        value = f(complex(a, 1e-30))
        assert value.imag / 1e-30 == pytest.approx(math.exp(a), rel=1e-14)
        assert value.real == pytest.approx(getattr(math, name)(a), rel=1e-14)


def test_plain_python_takes_every_real_number():
    """With JIT off the plain functions are the kernels: they must not raise where compiled code does not."""
    for f in (tanh, sigmoid, exp, expm1):
        for a in (-1e308, -1e4, 1e4, 1e308, math.inf, -math.inf, math.nan):
            assert isinstance(f(a), float)


def test_activations_names_the_argument():
    assert activations(gate_activation="sigmoid") == (sigmoid, ACTIVATIONS["sigmoid"][1])
    for bad in ("Tanh", None, ["tanh"], 3):
        with pytest.raises(ValueError, match=r"gate_activation: one of 'tanh', .* is required; got"):
            activations(gate_activation=bad)

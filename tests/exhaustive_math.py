"""tanh and sigmoid of every one of the 2**32 float32 numbers: error in ulp, monotone, odd, special values.

Not collected by pytest; some minutes: ``python tests/exhaustive_math.py [tanh] [sigmoid]``. The reference is the C library's
float64 function.
"""

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from fastrnn import get_num_threads
from fastrnn._jit import kernel
from fastrnn._math import sigmoid, tanh

CHUNK = 1 << 22
INFINITY = 0x7F800000  # bit patterns from here to 0x7fffffff, the first apart, are NaN


@kernel
def _ulp_error(y, true):
    """|y - true| in units of the spacing of float32 at `true`."""
    _, exponent = math.frexp(true)
    return abs(np.float64(y) - true) * math.ldexp(1.0, 24 - max(exponent, -125))


@kernel
def check_tanh(x, y, worst):
    """Every pair (x, -x) for x >= 0 ascending: worst[:] = ulp error, where, descents, pairs that are not odd."""
    for n in range(x.shape[0]):
        a = tanh(x[n])
        y[n] = a
        if tanh(-x[n]) != -a:
            worst[3] += 1.0
        error = _ulp_error(a, math.tanh(np.float64(x[n])))
        if not error <= worst[0]:
            worst[0], worst[1] = error, x[n]
        if n > 0 and not a >= y[n - 1]:
            worst[2] += 1.0


@kernel
def check_sigmoid(x, y, worst):
    """Every pair (x, -x) for x >= 0 ascending: worst[:] = ulp error, where, descents, pairs whose sum is not 1 within an ulp of it."""
    for n in range(x.shape[0]):
        a, b = sigmoid(x[n]), sigmoid(-x[n])
        y[n] = b
        e = math.exp(-np.float64(x[n]))
        error, low = _ulp_error(a, 1.0 / (1.0 + e)), _ulp_error(b, e / (1.0 + e))
        if not error <= worst[0]:
            worst[0], worst[1] = error, x[n]
        if not low <= worst[0]:
            worst[0], worst[1] = low, -x[n]
        if abs(np.float64(a) + np.float64(b) - 1.0) > 2.0**-23:
            worst[3] += 1.0
        if n > 0 and not (b <= y[n - 1] and a >= sigmoid(x[n - 1])):
            worst[2] += 1.0


def chunk(check, first: int) -> np.ndarray:
    """A chunk of patterns from `first` on, and the last of the chunk before, so that no step between neighbours is left out."""
    x = np.arange(max(first - 1, 0), min(first + CHUNK, INFINITY + 1), dtype=np.uint32).view(np.float32)
    y, worst = np.empty_like(x), np.array([0.0, 0.0, 0.0, 0.0])
    check(x, y, worst)
    return worst


@kernel
def count_numbers(x, count):
    """count[0] += results that are not NaN, of NaN arguments."""
    for n in range(x.shape[0]):
        count[0] += not (math.isnan(tanh(x[n])) and math.isnan(sigmoid(x[n])))


def check_nan() -> int:
    """How many of the NaN patterns, of either sign, came back as a number."""
    count = np.zeros(1, np.int64)
    for sign in (0, 0x80000000):
        for first in range(INFINITY + 1, 0x80000000, CHUNK):
            patterns = np.arange(first, min(first + CHUNK, 0x80000000), dtype=np.uint32) | np.uint32(sign)
            count_numbers(patterns.view(np.float32), count)
    return int(count[0])


def main(*names: str) -> int:
    failures, pool = check_nan(), ThreadPoolExecutor(get_num_threads())
    sys.stdout.write(f"NaN: {failures} of {2 * 0x7FFFFF} came back as numbers\n")
    for name in names or ("tanh", "sigmoid"):
        check = {"tanh": check_tanh, "sigmoid": check_sigmoid}[name]
        begin, results, firsts = time.monotonic(), [], range(0, INFINITY + 1, CHUNK)
        for k in range(0, len(firsts), 16):
            group = firsts[k : k + 16]
            results += pool.map(partial(chunk, check), group)
            done = (k + len(group)) / len(firsts)
            left = (time.monotonic() - begin) * (1.0 - done) / done
            sys.stdout.write(f"{name}: {done:4.0%}, {max(r[0] for r in results):.4f} ulp so far, {left:.0f} s left\n")
            sys.stdout.flush()
        worst, where = max((r[0], r[1]) for r in results)
        descents, asymmetric = (sum(r[k] for r in results) for k in (2, 3))
        ok = worst <= 2.5 and not descents and not asymmetric
        failures += not ok
        relation = "not odd" if name == "tanh" else "not adding up to 1"
        sys.stdout.write(
            f"{name}: largest error {worst:.4f} ulp at {np.float32(where)!r}; {descents:.0f} descents, {asymmetric:.0f} pairs {relation}: "
            f"{'ok' if ok else 'FAILED'}\n"
        )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

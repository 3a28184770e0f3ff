"""Products, packing, and what the kernels write: right, the same bits in any company, and nothing out of bounds."""

import threading

import numpy as np
import pytest
import small_runs
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr
from fastrnn import _feedback, _memory, _threads
from fastrnn._team import parallel
from fastrnn.kernels.cpu import product as product_module
from fastrnn.kernels.cpu.packing import add_transposed, pack_columns, pack_rows
from fastrnn.kernels.cpu.product import VECTOR_BYTES, WIDE, lanes, padded, product
from fastrnn.layers import _chain, _corner, _direction, _layer, feedforward, recurrent2d

DTYPES = ("float32", "float64")
SIZES = st.tuples(st.integers(0, 20), st.integers(0, 9), st.integers(0, 33))  # rows, vectors of columns, depth
DEEP = st.tuples(st.just(7), st.integers(1, 7), st.integers(120, 600))  # a panel in several pieces
FEW = settings(max_examples=60, deadline=None)


# The product --------------------------------------------------------------------------------------------------------


def panels(B, dtype):
    """B (K, N) as panels of 4 (or 2), 2, 1 vectors of columns, one after another, each (K, width) contiguous."""
    one, parts, n = lanes(dtype), [], 0
    while n < B.shape[1]:
        left = (B.shape[1] - n) // one
        width = one * (WIDE if left >= WIDE else min(left, 2))
        parts.append(B[:, n : n + width].reshape(-1))
        n += width
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def spread(matrix, offset, row, k, size, dtype):
    """A flat array of NaN that holds `matrix` at offset + i * row + j * k."""
    flat = np.full(size, np.nan, dtype)
    i, j = np.indices(matrix.shape)
    flat[offset + i * row + j * k] = matrix
    return flat


def multiply(A, B, C, gaps=(0, 0), transposed=False):
    """C + A B by the kernel, operands lying apart in arrays of NaN, which must still be NaN afterwards."""
    (M, K), N, dtype = A.shape, B.shape[1], A.dtype
    a_row, a_k = (1, M + gaps[0]) if transposed else (K + gaps[0], 1)
    a = spread(A, 3, a_row, a_k, 3 + M * a_row + K * a_k + 5, dtype)
    b = np.concatenate([np.full(2, np.nan, dtype), panels(B, dtype), np.full(2, np.nan, dtype)])
    c_row = N + gaps[1]
    c = spread(C, 7, c_row, 1, 7 + M * c_row + 9, dtype)
    outside = np.isnan(c)
    product(a, 3, a_row, a_k, b, 2, c, 7, c_row, (M, N, K))
    i, j = np.indices(C.shape)
    at = 7 + i * c_row + j
    assert np.isnan(c[outside]).all() and outside.sum() == c.size - C.size
    return c[at]


def operands(sizes, dtype, seed):
    M, vectors, K = sizes
    rng, N = np.random.default_rng(seed), vectors * lanes(dtype)
    return (rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N), (M, N)))


@pytest.mark.parametrize("dtype", DTYPES)
@FEW
@given(sizes=SIZES | DEEP, gaps=st.tuples(*[st.integers(0, 5)] * 2), transposed=st.booleans(), seed=st.integers(0, 99))
def test_product_against_numpy(dtype, sizes, gaps, transposed, seed):
    A, B, C = operands(sizes, dtype, seed)
    got = multiply(A, B, C, gaps, transposed)
    wide = np.longdouble if dtype == "float64" else np.float64
    true = C.astype(wide) + A.astype(wide) @ B.astype(wide)
    magnitude = np.abs(C) + np.abs(A) @ np.abs(B)
    assert (np.abs(got - true) <= (1 + sizes[2]) * np.finfo(dtype).eps / 2 * magnitude * (1 + 1e-3)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@FEW
@given(sizes=SIZES | DEEP, data=st.data(), seed=st.integers(0, 99))
def test_an_element_of_the_product_depends_on_nothing_beside_it(dtype, sizes, data, seed):
    """The same bits: whatever rows stand beside, whichever tile computes, and wherever the sum is cut."""
    A, B, C = operands(sizes, dtype, seed)
    M, vectors, K = sizes
    whole = multiply(A, B, C)
    assert multiply(A, B, C, transposed=True, gaps=(1, 3)).tobytes() == whole.tobytes()
    first, last = sorted(data.draw(st.tuples(st.integers(0, M), st.integers(0, M))))
    assert multiply(A[first:last], B, C[first:last]).tobytes() == whole[first:last].tobytes()
    n = data.draw(st.integers(0, vectors)) * lanes(dtype)
    assert multiply(A, B[:, n:], C[:, n:]).tobytes() == np.ascontiguousarray(whole[:, n:]).tobytes()
    k = data.draw(st.integers(0, K))
    assert multiply(A[:, k:], B[k:], multiply(A[:, :k], B[:k], C)).tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_is_a_chain_of_fused_multiply_adds(dtype):
    """1 - (1 + e)(1 - e) is e**2 where nothing is rounded between, and 0 where the product is."""
    e = np.finfo(dtype).eps * 2
    A, B = np.array([[1 + e]], dtype), np.full((1, lanes(dtype)), -(1 - e), dtype)
    if not product_module.FUSED:
        pytest.skip("this processor has no fused multiply-add")
    assert (multiply(A, B, np.ones((1, lanes(dtype)), dtype)) == np.dtype(dtype).type(e) ** 2).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_and_nan_stay_in_their_rows(dtype):
    A, B, C = operands((9, 5, 4), dtype, 0)
    A[4, 2], A[7, 0] = np.nan, np.inf
    got = multiply(A, B, C)
    clean = [m for m in range(9) if m not in (4, 7)]
    assert np.isnan(got[4]).all() and np.isinf(got[7]).all() and np.isfinite(got[clean]).all()


@FEW
@given(sizes=SIZES, seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_the_interpreters_product_agrees(sizes, seed, dtype):
    A, B, C = operands(sizes, dtype, seed)
    M, vectors, K = sizes
    N, c = vectors * lanes(dtype), C.copy().reshape(-1)
    product_module._plain_product(A.reshape(-1), 0, K, 1, panels(B, dtype), 0, c, 0, N, (M, N, K))
    np.testing.assert_allclose(c.reshape(M, N), multiply(A, B, C), rtol=0, atol=(1 + K) * 10 * np.finfo(dtype).eps)


def multiply_transposed(A, B, C, by, gaps=(0, 0)):
    """C + A^T B, B lying in an array of NaN; `by` is the kernel or its plain twin."""
    (K, M), N, dtype = A.shape, B.shape[1], A.dtype
    width = N + gaps[1]
    z = spread(B, gaps[0], width, 1, gaps[0] + K * width + N, dtype)
    target = np.concatenate([C.reshape(-1), np.full(3, np.nan, dtype)])
    by(A.reshape(-1), M, z, gaps[0], width, target[: M * N], K, np.full(K * WIDE * lanes(dtype), np.nan, dtype), 0, N)
    assert np.isnan(target[M * N :]).all()
    return target[: M * N].reshape(C.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@FEW
@given(sizes=SIZES.filter(lambda sizes: sizes[0] > 0), gaps=st.tuples(*[st.integers(0, 5)] * 2), seed=st.integers(0, 99))
def test_the_transposed_product_is_a_sum_apart(dtype, sizes, gaps, seed):
    """C + (0 + A^T B): the same bits as the plain product begun from 0, added once."""
    A, B, C = operands(sizes, dtype, seed)
    At = np.ascontiguousarray(A.T)
    got = multiply_transposed(At, B, C, product_module.product_transposed, gaps)
    assert got.tobytes() == (C + multiply(A, B, np.zeros_like(C))).tobytes()
    plain = multiply_transposed(At, B, C, product_module._plain_product_transposed, gaps)
    np.testing.assert_allclose(plain, got, rtol=0, atol=(1 + sizes[2]) * 10 * np.finfo(dtype).eps)


def test_lanes_fill_a_register():
    assert VECTOR_BYTES in (16, 32, 64)
    for dtype in DTYPES:
        assert lanes(dtype) * np.dtype(dtype).itemsize == VECTOR_BYTES
        for n in range(3 * lanes(dtype)):
            assert padded(n, dtype) % lanes(dtype) == 0 and 0 <= padded(n, dtype) - n < lanes(dtype)


# Packing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@FEW
@given(R=st.integers(1, 70), K=st.integers(0, 12), E=st.integers(1, 3), common=st.booleans(), data=st.data())
def test_packing(dtype, R, K, E, common, data):
    """`pack_columns` gives x W[rows]^T, `pack_rows` dz W[rows]: the panels the product expects, zeros in padding, no more written."""
    rows = np.array(data.draw(st.lists(st.integers(0, R - 1), min_size=0, max_size=R)), np.int64)
    flat = np.random.default_rng(R).standard_normal((1 if common else E, 5 + R * K + 3)).astype(dtype)
    parts, team = data.draw(st.integers(1, 5)), _threads.team(0.0)
    for pack in (pack_columns, pack_rows):
        room = np.full((E, K * padded(rows.size, dtype) if pack is pack_columns else rows.size * padded(K, dtype)), np.nan, dtype)
        pack(team, (E - 1) * parts, parts, flat, 5, K, rows, room)
        assert np.isnan(room[-1]).all()
        pack(team, E * parts, parts, flat, 5, K, rows, room)
        for e in range(E):
            weight = flat[e % len(flat), 5 : 5 + R * K].reshape(R, K)
            B = weight[rows].T if pack is pack_columns else weight[rows]
            full = np.zeros((B.shape[0], padded(B.shape[1], dtype)), dtype)
            full[:, : B.shape[1]] = B
            assert room[e].tobytes() == panels(full, dtype).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slices", [0, 1, 3])
def test_add_transposed(dtype, slices):
    """A member's slices are added in order onto what is there; no slices (an empty batch) add nothing; other members stay as they are."""
    rng, rows, K, E = np.random.default_rng(0), np.array([4, 0, 3]), 5, 3
    Np = padded(rows.size, dtype)
    sums, flat = rng.standard_normal((E * slices, K * Np)).astype(dtype), rng.standard_normal((E, 2 + 6 * K + 1)).astype(dtype)
    expected = flat.copy()
    for e in (0, 1):
        total = np.zeros((K, Np), dtype)
        for part in sums[e * slices : (e + 1) * slices]:
            total = total + part.reshape(K, Np)
        expected[e, 2:-1].reshape(6, K)[rows] += total[:, :3].T
    add_transposed(_threads.team(0.0), 2 * 3, 3, sums, slices, rows, K, flat, 2)
    np.testing.assert_allclose(flat, expected, rtol=4 * np.finfo(dtype).eps)
    untouched = np.ones_like(flat, bool)
    untouched[:2, 2:-1].reshape(2, 6, K)[:, rows] = False
    assert flat[untouched].tobytes() == expected[untouched].tobytes()


# What kernels write -------------------------------------------------------------------------------------------------

GUARD = 67  # an odd number of elements: arrays in between are aligned to their elements and no better


class RedZones:
    """Stands for a kernel: every array it is given, in tuples or not, lies between guards that must not change.

    Guards hold NaN (or a large integer), so that whatever is read from them shows in the results too.
    """

    def __init__(self, kernel):
        self.kernel, self.calls = kernel, 0

    def __call__(self, *arguments):
        pairs = []
        self.kernel(*(self._guard(a, pairs) for a in arguments))
        self.calls += 1
        for original, inside, whole, sentinel in pairs:
            for guard in (whole[:GUARD], whole[GUARD + inside.size :]):
                assert guard.tobytes() == np.full(GUARD, sentinel, guard.dtype).tobytes(), "a kernel wrote beyond an array"
            original[...] = inside

    def _guard(self, value, pairs):
        if isinstance(value, tuple):
            parts = [self._guard(part, pairs) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if not isinstance(value, np.ndarray):
            return value
        for original, inside, *_ in pairs:  # one memory under two names stays one
            if value.size and (original.ctypes.data, original.nbytes) == (value.ctypes.data, value.nbytes):
                return inside.reshape(value.shape)
        sentinel = np.nan if value.dtype.kind == "f" else 1 << 40
        whole = np.full(value.size + 2 * GUARD, sentinel, value.dtype)
        inside = whole[GUARD : GUARD + value.size].reshape(value.shape)
        inside[...] = value
        pairs.append((value, inside, whole, sentinel))
        return inside


class Poisoned:
    """Stands for the module numpy: memory that nobody cleared holds NaN (or a large integer)."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype=float):
        return np.full(shape, {"f": np.nan, "u": 0xFF}.get(np.dtype(dtype).kind, 1 << 40), dtype)  # bytes of 0xFF are NaN, too


@pytest.fixture
def plain_threads():
    """One thread, as the guards need it."""
    before = fr.get_num_threads()
    fr.set_num_threads(1)
    yield
    fr.set_num_threads(before)


def assert_same(found, expected):
    assert found.keys() == expected.keys() and len(found) > 10
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("case", ["everything", "lstm", "gru_before"])
def test_kernels_write_inside_their_arrays_only(case, monkeypatch, plain_threads):
    expected = small_runs.run(case, "float64")
    guarded = {}

    def around(make):
        return lambda cell: guarded.setdefault((make, cell), RedZones(make(cell)))

    for name in ("make_forward", "make_backward"):
        monkeypatch.setattr(_direction, name, around(getattr(_direction, name)))
    for name in ("pack_columns", "pack_rows", "add_transposed"):
        monkeypatch.setattr(_direction, name, guarded.setdefault(name, RedZones(getattr(_direction, name))))
    assert_same(small_runs.run(case, "float64"), expected)
    assert len(guarded) == 5 and all(zones.calls > 10 for zones in guarded.values())


@pytest.mark.parametrize("case", ["everything", "lstm", "gru_before"])
def test_uncleared_memory_reaches_nothing(case, monkeypatch):
    expected = small_runs.run(case, "float64")
    for module in (_direction, _layer, _memory):
        monkeypatch.setattr(module, "np", Poisoned())
    monkeypatch.setattr(_direction, "_thread", threading.local())
    found = small_runs.run(case, "float64")
    assert_same(found, expected)
    assert all(np.isfinite(array).all() for array in found.values())


@pytest.mark.parametrize("cell", fr.CELLS2D)
def test_the_wavefront_writes_inside_its_arrays_only_and_reads_no_uncleared_memory(cell, monkeypatch, plain_threads):
    expected = small_runs.grid(cell, "float64")
    guarded = {}

    monkeypatch.setattr(_corner, "parallel", lambda body: guarded.setdefault(body, RedZones(parallel(body))))
    for module in (_corner, recurrent2d, _memory):
        monkeypatch.setattr(module, "np", Poisoned())
    found = small_runs.grid(cell, "float64")
    assert_same(found, expected)
    assert len(guarded) == 2 and all(zones.calls > 10 for zones in guarded.values())
    assert all(np.isfinite(array).all() for array in found.values())


def test_closed_loops_write_inside_their_arrays_only_and_read_no_uncleared_memory(monkeypatch, plain_threads):
    expected = small_runs.closed("everything", "float64")
    guarded = {}

    def around(make):
        return lambda cells: guarded.setdefault((make, cells), RedZones(make(cells)))

    for name in ("make_closed_forward", "make_closed_backward", "make_generate", "make_beam_search"):
        monkeypatch.setattr(_chain, name, around(getattr(_chain, name)))
    for module in (_chain, _direction, _feedback, _layer, _memory):
        monkeypatch.setattr(module, "np", Poisoned())
    found = small_runs.closed("everything", "float64")
    assert_same(found, expected)
    assert len(guarded) == 4 and all(zones.calls for zones in guarded.values())
    assert all(np.isfinite(array).all() for name, array in found.items() if "scores" not in name)


def test_feedforward_kernels_write_inside_their_arrays_only(monkeypatch, plain_threads):
    expected = small_runs.feedforward("float64")
    zones = []

    def around(kernel):
        zones.append(RedZones(kernel))
        return zones[-1]

    for name in ("affine", "affine_backward", "embed", "embed_backward", "pack_columns", "pack_rows", "add_transposed"):
        monkeypatch.setattr(feedforward, name, around(getattr(feedforward, name)))
    for name in ("activate", "activate_backward"):
        make = getattr(feedforward, name)
        monkeypatch.setattr(feedforward, name, lambda activation, make=make: around(make(activation)))
    for module in (feedforward, product_module):
        monkeypatch.setattr(module, "np", Poisoned())
    assert_same(small_runs.feedforward("float64"), expected)
    assert len(zones) == 7 + 12 and all(zone.calls for zone in zones)


def test_red_zones_find_what_they_are_for():
    """The check itself: a kernel that writes one element too far is found."""

    def careless(a):
        np.lib.stride_tricks.as_strided(a, (a.size + 1,), a.strides)[a.size] = 0.0

    with pytest.raises(AssertionError, match="beyond an array"):
        RedZones(careless)(np.zeros(5))


# Metamorphic relations of the time loop ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ragged():
    net = small_runs.network("everything", 4, 6, dtype="float64", bidirectional=True, seed=1)
    rng = np.random.default_rng(5)
    lengths = np.array([3, 0, 9, 7, 1, 9, 4])
    return net, rng.standard_normal((9, 7, 4)), lengths, rng.standard_normal((9, 7, 12))


def test_padding_reaches_nothing(ragged):
    net, x, lengths, dy = ragged
    y, end, tape = net.forward(x, lengths=lengths)
    grads = net.backward(tape, dy)
    padding = np.arange(9)[:, None] >= lengths
    dirty_x, dirty_dy = x.copy(), dy.copy()
    dirty_x[padding], dirty_dy[padding] = np.nan, np.inf
    y2, end2, tape2 = net.forward(dirty_x, lengths=lengths)
    grads2 = net.backward(tape2, dirty_dy)
    for a, b in ((y, y2), *zip(end, end2), (grads.x, grads2.x), *zip(grads.state, grads2.state), (grads.params.flat, grads2.params.flat)):
        assert a.tobytes() == b.tobytes()
    assert not y[padding].any() and not grads.x[padding].any()


def test_a_sequence_has_the_same_bits_in_any_company(ragged):
    net, x, lengths, dy = ragged
    y, end, tape = net.forward(x, lengths=lengths)
    dx = net.backward(tape, dy).x
    for rows in ([2], [6, 2], [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6] * 5):
        part, _, tape = net.forward(x[:, rows], lengths=lengths[rows])
        assert part.tobytes() == np.ascontiguousarray(y[:, rows]).tobytes()
        assert net.backward(tape, dy[:, rows]).x.tobytes() == np.ascontiguousarray(dx[:, rows]).tobytes()


def test_empty_batches(ragged):
    """No sequences, or no steps: nothing to compute, gradients exactly 0, and no kernel reads what is not there."""
    net, _, _, _ = ragged
    for T, B in ((0, 3), (4, 0), (0, 0)):
        y, end, tape = net.forward(np.zeros((T, B, 4)))
        grads = net.backward(tape, np.zeros(y.shape), details=True)
        assert y.shape == (T, B, 12) and grads.x.shape == (T, B, 4) and end[0].shape == (2, B, 6)
        assert not grads.params.flat.any() and grads.h.shape == (2, T, B, 6)

"""Linear, Embedding and Dropout against NumPy and complex steps; rows that depend on nothing beside them; bad input."""

import numpy as np
import pytest
import reference

import fastrnn as fr
from fastrnn.kernels.cpu.affine import BLOCK
from fastrnn.layers.feedforward import ITEMS

ACTIVATIONS = ("tanh", "relu", "sigmoid", "hard_sigmoid", "elu", "selu", "identity")
EPS = {"float32": np.finfo("float32").eps, "float64": np.finfo("float64").eps}


def linear_by_numpy(layer, x, params=None):
    params = params or layer.params
    return reference.activation(layer.activation)(x @ params["weight"].T + params["bias"])


# Linear -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", [(7,), (1, 7), (4, 3, 7), (2, 3, 2, 7), (0, 7), (3, 0, 7)])
def test_linear_forward(dtype, shape):
    layer, x = fr.Linear(7, 5, dtype=dtype, seed=1), np.random.default_rng(0).standard_normal(shape)
    y, _ = layer.forward(x)
    assert y.shape == (*shape[:-1], 5) and y.dtype == dtype
    np.testing.assert_allclose(y, linear_by_numpy(layer, x.astype(dtype)), rtol=0, atol=20 * EPS[dtype])


@pytest.mark.parametrize("sizes", [(1, 1), (3, 70), (70, 3), (33, 17)])
def test_linear_of_many_sizes(sizes):
    """More rows than an item, and widths that fill no vector: remainders of every loop."""
    layer, rng = fr.Linear(*sizes, dtype="float64", seed=1), np.random.default_rng(0)
    N = 4 * BLOCK + 13
    x, dy = rng.standard_normal((N, sizes[0])), rng.standard_normal((N, sizes[1]))
    y, tape = layer.forward(x)
    dx, grads = layer.backward(tape, dy)
    np.testing.assert_allclose(y, linear_by_numpy(layer, x), rtol=0, atol=1e-13)
    np.testing.assert_allclose(dx, dy @ layer.params["weight"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads["weight"], dy.T @ x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(grads["bias"], dy.sum(axis=0), rtol=0, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_against_complex_step(activation):
    layer, rng = fr.Linear(3, 4, activation=activation, dtype="float64", seed=2), np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 3, 3)), rng.standard_normal((2, 3, 4))
    y, tape = layer.forward(x)
    dx, grads = layer.backward(tape, dy)
    np.testing.assert_allclose(y, linear_by_numpy(layer, x), rtol=0, atol=1e-14)

    def loss(**arrays):
        values = dict(layer.params) | arrays
        return np.sum(dy * linear_by_numpy(layer, values.pop("x", x), values))

    def step(name, array):
        return reference.complex_step(lambda a: loss(**{name: a}), array)

    np.testing.assert_allclose(dx, step("x", x), rtol=1e-9, atol=1e-13)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(grads[name], step(name, layer.params[name]), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", EPS)
def test_rows_have_the_same_bits_in_any_company_and_on_any_threads(dtype, monkeypatch):
    monkeypatch.setattr("fastrnn._threads.SERIAL_WORK", 0.0)
    before = fr.get_num_threads()
    layer, rng = fr.Linear(19, 21, activation="tanh", dtype=dtype, seed=1), np.random.default_rng(0)
    N = 3 * BLOCK + 5
    x, dy, results = rng.standard_normal((N, 19)), rng.standard_normal((N, 21)), set()
    try:
        for threads in (1, 2, 3):
            fr.set_num_threads(threads)
            y, tape = layer.forward(x)
            dx, grads = layer.backward(tape, dy)
            results.add(b"".join(a.tobytes() for a in (y, dx, grads.flat)))
    finally:
        fr.set_num_threads(before)
    assert len(results) == 1
    for rows in ([5], [700, 3], list(range(300, 560)), list(range(N))[::-1]):
        part, tape = layer.forward(x[rows])
        assert part.tobytes() == y[rows].tobytes()
        assert layer.backward(tape, dy[rows])[0].tobytes() == dx[rows].tobytes()


def test_items_depend_on_the_rows_alone():
    layer = fr.Linear(2, 2)
    for N in (0, 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1, 10**6):
        size, items = layer._items(N)
        assert items <= ITEMS and (items - 1) * size < max(N, 1) and items * size >= N


def test_linear_without_rows_has_no_gradient():
    layer = fr.Linear(3, 2, activation="tanh", dtype="float64")
    y, tape = layer.forward(np.zeros((0, 3)))
    dx, grads = layer.backward(tape, np.zeros((0, 2)))
    assert y.shape == (0, 2) and dx.shape == (0, 3) and not grads.flat.any()


def test_a_row_of_nan_stays_alone():
    layer, x = fr.Linear(3, 2, dtype="float64"), np.ones((9, 3))
    expected, _ = layer.forward(x)
    x[4, 1] = np.nan
    y, _ = layer.forward(x)
    assert np.isnan(y[4]).all() and np.delete(y, 4, 0).tobytes() == np.delete(expected, 4, 0).tobytes()


def test_backward_leaves_its_arguments_alone():
    layer, rng = fr.Linear(3, 2, activation="sigmoid", dtype="float64"), np.random.default_rng(0)
    x, dy = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    x.flags.writeable = dy.flags.writeable = False
    y, tape = layer.forward(x)
    kept = y.copy()
    first, second = layer.backward(tape, dy), layer.backward(tape, dy)
    assert first[0].tobytes() == second[0].tobytes() and first[1].flat.tobytes() == second[1].flat.tobytes() and np.array_equal(y, kept)


def test_linear_takes_what_has_a_plain_meaning():
    layer = fr.Linear(3, 2, dtype="float64", seed=4)
    x = np.random.default_rng(0).standard_normal((4, 3)).round(2)
    expected, tape = layer.forward(x)
    strided = np.zeros((8, 6))
    strided[::2, ::2] = x
    for same in (x.tolist(), np.asfortranarray(x), strided[::2, ::2], x.astype(x.dtype.newbyteorder())):
        y, _ = layer.forward(same)
        assert y.tobytes() == expected.tobytes()
    assert layer.forward([[1, 2, 3]])[0].tobytes() == layer.forward([[1.0, 2.0, 3.0]])[0].tobytes()
    dx, _ = layer.backward(tape, np.ones((4, 2)))
    assert layer.backward(tape, [[1, 1]] * 4)[0].tobytes() == dx.tobytes()


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones((2, 4)), ValueError, r"x: shape \(\.\.\., 3\) is required; got \(2, 4\)"),
        (1.0, ValueError, r"x: shape \(3,\) is required; got \(\)"),
        ([[1.0, 2.0, 3.0], [1.0]], TypeError, "x: an array of shape"),
        (np.ones((2, 3), object), TypeError, "x: real numbers are required; got dtype object"),
        (np.ones((2, 3), complex), TypeError, "x: real numbers are required; got dtype complex128"),
        (np.array([["a", "b", "c"]]), TypeError, "x: real numbers are required"),
        (None, TypeError, "x: real numbers are required"),
    ],
)
def test_linear_names_bad_input(x, error, words):
    with pytest.raises(error, match=words):
        fr.Linear(3, 2).forward(x)


def test_linear_names_bad_gradients_and_options():
    layer = fr.Linear(3, 2)
    _, tape = layer.forward(np.ones((4, 3)))
    for bad in (np.ones((4, 3)), np.ones((3, 2)), np.ones(2), 1.0):
        with pytest.raises(ValueError, match=r"dy: shape \(4, 2\) is required"):
            layer.backward(tape, bad)
    with pytest.raises(ValueError, match="activation: one of 'tanh', .* is required; got 'softmax'"):
        fr.Linear(3, 2, activation="softmax")
    with pytest.raises(ValueError, match="input_size: an integer at least 1 is required; got 0"):
        fr.Linear(0, 2)
    with pytest.raises(TypeError, match="output_size: an integer is required; got 2.5"):
        fr.Linear(3, 2.5)
    with pytest.raises(ValueError, match="dtype: 'float32' or 'float64' is required; got 'float16'"):
        fr.Linear(3, 2, dtype="float16")


def test_linear_is_drawn_as_pytorch_draws_and_rebuilt_from_its_configuration():
    layer = fr.Linear(16, 400, activation="relu", dtype="float64", seed=7)
    again = fr.Linear(**layer.config())
    assert again.params.flat.tobytes() == layer.params.flat.tobytes() and again.config() == layer.config()
    assert 0.24 < np.abs(layer.params.flat).max() <= 0.25
    assert fr.Linear(16, 400, dtype="float64", seed=8).params.flat.tobytes() != layer.params.flat.tobytes()


# Embedding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("group", [None, 2])
def test_embedding(dtype, group):
    layer, rng = fr.Embedding(6, 3, group=group, dtype=dtype, seed=1), np.random.default_rng(0)
    x = rng.integers(0, 6, (5, 4, 2))
    y, tape = layer.forward(x)
    expected = layer.params["weight"][x]
    expected = expected.reshape(5, 4, 6) if group else expected
    assert y.shape == expected.shape and y.dtype == dtype and np.array_equal(y, expected)
    assert y.shape[-1] == layer.output_size
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx, grads = layer.backward(tape, dy)
    table = np.zeros((6, 3), dtype)
    np.add.at(table, x.reshape(-1), dy.reshape(-1, 3))
    assert dx is None and grads["weight"].tobytes() == table.tobytes()  # symbol by symbol in order: the same bits
    y[...] = 0.0
    assert layer.params["weight"].any()  # y is a copy


def test_embedding_of_every_shape():
    layer = fr.Embedding(4, 3, dtype="float64")
    for shape in ((5,), (0,), (2, 0), (2, 3), (2, 3, 4)):
        y, tape = layer.forward(np.zeros(shape, np.int64))
        assert y.shape == (*shape, 3)
        assert layer.backward(tape, np.ones_like(y))[1]["weight"].sum() == 3 * np.prod(shape)
    for same in ([0, 3], np.array([0, 3], np.uint8), np.array([0, 9, 3])[::2], np.array([0, 3], ">i4")):
        assert np.array_equal(layer.forward(same)[0], layer.params["weight"][[0, 3]])


@pytest.mark.parametrize(
    ("group", "x", "error", "words"),
    [
        (None, [0, 4], ValueError, "x: integers from 0 to 3 are required; got 4"),
        (None, [-1], ValueError, "x: integers from 0 to 3 are required; got -1"),
        (None, [0.0], TypeError, "x: integers are required; got dtype float64"),
        (None, [True], TypeError, "x: integers are required; got dtype bool"),
        (None, ["a"], TypeError, "x: integers are required"),
        (None, [[0], [1, 2]], TypeError, "x: an integer array of shape"),
        (None, np.array([0], object), TypeError, "x: integers are required; got dtype object"),
        (None, np.array([2**63], np.uint64), ValueError, "x: integers from 0 to 3 are required; got 9223372036854775808"),
        (2, [[0, 1, 2]], ValueError, r"x: shape \(\.\.\., 2\) \(symbols\) is required; got \(1, 3\)"),
        (2, 1, ValueError, r"x: shape \(2,\) \(symbols\) is required; got \(\)"),
    ],
)
def test_embedding_names_bad_input(group, x, error, words):
    with pytest.raises(error, match=words):
        fr.Embedding(4, 3, group=group).forward(x)


def test_embedding_names_bad_gradients():
    """A gradient of another shape must not reach the kernel, which would read beyond it."""
    for group, required in ((None, r"\(2, 4, 3\)"), (4, r"\(2, 12\)")):
        layer = fr.Embedding(5, 3, group=group)
        _, tape = layer.forward(np.zeros((2, 4), np.int64))
        for bad in (np.ones((2, 4)), np.ones((8, 3)), np.ones((2, 3, 3)), np.ones(0)):
            with pytest.raises(ValueError, match=f"dy: shape {required} is required"):
                layer.backward(tape, bad)


def test_embedding_is_rebuilt_from_its_configuration():
    layer = fr.Embedding(5, 3, group=2, dtype="float64", seed=7)
    assert fr.Embedding(**layer.config()).params.flat.tobytes() == layer.params.flat.tobytes()
    for options in ({"num_symbols": 0}, {"dimension": 0}, {"group": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: an integer at least 1"):
            fr.Embedding(**({"num_symbols": 5, "dimension": 3} | options))


# Dropout ------------------------------------------------------------------------------------------------------------


def test_dropout():
    layer, x = fr.Dropout(0.25), np.random.default_rng(0).standard_normal((50, 40))
    y, mask = layer.forward(x, rng=np.random.default_rng(1))
    assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)} or np.allclose(np.unique(mask), [0.0, 4 / 3])
    assert np.array_equal(y, x * mask) and abs((mask == 0).mean() - 0.25) < 0.04 and abs(mask.mean() - 1.0) < 0.06
    again, _ = layer.forward(x, rng=np.random.default_rng(1))
    other, _ = layer.forward(x, rng=np.random.default_rng(2))
    assert np.array_equal(again, y) and not np.array_equal(other, y)
    dy = np.random.default_rng(3).standard_normal(x.shape)
    dx, grads = layer.backward(mask, dy)
    assert np.array_equal(dx, dy * mask) and len(grads) == 0


def test_dropout_does_nothing_without_a_generator_or_a_rate():
    x = np.ones((2, 3))
    for layer, rng in ((fr.Dropout(0.5), None), (fr.Dropout(0.0), np.random.default_rng(0))):
        y, tape = layer.forward(x, rng=rng)
        assert y is x and layer.backward(tape, x)[0] is x


@pytest.mark.parametrize("x", [[[1, 2, 3]] * 40, np.ones((40, 3), np.int64), np.ones((40, 3), "float32"), np.ones((40, 3), ">f8")])
def test_dropout_scales_whatever_it_is_given(x):
    """Integers are not rounded: 1 / (1 - 0.3) is no integer."""
    y, _ = fr.Dropout(0.3).forward(x, rng=np.random.default_rng(0))
    kept = y[y != 0]
    np.testing.assert_allclose(kept, np.broadcast_to(np.asarray(x, float), y.shape)[y != 0] / 0.7, rtol=1e-6)
    assert 0 < kept.size < y.size and y.dtype == ("float32" if getattr(x, "dtype", None) == np.float32 else "float64")


def test_dropout_names_bad_input():
    for bad in (1.0, -0.1, 2, np.nan):
        with pytest.raises(ValueError, match="rate: a"):
            fr.Dropout(bad)
    with pytest.raises(TypeError, match="rate: a real number is required; got 'half'"):
        fr.Dropout("half")
    with pytest.raises(TypeError, match="x: real numbers are required"):
        fr.Dropout(0.5).forward(np.ones(3, object), rng=np.random.default_rng(0))
    _, tape = fr.Dropout(0.5).forward(np.ones((4, 3)), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"dy: shape \(4, 3\) is required; got \(3,\)"):
        fr.Dropout(0.5).backward(tape, np.ones(3))

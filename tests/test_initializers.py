import json

import numpy as np
import pytest
from scipy import stats

from fastrnn.initializers import (
    REGISTRY,
    Constant,
    Glorot,
    Identity,
    Normal,
    Orthogonal,
    Sparse,
    SpectralRadius,
    Uniform,
    from_config,
)

ALL = [
    Uniform(),
    Uniform(0.2),
    Normal(0.1),
    Glorot(),
    Orthogonal(2.0),
    Identity(0.5),
    Sparse(3, 0.1),
    SpectralRadius(0.9),
    SpectralRadius(0.95, Sparse(5, 0.01)),
    Constant(3.0),
]
H = 20


def draw(initializer, shape=(4 * H, H), seed=0, hidden_size=H):
    return initializer(shape, np.random.default_rng(seed), hidden_size=hidden_size)


def blocks(weights, hidden_size=H):
    return weights.reshape(-1, hidden_size, weights.shape[1])


def test_every_kind_is_here():
    assert {type(initializer).__name__ for initializer in ALL} == set(REGISTRY)


@pytest.mark.parametrize("initializer", ALL, ids=str)
def test_a_seed_gives_the_same_float64_weights(initializer):
    weights = draw(initializer)
    assert weights.shape == (4 * H, H) and weights.dtype == np.float64 and weights.flags.c_contiguous
    assert np.array_equal(draw(initializer), weights)
    if not isinstance(initializer, (Identity, Constant)):
        assert not np.array_equal(draw(initializer, seed=1), weights)


@pytest.mark.parametrize("initializer", ALL, ids=str)
def test_config_survives_json(initializer):
    twin = from_config(json.loads(json.dumps(initializer.config())))
    assert twin == initializer and np.array_equal(draw(twin), draw(initializer))


@pytest.mark.parametrize("initializer", [Uniform(), Normal(0.1), Constant(3.0)], ids=str)
def test_vectors_may_be_drawn(initializer):
    assert draw(initializer, (3 * H,)).shape == (3 * H,)


@pytest.mark.parametrize("initializer", ALL, ids=str)
def test_no_inputs_no_weights(initializer):
    if not isinstance(initializer, SpectralRadius):
        assert draw(initializer, (4 * H, 0)).shape == (4 * H, 0)


@pytest.mark.parametrize("initializer, law", [
    (Uniform(), stats.uniform(-1 / np.sqrt(H), 2 / np.sqrt(H))),
    (Uniform(0.3), stats.uniform(-0.3, 0.6)),
    (Normal(0.3), stats.norm(0, 0.3)),
    (Glorot(), stats.uniform(-np.sqrt(6 / (H + 50)), 2 * np.sqrt(6 / (H + 50)))),
])  # fmt: skip
def test_distributions(initializer, law):
    weights = draw(initializer, (4 * H, 50)).ravel()
    assert stats.kstest(weights, law.cdf).pvalue > 1e-3


def test_uniform_matches_pytorch_in_range():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(3, H).weight_hh_l0.detach().numpy()
    ours = draw(Uniform())
    assert np.abs(theirs).max() <= H**-0.5 and np.abs(ours).max() <= H**-0.5
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)


@pytest.mark.parametrize("columns", [H, 7, 45])
def test_orthogonal_blocks(columns):
    for block in blocks(draw(Orthogonal(2.0), (3 * H, columns))):
        small = block @ block.T if columns >= H else block.T @ block
        assert np.abs(small - 4 * np.eye(min(H, columns))).max() < 1e-13
    first, second, _ = blocks(draw(Orthogonal(), (3 * H, columns)))
    assert not np.allclose(first, second)


def test_orthogonal_is_uniform_over_the_group():
    traces = [np.trace(draw(Orthogonal(), (2, 2), seed, 2)) for seed in range(400)]
    # the trace of a uniform 2-by-2 orthogonal matrix: 0 for a reflection (half of them), 2 cos(angle) for a rotation
    rotations = np.array([trace for trace in traces if abs(trace) > 1e-9])
    assert 150 < len(rotations) < 250
    assert stats.kstest(np.arccos(rotations / 2) / np.pi, "uniform").pvalue > 1e-3


def test_identity_blocks():
    for columns in (H, 7, 45):
        for block in blocks(draw(Identity(0.5), (3 * H, columns))):
            assert np.array_equal(block, 0.5 * np.eye(H, columns))


def test_sparse_rows():
    weights = draw(Sparse(15, 0.1), (4 * H, 40))
    assert ((weights != 0).sum(axis=1) == 15).all()
    assert stats.kstest(weights[weights != 0], stats.norm(0, 0.1).cdf).pvalue > 1e-3
    used = (weights != 0).sum(axis=0)  # every column about as often as any other: 80 rows, 15 of 40 columns each
    assert used.min() >= 12 and used.max() <= 48
    assert (draw(Sparse(15), (4, 3), hidden_size=4) != 0).all()
    assert not draw(Sparse(0)).any()


@pytest.mark.parametrize(
    "initializer", [SpectralRadius(0.9), SpectralRadius(1.5, Uniform()), SpectralRadius(0.95, Sparse())]
)
def test_spectral_radius_of_every_block(initializer):
    radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks(draw(initializer))]
    assert radii == pytest.approx([initializer.radius] * 4, rel=1e-12)


def test_spectral_radius_keeps_the_direction_of_its_base():
    ratio = draw(SpectralRadius(0.5, Normal(3.0)), (H, H)) / draw(Normal(3.0), (H, H))
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-12)


def test_rows_that_are_no_multiple_of_the_hidden_size_are_one_block():
    q = draw(Orthogonal(), (30, 30))
    assert np.abs(q @ q.T - np.eye(30)).max() < 1e-13
    assert np.abs(np.linalg.eigvals(draw(SpectralRadius(0.9), (30, 30)))).max() == pytest.approx(0.9)


@pytest.mark.parametrize("make, error, words", [
    (lambda: draw(Glorot(), (H,)), ValueError, r"shape: a matrix is required; got \(20,\)"),
    (lambda: draw(Sparse(), (2, 2, 2)), ValueError, "shape: a matrix"),
    (lambda: draw(SpectralRadius(1.0), (4 * H, 3)), ValueError, r"shape: square blocks, \(G·H, H\), .* got \(80, 3\)"),
    (lambda: draw(SpectralRadius(1.0, Constant(0.0))), ValueError, "base: a spectral radius greater than 0"),
    (lambda: draw(Uniform(), (-1, 2)), ValueError, "shape: an integer at least 0"),
    (lambda: Uniform()((2, 2), 0, hidden_size=2), TypeError, "rng: a numpy.random.Generator is required; got 0"),
    (lambda: draw(Uniform(), hidden_size=0), ValueError, "hidden_size: an integer at least 1"),
    (lambda: Uniform(-1), ValueError, "scale: a number of at least 0"),
    (lambda: Normal("1"), TypeError, "std: a real number"),
    (lambda: Orthogonal(np.nan), ValueError, "gain: a finite number"),
    (lambda: Identity(None), TypeError, "scale: a real number"),
    (lambda: Sparse(1.5), TypeError, "nonzeros: an integer"),
    (lambda: SpectralRadius(-1), ValueError, "radius: a number of at least 0"),
    (lambda: SpectralRadius(1, "normal"), TypeError, "base: an initializer is required; got 'normal'"),
    (lambda: Constant(np.inf), ValueError, "value: a finite number"),
    (lambda: from_config({"kind": "Initializer"}), ValueError, "initializer: one of 'Uniform', "),
    (lambda: from_config({"value": 1}), ValueError, "initializer: one of"),
])  # fmt: skip
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()

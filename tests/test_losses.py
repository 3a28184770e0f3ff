import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from fastrnn import losses
from fastrnn.losses import REGISTRY, BinaryCrossEntropy, CrossEntropy, MeanSquaredError, from_config

KINDS = sorted(REGISTRY)
GRADIENT = 1e-14  # float64 against complex step, elementwise; gradients here are of size 0.1
VALUE = 1e-14


def draw(kind, shape, seed=0):
    """A random prediction of the given shape, and a target that suits the loss."""
    rng = np.random.default_rng(seed)
    prediction = 3 * rng.standard_normal(shape)
    if kind == "CrossEntropy":
        return prediction, rng.integers(0, shape[-1], shape[:-1])
    if kind == "BinaryCrossEntropy":
        return prediction, rng.random(shape)
    return prediction, rng.standard_normal(shape)


def each(kind, z, target):
    """The loss of every target by the textbook's formula; takes complex z."""
    if kind == "CrossEntropy":
        return logsumexp(z, axis=-1) - np.take_along_axis(z, target[..., None], -1)[..., 0]
    if kind == "BinaryCrossEntropy":
        return (np.log(1 + np.exp(z)) - z * target).mean(-1)
    return ((z - target) ** 2).mean(-1)


def naive(kind, z, target, lengths=None, weights=None):
    """The weighted mean of `each` over the valid targets."""
    w = np.ones(z.shape[:-1]) if weights is None else np.broadcast_to(weights, z.shape[:-1]).copy()
    if lengths is not None:
        w[np.arange(len(z))[:, None] >= lengths] = 0
    return (w * each(kind, z, target)).sum() / w.sum(), w.sum()


def complex_step(f, z):
    gradient = np.empty(z.shape)
    for i in np.ndindex(z.shape):
        moved = z.astype(complex)
        moved[i] += 1e-30j
        gradient[i] = f(moved).imag / 1e-30
    return gradient


def weights_for(case, T, B):
    rng = np.random.default_rng(7)
    return {"none": None, "sequence": rng.random(B), "step": rng.random((T, B))}[case]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["none", "sequence", "step"])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
def test_value_and_gradient_of_every_step(kind, weighting, lengths):
    z, target = draw(kind, (4, 3, 5))
    weights = weights_for(weighting, 4, 3)
    value, gradient, weight = REGISTRY[kind]().value_and_gradient(z, target, lengths, weights)
    lengths = lengths and np.array(lengths)
    expected, total = naive(kind, z, target, lengths, weights)
    assert type(value) is float and type(weight) is float
    assert value == pytest.approx(expected, rel=VALUE) and weight == pytest.approx(total, rel=VALUE)
    step = complex_step(lambda moved: naive(kind, moved, target, lengths, weights)[0], z)
    assert gradient.dtype == np.float64 and np.abs(gradient - step).max() <= GRADIENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["none", "sequence"])
def test_value_and_gradient_of_one_target_a_sequence(kind, weighting):
    z, target = draw(kind, (6, 3))
    weights = weights_for(weighting, 1, 6)
    value, gradient, weight = REGISTRY[kind]().value_and_gradient(z, target, None, weights)
    expected, total = naive(kind, z, target, None, weights)
    assert value == pytest.approx(expected, rel=VALUE) and weight == pytest.approx(total, rel=VALUE)
    step = complex_step(lambda moved: naive(kind, moved, target, None, weights)[0], z)
    assert np.abs(gradient - step).max() <= GRADIENT
    assert REGISTRY[kind]()(z, target, None, weights) == value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_pytorch(kind, dtype):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    names = {
        "CrossEntropy": lambda z, y: functional.cross_entropy(z.flatten(0, 1), y.flatten()),
        "BinaryCrossEntropy": functional.binary_cross_entropy_with_logits,
        "MeanSquaredError": functional.mse_loss,
    }
    z, target = draw(kind, (4, 3, 5))
    z = z.astype(dtype)
    target = target if kind == "CrossEntropy" else target.astype(dtype)
    theirs = torch.tensor(z, requires_grad=True)
    loss = names[kind](theirs, torch.tensor(target))
    loss.backward()
    value, gradient, _ = REGISTRY[kind]().value_and_gradient(z, target)
    tolerance = 1e-15 if dtype == "float64" else 5e-7
    assert value == pytest.approx(loss.item(), rel=10 * tolerance)
    assert gradient.dtype == dtype and np.abs(gradient - theirs.grad.numpy()).max() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_float64_rounded_once(kind):
    z, target = draw(kind, (4, 3, 5))
    z = z.astype("float32")
    value, gradient, _ = REGISTRY[kind]().value_and_gradient(z, target)
    value64, gradient64, _ = REGISTRY[kind]().value_and_gradient(z.astype("float64"), target)
    assert value == value64 and np.array_equal(gradient, gradient64.astype("float32"))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_reaches_nothing(kind):
    z, target = draw(kind, (5, 3, 4))
    lengths, weights = np.array([0, 5, 2]), weights_for("step", 5, 3)
    loss = REGISTRY[kind]()
    clean = loss.value_and_gradient(z, target, lengths, weights)
    metrics = loss.metrics(z, target, lengths, weights)
    padding = np.arange(5)[:, None] >= lengths
    z[padding], weights[padding] = np.nan, np.nan
    target[padding] = -(2**62)
    if kind != "CrossEntropy":
        target[-1, 0] = np.nan
    value, gradient, weight = loss.value_and_gradient(z, target, lengths, weights)
    assert (value, weight) == (clean[0], clean[2]) and np.array_equal(gradient, clean[1])
    assert not gradient[padding].any() and gradient[~padding].all()
    assert loss.metrics(z, target, lengths, weights) == metrics


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_zero_is_as_good_as_absent(kind):
    z, target = draw(kind, (4, 3))
    loss = REGISTRY[kind]()
    few = loss.value_and_gradient(z[1:], target[1:])
    target[0] = -1 if kind == "CrossEntropy" else np.nan
    z[0] = np.nan
    value, gradient, weight = loss.value_and_gradient(z, target, weights=[0, 1, 1, 1])
    assert (value, weight) == (few[0], few[2])
    assert np.array_equal(gradient[1:], few[1]) and not gradient[0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_integer_weights_count_like_repetitions(kind):
    z, target = draw(kind, (3, 4))
    copies = [3, 1, 2]
    loss = REGISTRY[kind]()
    value, gradient, weight = loss.value_and_gradient(z, target, weights=copies)
    again, repeated, _ = loss.value_and_gradient(np.repeat(z, copies, 0), np.repeat(target, copies, 0))
    assert weight == 6 and value == pytest.approx(again, rel=VALUE)
    assert np.abs(gradient - np.add.reduceat(repeated, [0, 3, 4])).max() <= GRADIENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape, lengths, weights", [
    ((3, 2, 4), [0, 0], None),
    ((3, 2, 4), None, [0, 0]),
    ((0, 2, 4), None, None),
    ((3, 0, 4), None, None),
    ((0, 4), None, None),
])  # fmt: skip
def test_nothing_counts(kind, shape, lengths, weights):
    z, target = draw(kind, shape)
    loss = REGISTRY[kind]()
    value, gradient, weight = loss.value_and_gradient(z, target, lengths, weights)
    assert (value, weight) == (0.0, 0.0) and gradient.shape == shape and not gradient.any()
    assert set(loss.metrics(z, target, lengths, weights).values()) <= {0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_knows_the_others_through_the_total_weight_alone(kind):
    z, target = draw(kind, (7, 8, 5))
    loss = REGISTRY[kind]()
    whole = loss.value_and_gradient(z, target)[1]
    for b in (0, 3, 7):  # an eighth of the total weight: exact in binary
        alone = loss.value_and_gradient(z[:, b : b + 1], target[:, b : b + 1])[1]
        assert np.array_equal(alone / 8, whole[:, b : b + 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_at_large_logits(dtype):
    z = np.array([[1e4, -1e4], [1e4, -1e4], [1e4, 1e4]], dtype)
    value, gradient, _ = CrossEntropy().value_and_gradient(z, [0, 1, 0], weights=[1, 0, 0])
    assert value == 0.0 and not gradient.any()
    value, gradient, _ = CrossEntropy().value_and_gradient(z, [0, 1, 0])
    assert value == pytest.approx((2e4 + np.log(2)) / 3, rel=VALUE)
    expected = np.array([[0, 0], [1, -1], [-0.5, 0.5]]) / 3
    assert np.abs(gradient - expected).max() <= np.finfo(dtype).eps and not gradient[0].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_at_large_logits(dtype):
    z = np.array([[1e4], [-1e4], [1e4], [-1e4]], dtype)
    value, gradient, _ = BinaryCrossEntropy().value_and_gradient(z, [1, 0, 0, 1])
    assert value == 5e3 and gradient.ravel().tolist() == [0, 0, 0.25, -0.25]


def test_full_accuracy_where_the_network_is_sure():
    value, gradient, _ = CrossEntropy().value_and_gradient([[50.0, 0.0, 0.0]], [0])
    assert value == pytest.approx(2 * np.exp(-50), rel=1e-14, abs=0)
    assert gradient[0].tolist() == pytest.approx(np.exp(-50) * np.array([-2, 1, 1]), rel=1e-14, abs=0)
    value, gradient, _ = BinaryCrossEntropy().value_and_gradient([[50.0, -50.0]], [[1, 0]])
    assert value == pytest.approx(np.exp(-50), rel=1e-14, abs=0)
    assert gradient[0].tolist() == pytest.approx(np.exp(-50) * np.array([-0.5, 0.5]), rel=1e-14, abs=0)


def test_large_offsets_cancel():
    z, target = draw("CrossEntropy", (5, 4))
    z = np.round(z * 2**20) / 2**20  # so that adding 4096 is exact
    assert CrossEntropy()(z + 4096, target) == CrossEntropy()(z, target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_show(kind, bad):
    z, target = draw(kind, (3, 4))
    z[1] = bad
    with np.errstate(all="ignore"):  # compiled code warns of nothing; plain Python would
        assert not np.isfinite(REGISTRY[kind]()(z, target))


@pytest.mark.parametrize("kind", ["BinaryCrossEntropy", "MeanSquaredError"])
def test_the_last_axis_of_a_target_may_go_where_there_is_one_output(kind):
    z, target = draw(kind, (4, 3, 1))
    loss = REGISTRY[kind]()
    assert loss(z, target[..., 0]) == loss(z, target)
    assert loss(z[0], target[0, :, 0]) == loss(z[0], target[0])
    assert loss.metrics(z, target[..., 0]) == loss.metrics(z, target)


def test_accuracy():
    z = np.array([[[2.0, 1.0], [0.0, 1.0]], [[5.0, 5.0], [3.0, 4.0]]])
    labels = [[0, 0], [0, 1]]  # right, wrong, right (the first of equals), right
    accuracy = CrossEntropy()
    assert accuracy.metrics(z, labels) == {"accuracy": 0.75}
    assert accuracy.metrics(z, labels, lengths=[1, 1]) == {"accuracy": 0.5}
    assert accuracy.metrics(z, labels, weights=[[1, 5], [1, 1]]) == {"accuracy": 3 / 8}
    binary = BinaryCrossEntropy()
    assert binary.metrics([[1.0, -1.0], [1.0, 2.0]], [[1, 0], [0, 0.9]]) == {"accuracy": 0.75}
    assert binary.metrics([[1.0, -1.0], [1.0, 2.0]], [[1, 0], [0, 0.9]], weights=[1, 0]) == {"accuracy": 1.0}
    assert MeanSquaredError().metrics([[1.0]], [[1.0]]) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("disguise", [
    lambda a: a.tolist(),
    lambda a: a.astype(a.dtype.newbyteorder()),
    lambda a: np.repeat(a, 2, -1)[..., ::2],
    np.asfortranarray,
    lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
], ids=["list", "byte-swapped", "strided", "fortran", "read-only"])  # fmt: skip
def test_arrays_in_disguise(kind, disguise):
    z, target = draw(kind, (4, 3, 2))
    lengths, weights = np.array([4, 1, 0]), weights_for("step", 4, 3)
    loss = REGISTRY[kind]()
    value, gradient, _ = loss.value_and_gradient(z, target, lengths, weights)
    again = loss.value_and_gradient(*map(disguise, (z, target, lengths, weights)))
    assert again[0] == value and np.array_equal(again[1], gradient)


def test_whole_numbers_are_predictions_too():
    value, gradient, _ = MeanSquaredError().value_and_gradient(np.array([[1], [3]]), np.array([[1], [1]]))
    assert value == 2.0 and gradient.dtype == np.float64


LOGITS, LABELS = np.zeros((4, 2, 3)), np.zeros((4, 2), int)


@pytest.mark.parametrize("arguments, error, words", [
    ((np.zeros(3), LABELS), ValueError, r"prediction: shape \(B, O\) or \(T, B, O\) or .* is required; got \(3,\)"),
    ((np.zeros((2, 2, 2, 2, 2)), LABELS), ValueError, "prediction: shape"),
    ((np.zeros((2, 2, 2, 2)), LABELS), ValueError, r"target: shape \(2, 2, 2\)"),
    ((np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2), int), [1, 2]), ValueError, r"sizes: shape \(2, 2\)"),
    ((np.zeros((4, 2, 0)), LABELS), ValueError, "prediction: at least one output"),
    ((LOGITS + 0j, LABELS), TypeError, "prediction: real numbers"),
    (([[1.0], [1.0, 2.0]], [0, 0]), TypeError, "prediction: real numbers"),
    ((np.array([["a", "b"]]), [0]), TypeError, "prediction: real numbers"),
    ((LOGITS, LABELS[1:]), ValueError, r"target: shape \(4, 2\) .* required; got \(3, 2\)"),
    ((LOGITS, LABELS[..., None]), ValueError, "target: shape"),
    ((LOGITS, LABELS.astype(float)), TypeError, "target: integers are required; got dtype float64"),
    ((LOGITS, LABELS + 3), ValueError, "target: labels from 0 to 2 are required for 3 outputs; got 3"),
    ((LOGITS, LABELS - 1), ValueError, "target: labels from 0 to 2 .* got -1"),
    ((LOGITS, LABELS, [4]), ValueError, "lengths: shape"),
    ((LOGITS, LABELS, [4, 5]), ValueError, "lengths: integers from 0 to 4 are required; got 5"),
    ((LOGITS, LABELS, [4, -1]), ValueError, "lengths: .* got -1"),
    ((LOGITS, LABELS, [4.0, 1.0]), TypeError, "lengths: integers"),
    ((LOGITS, LABELS, None, [1, 2, 3]), ValueError, r"weights: shape \(2,\) \(one a sequence\) .* got \(3,\)"),
    ((LOGITS, LABELS, None, np.ones((2, 4))), ValueError, r"weights: shape \(4, 2\) \(one a step\)"),
    ((LOGITS[0], LABELS[0], None, np.ones((4, 2))), ValueError, r"weights: shape \(2,\)"),
    ((LOGITS, LABELS, None, [1, -1]), ValueError, "weights: finite numbers of at least 0 are required; got -1"),
    ((LOGITS, LABELS, None, [1, np.nan]), ValueError, "weights: .* got nan"),
    ((LOGITS, LABELS, None, [1, np.inf]), ValueError, "weights: .* got inf"),
    ((LOGITS, LABELS, None, ["1", "2"]), TypeError, "weights: real numbers"),
])  # fmt: skip
def test_bad_arguments_are_named(arguments, error, words):
    for method in (CrossEntropy().value_and_gradient, CrossEntropy().metrics):
        with pytest.raises(error, match=words):
            method(*arguments)


@pytest.mark.parametrize("loss, target, words", [
    (BinaryCrossEntropy(), np.full((2, 3), 1.5), "target: probabilities from 0 to 1 are required; got 1.5"),
    (BinaryCrossEntropy(), np.full((2, 3), -0.5), "target: probabilities from 0 to 1 are required; got -0.5"),
    (BinaryCrossEntropy(), np.zeros(2), r"target: shape \(2, 3\) \(the prediction's\) is required; got \(2,\)"),
    (MeanSquaredError(), np.zeros((3, 2)), "target: shape"),
])  # fmt: skip
def test_bad_values_are_named(loss, target, words):
    with pytest.raises(ValueError, match=words):
        loss(np.zeros((2, 3)), target)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_that_are_not_numbers_show_in_the_loss(kind):
    if kind != "CrossEntropy":
        z, target = draw(kind, (2, 3))
        target[0, 0] = np.nan
        assert np.isnan(REGISTRY[kind]()(z, target))


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), T=st.integers(0, 5), B=st.integers(0, 5), O=st.integers(1, 19), data=st.data())
def test_any_shape(kind, T, B, O, data):
    z, target = draw(kind, (T, B, O))
    lengths = np.array(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), int)
    value, gradient, weight = REGISTRY[kind]().value_and_gradient(z, target, lengths)
    assert weight == lengths.sum() and gradient.shape == z.shape
    if weight:
        assert value == pytest.approx(naive(kind, z, target, lengths)[0], rel=1e-13)
    valid = np.arange(T)[:, None] < lengths
    assert not gradient[~valid].any()
    if kind == "CrossEntropy":
        assert np.abs(gradient.sum(-1)).max(initial=0) <= 1e-15
        assert value == pytest.approx(-np.sum(log_softmax(z, -1)[valid, target[valid]]) / max(weight, 1), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_as_plain_python(kind, monkeypatch):
    z, target = draw(kind, (4, 3, 5))
    z[0] *= 1e3
    loss, arguments = REGISTRY[kind](), (z, target, [4, 0, 2], [1, 2, 3])
    compiled = loss.value_and_gradient(*arguments)
    for name in ("_cross_entropy", "_binary_cross_entropy", "_mean_squared_error"):
        function = getattr(losses, name)
        monkeypatch.setattr(losses, name, getattr(function, "py_func", function))
    plain = loss.value_and_gradient(*arguments)
    assert plain[0] == pytest.approx(compiled[0], rel=VALUE) and plain[2] == compiled[2]
    assert np.abs(plain[1] - compiled[1]).max() <= GRADIENT * max(1, np.abs(compiled[1]).max())


@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(kind):
    loss = REGISTRY[kind]()
    again = from_config(json.loads(json.dumps(loss.config())))
    assert type(again) is type(loss) and again.name == loss.name and repr(again) == f"{kind}()"


@pytest.mark.parametrize("config", [{}, {"kind": "Loss"}, {"kind": "os.system"}, {"kind": ["CrossEntropy"]}])
def test_unknown_losses_are_named(config):
    with pytest.raises(ValueError, match="loss: one of 'CrossEntropy', 'BinaryCrossEntropy', 'MeanSquaredError'"):
        from_config(config)


def test_images_are_steps_in_two_dimensions():
    """Pixels in any order are steps of a sequence: the same mean, and nothing beyond an image's size counts."""
    rng, sizes = np.random.default_rng(0), np.array([[3, 4], [1, 2]])
    logits, labels, weights = rng.normal(size=(3, 4, 2, 5)), rng.integers(0, 5, size=(3, 4, 2)), rng.random((3, 4, 2))
    rows, columns = np.indices((3, 4))
    beyond = (rows[..., None] >= sizes[:, 0]) | (columns[..., None] >= sizes[:, 1])
    counted = np.where(beyond, 0.0, weights)
    steps = [array.reshape(12, *array.shape[2:]) for array in (logits, labels, counted)]
    value, gradient, total = CrossEntropy().value_and_gradient(*steps[:2], weights=steps[2])
    logits[beyond], labels[beyond], weights[beyond] = np.nan, 99, -1.0
    with pytest.raises(ValueError, match="labels|weights"):
        CrossEntropy()(logits, labels, weights=weights)
    found = CrossEntropy().value_and_gradient(logits, labels, sizes, weights)
    assert found[0] == value and found[2] == total
    np.testing.assert_array_equal(found[1], gradient.reshape(3, 4, 2, 5))

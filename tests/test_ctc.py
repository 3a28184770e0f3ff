"""Connectionist temporal classification: held to the sum over all alignments, one by one, to PyTorch, and to what must hold."""

import itertools
import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import complex_step
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn import ctc, losses
from fastrnn.kernels.cpu import ctc as kernels

PROMISED = 1e-10  # against PyTorch, in float64


def collapse(path, blank=0):
    """The labelling an alignment stands for."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


@cache
def alignments(T, O, labels, blank):
    """All of a labelling's, (n, T)."""
    return np.array([p for p in itertools.product(range(O), repeat=T) if collapse(p, blank) == labels], int).reshape(-1, T)


def enumerated(z, labels, blank=0):
    """-log of the sum over alignments of the product of softmax(z), z (T, O), which may be complex."""
    T, O = z.shape
    y = np.exp(z - z.real.max()) / np.exp(z - z.real.max()).sum(axis=1, keepdims=True)
    return -np.log(y[np.arange(T), alignments(T, O, tuple(labels), blank)].prod(axis=1).sum())


def in_logs(z, labels, blank=0):
    """(loss, gradient) of one sequence by forward-backward in log space, as in Graves et al. 2006, cell by cell."""
    T, O = z.shape
    log_y = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    cells = [blank] + [symbol for label in labels for symbol in (label, blank)]

    def forward(log_y, cells):
        alpha = np.full((T, len(cells)), -np.inf)
        for t, s in itertools.product(range(T), range(len(cells))):
            jump = s > 1 and cells[s] != blank and cells[s] != cells[s - 2]
            before = [alpha[t - 1, s - d] for d in (0, 1, 2)[: 3 if jump else 2] if s >= d] if t else [0.0 if s < 2 else -np.inf]
            alpha[t, s] = log_y[t, cells[s]] + np.logaddexp.reduce(before)
        return alpha

    alpha, beta = forward(log_y, cells), forward(log_y[::-1], cells[::-1])[::-1, ::-1]
    total = np.logaddexp.reduce(alpha[-1, -2:])
    gradient = np.exp(log_y)
    for s, symbol in enumerate(cells):
        gradient[:, symbol] -= np.exp(alpha[:, s] + beta[:, s] - log_y[:, symbol] - total)
    return -total, gradient


def draw(T, B, O, counts, seed=0, blank=0):
    """Logits (T, B, O) and label sequences, a third of whose labels repeat the one before."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in counts:
        row = rng.choice(np.delete(np.arange(O), blank), n)
        for i in range(1, n):
            row[i] = row[i - 1] if rng.random() < 1 / 3 else row[i]
        rows.append(row.tolist())
    return 2 * rng.standard_normal((T, B, O)), rows


CASES = [  # T, O, labels, blank
    (1, 2, (), 0), (1, 3, (2,), 0), (3, 1, (), 0), (4, 3, (), 1), (4, 3, (1,), 0), (4, 3, (0, 2), 1),
    (5, 3, (1, 1), 0), (5, 3, (0, 0, 0), 2), (5, 3, (1, 2, 1), 0), (5, 4, (1, 1, 2), 0), (6, 3, (1, 2, 2, 1), 0), (3, 4, (3, 1, 2), 0),
]  # fmt: skip


@pytest.mark.parametrize("T, O, labels, blank", CASES)
def test_the_sum_over_all_alignments(T, O, labels, blank):
    z, _ = draw(T, 1, O, [])
    value, gradient, weight = fr.CTC(blank=blank).value_and_gradient(z, [list(labels)], None)
    assert type(value) is float and weight == 1.0
    assert value == pytest.approx(enumerated(z[:, 0], labels, blank), rel=1e-14, abs=1e-15)
    step = complex_step(lambda moved: enumerated(moved, labels, blank), z[:, 0])
    assert np.abs(gradient[:, 0] - step).max() <= TOLERANCES["ctc_gradient"]


def test_probabilities_of_all_labellings_add_up_to_one():
    T, O = 5, 3
    z, _ = draw(T, 1, O, [])
    labellings = sorted({collapse(path) for path in itertools.product(range(O), repeat=T)})
    values = [fr.CTC()(z, [list(labels)]) for labels in labellings]
    assert np.exp(-np.array(values)).sum() == pytest.approx(1.0, rel=1e-14)


LENGTHS, COUNTS = [40, 7, 0, 23, 1, 40, 12], [20, 3, 0, 11, 1, 0, 6]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("blank", [0, 11])
def test_agrees_with_pytorch(dtype, blank):
    torch = pytest.importorskip("torch")
    z, rows = draw(40, 7, 12, COUNTS, blank=blank)
    z = z.astype(dtype)
    theirs, flat = torch.tensor(z.astype("float64"), requires_grad=True), torch.tensor([label for row in rows for label in row])
    sizes = torch.tensor(LENGTHS), torch.tensor(COUNTS)
    options = {"reduction": "none", "zero_infinity": True, "blank": blank}
    each = torch.nn.functional.ctc_loss(theirs.log_softmax(-1), flat, *sizes, **options)
    each.mean().backward()
    loss = fr.CTC(blank=blank, infeasible="zero")
    value, gradient, weight = loss.value_and_gradient(z, rows, LENGTHS)
    assert (each == 0).sum() < 5 and weight == 7 and gradient.dtype == dtype
    assert value == pytest.approx(each.mean().item(), rel=PROMISED)
    assert np.abs(gradient - theirs.grad.numpy()).max() <= (PROMISED if dtype == "float64" else 1e-8)
    for b in range(7):
        if LENGTHS[b] and each[b] != 0:
            alone = loss(z[:, b : b + 1], [rows[b]], LENGTHS[b : b + 1])
            assert alone == pytest.approx(each[b].item(), rel=PROMISED)


def test_agrees_with_pytorch_at_the_size_of_the_benchmark():
    torch = pytest.importorskip("torch")
    z, rows = draw(200, 4, 50, [30, 60, 90, 1])
    theirs, flat = torch.tensor(z, requires_grad=True), torch.tensor(sum(rows, []))
    sizes = torch.full((4,), 200), torch.tensor([30, 60, 90, 1])
    expected = torch.nn.functional.ctc_loss(theirs.log_softmax(-1), flat, *sizes, reduction="sum") / 4
    expected.backward()
    value, gradient, _ = fr.CTC().value_and_gradient(z, rows)
    assert value == pytest.approx(expected.item(), rel=1e-12) and abs(value - expected.item()) <= PROMISED
    assert np.abs(gradient - theirs.grad.numpy()).max() <= PROMISED


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_forward_and_backward_in_log_space_cell_by_cell(scale):
    """At 1e4 probabilities of a step differ by exp(20000), and no float64 holds any cell's."""
    z, rows = draw(30, 3, 6, [9, 0, 4], seed=1)
    z *= scale
    value, gradient, _ = fr.CTC().value_and_gradient(z, rows, weights=[1, 1, 2])
    expected = [in_logs(z[:, b], rows[b]) for b in range(3)]
    assert value == pytest.approx((expected[0][0] + expected[1][0] + 2 * expected[2][0]) / 4, rel=TOLERANCES["ctc_logs"])
    for b, weight in enumerate((0.25, 0.25, 0.5)):
        assert np.abs(gradient[:, b] - weight * expected[b][1]).max() <= TOLERANCES["ctc_logs"] * max(1, scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite_at_large_logits(dtype):
    """Logits of size 1e4 that are all against the labelling, of which there is one alignment: the loss is a sum."""
    T, labels = 50, [1, 2] * 25
    z = np.full((T, 1, 4), -1e4, dtype)
    z[:, :, 3] = 1e4
    value, gradient, _ = fr.CTC().value_and_gradient(z, [labels])
    assert value == pytest.approx(T * 2e4, rel=1e-15)
    expected = np.zeros((T, 1, 4))
    expected[:, 0, 3], expected[np.arange(T), 0, labels] = 1, -1
    assert np.abs(gradient - expected).max() <= TOLERANCES["ctc_gradient"]
    value, gradient, _ = fr.CTC().value_and_gradient(-z, [labels])
    assert value == pytest.approx(T * np.log(3), rel=1e-14) and np.isfinite(gradient).all()


def test_long_sequences_do_not_underflow():
    T, S = 3000, 700
    z, rows = draw(T, 1, 3, [S], seed=2)
    value, gradient, _ = fr.CTC().value_and_gradient(z, rows)
    again, reverse, _ = fr.CTC().value_and_gradient(z[::-1], [rows[0][::-1]])
    assert 1000 < value < np.inf and value == pytest.approx(again, rel=1e-13)
    assert np.abs(gradient - reverse[::-1]).max() <= TOLERANCES["ctc_reversal"]
    assert np.abs(gradient.sum(axis=2)).max() <= TOLERANCES["ctc_reversal"]


@pytest.mark.parametrize("relation", ["time reversed", "symbols renamed", "logits shifted"])
def test_what_must_not_matter(relation):
    z, rows = draw(20, 2, 5, [6, 3], seed=3)
    z = np.round(z * 2**20) / 2**20  # so that adding 512 is exact
    value, gradient, _ = fr.CTC().value_and_gradient(z, rows)
    if relation == "time reversed":
        other, turned, _ = fr.CTC().value_and_gradient(z[::-1], [row[::-1] for row in rows])
        turned = turned[::-1]
    elif relation == "symbols renamed":
        names = np.array([3, 1, 4, 0, 2])
        renamed = np.empty_like(z)
        renamed[..., names] = z
        other, turned, _ = fr.CTC(blank=3).value_and_gradient(renamed, [names[row].tolist() for row in rows])
        turned = turned[..., names]
    else:
        other, turned, _ = fr.CTC().value_and_gradient(z + 512 * np.arange(-10, 10)[:, None, None], rows)
        assert other == value and np.array_equal(turned, gradient)
    assert other == pytest.approx(value, rel=1e-14)
    assert np.abs(turned - gradient).max() <= TOLERANCES["ctc_gradient"]


@settings(max_examples=40, deadline=None)
@given(T=st.integers(0, 12), B=st.integers(0, 4), O=st.integers(1, 19), data=st.data())
def test_any_shape(T, B, O, data):
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    counts = [data.draw(st.integers(0, n // 2)) if O > 1 else 0 for n in lengths]
    z, rows = draw(T, B, O, counts, seed=T + 13 * O)
    value, gradient, weight = fr.CTC().value_and_gradient(z, rows or np.zeros((0, 0), int), lengths)
    assert weight == B and gradient.shape == z.shape
    if B:
        expected = [in_logs(z[:n, b], rows[b]) if n else (0.0, None) for b, n in enumerate(lengths)]
        assert value == pytest.approx(sum(loss for loss, _ in expected) / B, rel=1e-13, abs=1e-14)
        for b, n in enumerate(lengths):
            assert not gradient[n:, b].any()
            if n:
                assert np.abs(B * gradient[:n, b] - expected[b][1]).max() <= 1e-13


# Bits, padding, weights ---------------------------------------------------------------------------------------------


def test_float32_is_float64_rounded_once():
    z, rows = draw(20, 4, 5, [6, 3, 0, 9])
    z = z.astype("float32")
    value, gradient, _ = fr.CTC().value_and_gradient(z, rows)
    value64, gradient64, _ = fr.CTC().value_and_gradient(z.astype("float64"), rows)
    assert value == value64 and np.array_equal(gradient, gradient64.astype("float32"))


def test_same_bits_for_any_threads_and_company(monkeypatch, at_work):
    z, rows = draw(60, 8, 9, [0, 25, 3, 14, 20, 1, 8, 17])
    lengths = [60, 55, 3, 60, 44, 10, 21, 50]
    loss, results = fr.CTC(), []
    for threads, call in ((1, 2**40), (1, 1), (3, 2**40), (2, 3000), *[(2, 2**40)] * 10):
        at_work(threads)
        monkeypatch.setattr(ctc, "CALL", call)
        results.append(loss.value_and_gradient(z, rows, lengths))
    for value, gradient, _ in results:
        assert value == results[0][0] and np.array_equal(gradient, results[0][1])
    for b in range(8):  # an eighth of the total weight: exact in binary
        alone = loss.value_and_gradient(z[:, b : b + 1], [rows[b]], lengths[b : b + 1])[1]
        assert np.array_equal(alone / 8, results[0][1][:, b : b + 1])
        short = loss.value_and_gradient(z[: lengths[b], b : b + 1], [rows[b] + [-1, -1]])[1]
        assert np.array_equal(short, alone[: lengths[b]])


def test_padding_reaches_nothing():
    z, rows = draw(9, 3, 4, [2, 0, 3])
    lengths = np.array([7, 4, 9])
    clean = fr.CTC().value_and_gradient(z, rows, lengths)
    metrics = fr.CTC().metrics(z, rows, lengths)
    z[np.arange(9)[:, None] >= lengths] = np.nan
    value, gradient, weight = fr.CTC().value_and_gradient(z, rows, lengths)
    assert (value, weight) == (clean[0], clean[2]) and np.array_equal(gradient, clean[1])
    assert not gradient[np.arange(9)[:, None] >= lengths].any()
    assert fr.CTC().metrics(z, rows, lengths) == metrics


def test_a_weight_of_zero_is_as_good_as_absent():
    z, rows = draw(6, 3, 4, [2, 2, 3])
    few = fr.CTC().value_and_gradient(z[:, 1:], rows[1:])
    z[:, 0] = np.nan
    target = np.array([[99, -5, 0], rows[1] + [-1], rows[2]])  # out of range, blank: not looked at
    value, gradient, weight = fr.CTC().value_and_gradient(z, target, weights=[0, 1, 1])
    assert (value, weight) == (few[0], few[2]) and np.array_equal(gradient[:, 1:], few[1]) and not gradient[:, 0].any()
    assert fr.CTC().metrics(z, target, weights=[0, 1, 1]) == fr.CTC().metrics(z[:, 1:], rows[1:])


def test_integer_weights_count_like_repetitions():
    z, rows = draw(8, 3, 4, [2, 0, 3])
    copies = np.array([3, 1, 2])
    value, gradient, weight = fr.CTC().value_and_gradient(z, rows, weights=copies)
    more = [row for row, n in zip(rows, copies) for _ in range(n)]
    again, repeated, _ = fr.CTC().value_and_gradient(np.repeat(z, copies, 1), more)
    assert weight == 6 and value == pytest.approx(again, rel=1e-14)
    assert np.abs(gradient - np.add.reduceat(repeated, [0, 3, 4], axis=1)).max() <= TOLERANCES["ctc_gradient"]


@pytest.mark.parametrize("shape, weights", [((3, 2, 4), [0, 0]), ((3, 0, 4), None), ((0, 0, 4), None)])
def test_nothing_counts(shape, weights):
    z, target = np.ones(shape), np.full((shape[1], 2), 1)
    value, gradient, weight = fr.CTC().value_and_gradient(z, target, None, weights)
    assert (value, weight) == (0.0, 0.0) and gradient.shape == shape and not gradient.any()
    assert fr.CTC().metrics(z, target, None, weights) == {"label_error_rate": 0.0}


def test_kernel_as_plain_python(monkeypatch):
    z, rows = draw(6, 3, 4, [2, 0, 3])
    z[2] *= 2e3
    z[4, 0, 3] = -np.inf
    arguments = (z, rows, [6, 3, 5], [1, 2, 3])
    compiled = fr.CTC().value_and_gradient(*arguments)
    monkeypatch.setattr(ctc, "ctc", getattr(kernels.ctc, "py_func", kernels.ctc))
    plain = fr.CTC().value_and_gradient(*arguments)
    assert plain[0] == pytest.approx(compiled[0], rel=1e-14)
    assert np.abs(plain[1] - compiled[1]).max() <= TOLERANCES["ctc_gradient"]


# What cannot be aligned ---------------------------------------------------------------------------------------------

SHORT = (np.zeros((3, 3, 4)), [[1, 2], [1, 1, 2], [1, 2, 3]], [3, 3, 2])  # the last two need four steps and three


def test_infeasible_is_an_error_that_names_the_sequence():
    with pytest.raises(ValueError, match="target: at least 4 steps .* 3 labels of sequence 1 of the batch, 1 of which .* got 3"):
        fr.CTC()(*SHORT)
    assert fr.CTC()(*SHORT, [1, 0, 0]) == fr.CTC()(SHORT[0][:, :1], [[1, 2]])
    with pytest.raises(ValueError, match="at least 1 steps are required for the 1 labels of sequence 0"):
        fr.CTC()(np.zeros((0, 1, 3)), [[1]])


@pytest.mark.parametrize("how", ["inf", "zero"])
def test_infeasible_as_asked(how):
    z, target, lengths = SHORT
    value, gradient, weight = fr.CTC(infeasible=how).value_and_gradient(z, target, lengths)
    one, slope, _ = fr.CTC().value_and_gradient(z[:, :1], target[:1])
    assert weight == 3 and not gradient[:, 1:].any() and np.abs(3 * gradient[:, :1] - slope).max() <= 1e-15
    assert value == (np.inf if how == "inf" else pytest.approx(one / 3, rel=1e-15))


def test_a_symbol_without_probability():
    """A logit of -inf is a probability of 0: alignments through it count nothing, and a labelling may be left with none."""
    z, _ = draw(4, 1, 3, [], seed=5)
    z[1, 0, 1] = -np.inf
    value, gradient, _ = fr.CTC().value_and_gradient(z, [[1, 2]])
    assert value == pytest.approx(enumerated(z[:, 0], [1, 2]), rel=1e-14) and np.isfinite(gradient).all() and gradient[1, 0, 1] == 0
    z[:, 0, 1] = -np.inf
    with pytest.raises(ValueError, match="prediction: a probability above 0 is required for the labels of sequence 0"):
        fr.CTC()(z, [[1, 2]])
    value, gradient, _ = fr.CTC(infeasible="inf").value_and_gradient(z, [[1, 2]])
    assert value == np.inf and not gradient.any()
    assert fr.CTC(infeasible="zero")(z, [[1, 2]]) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("symbol", [0, 1, 3])
def test_logits_that_are_not_numbers_show(bad, symbol):
    for infeasible in ("error", "inf", "zero"):
        z, rows = draw(5, 2, 4, [1, 2])
        z[2, 1, symbol] = bad
        value, gradient, _ = fr.CTC(infeasible=infeasible).value_and_gradient(z, rows)
        assert np.isnan(value) and np.isnan(gradient[2, 1]).all() and np.isfinite(gradient[:, 0]).all()


# Arguments ----------------------------------------------------------------------------------------------------------

LOGITS, LABELS = np.zeros((6, 2, 4)), np.array([[1, 2], [3, -1]])


@pytest.mark.parametrize("arguments, error, words", [
    ((LOGITS[0], LABELS), ValueError, r'prediction: shape \(T, B, O\) is required, as with readout="every"; got \(2, 4\)'),
    ((LOGITS[..., :0], LABELS), ValueError, "prediction: at least one output"),
    ((LOGITS + 0j, LABELS), TypeError, "prediction: real numbers"),
    ((LOGITS, LABELS[:1]), ValueError, r"target: shape \(2, S\) .* is required; got \(1, 2\)"),
    ((LOGITS, LABELS[0]), ValueError, r"target: shape \(2, S\)"),
    ((LOGITS, LABELS.astype(float)), TypeError, "target: integers are required; got dtype float64"),
    ((LOGITS, [[1, 2], [3.0]]), TypeError, r"target\[1\]: integers are required"),
    ((LOGITS, [[1, 2], 3]), ValueError, r"target\[1\]: shape \(S_b,\)"),
    ((LOGITS, [[1, 2], [3], []]), ValueError, "target: 2 label sequences are required, one for each sequence; got 3"),
    ((LOGITS, LABELS + 1), ValueError, "target: labels from 0 to 3 other than 0, the blank, .* got 4 in sequence 1"),
    ((LOGITS, [[1, 2], [0, -1]]), ValueError, "target: labels from 0 to 3 other than 0, the blank, .* got 0 in sequence 1"),
    ((LOGITS, [[1, 2], [-2, -1]]), ValueError, "target: labels .* got -2 in sequence 1"),
    ((LOGITS, [[-1, 2], [1, -1]]), ValueError, "target: labels .* -1 only behind the last; got 2 in sequence 0"),
    ((LOGITS, LABELS, [7, 1]), ValueError, "lengths: integers from 0 to 6 are required; got 7"),
    ((LOGITS, LABELS, None, np.ones((6, 2))), ValueError, r"weights: shape \(2,\) \(one a sequence\)"),
    ((LOGITS, LABELS, None, [1, -1]), ValueError, "weights: finite numbers of at least 0"),
])  # fmt: skip
def test_bad_arguments_are_named(arguments, error, words):
    for method in (fr.CTC().value_and_gradient, fr.CTC().metrics):
        with pytest.raises(error, match=words):
            method(*arguments)


@pytest.mark.parametrize("options, error, words", [
    ({"blank": -1}, ValueError, "blank: an integer at least 0 is required; got -1"),
    ({"blank": 1.5}, TypeError, "blank: an integer"),
    ({"infeasible": "ignore"}, ValueError, "infeasible: one of 'error', 'inf', 'zero' is required; got 'ignore'"),
])  # fmt: skip
def test_bad_options_are_named(options, error, words):
    with pytest.raises(error, match=words):
        fr.CTC(**options)


def test_a_blank_that_is_no_output_is_named():
    with pytest.raises(ValueError, match="blank: one of the outputs is required, 0 to 3; got 4"):
        fr.CTC(blank=4)(LOGITS, LABELS)


def test_arrays_in_disguise():
    z, rows = draw(6, 2, 4, [2, 1])
    target = np.array([rows[0], rows[1] + [-1]])
    value, gradient, _ = fr.CTC().value_and_gradient(z, rows, [6, 4])
    read_only = np.lib.stride_tricks.as_strided(target, writeable=False)
    for other in (target.tolist(), target.astype("int16"), np.asfortranarray(target), read_only):
        again = fr.CTC().value_and_gradient(np.asfortranarray(z), other, np.array([6, 4], "uint8"))
        assert again[0] == value and np.array_equal(again[1], gradient)


def test_label_error_rate_is_the_mean_distance_by_target():
    z = np.full((4, 3, 3), -5.0)
    for b, path in enumerate(([1, 0, 1, 2], [0, 0, 0, 0], [2, 2, 0, 1])):
        z[np.arange(4), b, path] = 5.0
    metrics = fr.CTC().metrics(z, [[1, 1], [1, 2], []])  # found: 1 1 2, nothing, 2 1
    assert metrics == {"label_error_rate": pytest.approx((1 / 2 + 2 / 2 + 2) / 3)}
    assert fr.CTC().metrics(z, [[1, 1], [1, 2], []], weights=[1, 0, 0]) == {"label_error_rate": 0.5}


# In a model ---------------------------------------------------------------------------------------------------------


def small_model(seed=0, **options):
    return fr.Model(
        fr.LSTM(2, 4, dtype="float64", seed=seed), fr.Linear(4, 3, dtype="float64", seed=seed), loss=fr.CTC(**options), readout="every"
    )


def test_gradients_of_a_model_against_differences():
    model, rng = small_model(), np.random.default_rng(0)
    x, target, lengths = rng.standard_normal((7, 3, 2)), [[1, 1], [2], []], [7, 4, 2]
    found = model.gradient(x, target, lengths, weights=[1, 2, 1])
    assert found.weight == 4 and found.prediction.shape == (7, 3, 3)
    assert found.loss == model.evaluate(x, target, lengths, [1, 2, 1])["loss"]
    direction, start, h = rng.standard_normal(model.params.flat.size), model.params.flat.copy(), 1e-3
    values = []
    for step in (-2, -1, 1, 2):
        model.params.flat[...] = start + step * h * direction
        values.append(model.evaluate(x, target, lengths, [1, 2, 1])["loss"])
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert found.grads.flat @ direction == pytest.approx(slope, rel=TOLERANCES["ctc_differences"])


def test_a_model_with_ctc_needs_every_step_and_all_of_time():
    with pytest.raises(ValueError, match="readout: \"every\" is required with CTC, which needs all steps; got 'last'"):
        fr.Model(fr.LSTM(2, 4), fr.Linear(4, 3), loss=fr.CTC())
    model, x = small_model(), np.zeros((4, 2, 2))
    with pytest.raises(ValueError, match=r"bptt: Full\(\) is required with CTC, whose target belongs to the sequence as a whole"):
        fr.fit(model, (x, [[1], [2]]), bptt=fr.Truncated(2), progress=False)
    with pytest.raises(ValueError, match=r"target: shape \(2, S\)"):
        model.gradient(x, [[1], [2], [1]])


def test_config_and_file_round_trip(tmp_path):
    loss = fr.CTC(blank=2, infeasible="zero")
    again = fr.Model.from_config(json.loads(json.dumps(small_model(blank=2, infeasible="zero").config()))).loss
    assert repr(again) == repr(loss) == "CTC(blank=2, infeasible='zero')" and again.config() == loss.config()
    model = small_model()
    model.save(tmp_path / "model")
    x = np.random.default_rng(0).standard_normal((5, 2, 2))
    assert np.array_equal(fr.load(tmp_path / "model").predict(x), model.predict(x))
    assert losses.from_config({"kind": "CrossEntropy"}).name == "cross_entropy"


FORMS = ["arrays", "ragged target", "lists", "batches", "batches of lists", "batch by batch", "ragged batch by batch"]


@pytest.mark.parametrize("form", FORMS)
def test_data_reach_the_loss_in_every_form(form):
    """Three sequences of three steps and three labels at most: shapes that could be a target a step, and are not."""
    rng = np.random.default_rng(1)
    x, rows = rng.standard_normal((3, 3, 2)), [[1, 2, 1], [2], []]
    padded = np.array([[1, 2, 1], [2, -1, -1], [-1, -1, -1]])
    sequences = [x[:, b].copy() for b in range(3)]
    data, options = {
        "arrays": ((x, padded), {"batch_size": 2, "shuffle": False}),
        "ragged target": ((x, rows), {"batch_size": 2, "shuffle": False}),
        "lists": ((sequences, rows), {"batch_size": 2, "shuffle": False}),
        "batches": (fr.data.Batches(x, padded, batch_size=2, shuffle=False, per_step=False), {}),
        "batches of lists": (fr.data.Batches(sequences, rows, batch_size=2, shuffle=False, per_step=False), {}),
        "batch by batch": ([(x[:, :2], padded[:2]), (x[:, 2:], padded[2:])], {}),
        "ragged batch by batch": ([(x[:, :2], rows[:2]), (x[:, 2:], rows[2:])], {}),
    }[form]
    model = small_model()
    history = fr.fit(model, data, validation=data, optimizer=fr.SGD(1e-9), progress=False, **options)
    each = [fr.CTC()(model.predict(x[:, b : b + 1]), [rows[b]]) for b in range(3)]
    assert history.steps["weight"].tolist() == [2, 1]
    assert history["loss"][0] == pytest.approx(np.mean(each), rel=1e-6)
    assert history["validation_loss"][0] == pytest.approx(np.mean(each), rel=1e-12)
    assert 0 <= history["validation_label_error_rate"][0]


def test_label_sequences_of_data_are_checked():
    x = np.zeros((3, 2, 1))
    (batch,) = fr.data.Batches([x[:, 0], x[:, 1]], [[], []], per_step=False)
    assert batch.target.shape == (2, 0)
    with pytest.raises(ValueError, match="target: 2 label sequences are required"):
        fr.data.Batches(x, [[1], [1, 2], [1]], per_step=False)
    with pytest.raises(ValueError, match=r"target\[0\]: vectors of one length"):
        fr.data.Batches([x[:, 0], x[:, 1]], [[1.5], [1, 2]], per_step=False)


def strokes(n, rng):
    """Signals (T, n, 2) in which 1 to 4 of three shapes follow each other, with pauses: what they are, not where."""
    shapes = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    signals, rows = [], []
    for _ in range(n):
        row = rng.integers(0, 3, rng.integers(1, 5))
        parts = [np.zeros((rng.integers(1, 4), 2))]
        for label in row:
            parts += [np.repeat(shapes[label : label + 1], rng.integers(2, 5), axis=0), np.zeros((rng.integers(1, 4), 2))]
        signal = np.concatenate(parts)
        signals.append(signal + 0.3 * rng.standard_normal(signal.shape))
        rows.append((row + 1).tolist())
    return signals, rows


def test_a_network_in_both_directions_learns_to_label_without_being_told_where():
    rng = np.random.default_rng(0)
    train, test = strokes(400, rng), strokes(100, rng)
    network = fr.LSTM(2, 16, bidirectional=True, dtype="float64", seed=0)
    model = fr.Model(network, fr.Linear(32, 4, dtype="float64", seed=0), loss=fr.CTC(), readout="every")
    optimizer = fr.Adam(0.01, clip_norm=1.0)
    history = fr.fit(model, train, validation=test, epochs=15, batch_size=20, optimizer=optimizer, seed=0, progress=False)
    assert history["validation_label_error_rate"][-1] <= 0.03 < 0.8 <= history["validation_label_error_rate"][0]
    x, lengths = fr.data.pad(test[0])
    found = fr.ctc.beam_search(model.predict(x, lengths), lengths, width=8)
    assert np.mean([best[0].labels.tolist() == row for best, row in zip(found, test[1])]) >= 0.9

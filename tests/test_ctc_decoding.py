"""Decoding of connectionist temporal classification: held to all alignments, one by one, and to naive twins."""

from collections import defaultdict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ctc import alignments, collapse
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn import ctc
from fastrnn.kernels.cpu import ctc_decoding as kernels


def naive_beam_search(z, width, blank=0):
    """Hannun et al. 2014, algorithm 1, with prefixes as keys; z (T, O). [(labels, log probability)], best first."""
    log_y = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    beam = {(): (0.0, -np.inf)}
    for step in log_y:
        new = defaultdict(lambda: [-np.inf, -np.inf])
        for prefix, (in_blank, in_label) in beam.items():
            whole = np.logaddexp(in_blank, in_label)
            new[prefix][0] = np.logaddexp(new[prefix][0], whole + step[blank])
            if prefix:
                new[prefix][1] = np.logaddexp(new[prefix][1], in_label + step[prefix[-1]])
            for label in range(len(step)):
                if label != blank:
                    longer = (*prefix, label)
                    before = in_blank if prefix[-1:] == (label,) else whole
                    new[longer][1] = np.logaddexp(new[longer][1], before + step[label])
        best = sorted(new, key=lambda prefix: -np.logaddexp(*new[prefix]))
        beam = {prefix: new[prefix] for prefix in best[:width] if np.logaddexp(*new[prefix]) > -np.inf}
    return [(prefix, np.logaddexp(*both)) for prefix, both in beam.items()]


def assert_same(found, expected):
    assert [tuple(one.labels.tolist()) for one in found] == [labels for labels, _ in expected]
    for one, (_, score) in zip(found, expected):
        assert type(one.log_probability) is float
        assert one.log_probability == pytest.approx(score, rel=TOLERANCES["ctc_scores"], abs=TOLERANCES["ctc_scores"])


@pytest.mark.parametrize("T, O, blank", [(1, 3, 0), (4, 2, 1), (5, 3, 0), (5, 3, 2), (4, 4, 1)])
def test_a_beam_of_all_prefixes_is_exact(T, O, blank):
    """Every labelling, with the probability that its alignments have one by one; and the most probable one comes first."""
    z = 2 * np.random.default_rng(T + O).standard_normal((T, 1, O))
    y = np.exp(z[:, 0]) / np.exp(z[:, 0]).sum(axis=1, keepdims=True)
    (found,) = ctc.beam_search(z, width=O**T, blank=blank)
    every = {collapse(path, blank) for path in np.ndindex(*(O,) * T)}
    expected = [(labels, np.log(y[np.arange(T), alignments(T, O, labels, blank)].prod(axis=1).sum())) for labels in every]
    assert_same(found, sorted(expected, key=lambda pair: -pair[1]))
    assert sum(np.exp(one.log_probability) for one in found) == pytest.approx(1.0, rel=1e-14)
    for one in found:
        assert one.log_probability == pytest.approx(-fr.CTC(blank=blank)(z, [one.labels]), rel=1e-13, abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(T=st.integers(0, 14), O=st.integers(1, 7), width=st.integers(1, 9), scale=st.sampled_from([0.3, 2.0, 30.0]), seed=st.integers(0, 99))
def test_beam_search_is_its_naive_twin(T, O, width, scale, seed):
    """A narrow beam, in which prefixes are lost and found again while longer ones stay."""
    rng = np.random.default_rng(seed)
    z, blank = scale * rng.standard_normal((T, 2, O)), int(rng.integers(O))
    lengths = [T, T // 2]
    for b, found in enumerate(ctc.beam_search(z, lengths, width=width, blank=blank)):
        assert_same(found, naive_beam_search(z[: lengths[b], b], width, blank))


def test_a_prefix_that_comes_back_is_the_same_one():
    """Of many narrow beams some lose a prefix, keep one that continues it, and find it again: as a second node it would not add to that."""
    for seed in range(300):
        z = 1.5 * np.random.default_rng(seed).standard_normal((12, 1, 3))
        assert_same(ctc.beam_search(z, width=2)[0], naive_beam_search(z[:, 0], 2))


def test_a_wider_beam_finds_no_less_here_and_no_more_than_there_is():
    z = np.random.default_rng(0).standard_normal((40, 1, 6))
    scores = [ctc.beam_search(z, width=width)[0][0] for width in (1, 4, 16, 64)]
    values = [one.log_probability for one in scores]
    assert values == sorted(values)
    assert all(one.log_probability <= -fr.CTC()(z, [one.labels]) for one in scores)


def test_a_sum_over_alignments_is_not_the_best_of_them():
    z = np.log([[[0.6, 0.4]], [[0.6, 0.4]]])
    assert ctc.greedy(z)[0].tolist() == [] and ctc.beam_search(z)[0][0].labels.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(T=st.integers(0, 20), B=st.integers(0, 4), O=st.integers(1, 5), seed=st.integers(0, 99))
def test_greedy_is_the_best_path_collapsed(T, B, O, seed):
    rng = np.random.default_rng(seed)
    z, lengths, blank = rng.integers(0, 3, (T, B, O)), rng.integers(0, T + 1, B), int(rng.integers(O))
    found = ctc.greedy(z, lengths, blank=blank)
    assert len(found) == B
    for b, labels in enumerate(found):
        assert labels.dtype == np.int64
        assert tuple(labels.tolist()) == collapse([row.tolist().index(max(row)) for row in z[: lengths[b], b]], blank)


def test_equal_candidates_come_in_a_fixed_order():
    """Of equals: what was in the beam first, then the smaller label."""
    (found,) = ctc.beam_search(np.zeros((1, 1, 4)), width=3)
    assert [one.labels.tolist() for one in found] == [[], [1], [2]]
    assert all(one.log_probability == -np.log(4) for one in found)


def test_what_has_no_probability_is_not_found():
    z = np.full((3, 1, 3), -np.inf)
    z[:, 0, 1] = 0.0
    (found,) = ctc.beam_search(z)
    assert [one.labels.tolist() for one in found] == [[1]] and found[0].log_probability == 0.0
    assert ctc.greedy(z)[0].tolist() == [1]
    ((empty,),) = ctc.beam_search(np.zeros((0, 1, 3)))
    assert empty.labels.tolist() == [] and empty.log_probability == 0.0


def test_large_logits_and_float32():
    z = 1e4 * np.random.default_rng(0).standard_normal((8, 2, 4)).astype("float32")
    for b, found in enumerate(ctc.beam_search(z, width=5)):
        assert_same(found, naive_beam_search(z[:, b].astype("float64"), 5))


def test_same_bits_for_any_threads_and_company(monkeypatch, at_work):
    z = np.random.default_rng(0).standard_normal((90, 12, 5))
    lengths, results = [90, 2, 0, 57, 90, 29, 90, 88, 1, 60, 90, 75], []
    z[np.arange(90)[:, None] >= lengths] = np.nan
    for threads, call in ((1, 2**40), (3, 2**40), (2, 1), *[(2, 2**40)] * 100):
        at_work(threads)
        monkeypatch.setattr(ctc, "CALL", call)
        results.append(ctc.beam_search(z, lengths, width=4))
    results.append([ctc.beam_search(z[:n, b : b + 1], width=4)[0] for b, n in enumerate(lengths)])
    for other in results[1:]:
        for one, two in zip(results[0], other):
            assert [(x.labels.tolist(), x.log_probability) for x in one] == [(x.labels.tolist(), x.log_probability) for x in two]


@settings(max_examples=60, deadline=None)
@given(a=st.lists(st.integers(0, 3), max_size=7), b=st.lists(st.integers(0, 3), max_size=7))
def test_edit_distance_is_the_recursion(a, b):
    @cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert ctc.edit_distance(a, b) == distance(len(a), len(b)) == ctc.edit_distance(b, a)


def test_kernels_as_plain_python(monkeypatch):
    z = np.random.default_rng(3).standard_normal((9, 1, 3))
    compiled = ctc.beam_search(z, width=3)[0]
    for name in ("beam_search", "edit_distance"):
        function = getattr(kernels, name)
        monkeypatch.setattr(ctc, f"_{name}", getattr(function, "py_func", function))
    plain = ctc.beam_search(z, width=3)[0]
    assert_same(plain, [(tuple(one.labels.tolist()), one.log_probability) for one in compiled])
    assert ctc.edit_distance([1, 2, 3], [2, 3, 3]) == 2


LOGITS = np.zeros((4, 2, 3))
LOST = np.where(np.arange(4)[:, None, None] == 2, np.nan, LOGITS)


@pytest.mark.parametrize("decode", [ctc.greedy, ctc.beam_search])
@pytest.mark.parametrize("logits, options, error, words", [
    (LOGITS[0], {}, ValueError, r"logits: shape \(T, B, O\)"),
    (LOGITS + 0j, {}, TypeError, "logits: real numbers"),
    (LOGITS[..., :0], {}, ValueError, "blank: one of the outputs is required"),
    (LOGITS, {"lengths": [4, 5]}, ValueError, "lengths: integers from 0 to 4 are required; got 5"),
    (LOGITS, {"blank": 3}, ValueError, "blank: one of the outputs is required, 0 to 2; got 3"),
    (LOGITS, {"blank": -1}, ValueError, "blank: an integer"),
    (LOST, {}, ValueError, "logits: a finite largest one is required at every step; got nan at step 2 of sequence 0"),
    (LOGITS + np.inf, {}, ValueError, "logits: a finite largest one .* got inf"),
    (LOGITS - np.inf, {}, ValueError, "logits: a finite largest one .* got -inf"),
])  # fmt: skip
def test_bad_arguments_are_named(decode, logits, options, error, words):
    with pytest.raises(error, match=words):
        decode(logits, **options)


def test_bad_widths_and_labels_are_named():
    with pytest.raises(ValueError, match="width: an integer at least 1 is required; got 0"):
        ctc.beam_search(LOGITS, width=0)
    with pytest.raises(TypeError, match="b: integers are required"):
        ctc.edit_distance([1], [1.5])

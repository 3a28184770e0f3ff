"""Batches: nothing lost, nothing mixed up, and an order that depends on the seed and the number alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn.data import Adding, Batches, Stream, TextBatches, as_batch, pad, pad_images, stream, windows


def numbered(lengths, features=2):
    """Sequences whose every entry tells its sequence and step, so that a mix-up shows."""
    return [1000.0 * i + np.arange(n)[:, None] + np.zeros(features) + 1 for i, n in enumerate(lengths)]


def sequences_of(batches):
    """The valid part of every sequence, with its target, in the order met."""
    for batch in batches:
        for b, n in enumerate(batch.lengths):
            yield batch.x[:n, b], batch.target[b]


@pytest.fixture
def arrays():
    lengths = np.array([3, 5, 1, 0, 4, 5, 2])
    x, counted = pad(numbered(lengths))
    assert counted.tolist() == lengths.tolist()
    return x, np.arange(7), lengths


class TestPad:
    def test_puts_zeros_behind_the_ends(self):
        x, lengths = pad([np.ones((2, 3)), np.full((1, 3), 2.0)])
        assert x.shape == (2, 2, 3) and lengths.tolist() == [2, 1]
        assert np.all(x[:, 0] == 1) and np.all(x[0, 1] == 2) and np.all(x[1, 1] == 0)

    @pytest.mark.parametrize(
        ("given_dtypes", "expected"),
        [
            (("f4", "f4"), "f4"),
            (("f4", "f8"), "f8"),
            (("f2", "f2"), "f4"),
            (("u1", "i2"), "i8"),
            (("?", "?"), "i8"),
            ((">f8", ">f8"), "f8"),
        ],
    )
    def test_dtype_is_the_smallest_of_ours_that_holds_all(self, given_dtypes, expected):
        x, _ = pad([np.ones(2, dtype) for dtype in given_dtypes])
        assert x.dtype == np.dtype(expected) and x.dtype.isnative

    def test_empty_sequences_do_not_decide_on_the_type(self):
        x, lengths = pad([[], [1, 2]])
        assert x.dtype == np.int64 and lengths.tolist() == [0, 2] and x[:, 0].tolist() == [0, 0]
        x, lengths = pad([[], np.ones((2, 3))])
        assert x.shape == (2, 2, 3) and lengths.tolist() == [0, 2]

    def test_lists_of_lists(self):
        x, lengths = pad([[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]])
        assert x.shape == (2, 2, 2) and lengths.tolist() == [1, 2]

    @given(st.lists(st.integers(0, 9), min_size=1).filter(any), st.integers(1, 3))
    def test_loses_nothing(self, lengths, features):
        given_sequences = numbered(lengths, features)
        x, counted = pad(given_sequences)
        assert x.shape == (max(lengths), len(lengths), features)
        for i, sequence in enumerate(given_sequences):
            np.testing.assert_array_equal(x[: counted[i], i], sequence)
            assert not x[counted[i] :, i].any()

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            ([], ValueError, "at least one sequence"),
            ([[], []], ValueError, "at least one step"),
            (np.ones((2, 3)), TypeError, "a list of arrays"),
            ([1.0, 2.0], ValueError, r"sequences\[0\].*the number 1.0"),
            ([np.ones((2, 3)), np.ones((2, 4))], ValueError, r"sequences\[1\]: shape \(T_i, 3\).*\(2, 4\)"),
            ([np.ones(2), np.ones((2, 4))], ValueError, r"sequences\[1\]: shape \(T_i,\)"),
            ([["a", "b"]], TypeError, r"sequences\[0\]: real numbers.*<U1"),
            ([[[1.0], [1.0, 2.0]]], ValueError, r"sequences\[0\]: an array"),
            ([np.array([1.0, None])], TypeError, "object"),
            ([np.ones(2, complex)], TypeError, "complex"),
        ],
    )
    def test_refuses(self, value, error, message):
        with pytest.raises(error, match=message):
            pad(value)


class TestAsBatch:
    def test_fills_in_the_lengths(self):
        batch = as_batch((np.zeros((4, 2, 1)), [0, 1]))
        assert batch.lengths.tolist() == [4, 4] and batch.weights is None and batch.target.dtype == np.int64

    def test_keeps_types_and_tokens(self):
        batch = as_batch(([[0, 1], [2, 3], [4, 5]], np.zeros((3, 2), np.float32), [3, 0], [1, 2]))
        assert batch.x.dtype == np.int64 and batch.x.shape == (3, 2) and batch.target.dtype == np.float32
        assert batch.lengths.tolist() == [3, 0] and batch.weights.tolist() == [1, 2]

    def test_pixels_become_real_numbers(self):
        assert as_batch((np.ones((2, 2, 3), np.uint8), [0, 1])).x.dtype == np.int64

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            ("text", TypeError, "batch: a tuple"),
            ((np.zeros((2, 2, 1)),), TypeError, "got 1 parts"),
            ((np.zeros((2, 2)), [0, 1]), ValueError, r"x: shape \(T, N, D\).*x\[:, :, None\]"),
            ((np.zeros(2), [0, 1]), ValueError, "x: shape"),
            ((np.zeros((0, 2, 1)), [0, 1]), ValueError, "x: at least one step"),
            ((np.zeros((2, 0, 1)), []), ValueError, "x: at least one"),
            ((np.zeros((2, 2, 0)), [0, 1]), ValueError, "x: at least one"),
            (
                (np.array([[1.0], [1.0, 2.0]], object), [0, 1]),
                TypeError,
                r"x: real numbers.*object.*list of \(T_i, D\)",
            ),
            (([[1.0], [1.0, 2.0]], [0, 1]), ValueError, "x: an array"),
            ((np.zeros((3, 2, 1)), [0, 1, 2]), ValueError, r"target: shape \(2,\).*\(3, 2\).*got \(3,\)"),
            ((np.zeros((3, 2, 1)), ["a", "b"]), TypeError, "target: real numbers.*numpy.unique"),
            ((np.zeros((3, 2, 1)), [0, 1], [3, 4]), ValueError, "lengths: integers from 0 to 3.*got 4"),
            ((np.zeros((3, 2, 1)), [0, 1], [-1, 3]), ValueError, "lengths: integers from 0 to 3.*got -1"),
            ((np.zeros((3, 2, 1)), [0, 1], [1.0, 3.0]), TypeError, "lengths: integers"),
            ((np.zeros((3, 2, 1)), [0, 1], [3]), ValueError, "lengths: shape"),
            ((np.zeros((3, 2, 1)), [0, 1], None, [1.0, 1.0, 1.0]), ValueError, "weights: shape"),
        ],
    )
    def test_refuses(self, value, error, message):
        with pytest.raises(error, match=message):
            as_batch(value)


class TestBatches:
    @given(
        lengths=st.lists(st.integers(0, 12), min_size=1, max_size=40).filter(any),
        batch_size=st.integers(1, 9),
        shuffle=st.booleans(),
        bucket=st.booleans(),
        listed=st.booleans(),
        epoch=st.integers(0, 3),
    )
    def test_an_epoch_holds_every_sequence_once(self, lengths, batch_size, shuffle, bucket, listed, epoch):
        x, target = numbered(lengths), np.arange(len(lengths))
        data = (x, target) if listed else (pad(x)[0], target, lengths)
        batches = Batches(*data, batch_size=batch_size, shuffle=shuffle, bucket=bucket)
        given_batches = list(batches.epoch(epoch))
        assert len(given_batches) == len(batches)
        assert all(batch.x.shape[1] <= batch_size for batch in given_batches)
        assert all(len(batch.x) == max(1, batch.lengths.max()) for batch in given_batches)
        met = {int(label): sequence for sequence, label in sequences_of(given_batches)}
        assert sorted(met) == list(range(len(lengths))) and batches.size == len(lengths)
        for label, sequence in met.items():
            np.testing.assert_array_equal(sequence, x[label])

    def test_without_shuffling_the_order_is_the_given_one(self, arrays):
        batches = Batches(*arrays, batch_size=3, shuffle=False)
        for k in (0, 1):
            assert [label for _, label in sequences_of(batches.epoch(k))] == list(range(7))
        assert [len(batch.lengths) for batch in batches] == [3, 3, 1]

    def test_the_order_is_a_function_of_seed_and_epoch(self, arrays):
        def orders(seed, k):
            return np.concatenate(Batches(*arrays, batch_size=2, seed=seed).order(k)).tolist()

        assert orders(0, 3) == orders(0, 3)
        fresh = {tuple(orders(seed, k)) for seed, k in itertools.product((0, 1, 2**70), range(4))}
        assert len(fresh) == 12, "seeds and epochs must give orders of their own"

        batches = Batches(*arrays, batch_size=2)
        list(batches.epoch(0)), next(batches.epoch(1))
        assert np.concatenate(batches.order(3)).tolist() == orders(0, 3), "what was drawn before must not matter"

    def test_buckets_hold_similar_lengths(self):
        lengths = np.random.default_rng(0).integers(1, 200, 640)
        x = numbered(lengths, 1)

        def spread(bucket):
            return np.mean(
                [np.ptp(batch.lengths) for batch in Batches(x, lengths, batch_size=8, bucket=bucket).epoch(0)]
            )

        assert spread(True) < 0.2 * spread(False)

    def test_buckets_come_shuffled_and_hold_other_sequences_every_epoch(self):
        lengths = np.arange(1, 641)
        batches = Batches(numbered(lengths, 1), lengths, batch_size=8, bucket=True)
        one_pool = Batches(numbered(lengths[:128], 1), lengths[:128], batch_size=8, bucket=True)
        longest = [batch.lengths.max() for batch in one_pool.epoch(0)]
        assert longest != sorted(longest)
        groups = [{frozenset(index.tolist()) for index in batches.order(k)} for k in (0, 1)]
        assert len(groups[0] & groups[1]) < 8

    def test_bucketing_without_shuffling_sorts(self, arrays):
        batches = list(Batches(*arrays, batch_size=7, bucket=True, shuffle=False))
        assert batches[0].lengths.tolist() == sorted(arrays[2])

    def test_padding_may_hold_anything(self, arrays):
        x, target, lengths = arrays
        x = x.copy()
        for i, n in enumerate(lengths):
            x[n:, i] = np.nan
        for sequence, label in sequences_of(Batches(x, target, lengths, batch_size=3)):
            np.testing.assert_array_equal(sequence, arrays[0][: lengths[label], label])

    @pytest.mark.parametrize("outputs", [(), (3,)])
    @pytest.mark.parametrize("listed", [False, True])
    def test_targets_at_every_step(self, listed, outputs):
        lengths = [3, 5, 1]
        x = numbered(lengths, 1)
        target = [np.broadcast_to(s.reshape(-1, *(1 for _ in outputs)), (len(s), *outputs)) for s in x]
        data = (x, target) if listed else (pad(x)[0], pad(target)[0], lengths)
        for batch in Batches(*data, batch_size=2):
            assert batch.target.shape == (*batch.x.shape[:2], *outputs)
            for b, n in enumerate(batch.lengths):
                assert np.all(batch.target[:n, b] == batch.x[:n, b].reshape(n, *(1 for _ in outputs)))

    @pytest.mark.parametrize("target", [np.arange(12.0).reshape(4, 3), list(np.arange(12.0).reshape(4, 3))])
    @pytest.mark.parametrize("listed", [False, True])
    def test_vectors_one_a_sequence(self, listed, target):
        x = numbered([2, 5, 1, 4])
        data = (x, target) if listed else (pad(x)[0], target, [2, 5, 1, 4])
        (batch,) = Batches(*data, batch_size=4, shuffle=False)
        np.testing.assert_array_equal(batch.target, np.arange(12.0).reshape(4, 3))

    def test_a_square_target_must_be_told(self):
        x, target = np.zeros((3, 3, 1)), np.arange(9).reshape(3, 3)
        with pytest.raises(ValueError, match="per_step=True or per_step=False"):
            Batches(x, target)
        (steps,) = Batches(x, target, batch_size=3, per_step=True, seed=1)
        (rows,) = Batches(x, target, batch_size=3, per_step=False, seed=1)
        order = rows.target[:, 0] // 3
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_array_equal(steps.target, target[:, order])
        np.testing.assert_array_equal(rows.target, target[order])

    def test_a_list_can_be_told_too(self):
        x, target = numbered([3, 3]), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
        (steps,) = Batches(x, target, shuffle=False)
        (rows,) = Batches(x, target, shuffle=False, per_step=False)
        np.testing.assert_array_equal(steps.target, np.transpose(target))
        np.testing.assert_array_equal(rows.target, target)

    @pytest.mark.parametrize("listed", [False, True])
    def test_weights(self, listed, arrays):
        x, target, lengths = arrays
        each = np.linspace(0, 1, 7)
        data = ([x[:n, i] for i, n in enumerate(lengths)], target) if listed else (x, target, lengths)
        for batch in Batches(*data, weights=each, batch_size=3):
            np.testing.assert_array_equal(batch.weights, each[batch.target])
        every = [x[:n, i, 0] for i, n in enumerate(lengths)] if listed else x[:, :, 0]
        for batch in Batches(*data, weights=every, batch_size=3):
            for b, n in enumerate(batch.lengths):
                np.testing.assert_array_equal(batch.weights[:n, b], batch.x[:n, b, 0])

    def test_series_and_tokens_in_lists(self):
        (series,) = Batches([[0.5, 1.5], [2.5]], [0, 1], shuffle=False)
        assert series.x.shape == (2, 2, 1) and series.x[:, :, 0].tolist() == [[0.5, 2.5], [1.5, 0.0]]
        (tokens,) = Batches([[5, 6], [7]], [0, 1], shuffle=False)
        assert tokens.x.dtype == np.int64 and tokens.x.tolist() == [[5, 7], [6, 0]]
        (pixels,) = Batches([np.ones((2, 3), np.uint8)], [0])
        assert pixels.x.dtype == np.int64 and pixels.x.shape == (2, 1, 3)

    def test_batches_are_contiguous_whatever_came(self, arrays):
        x, target, lengths = arrays
        awkward = np.asfortranarray(x.astype(">f8"))[:, ::-1]
        awkward.setflags(write=False)
        batch = next(Batches(awkward, target, lengths[::-1], batch_size=3).epoch(0))
        assert batch.x.flags.c_contiguous and batch.x.dtype == np.float64 and batch.x.dtype.isnative
        np.testing.assert_array_equal(batch.x[: batch.lengths[0], 0], x[: batch.lengths[0], 6 - batch.target[0]])

    def test_only_empty_sequences_in_a_batch_leave_a_step(self):
        batch = next(iter(Batches([[], [1.0, 2.0]], [0, 1], batch_size=1, shuffle=False)))
        assert batch.x.shape == (1, 1, 1) and batch.lengths.tolist() == [0]

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            (([], []), {}, ValueError, "x: at least one sequence"),
            ((np.zeros((3, 0, 1)), []), {}, ValueError, "x: at least one step"),
            (([[]], [0]), {}, ValueError, "x: at least one step"),
            (([np.zeros((2, 0))], [0]), {}, ValueError, r"x\[0\]: shape"),
            (([np.zeros((2, 1, 1))], [0]), {}, ValueError, r"x\[0\]: shape"),
            ((np.array([[1.0], [1.0, 2.0]], object), [0, 1]), {}, TypeError, "x: real numbers.*object.*as a list"),
            (([[1.0], [2.0]], [0]), {}, ValueError, "target: 2 entries.*got 1"),
            (([[1.0], [2.0]], 7), {}, ValueError, "target: 2 entries.*got 1"),
            (([[1.0], [2.0]], [None, 0]), {}, TypeError, "target: real numbers"),
            (([[1.0], [2.0]], ["a", "b"]), {}, TypeError, "target: real numbers.*numpy.unique"),
            (([[1.0], [2.0, 3.0]], [[0], [0, 1, 2]]), {}, ValueError, r"target\[1\]: 2 steps, as x\[1\].*\(3,\)"),
            (([[1.0], [2.0, 3.0]], [[0], [0]]), {"per_step": True}, ValueError, r"target\[1\]: 2 steps.*\(1,\)"),
            (([[1.0], [2.0, 3.0]], [[0.5], [0.0, 1.0]]), {"per_step": False}, ValueError, r"vectors of one length"),
            (([[1.0], [2.0]], [0, 1]), {"per_step": True}, ValueError, r"target\[0\]: shape \(T_i,\)"),
            (([[1.0], [2.0]], [0, 1], [1, 1]), {}, ValueError, "lengths: None is required for a list"),
            (([[1.0], [2.0]], [0, 1], None, [1.0]), {}, ValueError, "weights: 2 entries"),
            (([[1.0], [2.0, 3.0]], [0, 1], None, [[1.0], [1.0]]), {}, ValueError, r"weights\[1\]: 2 steps"),
            (([[1.0], [2.0]], [0, 1], None, [[[1.0]], [[1.0]]]), {}, ValueError, r"weights\[0\]: 1 steps.*one number"),
            ((np.zeros((3, 2, 1)), [0, 1, 2]), {}, ValueError, r"target: shape \(2,\)"),
            ((np.zeros((3, 2, 1)), np.zeros((3, 2))), {"per_step": False}, ValueError, "one a sequence, is required"),
            ((np.zeros((3, 2, 1)), [0, 1]), {"per_step": True}, ValueError, "one a step, is required"),
            ((np.zeros((3, 2, 1)), [0, 1], [1, 4]), {}, ValueError, "lengths: integers from 0 to 3.*got 4"),
            ((np.zeros((3, 2, 1)), [0, 1], [1.5, 2]), {}, TypeError, "lengths: integers"),
            ((np.zeros((3, 2, 1)), [0, 1]), {"batch_size": 0}, ValueError, "batch_size: an integer at least 1"),
            ((np.zeros((3, 2, 1)), [0, 1]), {"batch_size": 2.0}, TypeError, "batch_size: an integer"),
            ((np.zeros((3, 2, 1)), [0, 1]), {"seed": -1}, ValueError, "seed"),
            ((np.zeros((3, 2, 1)), [0, 1]), {"shuffle": "yes"}, ValueError, "shuffle: one of True, False"),
            ((np.zeros((3, 2, 1)), [0, 1]), {"per_step": 1}, ValueError, "per_step: one of None"),
        ],
    )
    def test_refuses(self, arguments, options, error, message):
        with pytest.raises(error, match=message):
            Batches(*arguments, **options)

    @pytest.mark.parametrize(("k", "error"), [(-1, ValueError), (0.5, TypeError)])
    def test_refuses_an_epoch_at_the_call(self, arrays, k, error):
        with pytest.raises(error, match="epoch"):
            Batches(*arrays).epoch(k)


class TestStream:
    def test_a_batch_is_a_function_of_seed_and_number(self):
        first, again = Stream(Adding(20), 4, seed=3), stream(Adding(20), 4, seed=3)
        later = first.batch(7)
        for i in range(3):
            again.batch(i)
        for a, b in zip(later[:3], again.batch(7)[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        others = [Stream(Adding(20), 4, seed=seed).batch(i).x for seed, i in ((3, 6), (3, 8), (4, 7))]
        assert not any(np.array_equal(later.x, other) for other in others)

    def test_iterates_without_end_from_the_first(self):
        numbers = Stream(lambda n, rng: (rng.random((5, n, 2)), rng.integers(3, size=n)), batch_size=3)
        for i, batch in zip(range(5), numbers, strict=False):
            np.testing.assert_array_equal(batch.x, numbers.batch(i).x)
            assert batch.lengths.tolist() == [5, 5, 5]

    def test_does_not_repeat_the_streams_of_epochs(self):
        drawn = []
        Stream(lambda n, rng: (np.zeros((1, n, 1)), drawn.append(rng.permutation(50)) or np.zeros(n)), 2, seed=5).batch(
            2
        )
        order = np.concatenate(Batches(np.zeros((1, 50, 1)), np.zeros(50), seed=5).order(2))
        assert drawn[0].tolist() != order.tolist()

    @pytest.mark.parametrize(
        ("sampler", "error", "message"),
        [
            (3, TypeError, "sampler: an object with a method sample"),
            (lambda n, rng: (np.zeros((2, n + 1, 1)), np.zeros(n + 1)), ValueError, "sampler: 4 sequences.*got 5"),
            (lambda n, rng: np.zeros((2, n, 1)), TypeError, "batch: a tuple"),
            (lambda n, rng: (np.zeros((2, n, 1)), np.zeros(1)), ValueError, "target"),
        ],
    )
    def test_refuses(self, sampler, error, message):
        with pytest.raises(error, match=message):
            Stream(sampler, 4).batch(0)

    def test_refuses_a_number_below_zero(self):
        with pytest.raises(ValueError, match="batch number"):
            Stream(Adding(20)).batch(-1)


class TestTextBatches:
    @given(st.integers(2, 200), st.integers(1, 6), st.integers(1, 12))
    def test_windows_follow_each_other_in_every_row(self, count, batch_size, length):
        rows = (count - 1) // batch_size
        if rows < length:
            with pytest.raises(ValueError, match="tokens: at least"):
                TextBatches(np.arange(count), batch_size, length)
            return
        batches = windows(np.arange(count), batch_size, length)
        given_batches = list(batches)
        assert len(given_batches) == len(batches) == rows // length
        assert all(batch.x.shape == (length, batch_size) for batch in given_batches)
        assert all(batch.lengths.tolist() == [length] * batch_size for batch in given_batches)
        x = np.concatenate([batch.x for batch in given_batches])
        target = np.concatenate([batch.target for batch in given_batches])
        np.testing.assert_array_equal(target, x + 1)
        np.testing.assert_array_equal(x, np.arange(len(x))[:, None] + rows * np.arange(batch_size))
        assert count - x.size <= batch_size * length, "no more is left out than must be"

    def test_every_epoch_is_the_same_and_contiguous(self):
        batches = TextBatches(np.arange(100) % 7, batch_size=3, length=5)
        for first, again in zip(batches, batches.epoch(9), strict=True):
            np.testing.assert_array_equal(first.x, again.x)
            assert first.x.flags.c_contiguous and first.target.flags.c_contiguous and first.x.dtype == np.int64

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (([], 1, 1), ValueError, "at least 2.*got 0"),
            ((range(20), 4, 5), ValueError, "at least 21.*got 20"),
            (([0.5, 1.5], 1, 1), TypeError, "tokens: integers"),
            (([0, -1, 2], 1, 1), ValueError, "tokens: integers from 0.*got -1"),
            (([[0, 1]], 1, 1), ValueError, "tokens: shape"),
            ((range(20), 0, 5), ValueError, "batch_size"),
            ((range(20), 1, 0), ValueError, "length"),
        ],
    )
    def test_refuses(self, arguments, error, message):
        with pytest.raises(error, match=message):
            TextBatches(*arguments)


class TestImages:
    PICTURES = [[[1.0, 2.0, 3.0]], [[4.0], [5.0]], [[6.0, 7.0], [8.0, 9.0]]]

    def test_padding(self):
        x, sizes = pad_images(self.PICTURES)
        assert x.shape == (2, 3, 3) and sizes.tolist() == [[1, 3], [2, 1], [2, 2]]
        assert x[:, :, 1].tolist() == [[4, 0, 0], [5, 0, 0]]
        assert pad_images([np.ones((2, 3, 4), "f4"), np.ones((3, 1, 4))])[0].shape == (3, 3, 2, 4)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([], "images: a list of at least one array is required; got an empty one"),
            (np.zeros((2, 3, 4)), "images: a list .*got ndarray"),
            ([[1.0]], r"images\[0\]: shape \(R_i, C_i\).*got \(1,\)"),
            ([np.zeros((2, 0))], r"no size of it 0, is required; got \(2, 0\)"),
            ([np.zeros((2, 2, 1)), np.zeros((2, 2))], r"images\[1\]: shape \(R_i, C_i, 1\).*got \(2, 2\)"),
        ],
    )
    def test_refuses(self, value, message):
        with pytest.raises((TypeError, ValueError), match=message):
            pad_images(value)

    def test_batches_have_the_images_that_belong_to_the_targets(self):
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, 7, size=(30, 2))
        pictures = [np.full((*size, 2), float(n)) for n, size in enumerate(sizes)]
        x, found = pad_images(pictures)
        every = np.broadcast_to(np.arange(30), (*x.shape[:2], 30))
        for bucket in (False, True):
            seen = []
            for target, per_pixel in ((np.arange(30), False), (every, True)):
                batches = Batches(x, target, found, weights=np.arange(30.0), batch_size=4, bucket=bucket)
                for batch in batches.epoch(1):
                    numbers = batch.target[0, 0] if per_pixel else batch.target
                    assert batch.x.shape == (*sizes[numbers].max(axis=0), len(numbers), 2)
                    np.testing.assert_array_equal(batch.lengths, sizes[numbers])
                    np.testing.assert_array_equal(batch.weights, numbers)
                    for b, n in enumerate(numbers):
                        rows, columns = sizes[n]
                        image = batch.x[:, :, b]
                        assert (image[:rows, :columns] == n).all() and not image[rows:].any() and not image[:, columns:].any()
                    seen += numbers.tolist()
            assert sorted(seen) == sorted([*range(30)] * 2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (((2, 3, 4, 1), [0, 1, 2]), r"target: shape \(4,\) or \(4, O\), one an image, or \(2, 3, 4\) or \(2, 3, 4, O\), one a pixel"),
            (((2, 3, 4, 1), [0] * 4, [1, 2, 3, 4]), r"sizes: shape \(4, 2\)"),
            (((2, 3, 4, 1), [0] * 4, [[1, 4]] * 4), "sizes: from 1 to 2 rows and from 1 to 3 columns.*got 1 and 4 for image 0"),
            (((2, 3, 4, 1), [0] * 4, None, np.ones((2, 3))), r"weights: shape \(4,\), one an image, or \(2, 3, 4\), one a pixel"),
            (((2, 3, 4, 1, 1), [0] * 4), r"x: shape \(T, N, D\), \(R, C, N, D\) for images"),
        ],
    )
    def test_refuses_images(self, arguments, message):
        shape, *rest = arguments
        for make in (Batches, lambda *given: as_batch(given)):
            with pytest.raises(ValueError, match=message):
                make(np.zeros(shape), *rest)

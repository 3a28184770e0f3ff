"""Tasks: every sample obeys its paper, and a predictor that ignores its input scores the chance level."""

import numpy as np
import pytest

from fastrnn.data import Adding, Copy, Lookahead, Needle, TemporalOrder

TASKS = [
    Adding(2),
    Adding(101),
    Adding(50, "symmetric"),
    Adding(10, "hochreiter"),
    Adding(105, "hochreiter"),
    Copy(1),
    Copy(30),
    Lookahead(2, 1),
    Lookahead(30, 3),
    TemporalOrder(10),
    TemporalOrder(57),
    TemporalOrder((50, 200)),
    Needle(12),
    Needle((1, 20)),
]
MANY = 20_000


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def marked(x):
    """Steps of the two markers that are 1, (n, 2), and the values there."""
    steps = np.array([np.flatnonzero(column == 1) for column in x[:, :, 1].T])
    return steps, x[steps, np.arange(x.shape[1])[:, None], 0]


@pytest.mark.parametrize("task", TASKS, ids=repr)
class TestEveryTask:
    def test_shapes_and_types(self, task, rng):
        x, target, lengths = task.sample(9, rng)
        assert x.dtype == np.float32 and x.shape == (lengths.max(), 9, task.input_size) and x.flags.c_contiguous
        assert target.shape == ((9,) if task.readout == "last" else x.shape[:2])
        assert target.dtype == (np.int64 if task.loss == "cross_entropy" else np.float32)
        assert lengths.dtype == np.int64 and lengths.shape == (9,)
        assert np.isfinite(x).all() and not x[np.arange(len(x))[:, None] >= lengths].any()

    def test_a_sample_depends_on_the_generator_alone(self, task):
        first, again, other = (task.sample(5, np.random.default_rng(seed)) for seed in (1, 1, 2))
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
        assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])

    def test_the_chance_level_is_what_ignoring_the_input_costs(self, task, rng):
        target = task.sample(MANY, rng)[1]
        if task.loss == "mean_squared_error":
            costs = (target.astype(float) - target.mean(dtype=float)) ** 2
        else:
            # Of each step by itself, the cross-entropy of the frequencies: the best that is possible without the input.
            steps = np.atleast_2d(target)
            p = np.stack([np.mean(steps == k, axis=1) for k in range(task.output_size)])
            surprise = -np.log(np.where(p > 0, p, 1))
            costs = np.mean(np.take_along_axis(surprise, steps.T, axis=0), axis=1)
            assert np.mean(costs) == pytest.approx(task.chance, rel=2e-3)
            return
        error = 4 * costs.std() / np.sqrt(MANY)
        assert np.mean(costs) == pytest.approx(task.chance, abs=error) and error < 0.05 * task.chance

    def test_the_right_answer_solves_it_and_a_wrong_one_does_not(self, task, rng):
        target = task.sample(20, rng)[1]
        if task.loss == "mean_squared_error":
            assert task.solved(target[:, None], target) == 1.0
            assert task.solved(target + 0.99 * task.tolerance, target) == 1.0
            assert task.solved(target - np.where(np.arange(20) < 5, 1.01 * task.tolerance, 0), target) == 0.75
            return
        logits = np.eye(task.output_size)[target]
        assert task.solved(logits, target) == 1.0
        wrong = target.copy()
        wrong[..., :5] = (wrong[..., :5] + 1) % task.output_size
        assert task.solved(logits, wrong) == 0.75

    @pytest.mark.parametrize(
        ("n", "generator", "error", "message"),
        [
            (0, np.random.default_rng(0), ValueError, "n: an integer at least 1"),
            (2.0, np.random.default_rng(0), TypeError, "n: an integer"),
            (2, 0, TypeError, "rng: a numpy.random.Generator.*default_rng"),
            (2, np.random.RandomState(0), TypeError, "rng: a numpy.random.Generator"),
        ],
    )
    def test_refuses(self, task, n, generator, error, message):
        with pytest.raises(error, match=message):
            task.sample(n, generator)

    def test_refuses_to_judge_what_does_not_fit(self, task, rng):
        target = task.sample(4, rng)[1]
        prediction = np.zeros((*target.shape, task.output_size))
        with pytest.raises(ValueError, match="prediction"):
            task.solved(prediction[..., :3, :], target)
        with pytest.raises(ValueError, match="at least one sequence"):
            task.solved(prediction[..., :0, :], target[..., :0])


class TestAdding:
    @pytest.mark.parametrize(("variant", "low"), [("uniform01", 0), ("symmetric", -1)])
    def test_one_marker_in_each_half(self, variant, low, rng):
        x, target, lengths = Adding(11, variant).sample(2000, rng)
        steps, values = marked(x)
        assert set(steps[:, 0]) == set(range(5)) and set(steps[:, 1]) == set(range(5, 11))
        assert set(np.unique(x[:, :, 1])) == {0, 1} and np.all(lengths == 11)
        assert low <= x[:, :, 0].min() < low + 0.01 and 0.99 < x[:, :, 0].max() <= 1
        np.testing.assert_allclose(target, values.sum(1), rtol=0, atol=1e-6)

    def test_hochreiter(self, rng):
        T = 40
        x, target, lengths = Adding(T, "hochreiter").sample(MANY, rng)
        assert set(lengths) == set(range(T, T + T // 10 + 1))
        steps, values = marked(x)
        # One of the first ten, and another of the first T/2 - 1 that are left: 20 places at most, none twice.
        assert set(steps.ravel()) == set(range(T // 2)) and np.all(steps[:, 0] < 10)
        assert np.all(steps[:, 0] != steps[:, 1])
        np.testing.assert_allclose(target, 0.5 + values.sum(1) / 4, rtol=0, atol=1e-6)
        last = x[lengths - 1, np.arange(MANY), 1]
        first_marked = steps[:, 0] == 0
        assert np.all(last == -1) and np.all(x[0, ~first_marked, 1] == -1)
        assert np.all(x[0, first_marked, 0] == 0) and np.all(x[0, ~first_marked, 0] != 0)
        assert np.all(np.count_nonzero(x[:, :, 1] == -1, axis=0) == 2 - first_marked)
        p = 0.1 + 0.9 / (T // 2 - 1)
        assert np.mean(first_marked) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / MANY))

    def test_chance_levels_of_the_literature(self):
        assert Adding(100).chance == pytest.approx(1 / 6) and Adding(100, "symmetric").chance == pytest.approx(2 / 3)
        assert Adding(10**6, "hochreiter").chance == pytest.approx(1.9 / 48, rel=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((1,), ValueError, "length: an integer at least 2"),
            ((9, "hochreiter"), ValueError, "length: an integer at least 10"),
            ((20.0,), TypeError, "length: an integer"),
            ((20, "gauss"), ValueError, "variant: one of 'uniform01'.*got 'gauss'"),
        ],
    )
    def test_refuses(self, arguments, error, message):
        with pytest.raises(error, match=message):
            Adding(*arguments)


class TestCopy:
    def test_layout(self, rng):
        x, target, lengths = Copy(7).sample(500, rng)
        symbols = x.argmax(-1)
        assert np.all(x.sum(-1) == 1) and np.all(lengths == 27)
        assert set(symbols[:10].ravel()) == set(range(8))
        assert np.all(symbols[10:16] == 8) and np.all(symbols[16] == 9) and np.all(symbols[17:] == 8)
        np.testing.assert_array_equal(target[-10:], symbols[:10])
        assert np.all(target[:-10] == 8)

    @pytest.mark.parametrize(("delay", "chance"), [(100, 0.1733), (200, 0.0945), (300, 0.0650), (500, 0.0400)])
    def test_chance_levels_of_the_paper(self, delay, chance):
        assert Copy(delay).chance == pytest.approx(chance, abs=5e-5)

    def test_only_the_ten_symbols_are_judged(self, rng):
        task = Copy(5)
        target = task.sample(4, rng)[1]
        logits = np.eye(9)[target]
        logits[:-10] = 0
        assert task.solved(logits, target) == 1.0

    @pytest.mark.parametrize(("delay", "error"), [(0, ValueError), (-3, ValueError), ("7", TypeError)])
    def test_refuses(self, delay, error):
        with pytest.raises(error, match="delay: an integer"):
            Copy(delay)

    def test_refuses_labels_out_of_range(self):
        with pytest.raises(ValueError, match="target: integers from 0 to 8"):
            Copy(1).solved(np.zeros((21, 1, 9)), np.full((21, 1), 9))


class TestLookahead:
    def test_layout(self, rng):
        x, target, lengths = Lookahead(20, 3).sample(500, rng)
        coins = x[..., 0].astype(int)
        assert set(coins.ravel()) == {0, 1} and np.all(lengths == 20)
        behind, ahead = np.zeros_like(coins), np.zeros_like(coins)
        behind[3:], ahead[:-3] = coins[:-3], coins[3:]
        np.testing.assert_array_equal(target, behind + ahead)

    @pytest.mark.parametrize(("length", "ahead"), [(2, 1), (6, 1), (6, 2), (6, 3), (7, 2)])
    def test_best_accuracy_is_that_of_whoever_knows_the_odds(self, length, ahead, monkeypatch):
        """All 2^T sequences: of those alike in what has been seen, the commonest target is the best guess."""
        task, every = Lookahead(length, ahead), np.array(list(np.ndindex(*[2] * length)))
        monkeypatch.setattr("fastrnn.data.tasks._arguments", lambda n, rng: (n, rng))
        x, target, _ = task.sample(len(every), type("Every", (), {"integers": lambda self, high, size: every.T})())
        np.testing.assert_array_equal(x[..., 0].T, every)
        for foresight in range(length + 1):
            right = 0
            for t in range(length):
                seen = {}
                for sequence, label in zip(every, target[t]):
                    seen.setdefault(tuple(sequence[: t + foresight + 1]), []).append(label)
                right += sum(max(labels.count(label) for label in set(labels)) for labels in seen.values())
            assert task.best_accuracy(foresight) == pytest.approx(right / (len(every) * length), rel=1e-15)

    def test_refuses(self):
        for arguments, message in (((5, 3), "length: an integer at least 6"), ((9, 0), "ahead: an integer at least 1")):
            with pytest.raises(ValueError, match=message):
                Lookahead(*arguments)
        with pytest.raises(ValueError, match="foresight: an integer at least 0"):
            Lookahead(4, 1).best_accuracy(-1)


class TestTemporalOrder:
    @pytest.mark.parametrize("length", [10, 39, (30, 60)])
    def test_layout(self, length, rng):
        x, target, lengths = TemporalOrder(length).sample(5000, rng)
        low, high = length if isinstance(length, tuple) else (length, length)
        assert set(lengths) == set(range(low, high + 1))
        valid = np.arange(len(x))[:, None] < lengths
        np.testing.assert_array_equal(x.sum(-1), valid)
        symbols = np.where(valid, x.argmax(-1), -1)
        assert set(symbols[valid]) == set(range(6))
        relevant = valid & (symbols < 2)
        assert np.all(relevant.sum(0) == 2)
        first, second = np.array([np.flatnonzero(column) for column in relevant.T]).T
        tenth, half = lengths // 10, lengths // 2
        assert np.all((tenth <= first) & (first < 2 * tenth)) and np.all((half <= second) & (second < half + tenth))
        for steps, start in ((first, tenth), (second, half)):
            assert set((steps - start)[tenth == tenth.max()]) == set(range(tenth.max()))
        every = np.arange(5000)
        np.testing.assert_array_equal(target, 2 * symbols[first, every] + symbols[second, every])
        assert set(target) == set(range(4))

    def test_chance(self):
        assert TemporalOrder(50).chance == pytest.approx(1.386294)

    @pytest.mark.parametrize(
        ("length", "error", "message"),
        [
            (9, ValueError, "length: an integer at least 10"),
            (20.5, TypeError, "length: an integer"),
            ((60, 50), ValueError, "longest.*at least 60"),
            ((10, 20, 30), ValueError, "a pair"),
        ],
    )
    def test_refuses(self, length, error, message):
        with pytest.raises(error, match=message):
            TemporalOrder(length)


class TestNeedle:
    @pytest.mark.parametrize("length", [1, 7, (1, 20)])
    def test_one_key_anywhere_and_distractors_elsewhere(self, length, rng):
        x, target, lengths = Needle(length).sample(MANY, rng)
        low, high = length if isinstance(length, tuple) else (length, length)
        assert set(lengths) == set(range(low, high + 1))
        valid = np.arange(len(x))[:, None] < lengths
        np.testing.assert_array_equal(x.sum(-1), valid)
        symbols = np.where(valid, x.argmax(-1), 8)
        keys = symbols < 4
        assert np.all(keys.sum(0) == 1)
        np.testing.assert_array_equal(symbols[keys.argmax(0), np.arange(MANY)], target)
        places = np.bincount(keys.argmax(0)[lengths == high], minlength=high)
        expected = np.sum(lengths == high) / high
        assert np.all(np.abs(places - expected) < 5 * np.sqrt(expected))
        assert set(symbols[valid & ~keys]) == (set(range(4, 8)) if high > 1 else set())

    def test_chance(self):
        assert Needle(20).chance == pytest.approx(np.log(4))

    @pytest.mark.parametrize(
        ("length", "error", "message"),
        [
            (0, ValueError, "length: an integer at least 1"),
            (2.5, TypeError, "length: an integer"),
            ((3, 2), ValueError, "longest.*at least 3"),
            ((1,), ValueError, "a pair"),
        ],
    )
    def test_refuses(self, length, error, message):
        with pytest.raises(error, match=message):
            Needle(length)

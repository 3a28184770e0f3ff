"""Figures: what is drawn is what was given."""

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from fastrnn import plot  # noqa: E402
from fastrnn.history import History  # noqa: E402

LAGS = np.arange(6)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def drawn(ax):
    """Draw for real: errors and warnings (which are errors) come only then."""
    ax.figure.canvas.draw()
    return ax


def run(losses, validation=None):
    history = History()
    for k, loss in enumerate(losses):
        history.steps.append({"step": k + 1, "loss": loss})
        row = {"epoch": k + 1, "step": k + 1, "loss": loss}
        history.epochs.append(row if validation is None else row | {"validation_loss": validation[k]})
    return history


def test_history_shows_steps_epochs_and_validation():
    history = run([1.0, 0.5, 0.2], [1.1, 0.6, np.nan])
    ax = drawn(history.plot())
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), history["loss"])
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), history["validation_loss"])
    np.testing.assert_array_equal(ax.lines[2].get_xdata(), [1, 2, 3])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["each step", "epoch mean", "validation"]
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "step" and ax.get_ylabel() == "loss"


def test_history_with_a_loss_of_zero_is_drawn_linearly():
    assert drawn(plot.history(run([1.0, 0.0]))).get_yscale() == "linear"


@pytest.mark.parametrize("losses", [[], [np.nan, np.nan]])
def test_history_without_numbers_is_drawn(losses):
    drawn(plot.history(run(losses)))


def test_gradient_by_lag_leaves_out_what_has_no_logarithm():
    median = np.array([1.0, 0.5, 0.0, np.nan, np.inf, 1e-30])
    ax = drawn(plot.gradient_by_lag(LAGS, median, 0.5 * median, 2 * median, expected=0.5**LAGS, label="rnn"))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 0.5, np.nan, np.nan, np.nan, 1e-30])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), 0.5**LAGS)
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert len(ax.collections) == 1


def test_one_end_of_a_band_is_not_enough():
    with pytest.raises(ValueError, match="low, high: both"):
        plot.gradient_by_lag(LAGS, LAGS, low=LAGS)


def test_the_given_axes_are_used():
    _, ax = plt.subplots()
    history = run([1.0, 0.5])
    assert plot.history(history, ax=ax) is ax
    assert plot.gradient_by_lag(LAGS, LAGS, ax=ax) is ax
    assert plot.points_with_intervals([1], [0.5], [0.4], [0.6], ax=ax) is ax
    assert plot.bars_with_intervals(["a"], [0.5], [0.4], [0.6], ax=ax) is ax
    assert plt.get_fignums() == [ax.figure.number]


def test_points_have_their_intervals():
    ax = drawn(
        plot.points_with_intervals([10, 20], [0.5, 1.0], [0.25, 0.75], [0.75, 1.0 - 1e-17], label="adam", xlabel="T")
    )
    segments = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segments, [[[10, 0.25], [10, 0.75]], [[20, 0.75], [20, 1.0]]])
    assert ax.get_xlabel() == "T" and ax.get_legend() is not None


def test_bars_of_groups_stand_side_by_side_with_their_intervals():
    values = np.array([[0.2, 0.4], [0.6, 0.8]])
    ax = drawn(
        plot.bars_with_intervals(
            ["rnn", "gru"], values, values - 0.1, values + 0.2, groups=["sgd", "adam"], reference=0.5
        )
    )
    assert [bar.get_height() for bar in ax.patches] == [0.2, 0.4, 0.6, 0.8]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches)
    assert all(a[1] < b[0] for a, b in zip(edges, edges[1:]))
    segment = ax.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], [0.1, 0.4])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sgd", "adam"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: plot.bars_with_intervals(["a"], [1, 2], [0, 1], [2, 3]),
        lambda: plot.bars_with_intervals(["a", "b"], [1, 2], [0], [2, 3]),
        lambda: plot.bars_with_intervals(["a", "b"], [1, 2], [0, 1], [2, 3], groups=["x", "y"]),
        lambda: plot.points_with_intervals([1], [[1]], [[1]], [[1]]),
        lambda: plot.gradient_by_lag([1], [[1]]),
    ],
)
def test_wrong_shapes_are_named(call):
    with pytest.raises(ValueError, match="required; got"):
        call()


def test_style_lasts_only_for_its_block():
    before = dict(matplotlib.rcParams)
    with plot.style():
        assert matplotlib.rcParams["figure.figsize"] == [plot.COLUMN, 2.5]
        assert plt.subplots()[1].plot([0, 1])[0].get_color() == plot.COLORS[0]
    assert dict(matplotlib.rcParams) == before

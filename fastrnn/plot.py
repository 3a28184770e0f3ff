"""Figures: arrays in, Axes out. Nothing is computed here but what a drawing needs.

Every function takes ``ax`` (a new figure of one column's width is made without it), labels its axes, and returns the
Axes, so that figures compose: ``fig, (a, b) = plt.subplots(1, 2)``.
"""

import contextlib
import itertools

import numpy as np

# Okabe & Ito 2008, "Color universal design": told apart with every color blindness and, dark ones first, in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: Width of one and of two columns of a journal page, in inches.
COLUMN, PAGE = 3.4, 7.0

_STYLE = {
    "figure.figsize": (COLUMN, 2.5),
    "figure.dpi": 120,
    "savefig.dpi": 300,
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@contextlib.contextmanager
def style():
    """The package's look, for the length of a block: Okabe-Ito colors, column width, small type.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import fastrnn.plot
    >>> with fastrnn.plot.style():
    ...     fig, ax = plt.subplots()
    >>> float(fig.get_figwidth())
    3.4
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt
    from cycler import cycler

    with plt.rc_context(_STYLE | {"axes.prop_cycle": cycler(color=COLORS)}):
        yield


def history(history, ax=None):
    """The course of a training run: loss by step (thin), by epoch, and on the validation data, against the step.

    Parameters
    ----------
    history : History
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    steps, epochs = history.steps, history.epochs
    drawn = []
    if steps.rows:
        drawn.append(ax.plot(steps["step"], steps["loss"], color=COLORS[5], linewidth=0.6, label="each step"))
    marker = MARKERS[0] if epochs.rows <= 30 else None
    if epochs.rows:
        drawn.append(ax.plot(epochs["step"], epochs["loss"], color=COLORS[0], marker=marker, label="epoch mean"))
        if "validation_loss" in epochs:
            drawn.append(
                ax.plot(epochs["step"], epochs["validation_loss"], color=COLORS[1], marker=marker, label="validation")
            )
    values = np.concatenate([line.get_ydata() for lines in drawn for line in lines]) if drawn else np.array([])
    if (values > 0).any() and not (values <= 0).any():
        ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    if drawn:
        ax.legend()
    return ax


def ensemble(history, ax=None):
    """The course of an ensemble: the median over its members, and the band between the quartiles, of loss and validation loss.

    By epoch; by step where there is only one epoch. A member counts as long as it runs.

    Parameters
    ----------
    history : EnsembleHistory
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    epochs = max((member.epochs.rows for member in history.members), default=0)
    names = {"loss": "loss", "validation_loss": "validation"}
    per = "epoch" if epochs > 1 else "step"
    drawn = []
    for color, (name, label) in zip(COLORS, names.items()):
        if not any(name in member._rows(per) for member in history.members):
            continue
        values = history.column(name, per)
        at = 1 + np.flatnonzero(np.isfinite(values).any(axis=0))
        low, median, high = np.nanpercentile(values[:, at - 1], (25, 50, 75), axis=0)
        ax.plot(at, median, color=color, marker=MARKERS[0] if len(at) <= 30 else None, label=label)
        ax.fill_between(at, low, high, color=color, alpha=0.25, linewidth=0)
        drawn.append(values[np.isfinite(values)])
    values = np.concatenate(drawn) if drawn else np.array([])
    if (values > 0).any() and not (values <= 0).any():
        ax.set_yscale("log")
    ax.set_xlabel(per)
    ax.set_ylabel("loss")
    if drawn:
        ax.legend(title=f"median and quartiles of {len(history)}")
    return ax


def gradient_by_lag(lags, median, low=None, high=None, *, expected=None, label=None, color=None, ax=None):
    """The gradient's norm against how far back it has travelled, on a logarithmic scale.

    Parameters
    ----------
    lags : array_like, shape (K,)
        Steps back from the loss.
    median, low, high : array_like, shape (K,)
        The norm, and the band around it if given. What is zero or not finite is left out.
    expected : array_like, shape (K,), optional
        A closed form to hold it against, drawn dashed and black.
    label, color : str, optional
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn.plot
    >>> lags = np.arange(50)
    >>> ax = fastrnn.plot.gradient_by_lag(lags, 0.9**lags, 0.8**lags, 0.95**lags, label="rnn")
    >>> ax.get_xlabel(), ax.get_yscale()
    ('lag (steps)', 'log')
    """
    ax = _axes(ax)
    lags, median = _column("lags", lags), _drawable(_column("median", median))
    (line,) = ax.plot(lags, median, label=label, color=color)
    if (low is None) != (high is None):
        raise ValueError("low, high: both ends of the band are required, or neither; got only one")
    if low is not None:
        low, high = _drawable(_column("low", low)), _drawable(_column("high", high))
        ax.fill_between(lags, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if expected is not None:
        ax.plot(lags, _drawable(_column("expected", expected)), color=COLORS[6], linestyle="--", linewidth=0.7)
    ax.set_yscale("log")
    ax.set_xlabel("lag (steps)")
    ax.set_ylabel("gradient norm")
    if label is not None:
        ax.legend()
    return ax


def points_with_intervals(
    x, values, low, high, *, label=None, color=None, marker="o", xlabel=None, ylabel=None, ax=None
):
    """Values against `x`, joined, each with its interval: success rates against a length, say.

    Parameters
    ----------
    x, values, low, high : array_like, shape (N,)
        `low` and `high` are the ends of the intervals, not their distances from the values.
    label, color, marker, xlabel, ylabel : str, optional
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    x, values = _column("x", x), _column("values", values)
    bars = _bars(values, low, high)
    ax.errorbar(x, values, yerr=bars, label=label, color=color, marker=marker, capsize=2, elinewidth=0.8)
    _labels(ax, xlabel, ylabel, label)
    return ax


def bars_with_intervals(names, values, low, high, *, groups=None, reference=None, xlabel=None, ylabel=None, ax=None):
    """Bars side by side, each with its interval.

    Parameters
    ----------
    names : sequence of str, length N
        One for each place on the axis.
    values, low, high : array_like, shape (N,) or (G, N)
        `low` and `high` are the ends of the intervals. With two dimensions, G bars stand at each place.
    groups : sequence of str, length G, optional
        The legend.
    reference : float, optional
        A level to hold them against (chance, a published number), drawn dashed.
    xlabel, ylabel : str, optional
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import fastrnn.plot
    >>> ax = fastrnn.plot.bars_with_intervals(["rnn", "gru"], [0.5, 0.8], [0.4, 0.7], [0.6, 0.9], ylabel="accuracy")
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['rnn', 'gru']
    """
    ax = _axes(ax)
    values, low, high = (np.atleast_2d(np.asarray(part, float)) for part in (values, low, high))
    names = list(names)
    if values.shape[1] != len(names):
        raise ValueError(f"values: one for each of the {len(names)} names is required; got shape {values.shape}")
    if groups is not None and len(groups) != len(values):
        raise ValueError(
            f"groups: one name for each of the {len(values)} rows of values is required; got {len(groups)}"
        )
    width, places = 0.8 / len(values), np.arange(len(names))
    bars = _bars(values, low, high)
    for g, color in zip(range(len(values)), itertools.cycle(COLORS)):
        ax.bar(
            places + (g - (len(values) - 1) / 2) * width,
            values[g],
            0.9 * width,
            yerr=bars[:, g],
            color=color,
            label=None if groups is None else groups[g],
            capsize=2,
            error_kw={"elinewidth": 0.8},
        )
    ax.set_xticks(places, names)
    if reference is not None:
        ax.axhline(reference, color=COLORS[6], linestyle="--", linewidth=0.8)
    _labels(ax, xlabel, ylabel, groups)
    return ax


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots(layout="constrained")[1]


def _column(name: str, values) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise ValueError(f"{name}: one dimension is required; got shape {values.shape}")
    return values


def _drawable(values: np.ndarray) -> np.ndarray:
    """NaN, which is not drawn, for what has no logarithm."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _bars(values: np.ndarray, low, high) -> np.ndarray:
    """Distances from `values` down to `low` and up to `high`."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    if low.shape != values.shape or high.shape != values.shape:
        raise ValueError(
            f"low, high: the shape of values, {values.shape}, is required; got {low.shape} and {high.shape}"
        )
    # A Wilson interval of 0 of n or n of n ends at the value up to rounding; matplotlib refuses lengths of -1e-17.
    return np.maximum(np.stack([values - low, high - values]), 0.0)


def _labels(ax, xlabel, ylabel, legend) -> None:
    if xlabel is not None:
        ax.set_xlabel(xlabel)
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    if legend is not None:
        ax.legend()

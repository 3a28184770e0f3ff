"""What a training run left behind: numbers by step and by epoch."""

import csv
import io
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from . import _check


class Table(Mapping):
    """Columns that grow a row at a time; a column reads as an array (int64 or float64).

    A column that appears late, or is missing from a row, is NaN there (integer columns become float64 for it).
    """

    def __init__(self, columns: Mapping[str, np.ndarray] | None = None):
        self._columns: dict[str, array] = {}
        self._rows = 0
        if columns:
            self._rows = len(next(iter(columns.values())))
            for name, column in columns.items():
                if column.shape != (self._rows,) or column.dtype.name not in ("int64", "float64"):
                    got = f"{column.dtype} of shape {column.shape}"
                    raise ValueError(f"{name}: int64 or float64 of shape ({self._rows},) is required; got {got}")
                self._columns[name] = array("q" if column.dtype.kind == "i" else "d", column.tobytes())

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._rows

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row."""
        if row.keys() == self._columns.keys():  # as all but the first few have
            for name, column in self._columns.items():
                column.append(row[name])
            self._rows += 1
            return
        for name, value in row.items():
            if name not in self._columns:
                integral = self._rows == 0 and isinstance(value, (int, np.integer))
                self._columns[name] = array("q") if integral else array("d", [math.nan] * self._rows)
            self._columns[name].append(value)
        self._rows += 1
        if len(row) < len(self._columns):
            for name, column in self._columns.items():
                if len(column) < self._rows:
                    self._columns[name] = array("d", [*column, math.nan])

    def head(self, rows: int) -> dict[str, np.ndarray]:
        """The first `rows` rows, as arrays."""
        return {name: self[name][:rows] for name in self}

    def records(self) -> list[dict[str, float]]:
        """The rows, each a dict."""
        return [dict(zip(self._columns, values)) for values in zip(*self._columns.values())]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self._columns) or 'none'}")
        return np.array(self._columns[name])  # a copy: a view would forbid the column to grow

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Table({', '.join(self._columns)}; {self._rows} rows)"


class History:
    """The course of a training run.

    Attributes
    ----------
    steps : Table
        One row per update: ``step, epoch, loss, weight, gradient_norm, clipped, learning_rate``. ``loss`` is the mean
        over the ``weight`` valid targets of that update, before it.
    epochs : Table
        One row per epoch: ``epoch, step, loss, gradient_norm, learning_rate``, and ``validation_loss``,
        ``validation_accuracy``, ... where there is validation. ``loss`` is the mean over all targets as they were seen,
        ``gradient_norm`` that over the updates.
    stopped : str
        Why it ended: ``"epochs"`` (or the data) or ``"steps"`` were done, a ``"callback"`` asked for it, it was
        ``"interrupted"`` by Ctrl-C; or ``"error"``, for a history that hangs on an error; ``""`` while it runs.

    Examples
    --------
    >>> from fastrnn import History
    >>> history = History()
    >>> history.epochs.append({"epoch": 1, "loss": 0.5})
    >>> history.epochs.append({"epoch": 2, "loss": 0.25})
    >>> history["loss"]
    array([0.5 , 0.25])
    >>> history.table()
    [{'epoch': 1, 'loss': 0.5}, {'epoch': 2, 'loss': 0.25}]
    >>> history.csv().splitlines()
    ['epoch,loss', '1,0.5', '2,0.25']
    """

    def __init__(self, steps: Table | None = None, epochs: Table | None = None):
        self.steps = Table() if steps is None else steps
        self.epochs = Table() if epochs is None else epochs
        self.stopped = ""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.stopped == "interrupted"

    def __getitem__(self, name: str) -> np.ndarray:
        """The column `name` by epoch; by step if there is none by epoch."""
        return self.epochs[name] if name in self.epochs or name not in self.steps else self.steps[name]

    def table(self, per: str = "epoch") -> list[dict[str, float]]:
        """The rows as dicts, one per "epoch" or one per "step" (ready for pandas.DataFrame)."""
        return self._rows(per).records()

    def csv(self, per: str = "epoch") -> str:
        """The rows as CSV text with a header line; every number with all its digits."""
        table = self._rows(per)
        return _csv(list(table), table.records())

    def plot(self, ax=None):
        """Draw the loss by step and by epoch, and the validation loss; returns matplotlib's Axes."""
        from . import plot

        return plot.history(self, ax=ax)

    def _rows(self, per: str) -> Table:
        return self.epochs if _check.choice("per", per, ("epoch", "step")) == "epoch" else self.steps

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {self.epochs[name][-1]:.4g}" for name in self.epochs)
        size = f"{self.steps.rows} steps, {self.epochs.rows} epochs"
        return f"History({size}{last and ': ' + last}; {self.stopped or 'running'})"


class EnsembleHistory:
    """The courses of an ensemble's members in one run.

    ``history[name]`` is a column of all of them, (members, epochs), or (members, steps) where there is none by epoch: NaN behind the end
    of a member that ended earlier.

    Attributes
    ----------
    members : tuple of History
        Each member's own.
    errors : dict of int to NonFiniteError
        Of the members whose numbers stopped being finite; their `stopped` is ``"error"``.
    interrupted : bool

    Examples
    --------
    >>> from fastrnn import EnsembleHistory, History
    >>> members = History(), History()
    >>> for member, losses in zip(members, ([0.5, 0.25], [0.75])):
    ...     for epoch, loss in enumerate(losses, 1):
    ...         member.epochs.append({"epoch": epoch, "loss": loss})
    >>> history = EnsembleHistory(members)
    >>> history["loss"]
    array([[0.5 , 0.25],
           [0.75,  nan]])
    >>> history.csv().splitlines()
    ['member,epoch,loss', '0,1,0.5', '0,2,0.25', '1,1,0.75']
    """

    def __init__(self, members: Sequence[History], errors: Mapping | None = None):
        self.members, self.errors = tuple(members), dict(errors or {})

    @property
    def stopped(self) -> tuple[str, ...]:
        """Why each member ended: see `History.stopped`."""
        return tuple(member.stopped for member in self.members)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return "interrupted" in self.stopped

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, name: str) -> np.ndarray:
        """The column `name` by epoch, or by step: (members, rows), float64."""
        per = "epoch" if any(name in member.epochs for member in self.members) else "step"
        return self.column(name, per)

    def column(self, name: str, per: str) -> np.ndarray:
        """The column `name` by "epoch" or by "step": (members, rows), float64, NaN where a member has no such row."""
        tables = [member._rows(per) for member in self.members]
        if not any(name in table for table in tables):
            known = ", ".join(dict.fromkeys(column for table in tables for column in table))
            raise KeyError(f"no column {name!r}; there are {known or 'none'}")
        result = np.full((len(tables), max(table.rows for table in tables)), np.nan)
        for row, table in zip(result, tables):
            if name in table:
                row[: table.rows] = table[name]
        return result

    def table(self, per: str = "epoch") -> list[dict[str, float]]:
        """The rows of all members as dicts, one per "epoch" or one per "step", with the ``member`` they are of."""
        return [{"member": e} | row for e, member in enumerate(self.members) for row in member.table(per)]

    def csv(self, per: str = "epoch") -> str:
        """The rows as CSV text with a header line; every number with all its digits."""
        rows = self.table(per)
        return _csv(dict.fromkeys(["member", *(name for row in rows for name in row)]), rows)

    def plot(self, ax=None):
        """Draw the median over the members of loss and validation loss, with the band between the quartiles; returns matplotlib's Axes."""
        from . import plot

        return plot.ensemble(self, ax=ax)

    def __repr__(self) -> str:
        ended = ", ".join(f"{self.stopped.count(why)} {why or 'running'}" for why in dict.fromkeys(self.stopped))
        return f"EnsembleHistory({len(self)} members: {ended})"


def _csv(names, rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row.get(name, math.nan) for name in names] for row in rows)
    return text.getvalue()

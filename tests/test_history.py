"""Tables that grow by rows, and what History makes of them."""

import csv
import io

import numpy as np
import pytest

from fastrnn.history import History, Table


def test_columns_grow_and_keep_their_type():
    table = Table()
    table.append({"step": 1, "loss": 0.5})
    table.append({"step": np.int64(2), "loss": np.float32(0.25)})
    assert table["step"].dtype == np.int64 and table["loss"].dtype == np.float64
    assert table["step"].tolist() == [1, 2] and table["loss"].tolist() == [0.5, 0.25]
    assert list(table) == ["step", "loss"] and table.rows == 2


def test_a_column_taken_out_neither_changes_nor_forbids_growth():
    table = Table()
    table.append({"loss": 1.0})
    column = table["loss"]
    column[0] = 5.0
    table.append({"loss": 2.0})
    assert table["loss"].tolist() == [1.0, 2.0]


def test_missing_values_are_nan():
    table = Table()
    table.append({"epoch": 1, "loss": 0.5})
    table.append({"epoch": 2, "loss": 0.5, "validation_loss": 0.75})
    table.append({"loss": 0.25})
    np.testing.assert_array_equal(table["validation_loss"], [np.nan, 0.75, np.nan])
    np.testing.assert_array_equal(table["epoch"], [1.0, 2.0, np.nan])


def test_a_table_is_made_again_from_its_head():
    table = Table()
    for step in range(5):
        table.append({"step": step, "loss": 1.0 / 3**step})
    again = Table(table.head(3))
    again.append({"step": 3, "loss": 1.0 / 27})
    assert again.records() == table.records()[:4]
    assert Table(Table().head(0)).records() == []


@pytest.mark.parametrize(
    "columns", [{"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.zeros((2, 2))}, {"a": np.zeros(2, "float32")}]
)
def test_other_columns_are_refused(columns):
    with pytest.raises(ValueError, match="int64 or float64 of shape"):
        Table(columns)


def test_unknown_columns_are_named_with_the_known_ones():
    history = History()
    history.steps.append({"gradient_norm": 1.0})
    history.epochs.append({"loss": 1.0})
    assert history["gradient_norm"].tolist() == [1.0]
    with pytest.raises(KeyError, match="no column 'los'; there are loss"):
        history["los"]


def test_epochs_come_before_steps():
    history = History()
    history.steps.append({"loss": 1.0})
    history.steps.append({"loss": 3.0})
    history.epochs.append({"loss": 2.0})
    assert history["loss"].tolist() == [2.0]
    assert history.steps["loss"].tolist() == [1.0, 3.0]


def test_tables_and_csv_hold_every_digit():
    history = History()
    for value in (0.1 + 0.2, 1e-300, np.nan):
        history.steps.append({"step": history.steps.rows + 1, "loss": value})
    assert history.table() == [] and history.csv() == "\n"
    assert history.table("step")[0] == {"step": 1, "loss": 0.1 + 0.2}
    rows = list(csv.DictReader(io.StringIO(history.csv("step"))))
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    np.testing.assert_array_equal([float(row["loss"]) for row in rows], history.steps["loss"])
    with pytest.raises(ValueError, match="per: one of 'epoch', 'step' is required"):
        history.table("batch")


def test_repr_says_where_it_stands():
    history = History()
    assert repr(history) == "History(0 steps, 0 epochs; running)"
    history.epochs.append({"epoch": 1, "loss": 0.5})
    history.stopped = "interrupted"
    assert history.interrupted
    assert repr(history) == "History(0 steps, 1 epochs: epoch 1, loss 0.5; interrupted)"

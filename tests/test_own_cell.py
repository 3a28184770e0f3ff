"""A cell in a file of the user's own: right, compiled once, and never served stale."""

import sys

import pytest
from processes import ROOT

import fastrnn as fr

SOURCE = (ROOT / "docs" / "own_cell.py").read_text("utf-8")


def test_the_cell_has_twenty_five_lines_and_is_the_one_in_the_docs():
    begin, end = SOURCE.index("from fastrnn.math"), SOURCE.index('if __name__ == "__main__"')
    cell = SOURCE[begin:end].strip()
    assert len(cell.splitlines()) <= 25
    assert cell in (ROOT / "docs" / "write-a-cell.md").read_text("utf-8")


def test_a_model_with_an_own_cell_is_saved_and_loaded_by_giving_the_cell(tmp_path, monkeypatch):
    (tmp_path / "own_cell_to_save.py").write_text(SOURCE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import own_cell_to_save

    model = fr.Model(fr.Recurrent(own_cell_to_save.ugrnn, 2, 3), fr.Linear(3, 1), loss=fr.MeanSquaredError())
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="ugrnn"):
        fr.load(tmp_path / "model")
    loaded = fr.load(tmp_path / "model", cells={"ugrnn": own_cell_to_save.ugrnn})
    assert (loaded.params.flat == model.params.flat).all() and loaded.layers[0].cell is own_cell_to_save.ugrnn
    del sys.modules["own_cell_to_save"]

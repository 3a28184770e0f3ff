"""A cell in a file of the user's own: right, compiled once, and never served stale."""

import sys
from pathlib import Path

import pytest
from processes import ROOT, python, reported, warm_cache
from tolerances import TOLERANCES

import fastrnn as fr
from fastrnn._jit import JIT_DISABLED

SOURCE = (ROOT / "docs" / "own_cell.py").read_text("utf-8")

# Everything below runs beside the user's file. The twin calls its `step`, the plain Python function, on complex numbers.
CHECK = """
import hashlib

import numpy as np
import own_cell
import fastrnn as fr
from processes import report

rng = np.random.default_rng(5)
T, B, D, H = 5, 3, 2, 3
x, lengths = rng.normal(size=(T, B, D)), np.array([2, 5, 0])
network = fr.Recurrent(own_cell.ugrnn, D, H, bidirectional=True, dtype="float64", seed=3)
start, dy, dh = rng.normal(size=(2, B, H)), rng.normal(size=(T, B, 2 * H)), rng.normal(size=(2, B, H))


def twin(x, start, params):
    y, end = np.zeros((T, B, 2 * H), complex), np.array(start, complex)
    for d, suffix in enumerate(("_l0", "_l0_reverse")):
        W, U = params["weight_ih" + suffix], params["weight_hh" + suffix]
        for b in range(B):
            for t in range(lengths[b]) if d == 0 else reversed(range(lengths[b])):
                a = W @ x[t, b] + params["bias_ih" + suffix] + U @ end[d, b] + params["bias_hh" + suffix]
                end[d, b] = [own_cell.step((a[j], a[H + j]), (end[d, b, j],), ())[0][0] for j in range(H)]
                y[t, b, d * H : (d + 1) * H] = end[d, b]
    return y, end


def gradient(which):
    '''dL/d(which) by complex step, L = sum dy y + sum dh h_end.'''
    arguments = {"x": x, "start": start} | dict(network.params)
    result = np.zeros(arguments[which].shape)
    for place in np.ndindex(*result.shape):
        moved = arguments | {which: arguments[which].astype(complex)}
        moved[which][place] += 1e-30j
        y, end = twin(moved.pop("x"), moved.pop("start"), moved)
        result[place] = ((dy * y).sum() + (dh * end).sum()).imag / 1e-30
    return result


def distance(ours, theirs):
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


y, end, tape = network.forward(x, start, lengths=lengths)
found = network.backward(tape, dy, dh)
expected_y, expected_end = twin(x, start, network.params)
errors = {"y": distance(y, expected_y.real), "end": distance(end, expected_end.real)}
errors |= {"x": distance(found.x, gradient("x")), "start": distance(found.state, gradient("start"))}
errors |= {name: distance(found.params[name], gradient(name)) for name in network.params}
# A kernel just compiled calls its parts as they were compiled alone, a loaded one as they were compiled into it.
bits = hashlib.sha256(y.tobytes() + found.x.tobytes() + found.params.flat.tobytes()).hexdigest()
report(errors=errors, y=y.tolist(), bits=bits)
"""


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_own_cell_is_right_compiled_once_and_never_stale(tmp_path):
    home, runs = Path(warm_cache()[0].name), {}
    edits = {"first": ("", ""), "unchanged": ("", ""), "edited": ("BIAS = 1.0", "BIAS = -0.5")}
    (tmp_path / "check.py").write_text(CHECK, "utf-8")
    for run, (old, new) in edits.items():
        assert old in SOURCE
        (tmp_path / "own_cell.py").write_text(SOURCE.replace(old, new), "utf-8")
        runs[run] = reported(python("check.py", cache_home=home, folder=tmp_path))
    for name, run in runs.items():
        for array, error in run["errors"].items():
            assert error <= TOLERANCES["gradient_normwise"], f"{array} in the run {name!r}"
    assert {"forward", "backward"} <= set(runs["first"]["compiled"])
    assert runs["unchanged"]["compiled"] == [] and {"forward", "backward"} <= set(runs["unchanged"]["loaded"])
    assert runs["unchanged"]["bits"] == runs["first"]["bits"]
    assert runs["edited"]["compiled"] == ["backward", "forward"]
    assert runs["edited"]["y"] != runs["first"]["y"]


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

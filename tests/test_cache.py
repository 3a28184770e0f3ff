"""Compiled code that is kept: what `fastrnn warmup` leaves serves later processes, and never a cell that has been edited.

All of it from one warm cache, which takes minutes to fill: these tests stand in one file, and so in one process.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from processes import ROOT, python, reported
from tolerances import TOLERANCES

from fastrnn._jit import JIT_DISABLED

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

FIT = """
import numpy as np
import fastrnn as fr
from processes import report

x, target, lengths = fr.data.TemporalOrder(10).sample(24, np.random.default_rng(0))
recurrent = fr.RNN(6, 4, num_layers=2, bidirectional=True, dropout=0.1, recurrent_dropout=0.1, initial_state="learned")
model = fr.Model(recurrent, fr.Dropout(0.1), fr.Linear(8, 4), loss=fr.CrossEntropy())
history = fr.fit(model, (x, target, lengths), validation=(x, target, lengths), optimizer=fr.Adam(1e-2, clip_norm=1.0), batch_size=7)
model = fr.Model(fr.RNN(6, 4), fr.Linear(4, 1), loss=fr.MeanSquaredError(), readout="mean")
fr.fit(model, (x, np.zeros(24)), bptt=fr.Truncated(5, 3, clip=1.0), optimizer=fr.SGD(0.1, momentum=0.9))
report(loss=history["validation_loss"].tolist())
"""

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


@cache
def warm_cache() -> tuple[TemporaryDirectory, str]:
    """A folder of compiled code that nobody else uses, filled by ``fastrnn warmup --cells rnn``; and what that printed."""
    home = TemporaryDirectory(prefix="fastrnn-cache-")
    return home, python("-m", "fastrnn.cli", "warmup", "--cells", "rnn", cache_home=Path(home.name))


def test_warmup_says_what_it_compiles_and_keeps_it():
    home, output = warm_cache()
    *lines, last = output.splitlines()
    for k, line in enumerate(lines, 1):
        assert line.startswith(f"[{k}/{len(lines)}] ") and line.endswith(" s") and " float32 ... " in line
    assert [line.split()[1] for line in lines][0] == "rnn"
    assert {"CrossEntropy", "MeanSquaredError", "Adam", "AdamW", "RMSprop", "SGD"} <= {line.split()[1] for line in lines}
    assert last.startswith("ready in ")
    kept = [path.parent.name for path in Path(home.name).rglob("*.nbc")]  # one folder a kernel
    assert len(set(kept)) >= 10


def test_a_second_process_compiles_nothing():
    """After `fastrnn warmup`, not even the first fit does; and two processes come to the same bits."""
    home = Path(warm_cache()[0].name)
    runs = [reported(python("-c", FIT, cache_home=home)) for _ in range(2)]
    for run in runs:
        assert run["compiled"] == []
        assert {"forward", "backward", "affine", "affine_backward", "_cross_entropy", "_mean_squared_error", "adam"} <= set(run["loaded"])
    assert runs[0] == runs[1]


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

"""The package as it is installed: what importing it loads, what a second process compiles, what a user can name."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from processes import ROOT, python, reported, warm_cache

import fastrnn as fr
from fastrnn._jit import JIT_DISABLED

FIT = """
import numpy as np
import fastrnn as fr
from processes import report

x, target, lengths = fr.data.TemporalOrder(10).sample(24, np.random.default_rng(0))
recurrent = fr.GRU(6, 4, num_layers=2, bidirectional=True, dropout=0.1, recurrent_dropout=0.1, initial_state="learned")
model = fr.Model(recurrent, fr.Dropout(0.1), fr.Linear(8, 4), loss=fr.CrossEntropy())
history = fr.fit(model, (x, target, lengths), validation=(x, target, lengths), optimizer=fr.Adam(1e-2, clip_norm=1.0), batch_size=7)
model = fr.Model(fr.GRU(6, 4), fr.Linear(4, 1), loss=fr.MeanSquaredError(), readout="mean")
fr.fit(model, (x, np.zeros(24)), bptt=fr.Truncated(5, 3, clip=1.0), optimizer=fr.SGD(0.1, momentum=0.9))
report(loss=history["validation_loss"].tolist())
"""


def test_importing_loads_nothing_that_is_not_needed():
    heavy = ("matplotlib", "sktime", "sklearn", "torch", "pandas", "tqdm", "IPython")
    script = f"import sys, json, fastrnn; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    assert json.loads(python("-c", script)) == []


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_a_second_process_compiles_nothing():
    """After `fastrnn warmup`, not even the first fit does; and two processes come to the same bits."""
    home = Path(warm_cache()[0].name)
    runs = [reported(python("-c", FIT, cache_home=home)) for _ in range(2)]
    for run in runs:
        assert run["compiled"] == []
        assert {"forward", "backward", "affine", "affine_backward", "_cross_entropy", "_mean_squared_error", "adam"} <= set(run["loaded"])
    assert runs[0] == runs[1]


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?", fr.__version__)
    assert 'attr = "fastrnn._version.__version__"' in (ROOT / "pyproject.toml").read_text("utf-8")
    try:
        installed = importlib.metadata.version("fastrnn")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert installed == fr.__version__


def test_public_names_are_what_they_say():
    for name in vars(fr):
        if not name.startswith("_") and re.match(r"[A-Z]", name) and isinstance(getattr(fr, name), type):
            assert getattr(fr, name).__name__ == name
            assert getattr(fr, name).__doc__, f"{name} has no docstring"

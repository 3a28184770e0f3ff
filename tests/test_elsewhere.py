"""The same numbers in processes with other settings of Numba: with bounds checks, and in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
from tolerances import TOLERANCES

import fastrnn as fr

# where no folder of compiled code can be made, on any system
NO_CACHE = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), os.devnull)


def run_elsewhere(tmp_path, dtype, cases, **environment):
    """`small_runs` in a new process with a cache folder of its own."""
    path, root = tmp_path / "out.npz", Path(small_runs.__file__).parent
    own = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(root.parent), "OPENBLAS_NUM_THREADS": "1"}
    variables = os.environ | own | environment
    command = [sys.executable, "-W", "error", str(root / "small_runs.py"), str(path), dtype, *cases]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr
    with np.load(path) as arrays:
        return dict(arrays)


def assert_close(found, expected):
    assert expected.keys() <= found.keys()
    for name, array in expected.items():
        size = max(1.0, np.abs(array).max(initial=0))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCES["interpreter"] * size, err_msg=name)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """With JIT off the same functions run as plain Python: the same numbers, and real coverage of their branches."""
    cases = [*small_runs.CASES, "feedforward", *(f"grid {cell}" for cell in fr.CELLS2D)]
    cases += [f"closed {case}" for case in small_runs.CASES]
    folder = tmp_path_factory.mktemp("interpreted")
    found = run_elsewhere(folder, "float64", cases, NUMBA_DISABLE_JIT="1")
    assert found.pop("checked") and not list(folder.glob("fastrnn/**/*.nbc"))
    return found


def test_compiled_kernels_and_the_interpreter(interpreted):
    """Without closed loops, which take longest to compile: as such they are in the next test, optimized in `test_forcing`."""
    compiled = small_runs.feedforward("float64")
    for cell in fr.CELLS2D:
        compiled |= small_runs.grid(cell, "float64")
    for case in ("everything", "rnn", "lstm", "gru", "gru_before"):
        compiled |= small_runs.run(case, "float64")
    assert_close(interpreted, compiled)


def test_bounds_checked_kernels(tmp_path, interpreted):
    """Indices of every array access are checked here, except those of the register tile, whose product `test_kernels` has.

    Numba writes the checks, so LLVM need not optimize, which takes longer than all else; nor is such code kept, whose key does not tell
    it from the other. Checked loops are scalar, and fuse other multiplications with additions than vectorized ones: equal to rounding.
    """
    cases = ["everything", "grid lstm", "closed everything"]
    found = run_elsewhere(tmp_path, "float64", cases, NUMBA_BOUNDSCHECK="1", NUMBA_OPT="0", **NO_CACHE)
    assert found.pop("checked")
    assert_close(interpreted, found)


def test_float32_in_the_interpreter(tmp_path):
    found = run_elsewhere(tmp_path, "float32", ["rnn", "lstm_full", "gru_before", "leaky"], NUMBA_DISABLE_JIT="1")
    assert all(array.dtype == np.float32 for name, array in found.items() if name != "checked" and array.dtype.kind == "f")

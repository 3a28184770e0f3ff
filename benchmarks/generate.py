"""Closed-loop generation beside a Python loop over PyTorch's LSTMCell: the same weights, float32, one thread each, in turns.

    python benchmarks/generate.py [--rounds N] [--steps N]

A network of LSTM(1 -> H) and Linear(H -> 1) is fed its own output, one sequence. Prints microseconds a step, their ratio (above 1 where
fastrnn is faster; with its middle half), and whether the first outputs agree. Then how long a million steps take.
"""

import argparse
import os
import platform
import sys
import time

import numpy as np
from _turns import rounds, torch

import fastrnn as fr

UNITS = (32, 128, 256)
TOLERANCE = 1e-4  # of the first hundred outputs
MILLION = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each library (15)")
    parser.add_argument("--steps", type=int, default=2000, help="steps in one call (2000)")
    given = parser.parse_args()
    if torch is None:
        print("PyTorch is required: pip install torch", file=sys.stderr)
        return 1
    fr.set_num_threads(1)
    torch.set_num_threads(1)
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is not quiet (load {load:.1f}): these numbers mean little", file=sys.stderr)
    print(f"Python {platform.python_version()}, fastrnn {fr.__version__}, torch {torch.__version__}; {platform.machine()}, 1 thread")
    print(f"{'units':<6} {'fastrnn us':>10} {'PyTorch us':>11} {'ratio':>6}  {'middle half':<13} agree")
    agree = True
    for units in UNITS:
        calls, difference = _case(units, given.steps)
        agree &= difference <= TOLERANCE
        seconds = rounds(calls, given.rounds)
        low, middle, high = np.quantile(seconds["torch"] / seconds["fastrnn"], [0.25, 0.5, 0.75])
        ours, theirs = (1e6 * np.median(seconds[name]) / given.steps for name in ("fastrnn", "torch"))
        verdict = f"{'yes' if difference <= TOLERANCE else 'NO'} ({difference:.0e})"
        print(f"{units:<6} {ours:>10.2f} {theirs:>11.2f} {middle:>6.1f}  {f'{low:.1f} - {high:.1f}':<13} {verdict}", flush=True)
    model, begin = _model(128), time.perf_counter()
    model.generate(np.zeros((1, 1, 1)), MILLION)
    print(f"a million steps of LSTM(128): {time.perf_counter() - begin:.2f} s")
    return 0 if agree else 1


def _model(units: int) -> fr.Model:
    return fr.Model(fr.LSTM(1, units), fr.Linear(units, 1), loss=fr.MeanSquaredError(), readout="every")


def _case(units: int, steps: int) -> tuple[dict, float]:
    """Calls to time by library, warmed up, and how far the first outputs are apart."""
    model, cell, readout = _model(units), torch.nn.LSTMCell(1, units), torch.nn.Linear(units, 1)
    weights = {name.removesuffix("_l0"): torch.from_numpy(array) for name, array in model.layers[0].state_dict().items()}
    cell.load_state_dict(weights)
    readout.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.layers[1].params.items()})

    def theirs(steps=steps):
        x, state, outputs = torch.zeros(1, 1), None, []
        with torch.no_grad():
            for _ in range(steps):
                state = cell(x, state)
                x = readout(state[0])
                outputs.append(x)
        return outputs

    calls = {"fastrnn": lambda: model.generate(np.zeros((1, 1, 1)), steps), "torch": theirs}
    expected = np.array([x.item() for x in theirs(100)])
    return calls, float(np.abs(model.generate(np.zeros((1, 1, 1)), 100).outputs.ravel() - expected).max())


if __name__ == "__main__":
    sys.exit(main())

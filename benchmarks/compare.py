"""fastrnn beside PyTorch on the CPU: the same weights, the same input, float32, in turns in one process.

    python benchmarks/compare.py [--rounds N] [--threads N] [--steps T] [--cells lstm ...] [--sizes B,D,H ...]

Prints the median time over rounds of each, their ratio (PyTorch's time over fastrnn's: above 1 where fastrnn is faster; with its
middle half), the rate, and whether outputs and gradients agree. Without PyTorch only fastrnn's column is filled.
"""

import argparse
import os
import platform
import sys
import time
from typing import NamedTuple

import numba
import numpy as np

import fastrnn as fr

try:
    import torch
except ImportError:
    torch = None

DEFAULT = (("lstm", (32, 128, 128)), ("lstm", (64, 256, 256)), ("gru", (32, 64, 64)), ("rnn", (32, 64, 64)))
LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
TOLERANCE = 1e-4  # normwise, float32, between two orders of summation over T steps
ROUND_SECONDS = 0.15  # each turn repeats its call for about so long


class Case(NamedTuple):
    """One cell and size: calls to time, by pass and by library, and how far the results are apart."""

    cell: str
    size: tuple[int, int, int]
    calls: dict
    difference: float


def main() -> int:
    given = _parser().parse_args()
    fr.set_num_threads(given.threads)
    if torch is not None:
        torch.set_num_threads(given.threads)
    _print_machine(given)
    chosen = [(cell, size) for cell, size in DEFAULT if cell in given.cells]
    if given.sizes:
        chosen = [(cell, size) for cell in given.cells for size in given.sizes]
    columns = f"{'cell':<5} {'B, D, H':<14} {'pass':<9} {'fastrnn ms':>10} {'GFLOP/s':>8}"
    print(columns + f" {'PyTorch ms':>11} {'ratio':>6}  {'middle half':<13} agree")
    agree = True
    for cell, size in chosen:
        case = _case(cell, size, given.steps)
        agree &= case.difference <= TOLERANCE or torch is None
        for direction, calls in case.calls.items():
            _print_row(case, direction, _rounds(calls, given.rounds), given.steps)
    return 0 if agree else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each library (15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (2)")
    parser.add_argument("--steps", type=int, default=100, metavar="T", help="length of the sequences (100)")
    parser.add_argument("--cells", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--sizes", nargs="+", type=_size, metavar="B,D,H", help="instead of the sizes that belong to the cells")
    return parser


def _size(text: str) -> tuple[int, int, int]:
    B, D, H = map(int, text.split(","))
    return B, D, H


def _case(cell: str, size: tuple[int, int, int], T: int) -> Case:
    """Both libraries with one set of weights, warmed up, and compared."""
    B, D, H = size
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, B, D), dtype=np.float32), rng.standard_normal((T, B, H), dtype=np.float32)
    ours = getattr(fr, LAYERS[cell])(D, H, seed=0)

    def both_ways():
        y, _, tape = ours.forward(x)
        return y, ours.backward(tape, dy)

    y, grads = both_ways()
    ours(x)
    calls = {"forward": {"fastrnn": lambda: ours(x)}, "fwd+bwd": {"fastrnn": both_ways}}
    if torch is None:
        return Case(cell, size, calls, np.nan)
    theirs = getattr(torch.nn, LAYERS[cell])(D, H)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    x_torch, dy_torch = torch.from_numpy(x).requires_grad_(True), torch.from_numpy(dy)

    def forward_torch():
        with torch.no_grad():
            return theirs(x_torch)[0]

    def both_ways_torch():
        theirs.zero_grad(set_to_none=True)
        x_torch.grad = None
        y = theirs(x_torch)[0]
        y.backward(dy_torch)
        return y

    y_torch = both_ways_torch().detach().numpy()
    forward_torch()
    calls["forward"]["torch"], calls["fwd+bwd"]["torch"] = forward_torch, both_ways_torch
    pairs = [(y, y_torch), (ours(x)[0], y_torch), (grads.x, x_torch.grad.numpy())]
    pairs += [(grads.params[name], parameter.grad.numpy()) for name, parameter in theirs.named_parameters()]
    return Case(cell, size, calls, max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs))


def _rounds(calls: dict, rounds: int) -> dict[str, np.ndarray]:
    """Seconds a call, by library and round; the libraries take turns, and in every other round in the other order."""
    repeats = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, round(ROUND_SECONDS / (time.perf_counter() - begin)))
    seconds = {name: np.empty(rounds) for name in calls}
    for k in range(rounds):
        for name in list(calls)[:: 1 if k % 2 == 0 else -1]:
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                calls[name]()
            seconds[name][k] = (time.perf_counter() - begin) / repeats[name]
    return seconds


def _print_machine(given) -> None:
    versions = f"fastrnn {fr.__version__}, numba {numba.__version__}, numpy {np.__version__}"
    versions += ", no PyTorch" if torch is None else f", torch {torch.__version__}"
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is not quiet (load {load:.1f}): these numbers mean little, PyTorch's least of all", file=sys.stderr)
    print(f"Python {platform.python_version()}, {versions}; {platform.machine()}, {given.threads} threads; float32, T = {given.steps}")


def _print_row(case: Case, direction: str, seconds: dict[str, np.ndarray], T: int) -> None:
    B, D, H = case.size
    ours = float(np.median(seconds["fastrnn"]))
    work = 2.0 * T * B * GATES[case.cell] * H * (D + H) * (1 if direction == "forward" else 3)
    line = f"{case.cell:<5} {f'{B}, {D}, {H}':<14} {direction:<9} {1e3 * ours:>10.2f} {work / ours / 1e9:>8.1f} "
    if "torch" in seconds:
        low, middle, high = np.quantile(seconds["torch"] / seconds["fastrnn"], [0.25, 0.5, 0.75])
        verdict = f"yes ({case.difference:.0e})" if case.difference <= TOLERANCE else f"NO ({case.difference:.0e})"
        line += f"{1e3 * np.median(seconds['torch']):>11.2f} {middle:>6.2f}  {f'{low:.2f} - {high:.2f}':<13} {verdict}"
    print(line.rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())

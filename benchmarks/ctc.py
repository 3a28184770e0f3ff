"""Connectionist temporal classification beside PyTorch on the CPU: loss and gradient by the logits, in turns in one process.

    python benchmarks/ctc.py [--rounds N] [--threads N] [--sizes T,B,O,S ...]

PyTorch's time is that of log_softmax, ctc_loss and the way back through both. Prints the median time over rounds of each, their ratio
(PyTorch's time over fastrnn's: above 1 where fastrnn is faster; with its middle half), and whether losses and gradients agree.
"""

import argparse
import os
import platform
import sys

import numpy as np
from _turns import rounds, torch

import fastrnn as fr

DEFAULT = ((200, 32, 50, 30), (200, 32, 50, 80), (1000, 8, 30, 100), (50, 64, 1000, 10))
TOLERANCE = {"float32": 1e-2, "float64": 1e-10}  # largest difference of gradients of sums; float32 is for PyTorch, whose own are so far off


def main() -> int:
    given = _parser().parse_args()
    fr.set_num_threads(given.threads)
    if torch is None:
        print("PyTorch is required: pip install torch", file=sys.stderr)
        return 1
    torch.set_num_threads(given.threads)
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is not quiet (load {load:.1f}): these numbers mean little", file=sys.stderr)
    versions = f"Python {platform.python_version()}, fastrnn {fr.__version__}, numpy {np.__version__}, torch {torch.__version__}"
    print(f"{versions}; {platform.machine()}, {given.threads} threads")
    print(f"{'T, B, O, S':<18} {'dtype':<8} {'fastrnn ms':>10} {'PyTorch ms':>11} {'ratio':>6}  {'middle half':<13} agree")
    agree = True
    for size in given.sizes:
        for dtype in TOLERANCE:
            calls, difference = _case(size, dtype)
            agree &= difference <= TOLERANCE[dtype]
            _print_row(size, dtype, rounds(calls, given.rounds), difference)
    return 0 if agree else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each library (15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (2)")
    parser.add_argument("--sizes", nargs="+", type=_size, default=DEFAULT, metavar="T,B,O,S", help="steps, batch, symbols, labels")
    return parser


def _size(text: str) -> tuple[int, int, int, int]:
    T, B, O, S = map(int, text.split(","))
    return T, B, O, S


def _case(size: tuple[int, int, int, int], dtype: str) -> tuple[dict, float]:
    """Calls to time by library, warmed up, and how far the gradients are apart."""
    T, B, O, S = size
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((T, B, O)).astype(dtype), rng.integers(1, O, (B, S))
    loss, z_torch, labels_torch = fr.CTC(), torch.from_numpy(z).requires_grad_(True), torch.from_numpy(labels)
    steps, counts = torch.full((B,), T), torch.full((B,), S)

    def theirs():
        z_torch.grad = None
        value = torch.nn.functional.ctc_loss(z_torch.log_softmax(-1), labels_torch, steps, counts, reduction="sum") / B
        value.backward()
        return z_torch.grad

    calls = {"fastrnn": lambda: loss.value_and_gradient(z, labels), "torch": theirs}
    return calls, B * float(np.abs(calls["fastrnn"]()[1] - calls["torch"]().numpy()).max())


def _print_row(size, dtype: str, seconds: dict[str, np.ndarray], difference: float) -> None:
    low, middle, high = np.quantile(seconds["torch"] / seconds["fastrnn"], [0.25, 0.5, 0.75])
    ours, theirs = (1e3 * np.median(seconds[name]) for name in ("fastrnn", "torch"))
    verdict = f"{'yes' if difference <= TOLERANCE[dtype] else 'NO'} ({difference:.0e})"
    line = f"{', '.join(map(str, size)):<18} {dtype:<8} {ours:>10.2f} {theirs:>11.2f} {middle:>6.2f}  {f'{low:.2f} - {high:.2f}':<13}"
    print(f"{line} {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

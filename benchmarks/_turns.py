"""Two libraries in one process, in turns; PyTorch where it is installed."""

import time

import numpy as np

try:
    import torch as torch
except ImportError:
    torch = None

ROUND_SECONDS = 0.15  # each turn repeats its call for about so long


def rounds(calls: dict, rounds: int) -> dict[str, np.ndarray]:
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

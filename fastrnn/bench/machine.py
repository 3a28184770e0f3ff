"""The machine: what it is, and what it can do at best."""

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._check import FLOATS
from .._jit import VECTOR_BYTES
from ..kernels.cpu.ceilings import multiply_add, read, registers, working_set

ASSUMED = {"L1": 32 * 1024, "L2": 1024 * 1024, "L3": 16 * 1024 * 1024}  # where the system does not tell
LARGEST = 512 * 1024 * 1024  # bytes of the array that stands for memory, or four third-level caches where that is less
TURNS = 5  # of each measurement; the best counts, as a ceiling is not an average


def describe() -> dict:
    """Processor, its caches in bytes, processors that this process may use, and the width of a vector register in bits."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": _processors(),
        "vector_bits": 8 * VECTOR_BYTES,
        "caches": caches(),
    }


def caches() -> dict[str, int]:
    """Bytes of the first processor's data caches; `ASSUMED` where the system does not tell."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = _bytes(size)
    return ASSUMED | found


def _bytes(size: str) -> int:
    units = {"K": 1024, "M": 1024**2, "G": 1024**3}
    return int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def confine(threads: int) -> None:
    """Hold this process to so many processors, where the system can; and no library below to more threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def ceilings(threads: int, seconds: float):
    """Yield {"ceiling", "level" or "dtype", "threads", "value"}: multiply-adds in GFLOP/s, reading in GB/s, for one thread and for all."""
    for n in sorted({1, threads}):
        for dtype in FLOATS:
            yield {"ceiling": "multiply-add", "dtype": dtype, "threads": n, "value": _best(_multiply_adds(dtype, n), seconds)}
        for level, size in working_sets().items():
            yield {"ceiling": "read", "level": level, "threads": n, "value": _best(_reading(size, n), seconds)}


def working_sets() -> dict[str, int]:
    """Bytes that a thread reads again and again, by where they then come from: half of a cache, or far more than the one before it."""
    sizes = caches()
    found = {"L1": sizes["L1"] // 2, "L2": sizes["L2"] // 2}
    if 8 * sizes["L2"] <= sizes["L3"]:
        found["L3"] = 4 * sizes["L2"]
    return found | {"memory": max(min(4 * sizes["L3"], LARGEST), 4 * sizes["L2"])}


class _Task(NamedTuple):
    """What one thread does so many times, and the operations or bytes of one time."""

    work: Callable[[int], None]
    amount: float


def _multiply_adds(dtype: str, threads: int) -> list[_Task]:
    n, sums = 10_000, [np.zeros(registers(dtype), dtype) for _ in range(threads)]
    return [_Task(lambda repeats, z=z: multiply_add(z, n * repeats), 2.0 * z.size * n) for z in sums]


def _reading(size: int, threads: int) -> list[_Task]:
    sums = [np.zeros(registers("float32"), "float32") for _ in range(threads)]
    arrays = [working_set(size, "float32") for _ in range(threads)]
    return [_Task(lambda repeats, a=a, z=z: read(a, z, repeats), float(a.nbytes)) for a, z in zip(arrays, sums)]


def _best(tasks: list[_Task], seconds: float) -> float:
    """The best rate of all threads together, in 10^9 a second."""

    def timed(repeats: int) -> float:
        begin = time.perf_counter()
        list(pool.map(lambda task: task.work(repeats), tasks))
        return time.perf_counter() - begin

    with ThreadPoolExecutor(len(tasks)) as pool:
        timed(1)
        repeats = max(1, round(seconds / TURNS / timed(1)))
        return sum(task.amount for task in tasks) * repeats / min(timed(repeats) for _ in range(TURNS)) / 1e9

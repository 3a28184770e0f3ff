"""One library in a process of its own: a job as JSON on the standard input, what was found as JSON lines on the standard output.

    echo '{"measure": "speed", "library": "torch", "threads": 1, "cases": [...], "seconds": 0.1}' | python -m fastrnn.bench.worker
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from . import machine, peers
from .cases import Case, data

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}  # normwise, between two orders of summation over thousands of steps
BLOCKS = 5  # turns within one measurement, of which the median counts

# A first fit, timed from within a process that has imported nothing yet.
FIRST_FIT = """
import time
begin = time.perf_counter()
import fastrnn as fr
imported = time.perf_counter()
import numpy as np
x, target = np.zeros((20, 64, 8), np.float32), np.zeros(64, int)
model = fr.Model(fr.LSTM(8, 32), fr.Linear(32, 2), loss=fr.CrossEntropy())
fr.fit(model, (x, target), optimizer=fr.Adam(clip_norm=1.0), epochs=1, progress=False)
print(imported - begin, time.perf_counter() - imported)
"""


def main() -> int:
    job = json.load(sys.stdin)
    machine.confine(job["threads"])
    for record in MEASURES[job["measure"]](job):
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()
    return 0


def _cases(job: dict) -> Iterator[tuple[Case, Callable]]:
    """Every case, and a function that builds it in the job's library; all `Lacking` where its threads cannot be set."""
    library = peers.load(job["library"])
    reason = None
    try:
        library.set_threads(job["threads"])
    except peers.Lacking as error:
        reason = error

    def build(case: Case) -> peers.Built:
        if reason is not None:
            raise reason
        return library.build(case, data(case))

    for case in (Case(*entry) for entry in job["cases"]):
        yield case, partial(build, case)


# Agreement ------------------------------------------------------------------------------------------------------------


def agreement(job: dict) -> Iterator[dict]:
    """Yield {"case"} with how far the library is from fastrnn ("difference", "agrees"), or why it is left out ("lacks", "failed")."""
    ours = peers.load("fastrnn")
    for case, build in _cases(job):
        try:
            found = build().arrays()
        except peers.Lacking as reason:
            yield {"case": case, "lacks": str(reason)}
        except Exception as error:  # whatever it is, the other cases can go on without it
            yield {"case": case, "failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        else:
            wanted = ours.build(case, data(case)).arrays()
            difference = max(normwise(array, wanted[name]) for name, array in found.items())
            yield {"case": case, "difference": difference, "agrees": difference <= TOLERANCES[case.dtype]}
            del found, wanted
        gc.collect()


def normwise(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b| in float64; inf where it is no number."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    distance = float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))
    return distance if np.isfinite(distance) else float("inf")


# Speed ----------------------------------------------------------------------------------------------------------------


def speed(job: dict) -> Iterator[dict]:
    """Yield {"case", "pass", "seconds"}, seconds of one call (of "fit": of one step)."""
    for case, build in _cases(job):
        found = build()
        for name, call in found.passes.items():
            yield {"case": case, "pass": name, "seconds": timed(call, job["seconds"]) / found.counts.get(name, 1)}
        del found, call
        gc.collect()


def timed(call: Callable, seconds: float) -> float:
    """Median seconds of a call, in blocks of calls that take about `seconds` together; a single one where a call takes longer.

    Before that, calls for as long as one block takes: allocators and processors settle only then.
    """
    begin, calls, one = time.perf_counter(), 0, 0.0
    while calls < 2 or time.perf_counter() - begin < seconds / BLOCKS:
        last = time.perf_counter()
        call()
        calls, one = calls + 1, time.perf_counter() - last
    repeats = max(1, round(seconds / BLOCKS / one))
    found = []
    for _ in range(min(BLOCKS, max(1, round(seconds / (repeats * one))))):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        found.append((time.perf_counter() - begin) / repeats)
    return float(np.median(found))


# Memory ---------------------------------------------------------------------------------------------------------------


def memory(job: dict) -> Iterator[dict]:
    """Yield {"T", "checkpoints", "bytes"}: what a gradient of the trained network takes at its peak, beside input and weights."""
    library, options = peers.load(job["library"]), {"checkpoints": True} if job["checkpoints"] else {}
    library.set_threads(job["threads"])
    case = Case(*job["case"])
    library.gradient(case._replace(T=2), data(case._replace(T=2)))()  # all that is loaded once
    call = library.gradient(case, data(case), **options)
    before = _new_peak()
    call()
    yield {"T": case.T, "checkpoints": job["checkpoints"], "bytes": _peak() - before}


def _peak() -> int:
    """Bytes that this process had resident at most. Linux counts in ru_maxrss the process that started this one, too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _new_peak() -> int:
    """What is resident now, from which the peak counts anew where the system lets it; else the peak so far."""
    gc.collect()
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would be used again, and not be seen
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # what comes then hides below the earlier peak: the number is too small, by what loading took for a while
    return _peak()


# The first fit --------------------------------------------------------------------------------------------------------


def startup(job: dict) -> Iterator[dict]:
    """Yield {"import", "cold", "warm"}: seconds to import fastrnn, and of a first `fit` with an empty and with a filled cache of code."""
    with TemporaryDirectory(prefix="fastrnn-bench-") as home:
        environment = os.environ | dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), home)
        (_, cold), (imported, warm) = (_first_fit(environment) for _ in range(2))
    yield {"import": imported, "cold": cold, "warm": warm}


def _first_fit(environment: dict) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", FIRST_FIT], env=environment, capture_output=True, text=True, check=True)
    imported, fitted = map(float, done.stdout.split())
    return imported, fitted


def ceilings(job: dict) -> Iterator[dict]:
    """Those of `machine.ceilings`."""
    yield from machine.ceilings(job["threads"], job["seconds"])


MEASURES = {"agreement": agreement, "speed": speed, "memory": memory, "startup": startup, "ceilings": ceilings}


if __name__ == "__main__":
    sys.exit(main())

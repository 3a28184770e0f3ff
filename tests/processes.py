"""Fresh processes for tests of what outlives one: the folder of compiled code."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import fastrnn

TESTS = Path(__file__).resolve().parent
ROOT = Path(fastrnn.__file__).resolve().parents[1]


def python(*arguments: str, cache_home: Path | None = None, folder: Path | None = None) -> str:
    """What a Python process with warnings as errors printed; `cache_home` is where it keeps its folder of compiled code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]), "MPLBACKEND": "Agg"}
    if cache_home is not None:  # one of these names the folder, whatever the system
        environment |= dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), str(cache_home))
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def report(**results) -> None:
    """The last line of a process: its results, and how many kernels it compiled and loaded."""
    from numba.core.dispatcher import Dispatcher

    from fastrnn._jit import _ContentCache

    compiled, loaded = [], []
    for thing in gc.get_objects():
        if isinstance(thing, Dispatcher) and type(thing._cache) is _ContentCache:  # a kernel; what it calls inlines into it
            compiled += [thing.py_func.__name__] * sum(thing.stats.cache_misses.values())
            loaded += [thing.py_func.__name__] * sum(thing.stats.cache_hits.values())
    print(json.dumps(results | {"compiled": sorted(compiled), "loaded": sorted(loaded)}))


def reported(output: str) -> dict:
    return json.loads(output.splitlines()[-1])

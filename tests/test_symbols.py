"""Kernels that were compiled in different processes live together in one."""

import subprocess
import sys

FACTORY = """
import sys
import numpy as np
from fastrnn._jit import kernel, loop

def make(c):
    @loop
    def shift(a):  # long, and called from several places: not inlined, so that it keeps a symbol of its own
        for i in range(a.shape[0]):
            x = a[i]
            for k in range(a.shape[0]):
                x = x * x - np.sqrt(abs(x)) + a[k] * a[k] / (1.0 + x * x) - np.sin(x) * np.cos(x) + np.exp(-abs(x))
            a[i] = 0.0 * x
        for i in range(a.shape[0]):
            a[i] += c

    @kernel
    def apply(a):
        shift(a[:1])
        shift(a[1:])
        shift(a[::2])
        shift(a[::-1])

    return apply

for c in map(float, sys.argv[1:]):
    a = np.zeros(3)
    apply = make(c)
    apply(a)
    hits, misses = (sum(n.values()) for n in apply.stats[1:])
    print(a.tolist(), hits, misses)
"""


def run(folder, *numbers) -> list[str]:
    script = folder / "shifts.py"
    script.write_text(FACTORY)
    environment = {"XDG_CACHE_HOME": str(folder), "HOME": str(folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, str(script), *numbers], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_functions_of_one_name_from_several_processes(tmp_path):
    for number in "123":
        assert run(tmp_path, number) == [f"[{number}.0, {number}.0, {number}.0] 0 1"]
    expected = {number: f"[{number}.0, {number}.0, {number}.0] 1 0" for number in "123"}
    assert run(tmp_path, "1", "2", "3") == [expected[number] for number in "123"]
    assert run(tmp_path, "3", "1", "2") == [expected[number] for number in "312"]

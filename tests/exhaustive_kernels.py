"""Every time loop for the GPU, compiled and assembled: of each cell, dtype and precision, the sizes that are measured, and the largest of
each plan.

Not collected by pytest, which takes some of them; 90 minutes for all on two cores: ``python tests/exhaustive_kernels.py [CELL ...]``.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from variants import COMPILED, label

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu  # noqa: E402
import test_cuda_compile as compiled  # noqa: E402

from fastrnn.cells import build  # noqa: E402
from fastrnn.kernels.cuda import loop, plan, target  # noqa: E402

MOST = 1200  # units
ARCHITECTURES = dict(compiled.ARCHITECTURES)


def pretend(architecture: str) -> None:
    """Plan and compile for devices of this kind alone."""
    capability = ARCHITECTURES[architecture]
    compiled.ARCHITECTURES, target.capability = {architecture: capability}, lambda: capability


class Case(NamedTuple):
    """A layer on devices of one kind."""

    variant: tuple[str, dict]
    dtype: str
    precision: str
    H: int
    architecture: str

    @property
    def title(self) -> str:
        return f"{label(self.variant)} of {self.H} units, {self.precision} {self.dtype}, {self.architecture}"


def cases(names: list[str]) -> Iterator[Case]:
    for variant in COMPILED:
        if names and variant[0] not in names:
            continue
        for dtype, precision in (("float32", "exact"), ("float64", "exact"), *(("float32", name) for name in compiled.TENSOR)):
            for architecture in ARCHITECTURES:
                pretend(architecture)
                for H in sizes(build(variant[0], **variant[1]), np.dtype(dtype), precision):
                    yield Case(variant, dtype, precision, H, architecture)


def sizes(cell, dtype, precision: str) -> list[int]:
    """Those measured, and the largest of each plan: as many blocks, parts of k, and weights in registers."""
    largest, possible = {}, []
    for H in range(1, MOST):
        try:
            own = plan.plan(cell, H, dtype, precision)
        except ValueError:
            break
        possible.append(H)
        largest[own.blocks, own.rows, own.threads // 64] = H
    return sorted({*largest.values(), *gpu.UNITS} & set(possible))


def check(case: Case) -> str:
    """What is wrong, if anything."""
    pretend(case.architecture)
    (name, options), dtype, words = case.variant, np.dtype(case.dtype), None if case.precision == "exact" else np.empty(0, np.int32)
    own = plan.plan(build(name, **options), case.H, dtype, case.precision)
    with tempfile.TemporaryDirectory() as folder:
        for way, ptx in zip(("forward", "backward"), compiled.ptx_of_loops(own.forward.kernel(), own.backward.kernel(), dtype, words)):
            try:
                found = compiled.assembled(ptx, case.architecture, Path(folder))
            except subprocess.CalledProcessError as error:
                return f"{way}: {error.stderr}"
            most = loop.registers_of(own.threads)
            if found["local"] or found["registers"] > most or (case.dtype == "float32" and ".f64" in ptx):
                return f"{way}: {found}, of {most} registers"
    return ""


def checked(case: Case) -> tuple[Case, str]:
    return case, check(case)


def main(*names: str) -> int:
    every, begin, failed = list(cases(list(names))), time.monotonic(), 0
    with get_context("spawn").Pool(2, maxtasksperchild=40) as pool:  # compilers let go of nothing: a process grows to 11 GB in 500 layers
        for k, (case, wrong) in enumerate(pool.imap_unordered(checked, every), 1):
            left = (time.monotonic() - begin) / k * (len(every) - k)
            failed += bool(wrong)
            print(f"[{k}/{len(every)}, {left / 60:.0f} min left] {case.title}: {wrong or 'ok'}", flush=True)
    print(f"{len(every)} layers, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

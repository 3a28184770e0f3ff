"""Workers in turns: what is kept of them, and what an interrupted run goes on from.

A unit is a few jobs that belong together, such as one round of one group of cases: a process for each library, one after another. It is
kept as one line of a file when all of it is done, so that ratios never bridge an interruption.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from .._jit import package_hash
from .._progress import Progress
from .._version import __version__
from . import machine, peers
from .cases import Case


class Log:
    """Units by name, in a file of JSON lines: first what they were made with, then one line a unit.

    Parameters
    ----------
    header : dict
        Machine, versions and settings, JSON-able. A file with another header is not gone on with.
    path : Path, optional
        Without it nothing is kept on disk.

    Raises
    ------
    ValueError
        If the file is another run's.
    """

    def __init__(self, header: dict, path: Path | None = None):
        self.header, self.path, self.units = json.loads(json.dumps(header)), path, {}
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            kept, self.units = read(path)
            if kept != self.header:
                raise ValueError(f"out: a new file, or that of a run with these settings, is required; {path} has others")
            self._write(self.header, "w")  # anew: a line may have been cut off
            for name, records in self.units.items():
                self._write({"unit": name, "records": records}, "a")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(self.header, "w")

    def put(self, name: str, records: list[dict]) -> None:
        """Keep a finished unit."""
        self.units[name] = records
        if self.path is not None:
            self._write({"unit": name, "records": records}, "a")

    def _write(self, line: dict, mode: str) -> None:
        with open(self.path, mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> tuple[dict, dict[str, list[dict]]]:
    """Header and units of a file that `Log` wrote; a last line that was cut off is none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return (lines[0] if lines else {}), {line["unit"]: line["records"] for line in lines[1:]}


class Plan:
    """What a run consists of, in order.

    Parameters
    ----------
    groups : dict of list of Case
        Timed in rounds; all cases of a group follow each other in a process.
    libraries : list of str
        "fastrnn" and the peers.
    threads, rounds : int
    seconds : float
        Of calls, for each pass of a case in a round.
    memory : tuple of Case, optional
        At which to measure the peak of memory.
    startup : int, optional
        How many first fits.
    """

    def __init__(self, groups, libraries, *, threads: int, rounds: int, seconds: float, memory=(), startup: int = 0):
        self.groups, self.libraries, self.threads, self.rounds, self.seconds = groups, list(libraries), threads, rounds, seconds
        self.memory, self.startup = tuple(memory), startup

    def header(self) -> dict:
        """Machine, versions and settings: what a run must share with the one that it goes on from."""
        found = {name: version(name) for name in ("numba", "llvmlite", "numpy")}
        versions = {"python": platform.python_version(), "fastrnn": __version__, "sources": package_hash()[:12]} | found
        return {"machine": machine.describe(), "versions": versions | peers.versions(self.libraries[1:]), "settings": vars(self)}

    def units(self, log: Log) -> Iterable[tuple[str, list[dict]]]:
        """Names and jobs; those of later ones depend on what the log has of earlier ones, by whom each case can be computed."""
        yield "ceilings", [self._job("ceilings", "fastrnn", seconds=max(0.2, self.seconds))]
        for name, cases in self.groups.items():
            yield f"agreement, {name}", [self._job("agreement", peer, cases=cases) for peer in self.libraries[1:]]
        for case in self.memory:
            ways = [("fastrnn", False), ("fastrnn", True), *(("torch", False) for _ in {"torch"} & set(self.libraries))]
            yield f"memory, T = {case.T}", [self._job("memory", name, case=case, checkpoints=fewer) for name, fewer in ways]
        for k in range(self.startup):
            yield f"startup {k}", [self._job("startup", "fastrnn")]
        for k in range(self.rounds):
            for name, cases in self.groups.items():
                able = {"fastrnn": cases} | able_of(log.units[f"agreement, {name}"], cases)
                first = k % len(self.libraries)  # every round begins with another one
                turn = [library for library in self.libraries[first:] + self.libraries[:first] if library in able]
                yield f"round {k}, {name}", [self._job("speed", one, cases=able[one], seconds=self.seconds) for one in turn]

    def count(self) -> int:
        return 1 + len(self.groups) * (1 + self.rounds) + len(self.memory) + self.startup

    def _job(self, measure: str, library: str, **options) -> dict:
        return {"measure": measure, "library": library, "threads": self.threads} | options


def able_of(records: list[dict], cases: list[Case]) -> dict[str, list[Case]]:
    """The cases that each peer computes as fastrnn does."""
    found = {}
    for record in records:
        if record.get("agrees"):
            found.setdefault(record["library"], set()).add(Case(*record["case"]))
    return {library: [case for case in cases if case in some] for library, some in found.items()}


def run(plan: Plan, log: Log, *, execute: Callable[[dict], list[dict]] | None = None, show: bool | None = None) -> None:
    """Do what the log does not have yet. Ctrl-C ends it between two units, or within one, which then is not kept.

    Raises
    ------
    RuntimeError
        If fastrnn's own process fails: there is nothing to compare then.
    """
    with TemporaryDirectory(prefix="fastrnn-bench-") as folder, Progress(plan.count(), "bench", unit="units", show=show) as progress:
        execute = execute or Workers(Path(folder))
        for name, jobs in plan.units(log):
            if name not in log.units:
                log.put(name, [{"library": job["library"]} | record for job in jobs for record in execute(job)])
            progress.advance()


class Workers:
    """Calls of it run a job in a process of its own and return its records; the last one names a failure.

    Parameters
    ----------
    folder : Path
        Where JAX keeps what it compiled from one round to the next.
    """

    def __init__(self, folder: Path):
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "JAX_COMPILATION_CACHE_DIR": str(folder),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def __call__(self, job: dict) -> list[dict]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(job["threads"]))
        command = [sys.executable, "-m", "fastrnn.bench.worker"]
        done = subprocess.run(command, input=json.dumps(job), env=self.environment | threads, capture_output=True, text=True)
        records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode == 0:
            return records
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        if job["library"] == "fastrnn":
            raise RuntimeError(f"fastrnn could not be measured ({job['measure']}): {last[0]}")
        return [*records, {"failed": last[0], "measure": job["measure"]}]

"""What every study does alike: arguments, conditions that survive an interruption, claims, and the four files it leaves.

A study is a script with a question. It gives `run` two functions: ``compute(arguments, parts) -> Result``, and
``draw(rows, record) -> Figure``, which sees nothing but what was saved, so that ``--replot`` gives the same figure.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import multiprocessing
import os
import platform
import re
import signal
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastrnn as fr
from fastrnn._progress import Progress


class Claim(NamedTuple):
    """A sentence that the numbers bear out, or do not. Made by `close`, `at_least`, `at_most` or `between`.

    `source` says whose number `expected` is, with "recalled" where it could not be looked up.
    """

    claim: str
    value: float
    expected: object
    tolerance: float | None
    source: str
    holds: bool

    def line(self) -> str:
        """What is printed: the claim, what came out, whether it holds."""
        margin = "" if self.tolerance is None else f" ± {self.tolerance:.3g}"
        expected = f"{self.expected:.4g}" if isinstance(self.expected, float) else str(self.expected)
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{verdict}: {self.claim}: {self.value:.4g} (expected {expected}{margin}; {self.source})"


def close(claim: str, value: float, expected: float, tolerance: float, source: str) -> Claim:
    """`value` is within `tolerance` of `expected`."""
    holds = abs(float(value) - float(expected)) <= tolerance
    return Claim(claim, float(value), float(expected), float(tolerance), source, bool(holds))


def at_least(claim: str, value: float, bound: float, source: str) -> Claim:
    return Claim(claim, float(value), f"≥ {bound:.4g}", None, source, bool(value >= bound))


def at_most(claim: str, value: float, bound: float, source: str) -> Claim:
    return Claim(claim, float(value), f"≤ {bound:.4g}", None, source, bool(value <= bound))


def between(claim: str, value: float, low: float, high: float, source: str) -> Claim:
    return Claim(claim, float(value), f"{low:.4g} to {high:.4g}", None, source, bool(low <= value <= high))


class Result(NamedTuple):
    """What a study computed.

    Attributes
    ----------
    rows : list of dict
        The plotted numbers, one row of the table each; not every row needs every column.
    settings : dict
        JSON-able.
    claims : list of Claim
    extra : dict
        Anything else for the report, JSON-able, such as a sample of generated text.
    """

    rows: list[dict]
    settings: dict
    claims: list[Claim]
    extra: dict | None = None


class Interrupted(Exception):
    """Ctrl-C while conditions were computed; what was finished is kept."""


def run(
    script: str,
    description: str,
    compute: Callable,
    draw: Callable,
    *,
    seeds: tuple[int, int] | None,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: list[str] | None = None,
) -> int:
    """A study from its command line to its files; the exit status.

    Parameters
    ----------
    script : str
        The study's ``__file__``: it names the files.
    description : str
        The study's docstring.
    compute : callable
        ``compute(arguments, parts) -> Result``.
    draw : callable
        ``draw(rows, record) -> Figure``: rows as `read_rows` gives them, record the JSON file.
    seeds : (int, int)
        How many by default, with ``--quick`` and without. None: a study that times, so it has no seeds, and nothing runs beside it.
    options : callable, optional
        Adds arguments of the study's own to the parser.
    argv : list of str, optional
    """
    name = Path(script).stem
    arguments = parse(description, seeds=seeds, options=options, argv=argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = arguments.out / name
    if not arguments.replot:
        try:
            result = compute(arguments, Parts(arguments.out / f"{name}_parts"))
        except (Interrupted, KeyboardInterrupt) as error:
            print(f"{name}: interrupted. {str(error) or 'Nothing new was kept.'} The same command goes on from there.")
            return 130
        save(base, result, quick=arguments.quick, **({} if seeds is None else {"seeds": arguments.seeds}))
    rows, record = load(base)
    save_figure(base, draw, rows, record)
    for claim in record["claims"]:
        print(f"{name}: {Claim(**claim).line()}")
    return 0


def parse(description: str, *, seeds: tuple[int, int] | None, options=None, argv=None) -> argparse.Namespace:
    """The arguments of every study: quick, out (a Path), replot; and seeds, workers where there are seeds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours: smaller, fewer seeds")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--replot", action="store_true", help="draw the saved numbers again, compute nothing")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, metavar="N", help=f"default: {seeds[1]}, with --quick {seeds[0]}")
        parser.add_argument("--workers", type=int, metavar="N", default=available_cores(), help="default: %(default)s")
    if options is not None:
        options(parser)
    arguments = parser.parse_args(argv)
    if seeds is None:
        return arguments
    if arguments.seeds is None:
        arguments.seeds = seeds[0] if arguments.quick else seeds[1]
    for option in ("seeds", "workers"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option}: at least 1 is required; got {getattr(arguments, option)}")
    return arguments


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Conditions: each computed once, kept in a file of its own ------------------------------------------------------------


class Parts:
    """Results by condition, in a folder: a run that was interrupted goes on where it was.

    A part is found again only under the same name, the same settings and the same version of fastrnn.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def get(self, name: str, settings: dict) -> dict[str, np.ndarray] | None:
        """The arrays of a finished part; None where there is none, or it is damaged."""
        path = self.path(name, settings)
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
            return None
        return arrays if str(arrays.pop("settings", "")) == _canonical(settings) else None

    def put(self, name: str, settings: dict, arrays: dict) -> None:
        """Keep a part. The file appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, settings=np.array(_canonical(settings)), **arrays)
        write(self.path(name, settings), buffer.getvalue())

    def path(self, name: str, settings: dict) -> Path:
        digest = hashlib.sha256(_canonical(settings).encode()).hexdigest()[:12]
        return self.folder / f"{re.sub('[^A-Za-z0-9_.-]+', '_', name)}-{digest}.npz"


def _canonical(settings: dict) -> str:
    return json.dumps(settings | {"fastrnn": fr.__version__}, sort_keys=True)


def compute_parts(
    parts: Parts,
    jobs: Iterable[tuple[str, dict]],
    function: Callable[[dict], dict],
    *,
    label: str,
    workers: int = 1,
    show: bool = True,
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of every job by name: kept ones read, the others computed and kept as they come.

    Parameters
    ----------
    parts : Parts
    jobs : iterable of (str, dict)
        Name and settings (JSON-able) of each condition.
    function : callable
        ``function(settings) -> dict of arrays``, defined at the top of a module. With several workers it runs in
        processes of their own, started afresh (a process that has run kernels must not be forked), one thread each.
    label : str
        Of the progress bar.
    workers : int
    show : bool
        Show progress, as plain lines where the output is no terminal.

    Raises
    ------
    Interrupted
        At Ctrl-C; what is finished is kept.
    """
    jobs = list(jobs)
    results = {name: parts.get(name, settings) for name, settings in jobs}
    missing = [(name, settings) for name, settings in jobs if results[name] is None]
    with Progress(len(jobs), label, unit="runs", done=len(jobs) - len(missing), show=show) as progress:
        progress.advance(0)
        try:
            for name, settings, arrays in _computed(missing, function, min(workers, len(missing))):
                results[name] = {key: np.asarray(value) for key, value in arrays.items()}
                parts.put(name, settings, results[name])
                progress.advance()
        except KeyboardInterrupt:
            finished = sum(found is not None for found in results.values())
            raise Interrupted(f"{finished} of {len(jobs)} runs ({label}) are kept in {parts.folder}.") from None
    return results


def _computed(missing, function, workers: int):
    """Yield (name, settings, arrays) as they are finished."""
    if workers <= 1:
        for name, settings in missing:
            yield name, settings, function(settings)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        waiting = {pool.submit(function, settings): (name, settings) for name, settings in missing}
        try:
            for future in as_completed(waiting):
                yield *waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin_worker() -> None:
    """One thread each, as there is a process a core; and Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fr.set_num_threads(1)


# Files ----------------------------------------------------------------------------------------------------------------


def save(base: Path, result: Result, **arguments) -> None:
    """Write ``base.csv`` and ``base.json``."""
    columns = list(dict.fromkeys(key for row in result.rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in result.rows)
    write(base.with_suffix(".csv"), text.getvalue().encode())
    record = {
        "study": base.name,
        "settings": result.settings | arguments,
        "environment": environment(),
        "claims": [claim._asdict() for claim in result.claims],
    } | (result.extra or {})
    write(base.with_suffix(".json"), (json.dumps(_finite(record), indent=1, ensure_ascii=False) + "\n").encode())


def load(base: Path) -> tuple[list[dict], dict]:
    """Rows and record that `save` wrote."""
    try:
        record = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
        rows = read_rows(base.with_suffix(".csv"))
    except FileNotFoundError as error:
        raise SystemExit(f"--replot: the saved numbers are required; {error.filename} is not there. Run without it") from None
    record["claims"] = [c | {"value": math.nan if c["value"] is None else c["value"]} for c in record["claims"]]
    return rows, record


def read_rows(path: Path) -> list[dict]:
    """The rows of a saved table: numbers as float, text as str; a column that a row does not have is left out."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items() if text != ""} for row in csv.DictReader(file)]


def select(rows: list[dict], **values) -> list[dict]:
    """The rows whose columns have the values given."""
    return [row for row in rows if all(row.get(key) == value for key, value in values.items())]


def column(rows: list[dict], name: str) -> np.ndarray:
    """One column as float64; NaN where a row does not have it."""
    return np.array([row.get(name, math.nan) for row in rows], float)


def save_figure(base: Path, draw: Callable, rows: list[dict], record: dict) -> None:
    """Write ``base.png`` and ``base.pdf``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fastrnn import plot

    with plot.style():
        figure = draw(rows, record)
        for suffix in ("png", "pdf"):
            buffer = io.BytesIO()
            # Without a date the same numbers give the same file.
            metadata = {"CreationDate": None} if suffix == "pdf" else {}
            figure.savefig(buffer, format=suffix, metadata=metadata)
            write(base.with_suffix(f".{suffix}"), buffer.getvalue())
        plt.close(figure)


def write(path: Path, content: bytes) -> None:
    """Replace a file by a whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def environment() -> dict:
    """What the numbers were made with."""
    import numba

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "fastrnn": fr.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": fr.get_num_threads(),
    }


def _cell(value) -> str:
    if isinstance(value, (float, np.floating)):
        return repr(float(value))  # all digits: a replot sees the numbers that were computed
    return str(value)


def _value(text: str):
    try:
        return float(text)
    except ValueError:
        return text


def _finite(value):
    """The value with null for numbers that JSON does not have, and Python's types for NumPy's."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Statistics -----------------------------------------------------------------------------------------------------------


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a proportion by Wilson's score [Wilson 1927]: (low, high), 95 % with the default z; (0, 1) for n = 0.

    Examples
    --------
    >>> low, high = wilson_interval(0, 10)
    >>> low, round(high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes: from 0 to n = {n} is required; got {successes}")
    if n == 0:
        return 0.0, 1.0
    share, squared = successes / n, z * z / n
    middle = (share + squared / 2) / (1 + squared)
    half = z / (1 + squared) * math.sqrt(share * (1 - share) / n + squared / (4 * n))
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    # At the ends the interval touches 0 or 1 exactly; rounding must not say otherwise.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def band(samples, axis: int = 0, level: float = 0.8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(median, low, high) of samples along an axis; low and high hold the central `level` of them."""
    tail = 50 * (1 - level)
    low, median, high = np.percentile(np.asarray(samples, float), [tail, 50, 100 - tail], axis=axis)
    return median, low, high


def bootstrap_interval(samples, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean of `samples` (N,) by drawing them anew [Efron 1979]."""
    samples, rng = np.asarray(samples, float), np.random.default_rng(seed)
    means = samples[rng.integers(len(samples), size=(draws, len(samples)))].mean(axis=1)
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def progress(total: int | None, label: str, unit: str = "steps") -> Progress:
    """A progress bar that is also there, as plain lines, where the output is no terminal."""
    return Progress(total, label, unit=unit, show=sys.stderr is not None)

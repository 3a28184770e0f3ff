"""The kernels on a GPU: right, clean, and how fast beside cuDNN.

    python benchmarks/gpu.py [--out FILE] [--only PART ...] [--cells CELL ...] [--units H ...]
    python benchmarks/gpu.py --table FILE

Needs a CUDA device, Numba, CuPy, and for the comparison PyTorch. Four parts, in this order:

values     every cell on fresh random inputs, both directions, ragged lengths, in every precision; models and ensembles after some
           updates, and what they generate; all against the CPU in float64;
sanitize   fifteen shapes under compute-sanitizer: memcheck, racecheck, initcheck, synccheck;
times      one layer, T = 512, forward and forward + backward, by device events: medians of fastrnn and of PyTorch's cuDNN, both in
           several precisions;
ensembles  an update of 1 to 4 096 members, lstm(64), beside PyTorch one model after another and torch.func's vmap over members.

Every case runs in a process of its own, which a kernel that fails takes along, and which is ended after LIMIT seconds: side by side where
nothing is timed, so that kernels are compiled by all cores; one after another where something is. Every result is a JSON line in FILE
(docs/gpu.jsonl), behind one that says what machine and which sources it was; where the last such line names this machine and these
sources, the same command goes on from there. The status is 1 where a value is wrong, a case failed, or the sanitizer found something.
--table draws tables of the latest times in FILE, in Markdown: milliseconds, and what the others take over that, cuDNN in the precision
that is next.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from _gpu import SHAPES, TRAINED, VARIANTS, torch

import fastrnn as fr
from fastrnn._jit import sources_hash
from fastrnn.kernels.cuda import compiler, target

WORKER = [sys.executable, str(Path(__file__).parent / "_gpu.py")]
PARTS = ("values", "sanitize", "times", "ensembles")
CELLS = ("lstm", "gru", "rnn")  # that are timed
UNITS_OF_VALUES = (5, 64, 128, 200, 256)  # of one block, and of clusters of 2, 4 and 8
UNITS = (32, 64, 96, 128, 160, 192, 256, 384, 512, 1024)  # that are timed
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
MEMBERS = (1, 4, 16, 64, 256, 1000, 4096)
PEERS = {"exact": "float32", "split": "float32", "tf32": "tf32", "bf16": "bf16"}  # what cuDNN computes as precisely
LIMIT = 600  # seconds of a case
AT_ONCE = 16  # cases side by side at most: each has a context on the GPU


class Stage(NamedTuple):
    """Cases that run side by side, or one after another."""

    cases: list[dict]
    side_by_side: bool


def main() -> int:
    given = parsed()
    if given.table:
        print("\n".join(table(latest(given.table))))
        return 0
    missing = target.missing()
    if missing:
        print(f"nothing can be run on a GPU here; missing: {' and '.join(missing)}", file=sys.stderr)
        return 2
    given.out.parent.mkdir(parents=True, exist_ok=True)
    before = latest(given.out) if given.out.is_file() else []
    with given.out.open("a") as file:

        def keep(record: dict) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(" ".join(f"{key} {value}" for key, value in record.items() if key != "case"), flush=True)

        if before[:1] != [header()]:
            before = []
            keep(header())
        last = {json.dumps(record["case"]): record for record in before if "case" in record}  # of a case
        wrong, done = False, [record["case"] for record in last.values() if not is_wrong(record)]
        print(f"{len(done)} cases are in {given.out} already", flush=True)
        try:
            for part in given.only:
                for stage in stages(part, given.cells, given.units):
                    for record in measured([case for case in stage.cases if case not in done], stage.side_by_side):
                        keep(record)
                        wrong |= is_wrong(record)
        except KeyboardInterrupt:
            print(f"interrupted; kept in {given.out}: the same command goes on from there", file=sys.stderr)
            return 130
    print("\n".join(table(latest(given.out))))
    return int(wrong)


def is_wrong(record: dict) -> bool:
    return "failed" in record or not record.get("right", True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/gpu.jsonl"), metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL", help="that are timed")
    parser.add_argument("--units", nargs="+", type=int, default=list(UNITS), metavar="H", help="of the layers that are timed")
    return parser.parse_args()


def header() -> dict:
    machine = {name: said for name, said in target.describe() if name != "CUDA cache"}  # whose folder is nobody's business
    sources = sources_hash("**/*.py") + "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
    own = {"machine": machine, "python": platform.python_version(), "fastrnn": fr.__version__}
    own["sources"] = hashlib.sha256(sources.encode()).hexdigest()[:12]
    return own | ({"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()} if torch else {"torch": "not installed"})


def stages(part: str, cells: list[str], units: list[int]) -> Iterator[Stage]:
    """What a part consists of."""
    if part == "values":
        found = []
        for name, options in VARIANTS:
            for kind in ("float32", "float64", *(() if options.get("reset_after") is False else ("split", "tf32", "bf16"))):
                # indrnn's relu has a kink: rounded factors may fall on its other side
                own = {"activation": "tanh"} if name == "indrnn" and not kind.startswith("float") else options
                found += [{"values": name, "options": own, "kind": kind, "H": hidden} for hidden in UNITS_OF_VALUES]
        yield Stage([*found, *({"trained": kind} for kind in TRAINED)], True)
    elif part == "sanitize":
        yield Stage([{"shape": k} for k in range(len(SHAPES))], True)  # which compiles, unwatched
        yield Stage([{"shape": k, "sanitize": name} for name in TOOLS for k in range(len(SHAPES))], True)
    elif part == "times":
        yield Stage([{"compile": cell, "H": hidden} for cell in cells for hidden in units], True)
        yield Stage([{"times": cell.upper(), "H": hidden} for cell in cells for hidden in units], False)
    else:
        yield Stage([{"ensembles": members} for members in MEMBERS], False)


def measured(cases: list[dict], side_by_side: bool) -> Iterator[dict]:
    """The records of cases, as they end."""
    pool, running = ThreadPoolExecutor(min(os.cpu_count(), AT_ONCE) if side_by_side else 1), {}
    futures = [pool.submit(run, case, running) for case in cases]
    try:
        for future in as_completed(futures):
            yield from future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):  # after an interrupt
            for process in list(running):
                end(process)
            time.sleep(0.05)


def run(case: dict, running: dict) -> list[dict]:
    """The records of a case, of which the last one says so where it failed; its process is among those `running` meanwhile."""
    command, late = [*WORKER, json.dumps(case)], ""
    if "sanitize" in case:
        beside = compiler.toolkit() / "bin" / "compute-sanitizer"
        tool = str(beside) if beside.is_file() else shutil.which("compute-sanitizer")
        if tool is None:
            return [{"case": case} | case | {"failed": "compute-sanitizer is neither beside the compiler nor on the path"}]
        command = [tool, "--tool", case["sanitize"], "--error-exitcode", "9", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    running[process] = case
    try:
        said, complained = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        end(process)
        late, (said, complained) = f"not ended after {LIMIT} s; ", process.communicate()
    finally:
        del running[process]
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    if process.returncode:
        found.append({"failed": f"{late}status {process.returncode}: {(said + complained)[-2000:]}"})
    return [{"case": case} | case | record for record in found]


def end(process: subprocess.Popen) -> None:
    """And whatever it has started: under the sanitizer, what it watches."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def latest(path: Path) -> list[dict]:
    """The records of a file from the last machine on."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    begin = max((n for n, record in enumerate(records) if "machine" in record), default=0)
    return records[begin:]


# Tables -------------------------------------------------------------------------------------------------------------


def table(records: list[dict]):
    """Lines of Markdown."""
    yield f"{next((record['machine'] for record in records if 'machine' in record), 'machine not said')}"
    yield from head("cell", "H", "B", "precision", "forward, ms", "cuDNN", "both ways, ms", "cuDNN", "cuDNN fp16, ms")
    found = {}
    for record in records:
        if "times" in record and "failed" not in record:
            found.setdefault((record["times"], record["H"], record["B"]), {}).update(record)
    for key, record in found.items():
        for precision, peer in PEERS.items():
            own, other = record[f"fastrnn {precision}"], record.get(f"cudnn {peer}")
            if isinstance(own, str):
                yield row(*map(str, key), precision, own)
                continue
            times = [text for way in range(2) for text in (f"{own[way]:.3g}", f"{other[way] / own[way]:.2f}" if other else "")]
            half = record.get("cudnn fp16")
            yield row(*map(str, key), precision, *times, " and ".join(f"{t:.3g}" for t in half) if half else "")
    yield ""
    yield from head("members", "an update, ms", "a loop of PyTorch", "vmap, gradients alone")
    for record in records:
        if "ensembles" in record and "failed" not in record:
            own, others = record["fastrnn"], [record.get(name, "") for name in ("loop", "vmap")]
            ratios = [f"{b / own:.2f}" if isinstance(b, float) and isinstance(own, float) else str(b) for b in others]
            yield row(str(record["ensembles"]), own if isinstance(own, str) else f"{own:.3g}", *ratios)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> list[str]:
    return ["", row(*names), "|---" * len(names) + "|"]


if __name__ == "__main__":
    sys.exit(main())

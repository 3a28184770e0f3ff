"""The command `fastrnn`: parse, call the public interface, print."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from . import _check, _device, ctc, losses, optimizers
from ._jit import cache_folder
from ._params import Params
from ._threads import get_num_threads
from ._version import __version__
from .bench import cases, peers, rounds, summary
from .cells import CELLS
from .cells2d import CELLS2D
from .forcing import FreeRunning
from .kernels.cpu.product import VECTOR_BYTES
from .layers.feedforward import Embedding, Linear
from .layers.recurrent import Recurrent
from .layers.recurrent2d import Recurrent2D
from .model import Model
from .train import fit

PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "matplotlib")
SIZES = ((1, 16, 32), (32, 64, 64), (32, 128, 128), (64, 256, 256))  # of `bench` without --full


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status, as `sys.exit` takes it."""
    given = _parser().parse_args(arguments)
    try:
        return given.command(given)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastrnn", description="Recurrent networks to train, dissect and scale.")
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    commands = parser.add_subparsers(required=True, title="commands", metavar="{info,warmup,bench}")
    info = commands.add_parser("info", help="versions, device, threads, and the cache of compiled code")
    info.set_defaults(command=_info)
    warmup = commands.add_parser("warmup", help="compile ahead of time, once for this user and this version")
    warmup.add_argument("--cells", nargs="*", choices=list(CELLS), default=list(CELLS), help="all by default", metavar="CELL")
    warmup.add_argument("--dtypes", nargs="+", choices=_check.FLOATS, default=["float32"], help="float32 by default", metavar="DTYPE")
    warmup.add_argument("--device", choices=_device.DEVICES, default="cpu", help="whose kernels (%(default)s)")
    warmup.add_argument("--units", nargs="+", type=_positive, default=[64, 128], help="of layers on the GPU (64 128)", metavar="H")
    precisions = {"nargs": "+", "choices": _device.PRECISIONS, "default": ["exact"]}
    warmup.add_argument("--precisions", **precisions, help="of products on the GPU (exact)", metavar="PRECISION")
    warmup.set_defaults(command=_warmup)
    _add_bench(commands.add_parser("bench", help="speed beside other libraries, and beside what the machine can do"))
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.description = "Times fastrnn and its peers in rounds, each library in a process of its own. By default about two minutes."
    bench.add_argument("--cells", nargs="+", choices=list(cases.GATES), default=list(cases.GATES), metavar="CELL", help="all by default")
    bench.add_argument("--dtypes", nargs="+", choices=_check.FLOATS, metavar="DTYPE", help="float32, with --full both")
    bench.add_argument("--sizes", nargs="+", type=_size, metavar="B,D,H", help="four, with --full ten")
    bench.add_argument("--rounds", type=_positive, metavar="N", help="3 by default")
    bench.add_argument("--threads", type=_positive, metavar="N", default=get_num_threads(), help="of every library (%(default)s)")
    bench.add_argument("--peers", nargs="*", choices=list(peers.PEERS), metavar="PEER", help=f"{', '.join(peers.PEERS)}: those installed")
    bench.add_argument("--full", action="store_true", help="the whole grid, other lengths, variants, training, streaming")
    bench.add_argument("--out", type=Path, metavar="FILE", help="keep every round as JSON lines; the same command goes on from there")
    bench.set_defaults(command=_bench)


def _size(text: str) -> tuple[int, int, int]:
    B, D, H = map(_positive, text.split(","))
    return B, D, H


def _positive(text: str) -> int:
    return _check.integer("number", int(text), minimum=1)


def _info(given) -> int:
    folder, rows = cache_folder(), {"fastrnn": __version__, "Python": platform.python_version()}
    rows |= {name: _version(name) for name in PACKAGES}
    rows["system"] = f"{platform.system()} {platform.machine()}"
    rows["device"] = f"CPU, vectors of {8 * VECTOR_BYTES} bits"
    rows["threads"] = str(get_num_threads())
    from .kernels.cuda import target  # only here: what it imports takes a tenth of a second

    rows |= dict(target.describe())
    rows["cache"] = str(folder) if folder else "none: no private folder can be written; every process compiles anew"
    if folder:
        rows["cache size"] = f"{_megabytes(folder):.1f} MB; {_megabytes(folder.parent):.1f} MB with earlier versions"
    for name, value in rows.items():
        print(f"{name:<11} {value}")
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _warmup(given) -> int:
    if cache_folder() is None:
        print("fastrnn: no private folder can be written, so what is compiled now is lost at the end", file=sys.stderr)
    try:
        for precision in given.precisions if given.device == "cuda" else ["exact"]:
            _device.device(given.device, precision)
    except RuntimeError as error:
        print(f"fastrnn: {error}", file=sys.stderr)
        return 2
    if given.device == "cpu":
        jobs = [job for dtype in given.dtypes for job in _jobs(given.cells, dtype)]
    else:
        jobs = [job for dtype in given.dtypes for job in _gpu_jobs(given.cells, dtype, given.units, given.precisions)]
    start = time.perf_counter()
    for k, (label, job) in enumerate(jobs, 1):
        print(f"[{k}/{len(jobs)}] {label} ...", end=" ", flush=True)
        begin = time.perf_counter()
        try:
            job()
        except ValueError as error:  # a size that the device, or a precision, has no room for
            print(f"\nfastrnn: {error}", file=sys.stderr)
            return 2
        print(f"{time.perf_counter() - begin:.1f} s", flush=True)
    print(f"ready in {time.perf_counter() - start:.1f} s")
    return 0


def _jobs(cells: list[str], dtype: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What to compile, as small runs of it: everything that `fit` needs with the cells' default options."""
    for cell in cells:
        yield f"{cell} {dtype}", lambda cell=cell: _run_cell(cell, dtype)
        if cell in CELLS2D:
            yield f"{cell} over a grid {dtype}", lambda cell=cell: _run_grid(cell, dtype)
    for cell in cells:
        yield f"closed loop of one {cell} layer {dtype}", lambda cell=cell: _run_closed(cell, dtype)
    yield f"Linear and Embedding {dtype}", lambda: _gradient(Embedding(2, 1, dtype=dtype), Linear(1, 2, dtype=dtype))
    for loss in (losses.CrossEntropy(), losses.BinaryCrossEntropy(), losses.MeanSquaredError()):
        yield f"{type(loss).__name__} {dtype}", lambda loss=loss: _run_loss(loss, dtype)
    yield f"CTC {dtype}", lambda: _run_ctc(dtype)
    rules = (optimizers.SGD(), optimizers.SGD(momentum=0.5), optimizers.RMSprop(), optimizers.Adam(), optimizers.AdamW())
    for rule in rules:
        label = "SGD with momentum" if getattr(rule, "momentum", 0) else type(rule).__name__
        yield f"{label} {dtype}", lambda rule=rule: _run_optimizer(rule, dtype)


def _gpu_jobs(cells: list[str], dtype: str, units: list[int], precisions: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """As `_jobs`, for the GPU, whose kernels know how many units a layer has."""
    options = {"dtype": dtype, "device": "cuda"}
    for cell in cells:
        for H in units:
            for precision in precisions if dtype == "float32" else ["exact"]:
                made = options | {"precision": precision}
                yield f"{cell} of {H} units, {precision} {dtype}", lambda c=cell, h=H, made=made: _run_cell(c, units=h, **made)
    for precision in dict.fromkeys(["exact", *precisions]) if dtype == "float32" else ["exact"]:  # some are always exact
        yield f"products, {precision} {dtype}", lambda precision=precision: _run_products(dtype, precision)
    for loss in (losses.CrossEntropy(), losses.BinaryCrossEntropy(), losses.MeanSquaredError()):
        yield f"{type(loss).__name__} {dtype}", lambda loss=loss: _run_loss(loss, dtype, _device.device("cuda"))
    yield f"CTC {dtype}", lambda: _run_ctc(dtype, _device.device("cuda"))
    for rule in (optimizers.SGD(0.1), optimizers.RMSprop(), optimizers.Adam(clip_norm=1.0)):
        yield f"a model, {type(rule).__name__} {dtype}", lambda rule=rule: _run_model(rule, **options)


def _run_products(dtype: str, precision: str) -> None:
    from .kernels.cuda.product import run_each

    run_each(np.dtype(dtype), precision, _device.device("cuda", precision).zeros)


def _run_model(rule: optimizers.Optimizer, **options) -> None:
    """What an update, generation, beam search and training on own outputs compile on the GPU beside the time loop."""
    layers = Embedding(2, 1, **options), Recurrent("rnn", 1, 1, **options), Linear(1, 2, activation="tanh", **options)
    model, x = Model(*layers, loss=losses.CrossEntropy(), readout="every"), np.zeros((2, 1), np.int64)
    fit(model, (x, x), epochs=1, optimizer=rule, forcing=FreeRunning(feed="sample"))
    model.generate(x, 1)
    model.beam_search(x, 1, 1)


def _run_cell(cell: str, dtype: str, units: int = 1, **options) -> None:
    network = Recurrent(cell, 1, units, num_layers=2, dtype=dtype, **options)
    y, _, tape = network.forward(np.zeros((1, 1, 1), dtype))
    network.backward(tape, np.ones_like(y))
    network(np.zeros((1, 1, 1), dtype))


def _run_closed(cell: str, dtype: str) -> None:
    """What generation, beam search and training on own outputs compile, of one recurrent layer and its readout."""
    layers, x = (Recurrent(cell, 1, 1, dtype=dtype), Linear(1, 1, dtype=dtype)), np.zeros((2, 1, 1), dtype)
    model = Model(*layers, loss=losses.MeanSquaredError(), readout="every")
    model.gradient(x, x, forcing=FreeRunning())
    model.generate(x, 1)
    symbols = Model(*layers, loss=losses.CrossEntropy(), readout="every")
    symbols.beam_search(x, 1, 1)


def _run_grid(cell: str, dtype: str) -> None:
    network = Recurrent2D(cell, 1, 1, dtype=dtype)
    y, _, tape = network.forward(np.zeros((1, 1, 1, 1), dtype))
    network.backward(tape, np.ones_like(y))


def _gradient(*layers) -> None:
    model = Model(*layers, loss=losses.CrossEntropy(), readout="every")
    model.gradient(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64))


def _run_loss(loss: losses.Loss, dtype: str, device: _device.Device = _device.CPU) -> None:
    target = np.zeros(1, np.int64) if isinstance(loss, losses.CrossEntropy) else np.zeros((1, 2))
    loss.value_and_gradient(device.put(np.zeros((1, 2), dtype)), target)


def _run_ctc(dtype: str, device: _device.Device = _device.CPU) -> None:
    loss, logits, target = ctc.CTC(), device.put(np.zeros((1, 1, 2), dtype)), np.ones((1, 1), np.int64)
    loss.value_and_gradient(logits, target)
    loss.metrics(logits, target)
    ctc.beam_search(logits)


def _run_optimizer(rule: optimizers.Optimizer, dtype: str) -> None:
    params = Linear(1, 1, dtype=dtype).params
    rule.update(params, params.like(), rule.init(params))
    members = Params(params.shapes, dtype, params.flat[None])  # of an ensemble
    optimizers.update_members([rule], members, np.zeros(1, np.int64), members.like(), rule.init(members).moments, [0])


def _bench(given) -> int:
    missing = [peer for peer in given.peers or peers.PEERS if not peers.installed(peer)]
    if given.peers and missing:
        print(f"fastrnn: --peers: installed packages are required; {', '.join(missing)} cannot be imported here", file=sys.stderr)
        return 2
    chosen = [peer for peer in (peers.PEERS if given.peers is None else given.peers) if peer not in missing]
    number = given.rounds or 3
    plan = rounds.Plan(_groups(given), ["fastrnn", *chosen], threads=given.threads, rounds=number, seconds=0.06 if given.full else 0.1)
    try:
        log = rounds.Log(plan.header(), given.out)
    except ValueError as error:
        print(f"fastrnn: {error}", file=sys.stderr)
        return 2
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is not quiet (load {load:.1f}): these numbers mean little", file=sys.stderr)
    for line in _machine_lines(log.header, missing if given.peers is None else []):
        print(line)
    try:
        rounds.run(plan, log)
    except KeyboardInterrupt:
        print(f"interrupted; {'kept in ' + str(given.out) if given.out else 'not kept: --out FILE would'}", file=sys.stderr)
        return 130
    finally:
        for line in (*_ceiling_lines(log.units), *summary.table(log.units, chosen), *summary.left_out(log.units)):
            print(line)
    return 1 if summary.disagreements(log.units) else 0


def _groups(given) -> dict:
    if given.full:
        grid = cases.whole_grid(given.cells, given.dtypes or _check.FLOATS, given.sizes or cases.SIZES)
        return grid | cases.training() | cases.streaming()
    groups = cases.groups(given.cells, given.dtypes or ["float32"], given.sizes or SIZES)
    return {"cases": [case for some in groups.values() for case in some]}  # in one process: its start is what takes time


def _machine_lines(header: dict, missing: list[str]) -> Iterator[str]:
    machine, versions = header["machine"], header["versions"]
    caches = ", ".join(f"{name} {size // 1024} KB" for name, size in machine["caches"].items())
    yield f"{machine['processor']}, {machine['system']}, vectors of {machine['vector_bits']} bits, {caches}"
    yield f"{header['settings']['threads']} threads; {', '.join(f'{name} {number}' for name, number in versions.items())}"
    if missing:
        yield f"not installed, so not compared: {', '.join(missing)}"


def _ceiling_lines(units: dict) -> Iterator[str]:
    for record in summary.ceilings(units):
        what, unit = ("dtype", "GFLOP/s") if record["ceiling"] == "multiply-add" else ("level", "GB/s")
        yield f"ceiling, {record['threads']} thread(s): {record['ceiling']} {record[what]} {record['value']:.4g} {unit}"


if __name__ == "__main__":
    sys.exit(main())

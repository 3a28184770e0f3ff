"""The kernels on a GPU: right, clean, and how fast beside cuDNN.

    python benchmarks/gpu.py [--out FILE] [--only PART ...]
    python benchmarks/gpu.py --table FILE

Needs a CUDA device, Numba, CuPy, and for the comparison PyTorch. Four parts, in this order:

values     every cell on fresh random inputs, both directions, ragged lengths, in every precision; models and ensembles after some
           updates, and what they generate; all against the CPU in float64;
sanitize   fifteen shapes under compute-sanitizer: memcheck, racecheck, initcheck, synccheck;
times      one layer, T = 512, forward and forward + backward, by device events: medians of fastrnn and of PyTorch's cuDNN, both in
           several precisions;
ensembles  an update of 1 to 4 096 members, lstm(64), beside PyTorch one model after another and torch.func's vmap over members.

Every result is a JSON line in FILE (docs/gpu.jsonl), after one that says what machine it was. The status is 1 where a value is wrong
or the sanitizer found something. --table draws tables of the times in FILE, in Markdown: milliseconds, and what the others take over
that, cuDNN in the precision that is next.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _turns import torch

import fastrnn as fr
from fastrnn.cells import CELLS
from fastrnn.kernels.cuda import compiler, target

if torch is not None and not torch.cuda.is_available():
    torch = None  # a build without CUDA is no peer here

VARIANTS = [*((name, {}) for name in CELLS), ("gru", {"reset_after": False}), ("lstm", {"peepholes": True}), ("leaky", {"learn_tau": True})]
SHAPES = ((1, 1, 1, 1), (3, 2, 2, 5), (5, 3, 1, 31), (4, 5, 7, 32), (6, 4, 3, 33), (2, 9, 4, 64), (3, 6, 8, 65), (7, 1, 16, 96),
          (4, 17, 5, 128), (3, 8, 33, 200), (3, 5, 4, 256), (2, 3, 64, 513), (5, 33, 3, 48), (2, 300, 4, 20), (2, 520, 3, 8))  # fmt: skip
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
UNITS_OF_VALUES = (5, 64, 128, 200, 256)  # of one block, and of clusters of 2, 4 and 8
SIZES, BATCHES, STEPS = (32, 64, 96, 128, 160, 192, 256, 384, 512, 1024), (1, 8, 64, 256), 512
TOLERANCES = {"float32": 2e-5, "float64": 1e-12, "split": 2e-5, "tf32": 1e-2, "bf16": 1e-1}  # of what is largest in an array
PEERS = {"exact": "float32", "split": "float32", "tf32": "tf32", "bf16": "bf16"}  # what cuDNN computes as precisely
REPEATS = 10
TRAINED, SYMBOLS = ("model", "ensemble", "forced", "generated"), 20
MEMBERS, UNITS, LENGTH, ROWS, UPDATES = (1, 4, 16, 64, 256, 1000, 4096), 64, 100, 16, 4  # of the ensembles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/gpu.jsonl"), metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "shapes"], default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    given = parser.parse_args()
    if given.table:
        print("\n".join(table([json.loads(line) for line in given.table.read_text().splitlines()])))
        return 0
    missing = target.missing()
    if missing:
        print(f"nothing can be run on a GPU here; missing: {' and '.join(missing)}", file=sys.stderr)
        return 2
    if given.only == ["shapes"]:  # what the sanitizer watches
        return shapes()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a") as file:

        def keep(record: dict) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(" ".join(f"{key} {value}" for key, value in record.items()), flush=True)

        if len(given.only) == 1:
            return PARTS[given.only[0]](keep)
        machine = {name: said for name, said in target.describe() if name != "CUDA cache"}  # whose folder is nobody's business
        keep({"machine": machine, "python": platform.python_version(), "fastrnn": fr.__version__} | peer())
    # each in a process of its own: a kernel that fails takes all later ones of its process with it
    ended = [subprocess.run([sys.executable, __file__, "--out", given.out, "--only", part]).returncode for part in given.only]
    print("\n".join(table([json.loads(line) for line in given.out.read_text().splitlines()])))
    return max(map(abs, ended))


def attempt(measure, *arguments):
    """What `measure` gives, or in words why it gives nothing."""
    try:
        return measure(*arguments)
    except Exception as error:  # noqa: BLE001  whatever it is, the next measurement is worth making
        return f"{type(error).__name__}: {error}"
    finally:
        target.arrays().get_default_memory_pool().free_all_blocks()
        if torch is not None:
            torch.cuda.empty_cache()


def peer() -> dict:
    return {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()} if torch else {"torch": "not installed"}


# Values -------------------------------------------------------------------------------------------------------------


def values(keep) -> int:
    worst = 0
    for name, options in VARIANTS:
        tensor = () if options.get("reset_after") is False else ("split", "tf32", "bf16")
        for kind in ("float32", "float64", *tensor):
            if name == "indrnn" and kind in tensor:
                options = {"activation": "tanh"}  # relu has a kink: rounded factors may fall on its other side
            for hidden in UNITS_OF_VALUES:
                error = attempt(difference, name, options, kind, hidden, 40, 9, 7)
                right = isinstance(error, float) and error <= TOLERANCES[kind]  # which NaN is not
                worst |= not right
                keep({"values": name, "options": options, "kind": kind, "H": hidden, "error": error, "right": right})
    for kind in TRAINED:
        error = attempt(trained, kind)
        right = isinstance(error, float) and error <= TOLERANCES["float64"]
        worst |= not right
        keep({"values": kind, "dtype": "float64", "error": error, "right": right})
    return worst


def model(device: str, dtype: str, hidden: int) -> fr.Model:
    options = {"device": device, "dtype": dtype}
    layers = fr.Embedding(SYMBOLS, 16, **options), fr.GRU(16, hidden, **options), fr.Linear(hidden, SYMBOLS, **options)
    return fr.Model(*layers, loss=fr.CrossEntropy(), readout="every")


def trained(kind: str, T: int = 30, B: int = 8, hidden: int = 24) -> float:
    """The largest difference of any parameter, or logit, between the devices, by the largest of all."""
    rng, found = np.random.default_rng(), []
    (x, target), lengths = rng.integers(0, SYMBOLS, (2, T, B)), rng.integers(1, T + 1, B)
    forcing = fr.ScheduledSampling(0.5, feed="probabilities") if kind == "forced" else None
    for device in ("cpu", "cuda"):
        own = model(device, "float64", hidden)
        if kind == "ensemble":
            own = fr.Ensemble(own, members=5)
        if kind == "generated":
            outputs = own.generate(x[:2], T, temperature=0).outputs
            found.append(own.device.get(outputs))
            continue
        fr.fit(own, (x, target, lengths), epochs=5, optimizer=fr.Adam(0.01, clip_norm=1.0), forcing=forcing)
        one = own.members[0] if kind == "ensemble" else own
        found.append(one.device.get(own.params.flat))
    return float(np.abs(found[1] - found[0]).max() / np.abs(found[0]).max())


def difference(name: str, options: dict, kind: str, hidden: int, T: int, B: int, D: int) -> float:
    """The largest error of anything that comes out, by the largest entry of its array, on inputs that are new in every run.

    `kind`: a dtype, or for float32 a precision.
    """
    rng, made = np.random.default_rng(), {"cell_options": options, "num_layers": 2, "bidirectional": True}
    own = {"dtype": kind} if kind.startswith("float") else {"precision": kind}
    exact, tried = fr.Recurrent(name, D, hidden, dtype="float64", **made), fr.Recurrent(name, D, hidden, device="cuda", **own, **made)
    tried.load_state_dict(exact.state_dict())
    lengths = rng.integers(0, T + 1, B)
    x, dy = rng.standard_normal((T, B, D)), rng.standard_normal((T, B, 2 * hidden))
    found = []
    for net in (exact, tried):
        y, state, tape = net.forward(x, lengths=lengths)
        grads = net.backward(tape, dy, state)
        states = [*(state if isinstance(state, tuple) else (state,)), *(grads.state if isinstance(grads.state, tuple) else (grads.state,))]
        found.append([net.device.get(array) for array in (y, grads.x, *states, *grads.params.values())])
    errors = [np.abs(got - want).max(initial=0.0) / max(np.abs(want).max(initial=0.0), 1e-30) for want, got in zip(*found)]
    return float(np.max(errors))  # Python's own would pass over NaN


# Sanitizer ----------------------------------------------------------------------------------------------------------


def shapes() -> int:
    """One small run of every shape, each with the next cell; every array in memory of its own, whose ends the sanitizer knows."""
    target.arrays().cuda.set_allocator(None)
    for k, (T, B, D, H) in enumerate(SHAPES):
        name, options = VARIANTS[k % len(VARIANTS)]
        difference(name, options, "float32" if k % 2 else "float64", H, T, B, D)
        if H <= 256 and options.get("reset_after", True):
            difference(name, options, ("split", "tf32", "bf16")[k % 3], H, T, B, D)
    return 0


def sanitize(keep) -> int:
    beside, found = compiler.toolkit() / "bin" / "compute-sanitizer", 0
    tool = str(beside) if beside.is_file() else shutil.which("compute-sanitizer")
    if tool is None:
        keep({"sanitize": "not run: compute-sanitizer is neither beside the compiler nor on the path"})
        return 1
    for name in TOOLS:
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, __file__, "--only", "shapes"]
        ended = subprocess.run(command, capture_output=True, text=True)
        found |= ended.returncode != 0
        keep({"sanitize": name, "shapes": len(SHAPES), "status": ended.returncode, "said": (ended.stdout + ended.stderr)[-4000:]})
    return found


# Times --------------------------------------------------------------------------------------------------------------


def times(keep) -> int:
    for kind in ("LSTM", "GRU", "RNN"):
        for hidden in SIZES:
            for batch in BATCHES:
                record = {"times": kind, "H": hidden, "B": batch, "T": STEPS}
                keep(record | {f"fastrnn {precision}": attempt(ours, kind, hidden, batch, precision) for precision in PEERS})
                if torch is not None:
                    found = attempt(cudnn, kind, hidden, batch)
                    keep(record | (found if isinstance(found, dict) else {"cudnn": found}))
    return 0


def milliseconds(call) -> float:
    """The median of several calls, by the device's own clock, warmed up."""
    cupy = target.arrays()
    begin, end, measured = cupy.cuda.Event(), cupy.cuda.Event(), []
    for k in range(REPEATS + 2):
        begin.record()
        call()
        end.record()
        end.synchronize()
        if k >= 2:
            measured.append(cupy.cuda.get_elapsed_time(begin, end))
    return float(np.median(measured))


def ours(kind: str, hidden: int, batch: int, precision: str) -> tuple[float, float]:
    cupy = target.arrays()
    net = getattr(fr, kind)(hidden, hidden, device="cuda", precision=precision)
    rng = np.random.default_rng(0)
    x, dy = (cupy.asarray(rng.standard_normal((STEPS, batch, hidden), np.float32)) for _ in range(2))

    def both():
        _, _, tape = net.forward(x)
        net.backward(tape, dy)

    return milliseconds(lambda: net(x)), milliseconds(both)


def cudnn(kind: str, hidden: int, batch: int) -> dict:
    """PyTorch's times by precision, on its own stream, which is the device's default."""
    found, single = {}, torch.float32
    kinds = (("float32", single, False), ("tf32", single, True), ("bf16", torch.bfloat16, True), ("fp16", torch.float16, True))
    for label, dtype, tf32 in kinds:
        torch.backends.cudnn.allow_tf32 = tf32
        net = getattr(torch.nn, kind)(hidden, hidden).to("cuda", dtype)
        net.flatten_parameters()
        x = torch.randn(STEPS, batch, hidden, device="cuda", dtype=dtype, requires_grad=True)
        dy = torch.randn_like(x)

        def forward(net=net, x=x):
            with torch.no_grad():
                net(x)

        def both(net=net, x=x, dy=dy):
            torch.autograd.grad(net(x)[0], [x, *net.parameters()], dy)

        found[f"cudnn {label}"] = [milliseconds(forward), milliseconds(both)]
    return found


# Ensembles ----------------------------------------------------------------------------------------------------------


def ensembles(keep) -> int:
    """Milliseconds of an update, of all members together."""
    for members in MEMBERS:
        record = {"ensembles": "lstm", "H": UNITS, "T": LENGTH, "B": ROWS, "members": members}
        record["fastrnn"] = attempt(our_update, members)
        if torch is not None:
            one = attempt(torch_update)
            record |= {"loop": one if isinstance(one, str) else members * one, "vmap": attempt(vmap_update, members)}
        keep(record)
    return 0


def wall(call) -> float:
    """Milliseconds on the clock, the device waited for: the median of several calls, warmed up."""
    wait, measured = target.arrays().cuda.Device().synchronize, []
    for k in range(REPEATS + 2):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        if k >= 2:
            measured.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(measured))


def our_update(members: int) -> float:
    layers = fr.LSTM(2, UNITS, device="cuda"), fr.Linear(UNITS, 2, device="cuda")
    ensemble = fr.Ensemble(fr.Model(*layers, loss=fr.CrossEntropy()), members=members)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((LENGTH, ROWS, 2), np.float32), rng.integers(0, 2, ROWS)
    return wall(lambda: fr.fit(ensemble, data, epochs=UPDATES, optimizer=fr.Adam(1e-3))) / UPDATES


def torch_update() -> float:
    net, top = torch.nn.LSTM(2, UNITS).cuda(), torch.nn.Linear(UNITS, 2).cuda()
    parameters = [*net.parameters(), *top.parameters()]
    adam = torch.optim.Adam(parameters, 1e-3, fused=True)
    x, y = torch.randn(LENGTH, ROWS, 2, device="cuda"), torch.randint(0, 2, (ROWS,), device="cuda")

    def update():
        adam.zero_grad()
        torch.nn.functional.cross_entropy(top(net(x)[1][0][0]), y).backward()
        adam.step()

    return wall(update)


def vmap_update(members: int):
    """Gradients alone of a cell written out, as vmap knows no cuDNN."""

    def loss(w, u, b, v, x, y):
        h, c = torch.zeros(ROWS, UNITS, device="cuda"), torch.zeros(ROWS, UNITS, device="cuda")
        for step in x:
            i, f, g, o = (step @ w + h @ u + b).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return torch.nn.functional.cross_entropy(h @ v, y)

    shapes = (2, 4 * UNITS), (UNITS, 4 * UNITS), (4 * UNITS,), (UNITS, 2)
    weights = [0.1 * torch.randn(members, *shape, device="cuda") for shape in shapes]
    x, y = torch.randn(LENGTH, ROWS, 2, device="cuda"), torch.randint(0, 2, (ROWS,), device="cuda")
    gradient = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)), in_dims=(0, 0, 0, 0, None, None))
    return wall(lambda: gradient(*weights, x, y))


# Tables -------------------------------------------------------------------------------------------------------------


def table(records: list[dict]):
    """Lines of Markdown."""
    yield f"{next((record['machine'] for record in records if 'machine' in record), 'machine not said')}"
    yield from head("cell", "H", "B", "precision", "forward, ms", "cuDNN", "both ways, ms", "cuDNN", "cuDNN fp16, ms")
    found = {}
    for record in records:
        if "times" in record:
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
        if "ensembles" in record:
            own, others = record["fastrnn"], [record.get(name, "") for name in ("loop", "vmap")]
            ratios = [f"{b / own:.2f}" if isinstance(b, float) and isinstance(own, float) else str(b) for b in others]
            yield row(str(record["members"]), own if isinstance(own, str) else f"{own:.3g}", *ratios)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> list[str]:
    return ["", row(*names), "|---" * len(names) + "|"]


PARTS = {"values": values, "sanitize": sanitize, "times": times, "ensembles": ensembles}

if __name__ == "__main__":
    sys.exit(main())

"""What `gpu.py` measures: one case a process, given as JSON, whose results are JSON lines.

    python benchmarks/_gpu.py '{"values": "lstm", "options": {}, "kind": "tf32", "H": 64}'
"""

import json
import sys
import time

import numpy as np
from _turns import torch

import fastrnn as fr
from fastrnn import cli
from fastrnn.cells import CELLS
from fastrnn.kernels.cuda import target

if torch is not None and not torch.cuda.is_available():
    torch = None  # a build without CUDA is no peer here

VARIANTS = [*((name, {}) for name in CELLS), ("gru", {"reset_after": False}), ("lstm", {"peepholes": True}), ("leaky", {"learn_tau": True})]
SHAPES = ((1, 1, 1, 1), (3, 2, 2, 5), (5, 3, 1, 31), (4, 5, 7, 32), (6, 4, 3, 33), (2, 9, 4, 64), (3, 6, 8, 65), (7, 1, 16, 96),
          (4, 17, 5, 128), (3, 8, 33, 200), (3, 5, 4, 256), (2, 3, 64, 513), (5, 33, 3, 48), (2, 300, 4, 20), (2, 520, 3, 8))  # fmt: skip
BATCHES, STEPS = (1, 8, 64, 256), 512
TOLERANCES = {"float32": 2e-5, "float64": 1e-12, "split": 2e-5, "tf32": 1e-2, "bf16": 1e-1}  # of what is largest in an array
PRECISIONS = ("exact", "split", "tf32", "bf16")
REPEATS = 10
TRAINED, SYMBOLS = ("model", "ensemble", "forced", "labelled", "generated"), 20
UNITS, LENGTH, ROWS, UPDATES = 64, 100, 16, 4  # of the ensembles

faults = []  # of fastrnn's


def main(case: dict) -> None:
    measure = {"values": values, "trained": training, "shape": shape, "compile": compiled, "times": times, "ensembles": ensembles}
    for found in measure[next(iter(case))](case):
        print(json.dumps(found), flush=True)
    if faults:
        sys.exit("\n".join(faults))


def attempt(measure, *arguments):
    """What `measure` gives, or in words why it gives nothing: there may be no room, and anything else of fastrnn's is a fault."""
    try:
        return measure(*arguments)
    except Exception as error:  # noqa: BLE001  whatever it is, the next measurement is worth making
        said = f"{type(error).__name__}: {error}"
        if measure in (ours, our_update) and not isinstance(error, (ValueError, MemoryError)):
            faults.append(said)
        return said
    finally:
        target.arrays().get_default_memory_pool().free_all_blocks()
        if torch is not None:
            torch.cuda.empty_cache()


# Values -------------------------------------------------------------------------------------------------------------


def values(case: dict):
    error = difference(case["values"], case["options"], case["kind"], case["H"], 40, 9, 7)
    yield {"error": error, "right": error <= TOLERANCES[case["kind"]]}  # which NaN is not


def training(case: dict):
    error = trained(case["trained"])
    yield {"error": error, "right": error <= TOLERANCES["float64"]}


def model(device: str, dtype: str, hidden: int, loss: fr.losses.Loss | None = None) -> fr.Model:
    options = {"device": device, "dtype": dtype}
    layers = fr.Embedding(SYMBOLS, 16, **options), fr.GRU(16, hidden, **options), fr.Linear(hidden, SYMBOLS, **options)
    return fr.Model(*layers, loss=loss or fr.CrossEntropy(), readout="every")


def trained(kind: str, T: int = 30, B: int = 8, hidden: int = 24) -> float:
    """The largest difference of any parameter, or logit, between the devices, by the largest of all."""
    rng, found = np.random.default_rng(), []
    (x, target), lengths = rng.integers(0, SYMBOLS, (2, T, B)), rng.integers(1, T + 1, B)
    if kind == "labelled":
        target = 1 + target[: T // 2].T % (SYMBOLS - 1)  # 0 is the blank
    forcing = fr.ScheduledSampling(0.5, feed="probabilities") if kind == "forced" else None
    for device in ("cpu", "cuda"):
        own = model(device, "float64", hidden, fr.CTC(infeasible="zero") if kind == "labelled" else None)
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


def difference(name: str, options: dict, kind: str, hidden: int, T: int, B: int, D: int, times: int = 3) -> float:
    """The largest error of anything that comes out, by the largest entry of its array, on inputs that are new in every run.

    `kind`: a dtype, or for float32 a precision. Infinite where bits differ from one of so many `times` to another: launches are found at
    the first one, noted at the second, and then done again.
    """
    rng, made = np.random.default_rng(), {"cell_options": options, "num_layers": 2, "bidirectional": True}
    own = {"dtype": kind} if kind.startswith("float") else {"precision": kind}
    exact, tried = fr.Recurrent(name, D, hidden, dtype="float64", **made), fr.Recurrent(name, D, hidden, device="cuda", **own, **made)
    tried.load_state_dict(exact.state_dict())
    lengths = rng.integers(0, T + 1, B)
    lengths[0] = T  # what has fewer steps than x is not noted
    x, dy = rng.standard_normal((T, B, D)), rng.standard_normal((T, B, 2 * hidden))
    found = []
    for net in (exact, *[tried] * times):
        y, state, tape = net.forward(x, lengths=lengths)
        grads = net.backward(tape, dy, state)
        states = [*(state if isinstance(state, tuple) else (state,)), *(grads.state if isinstance(grads.state, tuple) else (grads.state,))]
        found.append([net.device.get(array) for array in (y, grads.x, *states, *grads.params.values())])
    want, got, *others = found
    if not all(np.array_equal(one, another) for other in others for one, another in zip(got, other, strict=True)):
        return float("inf")
    pairs = zip(want, got, strict=True)
    errors = [np.abs(two - one).max(initial=0.0) / max(np.abs(one).max(initial=0.0), 1e-30) for one, two in pairs]
    return float(np.max(errors))  # Python's own would pass over NaN


# Sanitizer ----------------------------------------------------------------------------------------------------------


def shape(case: dict):
    """A small run of a shape, each with the next cell; every array in memory of its own, whose ends the sanitizer knows."""
    target.arrays().cuda.set_allocator(None)
    k, (T, B, D, H) = case["shape"], SHAPES[case["shape"]]
    name, options = VARIANTS[k % len(VARIANTS)]
    difference(name, options, "float32" if k % 2 else "float64", H, T, B, D, times=1)
    if H <= 256 and options.get("reset_after", True):
        difference(name, options, ("split", "tf32", "bf16")[k % 3], H, T, B, D, times=1)
    yield {"T": T, "B": B, "D": D, "H": H, "cell": name, "options": options}


# Times --------------------------------------------------------------------------------------------------------------


def compiled(case: dict):
    """The kernels of a cell and size in every precision that has room for it."""
    for precision in PRECISIONS:
        cli.main(["warmup", "--device", "cuda", "--cells", case["compile"], "--units", str(case["H"]), "--precisions", precision])
    yield {}


def times(case: dict):
    kind, hidden = case["times"], case["H"]
    for batch in BATCHES:
        found = {"B": batch, "T": STEPS}
        found |= {f"fastrnn {precision}": attempt(ours, kind, hidden, batch, precision) for precision in PRECISIONS}
        if torch is not None:
            theirs = attempt(cudnn, kind, hidden, batch)
            found |= theirs if isinstance(theirs, dict) else {"cudnn": theirs}
        yield found


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


def ensembles(case: dict):
    """Milliseconds of an update, of all members together."""
    members = case["ensembles"]
    found = {"H": UNITS, "T": LENGTH, "B": ROWS, "fastrnn": attempt(our_update, members)}
    if torch is not None:
        one = attempt(torch_update)
        found |= {"loop": one if isinstance(one, str) else members * one, "vmap": attempt(vmap_update, members)}
    yield found


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


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
